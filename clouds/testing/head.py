"""The contract of heads: shapes, loss, and `segment`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from attrs import evolve
from torch import Tensor
from torch.nn import functional

from clouds.core.contract.component import FeatureSpec
from clouds.core.contract.interfaces import Head, MaskPooler, TextClassifier
from clouds.core.contract.labels import CITYSCAPES, LabelSpace
from clouds.core.contract.records import Features, HeadOutput
from clouds.testing.contract import (
    BATCH_TOLERANCE,
    check_module,
    in_evaluation,
    largest_difference,
    require,
    require_instance,
    require_tensor,
    violation,
)
from clouds.testing.head_loss import check_loss

_HEIGHT, _WIDTH = 64, 96
# Labels and scores may be summed in different orders, so scores this close to the best are ties: a few float32
# roundings of a sum of up to some hundred products.
_TIE = 1e-5
_DRAWS = 3  # chance differences were seen in 3 of 150 draws, so three in a row are a real difference


def check_head(
    head: Head,
    features: Mapping[str, FeatureSpec],
    *,
    labels: LabelSpace = CITYSCAPES,
    classifier: TextClassifier | None = None,
) -> None:
    """Check a copy of a built head with random features of 64 x 96 images.

    - Outputs have the right shapes and do not depend on the batch.
    - Loss terms are finite scalars with gradients, for normal, empty and ignored targets.
    - Random points come only from `generator`, and ignored pixels have no influence.
    - The loss of a batch is that of its parts, joined by `loss_counts`.
    - `segment` works for any size, and its labels are the classes with the best scores.
    - Weights survive safetensors.

    Args:
        head: the head.
        features: feature specs that the head was built for.
        labels: label space that the head was built for.
        classifier: for heads that use text; its pooler, if any, gets maps as wide as its embeddings.

    Raises:
        ContractError: a clause is broken.
    """
    require_instance(head, Head, "head")
    tested = in_evaluation(head)
    check_module(tested)
    images = random_features(features, batch=2, height=_HEIGHT, width=_WIDTH, dense=_width(classifier))
    output = tested(images, classifier)
    _check_output(tested, output, len(labels))
    _check_independence(tested, features, classifier)
    check_loss(tested, output, (_HEIGHT, _WIDTH), len(labels))
    with torch.no_grad():
        one = tested(images, classifier).image(0)
        for valid_size, size in (((_HEIGHT, _WIDTH), (_HEIGHT, _WIDTH)), ((50, 70), (33, 141)), ((1, 1), (1, 1))):
            _check_segment(tested, one, valid_size, size, len(labels))
        _check_padding(tested, one)


def random_features(
    specs: Mapping[str, FeatureSpec], *, batch: int, height: int, width: int, seed: int = 0, dense: int | None = None
) -> Features:
    """Normally distributed features of `height` x `width` images; with a map of `dense` channels to pool, if given."""
    random = torch.Generator().manual_seed(seed)

    def normal(channels: int, stride: int) -> Tensor:
        return torch.randn(batch, channels, height // stride, width // stride, generator=random)

    levels = {name: normal(spec.channels, spec.stride) for name, spec in specs.items()}
    return Features(**levels, dense=None if dense is None else normal(dense, 32))


@final
class MeanPooler(MaskPooler):
    """Mean-pools features under the masks, so the features must be as wide as the text embeddings."""

    def pool(self, dense: Tensor, masks: Tensor) -> Tensor:
        inside = functional.interpolate(masks.float(), size=dense.shape[-2:], mode="bilinear").flatten(2) > 0
        return inside.float() @ dense.float().flatten(2).mT / inside.sum(-1, keepdim=True).clamp(min=1)


def random_classifier(label_space: LabelSpace, width: int) -> TextClassifier:
    """A classifier with random unit vectors for the words of a label space, and a `MeanPooler`."""
    counts = torch.tensor([len(group) for group in label_space.synonyms])
    embeddings = torch.randn(int(counts.sum()), width, generator=torch.Generator().manual_seed(0))
    return TextClassifier(
        embeddings=functional.normalize(embeddings, dim=-1),
        class_of=torch.repeat_interleave(torch.arange(len(label_space)), counts),
        seen=torch.ones(len(label_space), dtype=torch.bool),
        logit_scale=100.0,
        pooler=MeanPooler(),
    )


def _width(classifier: TextClassifier | None) -> int | None:
    return None if classifier is None else classifier.embeddings.shape[1]


def _check_output(head: Head, output: object, classes: int) -> None:
    if not isinstance(output, HeadOutput):
        raise violation(
            head, "forward must return clouds.HeadOutput", got=type(output).__name__, remedy="wrap the predictions"
        )
    queries = output.class_logits.shape[1]
    for one in (output, *output.auxiliary):
        require_tensor(one.class_logits, head, 'class_logits "b q k+1"', shape=(2, queries, classes + 1))
        shape = (2, queries, _HEIGHT // 4, _WIDTH // 4)
        require_tensor(one.mask_logits, head, 'mask_logits "b q h/4 w/4"', shape=shape)


def _check_independence(head: Head, specs: Mapping[str, FeatureSpec], classifier: TextClassifier | None) -> None:
    """Check that an image's output is the same in a batch and alone, for at least one of several random inputs.

    At a threshold, as in masked attention, a difference in the last bit may become large by chance. A head that mixes
    images differs for every input.
    """
    smallest = float("inf")
    for seed in range(_DRAWS):
        both = random_features(specs, batch=2, height=_HEIGHT, width=_WIDTH, seed=seed, dense=_width(classifier))
        dense = None if both.dense is None else both.dense[1:]
        one = Features(**{name: level[1:] for name, level in both.levels().items()}, dense=dense)
        with torch.no_grad():
            together, alone = head(both, classifier).image(1), head(one, classifier)
        pairs = ((together.class_logits, alone.class_logits), (together.mask_logits, alone.mask_logits))
        smallest = min(smallest, max(largest_difference(*pair) for pair in pairs))
        if smallest <= BATCH_TOLERANCE:
            return
    raise violation(
        head,
        f"the output of an image must not depend on the batch, within {BATCH_TOLERANCE} relative, in eval mode",
        got=f"at least {smallest:.3g} for {_DRAWS} random inputs",
        remedy="look for reductions over the batch axis, and for random choices",
    )


def _check_segment(head: Head, one: HeadOutput, valid: tuple[int, int], size: tuple[int, int], classes: int) -> None:
    labels = head.segment(one, valid, size)
    scores = head.segment(one, valid, size, scores=True)
    where = f"segment from {valid[0]} x {valid[1]} to {size[0]} x {size[1]}"
    require_tensor(labels, head, f"{where}: labels", shape=size, dtype=torch.uint8)
    require_tensor(scores, head, f"{where}: scores", shape=(classes, *size))
    require(
        int(labels.max()) < classes,
        head,
        f"{where}: labels must be train ids below {classes}",
        got=int(labels.max()),
        remedy='leave the "no object" class out of the maximum',
    )
    require(
        bool((scores >= 0).all()),
        head,
        f"{where}: scores are sums of products of probabilities, so at least 0",
        got=float(scores.min()),
        remedy="merge probabilities, not logits",
    )
    chosen = scores.gather(0, labels.long()[None])[0]
    missed = float((scores.amax(0) - chosen).max())
    require(
        missed <= _TIE * float(scores.max()),
        head,
        f"{where}: each pixel's label must be the class of its best score",
        got=f"a label whose score is {missed:.3g} below the best",
        remedy="take the maximum of the returned scores, after resizing",
    )


def _check_padding(head: Head, one: HeadOutput) -> None:
    """Check that mask logits outside the valid part, beyond one cell of interpolation, have no influence."""
    valid, size = (32, 48), (40, 60)
    rows, columns = valid[0] // 4 + 2, valid[1] // 4 + 2
    changed = one.mask_logits.clone()
    changed[..., rows:, :], changed[..., columns:] = 9, 9
    same = torch.equal(head.segment(one, valid, size), head.segment(evolve(one, mask_logits=changed), valid, size))
    require(
        same,
        head,
        "segment must not look at the padding",
        got="labels that change with mask logits outside valid_size",
        remedy="crop to valid_size before resizing to size",
    )
