"""Refinement by point prompts, with a network whose masks are known: discs around the mean of the points."""

import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clouds.core.contract.records import Targets
from clouds.core.system.errors import ConfigError, DataError
from clouds.core.weights.tensor_cache import CacheWarning, TensorCache
from clouds.refiners import prompted
from clouds.refiners.prompt_masks import merge_masks
from clouds.refiners.prompted import PromptedSegmenter, PromptRefiner, image_key
from clouds.testing.refiner import check_refiner

SIZE = (24, 32)


class Discs(PromptedSegmenter):
    """Answers with discs of three radii, of which the second is said to be the best. Counts its calls."""

    def __init__(self, radius: float = 6.0) -> None:
        super().__init__()
        self.radius = torch.nn.Parameter(torch.tensor(radius))
        self.encoded: int = 0
        self.prompts: list[int] = []
        self.given: list[bool] = []

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        self.encoded += 1
        return {"mean": image.float().mean((1, 2))}

    def decode(
        self, embedding: Mapping[str, Tensor], points: Tensor, size: tuple[int, int], masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        self.prompts.append(len(points))
        self.given.append(masks is not None)
        y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
        center = points.mean(1)[:, :, None, None]
        distance = ((x - center[:, 0]) ** 2 + (y - center[:, 1]) ** 2).sqrt()
        radii = self.radius * torch.tensor([0.5, 1.0, 2.0])
        quality = torch.tensor([0.1, 0.9, 0.2]).expand(len(points), 3)
        side = max(size)
        logits = torch.full((len(points), 3, side, side), -1.0)
        logits[:, :, : size[0], : size[1]] = radii[:, None, None] - distance[:, None]
        return logits, quality

    def upscale(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return logits[:, :, : size[0], : size[1]]


def halves(left: int = 0, right: int = 7) -> Tensor:
    label_map = torch.full(SIZE, left, dtype=torch.uint8)
    label_map[:, SIZE[1] // 2 :] = right
    return label_map


def stripes() -> Tensor:
    """Five components, each of a class of its own."""
    label_map = torch.full(SIZE, 255, dtype=torch.uint8)
    for number in range(5):
        label_map[:, 6 * number : 6 * number + 5] = number
    return label_map


def image(seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def refine(label_map: Tensor, discs: Discs | None = None, **options: Any) -> Targets:
    refiner = PromptRefiner(discs or Discs(), **{"size_threshold": 20, "points": 3, **options})
    return refiner.refine([image()], [label_map], rngs=[np.random.default_rng(0)])[0]


def test_a_component_takes_the_best_mask() -> None:
    targets = refine(halves())
    assert targets.labels.tolist() == [0, 7]
    assert targets.valid.equal(targets.masks.any(0))
    for mask in targets.masks:  # a whole disc of radius 6 has about 113 pixels, one of 3 about 28, one of 12 about 452
        assert 40 < mask.sum() < 130


def test_a_label_map_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match=r"the image is \(\d+, \d+\), its label map \(5, 6\) \(height, width\); resize"):
        refine(torch.zeros(5, 6, dtype=torch.uint8))


def test_a_label_map_of_one_class() -> None:
    targets = refine(torch.full(SIZE, 3, dtype=torch.uint8))
    assert targets.labels.tolist() == [3]
    assert 40 < targets.masks.sum() < 130


@pytest.mark.parametrize("value", [255, 4])
def test_an_image_without_a_prompt_keeps_its_label_map_and_costs_no_network(value: int) -> None:
    discs, label_map = Discs(), torch.full(SIZE, value, dtype=torch.uint8)
    targets = refine(label_map, discs, size_threshold=10**6)
    assert targets.to_label_map().equal(label_map)
    assert (discs.encoded, discs.prompts) == (0, [])


def test_an_image_whose_masks_are_all_empty_keeps_its_label_map() -> None:
    assert refine(halves(), Discs(radius=-1.0)).to_label_map().equal(halves())
    empty = refine(halves(), Discs(radius=-1.0), empty="keep", small_components="drop")
    assert empty.labels.tolist() == [0, 7]
    assert not empty.masks.any()


def test_small_components_stay_or_drop_out() -> None:
    label_map = halves()
    label_map[:2, :2] = 5
    kept, dropped = refine(label_map), refine(label_map, small_components="drop")
    assert kept.labels.tolist() == [0, 5, 7]
    assert kept.masks[1].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert dropped.labels.tolist() == [0, 7]


def test_overlaps_are_cleared_or_kept() -> None:
    """Discs of radius 40 cover the whole image, so that both classes lose all."""
    wide = {"discs": Discs(radius=40.0), "small_components": "drop"}
    both = refine(halves(), **wide, overlaps="keep")
    assert both.masks.all()
    assert refine(halves(), **wide).to_label_map().equal(halves())  # nothing is left
    assert not refine(halves(), **wide, empty="keep").masks.any()
    same = refine(halves(3, 3), **wide)
    assert same.masks.all()
    label_map = halves(3, 3)
    label_map[:, 15] = 255
    assert not refine(label_map, **wide, overlaps="any", empty="keep").masks.any()
    assert refine(label_map, **wide).masks.all()


@pytest.mark.parametrize(("batch_size", "prompts"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (64, [5])])
def test_prompts_go_in_batches(batch_size: int, prompts: list[int]) -> None:
    discs, whole = Discs(radius=3.0), refine(stripes(), Discs(radius=3.0))
    targets = refine(stripes(), discs, batch_size=batch_size)
    assert discs.prompts == prompts
    assert targets.masks.equal(whole.masks)


def test_masks_of_earlier_batches_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def watch(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        for masks, labels in batches:
            given.append(weakref.ref(masks))
            alive.append(sum(one() is not None for one in given))
            yield masks, labels

    monkeypatch.setattr(prompted, "merge_masks", lambda batches, **how: merge_masks(watch(batches), **how))
    refine(stripes(), Discs(radius=3.0), batch_size=1)
    assert len(given) >= 5
    assert max(alive) <= 2  # this batch, and the last


def test_a_second_pass_gets_the_first_mask() -> None:
    discs = Discs()
    refine(halves(), discs, refinement=True)
    assert discs.given == [False, True]


@given(st.integers(0, 2**32 - 1))
def test_points_depend_on_the_given_generator_alone(seed: int) -> None:
    refiner = PromptRefiner(Discs(), size_threshold=20)
    one, other = (
        refiner.refine([image()], [halves()], rngs=[np.random.default_rng(seed)], prepared=prepared)[0]
        for prepared in (None, refiner.prepare([image()]))
    )
    assert one.masks.equal(other.masks)


def test_the_contract(tmp_path: Path) -> None:
    check_refiner(PromptRefiner(Discs(), size_threshold=20, dtype="bfloat16"))
    check_refiner(PromptRefiner(Discs(), size_threshold=20, cache=TensorCache(tmp_path, max_bytes=10**6)))


def test_it_stays_in_evaluation_without_gradients() -> None:
    refiner = PromptRefiner(Discs()).train()
    assert not refiner.training
    assert not refiner.segmenter.training
    assert not any(parameter.requires_grad for parameter in refiner.parameters())


@pytest.mark.parametrize("option", ["size_threshold", "points", "erosion", "batch_size"])
def test_numbers_out_of_range_are_named(option: str) -> None:
    least = {"points": 1, "batch_size": 1}.get(option, 0)
    with pytest.raises(ConfigError, match=f"refiner option {option}={least - 1}; expected at least {least}"):
        PromptRefiner(Discs(), **{option: least - 1})


def test_the_second_pass_over_images_calls_no_encoder(tmp_path: Path) -> None:
    cache, pictures = TensorCache(tmp_path, max_bytes=10**6), [image(0), image(1), image(0).flip(-1)]
    rngs = [np.random.default_rng(0)] * 3
    first, second = Discs(), Discs()
    refined = [
        PromptRefiner(discs, size_threshold=20, cache=cache).refine(pictures, [halves()] * 3, rngs=rngs)
        for discs in (first, second)
    ]
    assert (first.encoded, second.encoded) == (3, 0)
    assert [len(discs.prompts) for discs in (first, second)] == [3, 3]
    assert len(refined[1]) == 3


def test_embeddings_are_kept_by_picture_mirror_image_network_and_type(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path, max_bytes=10**6)
    embedded = [
        PromptRefiner(Discs(), cache=cache).prepare([image(0), image(0).flip(-1), image(1)]),
        PromptRefiner(Discs(radius=7.0), cache=cache).prepare([image(0)]),
        PromptRefiner(Discs(), dtype="bfloat16", cache=cache).prepare([image(0)]),
    ]
    assert embedded[0][0].tensors["mean"].dtype == torch.float16
    assert len(list(tmp_path.iterdir())) == 5


@given(st.integers(0, 3), st.integers(1, 5))
def test_a_picture_shares_its_name_with_its_mirror_image(seed: int, width: int) -> None:
    picture = torch.randint(0, 2, (3, 2, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    name, mirrored = image_key(picture), image_key(picture.flip(-1))
    assert name.removesuffix("-flipped") == mirrored.removesuffix("-flipped")
    assert (name == mirrored) == picture.equal(picture.flip(-1))
    assert image_key(picture.transpose(1, 2)).removesuffix("-flipped") != name or width == 2


def test_an_embedding_that_cannot_be_kept_is_used_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refiner = PromptRefiner(Discs(), cache=TensorCache(tmp_path / "file", max_bytes=10**6))
    with pytest.warns(CacheWarning, match="embeddings are computed again each time: cache .*file cannot be written"):
        (prepared,) = refiner.prepare([image()])
    assert prepared.tensors["mean"].shape == (3,)
    with pytest.raises(DataError, match="cannot be written"):
        refiner.cache.put("a", prepared.tensors)  # pyright: ignore[reportOptionalMemberAccess]
