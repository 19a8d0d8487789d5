"""The contract of refiners."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from clouds.core.contract.interfaces import Refiner
from clouds.core.contract.records import Prepared, Targets
from clouds.testing.contract import require, require_instance, violation

_CLASSES = (0, 2, 10, 18)


def check_refiner(refiner: Refiner) -> None:
    """Check a built refiner on small images, including one of 1 x 1 and one with only ignored pixels.

    - It returns one `Targets` of the image's size per image, with no class that the label map lacks.
    - The same seed gives the same targets, alone or in a batch, with or without the result of `prepare`.
    - Arguments are not modified.

    Raises:
        ContractError: a clause is broken.
    """
    require_instance(refiner, Refiner, "refiner")
    images, label_maps = _examples()
    kept = [tensor.clone() for tensor in (*images, *label_maps)]
    refined = _refine(refiner, images, label_maps)
    unchanged = all(torch.equal(a, b) for a, b in zip(kept, (*images, *label_maps), strict=True))
    require(
        unchanged, refiner, "refine must leave images and label maps as they are", got="changes", remedy="clone first"
    )
    for targets, label_map in zip(refined, label_maps, strict=True):
        _check_targets(refiner, targets, label_map)
    _check_same(refiner, refined, _refine(refiner, images, label_maps), "for the same seeds")
    _check_prepared(refiner, refined, images, label_maps)
    alone = [
        refiner.refine([image], [label_map], rngs=[_rng(index)])[0]
        for index, (image, label_map) in enumerate(zip(images, label_maps, strict=True))
    ]
    _check_same(refiner, refined, alone, "alone as in a batch")


def _rng(index: int) -> np.random.Generator:
    return np.random.default_rng(index)


def _examples() -> tuple[list[Tensor], list[Tensor]]:
    """An image of four noisy quarters with imperfect labels, an image with only ignored pixels, and one pixel."""
    random = torch.Generator().manual_seed(0)
    images, label_maps = list[Tensor](), list[Tensor]()
    for height, width in ((48, 64), (33, 21), (1, 1)):
        quarter = 2 * (torch.arange(height) >= height // 2)[:, None] + (torch.arange(width) >= width // 2)
        noise = torch.randint(-9, 10, (3, height, width), generator=random)
        images.append((60 * quarter + 30 + noise).to(torch.uint8))
        labels = torch.tensor(_CLASSES)[quarter]
        wrong = torch.rand(height, width, generator=random)
        labels[wrong < 0.1], labels[wrong > 0.95] = 0, 255
        label_maps.append(labels.to(torch.uint8))
    label_maps[1].fill_(255)
    return images, label_maps


def _refine(refiner: Refiner, images: list[Tensor], label_maps: list[Tensor]) -> list[Targets]:
    answer = refiner.refine(images, label_maps, rngs=[_rng(index) for index in range(len(images))])
    if not (isinstance(answer, list) and len(answer) == len(images) and all(isinstance(t, Targets) for t in answer)):
        raise violation(
            refiner,
            f"refine of {len(images)} images must return a list of {len(images)} clouds.Targets",
            got=repr(answer)[:200],
            remedy="return one Targets per image",
        )
    return answer


def _check_targets(refiner: Refiner, targets: Targets, label_map: Tensor) -> None:
    size, count = tuple(label_map.shape), len(targets.labels)
    got = {name: (getattr(targets, name).dtype, tuple(getattr(targets, name).shape)) for name in _FIELDS}
    wanted = {
        "labels": (torch.int64, (count,)),
        "masks": (torch.bool, (count, *size)),
        "valid": (torch.bool, size),
    }
    require(
        got == wanted,
        refiner,
        f"targets of a {size[0]} x {size[1]} image must be {wanted}",
        got=got,
        remedy="Targets.from_label_map makes them from a label map",
    )
    known = set(label_map.unique().tolist()) - {255}
    invented = set(targets.labels.tolist()) - known
    require(
        not invented,
        refiner,
        f"refine must not name a class that its label map does not have ({sorted(known)})",
        got=f"classes {sorted(invented)}",
        remedy="choose among the classes of the label map; 255 is not a class",
    )


_FIELDS = ("labels", "masks", "valid")


def _check_same(refiner: Refiner, first: Sequence[Targets], second: Sequence[Targets], how: str) -> None:
    for one, other in zip(first, second, strict=True):
        different = [name for name in _FIELDS if not torch.equal(getattr(one, name), getattr(other, name))]
        require(
            not different,
            refiner,
            f"refine must give the same targets {how}",
            got=f"different {', '.join(different)}",
            remedy="take random choices from the image's own entry of `rngs`, and keep no state",
        )


def _check_prepared(
    refiner: Refiner, refined: Sequence[Targets], images: list[Tensor], label_maps: list[Tensor]
) -> None:
    prepared = refiner.prepare(images)
    whole = isinstance(prepared, list) and all(isinstance(one, Prepared) for one in prepared)
    require(
        whole and len(prepared) == len(images),
        refiner,
        f"prepare of {len(images)} images must return a list of {len(images)} clouds.Prepared",
        got=repr(prepared)[:200],
        remedy="return one Prepared per image; an empty one if there is nothing to cache",
    )
    rngs = [_rng(index) for index in range(len(images))]
    again = refiner.refine(images, label_maps, rngs=rngs, prepared=prepared)
    _check_same(refiner, refined, again, "with what `prepare` computed as without it")
