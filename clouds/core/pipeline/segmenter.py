"""The forward pass shared by pipeline, teacher, learner, compilation and export."""

# pyright: reportUnknownMemberType=false
# (torch has incomplete types)

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import final

from attrs import evolve
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from clouds.core.contract.adaptation import Adapter, Block, Blocks, activated
from clouds.core.contract.interfaces import Backbone, Head, ImageGenerators, MaskPooler, TextClassifier
from clouds.core.contract.records import Features, HeadOutput
from clouds.core.system.errors import ConfigError


@final
class Segmenter(nn.Module):
    """Backbone, adapter and head: predicts masks and classes from a batch of images.

    Args:
        backbone: computes features.
        head: predicts masks and classes.
        adapter: changes the features of a frozen backbone, or None. It is attached to the backbone, and active only
            within `features`, so that several segmenters can share a trunk.

    Raises:
        ConfigError: the adapter does not fit the backbone, or the backbone is not frozen.
    """

    def __init__(self, backbone: Backbone, head: Head, adapter: Adapter | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.adapter = adapter
        if adapter is not None:
            if any(True for _ in adapter.parameters()) and any(one.requires_grad for one in backbone.parameters()):
                raise ConfigError(
                    f"the adapter {type(adapter).__name__} needs a frozen backbone, but {type(backbone).__name__} is "
                    "trainable; call backbone.freeze(), or leave the adapter out"
                )
            adapter.attach(blocks_of(backbone))

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules by name, without an adapter that is None."""
        return dict(self.named_children())

    def forward(
        self,
        batch: Float[Tensor, "b 3 h w"],
        classifier: TextClassifier | None = None,
        rngs: ImageGenerators | None = None,
    ) -> HeadOutput:
        """Masks and classes at a quarter of the input size.

        Args:
            batch: RGB, 0..255; h and w are multiples of the backbone's `size_divisor`, see `pad`.
            classifier: class embeddings, for heads that use text.
            rngs: in training, one generator per image for what the head draws; None: nothing is random.
        """
        return self.head.forward_images(batch, self.backbone, self.features, classifier, rngs=rngs)

    def features(self, batch: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of the adapted backbone; `backbone(batch)` are those without the adapter."""
        if self.adapter is None:
            return self.backbone(batch)
        with activated(self.adapter):
            features = self.backbone(batch)
        queries = self.adapter.queries()
        return features if queries is None else evolve(features, queries=queries)

    def pad(self, images: Sequence[UInt8[Tensor, "3 _ _"]]) -> Float[Tensor, "b 3 h w"]:
        """Stack images to a float batch (0..255), padded at bottom and right with the mean, which normalises to 0."""
        height, width = self.network_size([(image.shape[1], image.shape[2]) for image in images])
        batch = self.backbone.mean.expand(len(images), 3, height, width).clone()
        for slot, image in zip(batch, images, strict=True):
            slot[:, : image.shape[1], : image.shape[2]] = image
        return batch

    def network_size(self, sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
        """(height, width) to which a batch of images with these sizes is padded."""
        divisor = self.backbone.size_divisor
        height, width = (-(-max(sides) // divisor) * divisor for sides in zip(*sizes, strict=True))
        return height, width


def blocks_of(backbone: Backbone) -> tuple[Block, ...]:
    """The blocks of a backbone that has the capability, else none."""
    return backbone.blocks if isinstance(backbone, Blocks) else ()


@final
class Network(nn.Module):
    """A segmenter with its class embeddings as one module in eval mode; created by `Pipeline.as_module`.

    It shares the pipeline's modules; class embeddings are buffers. For reduced precision, wrap it in `torch.autocast`.

    It works with `torch.export.export(network, (images,))` and `torch.compile(network, fullgraph=True)`; each graph is
    for one image size.

    Args:
        segmenter: backbone and head.
        classifier: class embeddings, for heads that use text; if it has a pooler, this is the backbone.
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
        """Class logits (the last is "no object") and mask logits at a quarter of the input size.

        Args:
            images: RGB, 0..255; h and w are multiples of 32, padded as by `Pipeline.pad`.
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


@contextmanager
def eval_mode(*modules: nn.Module) -> Generator[None]:
    """Eval mode within the block; afterwards each module returns to its earlier mode."""
    were = [part for module in modules for part in module.modules() if part.training]
    for module in modules if were else ():
        module.eval()
    try:
        yield
    finally:
        for part in were:
            part.training = True


@contextmanager
def first_call(backbone: Backbone) -> Generator[list[tuple[Tensor, Features]]]:
    """Images and features of the first call of the backbone inside the block."""
    calls: list[tuple[Tensor, Features]] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Features) -> None:
        if not calls:
            calls.append((inputs[0], output))

    hook = backbone.register_forward_hook(record)
    try:
        yield calls
    finally:
        hook.remove()
