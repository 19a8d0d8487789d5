"""Export of a pipeline's weights with the keys of the published implementation."""

# pyright: reportUnknownMemberType=false
# (torch has incomplete types)

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from clouds.core.contract.component import Kind
from clouds.core.contract.interfaces import Backbone, Head
from clouds.core.contract.plan import Plan
from clouds.core.published.keys import BACKBONE, BACKBONES, CLASS_WEIGHTS, HEAD, HEADS, VOID, position
from clouds.core.system.errors import ConfigError


def reference_state(plan: Plan, backbone: Backbone, head: Head, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the published keys. See `Pipeline.to_reference_state_dict`."""
    names = [plan.parts[kind].name for kind in (Kind.BACKBONE, Kind.HEAD)]
    if names[0] not in BACKBONES.values() or names[1] not in HEADS:
        raise ConfigError(
            f"backbone {names[0] or 'of your own'} with head {names[1] or 'of your own'} has no published form; "
            f"expected a backbone of {', '.join(BACKBONES.values())} and a head of {', '.join(HEADS)}"
        )
    own = published_names(backbone, head)
    state = {**unused_tensors(plan, own), **kept, **own}
    return {key: state[key] for key in sorted(state, key=position)}


def published_names(backbone: Backbone, head: Head) -> dict[str, Tensor]:
    """All tensors of backbone and head, not copied, by published key."""
    named = {f"{BACKBONE}{key}": tensor for key, tensor in backbone.state_dict().items()}
    return named | {key if key == VOID else f"{HEAD}{key}": tensor for key, tensor in head.state_dict().items()}


def unused_tensors(plan: Plan, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that the published code requires when loading, although its inference does not use them."""
    class_weights = torch.ones(len(plan.trained_labels or plan.labels) + 1)
    class_weights[-1] = plan.parts[Kind.HEAD].options["no_object_weight"]
    width = own[f"{BACKBONE}clip_model.text_projection"].shape[1]
    return {CLASS_WEIGHTS: class_weights, VOID: torch.zeros(1, width)}
