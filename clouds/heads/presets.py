"""One builder per built-in head, with the published numbers as defaults. Heavy imports stay inside the functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from clouds.core.contract.component import FeatureSpec
from clouds.core.contract.labels import LabelSpace

if TYPE_CHECKING:
    from clouds.core.contract.interfaces import Head
    from clouds.heads.pixel import PixelHead


def linear(
    features: Mapping[str, FeatureSpec],
    labels: LabelSpace,
    *,
    width: int = 128,
    detail: int | None = None,
    detail_weight: float = 0.1,
) -> Head:
    """The smallest head that uses the whole pyramid; softmax over classes, cross entropy.

    Args:
        features: channels and strides of res2..res5.
        labels: the classes.
        width: channels of the summed map.
        detail: side in pixels of the detail crops of HRDA (512 as published), which joins them with a view of the
            whole image at half resolution; a multiple of 32. None sees the image once.
        detail_weight: weight of the detail crop's own loss, 0..1.

    Raises:
        ConfigError: `detail` or `detail_weight` is out of range.
    """
    from clouds.heads.linear import LinearHead

    head = LinearHead(features, classes=len(labels), width=width)
    return _with_detail(head, features, labels, detail, detail_weight)


def fpn(
    features: Mapping[str, FeatureSpec],
    labels: LabelSpace,
    *,
    pyramid_width: int = 256,
    width: int = 128,
    detail: int | None = None,
    detail_weight: float = 0.1,
) -> Head:
    """The semantic branch of Panoptic FPN (Kirillov et al., CVPR 2019) with its sizes; softmax, cross entropy.

    Args:
        features: channels and strides of res2..res5.
        labels: the classes.
        pyramid_width: channels of the feature pyramid.
        width: channels of the decoders; a multiple of 32.
        detail: side in pixels of the detail crops of HRDA (512 as published), which joins them with a view of the
            whole image at half resolution; a multiple of 32. None sees the image once.
        detail_weight: weight of the detail crop's own loss, 0..1.

    Raises:
        ConfigError: a width, `detail` or `detail_weight` is out of range.
    """
    from clouds.heads.fpn import FpnHead

    head = FpnHead(features, classes=len(labels), pyramid_width=pyramid_width, width=width)
    return _with_detail(head, features, labels, detail, detail_weight)


def _with_detail(
    head: PixelHead, features: Mapping[str, FeatureSpec], labels: LabelSpace, detail: int | None, weight: float
) -> Head:
    """Add detail crops to a head; the attention has the published width of 256."""
    if detail is None:
        return head
    from clouds.heads.linear import LinearHead
    from clouds.heads.multi_resolution import MultiResolutionHead

    attention = LinearHead(features, classes=len(labels), width=256)
    return MultiResolutionHead(head, attention, detail=detail, detail_weight=weight)


def mask2former(
    features: Mapping[str, FeatureSpec],
    labels: LabelSpace,
    text_width: int | None = None,
    *,
    classification: Literal["linear", "pooled", "text"] = "linear",
    queries: int = 100,
    width: int = 256,
    layers: int = 9,
    heads: int = 8,
    feedforward: int = 2048,
    encoder_layers: int = 6,
    encoder_feedforward: int = 1024,
    encoder_points: int = 4,
    project_inputs: bool = False,
    points: int = 12544,
    class_weight: float = 2.0,
    mask_weight: float = 5.0,
    dice_weight: float = 5.0,
    no_object_weight: float = 0.1,
    ignored: Literal["exclude", "negative"] = "exclude",
    geometric_ensemble: bool = False,
    ensemble_alpha: float = 0.4,
    ensemble_beta: float = 0.8,
    ensemble_on_valid_mask: bool = True,
    postprocess: Literal["merge_first", "masks_first"] = "merge_first",
) -> Head:
    """Masked-attention mask transformer; sizes and weights of Cheng et al., CVPR 2022, and of CLOUDS.

    Args:
        features: channels and strides of res2..res5.
        labels: the classes.
        text_width: width of the backbone's text embeddings, or None.
        classification: how queries are classified; each of the three is a separate component.
        queries: number of mask predictions.
        width: channels of queries, keys and mask embeddings; a multiple of 64.
        layers: decoder layers, round-robin over res5, res4, res3.
        heads: attention heads.
        feedforward: hidden width of the decoder's feed-forward blocks.
        encoder_layers: layers of the pixel decoder.
        encoder_feedforward: hidden width of its feed-forward blocks.
        encoder_points: points sampled per head and level.
        project_inputs: insert a 1x1 convolution between pixel decoder and transformer decoder.
        points: points at which masks are compared in training.
        class_weight, mask_weight, dice_weight: weights of the loss terms, also in the matching cost.
        no_object_weight: weight of the "no object" class in the class loss.
        ignored: drop ignored pixels ("exclude"), or count them as outside every mask ("negative", as published).
        geometric_ensemble: combine class probabilities with those of the backbone's text-image space in evaluation.
        ensemble_alpha, ensemble_beta: the backbone's share for classes seen in training, and for other classes.
        ensemble_on_valid_mask: ignore the backbone for masks that are empty at its resolution.
        postprocess: resize merged class scores ("merge_first", as published) or mask logits ("masks_first") to the
            output size.

    Raises:
        ConfigError: a size is below 1, a width does not fit, or "text" lacks `text_width`.
    """
    from clouds.heads.build import Criterion, DecoderSizes, EncoderSizes, Ensemble, Weights, build_mask2former

    weights = Weights(class_=class_weight, mask=mask_weight, dice=dice_weight, no_object=no_object_weight)
    ensemble = Ensemble(alpha=ensemble_alpha, beta=ensemble_beta, on_valid_mask=ensemble_on_valid_mask)
    return build_mask2former(
        EncoderSizes(features, width, heads, encoder_layers, encoder_points, encoder_feedforward),
        DecoderSizes(len(labels), text_width, queries, width, heads, layers, feedforward, project_inputs),
        Criterion(weights=weights, points=points, ignored=ignored),
        ensemble if geometric_ensemble else None,
        classification,
        postprocess,
    )


def eomt(
    features: Mapping[str, FeatureSpec],
    labels: LabelSpace,
    *,
    queries: int = 100,
    layers: int = 4,
    annealing: int = 0,
    points: int = 12544,
    class_weight: float = 2.0,
    mask_weight: float = 5.0,
    dice_weight: float = 5.0,
    no_object_weight: float = 0.1,
    ignored: Literal["exclude", "negative"] = "exclude",
    postprocess: Literal["merge_first", "masks_first"] = "merge_first",
) -> Head:
    """Encoder-only mask transformer; sizes and weights of Kerssies et al., CVPR 2025, for semantic segmentation.

    Args:
        features: channels of res4 are those of the tokens.
        labels: the classes.
        queries: number of mask predictions.
        layers: last blocks of the ViT that queries pass: 3 of a ViT-S or ViT-B, 4 of a ViT-L, 5 of a ViT-g.
        annealing: optimizer steps over which masked attention fades out, such as the steps of the run;
            0 trains without masked attention.
        points: points at which masks are compared in training.
        class_weight, mask_weight, dice_weight: weights of the loss terms, also in the matching cost.
        no_object_weight: weight of the "no object" class in the class loss.
        ignored: drop ignored pixels ("exclude"), or count them as outside every mask ("negative", as published).
        postprocess: resize merged class scores ("merge_first") or mask logits ("masks_first", as published) to the
            output size.

    Raises:
        ConfigError: a number is out of range.
    """
    from clouds.heads.criterion import Criterion, Weights
    from clouds.heads.eomt import Eomt

    weights = Weights(class_=class_weight, mask=mask_weight, dice=dice_weight, no_object=no_object_weight)
    return Eomt(
        width=features["res4"].channels,
        classes=len(labels),
        queries=queries,
        layers=layers,
        annealing=annealing,
        criterion=Criterion(weights=weights, points=points, ignored=ignored),
        postprocess=postprocess,
    )


def text_queries(
    features: Mapping[str, FeatureSpec],
    labels: LabelSpace,
    text_width: int | None = None,
    *,
    width: int = 256,
    layers: int = 9,
    heads: int = 8,
    feedforward: int = 2048,
    encoder_layers: int = 6,
    encoder_feedforward: int = 1024,
    encoder_points: int = 4,
    points: int = 12544,
    class_weight: float = 2.0,
    mask_weight: float = 5.0,
    dice_weight: float = 5.0,
    no_object_weight: float = 0.1,
    ignored: Literal["exclude", "negative"] = "exclude",
    postprocess: Literal["merge_first", "masks_first"] = "merge_first",
) -> Head:
    """Mask2Former with one query per class, made from text embeddings and bound to its class (Pak et al., ECCV 2024).

    Left out of tqdm: learned prompts, attention from pixels to texts in the pixel decoder, the regularization losses.

    Args:
        features: channels and strides of res2..res5.
        labels: the classes.
        text_width: width of the backbone's text embeddings.
        width: channels of queries, keys and mask embeddings; a multiple of 64.
        layers: decoder layers, round-robin over res5, res4, res3.
        heads: attention heads.
        feedforward: hidden width of the decoder's feed-forward blocks.
        encoder_layers: layers of the pixel decoder.
        encoder_feedforward: hidden width of its feed-forward blocks.
        encoder_points: points sampled per head and level.
        points: points at which masks are compared in training.
        class_weight, mask_weight, dice_weight: weights of the loss terms.
        no_object_weight: weight of the "no object" class in the class loss.
        ignored: drop ignored pixels ("exclude"), or count them as outside every mask ("negative").
        postprocess: resize merged class scores ("merge_first") or mask logits ("masks_first") to the output size.

    Raises:
        ConfigError: a size is below 1, a width does not fit, or `text_width` is missing.
    """
    from clouds.heads.build import Criterion, DecoderSizes, EncoderSizes, Weights, build_mask2former

    weights = Weights(class_=class_weight, mask=mask_weight, dice=dice_weight, no_object=no_object_weight)
    return build_mask2former(
        EncoderSizes(features, width, heads, encoder_layers, encoder_points, encoder_feedforward),
        DecoderSizes(len(labels), text_width, len(labels), width, heads, layers, feedforward, project_inputs=False),
        Criterion(weights=weights, points=points, ignored=ignored, pairs="class"),
        None,
        "by_query",
        postprocess,
    )
