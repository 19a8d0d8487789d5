"""`clouds export`: write a saved pipeline as one file for other runtimes. Heavy imports are inside functions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from clouds.cli.options import AsJson, Trust, UsageError
from clouds.cli.output import write, write_json

if TYPE_CHECKING:
    from clouds.core.pipeline.export_graph import ExportOutput


def export(
    checkpoint: Path,
    /,
    *,
    out: Path,
    form: Annotated[Literal["onnx", "torch-export"], Parameter(name="--format")] = "onnx",
    labels: bool = False,
    scores: bool = False,
    panoptic_logits: bool = False,
    size: str = "",
    dynamic: bool = False,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    trust: Trust = (),
    as_json: AsJson = False,
) -> None:
    """Write a pipeline as one file that runs without clouds, after comparing it with the pipeline on random images.

    The graph takes uint8 images "batch 3 height width" (RGB), of any number.

    Args:
        checkpoint: folder of a saved pipeline.
        out: the file; replaced only by a graph that agrees with the pipeline.
        form: onnx, or torch-export for torch.export.load.
        labels: return the class of every pixel; the default.
        scores: return the score of every class and pixel.
        panoptic_logits: return classes and masks of all queries, for instances and panoptic segments.
        size: HEIGHTxWIDTH of all images.
        dynamic: take images of any size from 33x33 pixels; the default.
        dtype: of weights and products; no bfloat16 in ONNX, which onnxruntime cannot check on a CPU.
    """
    from clouds.core.pipeline.composer import load
    from clouds.core.pipeline.export import export as write_graph

    output = _output(labels=labels, scores=scores, panoptic_logits=panoptic_logits)
    fixed = _size(size)
    if fixed and dynamic:
        raise UsageError("--size and --dynamic exclude each other; omit one")
    pipeline = load(checkpoint, device="cpu", trust=trust)
    write_graph(pipeline, out, format=form, output=output, size=fixed, dtype=dtype)
    if as_json:
        write_json(
            {"file": out, "format": form, "output": output, "size": fixed, "dtype": dtype, "bytes": out.stat().st_size}
        )
        return
    write(f"{output} of {size or 'images of any size'} in {out}, {out.stat().st_size / 1e6:.1f} MB")


def _output(*, labels: bool, scores: bool, panoptic_logits: bool) -> ExportOutput:
    if labels + scores + panoptic_logits > 1:
        raise UsageError("--labels, --scores and --panoptic-logits exclude each other; choose one")
    return "scores" if scores else "panoptic-logits" if panoptic_logits else "labels"


def _size(text: str) -> tuple[int, int] | None:
    """(height, width), None for no text."""
    if not text:
        return None
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise UsageError(f"--size is {text!r}; expected HEIGHTxWIDTH in pixels, such as 512x1024")
    return int(found[1]), int(found[2])
