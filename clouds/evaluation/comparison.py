"""Runs beside each other: scores per domain and class with their spread over seeds, curves, and recipe differences."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from attrs import asdict, field, frozen

from clouds.core.system.config import to_json
from clouds.core.system.errors import ConfigError
from clouds.evaluation import html, parts
from clouds.evaluation.arms import Arm, domain_class_iou, domain_miou, group_runs, mean_miou, recipe_differences
from clouds.evaluation.comparison_charts import domain_chart, score_curves
from clouds.evaluation.scores import Evaluation, ScoredRun
from clouds.evaluation.spread import Spread


def _to_tuple(value: Iterable[Arm]) -> tuple[Arm, ...]:
    return tuple(value)


@frozen(kw_only=True)
class Comparison:
    """Arms beside each other. Each has the runs of one recipe, with different seeds.

    Scores are those of the last step at which all runs of an arm were evaluated, in percent. The deviation is the
    standard deviation of a sample. Gains are over the first arm.

    Attributes:
        arms: the arms, all scored on the same sets.
    """

    arms: tuple[Arm, ...] = field(converter=_to_tuple)

    @classmethod
    def from_runs(cls, runs: Sequence[ScoredRun], *, varies: Collection[str] = ()) -> Comparison:
        """Compare runs; the first is the one that gains refer to.

        Args:
            runs: the runs, with different names.
            varies: recipe keys, such as `data.workers`, that may differ within an arm, as the seed always may.

        Raises:
            ConfigError: there is no run, two have one name, a run has no evaluation, or the runs scored different sets
                or classes, or those of an arm never at the same step.
        """
        if not runs:
            raise ConfigError("compare: expected at least one run")
        names = [run.name for run in runs]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"{name} is listed twice; list each run once")
        _check_sets(runs)
        return cls(arms=group_runs(runs, varies))

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains."""
        return tuple(self.arms[0].runs[0].evaluations[-1].domains)

    @property
    def differences(self) -> dict[str, list[list[Any]]]:
        """Values of each recipe key that differs between runs, the seed aside: per arm the different ones."""
        return recipe_differences(self.arms)

    def to_json(self) -> str:
        """All figures as JSON text."""
        document = {
            "unit": "percent",
            "domains": list(self.domains),
            "arms": [self._document(arm) for arm in self.arms],
            "differences": {
                key: {arm.name: value for arm, value in zip(self.arms, values, strict=True)}
                for key, values in self.differences.items()
            },
        }
        return to_json(document, indent=2, allow_nan=False, default=str)

    def __str__(self) -> str:
        """Tables for a terminal: scores per domain, and what differs in the recipes."""
        lines = [f"mIoU in percent; {self._note()}", html.text_table(*self._rows()), *self._warnings()]
        differences = self._difference_rows()
        if differences:
            return "\n".join(
                [*lines, "what differs in the recipes", html.text_table(self._header("setting"), differences)]
            )
        return "\n".join([*lines, "the recipes do not differ, the seed aside"])

    def to_html(self) -> str:
        """A self-contained page: scores per domain, curves, IoU per class, and what differs in the recipes."""
        runs = sum(len(arm.runs) for arm in self.arms)
        return html.page("Comparison of runs", self.sections(), subtitle=f"{runs} runs, {len(self.arms)} arms")

    def sections(self) -> list[html.Section]:
        """The parts of the page."""
        header, rows = self._rows()
        classes = [
            html.folded(name, html.table(*parts.class_differences(self._per_class(name)), bars=True))
            for name in self.domains
        ]
        differences = self._difference_rows()
        same = "The recipes do not differ, the seed aside."
        return [
            html.Section(
                title="mIoU per domain",
                note=" ".join(f"{line}." for line in (f"In percent; {self._note()}", *self._warnings())),
                content=[
                    html.table(header, rows),
                    html.figure(domain_chart(self.arms, self.domains), name="domains", alt="Bars of the same scores"),
                ],
            ),
            html.Section(
                title="mIoU during training",
                note="By optimizer steps, over all phases. Bands show one standard deviation over the seeds.",
                content=[
                    html.figure(
                        score_curves(self.arms, self.domains),
                        name="curves",
                        alt="Curves of the mIoU by step; `clouds compare --json` prints their points",
                    )
                ],
            ),
            html.Section(
                title="What differs in the recipes",
                note="" if differences else same,
                content=[html.table(self._header("setting"), differences)] if differences else [],
            ),
            html.Section(
                title="IoU per class", note="In percent, at the same steps; differences in points.", content=classes
            ),
        ]

    def _document(self, arm: Arm) -> dict[str, Any]:
        """One arm as plain values."""
        names = self.domains
        labels = {name: arm.runs[0].evaluations[-1].domains[name].iou for name in names}
        per_domain = {name: arm.values(domain_miou(name)) for name in names}
        miou = arm.values(mean_miou)
        return {
            "name": arm.name,
            "seeds": list(arm.seeds),
            "step": arm.steps[-1],
            "miou": _plain(arm.spread(mean_miou)),
            "per_domain": {name: _plain(arm.spread(domain_miou(name))) for name in names},
            "per_class": {
                name: {label: _plain(arm.spread(domain_class_iou(name, label))) for label in labels[name]}
                for name in names
            },
            "best": _plain(arm.best()),
            "gain": _plain(arm.gain(self.arms[0])),
            "curve": [
                {
                    "step": step,
                    "miou": _plain(arm.spread(mean_miou, step)),
                    "per_domain": {name: _plain(arm.spread(domain_miou(name), step)) for name in names},
                }
                for step in arm.steps
            ],
            "runs": [
                {
                    "name": run.name,
                    "seed": run.seed,
                    "miou": miou[run.seed],
                    "per_domain": {name: per_domain[name][run.seed] for name in names},
                }
                for run in arm.runs
            ],
        }

    def _note(self) -> str:
        several = any(len(arm.runs) > 1 for arm in self.arms)
        parts = ["at the last evaluation"]
        parts += ["mean ± standard deviation over seeds"] if several else []
        parts += [f"gain over {self.arms[0].name}"] if len(self.arms) > 1 else []
        return ", ".join([*parts, "best: the highest mean of each run, chosen on these sets"])

    def _warnings(self) -> list[str]:
        """What makes the scores hard to compare."""
        steps = {arm.name: arm.steps[-1] for arm in self.arms}
        if len(set(steps.values())) == 1:
            return []
        return ["the arms made different numbers of steps: " + ", ".join(f"{name} {n}" for name, n in steps.items())]

    def _rows(self) -> tuple[list[str], list[list[html.Cell]]]:
        """Header and rows of the table of domains: one row per arm."""
        several, base = len(self.arms) > 1, self.arms[0]
        header = ["arm", "seeds", "step", *self.domains, "mean", "best", *(["gain"] if several else [])]
        rows: list[list[html.Cell]] = []
        for arm in self.arms:
            figures = [arm.spread(domain_miou(name)) for name in self.domains]
            figures += [arm.spread(mean_miou), arm.best()]
            gain = [None if arm is base else arm.gain(base)] if several else []
            rows.append([arm.name, ", ".join(map(str, arm.seeds)), arm.steps[-1], *figures, *gain])
        return header, rows

    def _header(self, first: str) -> list[str]:
        return [first, *(arm.name for arm in self.arms)]

    def _per_class(self, domain: str) -> dict[str, dict[str, Spread | None]]:
        """IoU by class, by arm."""
        labels = self.arms[0].runs[0].evaluations[-1].domains[domain].iou
        return {arm.name: {label: arm.spread(domain_class_iou(domain, label)) for label in labels} for arm in self.arms}

    def _difference_rows(self) -> list[list[html.Cell]]:
        return [
            [key, *(", ".join(map(_written, value)) for value in values)] for key, values in self.differences.items()
        ]


