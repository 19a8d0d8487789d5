"""timm models as backbones: models with a feature pyramid, and plain vision transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any, final

import timm
import torch
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from jaxtyping import Float
from timm.models import eva, vision_transformer
from timm.models.convnext import ConvNeXtStage
from torch import Tensor, nn

from clouds.backbones.blocks import convnext_blocks, vit_blocks
from clouds.backbones.levels import STRIDES, sized, specs_of
from clouds.backbones.vit import PLAIN_VITS, VitPyramid, to_patch_16
from clouds.backbones.vit_options import AS_PUBLISHED, VitOptions
from clouds.core.contract.adaptation import Block, Blocks
from clouds.core.contract.component import FeatureSpec
from clouds.core.contract.interfaces import Backbone
from clouds.core.contract.records import Features
from clouds.core.system.errors import ConfigError, WeightsError, did_you_mean
from clouds.core.system.reach import hub_access
from clouds.core.weights.files import read_weights
from clouds.core.weights.loading import load_weights
from clouds.core.weights.store import hub_file

_REGISTERS = ("reg_token", "register_tokens", "storage_tokens")  # timm, DINOv2, DINOv3


@final
class TimmPyramid(Backbone, Blocks):
    """A timm model as backbone.

    Args:
        trunk: maps normalised images "b 3 h w" to four feature maps at strides 4, 8, 16, 32.
        features: specs of the four maps.
        mean, std: normalisation used in pretraining, 0..255.
    """

    def __init__(
        self, trunk: nn.Module, *, features: Mapping[str, FeatureSpec], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(features=features, mean=mean, std=std)
        self.trunk = trunk

    @property
    def blocks(self) -> tuple[Block, ...]:
        if isinstance(self.trunk, VitPyramid):
            return vit_blocks(self.trunk.vit)
        stages = [part for part in self.trunk.modules() if isinstance(part, ConvNeXtStage)]
        return convnext_blocks(stages)

    @property
    def norm(self) -> nn.Module | None:
        vit: Any = self.trunk.vit if isinstance(self.trunk, VitPyramid) else None
        return None if vit is None else vit.norm

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Features:
        res2, res3, res4, res5 = self.trunk(self.normalize(sized(images)))
        return Features(res2=res2, res3=res3, res4=res4, res5=res5)


def build_timm(model: str, *, pretrained: bool | Path, options: VitOptions = AS_PUBLISHED) -> TimmPyramid:
    """Build the backbone for a timm model.

    Raises:
        ConfigError: timm has no such model, it has no pyramid and is no plain ViT, or the options do not fit it.
        WeightsError: the weights are unavailable or do not fit.
    """
    _require_model(model)
    config = timm.get_pretrained_cfg(model)
    if pretrained is True and config is not None and config.hf_hub_id:
        pretrained = hub_file(config.hf_hub_id, config.hf_hub_filename or SAFETENSORS_SINGLE_FILE) or True
    with torch.device("meta"):
        probe: Any = timm.create_model(model)
        depth = len(probe.blocks) if isinstance(probe, PLAIN_VITS) else 0
    options.require(depth, f"timm model {model!r}")
    if depth:
        vit = build_vit(model, pretrained=pretrained, drop_path_rate=options.drop_path_rate)
        trunk, specs = VitPyramid(vit, options.blocks(depth)), specs_of([vit.embed_dim] * 4)
    else:
        trunk, specs = build_trunk(model, pretrained=pretrained)
    mean, std = (config.mean, config.std) if config is not None else ((0.5,) * 3, (0.5,) * 3)
    return TimmPyramid(trunk, features=specs, mean=[255 * value for value in mean], std=[255 * value for value in std])


def build_trunk(model: str, *, pretrained: bool | Path, **arguments: Any) -> tuple[nn.Module, dict[str, FeatureSpec]]:
    """timm's feature extractor with outputs at strides 4, 8, 16 and 32.

    Raises:
        ConfigError: the model has no such feature maps.
        WeightsError: the weights are unavailable or do not fit.
    """
    sizing, reductions = _probe(model, **arguments)
    if not set(STRIDES) <= set(reductions):
        raise ConfigError(
            f"timm model {model!r} has feature maps at strides {list(reductions)}; expected {list(STRIDES)} among them"
        )
    indices = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES]
    arguments = {**arguments, **sizing, "features_only": True, "out_indices": indices}
    if isinstance(pretrained, Path):
        # The extractor renames and drops layers, so timm loads it leniently; the whole model checks every key.
        whole = timm.create_model(model)
        load_weights(whole, _read_features(pretrained, whole), source=str(pretrained))
        arguments["pretrained_cfg_overlay"] = {"state_dict": whole.state_dict()}
    trunk: Any = _create(model, pretrained=pretrained is not False, **arguments)
    return trunk, specs_of(trunk.feature_info.channels())


@cache
def _probe(model: str, **arguments: Any) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Arguments that make a model accept any image size, and the strides of its maps.

    Probed on the meta device, which skips the costly initialisation.
    """
    with torch.device("meta"):
        windowed = "strict_img_size" in signature(type(timm.create_model(model)).__init__).parameters
        # Swin accepts any size only on request, and only the "getter" class returns its maps channels first.
        sizing = {"strict_img_size": False, "feature_cls": "getter"} if windowed else {}
        probe: Any = timm.create_model(model, features_only=True, **arguments, **sizing)
    return sizing, tuple(probe.feature_info.reduction())


