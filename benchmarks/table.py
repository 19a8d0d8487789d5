"""Generates the tables of `DOCUMENTS` from the rows in `benchmarks/results/`.

    python -m benchmarks.table            # writes the tables
    python -m benchmarks.table --check    # exit code 1 if a table differs from the rows

A table is between `<!-- table: NAME -->` and `<!-- end -->`. Of rows with the same measurement on the same device, the
last one counts; the table of compiled kernels also shows the first one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.arm_tables import ablation_classes_table, ablation_table, demo_table, label_free_table
from benchmarks.markdown import markdown_table
from benchmarks.rows import RESULTS, Row, latest, read_rows
from clouds.core.system.files import write_text

_ROOT = Path(__file__).parents[1]
DOCUMENTS = tuple(
    _ROOT / name
    for name in ("README.md", "benchmarks/README.md", "SECURITY.md", "docs/results.md", "docs/tutorials/choose.md")
)
_BETWEEN = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def head_table(rows: Iterable[Row]) -> str:
    """Seconds of each provider, and ratios, for each size, dtype and metric."""
    header = ("device", "image", "dtype", "what", "provider", "median", "20 % .. 80 %")
    cells = [
        (one["device"], _size(one), one["dtype"], one["metric"], one.get("peer") or one["provider"], *_spread(one))
        for one in latest(rows)
    ]
    return markdown_table(header, cells)


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
        for one in latest(rows)
        if one["provider"] != "device"
    ]
    return markdown_table(header, cells)


def end_to_end_table(rows: Iterable[Row]) -> str:
    """Whole computations."""
    header = ("device", "what", "image", "batch", "dtype", "provider", "median", "20 % .. 80 %", "peak memory")
    cells = [
        (
            *(one["device"], one["metric"], _size(one), f"{one['batch']}", one["dtype"]),
            *(one.get("peer") or one["provider"], *_spread(one), _megabytes(one)),
        )
        for one in latest(rows)
    ]
    return markdown_table(header, cells)


def predict_table(rows: Iterable[Row]) -> str:
    """Batches compared with single images."""
    header = ("device", "composition", "image", "dtype", "what", "median", "20 % .. 80 %", "peak memory")
    cells = [
        (one["device"], one["provider"], _size(one), one["dtype"], one["metric"], *_spread(one), _megabytes(one))
        for one in latest(rows)
        if "images" in one  # of a stream of images
    ]
    return markdown_table(header, cells)


def cluster_table(rows: Iterable[Row]) -> str:
    """Files that differ between one process and a cluster whose worker was killed."""
    header = ("pictures", "size", "files", "workers killed", "files that differ", "seconds alone", "on the cluster")
    cells = [
        (
            *(f"{one['images']:,}", _size(one), f"{one['files']:,}", f"{one['killed']}", f"{one['p50']:.0f}"),
            *(f"{one[name]:,.0f}" for name in ("alone_seconds", "cluster_seconds")),
        )
        for one in latest(rows)
    ]
    return markdown_table(header, cells)


def evaluation_table(rows: Iterable[Row]) -> str:
    """The evaluation beside the model alone, and its parts."""
    header = ("device", "composition", "image", "what", "median", "20 % .. 80 %")
    cells = [(one["device"], one["provider"], _size(one), one["metric"], *_spread(one)) for one in latest(rows)]
    return markdown_table(header, cells)


def start_table(rows: Iterable[Row]) -> str:
    """CPU-seconds of each import, pipeline and command, by source tree."""
    header = ("what", "metric", "provider", "median", "20 % .. 80 %")
    ordered = sorted(latest(rows), key=lambda one: (one["metric"], one["case"]))
    cells = [(f"`{one['case']}`", one["metric"], one["provider"], *_spread(one)) for one in ordered]
    return markdown_table(header, cells)


def graphs_table(rows: Iterable[Row]) -> str:
    """The head launched kernel by kernel, and as a graph."""
    header = ("device", "image", "batch", "dtype", "time", "provider", "median", "20 % .. 80 %")
    cells = [
        (
            *(one["device"], _size(one), f"{one['batch']}", one["dtype"]),
            *(one["metric"], one["provider"], *_spread(one)),
        )
        for one in latest(rows)
    ]
    return markdown_table(header, cells)


def compiled_table(rows: Iterable[Row]) -> str:
    """Statistics of launched kernels by Triton version: of the first row and, if different, the last row.

    Spills and shared memory are for all three capabilities, other statistics for 9.0.
    """
    header = ("kernel", "triton", "registers", "barriers", "instructions", "inner loop", "spilled", "shared memory")
    figures: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for one in rows:
        if one.get("launched"):
            by_metric = figures.setdefault((one["provider"], one["triton"]), {})
            by_metric.setdefault(f"{one['metric']} {one['capability']}", []).append(one)
    cells = [
        (
            *key,
            *(_before_and_after(made, name, (90,)) for name in header[2:6]),
            *(_before_and_after(made, name, (80, 89, 90)) for name in header[6:]),
        )
        for key, made in sorted(figures.items())
    ]
    return markdown_table(header, cells)


def _before_and_after(made: dict[str, list[Row]], metric: str, capabilities: Sequence[int]) -> str:
    """Values of the first and the last row; values of several capabilities are separated by slashes."""
    before, after = (
        " / ".join(f"{made[f'{metric} {capability}'][place]['p50']:.0f}" for capability in capabilities)
        for place in (0, -1)
    )
    return after if before == after else f"{before} → {after}"


def torture_table(rows: Iterable[Row]) -> str:
    """Fuzzed inputs of each door, and their total."""
    found = latest(rows)
    cells = [_fuzzed(f"`{one['door']}`", str(one["seed"]), [one]) for one in found]
    return markdown_table(
        ("door", "seed", "inputs", "failures", "seconds"), [*cells, _fuzzed("all", "", found)] if found else []
    )


def adapters_table(rows: Iterable[Row]) -> str:
    """A joint step of each arm; below it, sizes of checkpoints."""
    found = latest(rows)
    steps, sizes = ([one for one in found if ("shape" in one) is timed] for timed in (True, False))
    return f"{_steps_table(steps)}\n\n{_checkpoints_table(sizes)}"


def _steps_table(rows: Iterable[Row]) -> str:
    header = ("device", "backbone", "step", "20 % .. 80 %", "peak memory", "before the first step")
    header = (*header, "trained parameters", "teacher's own")
    arms: dict[tuple[str, str], dict[str, Row]] = {}
    for one in rows:
        arms.setdefault((one["device"], one["provider"]), {})[one["metric"]] = one
    cells = [
        (
            *key,
            *_spread(found["joint step"]),
            *(_spread(found[f"peak memory, {when}"])[0] for when in ("joint step", "built")),
            *(_spread(found[whose])[0] for whose in ("trained parameters", "teacher's own parameters")),
        )
        for key, found in arms.items()
    ]
    return markdown_table(header, cells)


def _checkpoints_table(rows: Iterable[Row]) -> str:
    metrics = ("adapter file", "checkpoint without frozen weights", "whole checkpoint")
    share = "checkpoint without frozen weights, share"
    made: dict[tuple[str, str], dict[str, Row]] = {}
    for one in rows:
        made.setdefault((one["provider"], one["head"]), {})[one["metric"]] = one
    cells = [(*key, *(_spread(found[metric])[0] for metric in (*metrics, share))) for key, found in made.items()]
    return markdown_table(("adapter", "head", *metrics, "share"), cells)


def refinement_table(rows: Iterable[Row]) -> str:
    """Means over seeds of each refiner's metrics, with gains over labels of the same teachers; below, of each class."""
    found: dict[str, dict[str, list[Row]]] = {}  # provider, metric, seeds
    for one in sorted(latest(rows), key=lambda one: one["seed"]):
        found.setdefault(one["provider"], {}).setdefault(one["metric"], []).append(one)
    if not found:
        return markdown_table((), ())
    metrics, teacher = list(found["identity"]), found["identity"]
    scores = [metric for metric in metrics if teacher[metric][0]["unit"] == "%" and metric != "ignored"]
    cells = [
        (
            name,
            f"{len(made['mIoU'])}",
            *(_gained(made[one], teacher[one]) for one in scores),
            *(f"{_mean(made[one]):.2g}" for one in metrics[-2:]),
        )
        for name, made in found.items()
    ]
    units = [f"{metric}, {teacher[metric][0]['unit']}" for metric in (*scores, *metrics[-2:])]
    classes = list(teacher["mIoU"][0]["classes"])
    ious = [
        (name, *(f"{sum(one['classes'][label] for one in made['mIoU']) / len(made['mIoU']):.1f}" for label in classes))
        for name, made in found.items()
    ]
    return f"{markdown_table(('refiner', 'seeds', *units), cells)}\n\n{markdown_table(('IoU, %', *classes), ious)}"


