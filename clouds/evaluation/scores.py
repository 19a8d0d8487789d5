"""Scores of a run while it trains: mIoU per domain and IoU per class, at each step that was evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import Attribute, field, frozen
from attrs.validators import optional

from clouds.core.system.config import within
from clouds.evaluation.confusion import mean
from clouds.evaluation.report import Report

_percent = within(0, 100)


def _percentages(record: Any, attribute: Attribute[Any], value: Mapping[str, float | None]) -> None:
    for one in value.values():
        if one is not None:
            _percent(record, attribute, one)


@frozen(kw_only=True)
class DomainScores:
    """Scores of one domain, in percent; None where its labels have no pixel.

    Attributes:
        images: number of images.
        miou: mean IoU over the classes of the labels.
        iou: IoU by class name.
    """

    images: int = field(validator=within(0))
    miou: float | None = field(validator=optional(_percent))
    iou: dict[str, float | None] = field(validator=_percentages)


Domains = dict[str, DomainScores]  # by domain name


def domain_scores(report: Report) -> Domains:
    """The scores of a report."""
    return {
        name: DomainScores(images=result.images, miou=result.miou, iou=result.iou)
        for name, result in report.domains.items()
    }


def mean_miou(domains: Domains) -> float | None:
    """Mean mIoU of the measured domains, in percent."""
    return mean([scores.miou for scores in domains.values()])


def as_numbers(domains: Domains) -> dict[str, float]:
    """The scores that were measured, as numbers with one name each: `miou/DOMAIN` and `iou/DOMAIN/CLASS`."""
    found: dict[str, float | None] = {f"miou/{name}": scores.miou for name, scores in domains.items()}
    for name, scores in domains.items():
        found |= {f"iou/{name}/{label}": value for label, value in scores.iou.items()}
    return {name: value for name, value in found.items() if value is not None}


@frozen(kw_only=True)
class Evaluation:
    """Scores at one step of a run.

    Attributes:
        step: optimizer steps of the run so far, over all its phases.
        domains: scores by domain name.
    """

    step: int
    domains: Domains

    @property
    def miou(self) -> float | None:
        """Mean mIoU of the measured domains, in percent."""
        return mean_miou(self.domains)


def _to_tuple(value: Iterable[Evaluation]) -> tuple[Evaluation, ...]:
    return tuple(value)


@frozen(kw_only=True)
class ScoredRun:
    """What a comparison needs to know of a run.

    Attributes:
        name: its name beside the others.
        recipe: its recipe as plain values.
        evaluations: its scores, by rising step.
    """

    name: str
    recipe: dict[str, Any]
    evaluations: tuple[Evaluation, ...] = field(converter=_to_tuple)

    @property
    def seed(self) -> int:
        """Seed of the recipe."""
        return self.recipe["seed"]
