"""The class index of a dataset: pixels per class of each label map.

`clouds datasets check --index FILE` writes it. Rare-class sampling and prompters read it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from attrs import asdict, frozen
from jaxtyping import Float, Int

from clouds.core.system.config import parse_json, structure, to_json
from clouds.core.system.errors import ConfigError
from clouds.core.system.files import write_text


@frozen(kw_only=True)
class ClassIndex:
    """Pixel counts of a dataset's label maps, and what tells this version of the dataset from others.

    Attributes:
        classes: class names, by train id.
        encoding: SHA-256 of the label encoding, because counts depend on it.
        names: image names, in the dataset's order.
        bytes: size of each label file.
        pixels: labelled pixels of each label map, by train id.
    """

    classes: tuple[str, ...]
    encoding: str
    names: tuple[str, ...]
    bytes: tuple[int, ...]
    pixels: tuple[tuple[int, ...], ...]

    @classmethod
    def read(cls, path: Path, *, remedy: str) -> ClassIndex:
        """Read an index.

        Raises:
            ConfigError: the file cannot be read, or is not a class index; the message ends with the remedy.
        """
        try:
            index = structure(parse_json(path.read_text(encoding="utf-8")), cls, source=str(path))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}: cannot be read as a class index ({error}); {remedy}") from error
        if len({len(index.names), len(index.bytes), len(index.pixels)}) > 1 or any(
            len(row) != len(index.classes) or min(row, default=0) < 0 for row in index.pixels
        ):
            raise ConfigError(f"{path}: its columns do not fit each other; {remedy}")
        return index

    @property
    def counts(self) -> Int[np.ndarray, "n k"]:
        """`pixels` as an array: images by classes."""
        return np.array(self.pixels, np.int64).reshape(len(self.names), len(self.classes))

    def write(self, path: Path) -> None:
        """Write the index as JSON, atomically."""
        write_text(path, to_json(asdict(self)) + "\n")


def class_probabilities(counts: Int[np.ndarray, "n k"], temperature: float) -> Float[np.ndarray, " k"]:
    """P(c) = softmax((1 - f_c) / T) over the classes that occur; 0 for the others.

    f_c is the class's share of all labelled pixels, as in the published code of DAFormer (Hoyer et al., CVPR 2022,
    section 3.3).
    """
    totals = counts.sum(0)
    logits = np.where(totals > 0, (1 - totals / max(1, totals.sum())) / temperature, -np.inf)
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()
