"""Set 7: matching costs, assignments, losses, their gradients, and the choice of uncertain points.

The set is bitwise equal between runs of the published code, so it has no noise floor: 1e-5 of the largest magnitude.
"""

from __future__ import annotations

import golden
import numpy as np
import pytest
import torch
from attrs import evolve
from golden import assert_close, randn
from torch import Tensor

from clouds.core.contract.records import HeadOutput, Targets
from clouds.heads.criterion import Criterion, Weights
from clouds.heads.matcher import join, match
from clouds.heads.points import least_certain
from clouds.kernels.matching_cost import matching_cost
from clouds.kernels.point_sample import point_sample

ORDER = 1e-6
WEIGHTS = Weights(class_=2.0, mask=5.0, dice=5.0, no_object=0.1)
NAMES = {"class": "loss_ce", "mask": "loss_mask", "dice": "loss_dice"}
FACTORS = {"class": 2.0, "mask": 5.0, "dice": 5.0}


class StoredPoints:
    """The points that the published code was given."""

    def __init__(
        self, data: dict[str, np.ndarray], *, empty: tuple[int, ...] = (), everywhere: int | None = None
    ) -> None:
        self.data, self.empty, self.everywhere = data, empty, everywhere

    def matching(self, layer: int, image: int, mask_logits: Tensor) -> Tensor:
        chosen = layer if self.everywhere is None else self.everywhere
        return torch.from_numpy(self.data[f"match_points_layer{chosen}_img{image}"])[0]

    def loss(self, layer: int, mask_logits: Tensor, images: Tensor) -> Tensor:
        chosen = layer if self.everywhere is None else self.everywhere
        return torch.from_numpy(self.data[f"loss_points_layer{chosen}"])[: len(images)]


def layers() -> list[HeadOutput]:
    return [
        HeadOutput(
            class_logits=randn(710 + i, (2, 10, 20), 1.5).requires_grad_(),
            mask_logits=randn(720 + i, (2, 10, 24, 32), 2.0).requires_grad_(),
        )
        for i in range(3)
    ]


def stacked(made: list[HeadOutput]) -> HeadOutput:
    return HeadOutput(class_logits=made[-1].class_logits, mask_logits=made[-1].mask_logits, auxiliary=tuple(made[:-1]))


def criterion() -> Criterion:
    return Criterion(weights=WEIGHTS, points=64, ignored="negative")


def targets(data: dict[str, np.ndarray]) -> list[Targets]:
    return [Targets.from_label_map(torch.from_numpy(label_map)) for label_map in data["label_maps"]]


def unweighted(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our terms are weighted; the published names and values of them."""
    named = {}
    for key, term in terms.items():
        name, _, layer = key.partition("_")
        named[f"{NAMES[name]}_{layer}" if layer else NAMES[name]] = term / FACTORS[name]
    return named


@pytest.mark.parametrize("layer", range(3))
@pytest.mark.parametrize("image", range(2))
def test_costs(layer: int, image: int) -> None:
    data = golden.load("07_criterion")
    made, target = layers()[layer], targets(data)[image]
    points = torch.from_numpy(data[f"match_points_layer{layer}_img{image}"])
    values = point_sample(made.mask_logits[image][None], points)
    wanted = point_sample(target.masks[None].float(), points)
    for name, weights in (("class", (1, 0, 0)), ("mask", (0, 1, 0)), ("dice", (0, 0, 1)), ("total", (2, 5, 5))):
        cost = matching_cost(
            made.class_logits[image][None, None],
            values[None],
            target.labels,
            wanted,
            torch.ones(1, 1, 64),
            [len(target.labels)],
            tuple(map(float, weights)),
        )
        assert_close(cost[0], data[f"cost_{name}_layer{layer}_img{image}"], floor=ORDER, what=name)


def test_assignments() -> None:
    data = golden.load("07_criterion")
    wanted = join([evolve(target, valid=torch.ones_like(target.valid)) for target in targets(data)])
    pairs = match(dict(enumerate(layers())), wanted, StoredPoints(data), (2.0, 5.0, 5.0))
    for layer, found in pairs.items():
        for image, first in enumerate((0, wanted.counts[0])):
            of_image = found.images == image
            queries, chosen = found.queries[of_image], found.targets[of_image] - first
            assert queries.tolist() == data[f"match_query_layer{layer}_img{image}"].tolist()
            assert chosen.tolist() == data[f"match_target_layer{layer}_img{image}"].tolist()


def test_losses_and_gradients() -> None:
    data = golden.load("07_criterion")
    made = layers()
    terms = criterion()(stacked(made), targets(data), points=StoredPoints(data))
    found = unweighted(terms)
    assert found.keys() == {key.removeprefix("loss/") for key in data if key.startswith("loss/")}
    for name, term in found.items():
        assert_close(term, data[f"loss/{name}"], floor=ORDER, what=name)
    total = torch.stack(list(terms.values())).sum()
    assert_close(total, data["total_weighted"], floor=ORDER)
    total.backward()
    for index in range(3):
        for name, leaf in (("logits", made[index].class_logits), ("masks", made[index].mask_logits)):
            if f"grad_{name}_layer{index}" in data:
                assert_close(leaf.grad, data[f"grad_{name}_layer{index}"], floor=ORDER, what=f"{name} {index}")


@pytest.mark.parametrize(("case", "empty"), [("one_empty_image", (1,)), ("all_empty", (0, 1))])
def test_images_without_targets(case: str, empty: tuple[int, ...]) -> None:
    data, expected = golden.load("07_criterion"), golden.read_json("07_criterion")["empty_targets"][case]
    nothing = Targets.from_label_map(torch.full((96, 128), 255, dtype=torch.uint8))
    wanted = [nothing if index in empty else target for index, target in enumerate(targets(data))]
    terms = unweighted(criterion()(stacked(layers()), wanted, points=StoredPoints(data, everywhere=2)))
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        assert term.item() == pytest.approx(expected[name], rel=1e-5, abs=1e-7), name


def test_uncertain_points() -> None:
    data = {key: torch.from_numpy(value) for key, value in golden.load("07_point_sampling").items()}
    chosen = torch.cat((least_certain(data["logits"][:, 0], data["rand0"], 24), data["rand1"]), dim=1)
    assert torch.equal(chosen, data["coords"])
    assert torch.equal(least_certain(data["logits_b"][:, 0], data["rand_b0"], 33), data["coords_b"])
    assert_close(point_sample(data["logits"], data["point_sample_coords"]), data["point_sample_out"], floor=ORDER)
