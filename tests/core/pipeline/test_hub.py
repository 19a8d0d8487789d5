"""Saved pipelines on the hub: pushed, found by name, with a card; against a small hub on this machine."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from huggingface_hub import ModelCard, constants
from local_hub import TOKEN, Hub, serving
from PIL import Image

import clouds
from clouds.core.pipeline.hub import find_checkpoint, push_checkpoint
from clouds.core.pipeline.model_card import Scores
from clouds.core.system.errors import ConfigError, DataError, TrustError, WeightsError
from clouds.evaluation.report import DomainResult, Report

TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
SAVED = {"plan.json", "backbone.safetensors", "head.safetensors"}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serving(tmp_path / "home") as served:
        yield served


@pytest.fixture(scope="module")
def pipeline() -> clouds.Pipeline:
    made = clouds.compose(backbone=TINY, head={"name": "linear", "width": 16}, device="cpu")
    made.trained = True
    return made


@pytest.fixture
def saved(pipeline: clouds.Pipeline, tmp_path: Path) -> Path:
    pipeline.save(tmp_path / "saved")
    return tmp_path / "saved"


def _report() -> Report:
    counts: dict[str, Any] = {"images": 2, "iou": {}, "accuracy": {}, "boundary_iou": {}, "confusion": []}
    rest = {"fwiou": None, "mean_accuracy": None, "pixel_accuracy": None, "boundary_miou": None}
    domains = {name: DomainResult(miou=miou, **counts, **rest) for name, miou in (("fog", 43.21), ("a|b", None))}
    return Report(protocol="native", domains=domains)


def test_a_pushed_pipeline_is_loaded_by_its_name(hub: Hub, pipeline: clouds.Pipeline) -> None:
    name = pipeline.push_to_hub("me/roads")
    assert name == f"me/roads@{hub.repos['me/roads'][-1][0]}"
    assert set(hub.repos["me/roads"][-1][1]) == SAVED | {"README.md", ".gitattributes"}
    for wanted in ("me/roads", name, Path("me/roads@main")):
        loaded = clouds.load(wanted, device="cpu")
        assert (loaded.predict(PICTURE).scores() == pipeline.predict(PICTURE).scores()).all()


def test_revisions_are_commits_tags_and_branches(hub: Hub, pipeline: clouds.Pipeline) -> None:
    first = pipeline.push_to_hub("me/roads").rpartition("@")[2]
    other = clouds.compose(backbone=TINY, head={"name": "linear", "width": 24}, device="cpu")
    other.push_to_hub("me/roads")
    hub.tags["me/roads", "v1"] = first
    widths = {
        name: clouds.load(name, device="cpu").plan.parts[clouds.Kind.HEAD].options["width"]
        for name in ("me/roads", "me/roads@v1", f"me/roads@{first}", "me/roads@main")
    }
    assert list(widths.values()) == [24, 16, 16, 24]


def test_a_folder_of_that_name_comes_first(
    hub: Hub, pipeline: clouds.Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.push_to_hub("me/roads")
    monkeypatch.chdir(tmp_path)
    pipeline.save("me/roads")
    hub.asked.clear()
    clouds.load("me/roads", device="cpu")
    assert find_checkpoint("me/roads") == Path("me/roads")
    assert hub.asked == []


@pytest.mark.parametrize("path", ["roads", "a/b/c", "./a/b", "/a/b", "a/../b", "a/b@x..y", "a/b@", "a/b c"])
def test_other_paths_are_no_names_of_the_hub(hub: Hub, path: str) -> None:
    assert find_checkpoint(path) == Path(path)
    assert hub.asked == []


def test_the_cache_serves_without_a_connection(
    hub: Hub, pipeline: clouds.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.push_to_hub("me/roads")
    folder = find_checkpoint("me/roads")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert find_checkpoint("me/roads") == folder
    with pytest.raises(WeightsError, match=r"^me/others: no such folder, and .* 127\.0\.0\.1 cannot be reached: .*"):
        clouds.load("me/others")
    with pytest.raises(WeightsError, match=r"^me/roads: cannot be pushed to the hub: 127\.0\.0\.1 cannot be reached"):
        pipeline.push_to_hub("me/roads")


def test_files_are_those_of_a_checkpoint_and_readable_by_all(hub: Hub, saved: Path) -> None:
    (saved / "secrets.txt").write_text("not for the hub", encoding="utf-8")
    push_checkpoint(saved, "me/roads")
    assert "secrets.txt" not in hub.repos["me/roads"][-1][1]
    hub.commit("me/roads", {**hub.repos["me/roads"][-1][1], "run.py": b"print()", "pytorch_model.bin": b"pickle"})
    folder = find_checkpoint("me/roads")
    assert {path.name for path in folder.iterdir()} == SAVED
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}


def test_a_second_push_replaces_the_first(hub: Hub, pipeline: clouds.Pipeline, tmp_path: Path) -> None:
    overlay = pipeline.predict(PICTURE).overlay()
    pipeline.push_to_hub("me/roads", picture=overlay)
    before = hub.repos["me/roads"][-1][1]
    hub.commit("me/roads", {**before, "kept.safetensors": before["head.safetensors"], "notes.md": b"mine"})
    pipeline.push_to_hub("me/roads")
    after = hub.repos["me/roads"][-1][1]
    assert set(after) == SAVED | {"README.md", ".gitattributes", "notes.md"}


def test_the_card_says_what_the_pipeline_is(hub: Hub, pipeline: clouds.Pipeline, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"seed": 3, "warmup": {"steps": 4}}), encoding="utf-8")
    overlay = pipeline.predict(PICTURE).overlay()
    pipeline.push_to_hub("me/roads", recipe=recipe, reports=[_report()], picture=overlay)
    files = hub.repos["me/roads"][-1][1]
    card = ModelCard(files["README.md"].decode())
    assert (card.data.library_name, card.data.pipeline_tag) == ("clouds", "image-segmentation")
    (result,) = card.data.eval_results or []
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("fog", "mean_iou", 43.21)
    for line in (
        'pipeline = clouds.load("me/roads")',
        "| backbone | tiny | Apache-2.0 (no published weights) | in this repository |",
        f"{_report().settings}:",
        "| fog | 43.2 |",
        "| a\\|b | - |",
        "```toml\nseed = 3\n\n[warmup]\nsteps = 4\n```",
        f"```text\n{pipeline.plan}\n```",
        "![A prediction of this pipeline](prediction.png)",
    ):
        assert line in card.content
    assert "not been trained" not in card.content
    (tmp_path / "shown.png").write_bytes(files["prediction.png"])
    assert (np.asarray(Image.open(tmp_path / "shown.png")) == np.asarray(overlay)).all()


def test_the_card_of_an_untrained_pipeline_with_other_parts(hub: Hub) -> None:
    made = clouds.compose(
        backbone="timm:convnext_atto", head="linear", refiner="regions", pretrained=False, device="cpu"
    )
    made.push_to_hub("me/atto")
    card = hub.repos["me/atto"][-1][1]["README.md"].decode()
    assert "**The head has not been trained: its predictions mean nothing.**" in card
    start = "random weights at the start; the published ones: see the model card"
    assert f"| backbone | timm:convnext_atto | {start} | in this repository |" in card
    assert "| used for training only: not in this repository |" in card
    assert "## Results" not in card
    assert "## Training" not in card


def test_the_card_of_a_ready_backbone_says_that_it_is_to_be_passed(hub: Hub) -> None:
    module = torchvision.models.resnet18()
    made = clouds.compose(backbone=clouds.as_backbone(module), head="linear", device="cpu")
    made.push_to_hub("me/ready")
    card = hub.repos["me/ready"][-1][1]["README.md"].decode()
    assert 'clouds.load("me/ready", ready={"backbone": backbone})' in card
    assert "Its backbone is a module of the author's own" in card


def test_scores_of_reports_are_what_the_card_needs() -> None:
    assert isinstance(_report(), Scores)


def test_strangers_pipelines_need_the_same_consent(hub: Hub, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("convnext_atto").state_dict(), weights)
    backbone = {"name": "timm:convnext_atto", "pretrained": str(weights)}
    made = clouds.compose(backbone=backbone, head="linear", device="cpu")
    made.push_to_hub("me/atto", include_frozen=False)
    files = hub.repos["me/atto"][-1][1]
    assert "backbone.safetensors" not in files
    assert b'clouds.load("me/atto", trust=("backbone",))' in files["README.md"]
    assert b"published: not in this repository" in files["README.md"]
    with pytest.raises(TrustError, match="backbone 'timm:convnext_atto' reaches out of this folder"):
        clouds.load("me/atto", device="cpu")
    clouds.load("me/atto", device="cpu", trust=("backbone",))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("me/missing", r"the hub has no such repository, or shows it only after a login: log in with `hf auth login`"),
        ("me/roads@v9", r"^me/roads@v9: .*the repository has no such revision"),
        ("me/gated", r"its owner must grant you access, on its page; then log in"),
        ("me/other", r"the repository is no saved pipeline: it has no plan\.json"),
        ("me/broken", r"head\.safetensors: not a whole safetensors file"),
        ("me/lacking", r"head\.safetensors: no such weight file"),
    ],
)
def test_what_cannot_be_loaded_says_why(hub: Hub, saved: Path, name: str, message: str) -> None:
    files = {path.name: path.read_bytes() for path in saved.iterdir()}
    hub.commit("me/roads", files)
    hub.commit("me/gated", files)
    hub.gated.add("me/gated")
    hub.commit("me/other", {"model.safetensors": files["head.safetensors"]})
    hub.commit("me/broken", {**files, "head.safetensors": b"PK\x03\x04 a pickle"})
    hub.commit("me/lacking", {key: value for key, value in files.items() if key != "head.safetensors"})
    with pytest.raises(WeightsError, match=message) as caught:
        clouds.load(name, device="cpu")
    assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint_is_not_pushed(hub: Hub, saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "broken")
    (tmp_path / "broken" / "backbone.safetensors").write_bytes(b"PK\x03\x04 a pickle")
    with pytest.raises(WeightsError, match=r"backbone\.safetensors: not a whole safetensors file"):
        push_checkpoint(tmp_path / "broken", "me/roads")
    (tmp_path / "broken" / "backbone.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"backbone\.safetensors: no such weight file"):
        push_checkpoint(tmp_path / "broken", "me/roads")
    with pytest.raises(DataError, match=r"no\.png"):
        push_checkpoint(saved, "me/roads", picture=tmp_path / "no.png")
    (tmp_path / "recipe.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"recipe\.json: not the recipe of a run; expected a JSON object"):
        push_checkpoint(saved, "me/roads", recipe=tmp_path / "recipe.json")
    with pytest.raises(ConfigError, match=r"recipe\.json\.gone: cannot be read as the recipe of a run"):
        push_checkpoint(saved, "me/roads", recipe=tmp_path / "recipe.json.gone")
    for name in ("roads", "me/roads@v1", "a/b/c", "me/../roads"):
        with pytest.raises(ConfigError, match=r"is no name of a repository; expected 'owner/name'"):
            push_checkpoint(saved, name)
    assert hub.repos == {}


def test_repositories_of_other_things_are_left_alone(hub: Hub, saved: Path) -> None:
    hub.commit("me/notes", {"README.md": b"mine", "notes.txt": b"mine"})
    with pytest.raises(ConfigError, match=r"the repository has other files \(notes\.txt\) and no plan\.json; choose"):
        push_checkpoint(saved, "me/notes")
    assert len(hub.repos["me/notes"]) == 1


def test_a_push_needs_a_login(hub: Hub, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN + "x")
    with pytest.raises(WeightsError, match=r"me/roads: cannot be pushed .*without a login that may do it: log in with"):
        push_checkpoint(saved, "me/roads")
    assert hub.repos == {}


@pytest.mark.parametrize("step", ["batch", "commit"])
def test_a_push_that_breaks_off_changes_nothing(
    hub: Hub, saved: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    push_checkpoint(saved, "me/roads")
    (commit,) = [one for one, files in hub.repos["me/roads"] if "plan.json" in files]
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its repetitions
    hub.refused.add(step)
    with pytest.raises(WeightsError, match=r"me/roads: cannot be pushed to the hub: \w+: .*500"):
        push_checkpoint(saved, "me/roads", picture=Image.fromarray(PICTURE))
    assert hub.repos["me/roads"][-1][0] == commit
