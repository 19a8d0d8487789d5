"""Runs that differ only in their seed are one arm; what differs between the recipes of arms."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from attrs import Factory, field, frozen

from clouds.core.system.config import flatten, to_json
from clouds.core.system.errors import ConfigError
from clouds.evaluation.scores import Evaluation, ScoredRun
from clouds.evaluation.spread import Spread

Flat = dict[str, Any]  # values of a recipe by dotted key
Score = Callable[[Evaluation], float | None]
_NUMBER = re.compile(r"[-_.]?(seed|s)?[-_.]?\d+$")  # of a seed, at the end of a run's name


def _to_tuple(value: Iterable[ScoredRun]) -> tuple[ScoredRun, ...]:
    return tuple(value)


def _common_steps(arm: Any) -> tuple[int, ...]:
    evaluated = [{one.step for one in run.evaluations} for run in arm.runs]
    steps = tuple(sorted(set.intersection(*evaluated)))
    if not steps:
        names = ", ".join(run.name for run in arm.runs)
        raise ConfigError(
            f"{names}: differ only in the seed, but were never evaluated at the same step; train them with the same "
            "loop.evaluate_every, or compare them one by one"
        )
    return steps


@frozen(kw_only=True)
class Arm:
    """Runs of one recipe with different seeds.

    Attributes:
        name: its name beside other arms.
        runs: its runs, at least one.
        steps: the steps at which every run was evaluated, at least one, rising.

    Raises:
        ConfigError: the runs were never evaluated at the same step.
    """

    name: str
    runs: tuple[ScoredRun, ...] = field(converter=_to_tuple)
    steps: tuple[int, ...] = field(init=False, default=Factory(_common_steps, takes_self=True))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seed of each run."""
        return tuple(run.seed for run in self.runs)

    def values(self, score: Score, step: int | None = None) -> dict[int, float | None]:
        """A score at a step (None: the last) by seed."""
        wanted = self.steps[-1] if step is None else step
        return {
            run.seed: score(next(one for one in reversed(run.evaluations) if one.step == wanted)) for run in self.runs
        }

    def spread(self, score: Score, step: int | None = None) -> Spread | None:
        """Mean and deviation of a score over the seeds at a step (None: the last)."""
        return Spread.over(list(self.values(score, step).values()))

    def curve(self, score: Score) -> list[tuple[int, Spread]]:
        """A score at every step where it was measured."""
        found = ((step, self.spread(score, step)) for step in self.steps)
        return [(step, value) for step, value in found if value is not None]

    def best(self) -> Spread | None:
        """Mean and deviation of each run's highest mIoU."""
        scores = [[one.miou for one in run.evaluations if one.miou is not None] for run in self.runs]
        return Spread.over([max(values, default=None) for values in scores])

    def gain(self, other: Arm) -> Spread | None:
        """Points of mIoU over another arm: of equal seeds if both have the same, else of the means alone."""
        own, base = self.values(mean_miou), other.values(mean_miou)
        if own.keys() == base.keys():
            pairs = [(own[seed], base[seed]) for seed in own]
            return Spread.over([None if one is None or two is None else one - two for one, two in pairs])
        means = Spread.over(list(own.values())), Spread.over(list(base.values()))
        return None if means[0] is None or means[1] is None else Spread(means[0].mean - means[1].mean)


def mean_miou(evaluation: Evaluation) -> float | None:
    """The mean of the domains as a score."""
    return evaluation.miou


def domain_miou(name: str) -> Score:
    """The mIoU of a domain as a score."""
    return lambda evaluation: evaluation.domains[name].miou


def domain_class_iou(name: str, label: str) -> Score:
    """The IoU of a class in a domain as a score."""
    return lambda evaluation: evaluation.domains[name].iou[label]


def group_runs(runs: Sequence[ScoredRun], varies: Collection[str]) -> tuple[Arm, ...]:
    """Group runs into arms, in the order of their first runs.

    A second run with the same recipe and seed starts another arm: it may come from other code, or show noise.

    Args:
        runs: the runs.
        varies: recipe keys that may differ within an arm; the seed always may.
    """
    groups: dict[tuple[str, int], list[ScoredRun]] = {}
    seen = Counter[tuple[str, int]]()
    for run, flat in zip(runs, flat_recipes(runs), strict=True):
        kept = {key: value for key, value in flat.items() if key not in varies and key != "seed"}
        recipe = to_json(kept, sort_keys=True, default=str)
        groups.setdefault((recipe, seen[recipe, run.seed]), []).append(run)
        seen[recipe, run.seed] += 1
    members = list(groups.values())
    return tuple(Arm(name=name, runs=group) for name, group in zip(_names(members), members, strict=True))


def recipe_differences(arms: Sequence[Arm]) -> dict[str, list[list[Any]]]:
    """Values of each recipe key that differs between runs, the seed aside: per arm the different ones, in order."""
    runs = [run for arm in arms for run in arm.runs]
    flat = {run.name: one for run, one in zip(runs, flat_recipes(runs), strict=True)}
    found: dict[str, list[list[Any]]] = {}
    for key in dict.fromkeys(key for one in flat.values() for key in one):
        values = [_different(flat[run.name].get(key) for run in arm.runs) for arm in arms]
        if key != "seed" and len(_different(value for one in values for value in one)) > 1:
            found[key] = values
    return found


def flat_recipes(runs: Sequence[ScoredRun]) -> list[Flat]:
    """Recipes by dotted keys. `head = "linear"` and `head = { name = "linear" }` are the same if both occur."""
    flat = [dict(flatten(run.recipe)) for run in runs]
    tables = {key.removesuffix(".name") for one in flat for key in one if key.endswith(".name")}
    return [{f"{key}.name" if key in tables else key: value for key, value in one.items()} for one in flat]


def _different(values: Iterable[Any]) -> list[Any]:
    return list({to_json(value, sort_keys=True, default=str): value for value in values}.values())


def _names(groups: Sequence[Sequence[ScoredRun]]) -> list[str]:
    """The name of an arm's run; of several, what remains without the number of the seed, if it tells the arms apart."""
    full = [", ".join(run.name for run in group) for group in groups]
    short = [{_NUMBER.sub("", run.name) for run in group} if len(group) > 1 else set[str]() for group in groups]
    words = [one.pop() if len(one) == 1 else "" for one in short]
    return [word if word and [*words, *full].count(word) == 1 else name for word, name in zip(words, full, strict=True)]
