"""Rows of the operations and of whole computations, on sizes so small that their numbers mean nothing; tables, plot."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import decoder, end_to_end, graphs, kernels, plot, rows, table
from clouds.bench import problems
from clouds.bench.ceilings import Ceilings
from clouds.bench.problems import Size

CPU = torch.device("cpu")
UNIT = Ceilings(copied=1e9, gathered=1e9, multiplied=1e12)
SMALL = decoder.Sizes(
    image=(64, 96),
    channels=8,
    width=64,
    encoder_layers=1,
    encoder_feedforward=16,
    decoder_layers=3,
    feedforward=16,
    queries=20,
)


@pytest.fixture(scope="module")
def made() -> list[dict]:
    """Rows of two operations."""
    size = Size(image=(64, 96), queries=5)
    return [
        one
        for op in ("deformable_attention", "semantic_inference")
        for one in kernels.rows(op, size, torch.float32, CPU, UNIT, repeats=2)
    ]


def test_rows_have_what_is_needed_to_compare_them_years_later(made: list[dict]) -> None:
    facts = "op provider direction dtype shape batch queries unit p20 p50 p80 peak_memory_mb rate rate_unit share"
    facts += " ceilings device driver torch triton commit"
    assert all(set(facts.split()) <= set(one) for one in made)
    assert all(one["unit"] == "ms" and one["p50"] > 0 and one["peak_memory_mb"] > 0 for one in made)


def test_rows_are_made_without_git_and_the_drivers_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows.shutil, "which", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert rows._driver.__wrapped__() is None
    assert rows._commit.__wrapped__() == "unknown"
    monkeypatch.setenv("CLOUDS_COMMIT", "1234abc")
    assert rows._commit.__wrapped__() == "1234abc"


def test_an_order_of_work_without_enough_memory_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(end_to_end.reference_head, "forward", full)
    found = list(end_to_end.measure(SMALL, 1, CPU, "float32", repeats=1))
    parts = ["head forward", "head forward+backward", "training step of the head"]
    assert [one["metric"] for one in found if one.get("error") == "OutOfMemoryError: CUDA out of memory."] == parts
    assert [one["metric"] for one in found if "error" not in one] == [*parts, "predict with tiny"]


def test_a_head_that_no_graph_can_hold_has_a_row_that_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    *eager, lost = graphs.measure(SMALL, CPU, repeats=1)
    assert [(one["provider"], one["metric"]) for one in eager] == [
        ("eager", "device"), ("eager", "wall clock"), ("eager", "launching"),
    ]  # fmt: skip
    assert lost["provider"] == "CUDA graph"
    assert lost["error"]


def test_the_peer_has_rows_beside_ours(made: list[dict]) -> None:
    attention = [one["provider"].split()[0] for one in made if one["op"] == "deformable_attention"]
    assert attention == ["clouds", "reference", "transformers"] * 2
    assert {one["provider"] for one in made if one["op"] == "semantic_inference"} == {"clouds", "reference"}


def test_the_peer_computes_the_same() -> None:
    """Sums of 48 products of float32 numbers of size 1; measured: 1e-6."""
    problem = problems.PROBLEMS["deformable_attention"](Size(image=(64, 96)), torch.float32, CPU)
    ((_, peer),) = kernels.peers(problem).items()
    torch.testing.assert_close(peer()[0], problem.run("auto")[0], atol=1e-4, rtol=1e-4)


def test_a_peer_that_cannot_run_has_a_row_that_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(_: object) -> torch.Tensor:
        raise ValueError("no kernel")

    monkeypatch.setattr(kernels, "_transformers", broken)
    found = kernels.rows("deformable_attention", Size(image=(64, 96)), torch.float32, CPU, UNIT, repeats=1)
    lost = [one for one in found if "error" in one]
    assert {one["provider"] for one in found} - {one["provider"] for one in lost} == {"clouds", "reference"}
    assert {(one["error"], one["p50"], one["repeats"]) for one in lost} == {("ValueError: no kernel", None, 0)}
    write(tmp_path, "kernels", lost)
    made = table.filled("<!-- table: kernels -->\n<!-- end -->\n", tmp_path)
    assert made.count("| cannot run: ValueError: no kernel |") == len(lost) == 2
    with pytest.raises(ValueError, match="no rows of operations"):
        plot.select(lost, {})
    for one in found:  # what runs later takes the place of what could not
        one.pop("error", None)
        one["p20"] = one["p50"] = one["p80"] = 1.0
    assert len(rows.latest(lost + found)) == len(found)


def test_many_classes_have_rows_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "MANY", Size(image=(64, 96), queries=5, classes=7, enlarged=2))
    found = {one["provider"]: one["op"] for one in kernels.many_classes(UNIT)}
    assert found == dict.fromkeys(("clouds", "reference"), "semantic_inference, 7 classes, resized x2")


def test_ceilings_are_rows_with_units() -> None:
    found = {one["metric"]: (one["p50"], one["unit"]) for one in kernels.ceiling_rows(UNIT, torch.bfloat16)}
    assert found == {"copied": (1, "GB/s"), "gathered": (1, "GB/s"), "multiplied": (1, "TFLOP/s")}


def test_whole_computations_are_measured_in_both_orders() -> None:
    found = list(end_to_end.measure(SMALL, 2, CPU, "float32", repeats=1))
    parts = ("head forward", "head forward+backward", "training step of the head")
    expected = [(part, suffix) for part in parts for suffix in ("", "", ", times faster", ", times smaller")]
    assert [one["metric"] for one in found] == [part + suffix for part, suffix in expected] + ["predict with tiny"]
    assert all(one["p50"] > 0 and one["batch"] == 2 for one in found)


def test_both_orders_make_the_same_gradients() -> None:
    """What the deep supervision of training reaches: every parameter of the head. Float64 has no reason to differ."""
    torch.manual_seed(0)  # masks are compared with 0: a logit of 1e-16 would be another attention
    mine = decoder.head(SMALL).double().train()
    for name, weight in mine.named_parameters():
        if "sampling_offsets.bias" in name:  # at first samples lie in the middle of cells, where slopes jump
            torch.nn.init.normal_(weight)
    features = end_to_end.Features(**{name: one.double() for name, one in SMALL.features().items()})
    gradients = []
    for output in (mine(features), end_to_end.reference_head.forward(mine, features)):
        end_to_end._backward(mine, output)
        gradients.append([None if one.grad is None else one.grad.clone() for one in mine.parameters()])
    for ours, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)  # positions and samples are of float32


def write(folder: Path, name: str, found: list[dict]) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in found), encoding="utf-8")


def test_tables_are_made_of_the_last_rows(made: list[dict], tmp_path: Path) -> None:
    newer = [{**one, "p50": 123.456, "commit": "next"} for one in made[:1]]
    write(tmp_path, "kernels", made + newer)
    text = "before\n<!-- table: kernels -->\nold\n<!-- end -->\nafter\n<!-- table: head -->\n<!-- end -->\n"
    lines = table.filled(text, tmp_path).splitlines()
    assert (lines[0], lines[-4:]) == ("before", ["after", "<!-- table: head -->", "not measured", "<!-- end -->"])
    body = lines[4:-5]
    assert len(body) == len(made)
    assert [line for line in body if "123 ms" in line] == [body[-1]]
    assert all(line.count("|") == lines[2].count("|") == 12 for line in body)
    again = table.filled("\n".join(lines), tmp_path)
    assert again == "\n".join(lines)


def test_every_table_is_made_of_its_rows(tmp_path: Path) -> None:
    facts = {"shape": [1, 2], "dtype": "float32", "batch": 1}
    write(tmp_path, "head", [rows.row("head", "clouds", "forward, times faster", "x", [2.0], peer="other", **facts)])
    write(tmp_path, "end_to_end", [rows.row("end_to_end", "clouds", "predict", "ms", [2.0], **facts)])
    write(tmp_path, "graphs", [rows.row("graphs", "eager", "device", "ms", [2.0], **facts)])
    stream = {"shape": [1, 2], "dtype": "float32", "images": 8, "peak_memory_mb": 3.0}
    write(tmp_path, "predict", [rows.row("predict", "tiny+linear", "per image, batches of 2", "s", [2.0], **stream)])
    door = {"door": "images", "inputs": 2000, "seconds": 3.0, "seed": 7, "start": 0}
    write(tmp_path, "torture", [rows.row("torture", "clouds", "failures", "inputs", [1], **door)])
    text = "".join(f"<!-- table: {name} -->\n<!-- end -->\n" for name in table.TABLES)
    made = table.filled(text, tmp_path)
    assert "| `images` | 7 | 2,000 | 1 | 3 |" in made
    assert "| cpu | 1x2 | float32 | forward, times faster | other | 2 x | 2 .. 2 |" in made
    assert "| cpu | predict | 1x2 | 1 | float32 | clouds | 2 ms | 2 .. 2 |  |" in made
    assert "| cpu | 1x2 | 1 | float32 | device | eager | 2 ms | 2 .. 2 |" in made
    assert "| cpu | tiny+linear | 1x2 | float32 | per image, batches of 2 | 2 s | 2 .. 2 | 3 MB |" in made
    empty = table.TABLES.keys() - {path.stem for path in tmp_path.glob("*.jsonl")}
    assert made.count("not measured") == len(empty) + 1  # adapters have two tables


def test_compiled_kernels_are_shown_before_and_after(tmp_path: Path) -> None:
    figures = {"registers": (127, 64), "barriers": (26, 0), "instructions": (9, 9), "inner loop": (3, 3)}
    figures |= {"spilled": (16, 0), "shared memory": (64, 64)}
    found = [
        rows.row("compiled", "some_forward bf16", metric, "B", [values[when]], capability=capability, launched=True)
        for when in (0, 1)
        for capability in (80, 89, 90)
        for metric, values in figures.items()
    ]
    found += [{**one, "triton": "3.6.0"} for one in found[: len(found) // 2]]
    found.append({**found[0], "p50": 1.0, "launched": False})  # of forms that nothing launches
    write(tmp_path, "compiled", found)
    lines = table.filled("<!-- table: compiled -->\n<!-- end -->\n", tmp_path).splitlines()[3:-1]
    same = "9 | 3 |"
    assert lines == [
        f"| some_forward bf16 | 3.6.0 | 127 | 26 | {same} 16 / 16 / 16 | 64 / 64 / 64 |",
        f"| some_forward bf16 | {rows.version('triton')} | 127 → 64 | 26 → 0 | {same} 16 / 16 / 16 → 0 / 0 / 0 | "
        "64 / 64 / 64 |",
    ]


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match="no table 'heads'; expected one of head, kernels, end_to_end, predict, cluster",
    ):
        table.filled("<!-- table: heads -->\n<!-- end -->")


def test_the_readme_has_the_tables_of_the_rows() -> None:
    assert table.main(["--check"]) == 0


def test_the_plot_shows_every_form(made: list[dict]) -> None:
    drawn = plot.figure(plot.select(made, {"device": made[0]["device"]}))
    shown = {bar.name for bar in drawn.data if len(bar.x)}
    assert shown == {one["provider"] for one in made}


def test_the_plot_refuses_what_it_would_mix(made: list[dict]) -> None:
    with pytest.raises(ValueError, match="rows differ in dtype: bfloat16, float32; name one, as in dtype=bfloat16"):
        plot.select([*made, {**made[0], "dtype": "bfloat16"}], {})
    with pytest.raises(
        ValueError, match=r"no rows of operations with .*int8.*; run `python -m benchmarks kernels` first"
    ):
        plot.select(made, {"dtype": "int8"})


def test_the_plot_wants_a_file(capsys: pytest.CaptureFixture) -> None:
    assert plot.main([]) == 2
    assert "OUT.html" in capsys.readouterr().err
