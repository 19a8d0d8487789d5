"""`clouds export` as its users call it, and the script of the documentation that runs its file without clouds.

In processes of their own, because the run-time type checks of the tests are no part of a graph.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import clouds
from clouds.cli.app import main
from clouds.core.contract.interfaces import Backbone

ROOT = Path(__file__).parents[2]
COMMAND = "from clouds.cli.app import main; raise SystemExit(main())"
TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SMALL = {"queries": 20, "width": 64, "layers": 3, "heads": 2, "feedforward": 32}
SMALL |= {"encoder_layers": 1, "encoder_feedforward": 32}
HEADS: dict[str, Any] = {
    "linear": {"name": "linear", "width": 16},
    "fpn": {"name": "fpn", "width": 32},
    "mask2former": {"name": "mask2former", **SMALL},
    "eomt": {"name": "eomt", "queries": 20, "layers": 2},
}
SAVE = """
import sys
sys.path.insert(0, sys.argv[1])
import json, clouds
from backbone_helpers import backbone_of
pipeline = clouds.compose(backbone=backbone_of("resnet"), head=json.loads(sys.argv[2]), labels=5, device="cpu")
clouds.export(pipeline, sys.argv[3], output="panoptic-logits")
"""


def shell(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False)


def exported(*words: object) -> str:
    done = shell("-c", COMMAND, "export", *words)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def session(file: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def operators(file: Path) -> set[str]:
    import onnx

    return {node.op_type for node in onnx.load(file).graph.node}


def save(folder: Path, backbone: Any, head: str, adapter: str | None = None) -> tuple[clouds.Pipeline, Path]:
    parts = {"backbone": backbone, "head": HEADS[head], "adapter": adapter}
    pipeline = clouds.compose(**parts, labels=5, pretrained=False, device="cpu")
    if pipeline.adapter is not None:  # a fresh one changes nothing, and its export would not be noticed
        for parameter in pipeline.adapter.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    pipeline.trained = True
    pipeline.save(folder / head)
    return pipeline, folder / head


def require_agreement(pipeline: clouds.Pipeline, file: Path) -> None:
    """Labels of onnxruntime are those of `predict`, for sizes that the command did not check; near ties may differ."""
    rng = np.random.default_rng(3)
    for count, height, width in ((1, 33, 33), (2, 128, 40), (4, 65, 97)):
        images = rng.integers(0, 256, (count, height, width, 3), np.uint8)
        (labels,) = session(file).run(None, {"images": images.transpose(0, 3, 1, 2)})
        assert labels.dtype == np.uint8
        expected = np.stack([pipeline.predict(image).labels for image in images])
        assert (labels == expected).mean() > 0.999  # float32 roundings decide ties of scores


def test_the_documented_script_runs_the_file_without_clouds(tmp_path: Path) -> None:
    pipeline, checkpoint = save(tmp_path, TINY, "linear")
    file, picture, out = tmp_path / "street.onnx", tmp_path / "street.png", tmp_path / "labels.png"
    assert exported(checkpoint, "--out", file).startswith(f"labels of images of any size in {file}, 0.")
    assert not {one for one in operators(file) if one.startswith(("Loop", "Scan", "Sequence", "Optional"))}
    assert [one.shape for one in session(file).get_inputs()] == [["batch", 3, "height", "width"]]
    assert [one.shape for one in session(file).get_outputs()] == [["batch", "height", "width"]]
    require_agreement(pipeline, file)
    page = (ROOT / "docs" / "tutorials" / "export.md").read_text(encoding="utf-8")
    script = page.partition('```python title="run_onnx.py"\n')[2].partition("```")[0]
    assert "import clouds" not in script
    (tmp_path / "run_onnx.py").write_text(script, encoding="utf-8")
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    Image.fromarray(image).save(picture)
    done = shell(tmp_path / "run_onnx.py", file, picture, out)
    assert done.returncode == 0, done.stderr
    assert {line.partition(":")[0] for line in done.stdout.splitlines()} <= set(pipeline.labels.names)
    assert (np.asarray(Image.open(out)) == pipeline.predict(image).labels).mean() > 0.999


def test_a_program_for_torch_export_has_the_pipelines_scores(tmp_path: Path) -> None:
    pipeline, checkpoint = save(tmp_path, TINY, "linear")
    words = exported(checkpoint, "--out", tmp_path / "a.pt2", "--format", "torch-export", "--scores", "--json")
    assert json.loads(words)["output"] == "scores"
    extra = {"labels": ""}
    program = torch.export.load(tmp_path / "a.pt2", extra_files=extra)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    (scores,) = program.module()(torch.from_numpy(image).permute(2, 0, 1)[None])
    np.testing.assert_allclose(scores[0].detach(), pipeline.predict(image).scores(), atol=1e-5)  # probabilities
    found = extra["labels"]
    assert json.loads(found) == list(pipeline.labels.names)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "head"),
    [(TINY, "fpn"), (TINY, "mask2former"), ("timm:test_vit", "mask2former"), ("timm:test_vit", "linear")],
    ids=str,
)
def test_backbones_and_heads_become_onnx_of_any_size(backbone: Any, head: str, tmp_path: Path) -> None:
    pipeline, checkpoint = save(tmp_path, backbone, head)
    exported(checkpoint, "--out", tmp_path / "a.onnx")
    assert not {one for one in operators(tmp_path / "a.onnx") if one.startswith(("Loop", "Scan", "Sequence"))}
    if head != "mask2former":  # whose masks near 0 random images may open or close; the command draws stable ones
        require_agreement(pipeline, tmp_path / "a.onnx")


@pytest.mark.slow
def test_queries_inside_the_backbone_become_onnx_and_a_program(tmp_path: Path) -> None:
    pipeline, checkpoint = save(tmp_path, "timm:test_vit", "eomt")
    exported(checkpoint, "--out", tmp_path / "a.onnx")
    require_agreement(pipeline, tmp_path / "a.onnx")
    exported(checkpoint, "--out", tmp_path / "half.onnx", "--scores", "--dtype", "float16")
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    (scores,) = session(tmp_path / "half.onnx").run(None, {"images": image.transpose(2, 0, 1)[None]})
    truth = pipeline.predict(image).scores()
    assert np.abs(scores[0] - truth).max() <= 20 * 2**-11 * truth.max()  # roundings of 2^-11 in some twenty layers
    exported(checkpoint, "--out", tmp_path / "a.pt2", "--format", "torch-export", "--panoptic-logits")
    image = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    found = torch.export.load(tmp_path / "a.pt2").module()(image)
    with torch.inference_mode():
        expected = pipeline.forward(image)
    torch.testing.assert_close(found, (expected.class_logits, expected.mask_logits), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "merged"), [("lora", True), ("soma", True), ("rein", False)])
def test_adapters_are_merged_where_they_can_be(adapter: str, merged: bool, tmp_path: Path) -> None:
    pipeline, checkpoint = save(tmp_path, "timm:test_vit", "linear", adapter)
    exported(checkpoint, "--out", tmp_path / "a.onnx")
    require_agreement(pipeline, tmp_path / "a.onnx")
    exported(checkpoint, "--out", tmp_path / "a.pt2", "--format", "torch-export", "--scores")
    program = torch.export.load(tmp_path / "a.pt2")
    assert any("adapter" in name for name in program.state_dict) != merged
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    (scores,) = program.module()(torch.from_numpy(image).permute(2, 0, 1)[None])
    np.testing.assert_allclose(scores[0].detach(), pipeline.predict(image).scores(), atol=1e-5)  # probabilities


@pytest.mark.slow
def test_float16_halves_the_file(tmp_path: Path) -> None:
    pipeline, checkpoint = save(tmp_path, "timm:test_vit", "linear", "lora")
    exported(checkpoint, "--out", tmp_path / "whole.onnx", "--scores")
    words = exported(checkpoint, "--out", tmp_path / "half.onnx", "--scores", "--dtype", "float16", "--json")
    assert json.loads(words)["dtype"] == "float16"
    weights = sum(one.numel() for one in pipeline.backbone.parameters())
    assert (tmp_path / "whole.onnx").stat().st_size - (tmp_path / "half.onnx").stat().st_size > 1.5 * weights
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    (scores,) = session(tmp_path / "half.onnx").run(None, {"images": image.transpose(2, 0, 1)[None]})
    assert scores.dtype == np.float32
    # Roundings of 2^-11 in some ten layers in a row, of probabilities
    np.testing.assert_allclose(scores[0], pipeline.predict(image).scores(), atol=10 * 2**-11)


def test_bfloat16_becomes_a_program(tmp_path: Path) -> None:
    pipeline, checkpoint = save(tmp_path, TINY, "linear")
    exported(checkpoint, "--out", tmp_path / "a.pt2", "--format", "torch-export", "--scores", "--dtype", "bfloat16")
    program = torch.export.load(tmp_path / "a.pt2")
    assert torch.bfloat16 in {one.dtype for one in program.state_dict.values()}
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    (scores,) = program.module()(torch.from_numpy(image).permute(2, 0, 1)[None])
    # Roundings of 2^-8 in some ten layers in a row, of probabilities
    np.testing.assert_allclose(scores[0].detach(), pipeline.predict(image).scores(), atol=10 * 2**-8)


@pytest.mark.slow
def test_clips_resnet_exports_its_masks(tmp_path: Path) -> None:
    helpers, head = ROOT / "tests" / "backbones", json.dumps(HEADS["mask2former"])
    done = shell("-c", SAVE, helpers, head, tmp_path / "a.onnx")
    assert done.returncode == 0, done.stderr[-2000:]
    classes, masks = session(tmp_path / "a.onnx").run(None, {"images": np.zeros((2, 3, 65, 90), np.uint8)})
    assert (classes.shape, masks.shape) == ((2, 20, 6), (2, 20, 24, 24))


@pytest.mark.slow
def test_a_fixed_size_takes_any_number_of_images(tmp_path: Path) -> None:
    _, checkpoint = save(tmp_path, TINY, "fpn")
    exported(checkpoint, "--out", tmp_path / "a.onnx", "--size", "50x70")
    (labels,) = session(tmp_path / "a.onnx").run(None, {"images": np.zeros((5, 3, 50, 70), np.uint8)})
    assert labels.shape == (5, 50, 70)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--size", "50"), 2, "--size is '50'; expected HEIGHTxWIDTH in pixels"),
        (("--size", "50x70", "--dynamic"), 2, "--size and --dynamic exclude each other"),
        (("--labels", "--scores"), 2, "--labels, --scores and --panoptic-logits exclude each other"),
        (
            ("--dtype", "bfloat16"),
            1,
            "convolutions of ONNX opset 20 take no bfloat16, so that onnxruntime's CPU cannot",
        ),
        (("--size", "0x64"), 1, "size is 0x64; expected sides of 1 to 16384 pixels"),
    ],
)
def test_wrong_requests(
    words: tuple[str, ...], code: int, message: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "a.onnx"), *words]) == code
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "a.onnx").exists()


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path) -> None:
    monkeypatch.setattr("clouds.core.pipeline.export.find_spec", lambda name: None)
    with pytest.raises(clouds.ConfigError, match=r"format onnx needs onnx, onnxruntime, onnxscript; pip install"):
        clouds.export(clouds.load(checkpoint, device="cpu"), tmp_path / "a.onnx")


def test_a_pipeline_with_too_many_weights_is_refused(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
) -> None:
    pipeline = clouds.load(checkpoint, device="cpu")
    monkeypatch.setattr("clouds.core.pipeline.export._FILE_LIMIT", 1000)
    with pytest.raises(clouds.ConfigError, match=r"the weights take 0\.0 GB, and one ONNX file holds 2"):
        clouds.export(pipeline, tmp_path / "a")


def test_a_pipeline_on_another_device_is_refused(tmp_path: Path) -> None:
    pipeline = clouds.compose(backbone=TINY, head="linear", device="cpu").to("meta")
    with pytest.raises(
        clouds.ConfigError, match="the pipeline is on meta; expected the CPU: load it with device='cpu'"
    ):
        clouds.export(pipeline, tmp_path / "a")


@pytest.mark.usefixtures("unchecked_types")
def test_an_unknown_format_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(clouds.ConfigError, match="format is 'tflite'; expected one of onnx, torch-export"):
        clouds.export(clouds.load(checkpoint, device="cpu"), tmp_path / "a", format="tflite")  # pyright: ignore


def test_a_size_that_the_backbone_does_not_take(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
) -> None:
    pipeline = clouds.load(checkpoint, device="cpu")

    def refuse(self: Backbone, images: torch.Tensor) -> None:
        raise AssertionError("windows of 7 do not fit\nmore")

    monkeypatch.setattr(type(pipeline.backbone), "forward", refuse)
    message = r"backbone tiny does not take images of 50x70 pixels, padded to 64x96 \(AssertionError: windows of 7"
    with pytest.raises(clouds.ConfigError, match=message):
        clouds.export(pipeline, tmp_path / "a.onnx", size=(50, 70))
    assert not list(tmp_path.glob("*a.onnx"))


def test_a_head_that_cannot_be_traced_leaves_the_older_file(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
) -> None:
    pipeline = clouds.load(checkpoint, device="cpu")
    (tmp_path / "a.pt2").write_text("older", encoding="utf-8")

    def untraceable(self: object, *_: object, **__: object) -> None:
        raise RuntimeError("data-dependent branch\nmore")

    monkeypatch.setattr(type(pipeline.head), "logits", untraceable)
    message = r"backbone tiny, head linear cannot become torch-export for images of any size \(RuntimeError: data"
    with pytest.raises(clouds.ConfigError, match=message):
        clouds.export(pipeline, tmp_path / "a.pt2", format="torch-export")
    assert [one.name for one in tmp_path.iterdir()] == ["a.pt2"]
    assert (tmp_path / "a.pt2").read_text(encoding="utf-8") == "older"
