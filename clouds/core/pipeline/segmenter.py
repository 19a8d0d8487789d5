"""The one forward pass, shared by pipeline, teacher and learner, and by what is compiled and exported."""

# pyright: reportUnknownMemberType=false
# (torch is typed in parts only)

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from clouds.core.contract.interfaces import Backbone, Head, MaskPooler, TextClassifier
from clouds.core.contract.records import HeadOutput


@final
class Segmenter(nn.Module):
    """Backbone and head, from a batch of pixels to masks and classes.

    Args:
        backbone: makes features.
        head: makes masks and classes.
    """

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, batch: Float[Tensor, "b 3 h w"], classifier: TextClassifier | None = None) -> HeadOutput:
        """Masks and classes at a quarter of the size.

        Args:
            batch: RGB, 0..255; h and w are multiples of the backbone's `size_divisor`, as `pad` makes them.
            classifier: class embeddings, for heads that use text.
        """
        return self.head(self.backbone(batch), classifier)

    def pad(self, images: Sequence[UInt8[Tensor, "3 _ _"]]) -> Float[Tensor, "b 3 h w"]:
        """One float batch (0..255), padded bottom and right with the backbone's mean, which normalises to 0."""
        height, width = self.network_size([(image.shape[1], image.shape[2]) for image in images])
        batch = self.backbone.mean.expand(len(images), 3, height, width).clone()
        for slot, image in zip(batch, images, strict=True):
            slot[:, : image.shape[1], : image.shape[2]] = image
        return batch

    def network_size(self, sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
        """(height, width) that images of these sizes are padded to together."""
        divisor = self.backbone.size_divisor
        height, width = (-(-max(sides) // divisor) * divisor for sides in zip(*sizes, strict=True))
        return height, width


@final
class Network(nn.Module):
    """A segmenter and its class embeddings as one module of tensors, in eval mode; made by `Pipeline.as_module`.

    It shares the modules of the pipeline, and the class embeddings are buffers of it. Precision is the caller's
    choice: wrap it in `torch.autocast`, or leave it at float32.

    `torch.export.export(network, (images,))` and `torch.compile(network, fullgraph=True)` take it as it is; a graph is
    of one image size.

    Args:
        segmenter: backbone and head.
        classifier: class embeddings, for heads that use text; their pooler, if there is one, is the backbone.
    """

    def __init__(self, segmenter: Segmenter, classifier: TextClassifier | None) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.embeddings: Tensor | None
        self.class_of: Tensor | None
        self.seen: Tensor | None
        for name in ("embeddings", "class_of", "seen"):
            self.register_buffer(name, getattr(classifier, name, None))
        self.logit_scale = 0.0 if classifier is None else classifier.logit_scale
        self.pools = classifier is not None and classifier.pooler is not None
        self.eval()

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b q k1"], Float[Tensor, "b q h4 w4"]]:
        """Class logits, the last of which is "no object", and mask logits at a quarter of the size.

        Args:
            images: RGB, 0..255; h and w are multiples of 32, padded as `Pipeline.pad` does.
        """
        output = self.segmenter(images, self._classifier())
        return output.class_logits, output.mask_logits

    def _classifier(self) -> TextClassifier | None:
        if self.embeddings is None or self.class_of is None or self.seen is None:
            return None
        backbone = self.segmenter.backbone
        pooler = backbone if self.pools and isinstance(backbone, MaskPooler) else None
        return TextClassifier(
            embeddings=self.embeddings,
            class_of=self.class_of,
            seen=self.seen,
            logit_scale=self.logit_scale,
            pooler=pooler,
        )
