"""Builds CLIP backbones from open_clip's model and weight names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import torch
from attrs import frozen
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.modified_resnet import ModifiedResNet
from open_clip.pretrained import download_pretrained
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer as OpenClipVit
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn

from clouds.backbones.clip_backbone import ClipBackbone
from clouds.backbones.clip_convnext import ClipConvNeXt
from clouds.backbones.clip_resnet import ClipResNet
from clouds.backbones.clip_text import ClipText
from clouds.backbones.clip_vit import ClipVit
from clouds.backbones.tokenizers import Choice, tokenizer_for
from clouds.backbones.vit import PLAIN_VITS
from clouds.backbones.vit_options import VitOptions
from clouds.core.system.errors import ConfigError, WeightsError, did_you_mean
from clouds.core.system.reach import hub_access
from clouds.core.weights.files import read_weights
from clouds.core.weights.loading import load_weights
from clouds.core.weights.store import open_clip_file


@frozen
class ClipWeights:
    """A published model of open_clip.

    Attributes:
        model: open_clip's name of the architecture.
        weights: open_clip's tag of the weights.
        config: architecture: `embed_dim`, `vision_cfg`, `text_cfg`, ...
        tag: metadata of the weights: location, `mean`, `std`, `quick_gelu`.
    """

    model: str
    weights: str
    config: dict[str, Any]
    tag: dict[str, Any]

    @classmethod
    def named(cls, model: str, weights: str) -> ClipWeights:
        """Look up both names.

        Raises:
            ConfigError: open_clip has no such model or weights, or the text tower is not open_clip's own.
        """
        known = open_clip.list_models()
        if model not in known:
            raise ConfigError(f"open_clip has no model {model!r}{did_you_mean(model, known)}")
        tags = open_clip.list_pretrained_tags_by_model(model)
        if weights not in tags:
            raise ConfigError(f"open_clip has no weights {weights!r} of {model!r}{did_you_mean(weights, tags)}")
        config: Any = open_clip.get_model_config(model)
        if "multimodal_cfg" in config or "hf_model_name" in config["text_cfg"]:
            raise ConfigError(f"open_clip model {model!r} is not supported: its text tower is not open_clip's own")
        return cls(model, weights, config, open_clip.get_pretrained_cfg(model, weights))

    def build(self) -> nn.Module:
        """Build the model with random weights, and with QuickGELU if the published weights were trained with it."""
        config = dict(self.config)
        kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
        config["quick_gelu"] = bool(config.get("quick_gelu") or self.tag.get("quick_gelu"))
        return kind(**config)

    def load(self, clip_model: nn.Module, pretrained: bool | Path) -> None:
        """Load the published weights (True) or a file (a path); False leaves the model unchanged.

        Raises:
            WeightsError: the weights are unavailable or do not fit.
        """
        if pretrained is False:
            return
        path = self._download() if pretrained is True else pretrained
        state = read_weights(path, names=clip_model.state_dict())
        load_weights(clip_model, _converted(state, clip_model), source=str(path))

    def _download(self) -> Path:
        if carried := open_clip_file(self.tag):
            return carried
        try:
            with hub_access():
                return Path(download_pretrained(self.tag))
        except (OSError, RuntimeError) as error:
            raise WeightsError(
                f"weights {self.weights!r} of open_clip model {self.model!r} could not be loaded "
                f"({type(error).__name__}: {error}); check the connection, bring a folder (`clouds weights "
                "fetch NAME --out FOLDER` elsewhere, CLOUDS_WEIGHTS=FOLDER here), or use pretrained=FILE or "
                "pretrained=False"
            ) from error


def build_clip(
    model: str, weights: str, *, pretrained: bool | Path, tokenizer: Choice, options: VitOptions
) -> ClipBackbone:
    """Build the backbone class for the model's image tower.

    Raises:
        ConfigError: open_clip has no such model or weights, a tower is not supported, or the options do not fit it.
        WeightsError: the weights are unavailable or do not fit.
    """
    published = ClipWeights.named(model, weights)
    if options.of_vits:
        with torch.device("meta"):  # skips the costly initialisation
            options.require(_depth(published.build().visual), f"open_clip model {model!r}")
    clip_model = published.build()
    backbone = _backbone_class(clip_model.visual, model)
    published.load(clip_model, pretrained)
    return backbone(
        clip_model,
        tokenizer_for(published.config["text_cfg"], tokenizer),
        mean=[255 * value for value in published.tag["mean"]],
        std=[255 * value for value in published.tag["std"]],
        **({"options": options} if backbone is ClipVit else {}),
    )


def build_clip_text(model: str, weights: str, *, pretrained: bool) -> ClipText:
    """Build a model's text tower only. Raises the same errors as `build_clip`."""
    published = ClipWeights.named(model, weights)
    clip_model = published.build()
    published.load(clip_model, pretrained)
    return ClipText(clip_model, tokenizer_for(published.config["text_cfg"], "hub"))


def _backbone_class(visual: object, model: str) -> type[ClipConvNeXt | ClipResNet | ClipVit]:
    trunk = visual.trunk if isinstance(visual, TimmModel) else visual
    for kinds, backbone in (
        (ConvNeXt, ClipConvNeXt),
        (ModifiedResNet, ClipResNet),
        ((OpenClipVit, *PLAIN_VITS), ClipVit),
    ):
        if isinstance(trunk, kinds):
            return backbone
    raise ConfigError(
        f"open_clip model {model!r} is not supported: its image tower is a {type(trunk).__name__}; "
        "expected a ConvNeXt, a ModifiedResNet or a plain ViT"
    )


def _depth(visual: Any) -> int:
    """Number of blocks of a plain ViT; 0 for other image towers."""
    if isinstance(visual, OpenClipVit):
        return len(visual.transformer.resblocks)
    trunk = visual.trunk if isinstance(visual, TimmModel) else visual
    return len(trunk.blocks) if isinstance(trunk, PLAIN_VITS) else 0


def _converted(state: dict[str, Tensor], clip_model: Any) -> dict[str, Tensor]:
    """Rename weights from any of open_clip's file layouts to the model's parameter names."""
    state = dict(convert_state_dict(clip_model, state))
    if isinstance(clip_model, open_clip.CustomTextCLIP):
        state = convert_to_custom_text_state_dict(state)
    for name in ("logit_scale", "logit_bias"):  # shape () in some files, (1,) in others
        own = getattr(clip_model, name)
        if own is not None and name in state and state[name].numel() == 1:
            state[name] = state[name].reshape(own.shape)
    return state
