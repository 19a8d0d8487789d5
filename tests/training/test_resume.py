"""A run that is stopped and goes on ends with the bits of one that was not stopped."""

import errno
import json
import multiprocessing
import os
import random
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from training_helpers import assert_same, compose, recipe, weights

import clouds
from clouds.core.system.errors import ConfigError, DataError, WeightsError
from clouds.training.checkpoint import FILE_NAME, global_random_state, read_checkpoint, set_global_random_state
from clouds.training.interrupt import StopSignal, TrainingInterrupted
from clouds.training.train import train, unfinished


@pytest.mark.parametrize(("phase", "step"), [("warmup", 2), ("joint", 3)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_to_go_on_from(
    source: str, generated: Path, tmp_path: Path, phase: str, step: int, number: signal.Signals
) -> None:
    whole = compose()
    data = {"source": source, "generated": generated, "recipe": recipe()}
    expected = train(whole, **data, out=tmp_path / "whole")

    def stop(name: str, now: int, steps: int, numbers: dict[str, float]) -> None:
        if (name, now) == (phase, step):
            os.kill(os.getpid(), number)

    message = f"{number.name}: stopped after step {step} of {phase}; resume with: clouds train --resume {tmp_path}/run"
    with pytest.raises(TrainingInterrupted, match=message):
        train(compose(), **data, out=tmp_path / "run", on_step=stop)
    again = clouds.load(tmp_path / "run" / "start", device="cpu")
    run = train(again, resume=tmp_path / "run")
    assert_same(weights(whole), weights(again))
    assert (run.steps, run.loss, run.checkpoint.name) == (8, expected.loss, "joint")
    lines = [json.loads(line) for line in run.log.read_text(encoding="utf-8").splitlines()]
    others = [json.loads(line) for line in expected.log.read_text(encoding="utf-8").splitlines()]
    assert [(line["phase"], line["step"], line["loss"]) for line in lines] == [
        (line["phase"], line["step"], line["loss"]) for line in others
    ]


def test_only_a_run_that_was_interrupted_is_left_to_go_on_with(source: str, generated: Path, tmp_path: Path) -> None:
    found: list[tuple[str, int] | None] = []

    def look(*numbers: object) -> None:
        left = unfinished(tmp_path / "run")
        found.append(left and (left.phase, left.step))

    look()
    data = {"source": source, "generated": generated, "recipe": recipe("loop.checkpoint_every=2")}
    train(compose(), **data, out=tmp_path / "run", on_step=look)
    look()
    warmup, joint = [("warmup", 2)] * 2, [("joint", 0)] * 2 + [("joint", 2)] * 2
    assert found == [None, None, None, *warmup, *joint, None]


def test_a_finished_run_has_nothing_left_to_do(source: str, tmp_path: Path) -> None:
    pipeline = compose()
    train(pipeline, source=source, recipe=recipe(), out=tmp_path / "run")
    before = weights(pipeline)
    again = train(compose(), resume=tmp_path / "run")
    assert again.steps == 4
    assert_same(before, weights(clouds.load(again.checkpoint, device="cpu")))


def test_a_full_disk_leaves_the_earlier_checkpoint(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    write = Path.write_bytes

    def fill(path: Path, data: bytes) -> int:
        if len(written) == 2:
            write(path, bytes(data)[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(bytes(data))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(DataError, match=r"checkpoint of step 4 cannot be written: .*No space left.* is intact"):
        train(compose(), source=source, recipe=recipe(), out=tmp_path / "run")
    monkeypatch.undo()
    assert read_checkpoint(tmp_path / "run")[0].step == 3
    assert [path.name for path in (tmp_path / "run").glob(".*")] == [".lock"]
    whole, again = compose(), compose()
    train(whole, source=source, recipe=recipe(), out=tmp_path / "whole")
    train(again, resume=tmp_path / "run")
    assert_same(weights(whole), weights(again))


def test_resume_takes_the_place_of_everything_else(source: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="resume continues a run with its own settings; omit source"):
        train(compose(), source=source, resume=tmp_path)
    with pytest.raises(ConfigError, match="a new run needs recipe= and out="):
        train(compose(), source=source)
    with pytest.raises(ConfigError, match=r"has no checkpoint\.pt, so there is no run to resume"):
        train(compose(), resume=tmp_path)


def test_what_is_no_checkpoint_is_refused(source: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(compose(), source=source, recipe=recipe(), out=run)
    other = clouds.compose(backbone="tiny", head={"name": "linear", "width": 8}, device="cpu")
    other.backbone.freeze()
    with pytest.raises(ConfigError, match=r"trains \['backbone', 'head'\], but the pipeline trains \['head'\]"):
        train(other, resume=run)
    with pytest.raises(WeightsError, match=r"checkpoint\.pt, head does not fit LinearHead"):
        train(compose(head={"name": "linear", "width": 16}), resume=run)
    (run / "recipe.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"recipe\.json: cannot be read"):
        train(compose(), resume=run)
    torch.save({"model": {}}, run / FILE_NAME)
    with pytest.raises(WeightsError, match="not the checkpoint of a run; give the folder that was the run's --out"):
        train(compose(), resume=run)
    (run / FILE_NAME).write_bytes(b"PK\x03\x04 half of a file")
    with pytest.raises(WeightsError, match="not a whole checkpoint"):
        train(compose(), resume=run)


def test_what_a_killed_write_left_is_removed(source: str, tmp_path: Path) -> None:
    train(compose(), source=source, recipe=recipe(), out=tmp_path / "run")
    left = tmp_path / "run" / ".checkpoint.0123abcd.tmp.pt"
    left.write_bytes(b"half")
    read_checkpoint(tmp_path / "run")
    assert unfinished(tmp_path / "run") is None
    assert left.exists()  # whoever only reads changes nothing: it may be a live run's
    train(compose(), resume=tmp_path / "run")
    assert not left.exists()


def test_random_states_come_back() -> None:
    saved = global_random_state()

    def draw() -> tuple[float, float, float, float]:
        return torch.rand(()).item(), np.random.rand(), np.random.standard_normal(), random.random()

    first = draw()
    assert draw() != first
    set_global_random_state(saved)
    assert draw() == first


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_reading_processes_too_stops_the_run_as_if_it_were_alone(
    source: str, tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C and batch systems signal the whole group of processes."""

    def stop(phase: str, step: int, steps: int, numbers: dict[str, float]) -> None:
        if step == 3:
            readers = [child.pid for child in multiprocessing.active_children() if child.pid]
            assert len(readers) == 2
            for process in (*readers, os.getpid()):
                os.kill(process, number)

    with pytest.raises(TrainingInterrupted, match=f"{number.name}: stopped after step 3 of warmup"):
        train(
            compose(),
            source=source,
            recipe=recipe("data.workers=2", "warmup.steps=40"),
            out=tmp_path / "run",
            on_step=stop,
        )
    assert read_checkpoint(tmp_path / "run")[0].step == 3


def test_a_second_interrupt_acts_as_before() -> None:
    seen: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: seen.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            assert (stop.name, seen) == ("SIGTERM", [])
            os.kill(os.getpid(), signal.SIGINT)
            assert (stop.name, seen) == ("SIGTERM", [signal.SIGINT])
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [signal.SIGINT, signal.SIGTERM]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_signals_are_left_alone_outside_of_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def enter() -> None:
        with StopSignal():
            assert signal.getsignal(signal.SIGTERM) is before

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
