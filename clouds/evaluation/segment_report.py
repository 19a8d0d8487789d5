"""Reports of panoptic and instance segmentation. Each metric is a percentage, or None."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from attrs import asdict, frozen
from jaxtyping import Float

from clouds.core.contract.labels import LabelSpace
from clouds.evaluation import html
from clouds.evaluation.confusion import mean
from clouds.evaluation.panoptic_quality import PanopticQuality

_SUMMARIES = {
    "PQ": "pq",
    "SQ": "sq",
    "RQ": "rq",
    "PQ of things": "pq_things",
    "PQ of stuff": "pq_stuff",
    "AP": "ap",
    "AP50": "ap50",
    "images": "images",
}
_PER_CLASS = {"PQ": "class_pq", "SQ": "class_sq", "RQ": "class_rq", "AP": "class_ap", "AP50": "class_ap50"}
Figures = dict[str, float | None]  # by class name


@frozen(kw_only=True)
class SegmentScores:
    """Metrics of one domain; see `clouds.evaluation.panoptic_quality` and `average_precision`.

    Attributes:
        images: number of images.
        pq, sq, rq: means over the classes that truth or prediction has.
        pq_things, pq_stuff: means over these of them.
        ap, ap50: AP at IoU 0.5 to 0.95, and at 0.5: means over the things of the truth; None if it has none.
        class_pq, class_sq, class_rq, class_ap, class_ap50: the same by class name.
    """

    images: int
    pq: float | None
    sq: float | None
    rq: float | None
    pq_things: float | None
    pq_stuff: float | None
    ap: float | None
    ap50: float | None
    class_pq: Figures
    class_sq: Figures
    class_rq: Figures
    class_ap: Figures
    class_ap50: Figures

    @classmethod
    def of(
        cls,
        counts: Float[np.ndarray, "k 4"],
        precision: Float[np.ndarray, "t k"],
        label_space: LabelSpace,
        *,
        images: int,
    ) -> SegmentScores:
        """The metrics of `count_segments`, summed over images, and of `average_precision`."""
        quality, names = PanopticQuality.from_counts(counts), label_space.names
        pq, sq, rq = quality.means()
        ap, ap50 = (_percent(one) for one in (precision.mean(0), precision[0]))
        figures = (quality.pq, quality.sq, quality.rq, ap, ap50)
        by_class = [dict(zip(names, one, strict=True)) for one in figures]
        return cls(
            images=images,
            pq=pq,
            sq=sq,
            rq=rq,
            pq_things=quality.means(label_space.things)[0],
            pq_stuff=quality.means([not thing for thing in label_space.things])[0],
            ap=mean(ap),
            ap50=mean(ap50),
            **dict(zip(_PER_CLASS.values(), by_class, strict=True)),
        )


@frozen(kw_only=True)
class SegmentReport:
    """The result of `clouds.evaluate_segments`.

    Attributes:
        settings: how the segments were found, in words.
        domains: results by domain name, in the order of evaluation.
    """

    settings: str
    domains: dict[str, SegmentScores]

    @property
    def pq(self) -> float | None:
        """Mean PQ of the domains, in percent."""
        return mean([scores.pq for scores in self.domains.values()])

    @property
    def ap(self) -> float | None:
        """Mean AP of the domains, in percent."""
        return mean([scores.ap for scores in self.domains.values()])

    def to_json(self) -> str:
        """JSON text."""
        domains = {name: asdict(scores) for name, scores in self.domains.items()}
        document = {"settings": self.settings, "unit": "percent", "pq": self.pq, "ap": self.ap, "domains": domains}
        return json.dumps(document, indent=2, allow_nan=False)

    def to_text(self) -> str:
        """Tables for a terminal: all means, then the classes of each domain."""
        lines = [f"PQ and AP in percent; {self.settings}", html.text_table(*self._summary())]
        for name, scores in self.domains.items():
            lines += [name, html.text_table(["class", *_PER_CLASS], _class_rows(scores))]
        return "\n".join(lines)

    def to_html(self) -> str:
        """A self-contained page with the same tables."""
        sections = [html.Section(title="Means", content=[html.table(*self._summary())])]
        sections += [
            html.Section(title=name, content=[html.table(["class", *_PER_CLASS], _class_rows(scores), bars=True)])
            for name, scores in self.domains.items()
        ]
        return html.page("Panoptic and instance segmentation", sections, subtitle=self.settings)

    def _summary(self) -> tuple[list[str], list[list[html.Cell]]]:
        results = self.domains.values()
        rows = [[title, *(getattr(one, key) for one in results)] for title, key in _SUMMARIES.items()]
        return ["mean", *self.domains], rows


def _class_rows(scores: SegmentScores) -> list[list[html.Cell]]:
    """One row per class that truth or prediction has."""
    known = [name for name, value in scores.class_pq.items() if value is not None]
    return [[name, *(getattr(scores, key)[name] for key in _PER_CLASS.values())] for name in known]


def _percent(values: Sequence[float] | np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else 100 * float(value) for value in values]
