"""The rows of the demo over seeds, and their table, from a demo that is not run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks import demo
from benchmarks.table import demo_table, read_rows

VALUES = {0: (10.0, 12.0), 1: (12.0, None)}


def fake(ran: list[int]) -> Any:
    def run_demo(out: Path, *, seed: int, say: Any) -> Any:
        ran.append(seed)
        quality = SimpleNamespace(before=20.0, after=None)
        return SimpleNamespace(
            steps=6,
            header=("mIoU in percent", "source only", "upper bound"),
            trained=(SimpleNamespace(title="frozen features", pseudo_labels=quality),),
            table=lambda: [("mean", *VALUES[seed])],
        )

    return run_demo


def test_finished_seeds_are_not_run_and_not_appended_again(tmp_path: Path) -> None:
    ran: list[int] = []
    for seeds in ([0], [0, 1]):
        demo.run(tmp_path / "out", seeds, tmp_path, fake(ran))
    assert ran == [0, 1]
    rows = read_rows("demo", tmp_path)
    found = [(one["provider"], one["seed"], one["p50"]) for one in rows if one["metric"] == "mIoU"]
    assert found == [
        ("source only", 0, 10.0),
        ("upper bound", 0, 12.0),
        ("frozen features: teacher", 0, 20.0),
        ("source only", 1, 12.0),
        ("frozen features: teacher", 1, 20.0),
    ]
    costs = {one["metric"]: one["p50"] for one in rows if one["provider"] == "all columns"}
    assert costs["CPU time"] >= 0
    assert costs["peak memory"] > 0


def test_the_table_has_every_seed_and_the_spread(tmp_path: Path) -> None:
    demo.run(tmp_path / "out", [1, 0], tmp_path, fake([]))
    assert demo_table(read_rows("demo", tmp_path)).splitlines() == [
        "| mIoU in percent | source only | upper bound |",
        "| --- | --- | --- |",
        "| mean | 10.0, 12.0: 11.0 ± 1.4 | 12.0: 12.0 |",
    ]
