"""The demo's HTML report: the table, predictions before and after, pseudo-labels before and after refinement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from clouds.core.images import open_image, read_image
from clouds.core.pipeline import Pipeline
from clouds.data.folder import Dataset
from clouds.evaluation import html
from clouds.evaluation.confusion import count_confusion, mean_iou
from clouds.synthesis.generated_set import GeneratedSet

_PER_DOMAIN, _GENERATED, _MEASURED = 2, 6, 60
Row = tuple[str, float | None, float | None]


def demo_page(
    *,
    rows: Sequence[Row],
    arms: Mapping[str, Pipeline],
    teacher: Pipeline,
    unseen: Sequence[Dataset],
    generated: GeneratedSet,
    subtitle: str,
) -> str:
    """The whole page.

    Args:
        rows: (domain, source only, CLOUDS), mIoU in percent.
        arms: the trained pipelines `source-only` and `clouds`.
        teacher: the pipeline after the warm-up, which is the first teacher of self-training; it has the refiner.
        unseen: the test domains.
        generated: the generated images, with exact labels.
        subtitle: how the demo was run.
    """
    return html.page(
        "CLOUDS demo",
        [
            _scores(rows),
            html.Section(
                title="Predictions",
                note="Two images of each unseen domain.",
                content=[html.legend(teacher.labels), _predictions(arms, unseen)],
            ),
            html.Section(
                title="Generated images and their pseudo-labels",
                note="What the teacher after the warm-up says about the clean view, and what the refiner makes of it. "
                "The exact labels are known here because the images are drawn; training never sees them.",
                content=_pseudo_labels(teacher, generated),
            ),
        ],
        subtitle=subtitle,
    )


def _scores(rows: Sequence[Row]) -> html.Section:
    _, before, after = rows[-1]
    gain = None if before is None or after is None else after - before
    return html.Section(
        title="Unseen domains",
        note="mIoU in percent over the classes present. Both arms made the same number of optimizer steps from the "
        "same warm-up weights, with as many labelled images in each; the test domains use textures, palettes, layouts, "
        "weather and sensor noise that no prompt can reach.",
        content=[
            html.cards([("source only, mean", before), ("CLOUDS, mean", after), ("gain in points", gain)]),
            html.table(["domain", "source only", "CLOUDS"], rows, bars=True, footer=1),
            html.figure(_chart(rows), name="miou"),
        ],
    )


def _chart(rows: Sequence[Row]) -> object:
    from plotly.graph_objects import Bar, Figure

    domains = [row[0] for row in rows]
    chart = Figure()
    for index, name in ((1, "source only"), (2, "CLOUDS")):
        chart.add_trace(Bar(name=name, x=domains, y=[row[index] for row in rows], marker_color=html.SERIES[index - 1]))
    return chart.update_layout(barmode="group", height=320, yaxis_title="mIoU in percent")


def _predictions(arms: Mapping[str, Pipeline], unseen: Sequence[Dataset]) -> html.Fragment:
    rows: list[list[html.Picture | None]] = []
    for dataset in unseen:
        for index in range(min(_PER_DOMAIN, len(dataset))):
            image, truth = dataset.read(index)
            maps = [truth, *(arms[name].predict(image).labels for name in ("source-only", "clouds"))]
            rows.append([html.Picture(image, dataset.name), *(html.colorize(one, dataset.labels) for one in maps)])
    return html.picture_grid(["input", "label", "source only", "CLOUDS"], rows)


def _pseudo_labels(teacher: Pipeline, generated: GeneratedSet) -> list[html.Fragment]:
    labels = teacher.labels
    count = len(labels)
    totals = {name: np.zeros((count, count + 1), np.int64) for name in ("before", "after")}
    rows: list[list[html.Picture | None]] = []
    exact = generated.labels or ()
    for row, image_path, label_path in list(zip(generated.rows, generated.images, exact, strict=True))[:_MEASURED]:
        image, truth = read_image(image_path), np.array(open_image(label_path))
        before, after = _refined(teacher, image, row.index)
        totals["before"] += count_confusion(truth, before, classes=count)
        totals["after"] += count_confusion(truth, after, classes=count)
        if len(rows) < _GENERATED:
            maps = [html.colorize(one, labels) for one in (before, after, truth)]
            rows.append([html.Picture(image, row.prompt), *maps])
    quality = [
        ("pseudo-labels before refinement, mIoU", mean_iou(totals["before"])),
        ("after refinement, mIoU", mean_iou(totals["after"])),
    ]
    grid = html.picture_grid(["generated", "teacher", "refined", "exact"], rows)
    return [html.cards(quality), grid]


def _refined(teacher: Pipeline, image: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's label map of an image, and the refiner's version of it."""
    before = teacher.predict(image).labels
    if teacher.refiner is None:
        return before, before
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    rngs = [np.random.default_rng([0, index])]
    (targets,) = teacher.refiner.refine([tensor], [torch.from_numpy(before)], rngs=rngs)
    return before, targets.to_label_map().numpy()
