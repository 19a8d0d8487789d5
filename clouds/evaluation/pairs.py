"""Torch datasets of pairs (image, label map), to evaluate on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
from attrs import frozen
from jaxtyping import UInt8
from torch import Tensor

from clouds.core.contract.labels import IGNORE_ID, LabelSpace
from clouds.core.pipeline.prediction import to_pixels
from clouds.core.system.errors import ConfigError, DataError
from clouds.data.encodings import label_encoding
from clouds.data.folder import Dataset, Item
from clouds.data.spec import Spec


class Pairs(Protocol):
    """A torch Dataset with a length: item i is a pair of an image and its label map.

    The image is in any form that `Pipeline.predict` accepts. The label map has integers "h w": train ids, or 255 where
    nothing is labelled.
    """

    def __getitem__(self, index: int, /) -> Any: ...

    def __len__(self) -> int: ...


@final
@frozen(eq=False, kw_only=True)
class PairDataset(Dataset):
    """A torch Dataset in the place of files.

    Attributes:
        pairs: the torch Dataset.
    """

    pairs: Pairs

    @classmethod
    def of(cls, pairs: object, label_space: LabelSpace) -> PairDataset:
        """Name the domain by the attribute `name` of the dataset, or by its class.

        Raises:
            ConfigError: it has no length or no items by index, as an IterableDataset, or no item.
        """
        kind = type(pairs).__name__
        if not (hasattr(pairs, "__len__") and hasattr(pairs, "__getitem__")):
            raise ConfigError(
                f"evaluate: {kind} is no dataset; expected a SPEC, or a torch Dataset with a length whose items are "
                "pairs (image, label map)"
            )
        if not len(pairs):  # pyright: ignore[reportArgumentType]
            raise ConfigError(f"evaluate: {kind} is empty; expected at least one pair (image, label map)")
        name = str(getattr(pairs, "name", kind))
        return cls(
            name=name,
            spec=Spec("folder", Path(name)),
            items=[Item(f"{index}", Path(f"{name}[{index}]"), None) for index in range(len(pairs))],  # pyright: ignore[reportArgumentType]
            label_space=label_space,
            encoding=label_encoding(label_space),
            pairs=pairs,  # pyright: ignore[reportArgumentType]
        )

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
        """The image (RGB) and its label map (train ids, 255 = ignore).

        Raises:
            DataError: the item is no such pair, or image and label map differ in size.
        """
        name, pair = str(self.items[index].image), self.pairs[index]
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
            raise DataError(f"{name}: expected a pair (image, label map), got {type(pair).__name__}")
        image = to_pixels(pair[0], name=name, max_pixels=self.max_pixels)
        label = _to_label_map(pair[1], name=name, classes=len(self.label_space))
        if image.shape[:2] != label.shape:
            raise DataError(f"{name}: the image has (height, width) {image.shape[:2]}, but its label map {label.shape}")
        return image, label


def _to_label_map(value: object, *, name: str, classes: int) -> UInt8[np.ndarray, "h w"]:
    values = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise DataError(f"{name}: expected a label map of integers h x w, got {values.dtype} of shape {values.shape}")
    wrong = values[(values != IGNORE_ID) & ((values < 0) | (values >= classes))]
    if wrong.size:
        raise DataError(
            f"{name}: the label map has the value {wrong[0]}; expected train ids 0..{classes - 1}, or {IGNORE_ID} "
            "where nothing is labelled"
        )
    return values.astype(np.uint8)
