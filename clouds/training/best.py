"""The best pipelines of a run: `best/`, and `best-PHASE-STEP/` for each of several."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from attrs import field, frozen

from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.system.config import within
from clouds.training.recipe import MANY, Phase

BEST = "best"
_NUMBERED = re.compile(r"best-(warmup|joint)-\d+")


@frozen(kw_only=True)
class Scored:
    """The score of the pipeline at a step of a phase, in percent."""

    score: float = field(validator=within(0, 100))
    phase: Phase
    step: int = field(validator=within(0, MANY))

    @property
    def folder(self) -> str:
        """Name of the pipeline's folder among several."""
        return f"{BEST}-{self.phase}-{self.step}"


def rank(ranking: Sequence[Scored], scored: Scored, *, keep: int) -> tuple[Scored, ...]:
    """The best `keep` scores, best first; of equal scores the earlier is better."""
    return tuple(sorted((*ranking, scored), key=lambda one: -one.score)[:keep])


def save_best(pipeline: Pipeline, folder: Path, ranking: Sequence[Scored], scored: Scored, *, keep: int) -> None:
    """Save the pipeline of the latest score if it is in the ranking, and remove those that no longer are.

    Args:
        pipeline: the pipeline that was scored.
        folder: folder of the run.
        ranking: the best scores, with the latest if it is one of them.
        scored: the latest score.
        keep: number of pipelines to keep; with 2 or more, each is also in `best-PHASE-STEP/`.
    """
    if scored == ranking[0]:
        pipeline.save(folder / BEST)
    if keep > 1 and scored in ranking:
        pipeline.save(folder / scored.folder)
    kept = {one.folder for one in ranking} if keep > 1 else set[str]()
    for path in folder.iterdir():
        if _NUMBERED.fullmatch(path.name) and path.name not in kept:
            shutil.rmtree(path)