def build_vit(model: str, *, pretrained: bool | Path, drop_path_rate: float) -> Any:
    """A plain ViT with 16 x 16 patches.

    Raises:
        ConfigError: the model is not a plain ViT.
        WeightsError: the weights are unavailable or do not fit.
    """
    vit: Any = _create(model, pretrained=pretrained is True, dynamic_img_size=True, drop_path_rate=drop_path_rate)
    if isinstance(pretrained, Path):
        state = _read_features(pretrained, vit)
        _check_registers(state, vit, model, pretrained)
        load_weights(vit, _converted(state, vit, pretrained), source=str(pretrained))
    vit.reset_classifier(0, "")
    return to_patch_16(vit)


def _check_registers(state: dict[str, Tensor], vit: Any, model: str, path: Path) -> None:
    """Compare numbers of register tokens: models with and without them agree in all other keys."""
    own = 0 if getattr(vit, "reg_token", None) is None else vit.reg_token.shape[1]
    given = next((state[key].shape[1] for key in _REGISTERS if key in state and state[key].ndim == 3), 0)
    if given != own:
        raise WeightsError(
            f"{path}: has {given} register tokens, but timm model {model!r} has {own}; choose the matching model, "
            "such as timm:vit_large_patch14_reg4_dinov2 for DINOv2 with registers"
        )


def _read_features(path: Path, whole: Any) -> dict[str, Tensor]:
    """Read a file's weights, ignoring its classifier, and drop the model's classifier."""
    names = set(whole.state_dict())
    whole.reset_classifier(0)
    unused = names - set(whole.state_dict())
    state = read_weights(path, names=names)
    return {key: value for key, value in state.items() if key not in unused}


def _converted(state: dict[str, Tensor], vit: nn.Module, path: Path) -> dict[str, Tensor]:
    """Rename weights to timm's names; the file may use timm's or the authors' own."""
    family = eva if isinstance(vit, eva.Eva) else vision_transformer
    try:
        return family.checkpoint_filter_fn(state, vit)  # pyright: ignore[reportArgumentType]
    except (RuntimeError, KeyError, ValueError, AssertionError) as error:
        raise WeightsError(f"{path} does not fit {type(vit).__name__}: {type(error).__name__}: {error}") from error


def _create(model: str, *, pretrained: bool, **arguments: Any) -> nn.Module:
    try:
        with hub_access() if pretrained else nullcontext():
            return timm.create_model(model, pretrained=pretrained, **arguments)
    except (OSError, RuntimeError, LocalEntryNotFoundError, HfHubHTTPError) as error:
        if not pretrained:
            raise
        raise WeightsError(
            f"weights of timm model {model!r} could not be loaded ({type(error).__name__}: {error}); "
            "check the connection, bring a folder (`clouds weights fetch NAME --out FOLDER` elsewhere, "
            "CLOUDS_WEIGHTS=FOLDER here), or use pretrained=FILE or pretrained=False"
        ) from error


def _require_model(model: str) -> None:
    if not timm.is_model(model):
        raise ConfigError(f"timm has no model {model!r}{did_you_mean(model, timm.list_models())}")
    try:
        timm.get_pretrained_cfg(model)
    except RuntimeError as error:
        name, _, tag = model.partition(".")
        tags = [known.removeprefix(f"{name}.") for known in timm.list_pretrained(f"{name}.*")]
        raise ConfigError(f"timm has no weights {tag!r} of {name!r}{did_you_mean(tag, tags)}") from error
