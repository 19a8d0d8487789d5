"""The built-in heads, as the catalog sees them."""

from __future__ import annotations

from collections.abc import Iterator

from clouds.core.component import Component, Kind
from clouds.core.hookspecs import hookimpl
from clouds.core.plan import Plan, Problem

_PYRAMID = ("res2", "res3", "res4", "res5")


@hookimpl
def clouds_heads() -> list[Component]:
    return [
        Component(
            name="linear",
            kind=Kind.HEAD,
            factory="clouds.heads.presets:linear",
            summary="lateral 1x1 convolutions, summed, one 3x3 convolution; softmax over classes",
            source="clouds; lateral sums after Kirillov et al., Panoptic FPN, CVPR 2019",
            needs=_PYRAMID,
        ),
        Component(
            name="mask2former",
            kind=Kind.HEAD,
            factory="clouds.heads.presets:mask2former",
            summary="masked transformer decoder with a linear classifier",
            source="Cheng et al., Mask2Former, CVPR 2022, arXiv 2112.01527",
            needs=_PYRAMID,
        ),
    ]


@hookimpl
def clouds_check_plan(plan: Plan) -> Iterator[Problem]:
    """A query holds one class mask in training, so fewer queries than classes cannot serve the label space."""
    part = plan.parts.get(Kind.HEAD)
    if part is None or part.name != "mask2former":
        return
    queries, classes = part.options.get("queries"), len(plan.labels)
    if isinstance(queries, int) and queries < classes:
        yield Problem(
            Kind.HEAD,
            f"mask2former has {queries} queries, but label space {plan.labels.name!r} has {classes} classes",
            f"set queries to {classes} or more",
        )
