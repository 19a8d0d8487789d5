"""Parts that pages of results share: confusions, calibration, sizes and boundaries, differences, chosen images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from clouds.evaluation import html
from clouds.evaluation.analysis import BANDS, SIZES, Analysis, Pixels
from clouds.evaluation.calibration import Calibration
from clouds.evaluation.examples import Example, Examples, PerImage
from clouds.evaluation.pictures import CHANGES, ERRORS, change_pictures, error_pictures
from clouds.evaluation.spread import Spread

_MOST_FREQUENT = 10  # confusions in the list


def confusions(matrices: Mapping[str, Int[np.ndarray, "k k+1"]], names: Sequence[str]) -> html.Section:
    """The confusion matrix of each domain, or of each arm, in percent of the true class.

    Args:
        matrices: counts of `count_confusion` by title.
        names: class names.
    """
    content: list[html.Fragment] = []
    for title, counts in matrices.items():
        rows = _frequent(counts, names)
        header = ["truth", "predicted as", "pixels", "percent of the truth"]
        frequent = html.table(header, rows, bars=True) if rows else html.text("No pixel is wrong.")
        whole = html.folded(f"Confusion matrix of {title}", _matrix(counts, names))
        content += [html.heading(title), frequent, whole]
    return html.Section(
        title="Confusions",
        note=f"The {_MOST_FREQUENT} most frequent confusions; the matrix has all. Shares are in percent of the pixels "
        "of the true class.",
        content=content,
    )


def calibration(domains: Mapping[str, Calibration]) -> html.Section:
    """Reliability diagram and expected calibration error of each domain."""
    errors = [[name, one.ece] for name, one in domains.items()]
    bins = [
        html.folded(
            f"Bins of {name}",
            html.table(
                ["confidence over", "pixels", "mean confidence", "correct"],
                [
                    [f"{100 * place / len(one.bins):.1f} %", bin.pixels, bin.confidence, bin.accuracy]
                    for place, bin in enumerate(one.bins)
                ],
            ),
        )
        for name, one in domains.items()
    ]
    return html.Section(
        title="Calibration",
        note="Confidence is the share of the best class in the sum of a pixel's scores. ECE, the expected calibration "
        "error, is the mean difference between confidence and accuracy over 15 bins, in percent (Guo et al., 2017). "
        "Below the diagonal the model is too sure.",
        content=[
            html.table(["domain", "ECE"], errors),
            html.figure(
                _reliability(domains),
                name="calibration",
                alt="Reliability diagram: accuracy by confidence; the bins are in the tables",
            ),
            *bins,
        ],
    )


def sizes_and_boundaries(domains: Mapping[str, Analysis]) -> html.Section:
    """Accuracy by size of the true region and by distance from the next true boundary."""
    sizes = {name: one.all_sizes() for name, one in domains.items()}
    by_class = [
        html.folded(
            f"Sizes by class on {name}",
            html.table(
                ["class", *SIZES],
                [
                    [label, *(found[size].accuracy for size in SIZES)]
                    for label, found in one.sizes.items()
                    if any(found[size].labelled for size in SIZES)
                ],
                heat=True,
            ),
        )
        for name, one in domains.items()
    ]
    bands = {name: one.bands for name, one in domains.items()}
    regions = [[size, *(one[size].regions for one in sizes.values())] for size in SIZES]
    return html.Section(
        title="Size and boundaries",
        note="Correct pixels in percent. A region is a connected area of one class in the truth, its size a share of "
        "the image. Distances are in pixels from the next boundary of the truth.",
        content=[
            _accuracies(sizes, SIZES, first="size of the region", name="sizes"),
            html.folded("Number of regions", html.table(["size of the region", *domains], regions)),
            *by_class,
            _accuracies(bands, BANDS, first="distance in pixels", name="bands"),
        ],
    )


def worst_to_best(examples: Examples) -> html.Section:
    """The worst, median and best images of each domain, with error maps."""
    content = [part for name, ones in examples.items() if ones for part in (html.heading(name), error_pictures(ones))]
    return html.Section(
        title="Worst, median and best images",
        note=f"By the mean IoU of the image over its classes. {ERRORS}",
        content=[*_legend(examples), *content],
    )


def changed_images(examples: Examples, *, first: str, last: str) -> html.Section:
    """The images that changed most from the first model to the last."""
    content = [part for name, ones in examples.items() if ones for part in (html.heading(name), change_pictures(ones))]
    return html.Section(
        title="Images that changed most",
        note=f"By the difference of the image's mean IoU, {last} against {first}. {CHANGES}",
        content=[*_legend(examples), *content] if content else [html.text("No image changed.")],
    )


def class_differences(
    models: Mapping[str, Mapping[str, Spread | float | None]],
) -> tuple[list[str], list[list[html.Cell]]]:
    """Header and rows of a table of classes: the figure of each model, and its difference to the first in points.

    Args:
        models: figure by class name, by name of the model; all have the same classes. Differences of spreads are those
            of their means.
    """
    first, *others = models
    header = ["class", *models, *(f"{name} − {first}" for name in others)]
    rows: list[list[html.Cell]] = []
    for label, base in models[first].items():
        values = [one[label] for one in models.values()]
        gains = [_gain(base, one) for one in values[1:]]
        rows.append([label, *values, *gains])
    return header, rows


def image_scatter(models: Mapping[str, Mapping[str, PerImage]], *, name: str = "images") -> html.Section:
    """The score of every image with the first model against that with each other one.

    Args:
        models: mIoU of each image by domain, by name of the model; all have the same images.
        name: of the figures, unique on the page.
    """
    first, *others = models
    content: list[html.Fragment] = []
    for place, other in enumerate(others):
        content += [html.heading(f"{other} against {first}")]
        chart, rows = _scatter(models, first, other), list[list[html.Cell]]()
        for domain, images in models[first].items():
            pairs = [(one, models[other][domain][image]) for image, one in images.items()]
            gains = [two - one for one, two in pairs if one is not None and two is not None]
            better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
            rows.append(
                [
                    domain,
                    better,
                    worse,
                    len(gains) - better - worse,
                    html.Gain(sum(gains) / len(gains) if gains else None),
                ]
            )
        alt = f"Scatter plot: mean IoU of each image, {other} against {first}; the table counts the images"
        header = ["domain", f"images better with {other}", "worse", "equal", "mean difference in points"]
        content += [html.figure(chart, name=f"{name}-{place}", alt=alt), html.table(header, rows)]
    return html.Section(
        title="Image by image",
        note="Mean IoU of each image. Above the diagonal, the later one is better.",
        content=content,
    )


def _gain(base: Spread | float | None, value: Spread | float | None) -> html.Gain:
    one, two = (figure.mean if isinstance(figure, Spread) else figure for figure in (base, value))
    return html.Gain(None if one is None or two is None else two - one)


def _accuracies(
    domains: Mapping[str, Mapping[str, Pixels]], groups: Sequence[str], *, first: str, name: str
) -> html.Fragment:
    """A chart of accuracies by group, a line per domain, above a table with the same numbers."""
    from plotly.graph_objects import Figure, Scatter

    chart = Figure()
    for index, (domain, found) in enumerate(domains.items()):
        values = [found[group].accuracy for group in groups]
        chart.add_trace(
            Scatter(
                name=domain, x=list(groups), y=values, mode="lines+markers", connectgaps=True, **html.line_style(index)
            )
        )
    chart.update_layout(height=320, showlegend=True, legend={"orientation": "h", "y": 1.15})
    chart.update_xaxes(title=first, type="category")
    chart.update_yaxes(range=[0, 102], ticksuffix=" %")
    rows = [[group, *(one[group].accuracy for one in domains.values())] for group in groups]
    drawn = html.figure(chart, name=name, alt=f"Correct pixels by {first}; the numbers are in the table")
    listed = html.table([first, *domains], rows, heat=True)
    return html.Fragment(f"<h3>Correct pixels by {first}</h3>{drawn.html}{listed.html}", plotly=True)


def _scatter(models: Mapping[str, Mapping[str, PerImage]], first: str, other: str) -> Any:
    from plotly.graph_objects import Figure, Scatter

    chart = Figure()
    chart.add_trace(_diagonal("equal"))
    for index, (domain, images) in enumerate(models[first].items()):
        points = [(image, score, models[other][domain][image]) for image, score in images.items()]
        known = [point for point in points if None not in point]
        chart.add_trace(
            Scatter(
                name=domain,
                text=[image for image, _, _ in known],
                x=[score for _, score, _ in known],
                y=[score for _, _, score in known],
                mode="markers",
                hovertemplate="%{text}: %{x:.1f} to %{y:.1f} %<extra>%{fullData.name}</extra>",
                **html.line_style(index),
            )
        )
    _square(chart, f"{first}, mIoU in percent", f"{other}, mIoU in percent")
    return chart


def _reliability(domains: Mapping[str, Calibration]) -> Any:
    """Accuracy by confidence, a line per domain."""
    from plotly.graph_objects import Figure, Scatter

    chart = Figure()
    chart.add_trace(_diagonal("perfect calibration"))
    for index, (name, one) in enumerate(domains.items()):
        known = [bin for bin in one.bins if bin.pixels]
        chart.add_trace(
            Scatter(
                name=name,
                x=[bin.confidence for bin in known],
                y=[bin.accuracy for bin in known],
                mode="lines+markers",
                hovertemplate="confidence %{x:.1f} %: %{y:.1f} % correct<extra>%{fullData.name}</extra>",
                **html.line_style(index),
            )
        )
    _square(chart, "mean confidence in percent", "correct pixels in percent")
    return chart


def _matrix(counts: Int[np.ndarray, "k k+1"], names: Sequence[str]) -> html.Fragment:
    """Shares of the pixels of each true class, for the classes that truth or prediction has."""
    titles, known, used = (
        [*names, "ignore"],
        np.flatnonzero(counts.sum(1)).tolist(),
        np.flatnonzero(counts.sum(0)).tolist(),
    )
    shares = 100 * counts[known] / counts[known].sum(axis=1, keepdims=True)
    rows = [[names[truth], *map(float, row[used])] for truth, row in zip(known, shares, strict=True)]
    return html.table(["truth \\ prediction", *(titles[one] for one in used)], rows, heat=True)


def _frequent(counts: Int[np.ndarray, "k k+1"], names: Sequence[str]) -> list[list[html.Cell]]:
    """True class, predicted class, pixels and their share of the true class, for the most frequent confusions."""
    titles, sizes = [*names, "ignore"], counts.sum(axis=1).tolist()
    found = [
        (pixels, truth, seen)
        for truth, row in enumerate(counts.tolist())
        for seen, pixels in enumerate(row)
        if pixels and seen != truth
    ]
    found.sort(key=lambda one: (-one[0], one[1:]))
    return [
        [names[truth], titles[seen], pixels, 100 * pixels / sizes[truth]]
        for pixels, truth, seen in found[:_MOST_FREQUENT]
    ]


def _diagonal(name: str) -> Any:
    from plotly.graph_objects import Scatter

    line = {"color": "#888888", "dash": "dot", "width": 1}
    return Scatter(name=name, x=[0, 100], y=[0, 100], mode="lines", line=line, hoverinfo="skip")


def _square(chart: Any, x: str, y: str) -> None:
    """Axes in percent for a figure with a diagonal."""
    chart.update_layout(height=440, showlegend=True, legend={"orientation": "h", "y": 1.1})
    chart.update_xaxes(title=x, range=[0, 102])
    chart.update_yaxes(title=y, range=[0, 102])


def _legend(examples: Examples) -> list[html.Fragment]:
    """The classes that truths and predictions of the examples have."""
    found = [one for ones in examples.values() for one in ones]
    return [html.legend(found[0].label_space, _present(found))] if found else []


def _present(examples: Sequence[Example]) -> set[int]:
    maps = [labels for one in examples for labels in (one.truth, *one.predictions.values())]
    return {int(value) for labels in maps for value in np.unique(labels)}
