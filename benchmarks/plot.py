"""Plots the rows of the operations: median time per form, one chart per operation and pass.

    python -m benchmarks.plot OUT.html [fact=value ...]     # e.g. device=cpu dtype=float32 batch=1

Rows that differ in a fact that the plot does not show are not mixed: give one value of that fact.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import RESULTS, Row, latest, read_rows
from clouds.core.system.files import write_text

_HIDDEN = ("device", "dtype", "batch", "queries")


def select(rows: Sequence[Row], facts: dict[str, str]) -> list[Row]:
    """Select rows with these facts.

    Raises:
        ValueError: there are none, or they differ in a fact that the plot does not show.
    """
    chosen = [
        one
        for one in rows
        if "op" in one and "error" not in one and all(str(one.get(name)) == value for name, value in facts.items())
    ]
    if not chosen:
        raise ValueError(f"no rows of operations with {facts or 'any facts'}; run `python -m benchmarks kernels` first")
    for name in _HIDDEN:
        values = sorted({str(one[name]) for one in chosen})
        if len(values) > 1:
            raise ValueError(f"rows differ in {name}: {', '.join(values)}; name one, as in {name}={values[0]}")
    return chosen


def figure(rows: Sequence[Row]) -> Any:
    """Bars of the median in milliseconds, from the 20th to the 80th percentile, by image size and form."""
    from plotly.graph_objects import Bar
    from plotly.subplots import make_subplots

    charts = sorted({(one["op"], one["direction"]) for one in rows})
    providers = list(dict.fromkeys(one["provider"] for one in rows))
    made = make_subplots(rows=len(charts), cols=1, subplot_titles=[" ".join(chart) for chart in charts])
    for place, chart in enumerate(charts, start=1):
        for number, provider in enumerate(providers):
            own = [one for one in rows if (one["op"], one["direction"]) == chart and one["provider"] == provider]
            bar = Bar(
                name=provider,
                x=["x".join(map(str, one["shape"])) for one in own],
                y=[one["p50"] for one in own],
                error_y={
                    "array": [one["p80"] - one["p50"] for one in own],
                    "arrayminus": [one["p50"] - one["p20"] for one in own],
                },
                marker_color=_COLORS[number % len(_COLORS)],
                legendgroup=provider,
                showlegend=place == 1,
            )
            made.add_trace(bar, row=place, col=1)
    made.update_yaxes(title_text="ms", rangemode="tozero")
    return made.update_layout(height=260 * len(charts), barmode="group", template="simple_white")


_COLORS = ("#0072b2", "#56b4e9", "#999999", "#e69f00", "#009e73", "#cc79a7", "#d55e00")  # Okabe and Ito


def main(arguments: Sequence[str]) -> int:
    """Write the plot."""
    if not arguments:
        print("expected: python -m benchmarks.plot OUT.html [fact=value ...]", file=sys.stderr)
        return 2
    facts = dict(one.split("=", 1) for one in arguments[1:])
    made = figure(select(latest(read_rows("kernels", RESULTS)), facts))
    write_text(Path(arguments[0]), made.to_html(include_plotlyjs=True))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
