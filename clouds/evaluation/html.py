"""Self-contained HTML pages with tables, figures and image grids. A page never loads anything from a network.

Pages work with a keyboard and a screen reader: `page.js` lets users sort tables and enlarge pictures with buttons.
Colour is never the only sign: numbers stand in their cells, figures have a description, and pictures a text.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
from attrs import field, frozen
from jaxtyping import UInt8
from PIL import Image

from clouds.core.contract.labels import IGNORE_ID, LabelSpace
from clouds.evaluation.spread import Spread


@frozen
class Gain:
    """A difference in a cell, drawn with its sign."""

    value: float | Spread | None


Cell = str | int | float | Spread | Gain | None
_WRITTEN = re.compile(r"[+-]?\d+(\.\d+)?( to [+-]?\d+(\.\d+)?)?")  # 0.82, or -1.2 to 3.4: sorted by its first number
_UNLABELLED = (24, 24, 27)
_NAMED = 5  # classes in the text of a label map
_FULL_GAIN = 5  # percent of the strongest colour per point: 20 points have it
# In this order distinguishable with common forms of colour blindness, and readable on light and dark pages.
SERIES = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#d4a72c", "#9d755d")
_HATCHES = ("", "/", ".", "x")
_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon")
_POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@frozen
class Fragment:
    """A piece of HTML; `plotly` marks that it needs the plotly script."""

    html: str
    plotly: bool = False


def _to_tuple(value: Iterable[Fragment]) -> tuple[Fragment, ...]:
    return tuple(value)


@frozen(kw_only=True)
class Section:
    """A part of a page under a heading; `note` is a sentence below the heading."""

    title: str
    content: tuple[Fragment, ...] = field(converter=_to_tuple)
    note: str = ""


@frozen(eq=False)
class Picture:
    """An image for a grid.

    Attributes:
        pixels: uint8 "h w 3", RGB.
        caption: text below the image; may be empty.
        lossless: PNG with sharp pixels, for label maps; otherwise JPEG.
        alt: what the picture shows, for those who do not see it; the caption if empty.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    caption: str = ""
    lossless: bool = False
    alt: str = ""


def page(title: str, sections: Iterable[Section], *, subtitle: str = "") -> str:
    """A complete HTML document for light and dark mode; plotly.js is inlined once if needed."""
    parts = list(sections)
    script = ""
    if any(fragment.plotly for section in parts for fragment in section.content):
        from plotly.offline import get_plotlyjs

        script = f"<script>{get_plotlyjs()}</script>"
    style, behaviour = (
        files("clouds.evaluation").joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    body = "".join(_section(section) for section in parts)
    lead = f'<p class="lead">{escape(subtitle)}</p>' if subtitle else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style>{script}</head>"
        f"<body><main><header><h1>{escape(title)}</h1>{lead}</header>{body}</main>"
        f"<script>{behaviour}</script></body></html>\n"
    )


def text(words: str) -> Fragment:
    """A paragraph."""
    return Fragment(f"<p>{escape(words)}</p>")


def heading(words: str) -> Fragment:
    """A heading within a section."""
    return Fragment(f"<h3>{escape(words)}</h3>")


def cards(figures: Sequence[tuple[str, Cell]]) -> Fragment:
    """Headline figures: (title, value)."""
    inner = "".join(
        f'<div class="card"><span class="value">{escape(number(value))}</span>'
        f'<span class="what">{escape(what)}</span></div>'
        for what, value in figures
    )
    return Fragment(f'<div class="cards">{inner}</div>')


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    bars: bool = False,
    heat: bool = False,
    footer: int = 0,
    caption: str = "",
) -> Fragment:
    """A table that users can sort by any column; the first column has the row headings.

    Args:
        header: one title per column.
        rows: floats get one decimal, None becomes a dash, and a `Gain` its sign.
        bars: show numbers as percentages with bars behind them.
        heat: show numbers as percentages on a colour that grows with them.
        footer: number of summary rows at the end; they stay there.
        caption: a title above the table.
    """
    kinds = ["word" if any(_is_word(row[i]) for row in rows) else "number" for i in range(len(header))]
    head = "".join(
        f'<th scope="col" class="{kind}">{escape(one)}</th>' for one, kind in zip(header, kinds, strict=True)
    )
    lines = [_row(row, kinds) for row in rows]
    cut = len(lines) - footer
    foot = f"<tfoot>{''.join(lines[cut:])}</tfoot>" if footer else ""
    look = " ".join(name for name, chosen in (("bars", bars), ("heat", heat)) if chosen)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return Fragment(
        f'<div class="scroll"><table class="{look}">{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines[:cut])}</tbody>{foot}</table></div>"
    )


