"""Frozen backbones with published weights, which checkpoints may omit."""

from __future__ import annotations

from clouds.core.contract.catalog import Catalog
from clouds.core.contract.component import Kind
from clouds.core.contract.interfaces import Backbone
from clouds.core.contract.plan import Plan
from clouds.core.pipeline.build import build_part
from clouds.core.pipeline.checkpoint import PublishedWeights
from clouds.core.system.errors import WeightsError
from clouds.core.weights.loading import digest

_REMEDY = "save with include_frozen=True"


def find_published(plan: Plan, backbone: Backbone, *, catalog: Catalog | None = None) -> PublishedWeights:
    """Check that a frozen backbone has published weights, and return their origin and digest.

    A backbone built with `pretrained=False` is compared with the default weights (`pretrained=True`).

    Raises:
        WeightsError: the backbone is not frozen, has no published weights, or differs from them.
    """
    part = plan.parts[Kind.BACKBONE]
    name = part.name or part.ready
    if not backbone.frozen:
        raise WeightsError(f"include_frozen=False: backbone {name} is trained, not frozen; {_REMEDY}")
    if "pretrained" not in part.options:
        raise WeightsError(f"include_frozen=False: backbone {name} has no published weights; {_REMEDY}")
    pretrained = part.options["pretrained"] or True
    options = {**part.options, "name": part.qualified_name, "pretrained": pretrained}
    wanted = digest(build_part(Kind.BACKBONE, options, catalog=catalog).state_dict())
    if digest(backbone.state_dict()) != wanted:
        raise WeightsError(
            f"include_frozen=False: weights of backbone {name} are not those of pretrained={pretrained!r}; {_REMEDY}"
        )
    return PublishedWeights(pretrained=pretrained, sha256=wanted)
