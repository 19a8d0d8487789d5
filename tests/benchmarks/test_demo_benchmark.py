"""The rows of the demo over seeds, and their table, from a demo that is not run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks import demo
from benchmarks.arm_tables import demo_table
from benchmarks.rows import read_rows

VALUES = {0: (10.0, 13.0), 1: (12.0, 13.0)}
ARMS = ("frozen features: source only", "frozen features: CLOUDS")


def fake(ran: list[int]) -> Any:
    def run_demo(out: Path, *, seed: int, say: Any) -> Any:
        ran.append(seed)
        quality = SimpleNamespace(before=20.0, after=None)
        return SimpleNamespace(
            steps=6,
            header=("mIoU in percent", *ARMS),
            trained=(SimpleNamespace(title="frozen features", pseudo_labels=quality),),
            table=lambda: [("fog", 20.0, None), ("mean", *VALUES[seed])],
        )

    return run_demo


def test_finished_seeds_are_not_run_and_not_appended_again(tmp_path: Path) -> None:
    ran: list[int] = []
    for seeds in ([0], [0, 1]):
        demo.run(tmp_path / "out", seeds, tmp_path, fake(ran))
    assert ran == [0, 1]
    rows = read_rows("demo", tmp_path)
    found = {
        seed: [(one["domain"], one["provider"], one["p50"]) for one in rows if one["seed"] == seed and "domain" in one]
        for seed in VALUES
    }
    for seed, (before, after) in VALUES.items():
        expected = [("fog", ARMS[0], 20.0), ("mean", ARMS[0], before), ("mean", ARMS[1], after)]
        assert found[seed] == [*expected, ("generated", "frozen features: teacher", 20.0)]
    costs = {one["metric"]: one["p50"] for one in rows if one["provider"] == "all columns"}
    assert costs["CPU time"] >= 0
    assert costs["peak memory"] > 0


def test_the_table_has_every_seed_the_spread_and_gains_seed_by_seed(tmp_path: Path) -> None:
    demo.run(tmp_path / "out", [1, 0], tmp_path, fake([]))
    rows = [one for one in read_rows("demo", tmp_path) if one.get("domain") != "fog"]
    assert demo_table(rows).splitlines() == [
        "| mIoU in percent | mean |",
        "| --- | --- |",
        f"| {ARMS[0]} | 10.0, 12.0: 11.0 ± 1.4 |",
        f"| {ARMS[1]} | 13.0, 13.0: 13.0 ± 0.0 |",
        "| frozen features: gain | 3.0, 1.0: 2.0 ± 1.4 |",
    ]
