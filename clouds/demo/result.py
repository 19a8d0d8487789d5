"""The result of the demo: a table, and its JSON document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from clouds.demo.arms import Arm, Arms
from clouds.demo.pseudo_labels import PseudoLabelQuality
from clouds.evaluation.report import Report

Row = tuple[str, *tuple[float | None, ...]]


@frozen(kw_only=True)
class DemoResult:
    """Result of `clouds demo`.

    Attributes:
        out: folder with data, runs and report.
        report: the HTML page.
        seed, steps: settings of this run; steps are optimizer steps per arm, including the warm-up.
        scratch: the arms whose backbone starts from random weights and is trained.
        frozen: the arms on frozen ImageNet features; None without their backbone.
        upper_bound: trained with the exact labels of the generated images, on the frozen features if there are some.
        missing: what the frozen features lack, and how to install it; empty if they are there.
        seconds: duration.
    """

    out: Path
    report: Path
    seed: int
    steps: int
    scratch: Arms
    frozen: Arms | None
    upper_bound: Arm
    missing: str
    seconds: float

    @property
    def warmup(self) -> Report:
        """Evaluation after the warm-up from scratch."""
        return self.scratch.warmup.report

    @property
    def source_only(self) -> Report:
        """Evaluation of "source only" from scratch."""
        return self.scratch.source_only.report

    @property
    def clouds(self) -> Report:
        """Evaluation of "CLOUDS" from scratch."""
        return self.scratch.clouds.report

    @property
    def pseudo_labels(self) -> PseudoLabelQuality:
        """Quality of the pseudo-labels from scratch."""
        return self.scratch.pseudo_labels

    @property
    def trained(self) -> tuple[Arms, ...]:
        """The arms of all kinds of weights."""
        return (self.scratch,) if self.frozen is None else (self.scratch, self.frozen)

    @property
    def header(self) -> tuple[str, ...]:
        """Titles of the table's columns."""
        arms = [f"{arms.title}: {name}" for arms in self.trained for name in ("source only", "CLOUDS")]
        return ("mIoU in percent", *arms, "upper bound")

    def table(self) -> list[Row]:
        """Rows (domain, mIoU of each column of `header`) in percent; the last row is the mean of the domains.

        The columns are source only and CLOUDS from scratch, the same on frozen features if there are some, and the
        upper bound.
        """
        reports = self._reports()
        rows: list[Row] = [(name, *(one.per_domain[name] for one in reports)) for name in self.source_only.per_domain]
        return [*rows, ("mean", *(one.miou for one in reports))]

    def by_arm(self) -> tuple[tuple[str, ...], list[Row]]:
        """The same table with a row per arm: its header, and rows (arm, mIoU of each domain, and of their mean)."""
        domains, *columns = zip(*self.table(), strict=True)
        rows = [(name, *values) for name, values in zip(self.header[1:], columns, strict=True)]
        return ("mIoU in percent", *domains), rows

    def to_json(self) -> str:
        """The table and the settings of the run, as JSON text."""
        arms = ["source_only", "clouds", *(["frozen_source_only", "frozen_clouds"] if self.frozen else [])]
        keys = [*arms, "upper_bound"]
        document = {
            "seed": self.seed,
            "steps": self.steps,
            "unit": "mIoU in percent, over the classes present in each domain",
            "protocol": self.clouds.protocol,
            "domains": {name: dict(zip(keys, values, strict=True)) for name, *values in self.table()},
            **_facts(self.scratch),
            "frozen": None if self.frozen is None else _facts(self.frozen),
            "missing": self.missing,
            "report": str(self.report),
            "seconds": round(self.seconds, 1),
        }
        return json.dumps(document, indent=2) + "\n"

    def _reports(self) -> list[Report]:
        arms = [arm for trained in self.trained for arm in (trained.source_only, trained.clouds)]
        return [arm.report for arm in (*arms, self.upper_bound)]


def _facts(arms: Arms) -> dict[str, Any]:
    return {
        "backbone": arms.backbone,
        "warmup": arms.warmup.report.miou,
        "pseudo_labels": asdict(arms.pseudo_labels),
    }
