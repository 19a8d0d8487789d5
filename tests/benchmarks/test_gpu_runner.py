"""The GPU runner, rehearsed without one: parts fail by themselves, limits hold, rows stay, a summary says so."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import beside, environment, measure, parts, schedule
from benchmarks.gpu.parts import Part
from benchmarks.rows import row
from clouds.bench import problems

ROOT = Path(__file__).parents[2]
FOREVER = "import time; time.sleep(600)"


def part(name: str, code: str, *, seconds: float = 60, required: bool = False) -> Part:
    return Part(name=name, seconds=seconds, command=(sys.executable, "-c", code), required=required)


def run(wanted: list[Part], out: Path, limit: float = 60) -> tuple[int, list[str]]:
    """Exit code, and the lines of the summary."""
    code = schedule.run(wanted, out, limit, say=lambda _: None)
    return code, (out / "summary.txt").read_text(encoding="utf-8").splitlines()


def test_a_part_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    wanted = [
        part("first", "print('made'); print('FAILED one thing'); raise SystemExit(3)"),
        part("second", "print('all well')"),
    ]
    code, summary = run(wanted, tmp_path)
    assert code == 1
    assert [line.split()[:2] for line in summary] == [["first", "failed"], ["FAILED", "one"], ["second", "done"]]
    assert summary[0].endswith("exit code 3: FAILED one thing")
    assert summary[2].endswith("all well")
    assert (tmp_path / "logs/first.txt").read_text(encoding="utf-8") == "made\nFAILED one thing\n"


def test_everything_done_is_exit_code_0(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert schedule.run([part("only", "print(1)")], tmp_path, 60) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "everything was done"


def test_a_part_ends_with_its_time_and_so_do_its_processes(tmp_path: Path) -> None:
    """The child's child writes its number, and must be gone when the part is."""
    code = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {FOREVER!r}]).pid, flush=True)"
    start = time.monotonic()
    status, summary = run([part("slow", f"{code}; {FOREVER}", seconds=1), part("next", "print('still')")], tmp_path)
    assert time.monotonic() - start < 30
    assert status == 1
    child = int((tmp_path / "logs/slow.txt").read_text(encoding="utf-8"))
    assert summary[0].startswith("slow         cut off")
    assert summary[0].endswith(f"after 1 s; last: {child}")
    assert summary[1].split()[:2] == ["next", "done"]
    assert not _alive(child)


