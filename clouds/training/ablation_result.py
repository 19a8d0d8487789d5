"""The result of an ablation: rows, a table with paired differences and intervals over images, and a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import asdict, field, frozen

from clouds.core.system.config import parse_json, to_json
from clouds.core.system.files import write_text
from clouds.data.folder import Dataset
from clouds.evaluation import html
from clouds.evaluation.arms import Arm, domain_miou, mean_miou
from clouds.evaluation.bootstrap import RESAMPLES, SEED, Interval, resampled_miou
from clouds.evaluation.comparison import Comparison
from clouds.evaluation.confusion import class_accuracy
from clouds.evaluation.rank_correlation import Candidate, candidate_table, correlation_table
from clouds.evaluation.score import describe
from clouds.evaluation.spread import Spread
from clouds.training.ablation_arms import ArmSpec
from clouds.training.ablation_images import image_sections
from clouds.training.ablation_runs import ArmRun, domain_scores

ROWS, TABLE, REPORT = "rows.jsonl", "table.txt", "report.html"
_NOTE = (
    "mIoU in percent, mean ± standard deviation over seeds; gains over {base} are differences seed by seed. Intervals: "
    "95 % over images ({resamples} bootstrap resamples, seed {seed})"
)


def _to_tuple(value: Iterable[ArmRun]) -> tuple[ArmRun, ...]:
    return tuple(value)


@frozen(kw_only=True)
class Ablation:
    """The result of `clouds.ablate`.

    Attributes:
        out: its folder.
        comparison: scores per arm, domain and class with their spread over seeds.
        intervals: per arm the 95 % intervals over images of its mIoU, and of its gain over the first arm.
        teacher: share of correct pixels, in percent, of the first teacher's labels by set and class, over the runs'
            warm-ups; empty without labels.
        runs: all runs.
        scored: the scored datasets by domain name.
        candidates: checkpoints with label-free scores; empty without `pictures`.
    """

    out: Path
    comparison: Comparison
    intervals: dict[str, tuple[Interval | None, Interval | None]]
    teacher: dict[str, dict[str, Spread | None]]
    runs: tuple[ArmRun, ...] = field(repr=False, converter=_to_tuple)
    scored: Mapping[str, Dataset] = field(repr=False)
    candidates: tuple[Candidate, ...] = field(repr=False)

    @classmethod
    def of(
        cls,
        out: Path,
        arms: Sequence[ArmSpec],
        runs: Sequence[ArmRun],
        scored: Mapping[str, Dataset],
        pictures: Mapping[str, Dataset],
        candidates: tuple[Candidate, ...] = (),
    ) -> Ablation:
        """Compare the runs of the arms."""
        members = {arm.name: [run for run in runs if run.arm == arm.name] for arm in arms}
        compared = [Arm(name=name, runs=[run.scored(scored) for run in group]) for name, group in members.items()]
        resamples = {name: resampled_miou([run.counts for run in group]) for name, group in members.items()}
        base = arms[0].name
        return cls(
            out=out,
            comparison=Comparison(arms=compared),
            intervals={
                name: (Interval.of(values), None if name == base else Interval.of(values - resamples[base]))
                for name, values in resamples.items()
            },
            teacher=_teacher(members[base], pictures),
            runs=runs,
            scored=scored,
            candidates=candidates,
        )

    def __str__(self) -> str:
        """Tables for a terminal: the arms, the first teacher's accuracy per class, and the label-free scores."""
        lines = [self._note(), html.text_table(*self._rows())]
        for name in self.teacher:
            lines += [f"correct pixels of the first teacher's labels on {name}, in percent"]
            lines += [html.text_table(["class", "correct"], self._teacher_rows(name))]
        if self.candidates:
            note, header, rows = correlation_table(self.candidates)
            lines += [note, html.text_table(header, rows), html.text_table(*candidate_table(self.candidates))]
        return "\n".join(lines)

    def to_json(self) -> str:
        """All figures as JSON text."""
        document = {
            **parse_json(self.comparison.to_json()),
            "intervals": {
                name: {"miou": own and asdict(own), "gain": gain and asdict(gain)}
                for name, (own, gain) in self.intervals.items()
            },
            "teacher": {
                name: {label: value and asdict(value) for label, value in classes.items()}
                for name, classes in self.teacher.items()
            },
            **(describe(self.candidates) if self.candidates else {}),
        }
        return to_json(document, indent=2, allow_nan=False, default=str)

    def write(self) -> None:
        """Write rows, table and page into the folder."""
        write_text(self.out / ROWS, "".join(f"{to_json(row, allow_nan=False)}\n" for row in self._documents()))
        write_text(self.out / TABLE, f"{self}\n")
        write_text(self.out / REPORT, self.to_html())

    def to_html(self) -> str:
        """A self-contained page: the arms, curves, classes, the first teacher, confusions, and images that changed."""
        header, rows = self._rows()
        arms = html.Section(title="Arms", note=f"{self._note()}.", content=[html.table(header, rows)])
        teacher = [html.table(["class", name], self._teacher_rows(name), bars=True) for name in self.teacher]
        first = html.Section(
            title="Labels of the first teacher", note="Correct pixels per class, in percent.", content=teacher
        )
        teachers, chosen = [first] if teacher else [], [self._choosing()] if self.candidates else []
        sections = [arms, *self.comparison.sections(), *teachers, *chosen, *image_sections(self.runs, self.scored)]
        return html.page("Ablation", sections, subtitle=f"{len(self.runs)} runs, {len(self.intervals)} arms")

    def _choosing(self) -> html.Section:
        note, header, rows = correlation_table(self.candidates)
        scores = html.folded("all checkpoints", html.table(*candidate_table(self.candidates)))
        return html.Section(
            title="Choosing without labels", note=f"{note}.", content=[html.table(header, rows), scores]
        )

    def _note(self) -> str:
        return _NOTE.format(base=self.comparison.arms[0].name, resamples=RESAMPLES, seed=SEED)

    def _rows(self) -> tuple[list[str], list[list[html.Cell]]]:
        """Header and rows of the table of arms."""
        base, domains = self.comparison.arms[0], self.comparison.domains
        header = ["arm", "seeds", *domains, "mean", "over images", "gain", "gain, over images"]
        rows: list[list[html.Cell]] = []
        for arm in self.comparison.arms:
            own, paired = self.intervals[arm.name]
            scores = [*(arm.spread(domain_miou(name)) for name in domains), arm.spread(mean_miou)]
            gain = None if arm is base else arm.gain(base)
            seeds = ", ".join(map(str, arm.seeds))
            rows.append([arm.name, seeds, *scores, own and str(own), gain, paired and str(paired)])
        return header, rows

    def _teacher_rows(self, name: str) -> list[list[html.Cell]]:
        return [[label, value] for label, value in self.teacher[name].items()]

    def _documents(self) -> list[dict[str, Any]]:
        """A row per arm and seed."""
        rows, label_free = list[dict[str, Any]](), {one.name: one.scores for one in self.candidates}
        for run in self.runs:
            evaluations = run.scored(self.scored).evaluations
            last = evaluations[-1]
            rows.append(
                {
                    "arm": run.arm,
                    "seed": run.joint.seed,
                    "step": last.step,
                    "miou": last.miou,
                    "domains": {name: asdict(one) for name, one in last.domains.items()},
                    "start": {name: one.miou for name, one in domain_scores(run.start, self.scored).items()},
                    **({"label_free": label_free[run.title]} if run.title in label_free else {}),
                }
            )
        return rows


def _teacher(runs: Sequence[ArmRun], pictures: Mapping[str, Dataset]) -> dict[str, dict[str, Spread | None]]:
    """Accuracy per class of the warm-ups of these runs."""
    found: dict[str, dict[str, Spread | None]] = {}
    for name, dataset in pictures.items():
        accuracies = [class_accuracy(np.asarray(run.teacher[name]).sum(axis=0)) for run in runs]
        spreads = [Spread.over(values) for values in zip(*accuracies, strict=True)]
        found[name] = dict(zip(dataset.label_space.names, spreads, strict=True))
    return found
