"""`dataset.toml`: what a dataset says about its own label files.

[labels]
encoding = "ids"            # "trainIds" (default), "ids" or "color"
[labels.mapping]            # more values, or all of them
"0" = "ignore"
[fold]                      # predictions only, for datasets with coarser classes
rider = "bicycle"
terrain = "ignore"
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import cattrs
import numpy as np
from attrs import field, fields, frozen
from cattrs.strategies import configure_union_passthrough

from clouds.core.errors import ConfigError, did_you_mean
from clouds.core.labels import LabelSpace
from clouds.data.encodings import LabelEncoding, fold_table, label_encoding

FILE_NAME = "dataset.toml"


@frozen(kw_only=True)
class LabelSettings:
    """Table `[labels]`: arguments of `clouds.data.encodings.label_encoding`."""

    encoding: str | None = None
    mapping: dict[str, str | int] = field(factory=dict)


@frozen(kw_only=True)
class DatasetConfig:
    """A whole `dataset.toml`.

    Attributes:
        labels: how label files are encoded.
        fold: predicted class name -> class name or "ignore".
    """

    labels: LabelSettings = field(factory=LabelSettings)
    fold: dict[str, str] = field(factory=dict)


def read_dataset_config(path: Path | None, labels: LabelSpace) -> tuple[LabelEncoding, np.ndarray | None]:
    """Read the label encoding and the fold table (uint8 "256", or None) from a file; None gives the defaults.

    Raises:
        ConfigError: the file is missing or not TOML, or has a wrong key or value; the message names file and key.
    """
    if path is None:
        return label_encoding(labels), None
    config = _structure(path, _load(path))
    try:
        encoding = label_encoding(labels, config.labels.encoding, config.labels.mapping)
        fold = fold_table(labels, config.fold)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return encoding, fold


def _load(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error


def _structure(path: Path, table: dict[str, object]) -> DatasetConfig:
    converter = cattrs.Converter(forbid_extra_keys=True)
    configure_union_passthrough(str | int, converter)
    try:
        return converter.structure(table, DatasetConfig)
    except cattrs.BaseValidationError as error:
        raise ConfigError(f"{path}: {'; '.join(cattrs.transform_error(error, '', _describe))}") from error


def _describe(error: BaseException, kind: type | None) -> str:
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        known = [one.name for one in fields(error.cl)]
        return ", ".join(f"unknown key {key!r}{did_you_mean(key, known)}" for key in sorted(error.extra_fields))
    return cattrs.v.format_exception(error, kind)
