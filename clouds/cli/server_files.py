"""Label maps as test servers take them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from jaxtyping import UInt8

from clouds.core.contract.labels import CITYSCAPES, LabelSpace
from clouds.core.system.errors import ConfigError
from clouds.core.system.files import atomic_file


def raw_ids(label_space: LabelSpace) -> UInt8[np.ndarray, " 256"]:
    """Cityscapes id of each train id (Cordts et al., CVPR 2016); values without a class become 0, "unlabeled".

    Raises:
        ConfigError: a class is not one of Cityscapes'.
    """
    strange = [name for name in label_space.names if name not in CITYSCAPES.names]
    if strange:
        raise ConfigError(
            f"--format cityscapes-ids: label space {label_space.name!r} has {strange[0]!r}, which is not a class of "
            "Cityscapes; omit --format"
        )
    table = np.zeros(256, np.uint8)
    table[: len(label_space)] = [CITYSCAPES.ids[CITYSCAPES.index(name)] for name in label_space.names]
    return table


def write_zip(folder: Path, files: Sequence[Path]) -> None:
    """Write FOLDER.zip atomically with the files at its top level."""
    with atomic_file(folder.with_name(f"{folder.name}.zip")) as temporary, ZipFile(temporary, "w") as archive:
        for file in files:
            archive.write(file, file.name)
