"""Released checkpoints of Rein and SoMA as weights of these adapters. The head of the checkpoint is not converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from clouds.adapters.low_rank import LowRankAdapter
from clouds.adapters.rein import Rein
from clouds.core.contract.adaptation import Block
from clouds.core.system.errors import WeightsError
from clouds.core.weights.loading import load_weights

_REIN = {  # released name, and ours for the stage or link of c channels
    "backbone.reins.learnable_tokens_a": "stages.{c}.tokens_a",
    "backbone.reins.learnable_tokens_b": "stages.{c}.tokens_b",
    "backbone.reins.scale": "stages.{c}.scale",
    "backbone.reins.mlp_token2feat.weight": "stages.{c}.value.weight",
    "backbone.reins.mlp_token2feat.bias": "stages.{c}.value.bias",
    "backbone.reins.mlp_delta_f.weight": "stages.{c}.delta.weight",
    "backbone.reins.mlp_delta_f.bias": "stages.{c}.delta.bias",
    "backbone.reins.transform.weight": "links.{c}.query.weight",
    "backbone.reins.transform.bias": "links.{c}.query.bias",
    "backbone.reins.merge.weight": "links.{c}.merge.weight",
    "backbone.reins.merge.bias": "links.{c}.merge.bias",
    "decode_head.querys2feat.weight": "query_content.weight",
    "decode_head.querys2feat.bias": "query_content.bias",
}
_SOMA = "backbone.model.blocks.{block}.{part}.{role}."  # then lora_A.weight, lora_B.weight, bias
_PARTS = {"q": "attn", "k": "attn", "v": "attn", "proj": "attn", "fc1": "mlp", "fc2": "mlp"}


def load_released_rein(rein: Rein, state: Mapping[str, Tensor]) -> None:
    """Load the adapter of a released Rein checkpoint of a plain ViT into a linked Rein of the same sizes.

    Args:
        rein: built with `link`, for a backbone and a head of the released sizes.
        state: the checkpoint's `state_dict`.

    Raises:
        WeightsError: a tensor is missing or has another shape.
    """
    (channels,) = rein.stages
    own = {ours.format(c=channels): _require(state, key) for key, ours in _REIN.items()}
    name = f"links.{channels}.merge.weight"
    # Released columns alternate maximum, mean, last for each channel; ours have the three one after the other
    own[name] = own[name].unflatten(1, (-1, 3)).mT.flatten(1)
    load_weights(rein, own, source="released Rein checkpoint")


def load_released_soma(soma: LowRankAdapter, state: Mapping[str, Tensor], blocks: Sequence[Block]) -> None:
    """Load the adapter of a released SoMA checkpoint of a plain ViT.

    Args:
        soma: built for these blocks and started, so that it subtracts the published weights' minor components.
        state: the checkpoint's `state_dict`.
        blocks: the published backbone's blocks; released biases are whole ones, ours are changes.

    Raises:
        WeightsError: a tensor is missing or has another shape.
    """
    own = dict(soma.state_dict())
    for index, updates in soma.updates.items():
        projections = {one.name: one for one in blocks[int(index)].projections}
        for role in updates:  # pyright: ignore[reportGeneralTypeIssues]
            start = _SOMA.format(block=index, part=_PARTS.get(role, "mlp"), role=role)
            ours = f"updates.{index}.{role}."
            own[ours + "a"] = _require(state, start + "lora_A.weight")
            own[ours + "b"] = _require(state, start + "lora_B.weight")
            before = projections[role].bias
            if before is not None:
                own[ours + "bias"] = _require(state, start + "bias") - before
    load_weights(soma, own, source="released SoMA checkpoint")


def _require(state: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise WeightsError(f"the released checkpoint lacks {key!r}; it is of another method or backbone")
    return state[key]
