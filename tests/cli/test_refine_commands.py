"""`clouds refine` and `clouds refine prepare`, as a user types them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from cli_helpers import Run, assert_one_line
from segment_anything import sam_model_registry

from clouds.core.contract.plan import Part
from clouds.core.system.images import read_image, write_png
from clouds.synthesis import engines
from clouds.testing.tiny_sam import tiny_sam


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawn scenes, with their exact labels, laid out as the published dataset."""
    folder = tmp_path_factory.mktemp("set") / "generated"
    rng = np.random.default_rng(0)
    for number in range(2):
        image = rng.integers(0, 256, (24, 32, 3), np.uint8)
        write_png(folder / "images" / f"im_{number}_p{number}.png", image)
        labels = rng.integers(0, 3, (24, 32), np.uint8)
        write_png(folder / "labels" / f"im_{number}_p{number}_labelTrainIds.png", labels)
    return folder


@pytest.fixture
def small_sam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sam_model_registry, "vit_b", lambda: tiny_sam(image_size=64))


def test_own_label_maps_are_refined(run: Run, generated: Path, tmp_path: Path) -> None:
    command = ("refine", generated, "--refiner", "identity", "--out", tmp_path / "out", "--json")
    first, again = run(*command), run(*command)
    spec = f"folder:{tmp_path / 'out'}:train"
    assert json.loads(first.out) == {"spec": spec, "images": 2, "written": 2}
    assert json.loads(again.out) == {"spec": spec, "images": 2, "written": 0}
    labels = (tmp_path / "out" / "labels" / "train" / "im_1_p1.png").read_bytes()
    assert labels == (generated / "labels" / "im_1_p1_labelTrainIds.png").read_bytes()
    assert read_image(tmp_path / "out" / "pictures" / "im_1_p1.png").shape == (24, 96, 3)


def test_a_checkpoint_labels_the_images(run: Run, generated: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("refine", generated, "--refiner", "regions", "--set", "cell=4", "--checkpoint", checkpoint, "--out", out)
    assert done.out == f"2 label maps refined, 0 existed: folder:{out}:train\n"
    described = json.loads((out / "refined.json").read_text(encoding="utf-8"))
    assert described["images"] == str(generated)
    assert described["labels"]["head.safetensors"]
    assert described["options"]["cell"] == 4


def test_other_images_and_checkpoints_are_not_mixed_in(
    run: Run, generated: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Names of files are the same in every generated dataset, and in every checkpoint."""
    other, trained, out = tmp_path / "other", tmp_path / "trained", tmp_path / "out"
    shutil.copytree(generated, other)
    shutil.copytree(checkpoint, trained)
    command = ("--refiner", "identity", "--checkpoint", trained, "--out", out)
    run("refine", generated, *command)
    assert_one_line(run("refine", other, *command), str(out), "was refined with", str(other), "choose another folder")
    for written in trained.glob("*.json"):
        written.write_text(written.read_text(encoding="utf-8") + "\n", encoding="utf-8")  # any other content will do
    assert_one_line(run("refine", generated, *command), str(out), "was refined with", "choose another folder")


def test_images_without_labels_want_a_checkpoint(run: Run, generated: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    write_png(bare / "images" / "a.png", np.zeros((4, 4, 3), np.uint8))
    assert_one_line(run("refine", bare, "--refiner", "identity"), str(bare), "lacks label maps", "--checkpoint")
    assert not (tmp_path / "bare-refined").exists()


def test_wrong_names_are_said(run: Run, generated: Path) -> None:
    outcome = run("refine", generated, "--refiner", "region")
    assert outcome.code == 1
    assert "did you mean 'regions'?" in outcome.err
    outcome = run("refine", "prepare", generated, "--refiner", "regions", "--cache", "x")
    assert outcome.code == 1
    assert "unknown option 'cache'" in outcome.err


def test_embeddings_are_made_ahead(
    run: Run, generated: Path, tmp_path: Path, small_sam: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "own.pth"
    import torch

    torch.save(tiny_sam(image_size=64).state_dict(), weights)
    cache = tmp_path / "cache"
    command = ("refine", "prepare", generated, "--refiner", "sam-vit-b", "--cache", cache)
    options = ("--set", f"pretrained={weights}", "--device", "cpu")
    assert json.loads(run(*command, *options, "--json").out)["embeddings"] == 4
    assert len(list(cache.iterdir())) == 4
    planned = engines.plan_component

    def without_bound(*arguments: Any) -> Part:
        """As of a plugin whose refiner has no such option."""
        part = planned(*arguments)
        return evolve(part, options={name: value for name, value in part.options.items() if name != "cache_bytes"})

    with monkeypatch.context() as patch:
        patch.setattr(engines, "plan_component", without_bound)
        assert json.loads(run(*command, *options, "--json").out)["embeddings"] == 4
    assert run(*command, *options, "--orientation", "upright").out == f"2 embeddings (0.00 GB) in {cache}\n"
    assert len(list(cache.iterdir())) == 4
