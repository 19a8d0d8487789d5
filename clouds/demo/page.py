"""The demo's HTML report: the scores, predictions of both arms, pseudo-labels before and after refinement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.system.images import read_image
from clouds.data.encodings import label_encoding
from clouds.data.folder import Dataset
from clouds.data.label_files import read_label_pixels
from clouds.demo.pseudo_labels import PseudoLabelQuality, pseudo_labels
from clouds.evaluation import html
from clouds.synthesis.generated_set import GeneratedSet

_PER_DOMAIN, _GENERATED = 2, 6
Row = tuple[str, float | None, float | None]


def demo_page(
    *,
    rows: Sequence[Row],
    arms: Mapping[str, Pipeline],
    teacher: Pipeline,
    unseen: Sequence[Dataset],
    generated: GeneratedSet,
    quality: PseudoLabelQuality,
    subtitle: str,
) -> str:
    """The report as an HTML page.

    Args:
        rows: (domain, source only, CLOUDS), mIoU in percent.
        arms: the trained pipelines `source-only` and `clouds`.
        teacher: the pipeline after the warm-up with the refiner; it is the first teacher of self-training.
        unseen: the test domains.
        generated: the generated images, with exact labels.
        quality: quality of the teacher's pseudo-labels for them.
        subtitle: settings of the run.
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
                note="Predictions of the teacher after the warm-up on the clean view, before and after refinement. "
                "The exact labels are known because the images are drawn; training never sees them.",
                content=[
                    html.cards(
                        [
                            ("pseudo-labels before refinement, mIoU", quality.before),
                            ("after refinement, mIoU", quality.after),
                        ]
                    ),
                    _pseudo_labels(teacher, generated),
                ],
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
        "same warm-up weights, with as many labelled images per step. The test domains use textures, palettes, "
        "layouts, weather and sensor noise that no prompt can produce.",
        content=[
            html.cards([("source only, mean", before), ("CLOUDS, mean", after), ("gain in points", gain)]),
            html.table(["domain", "source only", "CLOUDS"], rows, bars=True, footer=1),
            html.figure(_chart(rows), name="miou", alt="Bars of the same scores"),
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
            rows.append([html.Picture(image, dataset.name), *(html.colorize(one, dataset.label_space) for one in maps)])
    return html.picture_grid(["input", "label", "source only", "CLOUDS"], rows)


def _pseudo_labels(teacher: Pipeline, generated: GeneratedSet) -> html.Fragment:
    rows: list[list[html.Picture | None]] = []
    exact, train_ids = generated.labels or (), label_encoding(teacher.labels, "trainIds")
    for row, image_path, label_path in list(zip(generated.rows, generated.images, exact, strict=True))[:_GENERATED]:
        image, truth = read_image(image_path), read_label_pixels(label_path, train_ids)
        maps = [html.colorize(one, teacher.labels) for one in (*pseudo_labels(teacher, image, row.index), truth)]
        rows.append([html.Picture(image, row.prompt), *maps])
    return html.picture_grid(["generated", "teacher", "refined", "exact"], rows)