def text_table(header: Sequence[str], rows: Sequence[Sequence[Cell]], *, footer: int = 0) -> str:
    """The same table for a terminal; a line stands above the `footer` last rows."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD)
    for index, title in enumerate(header):
        grid.add_column(title, justify="right" if index else "left", no_wrap=True)
    for index, row in enumerate(rows):
        grid.add_row(*map(number, row), end_section=index == len(rows) - footer - 1)
    console = Console(width=10_000, color_system=None, emoji=False)  # wide enough that nothing is cut off
    with console.capture() as capture:
        console.print(grid, markup=False)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def folded(title: str, content: Fragment) -> Fragment:
    """Collapsible content under a heading."""
    return Fragment(f"<details><summary>{escape(title)}</summary>{content.html}</details>", content.plotly)


def bar_style(index: int) -> dict[str, Any]:
    """Marker of a series of bars: a colour, hatched where the colours begin again, so that 32 series differ."""
    again, place = divmod(index, len(SERIES))
    return {"color": SERIES[place], "cornerradius": 3, "pattern": {"shape": _HATCHES[again % len(_HATCHES)]}}


def line_style(index: int) -> dict[str, Any]:
    """Marker and line of a series of points: 32 series differ, and the first 8 also without their colours."""
    again, place = divmod(index, len(SERIES))
    color, dash = SERIES[place], _DASHES[(place + again) % len(_DASHES)]
    return {
        "marker": {"color": color, "size": 8, "symbol": _SYMBOLS[place]},
        "line": {"color": color, "dash": dash},
    }


def figure(plot: Any, *, name: str, alt: str) -> Fragment:
    """A plotly figure.

    Args:
        plot: the figure.
        name: unique on the page.
        alt: what it shows, for those who do not see it; its numbers should also stand in a table.
    """
    plot.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "inherit", "size": 13},
        margin={"l": 48, "r": 12, "t": 16, "b": 40},
    )
    inner = plot.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"figure-{name}",
        config={"displayModeBar": False, "responsive": True},
    )
    return Fragment(f'<div class="figure" role="img" aria-label="{escape(alt)}">{inner}</div>', plotly=True)


def picture_grid(columns: Sequence[str], rows: Sequence[Sequence[Picture | None]]) -> Fragment:
    """Images in rows under labelled columns; None leaves a cell empty."""
    head = "".join(f'<div class="column">{escape(one)}</div>' for one in columns)
    body = "".join(_picture(picture, column) for row in rows for picture, column in zip(row, columns, strict=True))
    grid = f'<div class="pictures" style="--columns:{len(columns)}">{head}{body}</div>'
    return Fragment(f'<div class="scroll">{grid}</div>')


def legend(label_space: LabelSpace, present: Iterable[int] | None = None) -> Fragment:
    """Class names with their colours; `present` limits them to some train ids."""
    ids = range(len(label_space)) if present is None else sorted(set(present) - {IGNORE_ID})
    entries = [(label_space.names[i], label_space.palette[i]) for i in ids] + [("not labelled", _UNLABELLED)]
    inner = "".join(
        f'<span class="key"><i style="background:rgb({r},{g},{b})"></i>{escape(name)}</span>'
        for name, (r, g, b) in entries
    )
    return Fragment(f'<div class="legend">{inner}</div>')


def colorize(label_map: UInt8[np.ndarray, "h w"], label_space: LabelSpace, *, caption: str = "") -> Picture:
    """A label map in the palette's colours; 255 is nearly black. Its text names the largest classes."""
    pixels = np.bincount(label_map.ravel(), minlength=256)
    largest = [index for index in np.argsort(-pixels, kind="stable")[:_NAMED] if pixels[index]]
    names = [*label_space.names, *["not labelled"] * (256 - len(label_space))]
    shares = ", ".join(f"{names[index]} {100 * pixels[index] / label_map.size:.0f} %" for index in largest)
    colors = label_space.color_table(other=_UNLABELLED)
    return Picture(colors[label_map], caption, lossless=True, alt=f"{caption} {shares}".strip())


def number(value: Cell) -> str:
    """Text of a cell: one decimal for floats and spreads, a dash for None and non-finite numbers."""
    if isinstance(value, Gain):
        written = number(value.value)
        return f"+{written}" if _share(value) > 0 else written.replace("-", "\N{MINUS SIGN}")
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:z.1f}" if isinstance(value, float) else str(value)


def _section(section: Section) -> str:
    note = f'<p class="note">{escape(section.note)}</p>' if section.note else ""
    return f"<section><h2>{escape(section.title)}</h2>{note}{''.join(one.html for one in section.content)}</section>"


def _is_word(value: Cell) -> bool:
    """Whether a cell sorts as a text; numbers and ranges may be written as text, too."""
    return isinstance(value, str) and not _WRITTEN.fullmatch(value)


def _row(row: Sequence[Cell], kinds: Sequence[str]) -> str:
    cells = [_cell(value, kind) for value, kind in zip(row[1:], kinds[1:], strict=True)]
    return f'<tr><th scope="row">{escape(number(row[0]))}</th>{"".join(cells)}</tr>'


def _cell(value: Cell, kind: str) -> str:
    share = _share(value)
    if isinstance(value, Gain) and math.isfinite(share):
        kind += " gain" if share > 0 else " loss" if share < 0 else ""
        share = min(100.0, _FULL_GAIN * abs(share))
    style = f' style="--share:{share:.1f}%"' if math.isfinite(share) else ""
    return f'<td class="{kind}"{style}>{escape(number(value))}</td>'


def _share(value: Cell) -> float:
    """The number in a cell as its look shows it; NaN if there is none."""
    while isinstance(value, (Gain, Spread)):
        value = value.value if isinstance(value, Gain) else value.mean
    return value if isinstance(value, float) else math.nan


def _picture(picture: Picture | None, column: str) -> str:
    if picture is None:
        return "<figure></figure>"
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>" if picture.caption else ""
    kind = ' class="sharp"' if picture.lossless else ""
    alternative = escape(f"{column} {picture.alt or picture.caption}".strip())
    return f'<figure><img{kind} src="{_data_uri(picture)}" alt="{alternative}" loading="lazy">{caption}</figure>'


def _data_uri(picture: Picture) -> str:
    buffer = io.BytesIO()
    kind, options = ("png", {"optimize": True}) if picture.lossless else ("jpeg", {"quality": 88})
    Image.fromarray(picture.pixels).save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
