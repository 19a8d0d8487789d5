"""Pipelines beside each other on the same images: differences per class and image, and the images that changed most."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, frozen

from clouds.core.system.errors import ConfigError
from clouds.data.folder import Dataset
from clouds.evaluation import html, parts
from clouds.evaluation.evaluate import Configs, Settings, chosen_specs, open_datasets
from clouds.evaluation.examples import Examples, most_changed
from clouds.evaluation.report import Report
from clouds.evaluation.views import Predictor

if TYPE_CHECKING:
    from clouds.evaluation.pairs import Pairs


@frozen(kw_only=True)
class PipelineComparison:
    """The result of `clouds.compare_pipelines`. Differences are to the first pipeline, in points.

    Attributes:
        reports: report of each pipeline by its name; all have the same domains, classes and images.
        examples: by domain, the images whose scores changed most from the first pipeline to the last, for the page.
    """

    reports: dict[str, Report]
    examples: Examples = field(factory=dict, eq=False, repr=False)

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Domains without a labelled pixel."""
        return self._first.unmeasured

    @property
    def gains(self) -> dict[str, float | None]:
        """Points of mIoU over the first pipeline, mean of the domains, by name of the others."""
        base = self._first.miou
        others = {name: report.miou for name, report in list(self.reports.items())[1:]}
        return {name: None if miou is None or base is None else miou - base for name, miou in others.items()}

    def to_text(self) -> str:
        """mIoU of pipelines x domains for a terminal, and the IoU of each class under it."""
        header, rows = self._table()
        lines = [f"mIoU in percent; {self._first.settings}", html.text_table(header, rows)]
        for domain in self._first.domains:
            lines += [f"IoU per class on {domain}", html.text_table(*parts.class_differences(self._per_class(domain)))]
        return "\n".join(lines)

    def to_json(self) -> str:
        """JSON text: the document of `Report.to_json` by pipeline, and the gains."""
        documents = {name: json.loads(report.to_json()) for name, report in self.reports.items()}
        return json.dumps({"unit": "percent", "gains": self.gains, "pipelines": documents}, indent=2, allow_nan=False)

    def to_html(self) -> str:
        """A self-contained page: scores, differences per class and image, the images that changed most."""
        names, header_and_rows = list(self.reports), self._table()
        classes = [
            html.table(*parts.class_differences(self._per_class(domain)), bars=True, caption=domain)
            for domain in self._first.domains
        ]
        per_image = {name: report.per_image for name, report in self.reports.items()}
        sections = [
            html.Section(title="mIoU in percent", content=[html.table(*header_and_rows)]),
            html.Section(title="IoU per class", note="In percent; differences in points.", content=classes),
            parts.image_scatter(per_image),
            parts.changed_images(self.examples, first=names[0], last=names[-1]),
        ]
        return html.page("Comparison of pipelines", sections, subtitle=self._first.settings)

    @property
    def _first(self) -> Report:
        return next(iter(self.reports.values()))

    def _table(self) -> tuple[list[str], list[list[html.Cell]]]:
        rows: list[list[html.Cell]] = []
        for name, report in self.reports.items():
            gain = [html.Gain(self.gains[name])] if name in self.gains else [None]
            rows.append([name, *report.per_domain.values(), report.miou, *gain])
        return ["pipeline", *self._first.domains, "mean", "gain"], rows

    def _per_class(self, domain: str) -> dict[str, dict[str, float | None]]:
        return {name: report.domains[domain].iou for name, report in self.reports.items()}


def compare_pipelines(
    pipelines: Mapping[str, Predictor],
    specs: Sequence[str | Dataset | Pairs] = (),
    *,
    benchmark: str | None = None,
    data_root: str | os.PathLike[str] = ".",
    configs: Configs = None,
    progress: bool = False,
    **settings: Any,
) -> PipelineComparison:
    """Evaluate pipelines on the same datasets, and compare them class by class and image by image.

    All pipelines stay in memory, because the images that changed most are segmented again for the page.

    Args:
        pipelines: two or more, by name. Differences are to the first.
        specs: as `clouds.evaluate`.
        benchmark: as `clouds.evaluate`.
        data_root: as `clouds.evaluate`.
        configs: as `clouds.evaluate`.
        progress: show a progress bar on standard error if it is a terminal.
        settings: protocol, classes, scales, flip, window and batch_size, as `clouds.evaluate`.

    Raises:
        ConfigError: there are fewer than two pipelines, they have different classes, or as `clouds.evaluate`.
        DataError: a file cannot be used; the message names it.
    """
    chosen = Settings.make(benchmark=benchmark, **settings)
    check_pipelines({name: pipeline.labels.names for name, pipeline in pipelines.items()})
    labels = next(iter(pipelines.values())).labels
    datasets = open_datasets(chosen_specs(specs, benchmark, data_root), labels, configs)
    return compare_on(chosen, pipelines, datasets, progress=progress)


def compare_on(
    settings: Settings, pipelines: Mapping[str, Predictor], datasets: Mapping[str, Dataset], *, progress: bool = False
) -> PipelineComparison:
    """See `compare_pipelines`; `datasets` are those of `open_datasets`."""
    plain = evolve(settings, analysis=False, calibration=False)
    reports = {name: plain.evaluate(pipeline, datasets, progress=progress) for name, pipeline in pipelines.items()}
    first, *_, last = reports.values()
    changed = {name: most_changed(first.per_image[name], last.per_image[name]) for name in datasets}
    scores = {name: report.per_image for name, report in reports.items()}
    return PipelineComparison(reports=reports, examples=plain.examples(pipelines.items(), scores, datasets, changed))


def check_pipelines(names: Mapping[str, Sequence[str]]) -> None:
    """Check that pipelines can be compared.

    Args:
        names: class names by pipeline.

    Raises:
        ConfigError: there are fewer than two, or their classes differ.
    """
    if len(names) < 2:
        raise ConfigError(f"compare_pipelines: expected two or more pipelines by name, got {len(names)}")
    (first, expected), *others = names.items()
    for name, found in others:
        if tuple(found) != tuple(expected):
            raise ConfigError(
                f"{name}: has {_classes(found)}, but {first} has {_classes(expected)}; compare pipelines with the same "
                "label space"
            )


def _classes(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
