"""A run that is killed at any moment, also as it writes a checkpoint, loses at most the steps since the last one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import clouds
from clouds.core.system.images import write_png
from clouds.training.checkpoint import FILE_NAME, read_checkpoint
from clouds.training.recipe import load_recipe
from clouds.training.train import train

EVERY = 2
SETTINGS = [
    *("data.crop=[32,64]", "warmup.steps=5", "warmup.batch_size=2", "joint.steps=5", "joint.batch_size=3"),
    *(f"loop.checkpoint_every={EVERY}", "teacher.every=2"),
]

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import test_resume_after_kill as here
here.run(*sys.argv[2:])
"""

# The last of these calls writes half of a checkpoint, and then the process is gone.
KILL = """
import os, signal
from pathlib import Path
write, calls = Path.write_bytes, []
def write_bytes(path, data):
    calls.append(path)
    if len(calls) < {call}:
        return write(path, data)
    write(path, bytes(data)[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
Path.write_bytes = write_bytes
here.run("""


def compose() -> clouds.Pipeline:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return clouds.compose(
            backbone={"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "trainable": True},
            head={"name": "linear", "width": 8},
            refiner="regions",
            device="cpu",
        )


def run(out: str, source: str, generated: str) -> None:
    """Go on with a run, or begin it."""
    if (Path(out) / FILE_NAME).is_file():
        train(compose(), resume=out)
    else:
        train(compose(), source=source, generated=generated, recipe=load_recipe("folder", SETTINGS), out=out)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for index in range(4):
        for name, shape, top in (("images", (40, 70, 3), 256), ("labels", (40, 70), 19)):
            write_png(folder / name / "train" / f"{index}.png", rng.integers(0, top, shape, np.uint8))
    pipeline = clouds.compose(backbone="tiny", head="linear", generator="procedural", prompter="grammar", device="cpu")
    made = clouds.generate(pipeline, 3, out=folder / "generated", size=(32, 64))
    return f"folder:{folder}", str(made.folder)


def command(out: Path, data: tuple[str, str], script: str = SCRIPT) -> list[str]:
    file = out.with_suffix(".py")
    file.write_text(script, encoding="utf-8")
    return [sys.executable, str(file), str(Path(__file__).parent), str(out), *data]


def assert_equal_runs(one: Path, two: Path) -> None:
    logs = [
        [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        for folder in (one, two)
    ]
    losses = [[(line["phase"], line["step"], line["loss"]) for line in lines] for lines in logs]
    assert losses[0] == losses[1]
    for phase in ("warmup", "joint"):
        mine, theirs = (clouds.load(folder / phase, device="cpu") for folder in (one, two))
        for a, b in ((mine.backbone, theirs.backbone), (mine.head, theirs.head)):
            differ = [key for key, value in b.state_dict().items() if not torch.equal(a.state_dict()[key], value)]
            assert not differ, (phase, differ)


def test_a_kill_in_the_middle_of_a_write(tmp_path: Path, data: tuple[str, str]) -> None:
    """The writes are those of steps 0, 2, 4 and 5 of the warm-up, then of the joint phase: the 7th is its step 4."""
    run(str(tmp_path / "whole"), *data)
    killed = tmp_path / "killed"
    outcome = subprocess.run(
        command(killed, data, SCRIPT.replace("here.run(", KILL.format(call=7))), timeout=300, check=False
    )
    assert outcome.returncode == -signal.SIGKILL
    assert list(killed.glob(".checkpoint.*.tmp.pt"))
    logged = [json.loads(line) for line in (killed / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    progress = read_checkpoint(killed)[0]
    assert (progress.phase, progress.step) == ("joint", 2)
    assert (logged[-1]["phase"], logged[-1]["step"]) == ("joint", progress.step + EVERY)
    run(str(killed), *data)
    assert_equal_runs(tmp_path / "whole", killed)
    assert [path.name for path in killed.glob(".*")] == [".lock"]


@pytest.mark.slow
def test_kills_at_any_moment(tmp_path: Path, data: tuple[str, str]) -> None:
    run(str(tmp_path / "whole"), *data)
    killed, kills = tmp_path / "killed", 0
    arguments = command(killed, data)
    started = time.monotonic()
    subprocess.run(command(tmp_path / "timed", data), timeout=300, check=True)
    duration = time.monotonic() - started
    for _ in range(5):
        process = subprocess.Popen(arguments, env=os.environ)
        try:
            process.wait(timeout=random.uniform(0.3, 1.0) * duration)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        else:
            assert process.returncode == 0
    subprocess.run(arguments, timeout=300, check=True)
    assert kills
    assert_equal_runs(tmp_path / "whole", killed)
