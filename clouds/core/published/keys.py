"""Infers components and sizes from keys and shapes in the published implementation's checkpoints.

The published model (github.com/yasserben/CLOUDS) stores its backbone under `backbone.`, its head under `sem_seg_head.`,
and further tensors that no module here uses. Components here use the published local names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from clouds.core.system.errors import WeightsError
from clouds.core.weights.files import unwrap_names

Shapes = Mapping[str, tuple[int, ...]]

BACKBONE, HEAD, TEACHER, SAM = "backbone.", "sem_seg_head.", "sem_seg_head_ema.", "sam."
CLASS_WEIGHTS, VOID = "criterion.empty_weight", "void_embedding.weight"
UNUSED = (TEACHER, CLASS_WEIGHTS, VOID, SAM)

_VISUAL = "backbone.clip_model.visual."
_STEMS = {f"{_VISUAL}trunk.stem.0.weight": "ConvNeXt", f"{_VISUAL}conv1.weight": "ResNet"}
_BLOCK = re.compile(re.escape(_VISUAL) + r"(?:trunk\.stages\.|layer)(\d+)\.(?:blocks\.)?(\d+)\.")
_PREDICTOR, _ENCODER = "sem_seg_head.predictor.", "sem_seg_head.pixel_decoder.transformer.encoder.layers."
_TEXT_CLASSES = f"{_PREDICTOR}class_embed.layers."  # last in the published text decoder only
_ORDER = (BACKBONE, HEAD, _TEXT_CLASSES, *UNUSED)  # of the published state dict
_HEADS, _LEVELS = 8, 3  # attention heads and levels of the pixel decoder, which no shape shows

# Output channels of the stem's first convolution and blocks per stage, which identify each model.
BACKBONES: dict[tuple[str, int, tuple[int, ...]], str] = {
    ("ConvNeXt", 128, (3, 3, 27, 3)): "clip-convnext-base",
    ("ConvNeXt", 192, (3, 3, 27, 3)): "clip-convnext-large-d-320",
    ("ConvNeXt", 384, (3, 4, 30, 3)): "clip-convnext-xxlarge",
    ("ResNet", 32, (3, 4, 6, 3)): "clip-rn50",
    ("ResNet", 32, (3, 4, 23, 3)): "clip-rn101",
    ("ResNet", 40, (4, 6, 10, 6)): "clip-rn50x4",
    ("ResNet", 48, (6, 8, 18, 8)): "clip-rn50x16",
    ("ResNet", 64, (3, 15, 36, 10)): "clip-rn50x64",
}
HEADS = ("mask2former", "mask2former-text", "mask2former-pooled")


def unwrap_published(state: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Convert keys to the published names: remove wrapper prefixes, and use the teacher's head if it is the only one.

    Raises:
        WeightsError: the checkpoint holds the model more than once, under different prefixes.
    """
    plain = unwrap_names(state, (), source=source)
    prefixes = sorted({key.removesuffix(stem) for key in plain for stem in _STEMS if key.endswith(stem)})
    if len(prefixes) > 1:
        raise WeightsError(
            f"{source}: holds the model more than once, under {', '.join(map(repr, prefixes))}; save the one that you "
            "choose alone, without that prefix"
        )
    prefix = prefixes[0] if prefixes else ""
    plain = {key.removeprefix(prefix): value for key, value in plain.items()}
    if any(key.startswith(HEAD) for key in plain):
        return plain
    return {HEAD + key.removeprefix(TEACHER) if key.startswith(TEACHER) else key: plain[key] for key in plain}


