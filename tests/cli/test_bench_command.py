"""`clouds bench`, on sizes so small that its figures mean nothing."""

import json

import pytest
from cli_helpers import Run, assert_one_line

from clouds.bench import ceilings, problems, runner

SMALL = ["--size", "64", "96", "--queries", "5", "--repeats", "1", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "_COMPARED", 16)
    for name, value in {"_COPIED": 1 << 20, "_SIDE": 64}.items():
        monkeypatch.setattr(ceilings, name, {"cpu": value})


def test_one_operation_as_a_table(run: Run) -> None:
    outcome = run("bench", "mask_pool", *SMALL)
    assert (outcome.code, outcome.err) == (0, "")
    title, _, header, *rows = outcome.out.splitlines()
    assert title.startswith("float32, 64x96, batch 1, on cpu")
    assert header.split()[:4] == ["operation", "form", "pass", "ms"]
    assert [row.split()[:3] for row in rows] == [
        ["mask_pool", form, direction]
        for direction in ("forward", "forward+backward")
        for form in ("clouds", "reference")
    ]


def test_all_operations_as_json(run: Run) -> None:
    outcome = run("bench", *SMALL, "--dtype", "bfloat16", "--json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert set(document["ceilings"]) == {"copied", "gathered", "multiplied"}
    made = document["measurements"]
    assert {one["op"] for one in made} == set(problems.PROBLEMS)
    assert all(one["dtype"] == "bfloat16" and one["p20"] == one["p50"] == one["p80"] > 0 for one in made)


def test_what_cannot_run_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise RuntimeError("no memory left")

    monkeypatch.setattr(runner, "peak_memory", broken)
    outcome = run("bench", "semantic_inference", *SMALL)
    assert outcome.code == 0
    assert outcome.out.count("RuntimeError: no memory left") == 2
    document = json.loads(run("bench", "semantic_inference", *SMALL, "--json").out)
    assert [one["p50"] for one in document["measurements"]] == [None, None]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["attention"], ["unknown operation 'attention'", "deformable_attention, masked_attention"]),
        (["--size", "60", "96"], ["--size 60 96", "multiples of 32"]),
        (["--size", "0", "96"], ["--size 0 96", "multiples of 32"]),
        (["--batch", "0", "--repeats", "-1"], ["--batch 0, --repeats -1", "at least 1"]),
    ],
)
def test_wrong_use_is_one_line(run: Run, arguments: list[str], words: list[str]) -> None:
    assert_one_line(run("bench", *arguments), *words, code=2)


def test_launches_are_tuned_on_a_gpu(run: Run) -> None:
    assert_one_line(run("bench", "mask_pool", "--tune", "--device", "cpu"), "--tune needs a CUDA device, got cpu")
