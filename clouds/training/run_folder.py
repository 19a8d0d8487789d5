"""The folder of a run: names of its files, and its recipe and scores read back. Nothing here imports torch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from clouds.core.system.config import parse_json, structure
from clouds.core.system.errors import ConfigError, DataError
from clouds.evaluation.comparison import Comparison
from clouds.evaluation.scores import Domains, Evaluation, ScoredRun
from clouds.training.recipe import CHANGEABLE, Phase, Recipe, to_recipe

START, RECIPE, LOG = "start", "recipe.json", "log.jsonl"


@frozen(kw_only=True)
class _Line:
    """What a comparison needs of a line of the log."""

    phase: Phase
    step: int
    scores: Domains


def compare(runs: Sequence[str | os.PathLike[str]]) -> Comparison:
    """Compare training runs: scores per domain and class, their spread over seeds, and what differs in the recipes.

    Runs whose recipes differ only in their seed, and in settings that change no step (`CHANGEABLE`), are one arm.

    Args:
        runs: folders of runs that were evaluated while they trained (`loop.evaluate_every`), finished or not. Gains are
            over the first one's arm.

    Raises:
        ConfigError: a folder is not that of a run, is listed twice, has no evaluation, or scored other sets.
        DataError: a log is damaged; names the line.
    """
    folders = [Path(one) for one in runs]
    names = [folder.absolute().name for folder in folders]
    if len(set(names)) < len(names):
        names = list(map(str, folders))
    scored = [read_run(folder, name=name) for folder, name in zip(folders, names, strict=True)]
    return Comparison.from_runs(scored, varies=CHANGEABLE)


def read_run(folder: Path, *, name: str) -> ScoredRun:
    """Read the recipe of a run and the scores in its log; see `compare` for the errors."""
    for file in (RECIPE, LOG):
        if not (folder / file).is_file():
            raise ConfigError(f"{folder}: not the folder of a run: has no {file}; give the --out of clouds train")
    recipe = read_recipe(folder)
    return ScoredRun(name=name, recipe=recipe.to_dict(), evaluations=_read_evaluations(folder / LOG, recipe))


def read_recipe(folder: Path) -> Recipe:
    """Read the recipe in a run's folder. Raises `ConfigError` naming the file when it cannot be read."""
    path = folder / RECIPE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); start the run anew") from error
    return to_recipe(document, source=str(path))


def _read_evaluations(path: Path, recipe: Recipe) -> list[Evaluation]:
    """The evaluations in a log. Its last line may be unfinished, because the run may still write."""
    lines = path.read_bytes().split(b"\n")[:-1]
    warmup = recipe.warmup.steps if lines and _read_line(path, 1, lines[0]).phase == "warmup" else 0
    before: dict[Phase, int] = {"warmup": 0, "joint": warmup}
    found: list[Evaluation] = []
    for number, text in enumerate(lines, 1):
        if b'"scores"' in text:  # few lines have scores, and a long run has many lines
            line = _read_line(path, number, text)
            found.append(Evaluation(step=before[line.phase] + line.step, domains=line.scores))
    return found


def _read_line(path: Path, number: int, text: bytes) -> _Line:
    source = f"{path}, line {number}"
    try:
        row = parse_json(text)
        return structure(
            {key: row[key] for key in ("phase", "step")} | {"scores": row.get("scores", {})}, _Line, source=source
        )
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise DataError(f"{source}: not a line of a log ({type(error).__name__}: {error}); remove the line") from error
    except ConfigError as error:
        raise DataError(f"{error}; remove the line") from error