def _alive(process: int) -> bool:
    """Whether it runs: a process that nobody waited for yet does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_the_limit_leaves_no_time_for_is_named(tmp_path: Path) -> None:
    code, summary = run([part("first", "print(1)"), part("second", "print(2)")], tmp_path, limit=1)
    assert code == 1
    assert [line.split()[1:3] for line in summary] == [["not", "reached"]] * 2
    assert all(line.endswith("the limit of 1 s was reached") for line in summary)


def test_nothing_is_run_without_what_is_required(tmp_path: Path) -> None:
    _, summary = run([part("device", "print('none'); exit(1)", required=True), part("next", "print(1)")], tmp_path)
    assert summary[1] == "next         not reached                device: exit code 1: none"


def test_a_run_that_is_ended_leaves_rows_and_a_summary(tmp_path: Path) -> None:
    """As by a limit from outside, in the middle of a part."""
    code = f"from pathlib import Path; Path({str(tmp_path / 'rows.jsonl')!r}).write_text('row'); {FOREVER}"
    program = f"""if True:
        import signal, sys
        from pathlib import Path
        from benchmarks.gpu import __main__ as gpu, parts
        slow, last = (parts.Part(name=name, seconds=500, command=(sys.executable, "-c", {code!r})) for name in "ab")
        gpu.parts = lambda *_, **__: [slow, last]
        gpu.main(["--out", {str(tmp_path)!r}])
    """
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) as process:
        while not (tmp_path / "rows.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 1
    summary = (tmp_path / "summary.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(maxsplit=1)[0] for line in summary] == ["a", "b"]
    assert summary[0].endswith("the run was ended within it")
    assert summary[1].endswith("the run was ended before it")
    assert (tmp_path / "rows.jsonl").read_text(encoding="utf-8") == "row"


def test_without_a_gpu_the_summary_says_so_in_time(tmp_path: Path) -> None:
    """The whole runner, as it is called."""
    if torch.cuda.is_available():
        pytest.skip("there is one")
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path / "new/out"), "--limit", "60"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=70)
    assert done.returncode == 1, done.stderr
    summary = (tmp_path / "new/out/summary.txt").read_text(encoding="utf-8").splitlines()
    names = [one.name for one in parts.parts(tmp_path)]
    assert [line.split()[0] for line in summary] == names
    assert summary[0].startswith("environment  failed")
    assert "exit code 1: no CUDA device: torch" in summary[0]
    assert all(" not reached " in line and "no CUDA device: torch" in line for line in summary[1:])
    assert done.stdout.splitlines() == [*summary, f"not everything was done: {', '.join(names)}"]
    assert json.loads((tmp_path / "new/out/environment.json").read_text(encoding="utf-8"))["torch"]


def test_a_driver_without_a_device_is_told_from_a_torch_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(environment, "_smi", lambda *_: "No devices were found")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    found = environment.card()["obstacle"]
    assert "sees none; /dev/nvidiactl is" in found
    assert found.endswith("nvidia-smi: No devices were found")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert environment.card()["obstacle"].endswith("was built without CUDA")


def test_a_card_without_bfloat16_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    old = {"name": "Old", "capability": "7.5", "bfloat16": False, "free": 15e9, "memory": 16e9}
    monkeypatch.setattr(environment, "card", lambda: old)
    assert environment.main(tmp_path) == 0
    assert "Old, capability 7.5, no bfloat16, 15 of 16 GB free, torch" in capsys.readouterr().out.splitlines()[-1]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setitem(measure.PARTS, "operations", lambda device: iter(()))
    assert measure.main("operations", str(tmp_path)) == 0
    assert capsys.readouterr().out.startswith("FAILED bfloat16: this card computes it in other types")


@pytest.mark.parametrize("name", ["wheels", "beside"])
def test_folders_that_are_not_there_are_wrong_use(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--out", str(tmp_path), f"--{name}", str(tmp_path / "none")])
    assert f"argument --{name}: {tmp_path / 'none'} is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["0", "-3", "nan", "inf", "soon"])
def test_a_limit_is_a_time(limit: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--out", str(tmp_path), f"--limit={limit}"])
    assert f"argument --limit: '{limit}': expected seconds above 0" in capsys.readouterr().err


def test_unknown_parts_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--out", str(tmp_path), "--only", "kernel"])
    assert "no part 'kernel'; known: environment, tests, operations, graphs" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert gpu.main(["--out", str(tmp_path / "file/out")]) == 2
    said = capsys.readouterr().err
    assert f"cannot write to {tmp_path / 'file/out'}: " in said
    assert said.endswith("choose another --out\n")


def test_tests_take_the_workers_that_are_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> tuple[str, ...]:
        return next(one.command for one in parts.parts(tmp_path) if one.name == "tests")

    assert command()[command().index("-n") + 1] == "12"
    monkeypatch.setattr(parts, "find_spec", lambda _: None)
    assert "-n" not in command()


def test_wheels_are_installed_first_and_found_by_all(tmp_path: Path) -> None:
    (tmp_path / "some.whl").touch()
    first, *others = parts.parts(tmp_path / "out", wheels=tmp_path)
    assert first.command[-2:] == (str(tmp_path / "out/site"), str(tmp_path / "some.whl"))
    assert all(str(tmp_path / "out/site") in one.environment["PYTHONPATH"].split(os.pathsep) for one in others)


def steps() -> list[measure.Step]:
    def one(name: str) -> list[dict]:
        return [row("kernels", name, "op", "ms", [1.0], direction="forward")]

    def broken() -> list[dict]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB\nand more")

    def lost() -> list[dict]:
        return [row("kernels", "peer", "op", "ms", [], direction="forward", error="OutOfMemoryError: no memory")]

    return [("a", lambda: one("first")), ("b", broken), ("c", lost), ("d", lambda: one("last"))]


def read(folder: Path) -> list[str]:
    text = (folder / "kernels.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["provider"] for line in text.splitlines()]


def test_out_of_memory_ends_one_computation(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert measure.perform(steps(), tmp_path) is None
    assert read(tmp_path) == ["first", "peer", "last"]
    assert capsys.readouterr().out.splitlines() == [
        "a: forward: first: 1 ms",
        "FAILED b: OutOfMemoryError: CUDA out of memory. Tried to allocate 80 GiB",
        "FAILED c: forward: peer: OutOfMemoryError: no memory",
        "d: forward: last: 1 ms",
    ]


def test_a_device_that_is_lost_is_left_for_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usable = iter([True, False])
    monkeypatch.setattr(measure, "_usable", lambda: next(usable))
    assert measure.perform(steps(), tmp_path) == 2
    monkeypatch.setattr(measure, "_usable", lambda: True)
    assert measure.perform(steps(), tmp_path, first=2) is None
    assert read(tmp_path) == ["first", "peer", "last"]


def test_rows_that_cannot_be_written_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "results").touch()
    measure.perform(steps()[:1], tmp_path / "results")
    assert capsys.readouterr().out.startswith("FAILED a: FileExistsError: ")


def test_every_part_has_steps() -> None:
    """Their names, without taking them."""
    for name, make in measure.PARTS.items():
        named = [step for step, _ in make(torch.device("cuda"))]
        assert named, name
        assert len(set(named)) == len(named)
    first = [step for step, _ in measure.PARTS["operations"](torch.device("cuda"))][2]
    assert first == "deformable_attention bfloat16 1024x2048 batch 1"
    assert {one.name for one in parts.parts(Path("out"))} == {"environment", "tests", *measure.PARTS}


def test_steps_measure_on_small_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of step on a CPU, as on a GPU."""
    monkeypatch.setattr(measure, "OPERATIONS", ("mask_pool",))
    monkeypatch.setattr(measure, "measure_ceilings", lambda dtype, device: None)
    monkeypatch.setattr(measure.kernels, "ceiling_rows", lambda ceilings, dtype: [])
    forms = [(torch.float32, (64, 96), 1)]
    assert measure.perform(measure.operations(forms, torch.device("cpu"), others=False), tmp_path) is None
    assert set(read(tmp_path)) == {"clouds", "reference"}


