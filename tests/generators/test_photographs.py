"""Photographs stand in the place of generated images: each once, then smaller crops, with their origin recorded."""

from __future__ import annotations

import os
import warnings
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

import clouds
from clouds.core.contract.records import GenerationRequest
from clouds.core.system.errors import ConfigError, DataError, SeenDomainWarning
from clouds.core.system.images import read_image, write_png
from clouds.data.folder import image_pattern
from clouds.generators.photographs import Photographs
from clouds.synthesis.clip_filter import ClipFilter
from clouds.testing import check_generator


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of different sizes: the red channel is the row, green the column, blue the picture."""
    for number, (height, width) in enumerate([(48, 96), (60, 60), (100, 40)]):
        rows, columns = np.mgrid[:height, :width]
        pixels = np.stack([rows, columns, np.full_like(rows, 60 * number)], -1).astype(np.uint8)
        write_png(tmp_path / "pictures" / f"{number}.png", pixels)
    return tmp_path / "pictures"


def made(folder: Path, seed: int, size: tuple[int, int]) -> clouds.GeneratedImage:
    (image,) = Photographs(folder).generate([GenerationRequest(prompt="", seed=seed, size=size)])
    return image


def test_it_keeps_the_contract_of_generators(folder: Path) -> None:
    check_generator(Photographs(folder))


def test_pictures_are_told_apart_by_their_folders_but_may_move_with_them(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    for path in ("one/a/1.png", "one/b/2.png", "two/a/1.png", "two/b/2.png", "three/b/1.png", "three/a/2.png"):
        write_png(tmp_path / path, pixels)
    first, moved, other = (Photographs(f"{tmp_path / name}/*/*.png").describe() for name in ("one", "two", "three"))
    assert first == moved
    assert first != other


def test_the_first_seeds_show_each_picture_once(folder: Path) -> None:
    shown = [int(np.median(made(folder, seed, (20, 20)).image[..., 2])) for seed in range(3)]
    assert shown == [0, 60, 120]


@pytest.mark.parametrize("size", [(20, 20), (10, 40), (40, 10)])
def test_the_first_crop_is_the_largest_of_its_aspect_ratio(folder: Path, size: tuple[int, int]) -> None:
    for seed in range(3):
        image = made(folder, seed, size)
        height, width = read_image(folder / f"{seed}.png").shape[:2]
        left, top, right, bottom = image.origin["crop"]
        assert (right - left) / (bottom - top) == pytest.approx(size[1] / size[0], abs=1e-3)  # crops have 3 decimals
        assert bottom - top == pytest.approx(height) or right - left == pytest.approx(width)


def test_later_crops_are_smaller_and_lie_inside(folder: Path) -> None:
    sides = []
    for seed in range(0, 300, 3):
        left, top, right, bottom = made(folder, seed, (10, 20)).origin["crop"]
        assert min(left, top) >= 0
        assert (right <= 96, bottom <= 48) == (True, True)
        sides.append(bottom - top)
    assert sides[0] == 48
    assert min(sides[1:]) >= 24 - 1e-3
    assert np.mean(sides[1:]) == pytest.approx(36, abs=4 * 12 / 99**0.5 * 0.58)  # uniform in 24..48, four deviations


def test_pixels_are_those_of_the_crop(folder: Path) -> None:
    """The red channel counts rows and the green one columns, so that the crop can be read off the picture."""
    image = made(folder, 4, (30, 30))  # the square picture again, as a crop
    left, top, _, bottom = image.origin["crop"]
    inner = image.image[8:-8, 8:-8].astype(float)  # away from borders, which the filter's support crosses
    scale = (bottom - top) / 30
    expected = top + (np.arange(8, 22) + 0.5) * scale - 0.5
    np.testing.assert_allclose(inner[..., 0].mean(1), expected, atol=0.51)  # pixels are rounded
    np.testing.assert_allclose(inner[..., 1].mean(0), expected - top + left, atol=0.51)


def test_a_dataset_needs_no_prompts_and_records_its_origins(folder: Path, tmp_path: Path) -> None:
    pipeline = clouds.compose(
        backbone="tiny", head="linear", generator={"name": "photographs", "pictures": str(folder)}, device="cpu"
    )
    found = clouds.generate(pipeline, 3, out=tmp_path / "set", size=(16, 32))
    rows = found.rows
    assert [row.prompt for row in rows] == [""] * 3
    assert [Path(row.origin["file"]) for row in rows] == [folder / f"{number}.png" for number in range(3)]
    assert rows[1].origin["sha256"] == sha256((folder / "1.png").read_bytes()).hexdigest()
    assert rows[0].model["pictures"] == 3
    assert clouds.generate(pipeline, 3, out=tmp_path / "set", size=(16, 32)).rows == rows  # read back: nothing is made


def test_another_list_of_pictures_does_not_continue_a_dataset(folder: Path, tmp_path: Path) -> None:
    def generate() -> None:
        part = {"name": "photographs", "pictures": str(folder)}
        pipeline = clouds.compose(backbone="tiny", head="linear", generator=part, device="cpu")
        clouds.generate(pipeline, 2, out=tmp_path / "set", size=(16, 32))

    generate()
    (folder / "2.png").unlink()
    with pytest.raises(DataError, match="image 0 was made with model"):
        generate()


def test_prompts_are_refused(folder: Path, tmp_path: Path) -> None:
    part = {"name": "photographs", "pictures": str(folder)}
    pipeline = clouds.compose(backbone="tiny", head="linear", generator=part, device="cpu")
    with pytest.raises(ConfigError, match="generator photographs reads no prompts; leave them out"):
        clouds.generate(pipeline, 2, out=tmp_path / "set", prompts=["a street"])


def test_the_clip_filter_says_that_there_is_no_prompt(folder: Path) -> None:
    judge = ClipFilter(torch.nn.Identity(), lambda image: torch.zeros(3, 4, 4), lambda texts: torch.zeros(1, 4))
    with pytest.raises(ConfigError, match="compares images with their prompts, and this generator reads none"):
        judge.score(made(folder, 0, (16, 16)))


def test_links_may_lead_anywhere(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    os.symlink(folder / "1.png", linked / "a.png")
    assert made(linked, 0, (8, 8)).image[0, 0, 2] == 60


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no picture; expected files that end in"):
        Photographs(tmp_path / "empty")


class TestSpecs:
    def test_pictures_of_a_spec_are_found_by_its_layout(self, tmp_path: Path) -> None:
        pixels = np.zeros((8, 8, 3), np.uint8)
        write_png(tmp_path / "leftImg8bit" / "train" / "aachen" / "a_leftImg8bit.png", pixels)
        write_png(tmp_path / "leftImg8bit" / "train" / "bonn" / "b_leftImg8bit.png", pixels)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # no labels, no warning
            pattern = image_pattern(f"cityscapes:{tmp_path}:train")
        assert [path.name for path in Photographs(pattern).pictures] == ["a_leftImg8bit.png", "b_leftImg8bit.png"]

    def test_a_set_with_labels_is_not_unseen(self, tmp_path: Path) -> None:
        write_png(tmp_path / "images" / "train" / "a.png", np.zeros((8, 8, 3), np.uint8))
        write_png(tmp_path / "labels" / "train" / "a.png", np.zeros((8, 8), np.uint8))
        with pytest.warns(SeenDomainWarning, match="has 1 label files: its pictures are used without them, but scores"):
            image_pattern(f"folder:{tmp_path}:train")


def test_rounding_does_not_lead_out_of_a_picture(tmp_path: Path) -> None:
    """56 * (900 / 56) is above 900, and Pillow refuses a crop that begins before the picture."""
    assert 56 * (900 / 56) > 900
    write_png(tmp_path / "picture.png", np.zeros((900, 1600, 3), np.uint8))
    write_png(tmp_path / "turned.png", np.zeros((1600, 900, 3), np.uint8))
    sizes = [(56, 96), (96, 56)]
    crops = [made(tmp_path / f"{name}.png", 0, size) for name, size in zip(("picture", "turned"), sizes, strict=True)]
    assert [one.image.shape[:2] for one in crops] == sizes
    assert [one.origin["crop"][axis] for one, axis in zip(crops, (1, 0), strict=True)] == [0, 0]
    assert [one.origin["crop"][2 + axis] for one, axis in zip(crops, (1, 0), strict=True)] == [900, 900]
