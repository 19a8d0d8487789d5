"""What a pipeline computes from pixels, as one module of tensors: for `torch.compile`, `torch.export` and serving."""

# pyright: reportUnknownMemberType=false
# (torch is typed in parts only)

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from clouds.core.contract.interfaces import Backbone, Head, MaskPooler, TextClassifier


@final
class Network(nn.Module):
    """Backbone, head and class embeddings in eval mode; made by `Pipeline.as_module`.

    It shares the modules of the pipeline, and the class embeddings are buffers of it. Precision is the caller's
    choice: wrap it in `torch.autocast`, or leave it at float32.

    `torch.export.export(network, (images,))` and `torch.compile(network, fullgraph=True)` take it as it is; a graph is
    of one image size.

    Args:
        backbone: makes features.
        head: makes masks and classes.
        classifier: class embeddings, for heads that use text; their pooler, if there is one, is the backbone.
    """

    def __init__(self, backbone: Backbone, head: Head, classifier: TextClassifier | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
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
        output = self.head(self.backbone(images), self._classifier())
        return output.class_logits, output.mask_logits

    def _classifier(self) -> TextClassifier | None:
        if self.embeddings is None or self.class_of is None or self.seen is None:
            return None
        pooler = self.backbone if self.pools and isinstance(self.backbone, MaskPooler) else None
        return TextClassifier(
            embeddings=self.embeddings,
            class_of=self.class_of,
            seen=self.seen,
            logit_scale=self.logit_scale,
            pooler=pooler,
        )
