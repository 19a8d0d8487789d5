"""The demo's HTML report: the scores, predictions of all arms, pseudo-labels before and after refinement."""

from __future__ import annotations

from collections.abc import Sequence

from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.system.images import read_image
from clouds.data.encodings import label_encoding
from clouds.data.folder import Dataset
from clouds.data.label_files import read_label_pixels
from clouds.demo.pseudo_labels import pseudo_labels
from clouds.demo.result import DemoResult
from clouds.evaluation import html
from clouds.synthesis.generated_set import GeneratedSet

_PER_DOMAIN, _GENERATED = 2, 6


def demo_page(result: DemoResult, unseen: Sequence[Dataset], generated: GeneratedSet) -> str:
    """The report as an HTML page.

    Args:
        result: the table, and the trained pipelines.
        unseen: the test domains.
        generated: the generated images, with exact labels.
    """
    labels = result.scratch.warmup.pipeline.labels
    return html.page(
        "CLOUDS demo",
        [
            _scores(result),
            html.Section(
                title="Predictions",
                note="Two images of each unseen domain.",
                content=[html.legend(labels), _predictions(result, unseen)],
            ),
            _generated(result, generated),
        ],
        subtitle=f"seed {result.seed}, {result.steps} optimizer steps per arm, {result.seconds:.0f} seconds",
    )


def _scores(result: DemoResult) -> html.Section:
    best = result.trained[-1]
    before, after = best.source_only.report.miou, best.clouds.report.miou
    gain = None if before is None or after is None else after - before
    cards = html.cards(
        [
            (f"source only, {best.title}", before),
            (f"CLOUDS, {best.title}", after),
            ("gain in points", gain),
            ("upper bound", result.upper_bound.report.miou),
        ]
    )
    return html.Section(
        title="Unseen domains",
        note="mIoU in percent over the classes present. With the same weights, all arms made the same number of "
        "optimizer steps from the same warm-up, with as many labelled source images per step. The upper bound learns "
        "the exact labels of the generated images instead of the teacher's. The test domains use textures, palettes, "
        "layouts, weather and sensor noise that no prompt can produce.",
        content=[
            *([html.text(result.missing)] if result.missing else []),
            cards,
            html.table(*result.by_arm(), bars=True),
            html.figure(_chart(result), name="miou", alt="Bars of the same scores"),
        ],
    )


def _chart(result: DemoResult) -> object:
    from plotly.graph_objects import Bar, Figure

    (_, *domains), rows = result.by_arm()
    chart = Figure()
    for index, (name, *values) in enumerate(rows):
        chart.add_trace(Bar(name=name, x=domains, y=values, marker=html.bar_style(index)))
    return chart.update_layout(barmode="group", height=320, yaxis_title="mIoU in percent")


def _predictions(result: DemoResult, unseen: Sequence[Dataset]) -> html.Fragment:
    arms = [arm.pipeline for trained in result.trained for arm in (trained.source_only, trained.clouds)]
    rows: list[list[html.Picture | None]] = []
    for dataset in unseen:
        for index in range(min(_PER_DOMAIN, len(dataset))):
            image, truth = dataset.read(index)
            maps = [truth, *(arm.predict(image).labels for arm in arms)]
            rows.append([html.Picture(image, dataset.name), *(html.colorize(one, dataset.label_space) for one in maps)])
    return html.picture_grid(["input", "label", *result.header[1:-1]], rows)


def _generated(result: DemoResult, generated: GeneratedSet) -> html.Section:
    cards = [
        (f"{what}, {arms.title}", value)
        for arms in result.trained
        for what, value in (
            ("pseudo-labels before refinement, mIoU", arms.pseudo_labels.before),
            ("after refinement, mIoU", arms.pseudo_labels.after),
        )
    ]
    return html.Section(
        title="Generated images and their pseudo-labels",
        note="Predictions of the teacher after the warm-up on the clean view, before and after refinement. "
        "The exact labels are known because the images are drawn; only the upper bound learns them.",
        content=[
            html.cards(cards),
            _pseudo_labels(result.trained[-1].warmup.pipeline, generated),
        ],
    )


def _pseudo_labels(teacher: Pipeline, generated: GeneratedSet) -> html.Fragment:
    rows: list[list[html.Picture | None]] = []
    exact, train_ids = generated.labels or (), label_encoding(teacher.labels, "trainIds")
    for row, image_path, label_path in list(zip(generated.rows, generated.images, exact, strict=True))[:_GENERATED]:
        image, truth = read_image(image_path), read_label_pixels(label_path, train_ids)
        maps = [html.colorize(one, teacher.labels) for one in (*pseudo_labels(teacher, image, row.index), truth)]
        rows.append([html.Picture(image, row.prompt), *maps])
    return html.picture_grid(["generated", "teacher", "refined", "exact"], rows)
