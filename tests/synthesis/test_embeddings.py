"""Embeddings made ahead, with a small SAM."""

from pathlib import Path

import numpy as np
import pytest
import torch

from clouds.core.system.errors import DataError
from clouds.core.system.images import read_image, write_png
from clouds.core.weights.tensor_cache import TensorCache
from clouds.refiners.prompted import PromptRefiner
from clouds.refiners.sam import SamSegmenter
from clouds.synthesis.embeddings import prepare_embeddings
from clouds.testing.tiny_sam import tiny_sam

ROOM = 10**6


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / "images" / f"{name}.png" for name in "abc"]
    for path in paths:
        write_png(path, rng.integers(0, 256, (20, 30, 3), np.uint8))
    return paths


def refiner(folder: Path) -> tuple[PromptRefiner, list[int]]:
    """A refiner with a cache, and a list that grows with each call of its encoder."""
    made = SamSegmenter(tiny_sam(image_size=64).requires_grad_(False))
    torch.nn.init.zeros_(made.sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix)
    for parameter in made.parameters():
        torch.nn.init.constant_(parameter, 0.01)  # the same network each time
    calls: list[int] = []
    made.sam.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    return PromptRefiner(made, size_threshold=10, cache=TensorCache(folder, max_bytes=ROOM)), calls


def test_prepared_embeddings_cost_no_encoder_later(tmp_path: Path, images: list[Path]) -> None:
    first, calls = refiner(tmp_path / "cache")
    made = prepare_embeddings(first, images, room=ROOM)
    assert (made.count, len(calls)) == (6, 6)
    assert made.bytes == 6 * 32 * 4 * 4 * 2  # channels, rows, columns, bytes of float16
    prepare_embeddings(first, images, room=ROOM)
    assert len(calls) == 6
    training, calls = refiner(tmp_path / "cache")
    pixels = [torch.from_numpy(read_image(path).transpose(2, 0, 1).copy()) for path in images]
    views = [*pixels, *(one.flip(-1) for one in pixels)]
    label_maps = [torch.ones(20, 30, dtype=torch.uint8)] * 6
    training.refine(views, label_maps, rngs=[np.random.default_rng(0)] * 6)
    assert calls == []


def test_mirror_images_can_be_left_out(tmp_path: Path, images: list[Path]) -> None:
    made, calls = refiner(tmp_path / "cache")
    assert prepare_embeddings(made, images, room=ROOM, mirrored=False).count == 3
    assert len(calls) == 3


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path, images: list[Path]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"a.png: its embedding cannot be cached: .*file/cache cannot be written"):
        prepare_embeddings(refiner(tmp_path / "file" / "cache")[0], images, room=ROOM)


def test_too_little_room_is_said_at_once(tmp_path: Path, images: list[Path]) -> None:
    made, calls = refiner(tmp_path / "cache")
    with pytest.raises(
        DataError, match="embeddings of 3 images take about 6144 bytes, but the cache is limited to 5000"
    ):
        prepare_embeddings(made, images, room=5000)
    assert len(calls) == 2
