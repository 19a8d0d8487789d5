"""Rejected images: `rejected.jsonl` beside the manifest, so that a later run does not repeat them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from attrs import asdict, frozen

from clouds.core.system.config import structure
from clouds.core.system.errors import ConfigError, DataError
from clouds.core.system.files import target_in
from clouds.synthesis.manifest import append_line

FILE_NAME = "rejected.jsonl"


@frozen(kw_only=True)
class Rejection:
    """A rejected image.

    Attributes:
        index: number of the image.
        prompt, seed: prompt and seed of the request.
        rejected_by: name of the rejecting filter.
        scores, filters: score and minimum score by filter name.
    """

    index: int
    prompt: str
    seed: int
    rejected_by: str
    scores: dict[str, float]
    filters: dict[str, float]


def add_rejection(folder: Path, rejection: Rejection) -> None:
    """Append to the file; it is created if missing."""
    with open(target_in(folder, FILE_NAME), "a+b") as stream:
        append_line(stream, asdict(rejection))


def read_rejections(folder: Path, filters: Mapping[str, float]) -> dict[tuple[int, str], list[int]]:
    """Seeds that exactly these filters rejected, by index and prompt; empty without a file.

    Raises:
        DataError: the file is invalid.
    """
    path = folder / FILE_NAME
    seeds: dict[tuple[int, str], list[int]] = {}
    if not path.exists():
        return seeds
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):  # a partial line of a killed run
            continue
        try:
            rejection = structure(json.loads(line), Rejection, source=str(path))
        except (ValueError, RecursionError, ConfigError) as error:
            raise DataError(f"{path}: not a list of rejected images ({error}); remove it to try them again") from error
        if rejection.filters == filters:
            seeds.setdefault((rejection.index, rejection.prompt), []).append(rejection.seed)
    return seeds
