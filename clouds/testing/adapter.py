"""The contract of adapters."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from clouds.core.contract.adaptation import Adapter
from clouds.core.contract.interfaces import Backbone
from clouds.core.contract.records import Features
from clouds.core.pipeline.segmenter import blocks_of
from clouds.testing.contract import check_module, largest_difference, require, require_instance

_STEPS = 2
# Merging rounds each weight once, 6e-8 relative, as does every other operation of a block: over some ten blocks with
# norms that enlarge small maps, features differ by up to a thousand times that.
MERGE_TOLERANCE = 1e-4


def check_adapter(adapter: Adapter, backbone: Backbone) -> None:
    """Check copies of a fresh adapter and of the frozen backbone that it was built for, on images of 64 x 64.

    - Without `active`, and after `detach`, features are those of the backbone; its weights keep their keys.
    - A fresh adapter that `starts_at_zero` leaves features bitwise as they were.
    - Every parameter takes part: after some steps, each has changed, and nothing of the backbone has.
    - A copy on the same trunk, such as a teacher's, is independent.
    - A mergeable adapter gives the same features when merged, within `MERGE_TOLERANCE`.
    - Weights survive safetensors.

    Raises:
        ContractError: a clause is broken.
    """
    require_instance(adapter, Adapter, "adapter")
    backbone, adapter = copy.deepcopy(backbone).freeze(), copy.deepcopy(adapter)
    blocks = blocks_of(backbone)
    check_module(adapter)
    before, keys = _answer(backbone), list(backbone.state_dict())
    adapter.attach(blocks)
    adapter.attach(blocks)  # as each new segmenter does
    _require_same(adapter, before, _answer(backbone), "an adapter that is not active must leave features as they are")
    if adapter.starts_at_zero:
        clause = "a fresh adapter must leave features bitwise as they were, or declare starts_at_zero = False"
        _require_same(adapter, before, _answer(backbone, adapter), clause)
    fresh, frozen = copy.deepcopy(adapter), copy.deepcopy(backbone.state_dict())
    _train(adapter, backbone)
    now = backbone.state_dict()
    require(
        list(now) == keys and all(torch.equal(frozen[key], now[key]) for key in keys),
        adapter,
        "training must not change the backbone or the names of its weights",
        got="another state_dict",
        remedy="hold all that is trained in the adapter, and change outputs in `changes`",
    )
    _check_trained(adapter, fresh)
    _check_copies(adapter, fresh, backbone)
    if adapter.mergeable:
        _check_merged(adapter, backbone)
    adapter.detach(blocks_of(backbone))


def _images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255


def _features(backbone: Backbone, adapter: Adapter | None) -> Features:
    if adapter is None:
        return backbone(_images())
    adapter.active = True
    try:
        return backbone(_images())
    finally:
        adapter.active = False


@torch.no_grad()
def _answer(backbone: Backbone, adapter: Adapter | None = None) -> list[Tensor]:
    return list(_features(backbone, adapter).levels().values())


def _require_same(adapter: Adapter, one: list[Tensor], two: list[Tensor], clause: str) -> None:
    differences = [largest_difference(a, b) for a, b in zip(one, two, strict=True)]
    require(
        all(torch.equal(a, b) for a, b in zip(one, two, strict=True)),
        adapter,
        clause,
        got=f"a relative difference of {max(differences):.3g}",
        remedy="change outputs only in the functions that `changes` returns",
    )


def _train(adapter: Adapter, backbone: Backbone) -> None:
    """Move every parameter that has a gradient, whatever its scale, by steps that do not cancel each other."""
    parameters = list(adapter.parameters())
    for step in range(_STEPS if parameters else 0):
        outputs = list(_features(backbone, adapter).levels().values())
        queries = adapter.queries()
        outputs += [] if queries is None else [queries]
        rng = torch.Generator().manual_seed(0)
        loss = torch.stack([(output * torch.rand(output.shape, generator=rng)).mean() for output in outputs]).sum()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(1e-3 * (step + 1) * gradient.sign())


def _check_trained(adapter: Adapter, fresh: Adapter) -> None:
    pairs = zip(adapter.named_parameters(), fresh.parameters(), strict=True)
    idle = [name for (name, now), was in pairs if torch.equal(now, was)]
    require(
        not idle,
        adapter,
        "every parameter of an adapter must take part in the features or queries",
        got=f"no gradient reaches {idle[:5]}",
        remedy="remove what is not used, or change the output of a module that is called",
    )


def _check_copies(adapter: Adapter, fresh: Adapter, backbone: Backbone) -> None:
    alone = _answer(backbone, adapter)
    fresh.attach(blocks_of(backbone))
    _require_same(adapter, alone, _answer(backbone, adapter), "two adapters on one trunk must be independent")
    if fresh.starts_at_zero:
        clause = "a copy must not share what is trained"
        _require_same(adapter, _answer(backbone), _answer(backbone, fresh), clause)
    fresh.detach(blocks_of(backbone))


def _check_merged(adapter: Adapter, backbone: Backbone) -> None:
    unmerged = _answer(backbone, adapter)
    adapter.merge(blocks_of(backbone))
    difference = max(largest_difference(a, b) for a, b in zip(unmerged, _answer(backbone), strict=True))
    require(
        difference <= MERGE_TOLERANCE,
        adapter,
        f"merged features must equal unmerged ones, within {MERGE_TOLERANCE} relative",
        got=f"{difference:.3g}",
        remedy="correct `merge`, or declare mergeable = False",
    )
