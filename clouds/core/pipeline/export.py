"""Export of a pipeline as one graph from images to labels, for ONNX runtimes and `torch.export`.

The graph does what `Pipeline.predict` does: it pads with the mean, normalises, predicts, merges masks, cuts the padding
off and takes the best class. Kernels are traced in their reference form, whose operators other runtimes have too.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false
# (torch and onnx have incomplete types)

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from clouds.core.contract.component import Kind
from clouds.core.pipeline.export_check import check_graph
from clouds.core.pipeline.export_graph import ExportDtype, ExportOutput, Graph
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.system.errors import CloudsError, ConfigError
from clouds.core.system.files import atomic_file

ExportFormat = Literal["onnx", "torch-export"]

_NAMES: dict[ExportOutput, tuple[str, ...]] = {
    "labels": ("labels",),
    "scores": ("scores",),
    "panoptic-logits": ("class_logits", "mask_logits"),
}
_NEEDED = ("onnx", "onnxruntime", "onnxscript")
_OPSET = 20  # the first whose GridSample is that of torch in every mode
_LEAST, _MOST, _BATCH = 33, 16384, 1024  # sides of dynamic images; one cell in res5 would be a constant of the graph
_AXES = {0: "batch", 2: "height", 3: "width"}  # of `images`, where they are free
_REFUSED = ("Loop", "Scan", "Sequence", "SplitToSequence", "ConcatFromSequence", "Optional")  # TensorRT has none
_FILE_LIMIT = 2_000_000_000  # bytes of weights in one protobuf file, which ends at 2 GiB


def export(
    pipeline: Pipeline,
    file: str | Path,
    *,
    format: ExportFormat = "onnx",
    output: ExportOutput = "labels",
    size: tuple[int, int] | None = None,
    dtype: ExportDtype = "float32",
) -> Path:
    """Write a pipeline as one file that runs without `clouds`, after comparing the file with the pipeline.

    Input `images`: uint8 "b 3 h w", RGB. Outputs: `labels` uint8 "b h w", train ids; `scores` float32 "b k h w"; or,
    for instances and panoptic segments, `class_logits` "b q k+1" and `mask_logits` at a quarter of the size padded to
    multiples of 32. The names of the classes are in the file as JSON: ONNX metadata, or the extra file, `labels`.
    An adapter that can be merged is merged in the file, others are part of the graph; the pipeline keeps its own.

    Args:
        pipeline: on the CPU.
        file: replaced only by a graph that agrees with the pipeline, see `clouds.core.pipeline.export_check`.
        format: "onnx", which onnxruntime checks, or "torch-export", for `torch.export.load`.
        output: what the graph returns.
        size: (height, width) of all images; None: any from 33 pixels. The number of images is free in both cases.
        dtype: of the weights and products of linear layers and convolutions; all else is float32, see `Graph`.

    Raises:
        ConfigError: a library is missing; the pipeline cannot be exported, or not in this dtype; the backbone does not
            take the size; or the graph disagrees with the pipeline.
    """
    _check_request(pipeline, format, output, size, dtype)
    graph = Graph(pipeline, output, dtype).eval()
    examples = _images(size)
    _require_size(pipeline, examples[0])
    names = json.dumps(list(pipeline.labels.names))
    with torch.inference_mode(False), torch.no_grad(), atomic_file(file) as temporary:
        with _one_line(pipeline, format, size):
            program = _trace(graph, examples[0], size)
            run = (_write_onnx if format == "onnx" else _write_program)(program, _NAMES[output], names, temporary)
        check_graph(pipeline, run, output, examples, dtype)
    return Path(file)


def _check_request(pipeline: Pipeline, format: str, output: str, size: tuple[int, int] | None, dtype: str) -> None:
    words = (("format", format, ExportFormat), ("output", output, ExportOutput), ("dtype", dtype, ExportDtype))
    for name, value, known in words:
        if value not in get_args(known):
            raise ConfigError(f"export: {name} is {value!r}; expected one of {', '.join(get_args(known))}")
    if format == "onnx" and dtype == "bfloat16":
        raise ConfigError(
            f"export: convolutions of ONNX opset {_OPSET} take no bfloat16, so that onnxruntime's CPU cannot check the "
            "file; choose the dtype float16 or float32, or the format torch-export"
        )
    if size is not None and not all(1 <= side <= _MOST for side in size):
        raise ConfigError(f"export: size is {size[0]}x{size[1]}; expected sides of 1 to {_MOST} pixels")
    missing = [name for name in _NEEDED if format == "onnx" and find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"export: format onnx needs {', '.join(missing)}; pip install 'clouds-dgss[onnx]', or use the format "
            "torch-export"
        )
    if pipeline.device.type != "cpu":
        raise ConfigError(f"export: the pipeline is on {pipeline.device}; expected the CPU: load it with device='cpu'")
    weights = sum(one.numel() * one.element_size() for one in pipeline.segmenter.parameters())
    if format == "onnx" and weights > _FILE_LIMIT:
        raise ConfigError(
            f"export: the weights take {weights / 1e9:.1f} GB, and one ONNX file holds 2; use the format torch-export"
        )


def _images(size: tuple[int, int] | None) -> list[Tensor]:
    """Random images, uint8 "b 3 h w": three sizes, or three numbers of images of the fixed size. The first is traced.

    Its sides and its number of images differ from each other and from 1, so that none is taken for another.
    """
    rng = torch.Generator().manual_seed(0)
    shapes = [(2, 90, 150), (1, 64, 96), (3, 37, 200)] if size is None else [(number, *size) for number in (2, 1, 3)]
    return [
        torch.randint(0, 256, (number, 3, height, width), dtype=torch.uint8, generator=rng)
        for number, height, width in shapes
    ]


def _require_size(pipeline: Pipeline, images: Tensor) -> None:
    """Run the backbone once, so that a size that it refuses is told apart from a graph that cannot be traced."""
    backbone = pipeline.backbone
    height, width = pipeline.segmenter.network_size([(images.shape[2], images.shape[3])])
    try:
        with torch.inference_mode():
            backbone(backbone.mean.expand(1, 3, height, width))
    except Exception as error:  # any error of any model's code; the cause is kept
        raise ConfigError(
            f"export: the backbone {pipeline.plan.parts[Kind.BACKBONE].name} does not take images of "
            f"{images.shape[2]}x{images.shape[3]} pixels, padded to {height}x{width} ({_first_line(error)}); choose "
            "another size"
        ) from error


def _trace(graph: Graph, images: Tensor, size: tuple[int, int] | None) -> torch.export.ExportedProgram:
    dimensions = {0: torch.export.Dim(_AXES[0], min=1, max=_BATCH)}
    if size is None:
        dimensions |= {axis: torch.export.Dim(_AXES[axis], min=_LEAST, max=_MOST) for axis in (2, 3)}
    # torch cannot prove that divisions such as (h + 31) // 32 fit together for all sizes, and defers its doubts
    program = torch.export.export(
        graph, (images,), dynamic_shapes=(dimensions,), strict=False, prefer_deferred_runtime_asserts_over_guards=True
    )
    # Among them are strides of the traced images, which other sizes need not share; `check_graph` checks the results
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def _write_onnx(
    program: torch.export.ExportedProgram, outputs: tuple[str, ...], labels: str, file: Path
) -> Callable[[Tensor], list[Tensor]]:
    """Write the ONNX file; returns a function that runs it with onnxruntime.

    Raises:
        ConfigError: the graph has operators that TensorRT refuses.
    """
    import onnxruntime  # pyright: ignore[reportMissingTypeStubs]

    with _quiet():
        made: Any = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=_OPSET,
            input_names=["images"],
            output_names=outputs,
            dynamic_shapes=(_AXES,),  # only names the axes of an exported program
            verbose=False,
        )
    graphs = [made.model.graph, *made.model.functions.values()]
    found = {node.op_type for graph in graphs for node in graph.all_nodes() if node.op_type.startswith(_REFUSED)}
    if found:
        raise ConfigError(f"export: the graph has {', '.join(sorted(found))} nodes, which TensorRT refuses")
    made.model.metadata_props["labels"] = labels
    made.save(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(one) for one in session.run(None, {"images": images.numpy()})]


def _write_program(
    program: torch.export.ExportedProgram, outputs: tuple[str, ...], labels: str, file: Path
) -> Callable[[Tensor], list[Tensor]]:
    """Write the program; returns a function that runs it as read again."""
    with file.open("wb") as stream:
        torch.export.save(program, stream, extra_files={"labels": labels})
    with file.open("rb") as stream:
        again = torch.export.load(stream).module()
    return lambda images: list(again(images))


@contextmanager
def _quiet() -> Generator[None]:
    """Without the warnings with which onnxscript lists the operators that it does not fold."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _one_line(pipeline: Pipeline, format: ExportFormat, size: tuple[int, int] | None) -> Generator[None]:
    """Turn any error of torch's and onnx's tracers into one that names the parts."""
    try:
        yield
    except (CloudsError, OSError):
        raise
    except Exception as error:  # tracers raise anything; the cause is kept
        kinds = (Kind.BACKBONE, Kind.ADAPTER, Kind.HEAD)
        parts = ", ".join(f"{kind} {pipeline.plan.parts[kind].name}" for kind in kinds if kind in pipeline.plan.parts)
        extent = "images of any size" if size is None else f"{size[0]}x{size[1]} pixels"
        remedy = "; give one size instead" if size is None else ""
        raise ConfigError(
            f"export: {parts} cannot become {format} for {extent} ({_first_line(error)}){remedy}"
        ) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