def find_backbone(shapes: Shapes, *, source: str) -> tuple[str, str]:
    """Family (`ConvNeXt` or `ResNet`) and name of the backbone.

    Raises:
        WeightsError: the checkpoint has no published backbone.
    """
    stem = next((key for key in _STEMS if key in shapes), None)
    if stem is None:
        raise WeightsError(
            f"{source}: not a checkpoint of CLOUDS: it has neither {' nor '.join(_STEMS)}; "
            f"its {len(shapes)} keys begin with {', '.join(list(shapes)[:3]) or 'nothing'}"
        )
    family, blocks = _STEMS[stem], _count_blocks(shapes)
    name = BACKBONES.get((family, shapes[stem][0] if shapes[stem] else 0, blocks))
    if name is None:
        known = "; ".join(
            f"{known} {(width, *depths)}" for (kind, width, depths), known in BACKBONES.items() if kind == family
        )
        raise WeightsError(
            f"{source}: no published backbone has {stem} of shape {shapes[stem]} and {blocks} blocks; "
            f"expected channels and blocks of {known}"
        )
    return family, name


def find_head(shapes: Shapes, *, source: str) -> tuple[str, dict[str, Any]]:
    """Name of the head, and the options that shapes show.

    Several tensors show each option. If they disagree, one of them is wrong. The option is then omitted, so that the
    comparison with a head of default size names that tensor.

    Raises:
        WeightsError: the checkpoint has no head.
    """
    local = [key.removeprefix(_PREDICTOR) for key in shapes if key.startswith(_PREDICTOR)]
    if not local:
        raise WeightsError(f"{source}: not a checkpoint of CLOUDS: no key begins with {_PREDICTOR}")
    pooled = any(key.startswith("_mask_pooling_proj.") for key in local)
    text = any(key.startswith(_TEXT_CLASSES) for key in shapes)
    name = "mask2former-text" if text else "mask2former-pooled" if pooled else "mask2former"
    offsets = _rows(shapes, _ENCODER, "self_attn.sampling_offsets.weight")
    sizes = {
        "queries": _common_size(_rows(shapes, _PREDICTOR, "query_feat.weight", "query_embed.weight")),
        "width": _common_size(_rows(shapes, _PREDICTOR, "norm.weight")),
        "layers": _count(shapes, f"{_PREDICTOR}transformer_self_attention_layers."),
        "feedforward": _common_size(_rows(shapes, _PREDICTOR, "linear1.weight")),
        "encoder_layers": _count(shapes, _ENCODER),
        "encoder_feedforward": _common_size(_rows(shapes, _ENCODER, "linear1.weight")),
        "encoder_points": _common_size([rows // (2 * _HEADS * _LEVELS) for rows in offsets]),
    }
    options: dict[str, Any] = {option: size for option, size in sizes.items() if size}
    options["project_inputs"] = any(key.startswith("input_proj.") for key in local)
    return name, options


def find_classes(shapes: Shapes) -> int | None:
    """Number of classes without "no object", from the classifier or else the loss; None if missing or inconsistent."""
    tensors = [shapes.get(f"{_PREDICTOR}class_embed.{name}") for name in ("weight", "bias")]
    tensors = tensors if any(tensors) else [shapes.get(CLASS_WEIGHTS)]
    found = _common_size(shape[0] for shape in tensors if shape)
    return None if found is None else found - 1


def position(key: str) -> int:
    """Position of a key's group in the published order."""
    return max(index for index, prefix in enumerate(_ORDER) if key.startswith(prefix))


def _count_blocks(shapes: Shapes) -> tuple[int, ...]:
    """Blocks of each stage, in order."""
    found = {(int(match[1]), int(match[2])) for match in map(_BLOCK.match, shapes) if match}
    stages = sorted({stage for stage, _ in found})
    return tuple(sum(stage == other for other, _ in found) for stage in stages)


def _count(shapes: Shapes, prefix: str) -> int:
    """Number of items in a module list."""
    return len({key.removeprefix(prefix).partition(".")[0] for key in shapes if key.startswith(prefix)})


def _rows(shapes: Shapes, prefix: str, *endings: str) -> list[int]:
    """First dimensions of the tensors with this prefix and one of these endings."""
    return [shape[0] for key, shape in shapes.items() if key.startswith(prefix) and key.endswith(endings) and shape]


def _common_size(sizes: Iterable[int]) -> int | None:
    """The common size of all tensors, or None."""
    distinct = set(sizes)
    return distinct.pop() if len(distinct) == 1 else None
