"""Launches that were measured: opt-in, kept in a file, and never of another device, dtype or size."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from clouds.bench import problems
from clouds.bench.problems import PROBLEMS, Size
from clouds.bench.runner import fastest_launches
from clouds.kernels import tuning
from clouds.kernels._triton.launch import Launch
from clouds.kernels.tuning import TuningWarning, launch_arguments, tune

SHIPPED = Launch(blocks={"BLOCK": 64}, num_warps=4, num_stages=2)
QUICK = {"num_warps": 8, "num_stages": 1}
X = torch.zeros(1)


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CLOUDS_TUNED", raising=False)
    tuning.read.cache_clear()
    yield
    tuning.read.cache_clear()


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Name a file with this content."""

    def write(text: str) -> Path:
        path = tmp_path / "launches.json"
        path.write_text(text, encoding="utf-8")
        monkeypatch.setenv("CLOUDS_TUNED", str(path))
        return path

    return write


def only_key() -> str:
    with tuning._trying({}) as trial:
        launch_arguments("op_forward", SHIPPED, X)
    (key,) = trial.shipped
    return key


def test_without_a_file_launches_are_the_shipped_ones() -> None:
    assert launch_arguments("op_forward", SHIPPED, X) == SHIPPED.arguments()


def test_a_file_replaces_warps_and_stages_of_exactly_what_it_names(use: Callable[[str], Path]) -> None:
    use(json.dumps({only_key(): QUICK}))
    assert launch_arguments("op_forward", SHIPPED, X) == {"BLOCK": 64, **QUICK}
    other = Launch(blocks={"BLOCK": 32}, num_warps=4, num_stages=2)
    assert launch_arguments("op_forward", other, X) == other.arguments()
    assert launch_arguments("op_backward", SHIPPED, X) == SHIPPED.arguments()
    assert launch_arguments("op_forward", SHIPPED, X.double()) == SHIPPED.arguments()


@pytest.mark.parametrize("text", ["{", "[]", '{"a": {"num_warps": 4}}', '{"a": {"num_warps": 0, "num_stages": 1}}'])
def test_a_broken_file_is_ignored_and_named_once(text: str, use: Callable[[str], Path]) -> None:
    path = use(text)
    with pytest.warns(TuningWarning, match=f"{path} is ignored: .*; remove it, or make it anew") as found:
        made = [launch_arguments("op_forward", SHIPPED, X) for _ in range(2)]
    assert made == [SHIPPED.arguments()] * 2
    assert len(found) == 1


def test_a_missing_file_is_named(use: Callable[[str], Path]) -> None:
    use("{}").unlink()
    with pytest.warns(TuningWarning, match=r"launches.json is ignored: .*No such file"):
        launch_arguments("op_forward", SHIPPED, X)


def test_the_fastest_launch_is_found_one_kernel_after_the_other() -> None:
    """Times are made up: warps away from 8 and stages away from 3 cost; 16 warps do not fit."""
    launched: dict[str, dict[str, int]] = {}

    def run() -> None:
        for kernel in ("first", "second"):
            launched[kernel] = launch_arguments(kernel, SHIPPED, X)
            if launched[kernel]["num_warps"] == 16:
                raise RuntimeError("out of registers")

    def measure(run: Callable[[], object]) -> float:
        run()
        return sum(10 + abs(one["num_warps"] - 8) + abs(one["num_stages"] - 3) for one in launched.values())

    found = tune(run, measure)
    assert [key.split()[0] for key in found] == ["first", "second"]
    assert list(found.values()) == [{"num_warps": 8, "num_stages": 3}] * 2
    run()
    assert launched["first"] == SHIPPED.arguments()


def test_a_gain_within_the_noise_is_none() -> None:
    def measure(run: Callable[[], object]) -> float:
        run()
        return next(times)

    times = iter([100.0, *[97.5] * 100])
    assert tune(lambda: launch_arguments("op", SHIPPED, X), measure) == {}


@pytest.mark.parametrize("op", PROBLEMS)
def test_every_kernel_of_an_operation_can_be_tuned(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter, where no launch is faster; nothing is timed, and every kernel asks for its launch."""
    if torch.cuda.is_available():
        pytest.skip("kernels are not interpreted here")
    few = {"_WIDTH": 32, "_HEADS": 1, "_POINTS": 1, "_PREDICTIONS": 1, "_COMPARED": 16}  # programs run one by one
    for name, value in few.items():
        monkeypatch.setattr(problems, name, value)
    monkeypatch.setattr(tuning, "_WARPS", (4,))
    monkeypatch.setattr(tuning, "_STAGES", (4,))
    monkeypatch.setattr("clouds.bench.runner.milliseconds", lambda runs, *_, **__: {op: [1.0] for op in runs})
    asked: set[str] = set()
    key = tuning._key

    def spy(kernel: str, arguments: dict, tensor: torch.Tensor) -> str:
        asked.add(kernel)
        return key(kernel, arguments, tensor)

    monkeypatch.setattr(tuning, "_key", spy)
    size = Size(image=(32, 32), queries=3, classes=2)
    assert fastest_launches(op, size, torch.float32, torch.device("cpu")) == {}
    parts = {
        "masked_attention": {"pack", "forward", "combine", "backward"},
        "matching_cost": {"forward", "combine"},
        "semantic_inference": {"forward"},
    }
    assert asked == {f"{op}_{part}" for part in parts.get(op, {"forward", "backward"})}
