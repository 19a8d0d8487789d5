"""Provenance of a folder of results, so that a continued run never mixes different ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clouds.core.system.config import flatten
from clouds.core.system.errors import DataError
from clouds.core.system.files import write_text
from clouds.core.weights.download import sha256_of


def require_provenance(path: Path, made_with: dict[str, Any], *, verb: str) -> None:
    """Write the provenance of results to their folder, or compare it with that of the earlier run.

    Args:
        path: JSON file in the folder.
        made_with: plain values.
        verb: how the results are made, for the message, such as "refined".

    Raises:
        DataError: the folder has results of another provenance, or the file is not JSON.
    """
    made_with = json.loads(json.dumps(made_with, default=str))
    if not path.exists():
        write_text(path, json.dumps(made_with, indent=2) + "\n")
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not the output of an earlier run ({error}); choose another folder") from error
    if there != made_with:
        raise DataError(f"{path.parent} was {verb} with {_different(there, made_with)}; choose another folder")


def _different(there: Any, here: dict[str, Any]) -> str:
    """What differs between two documents: "KEY A, not with B", nested keys with dots."""
    if not isinstance(there, dict):
        return f"{there}, not with {here}"
    before, now = (dict(flatten(one)) for one in (there, here))
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return "; ".join(f"{key} {before.get(key)}, not with {now.get(key)}" for key in keys)


def checkpoint_hashes(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of each file of a saved pipeline, by name; other files, such as a model card, are left out."""
    from clouds.core.pipeline.checkpoint import FILES  # imports torch

    files = (checkpoint / name for name in sorted(FILES))
    return {path.name: sha256_of(path) for path in files if path.is_file()}
