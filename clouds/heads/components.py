"""Catalog entries of the built-in heads."""

from __future__ import annotations

from clouds.core.contract.component import Component, Kind
from clouds.core.contract.hookspecs import hookimpl

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
            name="fpn",
            kind=Kind.HEAD,
            factory="clouds.heads.presets:fpn",
            summary="feature pyramid, a small decoder per level, summed; softmax over classes: the light baseline",
            source="Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019, arXiv 1901.02446",
            needs=_PYRAMID,
        ),
        Component(
            name="eomt",
            kind=Kind.HEAD,
            factory="clouds.heads.presets:eomt",
            summary="queries take part in the last blocks of a plain ViT, which is to be trained; no decoder",
            source="Kerssies et al., Your ViT is Secretly an Image Segmentation Model, CVPR 2025, arXiv 2503.19108",
            needs=("res4", "blocks", "tokens"),
            provides="instances",
        ),
        Component(
            name="text-queries",
            kind=Kind.HEAD,
            factory="clouds.heads.presets:text_queries",
            summary="Mask2Former with one query per class, made from text embeddings and bound to its class",
            source="Pak et al., Textual Query-Driven Mask Transformer (tqdm), ECCV 2024, arXiv 2407.09033",
            needs=(*_PYRAMID, "text-encoder"),
        ),
        *(_mask2former(*about) for about in _MASK2FORMER),
    ]


def _mask2former(name: str, classification: str, needs: tuple[str, ...], summary: str, source: str) -> Component:
    return Component(
        name=name,
        kind=Kind.HEAD,
        factory="clouds.heads.presets:mask2former",
        summary=summary,
        source=source,
        needs=(*_PYRAMID, *needs),
        provides=("queries", "instances"),
        needs_with={"geometric_ensemble": ("text-encoder", "mask-pooler")},
        options={"classification": classification},
    )


_MASK2FORMER = (
    (
        "mask2former",
        "linear",
        (),
        "deformable pixel decoder, masked transformer decoder, linear classifier, as released by CLOUDS",
        "Cheng et al., Mask2Former, CVPR 2022, arXiv 2112.01527",
    ),
    (
        "mask2former-text",
        "text",
        ("text-encoder",),
        "the same, mask-pooled queries compared with text embeddings: open vocabulary",
        "Benigmim et al., CLOUDS, CVPR 2024, arXiv 2312.09788; Yu et al., FC-CLIP, NeurIPS 2023",
    ),
    (
        "mask2former-pooled",
        "pooled",
        (),
        "the same, mask-pooled queries and a linear classifier",
        "Benigmim et al., CLOUDS, CVPR 2024, arXiv 2312.09788",
    ),
)
