"""The checks of loss terms, samplers and augmentations pass what is right, fail on one broken clause, and say which."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import clouds
from clouds.core.contract.sampling import Sampler, Wanted
from clouds.testing import ContractError, check_augmentation, check_loss_term, check_sampler
from clouds.training.feature_distance import FeatureDistance

SPECS = {f"res{level}": clouds.FeatureSpec(channels=6, stride=2**level) for level in range(2, 6)}


class Calm(clouds.LossTerm):
    def forward(self, inputs: clouds.LossInputs) -> Tensor:
        return inputs.output.mask_logits.square().mean((1, 2, 3))


class Joined(Calm):
    def forward(self, inputs: clouds.LossInputs) -> Tensor:
        return super().forward(inputs).sum()


class Mixed(Calm):
    def forward(self, inputs: clouds.LossInputs) -> Tensor:
        each = super().forward(inputs)
        return each / len(each)


class Chance(Calm):
    def forward(self, inputs: clouds.LossInputs) -> Tensor:
        return super().forward(inputs) * torch.rand(())


class Detached(Calm):
    def forward(self, inputs: clouds.LossInputs) -> Tensor:
        return super().forward(inputs).detach()


class Empty(Calm):
    def forward(self, inputs: clouds.LossInputs) -> Tensor:
        counts = torch.tensor([float(target.valid.sum()) for target in inputs.targets])
        return super().forward(inputs) * 0 + 1 / counts


class Trained(Calm):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))


class Negative(Calm):
    def items(self, targets: clouds.Targets) -> float:
        return -1.0


def test_right_terms_pass() -> None:
    check_loss_term(Calm(), SPECS)
    backbone = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "trainable": True}
    pipeline = clouds.compose(backbone=backbone, head="linear", device="cpu")
    check_loss_term(FeatureDistance(pipeline), pipeline.backbone.features)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("term", "clause"),
    [
        (Joined(), r'Joined: the sums "b" of two images must be a torch.float32 tensor of shape \(2,\)'),
        (Mixed(), "Mixed: the sum of an image must not depend on the batch"),
        (Chance(), "Chance: the same inputs must give the same bits"),
        (Detached(), "Detached: the sums must have a gradient"),
        (Empty(), "of an image that is ignored altogether must be finite"),
        (Trained(), r"nothing of a loss term is trained.*trainable parameters \['factor'\]"),
        (Negative(), "the items of two images must be a finite number of at least 0; got -1.0"),
        (nn.Identity(), "the factory of a loss term must return a clouds.LossTerm"),
    ],
)
def test_a_broken_term_is_named(term: clouds.LossTerm, clause: str) -> None:
    with pytest.raises(ContractError, match=clause):
        check_loss_term(term, SPECS)


class Fair(Sampler):
    def draw(self, source: int, index: int, rng: np.random.Generator) -> tuple[int, Wanted | None]:
        return index, Wanted(train_id=int(rng.integers(19)), pixels=10)


class Outside(Sampler):
    def draw(self, source: int, index: int, rng: np.random.Generator) -> tuple[int, Wanted | None]:
        return index + 3, None


class Counting(Sampler):
    def __init__(self) -> None:
        self.count = 0

    def draw(self, source: int, index: int, rng: np.random.Generator) -> tuple[int, Wanted | None]:
        self.count += 1
        return index, Wanted(train_id=self.count % 19, pixels=0)


class Unknown(Sampler):
    def draw(self, source: int, index: int, rng: np.random.Generator) -> tuple[int, Wanted | None]:
        return index, Wanted(train_id=19, pixels=0)


class Bare(Sampler):
    def draw(self, source: int, index: int, rng: np.random.Generator) -> tuple[int, Wanted | None]:
        return index  # pyright: ignore


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("sampler", "clause"),
    [
        (Outside(), "the index must be an int from 0 to 2, the images of the source; got 3"),
        (Counting(), "draws of equal generators must be equal"),
        (Unknown(), "a train id below 19"),
        (Bare(), "draw must return a pair; got 0"),
        (object(), "the factory of a sampler must return a clouds.Sampler"),
    ],
)
def test_a_broken_sampler_is_named(sampler: Sampler, clause: str) -> None:
    check_sampler(Fair(), [3, 1])
    with pytest.raises(ContractError, match=clause):
        check_sampler(sampler, [3])


def brighter(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(image + rng.normal(0, 9, 3), 0, 255).round().astype(np.uint8)


def in_place(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    image //= 2
    return image


def chance(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(image + np.random.normal(0, 99, 3), 0, 255).astype(np.uint8)


def floats(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image / 2


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("change", "clause"),
    [
        (in_place, "in_place: the given image must stay as it was"),
        (chance, "chance: results of equal generators must be equal"),
        (floats, r"floats: the result must be a uint8 array of shape \(64, 96, 3\); got float64"),
    ],
)
def test_a_broken_augmentation_is_named(change: Callable[..., np.ndarray], clause: str) -> None:
    check_augmentation(brighter)
    with pytest.raises(ContractError, match=clause):
        check_augmentation(change)
