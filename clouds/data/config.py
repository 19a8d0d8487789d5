"""`dataset.toml`: settings of a dataset.

max_pixels = 400_000_000    # size limit; larger images are refused before they are decoded
[labels]
encoding = "ids"            # "trainIds", "ids", "color", or that of a published dataset: "gta5", "mapillary-v1.2", ...
[labels.mapping]            # additional values, or all of them
"0" = "ignore"
[fold]                      # applied to predictions only, for datasets with coarser classes
rider = "bicycle"
terrain = "ignore"
[converted]                 # written by `clouds datasets convert`: the source of each split
train = "gta5:/data/gta5:train"
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from attrs import field, frozen

from clouds.core.contract.labels import LabelSpace
from clouds.core.system.config import read_toml, structure
from clouds.core.system.errors import ConfigError
from clouds.core.system.images import MAX_PIXELS
from clouds.data.encodings import IGNORE, LabelEncoding, fold_table, label_encoding

FILE_NAME = "dataset.toml"


@frozen(kw_only=True)
class LabelSettings:
    """Table `[labels]`: arguments of `clouds.data.encodings.label_encoding`."""

    encoding: str | None = None
    mapping: dict[str, Any] = field(factory=dict)


@frozen(kw_only=True)
class DatasetConfig:
    """A whole `dataset.toml`.

    Attributes:
        labels: encoding of the label files.
        fold: predicted class name -> class name or "ignore".
        converted: split -> source of its conversion.
        max_pixels: size limit; larger images and labels are refused before they are decoded.
    """

    labels: LabelSettings = field(factory=LabelSettings)
    fold: dict[str, str] = field(factory=dict)
    converted: dict[str, str] = field(factory=dict)
    max_pixels: int = MAX_PIXELS

    def __attrs_post_init__(self) -> None:
        if self.max_pixels < 1:
            raise ConfigError(f"max_pixels is {self.max_pixels}; expected at least 1")


def mapped_classes(path: Path) -> tuple[str, ...]:
    """Class names in `[labels.mapping]` of a file, in order. Raises `ConfigError` as `read_dataset_config` does."""
    mapping = structure(read_toml(path), DatasetConfig, source=str(path)).labels.mapping
    names = [name for name in mapping.values() if isinstance(name, str) and name != IGNORE]
    return tuple(dict.fromkeys(names))


def read_dataset_config(
    path: Path | None, label_space: LabelSpace, *, encoding: str = "trainIds"
) -> tuple[LabelEncoding, np.ndarray | None, int]:
    """Read the label encoding, the fold table (uint8 "256", or None) and `max_pixels` from a file.

    Args:
        path: the file; None gives the defaults.
        label_space: label space to decode into.
        encoding: name of the encoding if the file has no table `[labels]`.

    Raises:
        ConfigError: the file is missing or not TOML, or has an invalid key or value; the message names file and key.
    """
    if path is None:
        return label_encoding(label_space, encoding), None, MAX_PIXELS
    config = structure(read_toml(path), DatasetConfig, source=str(path))
    labels = config.labels if config.labels != LabelSettings() else LabelSettings(encoding=encoding)
    try:
        return (
            label_encoding(label_space, labels.encoding, labels.mapping),
            fold_table(label_space, config.fold),
            config.max_pixels,
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