def test_warnings_of_other_versions_fail_no_test_of_a_gpu(tmp_path: Path) -> None:
    """With the options of the runner, under which the test is selected, and with those of the project alone."""
    (tmp_path / "test_one.py").write_text(
        "import warnings\nimport pytest\n\n@pytest.mark.gpu\ndef test_one():\n    warnings.warn('deprecated')\n",
        encoding="utf-8",
    )
    options = [one for one in parts._pytest(tmp_path) if not one.startswith(("--junitxml", "tests/"))]
    options = [one for one in options if one not in ("-n", "12", "--dist", "worksteal")]
    shared = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), str(tmp_path / "test_one.py")]
    found = [
        subprocess.run([*shared, *more], cwd=tmp_path, capture_output=True, text=True, check=False).returncode
        for more in (options, ["-p", "no:cacheprovider"])
    ]
    assert found == [0, 1]


def test_another_tree_is_measured_in_its_own_process(tmp_path: Path) -> None:
    found = list(beside.measured(ROOT, 0, "cpu", [(64, 96, 1)]))
    assert {(one["provider"], one["metric"]) for one in found} == {(ROOT.name, op) for op in problems.PROBLEMS}
    assert all(one["p50"] > 0 and one["deviation"] < 0.1 for one in found if one["metric"] != "semantic_inference")
    with pytest.raises(RuntimeError, match="exit code 1, for what is printed above"):
        list(beside.measured(tmp_path, 0, "cpu", [(64, 96, 1)]))  # no tree of ours: `clouds` would be another one
