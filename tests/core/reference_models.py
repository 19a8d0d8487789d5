"""Stand-ins with the published names but one tensor per block, and a catalog that has them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import clouds
from clouds.core.published.keys import BACKBONES

Shapes = dict[str, tuple[int, ...]]
VISUAL, PREDICTOR = "clip_model.visual.", "predictor."
ENCODER = "pixel_decoder.transformer.encoder.layers."
DEPTHS = {name: (family, width, depths) for (family, width, depths), name in BACKBONES.items()}
EMBEDDING = 7  # of the text tower


def backbone_shapes(name: str) -> Shapes:
    """Local names of a backbone, in the published order."""
    family, width, depths = DEPTHS[name]
    resnet = family == "ResNet"
    shapes: Shapes = {"clip_model.text_projection": (5, EMBEDDING), "clip_model.logit_scale": ()}
    shapes[VISUAL + ("conv1.weight" if resnet else "trunk.stem.0.weight")] = (width, 3, 2, 2)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            local = f"layer{stage + 1}.{block}." if resnet else f"trunk.stages.{stage}.blocks.{block}."
            shapes |= {f"{VISUAL}{local}weight": (2,), f"{VISUAL}{local}bias": (2,)}
    return shapes


def head_shapes(
    *,
    classes: int,
    queries: int = 100,
    width: int = 256,
    layers: int = 9,
    feedforward: int = 2048,
    encoder_layers: int = 6,
    encoder_feedforward: int = 1024,
    encoder_points: int = 4,
    project_inputs: bool = False,
    pooled: bool = False,
    text: bool = False,
) -> Shapes:
    """Local names of a head, in the published order."""
    shapes: Shapes = {}
    for layer in range(encoder_layers):
        local = f"{ENCODER}{layer}."
        shapes[f"{local}self_attn.sampling_offsets.weight"] = (8 * 3 * encoder_points * 2, 1)
        shapes[f"{local}linear1.weight"] = (encoder_feedforward, 1)
    for layer in range(layers):
        local = f"{PREDICTOR}transformer_self_attention_layers.{layer}.norm."
        shapes |= {f"{local}weight": (width,), f"{local}bias": (width,)}
    for layer in range(layers):
        shapes[f"{PREDICTOR}transformer_ffn_layers.{layer}.linear1.weight"] = (feedforward, 1)
    shapes[f"{PREDICTOR}decoder_norm.weight"] = (width,)
    shapes |= {f"{PREDICTOR}query_feat.weight": (queries, width), f"{PREDICTOR}query_embed.weight": (queries, width)}
    if project_inputs:
        shapes[f"{PREDICTOR}input_proj.0.weight"] = (width, width)
    if pooled or text:
        shapes[f"{PREDICTOR}_mask_pooling_proj.0.weight"] = (width,)
    if text:
        shapes[f"{PREDICTOR}class_embed.layers.0.weight"] = (width, width)
        shapes["void_embedding.weight"] = (1, EMBEDDING)
    else:
        shapes |= {
            f"{PREDICTOR}class_embed.weight": (classes + 1, width),
            f"{PREDICTOR}class_embed.bias": (classes + 1,),
        }
    return shapes


def published(backbone: str = "clip-rn50", *, classes: int = 19, joint: bool = False, **head: Any) -> dict[str, Tensor]:
    """A state dict under the published names, of random numbers; `joint` adds the teacher and SAM."""
    local = head_shapes(classes=classes, **head)
    void = local.pop("void_embedding.weight", (1, EMBEDDING))
    shapes: Shapes = {f"backbone.{key}": shape for key, shape in backbone_shapes(backbone).items()}
    shapes |= {f"sem_seg_head.{key}": shape for key, shape in local.items()}
    if joint:
        shapes |= {f"sem_seg_head_ema.{key}": shape for key, shape in local.items()}
    shapes |= {"criterion.empty_weight": (classes + 1,), "void_embedding.weight": void}
    if joint:
        shapes |= {"sam.sam.z.weight": (3,), "sam.sam.a.weight": (2, 2)}
    state = {key: torch.randn(shape) for key, shape in shapes.items()}
    return {**state, "sam.sam.a.num_batches_tracked": torch.tensor(3)} if joint else state


def fill(module: nn.Module, shapes: Shapes) -> None:
    """Give a module parameters of these names."""
    for key, shape in shapes.items():
        *path, name = key.split(".")
        owner = module
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.register_parameter(name, nn.Parameter(torch.randn(shape)))


class NamedBackbone(clouds.Backbone):
    def __init__(self, name: str) -> None:
        specs = {f"res{i + 2}": clouds.FeatureSpec(channels=1, stride=4 * 2**i) for i in range(4)}
        super().__init__(features=specs, mean=(0, 0, 0), std=(1, 1, 1))
        fill(self, backbone_shapes(name))

    def forward(self, images: Tensor) -> clouds.Features:
        raise NotImplementedError


class NamedHead(clouds.Head):
    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        fill(self, shapes)

    def forward(self, features: Any, classifier: Any = None) -> Any:
        raise NotImplementedError

    def loss(self, output: Any, targets: Any, *, points: Any = None, generator: Any = None) -> Any:
        raise NotImplementedError

    def segment(self, output: Any, valid_size: Any, size: Any, *, scores: bool = False) -> Any:
        raise NotImplementedError


def make_backbone(*, name: str, pretrained: bool | str = True, trainable: bool = False) -> NamedBackbone:
    """Weights of `pretrained` depend on it alone."""
    backbone = NamedBackbone(name)
    if pretrained:
        for parameter in backbone.parameters():
            torch.nn.init.constant_(parameter, len(str(pretrained)))
    return backbone if trainable else backbone.freeze()  # type: ignore[return-value]


def make_head(
    features: object,
    labels: clouds.LabelSpace,
    *,
    pooled: bool = False,
    text: bool = False,
    queries: int = 100,
    width: int = 256,
    layers: int = 9,
    feedforward: int = 2048,
    encoder_layers: int = 6,
    encoder_feedforward: int = 1024,
    encoder_points: int = 4,
    project_inputs: bool = False,
    no_object_weight: float = 0.1,
    geometric_ensemble: bool = False,
    ensemble_on_valid_mask: bool = True,
) -> NamedHead:
    del features, no_object_weight, geometric_ensemble, ensemble_on_valid_mask
    return NamedHead(
        head_shapes(
            classes=len(labels),
            pooled=pooled,
            text=text,
            queries=queries,
            width=width,
            layers=layers,
            feedforward=feedforward,
            encoder_layers=encoder_layers,
            encoder_feedforward=encoder_feedforward,
            encoder_points=encoder_points,
            project_inputs=project_inputs,
        )
    )


class _Plugin:
    @clouds.hookimpl
    def clouds_backbones(self) -> list[clouds.Component]:
        factory = f"{__name__}:make_backbone"
        return [
            clouds.Component(name=name, kind="backbone", factory=factory, summary="named", options={"name": name})
            for name in DEPTHS
        ]

    @clouds.hookimpl
    def clouds_heads(self) -> list[clouds.Component]:
        factory = f"{__name__}:make_head"
        fixed = {"": {}, "-text": {"text": True}, "-pooled": {"pooled": True}}
        return [
            clouds.Component(name=f"mask2former{end}", kind="head", factory=factory, summary="named", options=options)
            for end, options in fixed.items()
        ]


CATALOG = clouds.Catalog({"stand-ins": _Plugin()})
