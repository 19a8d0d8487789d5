"""MobileSAM as a refiner: `mobile-sam`."""

from __future__ import annotations

from pathlib import Path

from clouds import Component, FileWeights, hookimpl, prompt_preset


@hookimpl
def clouds_refiners() -> list[Component]:
    return [
        Component(
            name="mobile-sam",
            kind="refiner",
            factory="clouds_mobile_sam:mobile_sam",
            summary="MobileSAM answers point prompts drawn from the label map's components",
            source=(
                "Zhang et al., Faster Segment Anything: Towards Lightweight SAM for Mobile Applications, 2023; "
                "Benigmim et al., CLOUDS, CVPR 2024"
            ),
            licence="Apache-2.0",
        )
    ]


@hookimpl
def clouds_weights() -> list[FileWeights]:
    commit = "f706ad9c4eb7f219c00d9050e46328518ffb65d2"
    return [
        FileWeights(
            name="mobile-sam",
            licence="Apache-2.0",
            url=f"https://github.com/ChaoningZhang/MobileSAM/raw/{commit}/weights/mobile_sam.pt",
            sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",  # as in many projects
            size=40_728_226,
        )
    ]


@prompt_preset
def mobile_sam(*, pretrained: bool | Path = True):
    """MobileSAM answers point prompts drawn from the components of the label map, as `clouds.PromptRefiner` says.

    A cached embedding takes 2 MiB for each image.

    Args:
        pretrained: load the published weights; False initialises randomly; a path reads a local file (.pt, .pth,
            .safetensors).
    """
    from clouds_mobile_sam.build import build_segmenter  # so that torch is only imported when building

    return build_segmenter(pretrained)
