"""Refined datasets: what is written, what a killed run leaves, and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clouds.core.contract.interfaces import Refiner
from clouds.core.contract.labels import CITYSCAPES
from clouds.core.contract.records import Prepared, Targets
from clouds.core.system.errors import ConfigError, DataError
from clouds.core.system.files import only_writer
from clouds.core.system.images import open_image, read_image, write_png
from clouds.data.folder import open_dataset
from clouds.synthesis.refine import FILE_NAME, RefinedSet, before_and_after, refine_set

SIZE, N = (10, 12), 8


class Swapped(Refiner):
    """Every class becomes one of the classes of the map, drawn at random."""

    def prepare(self, images: Sequence[Tensor]) -> list[Prepared]:
        return [Prepared() for _ in images]

    def refine(
        self,
        images: Sequence[Tensor],
        label_maps: Sequence[Tensor],
        *,
        rngs: Sequence[np.random.Generator | np.random.RandomState],
        prepared: Sequence[Prepared] | None = None,
    ) -> list[Targets]:
        refined = []
        for label_map, rng in zip(label_maps, rngs, strict=True):
            classes = label_map.unique()
            choice = torch.from_numpy(rng.permutation(len(classes)))
            table = torch.zeros(256, dtype=torch.uint8)
            table[classes.long()] = classes[choice]
            refined.append(Targets.from_label_map(table[label_map.long()]))
        return refined


def label(path: Path) -> np.ndarray:
    """Stripes that depend on the picture."""
    return (read_image(path)[:, :, 0] // 64).astype(np.uint8)


# `refine` below, slowed down so that it is killed in the middle.
SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_refine import Swapped, label, refine

def slow(path):
    time.sleep(0.05)
    return label(path)

refine(Path(sys.argv[1]), Path(sys.argv[2]), label=slow)
"""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for number in range(N):
        rng = np.random.default_rng(number)
        write_png(folder / f"im_{number}_p0.png", rng.integers(0, 256, (*SIZE, 3), np.uint8))
    return folder


def refine(pictures: Path, out: Path, **changes: Any) -> RefinedSet:
    given: dict[str, Any] = {"label": label, "label_space": CITYSCAPES, "made_with": {"refiner": "swapped"}, **changes}
    return refine_set(Swapped(), sorted(pictures.glob("*.png")), given.pop("label"), out=out, **given)


