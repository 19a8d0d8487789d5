"""Charts of a comparison: bars per domain with deviations, and curves over the steps with bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clouds.evaluation import html
from clouds.evaluation.arms import Arm, Score, domain_miou, mean_miou

_DASHES = ("solid", "dash", "dot")
_ROW_HEIGHT = 300  # pixels of one row of curves
_LEGEND = {"orientation": "h", "yanchor": "bottom", "xanchor": "left", "x": 0}


def domain_chart(arms: Sequence[Arm], domains: Sequence[str]) -> Any:
    """Grouped bars: a group per domain, a colour per arm, and the deviation over the seeds."""
    from plotly.graph_objects import Bar, Figure

    chart, scores = Figure(), _scores(domains)
    for index, arm in enumerate(arms):
        spreads = [arm.spread(score) for score in scores.values()]
        chart.add_trace(
            Bar(
                name=arm.name,
                x=list(scores),
                y=[None if one is None else one.mean for one in spreads],
                error_y={"type": "data", "array": [one and one.deviation for one in spreads], "color": "#888888"},
                marker=html.bar_style(index),
                hovertemplate="%{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
            )
        )
    chart.update_layout(barmode="group", bargap=0.25, height=360, showlegend=True, legend={**_LEGEND, "y": 1.02})
    chart.update_xaxes(automargin=True)
    chart.update_yaxes(rangemode="tozero", ticksuffix=" %")
    return chart


def score_curves(arms: Sequence[Arm], domains: Sequence[str]) -> Any:
    """The mIoU of the mean and of each domain over the steps, a colour per arm, in two columns."""
    from plotly.subplots import make_subplots

    scores = _scores(domains)
    columns = min(2, len(scores))
    rows = -(-len(scores) // columns)
    chart = make_subplots(rows=rows, cols=columns, subplot_titles=list(scores), vertical_spacing=0.22 / rows)
    for place, score in enumerate(scores.values()):
        row, column = divmod(place, columns)
        for index, arm in enumerate(arms):
            for trace in _curve(arm, score, index, legend=place == 0):
                chart.add_trace(trace, row=row + 1, col=column + 1)
    height = _ROW_HEIGHT * rows
    legend = {**_LEGEND, "y": 1 + 36 / height}  # above the titles of the first row
    chart.update_layout(height=height + 40, showlegend=True, legend=legend)
    chart.update_xaxes(rangemode="tozero")
    chart.update_yaxes(ticksuffix=" %")
    return chart


def _curve(arm: Arm, score: Score, index: int, *, legend: bool) -> list[Any]:
    """The line of an arm, and the band of its deviation if there are several seeds."""
    from plotly.graph_objects import Scatter

    points, shared = arm.curve(score), {"legendgroup": arm.name, "name": arm.name}
    steps = [step for step, _ in points]
    line = Scatter(
        x=steps,
        y=[one.mean for _, one in points],
        mode="lines+markers",
        line={"color": _color(index), "dash": _DASHES[index // len(html.SERIES) % len(_DASHES)]},
        marker={"size": 5},
        showlegend=legend,
        hovertemplate="step %{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
        **shared,
    )
    if len(arm.runs) == 1:
        return [line]
    high = [one.mean + (one.deviation or 0) for _, one in points]
    low = [one.mean - (one.deviation or 0) for _, one in points]
    band = Scatter(
        x=[*steps, *reversed(steps)],
        y=[*high, *reversed(low)],
        fill="toself",
        mode="lines",
        line={"width": 0, "color": _color(index)},
        opacity=0.25,
        hoverinfo="skip",
        showlegend=False,
        **shared,
    )
    return [band, line]


def _scores(domains: Sequence[str]) -> dict[str, Score]:
    """Each domain's mIoU by its name, after the mean if there are several."""
    mean = {"mean": mean_miou} if len(domains) > 1 else {}
    return {**mean, **{name: domain_miou(name) for name in domains}}


def _color(index: int) -> str:
    return html.SERIES[index % len(html.SERIES)]
