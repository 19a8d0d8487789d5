"""How well a score ranks checkpoints whose mIoU is known: Spearman's rank correlation, and what its choice costs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from attrs import frozen

from clouds.evaluation import html
from clouds.evaluation.bootstrap import RESAMPLES, SEED, Interval

_LEAST = 3  # candidates, or groups, below which nothing is said
NOTE = (
    "rank correlation (Spearman) of each label-free score with mIoU over {candidates} checkpoints; 95 % interval over "
    "{groups} groups of them ({resamples} bootstrap resamples, seed {seed}); mIoU of the checkpoint with the highest "
    "score, and points below the best checkpoint"
)


@frozen(kw_only=True)
class Candidate:
    """A checkpoint to choose or not.

    Attributes:
        name: its name.
        group: of checkpoints that are not independent, such as the seeds of one arm.
        scores: label-free scores by name, in percent.
        miou: in percent; None if it is not known.
    """

    name: str
    group: str
    scores: Mapping[str, float]
    miou: float | None = None


@frozen(kw_only=True)
class Correlation:
    """How a score ranks candidates.

    Attributes:
        rho: Spearman's rank correlation with mIoU, -1 to 1; None for fewer than 3 candidates, or equal ranks.
        interval: its 95 % bootstrap interval over groups; None for fewer than 3.
        choice: the candidate with the highest score; of equal ones the first.
        miou: its mIoU, in percent.
        loss: points of mIoU that it is below the best candidate.
    """

    rho: float | None
    interval: Interval | None
    choice: str
    miou: float
    loss: float


def rank_correlations(candidates: Sequence[Candidate]) -> dict[str, Correlation]:
    """The rank correlation of each score with mIoU, over the candidates that have both.

    Whole groups are resampled, because the checkpoints of a group resemble each other.
    """
    known = [(one, one.miou) for one in candidates if one.miou is not None]
    names = dict.fromkeys(name for one, _ in known for name in one.scores)
    return {name: _correlation(name, [(one, miou) for one, miou in known if name in one.scores]) for name in names}


def correlation_table(candidates: Sequence[Candidate]) -> tuple[str, list[str], list[list[html.Cell]]]:
    """A note, and header and rows of the table of correlations; there are no rows where no mIoU is known."""
    known = [one for one in candidates if one.miou is not None and one.scores]
    note = NOTE.format(candidates=len(known), groups=len({one.group for one in known}), resamples=RESAMPLES, seed=SEED)
    header = ["score", "rank correlation", "95 % interval", "its choice", "mIoU", "below the best"]
    rows: list[list[html.Cell]] = [
        [name, _decimals(one.rho), one.interval and _between(one.interval), one.choice, one.miou, one.loss]
        for name, one in rank_correlations(candidates).items()
    ]
    return note, header, rows


def candidate_table(candidates: Sequence[Candidate]) -> tuple[list[str], list[list[html.Cell]]]:
    """Header and rows of the table of candidates: their scores and mIoU."""
    names = list(dict.fromkeys(name for one in candidates for name in one.scores))
    rows: list[list[html.Cell]] = [
        [one.name, *(one.scores.get(name) for name in names), one.miou] for one in candidates
    ]
    return ["checkpoint", *names, "mIoU"], rows


def _correlation(name: str, known: Sequence[tuple[Candidate, float]]) -> Correlation:
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for one, miou in known:
        groups[one.group].append((one.scores[name], miou))
    choice, miou = max(known, key=lambda pair: pair[0].scores[name])
    return Correlation(
        rho=_spearman([pair for group in groups.values() for pair in group]),
        interval=_interval(list(groups.values())),
        choice=choice.name,
        miou=miou,
        loss=max(miou for _, miou in known) - miou,
    )


def _interval(groups: Sequence[Sequence[tuple[float, float]]]) -> Interval | None:
    """The interval over resampled groups; resamples whose correlation is undefined are left out."""
    if len(groups) < _LEAST:
        return None
    rng = np.random.default_rng(SEED)
    drawn = rng.integers(len(groups), size=(RESAMPLES, len(groups)))
    values = [_spearman([pair for index in row for pair in groups[index]]) for row in drawn]
    return Interval.of(np.array([math.nan if value is None else value for value in values]))


def _spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Correlation of the ranks; equal values have the mean of their ranks. None where it is undefined."""
    from scipy.stats import rankdata

    if len(pairs) < _LEAST:
        return None
    ranks = rankdata(np.array(pairs), axis=0)
    ranks -= ranks.mean(0)
    scale = math.sqrt((ranks[:, 0] ** 2).sum() * (ranks[:, 1] ** 2).sum())
    return float((ranks[:, 0] * ranks[:, 1]).sum() / scale) if scale else None


def _decimals(value: float | None) -> str | None:
    return None if value is None else f"{value:z.2f}"


def _between(interval: Interval) -> str:
    return f"{interval.low:z.2f} to {interval.high:z.2f}"