def _plain(spread: Spread | None) -> dict[str, float | None] | None:
    return None if spread is None else asdict(spread)


def _written(value: Any) -> str:
    """A recipe's value as text; a dash where a recipe lacks the key."""
    if value is None:
        return "–"
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=str)


def _check_sets(runs: Sequence[ScoredRun]) -> None:
    """Raise `ConfigError` unless all evaluations scored the same images and classes, and there is one in each run."""
    for run in runs:
        if not run.evaluations:
            raise ConfigError(
                f"{run.name}: has no evaluation with scores per domain; train with data.evaluation and "
                "loop.evaluate_every, or leave this run out"
            )
    first = runs[0]
    expected = _sets(first.evaluations[-1])
    for run in runs:
        for evaluation in run.evaluations:
            found = _sets(evaluation)
            if found != expected:
                raise ConfigError(
                    f"{run.name}, step {evaluation.step}: scored {_describe(found, expected)}, but {first.name} scored "
                    f"{_describe(expected, found)}; compare runs that were evaluated on the same sets"
                )


def _sets(evaluation: Evaluation) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Images and classes by domain name."""
    return {name: (one.images, tuple(one.iou)) for name, one in evaluation.domains.items()}


def _describe(sets: dict[str, tuple[int, tuple[str, ...]]], others: dict[str, tuple[int, tuple[str, ...]]]) -> str:
    """The sets in words, with their number of images and classes where names alone do not tell them apart."""
    if sets.keys() != others.keys():
        return ", ".join(sets) or "nothing"
    apart = {name: one for name, one in sets.items() if one != others[name]}
    return ", ".join(f"{name} ({images} images, {len(labels)} classes)" for name, (images, labels) in apart.items())
