"""Tables in `benchmarks/README.md`, made of the rows in `benchmarks/results/`; prose has no figures of its own.

    python -m benchmarks.table            # writes them
    python -m benchmarks.table --check    # exit code 1 where they are not those of the rows

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. Of rows that measure the same on the same device, the
last one counts.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import RESULTS
from clouds.core.files import write_text

README = Path(__file__).parent / "README.md"
_BETWEEN = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_MEASURED = ("p20", "p50", "p80", "repeats", "commit", "torch", "triton", "python", "driver", "threads")
_RESULTS = ("rate", "rate_unit", "share", "ceiling", "ceilings", "peak_memory_mb")
Row = dict[str, Any]


def read_rows(name: str, folder: Path = RESULTS) -> list[Row]:
    """Rows of one file, only the last of those that measure the same; none where there is no file."""
    path = folder / f"{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows: dict[str, Row] = {}
    for line in lines:
        one = json.loads(line)
        key = {fact: value for fact, value in one.items() if fact not in (*_MEASURED, *_RESULTS)}
        rows.pop(json.dumps(key), None)  # so that the last run comes last
        rows[json.dumps(key)] = one
    return list(rows.values())


def head_table(rows: Iterable[Row]) -> str:
    """Seconds of each provider, and ratios, for each size, dtype and metric."""
    header = ("device", "image", "dtype", "what", "provider", "median", "20 % .. 80 %")
    cells = [
        (one["device"], _size(one), one["dtype"], one["metric"], one.get("peer") or one["provider"], *_spread(one))
        for one in rows
    ]
    return _table(header, cells)


def kernels_table(rows: Iterable[Row]) -> str:
    """Every form of every operation."""
    header = ("device", "operation", "pass", "image", "batch", "dtype", "form", "median", "20 % .. 80 %")
    header = (*header, "peak memory", "share of the ceiling")
    cells = [
        (
            *(one[fact] for fact in ("device", "op", "direction")),
            *(_size(one), f"{one['batch']}", one["dtype"], one["provider"]),
            *(*_spread(one), _megabytes(one), _share(one)),
        )
        for one in rows
        if one["provider"] != "device"
    ]
    return _table(header, cells)


def end_to_end_table(rows: Iterable[Row]) -> str:
    """Whole computations."""
    header = ("device", "what", "image", "batch", "dtype", "provider", "median", "20 % .. 80 %", "peak memory")
    cells = [
        (
            *(one["device"], one["metric"], _size(one), f"{one['batch']}", one["dtype"]),
            *(one.get("peer") or one["provider"], *_spread(one), _megabytes(one)),
        )
        for one in rows
    ]
    return _table(header, cells)


def predict_table(rows: Iterable[Row]) -> str:
    """Batches beside one by one."""
    header = ("device", "composition", "image", "dtype", "what", "median", "20 % .. 80 %", "peak memory")
    cells = [
        (one["device"], one["provider"], _size(one), one["dtype"], one["metric"], *_spread(one), _megabytes(one))
        for one in rows
        if "images" in one  # of a stream of images
    ]
    return _table(header, cells)


def start_table(rows: Iterable[Row]) -> str:
    """CPU-seconds of each import, pipeline and command; trees beside each other."""
    header = ("what", "metric", "provider", "median", "20 % .. 80 %")
    ordered = sorted(rows, key=lambda one: (one["metric"], one["case"]))
    cells = [(f"`{one['case']}`", one["metric"], one["provider"], *_spread(one)) for one in ordered]
    return _table(header, cells)


TABLES: dict[str, Callable[[Iterable[Row]], str]] = {
    "head": head_table,
    "kernels": kernels_table,
    "end_to_end": end_to_end_table,
    "predict": predict_table,
    "start": start_table,
}


def filled(text: str, folder: Path = RESULTS) -> str:
    """The text with its tables made anew.

    Raises:
        ValueError: a marker names no table.
    """

    def make(found: re.Match[str]) -> str:
        if found[2] not in TABLES:
            raise ValueError(f"no table {found[2]!r}; expected one of {', '.join(TABLES)}")
        return f"{found[1]}{TABLES[found[2]](read_rows(found[2], folder))}\n{found[3]}"

    return _BETWEEN.sub(make, text)


def main(arguments: Sequence[str]) -> int:
    """Write the tables, or only compare."""
    before = README.read_text(encoding="utf-8")
    after = filled(before)
    if "--check" in arguments:
        return int(before != after)
    write_text(README, after)
    return 0


def _table(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    if not cells:
        return "not measured"
    lines = (header, ["---"] * len(header), *cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _size(one: Row) -> str:
    return "x".join(map(str, one["shape"]))


def _spread(one: Row) -> tuple[str, str]:
    low, middle, high = (
        f"{value:.3g}" if value < 1000 else f"{value:,.0f}" for value in (one["p20"], one["p50"], one["p80"])
    )
    return f"{middle} {one['unit']}", f"{low} .. {high}"


def _megabytes(one: Row) -> str:
    memory = one.get("peak_memory_mb")
    return "" if memory is None else f"{memory:.4g} MB"


def _share(one: Row) -> str:
    return "" if one["share"] is None else f"{one['share']:.0%} of {one['ceiling']}"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
