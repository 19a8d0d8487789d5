"""Microbenchmarks of the operations, on sizes so small that their times mean nothing."""

from importlib.util import find_spec

import pytest
import torch
from attrs import evolve

from clouds.bench import ceilings, gather, problems, runner, timing
from clouds.bench.ceilings import Ceilings, measure_ceilings
from clouds.bench.problems import PROBLEMS, KernelProblem, Size
from clouds.bench.runner import BOTH, FORWARD, measure

CPU = torch.device("cpu")
SMALL = Size(image=(64, 96), queries=5, classes=3)
UNIT = Ceilings(copied=1e9, gathered=1e9, multiplied=1e9)


@pytest.fixture(autouse=True)
def _few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "_COMPARED", 16)


@pytest.mark.parametrize("op", PROBLEMS)
def test_every_operation_is_measured_in_all_forms_on_the_same_inputs(op: str) -> None:
    found = measure(op, SMALL, torch.float32, CPU, repeats=2, ceilings=UNIT)
    directions = [FORWARD, BOTH] if PROBLEMS[op](SMALL, torch.float32, CPU).differentiable else [FORWARD]
    assert [(one.provider, one.direction) for one in found] == [
        (provider, direction) for direction in directions for provider in ("clouds", "reference")
    ]
    for one in found:
        assert (one.op, one.dtype, one.image, one.queries) == (op, "float32", (64, 96), 5)
        assert one.error is None
        assert len(one.milliseconds) == 2
        assert one.percentile(0.2) <= one.percentile(0.5) <= one.percentile(0.8)
        assert one.peak_memory
        assert (one.share is None) == (one.direction == BOTH)


@pytest.mark.parametrize("op", PROBLEMS)
@pytest.mark.parametrize("batch", [1, 2])
def test_all_forms_agree_on_the_inputs(op: str, batch: int) -> None:
    """Numbers of size 1 in float32, sums of at most some hundred. Labels of equally good classes may differ."""
    problem = PROBLEMS[op](Size(image=(64, 96), batch=batch, queries=5, classes=3), torch.float32, CPU)
    for ours, expected in zip(problem.run("auto"), problem.run("reference"), strict=True):
        if ours.dtype == torch.uint8:
            assert (ours == expected).float().mean() > 0.99
        else:
            torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_the_least_work_of_deformable_attention_is_that_of_the_formula() -> None:
    """Rows: queries x heads x levels x points x 4 corners, of 32 channels of 2 bytes."""
    problem = PROBLEMS["deformable_attention"](Size(image=(64, 96), batch=2), torch.bfloat16, CPU)
    cells = 2 * 3 + 4 * 6 + 8 * 12
    assert problem.gathered == 2 * cells * 8 * 3 * 4 * 4 * 32 * 2
    value = offsets_of_width_24 = 2 * cells * 256 * 2
    points = 2 * cells * 8 * 12 * (2 + 1) * 2
    reference_points = cells * 3 * 2 * 4
    assert problem.copied == value + offsets_of_width_24 + points + reference_points


def test_shares_are_of_the_ceiling_that_binds() -> None:
    """A copy of this device takes no time at all, so products bind."""
    fast = Ceilings(copied=1e30, gathered=1e30, multiplied=1e9)
    (ours, _) = measure("matching_cost", SMALL, torch.float32, CPU, repeats=1, ceilings=fast)
    work = 2 * 3 * 10 * 10 * 5 * 16
    seconds = ours.percentile(0.5) / 1000
    assert ours.ceiling == "multiplied"
    assert ours.rate == pytest.approx(work / seconds)
    assert ours.share == pytest.approx(work / 1e9 / seconds)


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, ImportError, OSError, LookupError])
def test_a_form_that_cannot_run_says_why_and_the_others_run(kind: type[Exception]) -> None:
    """Out of memory, a library that is missing, arguments that it does not take, or anything else."""

    def broken(problem: KernelProblem) -> dict:
        def run() -> None:
            raise kind("out of luck\nand more")

        return {"peer": run}

    found = measure("mask_pool", SMALL, torch.float32, CPU, repeats=1, peers=broken)
    assert {one.provider: one.error for one in found if one.direction == FORWARD} == {
        "clouds": None,
        "reference": None,
        "peer": f"{kind.__name__}: out of luck",
    }


def test_a_library_that_is_missing_ends_no_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    """As xformers on a GPU, which `masked_attention` refuses with a ValueError; it can be left out."""
    whole = PROBLEMS["masked_attention"]
    lacking = dict(PROBLEMS, masked_attention=lambda *args: evolve(whole(*args), backends=("xformers",)))
    monkeypatch.setattr(runner, "PROBLEMS", lacking)
    found = measure("masked_attention", SMALL, torch.float32, CPU, repeats=1)
    errors = {(one.provider, one.error) for one in found if one.error}
    assert {provider for provider, _ in errors} == {"xformers"}
    assert all(error.startswith("ValueError: masked_attention: backend 'xformers' cannot run") for _, error in errors)
    alone = measure("masked_attention", SMALL, torch.float32, CPU, repeats=1, others=False)
    assert {one.provider for one in alone} == {"clouds", "reference"}


def test_an_unknown_operation_is_refused() -> None:
    with pytest.raises(ValueError, match="no benchmark of 'attention'; expected one of deformable_attention, "):
        measure("attention", SMALL, torch.float32, CPU)


def test_gradients_are_off_again_behind_a_backward_pass() -> None:
    problem = PROBLEMS["mask_pool"](SMALL, torch.float32, CPU)
    gradients = runner._with_gradients(lambda: problem.run("auto"), problem)()
    assert gradients[0].shape == problem.parts[0]["features"].shape
    assert not any(leaf.requires_grad for leaf in problem.leaves())


def test_peak_memory_counts_what_is_held_at_a_time() -> None:
    """Two tensors of 4,000 bytes at a time, and what scalars take."""

    def run() -> torch.Tensor:
        first = torch.empty(1000)
        second = first + 1
        del first
        return second * 2

    assert 8000 <= timing.peak_memory(run, CPU) < 8100


def test_ceilings_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_COPIED": 1 << 20, "_SIDE": 64}.items():
        monkeypatch.setattr(ceilings, name, {"cpu": value})
    found = measure_ceilings(torch.float32, CPU, repeats=2)
    assert min(found.copied, found.gathered, found.multiplied) > 0


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_gather_reads_the_rows_that_it_counts(device: str) -> None:
    """Random rows: the congruence in Python's integers. 512 rows of size 1 are summed in float32."""
    table = torch.randn(64, 32)
    expected = torch.zeros(2, 32)
    for program in range(2):
        for place in range(256):
            state = 256 * program + place
            for _ in range(2):
                state = (state * 1664525 + 1013904223) % 2**32
                expected[program] += table[(state >> 8) % 64]
    sums = gather.forward(table.to(device), programs=2, steps=2)
    torch.testing.assert_close(sums.cpu(), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("op", PROBLEMS)
def test_every_operation_is_measured_on_a_gpu(op: str) -> None:
    found = measure(op, SMALL, torch.bfloat16, torch.device("cuda"), repeats=2, ceilings=UNIT)
    assert {"clouds", "clouds triton", "clouds torch", "reference"} <= {one.provider for one in found}
    missing = {name for name in ("xformers",) if find_spec(name) is None}
    errors = {(one.provider, one.direction): one.error for one in found if one.error and one.provider not in missing}
    assert not errors
    assert all(one.peak_memory for one in found if one.error is None)
