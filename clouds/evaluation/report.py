"""The report of an evaluation: figures per domain and class. Every figure is in percent, finite, or None."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import asdict, frozen
from jaxtyping import Int

from clouds.core.config import structure
from clouds.core.errors import ConfigError, did_you_mean
from clouds.evaluation import html
from clouds.evaluation.confusion import class_iou, mean, mean_iou, pixel_accuracy

PROTOCOLS = {
    "native": "each image at its own size, scored at the size of its label",
    "published": "image and label resized to a short side of 1024 pixels, scored at that size",
}
_SUMMARIES = 3  # rows below the classes


@frozen(kw_only=True)
class DomainResult:
    """How well one domain was segmented.

    Attributes:
        miou: mean IoU in percent over the classes of the ground truth; None when nothing is labelled.
        iou: by class name, in percent; None for a class that the ground truth does not have.
        pixel_accuracy: share of labelled pixels that are right, in percent.
        images: how many there were.
        confusion: pixel counts, [ground truth][prediction]; the last column is "ignore".
    """

    miou: float | None
    iou: dict[str, float | None]
    pixel_accuracy: float | None
    images: int
    confusion: list[list[int]]

    @classmethod
    def from_counts(cls, counts: Int[np.ndarray, "k k+1"], *, names: Sequence[str], images: int) -> DomainResult:
        """Make all figures from confusion counts."""
        return cls(
            miou=mean_iou(counts),
            iou=dict(zip(names, class_iou(counts), strict=True)),
            pixel_accuracy=pixel_accuracy(counts),
            images=images,
            confusion=counts.tolist(),
        )


@frozen(kw_only=True)
class Report:
    """The result of `clouds.evaluate`.

    Attributes:
        protocol: "native" or "published"; figures of different protocols cannot be compared.
        domains: results by domain name, in the order of evaluation.
    """

    protocol: str
    domains: dict[str, DomainResult]

    def __attrs_post_init__(self) -> None:
        check_protocol(self.protocol)

    @property
    def per_domain(self) -> dict[str, float | None]:
        """mIoU by domain, in percent."""
        return {name: result.miou for name, result in self.domains.items()}

    @property
    def miou(self) -> float | None:
        """Mean of the domains' mIoU, in percent."""
        return mean(list(self.per_domain.values()))

    def to_json(self) -> str:
        """JSON text; `from_json` is the way back."""
        document = {
            "protocol": self.protocol,
            "unit": "percent",
            "miou": self.miou,
            "per_domain": self.per_domain,
            "domains": {name: asdict(result) for name, result in self.domains.items()},
        }
        return json.dumps(document, indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read what `to_json` wrote. Raises `ConfigError` when it is something else."""
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"report: not JSON: {error}") from error
        if not isinstance(document, dict) or not {"protocol", "domains"} <= set(document):
            raise ConfigError(
                "report: expected a JSON object with 'protocol' and 'domains'; was it written by to_json?"
            )
        return structure({key: document[key] for key in ("protocol", "domains")}, cls, source="report")

    def to_text(self) -> str:
        """A table for a terminal: classes x domains, under a line with the mean and the protocol."""
        from rich import box
        from rich.console import Console
        from rich.table import Table

        header, rows = self._rows()
        grid = Table(box=box.SIMPLE_HEAD)
        for index, title in enumerate(header):
            grid.add_column(title, justify="right" if index else "left", no_wrap=True)
        for index, row in enumerate(rows):
            grid.add_row(*(html.number(cell) for cell in row), end_section=index == len(rows) - _SUMMARIES - 1)
        console = Console(width=10_000)  # the table takes what it needs; nothing is cut off
        with console.capture() as capture:
            console.print(grid, markup=False)
        headline = f"mIoU {html.number(self.miou)} % over {len(self.domains)} domains, {self._protocol()}"
        return "\n".join([headline, *(line.rstrip() for line in capture.get().splitlines())])

    def to_html(self) -> str:
        """A self-contained page: headline figures, a chart and a table of all classes and domains."""
        header, rows = self._rows()
        figures: list[tuple[str, html.Cell]] = [("mIoU, mean of the domains", self.miou)]
        figures += [(f"mIoU on {name}", value) for name, value in self.per_domain.items()]
        sections = [
            html.Section(title="mIoU in percent", content=[html.cards(figures)]),
            html.Section(title="IoU per class", content=[html.figure(self._chart(), name="iou")]),
            html.Section(
                title="All figures",
                note="IoU in percent. A dash marks a class that the ground truth of the domain does not have.",
                content=[html.table(header, rows, bars=True, footer=_SUMMARIES)],
            ),
        ]
        return html.page("Evaluation", sections, subtitle=self._protocol())

    def _protocol(self) -> str:
        return f"protocol {self.protocol}: {PROTOCOLS[self.protocol]}"

    def _classes(self) -> list[str]:
        return list(dict.fromkeys(name for result in self.domains.values() for name in result.iou))

    def _rows(self) -> tuple[list[str], list[list[html.Cell]]]:
        """Header and rows of the table: one row per class, then the summaries."""
        results = list(self.domains.values())
        rows: list[list[html.Cell]] = [
            [name, *(result.iou.get(name) for result in results)] for name in self._classes()
        ]
        rows.append(["mIoU", *(result.miou for result in results)])
        rows.append(["pixel accuracy", *(result.pixel_accuracy for result in results)])
        rows.append(["images", *(result.images for result in results)])
        return ["class", *self.domains], rows

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
                    marker={"color": html.SERIES[index % len(html.SERIES)], "cornerradius": 3},
                    hovertemplate="%{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
                )
            )
        chart.update_layout(
            barmode="group", bargap=0.25, height=380, showlegend=True, legend={"orientation": "h", "y": 1.12}
        )
        chart.update_xaxes(automargin=True)
        chart.update_yaxes(range=[0, 100], ticksuffix=" %")
        return chart


def check_protocol(name: str) -> None:
    """Raise `ConfigError` unless `name` is a protocol."""
    if name not in PROTOCOLS:
        raise ConfigError(f"unknown evaluation protocol {name!r}{did_you_mean(name, PROTOCOLS)}")
