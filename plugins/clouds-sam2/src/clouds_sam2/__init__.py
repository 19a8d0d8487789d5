"""SAM 2 as a refiner: `sam2`."""

from __future__ import annotations

from clouds import Component, HubWeights, hookimpl, prompt_preset

_REPOSITORY = "facebook/sam2.1-hiera-large"


@hookimpl
def clouds_refiners() -> list[Component]:
    return [
        Component(
            name="sam2",
            kind="refiner",
            factory="clouds_sam2:sam2",
            summary="SAM 2 answers point prompts drawn from the label map's components",
            source=(
                "Ravi et al., SAM 2: Segment Anything in Images and Videos, ICLR 2025; "
                "Benigmim et al., CLOUDS, CVPR 2024"
            ),
            licence="Apache-2.0",
        )
    ]


@hookimpl
def clouds_weights() -> list[HubWeights]:
    return [
        HubWeights(name="sam2", licence="Apache-2.0", repo=_REPOSITORY, files=("*config.json", "model.safetensors")),
    ]


@prompt_preset
def sam2(*, model: str = _REPOSITORY, pretrained: bool = True):
    """SAM 2 answers point prompts drawn from the components of the label map, as `clouds.PromptRefiner` says.

    A cached embedding takes 8 MiB for each image.

    Args:
        model: Hugging Face repository in transformers' format, or a local folder in this format.
        pretrained: load its weights; False reads no files, and uses random weights of the smallest published size.
    """
    from clouds_sam2.segmenter import build_segmenter  # so that torch is only imported when building

    return build_segmenter(model, pretrained=pretrained)