def _gained(after: Sequence[Row], before: Sequence[Row]) -> str:
    seeds = {one["seed"] for one in after}
    gain = _mean(after) - _mean([one for one in before if one["seed"] in seeds])
    return f"{_mean(after):.1f}" if after is before else f"{_mean(after):.1f} ({gain:+z.1f})"


def _mean(rows: Sequence[Row]) -> float:
    return sum(one["p50"] for one in rows) / len(rows)


def _fuzzed(what: str, seed: str, rows: Sequence[Row]) -> tuple[str, ...]:
    sums = (sum(one[key] for one in rows) for key in ("inputs", "p50", "seconds"))
    return (what, seed, *(f"{number:,.0f}" for number in sums))


TABLES: dict[str, Callable[[Iterable[Row]], str]] = {
    "head": head_table,
    "kernels": kernels_table,
    "end_to_end": end_to_end_table,
    "predict": predict_table,
    "cluster": cluster_table,
    "evaluation": evaluation_table,
    "start": start_table,
    "graphs": graphs_table,
    "compiled": compiled_table,
    "torture": torture_table,
    "adapters": adapters_table,
    "refinement": refinement_table,
    "demo": demo_table,
    "ablation": ablation_table,
    "ablation_classes": ablation_classes_table,
    "label_free": label_free_table,
}
_FILES = {"ablation_classes": "ablation", "label_free": "ablation"}  # tables of the rows of another


def filled(text: str, folder: Path = RESULTS) -> str:
    """Replace the tables in a text.

    Raises:
        ValueError: a marker names an unknown table.
    """

    def make(found: re.Match[str]) -> str:
        if found[2] not in TABLES:
            raise ValueError(f"no table {found[2]!r}; expected one of {', '.join(TABLES)}")
        rows = read_rows(_FILES.get(found[2], found[2]), folder)
        return f"{found[1]}{TABLES[found[2]](rows)}\n{found[3]}"

    return _BETWEEN.sub(make, text)


def main(arguments: Sequence[str]) -> int:
    """Write the tables, or only compare."""
    texts = {path: path.read_text(encoding="utf-8") for path in DOCUMENTS}
    changed = {path: after for path, before in texts.items() if (after := filled(before)) != before}
    if "--check" in arguments:
        return int(bool(changed))
    for path, after in changed.items():
        write_text(path, after)
    return 0


def _size(one: Row) -> str:
    return "x".join(map(str, one["shape"]))


def _spread(one: Row) -> tuple[str, str]:
    if "error" in one:
        return f"cannot run: {one['error']}".replace("|", "/"), ""
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
