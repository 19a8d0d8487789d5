"""`--trust`: what `clouds.load(trust=)` is on the command line."""

import json
import shutil
from pathlib import Path

import pytest
from cli_helpers import Run, assert_one_line

import clouds


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A saved pipeline whose backbone has its weights in a file beside the folder."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("convnext_atto").state_dict(), weights)
    pipeline = clouds.compose(
        backbone={"name": "timm:convnext_atto", "pretrained": str(weights)}, head="linear", device="cpu"
    )
    pipeline.trained = True
    pipeline.save(tmp_path / "saved", include_frozen=False)
    return tmp_path / "saved"


def test_a_part_that_reaches_out_is_named_with_the_option(run: Run, elsewhere: Path, photos: Path) -> None:
    message = "backbone 'timm:convnext_atto' reaches out of this folder (pretrained='"
    picture = photos / "images" / "val" / "a.png"
    for words in (
        ("predict", elsewhere, picture, "--out", elsewhere.parent / "predicted"),
        ("evaluate", elsewhere, "--data", f"folder:{photos}"),
    ):
        outcome = run(*words, "--device", "cpu")
        assert_one_line(outcome, message, "if you trust whoever made it, add --trust backbone")
        assert "clouds.load" not in outcome.err
        assert run(*words, "--device", "cpu", "--trust", "backbone").code == 0


def test_only_kinds_of_parts_can_be_trusted(run: Run, checkpoint: Path) -> None:
    assert run("predict", checkpoint, "a.png", "--trust", "everything").code == 2


def test_secrets_of_a_plan_are_never_used(run: Run, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    """No command asks a saved pipeline's plan for a server, and none accepts its word on a secret."""
    folder = tmp_path / "altered"
    shutil.copytree(checkpoint, folder)
    document = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    options = {"model": "m", "url": "http://localhost:1", "key_variable": "HOME"}
    part = {"kind": "prompter", "name": "llm", "distribution": "clouds-dgss", "options": options}
    document["parts"].append(part)
    (folder / "plan.json").write_text(json.dumps(document), encoding="utf-8")
    picture = photos / "images" / "val" / "a.png"
    assert run("predict", folder, picture, "--out", tmp_path / "out", "--device", "cpu").code == 0