def files(folder: Path) -> dict[str, bytes]:
    """Finished files; a killed run may leave a hidden temporary one."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_the_result_is_a_dataset_with_pictures(pictures: Path, tmp_path: Path) -> None:
    made = refine(pictures, tmp_path / "out")
    assert (made.images, made.written, made.spec) == (N, N, f"folder:{tmp_path / 'out'}:train")
    dataset = open_dataset(made.spec, CITYSCAPES)
    assert len(dataset) == N
    image, after = dataset.read(0)
    source = pictures / f"{dataset.items[0].name}.png"
    before = label(source)
    assert np.array_equal(image, read_image(source))
    assert set(np.unique(after)) <= set(np.unique(before)) | {255}
    shown = read_image(made.folder / "pictures" / source.name)
    assert np.array_equal(shown, before_and_after(image, before, after, CITYSCAPES))
    assert np.array_equal(shown[:, : SIZE[1]], image)


def test_the_same_call_adds_what_is_missing(pictures: Path, tmp_path: Path) -> None:
    whole = files(refine(pictures, tmp_path / "out").folder)
    (tmp_path / "out" / "labels" / "train" / "im_3_p0.png").unlink()
    again = refine(pictures, tmp_path / "out")
    assert again.written == 1
    assert files(again.folder) == whole
    assert refine(pictures, tmp_path / "out").written == 0


def test_what_an_image_draws_depends_on_its_name_alone(pictures: Path, tmp_path: Path) -> None:
    refine(pictures, tmp_path / "all")
    (pictures / "im_0_p0.png").unlink()
    refine(pictures, tmp_path / "fewer")
    name = "labels/train/im_5_p0.png"
    assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "fewer" / name).read_bytes()
    refine(pictures, tmp_path / "seed", seed=1)
    assert files(tmp_path / "seed" / "labels") != files(tmp_path / "fewer" / "labels")


@pytest.mark.parametrize("kills", [(3,), pytest.param((1, 2, 4, 5, 6), marks=pytest.mark.slow)])  # many interpreters
def test_a_killed_run_is_finished_by_the_same_call(pictures: Path, tmp_path: Path, kills: Sequence[int]) -> None:
    out = tmp_path / "killed"
    for count in kills:
        command = [sys.executable, "-c", SCRIPT, str(pictures), str(out), str(Path(__file__).parent)]
        run = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        deadline = time.monotonic() + 300  # a busy machine takes long to import torch
        while len(list(out.glob("labels/train/[!.]*.png"))) < count:
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        run.send_signal(signal.SIGKILL)
        run.wait()
        for path in out.glob("labels/train/[!.]*.png"):
            assert open_image(path).size == SIZE[::-1]
    assert 0 < refine(pictures, out).written < N
    assert files(out) == files(refine(pictures, tmp_path / "whole").folder)


def test_another_sort_of_labels_is_refused(pictures: Path, tmp_path: Path) -> None:
    refine(pictures, tmp_path / "out")
    with pytest.raises(DataError, match=r"out was refined with seed 0, not with 1; choose another"):
        refine(pictures, tmp_path / "out", seed=1)
    for text in ("{", "[" * 10**5):
        (tmp_path / "out" / FILE_NAME).write_text(text, encoding="utf-8")
        with pytest.raises(
            DataError, match=r"refined.json: not the output of an earlier run \(.*\); choose another folder"
        ):
            refine(pictures, tmp_path / "out")


def test_pictures_of_one_name_from_elsewhere_are_refused(pictures: Path, tmp_path: Path) -> None:
    refine(pictures, tmp_path / "out")
    shutil.copytree(pictures, tmp_path / "copies")
    next((tmp_path / "out" / "labels" / "train").iterdir()).unlink()
    with pytest.raises(DataError, match="choose another folder"):
        refine(tmp_path / "copies", tmp_path / "out")


def test_a_second_run_in_the_same_folder_is_refused(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refine(pictures, out)
    (out / "labels" / "train" / "im_0_p0.png").unlink()
    with (
        only_writer(out / ".lock"),
        pytest.raises(DataError, match=rf"{out}.*: another run is writing to this folder; wait until it has ended"),
    ):
        refine(pictures, out)
    assert refine(pictures, out).written == 1


def test_a_run_that_was_killed_at_once_is_no_obstacle(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with only_writer(out / ".lock"):
        pass
    assert refine(pictures, out).written == N


def test_a_negative_seed_is_refused(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed=-1; expected 0 or more"):
        refine(pictures, tmp_path / "out", seed=-1)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pictures is not empty and has no refined.json; choose another folder"):
        refine(pictures, pictures)
    assert len(list(pictures.iterdir())) == N


def test_faults_name_the_image(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"im_0_p0.png: the image is \(10, 12\), its label map \(3, 4\)"):
        refine(pictures, tmp_path / "a", label=lambda path: np.zeros((3, 4), np.uint8))
    write_png(pictures / "more" / "im_0_p0.png", np.zeros((*SIZE, 3), np.uint8))
    twice = [pictures / "im_0_p0.png", pictures / "more" / "im_0_p0.png"]
    with pytest.raises(DataError, match=r"im_0_p0.png and .*more/im_0_p0.png share a name"):
        refine_set(Swapped(), twice, label, out=tmp_path / "b", label_space=CITYSCAPES, made_with={})
    with pytest.raises(DataError, match="b: nothing to refine; give at least one image"):
        refine_set(Swapped(), [], label, out=tmp_path / "b", label_space=CITYSCAPES, made_with={})
    (pictures / "im_1_p0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"im_1_p0.png: not a picture"):
        refine(pictures, tmp_path / "c")
    assert json.loads((tmp_path / "c" / FILE_NAME).read_text(encoding="utf-8")) == {"refiner": "swapped", "seed": 0}


@pytest.mark.parametrize("name", ["pictures", "labels", "images"])
def test_nothing_is_written_behind_links_out_of_the_folder(pictures: Path, tmp_path: Path, name: str) -> None:
    refine(pictures, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / name)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "out" / name).symlink_to(elsewhere)
    shutil.rmtree(tmp_path / "out" / "labels", ignore_errors=True)  # so that there is work
    with pytest.raises(DataError, match="is, or lies behind, a link out of"):
        refine(pictures, tmp_path / "out")
    assert not list(elsewhere.iterdir())
