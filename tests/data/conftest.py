"""Small folder datasets, written as a user would lay them out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from folder_helpers import SIZE, Add, Pixels, save

from clouds import LabelSpace


@pytest.fixture
def labels() -> LabelSpace:
    return LabelSpace.from_names(
        ["road", "car", "sky"],
        name="toy",
        palette=[(128, 64, 128), (0, 0, 142), (70, 130, 180)],
        ids=[7, 26, 23],
    )


@pytest.fixture
def town(tmp_path: Path) -> Path:
    """The root of an empty dataset."""
    return tmp_path / "town"


@pytest.fixture
def add(town: Path) -> Add:
    """Writes pairs into the dataset."""

    def write(
        name: str,
        *,
        split: str = "train",
        image: Pixels | None = None,
        label: Pixels | None = None,
        suffix: str = ".png",
        unlabelled: bool = False,
    ) -> Path:
        pixels = np.full((*SIZE, 3), 90, np.uint8) if image is None else image
        path = town / "images" / split / f"{name}{suffix}"
        save(path, pixels)
        if not unlabelled:
            save(town / "labels" / split / f"{name}.png", np.zeros(SIZE, np.uint8) if label is None else label)
        return path

    return write
