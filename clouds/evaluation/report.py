"""Evaluation reports: metrics per domain and class. Each metric is a finite percentage, or None."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import asdict, field, frozen
from jaxtyping import Float64, Int

from clouds.core.system.config import structure
from clouds.core.system.errors import ConfigError
from clouds.evaluation import html, parts
from clouds.evaluation.analysis import Analysis
from clouds.evaluation.boundary import boundary_iou
from clouds.evaluation.calibration import Calibration
from clouds.evaluation.confusion import (
    class_accuracy,
    class_iou,
    frequency_weighted_iou,
    mean,
    pixel_accuracy,
)
from clouds.evaluation.examples import Examples
from clouds.evaluation.protocols import classes_of, find_protocol
from clouds.evaluation.views import Views

# Summary rows below the classes: title -> attribute of a result.
_SUMMARIES = {
    "mIoU": "miou",
    "frequency weighted IoU": "fwiou",
    "mean accuracy": "mean_accuracy",
    "pixel accuracy": "pixel_accuracy",
    "mean Boundary IoU": "boundary_miou",
    "images": "images",
}


_OPTIONAL = ("analysis", "calibration")


@frozen(kw_only=True)
class DomainResult:
    """Metrics of one domain. Means are over the classes of the ground truth; None if it has none.

    Attributes:
        miou: mean IoU.
        fwiou: IoU weighted by the number of ground truth pixels per class.
        mean_accuracy: mean class accuracy.
        pixel_accuracy: share of labelled pixels that are correct.
        boundary_miou: mean Boundary IoU.
        images: number of images.
        iou: IoU by class name.
        accuracy: share of a class's pixels that are correct, by class name.
        boundary_iou: Boundary IoU by class name, see `clouds.evaluation.boundary`.
        confusion: pixel counts, [ground truth][prediction]; the last column is "ignore".
        per_image: mIoU of each image by its name; None without a labelled pixel.
        analysis: accuracy by size of region and by distance from boundaries; None if it was not asked for.
        calibration: confidence and accuracy; None if it was not asked for.
    """

    miou: float | None
    fwiou: float | None
    mean_accuracy: float | None
    pixel_accuracy: float | None
    boundary_miou: float | None
    images: int
    iou: dict[str, float | None]
    accuracy: dict[str, float | None]
    boundary_iou: dict[str, float | None]
    confusion: list[list[int]]
    per_image: dict[str, float | None] = field(factory=dict, repr=False)
    analysis: Analysis | None = None
    calibration: Calibration | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        """Classes that are absent from the ground truth. Means are over the others."""
        return tuple(name for name, value in self.iou.items() if value is None)

    @classmethod
    def from_counts(
        cls,
        confusion: Int[np.ndarray, "k k+1"],
        boundaries: Int[np.ndarray, "k 3"],
        *,
        names: Sequence[str],
        images: int,
        per_image: Mapping[str, float | None] | None = None,
        classes: str = "",
        sizes: Int[np.ndarray, "k s 3"] | None = None,
        bands: Int[np.ndarray, "d 2"] | None = None,
        confidences: Float64[np.ndarray, "m 3"] | None = None,
    ) -> DomainResult:
        """Compute all metrics from the counts of `clouds.evaluation.counts`, summed over images.

        Means are over the class set `classes`; figures of a class count confusions with every other class.
        """
        ious, accuracies, contours = class_iou(confusion), class_accuracy(confusion), boundary_iou(boundaries)
        rows = [list(names).index(name) for name in classes_of(classes, names)]
        return cls(
            miou=mean([ious[row] for row in rows]),
            fwiou=frequency_weighted_iou(confusion, rows),
            mean_accuracy=mean([accuracies[row] for row in rows]),
            pixel_accuracy=pixel_accuracy(confusion, rows),
            boundary_miou=mean([contours[row] for row in rows]),
            images=images,
            iou=dict(zip(names, ious, strict=True)),
            accuracy=dict(zip(names, accuracies, strict=True)),
            boundary_iou=dict(zip(names, contours, strict=True)),
            confusion=confusion.tolist(),
            per_image=dict(per_image or {}),
            analysis=None if sizes is None or bands is None else Analysis.from_counts(sizes, bands, names=names),
            calibration=None if confidences is None else Calibration.from_counts(confidences),
        )


@frozen(kw_only=True)
class Report:
    """The result of `clouds.evaluate`.

    Attributes:
        protocol: a name of `clouds list protocols`; metrics of different protocols are not comparable.
        views: test-time augmentation; metrics with different views are not comparable either.
        classes: class set of all means, such as "synthia-16"; empty for all classes.
        domains: results by domain name, in the order of evaluation.
        examples: the worst, median and best images by domain, for the page; they are not in JSON.
    """

    protocol: str
    views: Views = field(factory=Views)
    classes: str = ""
    domains: dict[str, DomainResult]
    examples: Examples = field(factory=dict, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        find_protocol(self.protocol)
        classes_of(self.classes, ())

    @property
    def per_domain(self) -> dict[str, float | None]:
        """mIoU by domain, in percent."""
        return {name: result.miou for name, result in self.domains.items()}

    @property
    def per_image(self) -> dict[str, dict[str, float | None]]:
        """mIoU of each image by its name, by domain, in percent."""
        return {name: result.per_image for name, result in self.domains.items()}

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Domains without a labelled pixel."""
        return tuple(name for name, value in self.per_domain.items() if value is None)

    @property
    def miou(self) -> float | None:
        """Mean mIoU of the measured domains, in percent."""
        return mean(list(self.per_domain.values()))

    def to_json(self) -> str:
        """JSON text that `from_json` reads."""
        document = {
            "protocol": self.protocol,
            "settings": str(find_protocol(self.protocol)),
            "views": asdict(self.views),
            "classes": self.classes,
            "unit": "percent",
            "miou": self.miou,
            "per_domain": self.per_domain,
            "missing": {name: list(result.missing) for name, result in self.domains.items()},
            "domains": {name: _document(result) for name, result in self.domains.items()},
        }
        return json.dumps(document, indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Parse the output of `to_json`. Raises `ConfigError` for other text."""
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"report: not JSON: {error}") from error
        if not isinstance(document, dict) or not {"protocol", "domains"} <= set(document):
            raise ConfigError(
                "report: expected a JSON object with 'protocol' and 'domains'; was it written by to_json?"
            )
        known = {key: document[key] for key in ("protocol", "views", "classes", "domains") if key in document}
        return structure(known, cls, source="report")

    def to_text(self) -> str:
        """A table for a terminal: IoU of classes x domains, and means, under a line with the mean and the protocol.

        Accuracy and Boundary IoU per class are in JSON and HTML.
        """
        table = html.text_table(*self._rows(), footer=len(_SUMMARIES))
        known = len(self.domains) - len(self.unmeasured)
        over = f"{known} of {len(self.domains)}" if self.unmeasured else f"{known}"
        headline = f"mIoU {html.number(self.miou)} % over {over} domains, {self.settings}"
        return "\n".join([headline, table, *self._gaps()])

    def to_html(self) -> str:
        """A self-contained page: headline figures, a chart, tables of all classes and domains, and confusions.

        Analysis, calibration and pictures are added if they were asked for.
        """
        header, rows = self._rows()
        figures: list[tuple[str, html.Cell]] = [("mIoU, mean of the domains", self.miou)]
        figures += [(f"mIoU on {name}", value) for name, value in self.per_domain.items()]
        sections = [
            html.Section(title="mIoU in percent", content=[html.cards(figures)]),
            html.Section(
                title="IoU per class",
                content=[
                    html.figure(
                        self._chart(),
                        name="iou",
                        alt="Bars of the IoU of each class and domain; the numbers are in the table",
                    )
                ],
            ),
            html.Section(
                title="All figures",
                note=" ".join(
                    ["IoU in percent. A dash marks a class that is absent from the ground truth of the domain."]
                    + [f"{line}." for line in self._gaps()]
                ),
                content=[
                    html.table(header, rows, heat=True, footer=len(_SUMMARIES)),
                    self._details("Accuracy per class: the share of its pixels that are correct", "accuracy"),
                    self._details("Boundary IoU per class: within 2 % of the diagonal of contours", "boundary_iou"),
                ],
            ),
            *self._parts(),
        ]
        return html.page("Evaluation", sections, subtitle=self.settings)

    def _parts(self) -> list[html.Section]:
        """The parts of the page that other pages have, too."""
        results = self.domains.items()
        analyses = {name: one.analysis for name, one in results if one.analysis is not None}
        calibrations = {name: one.calibration for name, one in results if one.calibration is not None}
        matrices = {name: np.array(one.confusion, np.int64) for name, one in results if name not in self.unmeasured}
        return [
            *([parts.worst_to_best(self.examples)] if self.examples else []),
            *([parts.confusions(matrices, self._classes())] if matrices else []),
            *([parts.sizes_and_boundaries(analyses)] if analyses else []),
            *([parts.calibration(calibrations)] if calibrations else []),
        ]

    @property
    def settings(self) -> str:
        """Protocol, views and class set, in words."""
        views = str(self.views)
        words = [f"protocol {self.protocol}: {find_protocol(self.protocol)}", *([views] if views else [])]
        if self.classes:
            words.append(f"means over the {len(classes_of(self.classes, self._classes()))} classes of {self.classes}")
        return "; ".join(words)

    def _gaps(self) -> list[str]:
        """A line per domain whose ground truth lacks classes."""
        lines: list[str] = []
        for name, result in self.domains.items():
            classes = classes_of(self.classes, result.iou)
            missing = [one for one in result.missing if one in classes]
            if len(missing) == len(classes):
                lines.append(f"{name}: no labelled pixel in {result.images} images, so nothing is measured")
            elif missing:
                known = len(classes) - len(missing)
                lines.append(
                    f"{name}: means over {known} of {len(classes)} classes; its labels lack {', '.join(missing)}"
                )
        return lines

    def _classes(self) -> list[str]:
        return list(dict.fromkeys(name for result in self.domains.values() for name in result.iou))

    def _rows(self) -> tuple[list[str], list[list[html.Cell]]]:
        """Header and rows of the table: IoU per class, then the summaries."""
        results = self.domains.values()
        summaries = [[title, *(getattr(result, key) for result in results)] for title, key in _SUMMARIES.items()]
        return ["class", *self.domains], [*self._per_class("iou"), *summaries]

    def _per_class(self, figure: str) -> list[list[html.Cell]]:
        """One row per class with a metric that results have by class name."""
        results = self.domains.values()
        return [[name, *(getattr(result, figure).get(name) for result in results)] for name in self._classes()]

    def _details(self, title: str, figure: str) -> html.Fragment:
        """A collapsible table."""
        return html.folded(title, html.table(["class", *self.domains], self._per_class(figure), bars=True))

    def _chart(self) -> Any:
        """Grouped bars: a group per class, a colour per domain."""
        from plotly.graph_objects import Bar, Figure

        results = self.domains.values()
        classes = [label for label in self._classes() if any(result.iou.get(label) is not None for result in results)]
        chart = Figure()
        for index, (name, result) in enumerate(self.domains.items()):
            chart.add_trace(
                Bar(
                    name=name,
                    x=classes,
                    y=[result.iou.get(label) for label in classes],
                    marker=html.bar_style(index),
                    hovertemplate="%{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
                )
            )
        chart.update_layout(
            barmode="group", bargap=0.25, height=380, showlegend=True, legend={"orientation": "h", "y": 1.12}
        )
        chart.update_xaxes(automargin=True)
        chart.update_yaxes(range=[0, 100], ticksuffix=" %")
        return chart


def _document(result: DomainResult) -> dict[str, Any]:
    """The fields of a result, without those that were not asked for."""
    return {key: value for key, value in asdict(result).items() if value is not None or key not in _OPTIONAL}
