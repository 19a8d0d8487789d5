"""A cluster of two Ray workers on this machine makes what one process makes, also when a worker is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import clouds
from clouds.core.system.errors import DataError, WorkerError
from clouds.synthesis.engines import open_workers
from clouds.synthesis.manifest import FILE_NAME, read_rows
from clouds.synthesis.workers import Workers

pytestmark = pytest.mark.slow  # a cluster takes ten seconds to start, and a busy machine more
N, BATCH, DEADLINE = 40, 2, 300
GENERATE = (
    *("generate", "--generator", "procedural", "--n", str(N), "--size", "192", "256", "--batch-size", str(BATCH)),
    *("--filter", "blank=24", "--filter", "duplicate", "--keep-labels"),  # one in five is drawn again
)
RAY = ("--engine", "ray", "--workers", "2", "--device", "cpu")


@pytest.fixture(autouse=True, scope="module")
def _ray() -> None:
    if find_spec("ray") is None:
        missing = "ray is not installed: pip install 'clouds-dgss[ray]'"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)


def start(*command: object) -> subprocess.Popen[str]:
    """A run of `clouds`, with no cluster but its own."""
    own = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-c", "import sys; from clouds.cli.app import main; sys.exit(main())"]
    return subprocess.Popen([*program, *map(str, command)], env=own, text=True, stdout=subprocess.PIPE)


def finish(run: subprocess.Popen[str]) -> str:
    out, _ = run.communicate(timeout=DEADLINE)
    assert run.returncode == 0
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def workers_of(pid: int) -> list[int]:
    """The processes below this one in which Ray's actors are, by the name that Ray gives them."""
    found: list[int] = []
    for child in [int(word) for tasks in Path(f"/proc/{pid}/task").glob("*/children") for word in words(tasks)]:
        title = " ".join(words(Path(f"/proc/{child}/cmdline")))
        found += [child] * title.startswith("ray::_Worker") + workers_of(child)
    return found


def words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").replace("\0", " ").split()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return []


def rows(folder: Path) -> int:
    manifest = folder / FILE_NAME
    return manifest.read_bytes().count(b"\n") if manifest.exists() else 0


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set that one process makes."""
    folder = tmp_path_factory.mktemp("alone") / "set"
    finish(start(*GENERATE, "--out", folder))
    return folder


def test_nothing_is_lost_or_made_twice_when_a_worker_is_killed(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    run = start(*GENERATE, "--out", out, *RAY, "--json")
    deadline = time.monotonic() + DEADLINE
    while rows(out) < 4:
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    before = workers_of(run.pid)
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    assert rows(out) < N - 4 * BATCH  # work was left for both
    replaced: set[int] = set()
    while run.poll() is None:
        replaced |= set(workers_of(run.pid)) - set(before)
        time.sleep(0.05)
    assert replaced
    made = json.loads(finish(run))
    assert made["images"] + made["left_out"] == N
    assert len(read_rows(out)) == rows(out) == made["images"]  # no index twice
    assert files(out) == files(alone)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    tiny = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    pipeline = clouds.compose(backbone=tiny, head={"name": "linear", "width": 16}, device="cpu")
    pipeline.trained = True
    pipeline.save(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_label_maps_are_refined_as_by_one_process(alone: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "some" / "images").mkdir(parents=True)
    for row in read_rows(alone)[:8]:
        shutil.copy(alone / row.file, tmp_path / "some" / row.file)
    given = ("refine", tmp_path / "some", "--refiner", "regions", "--checkpoint", checkpoint)
    finish(start(*given, "--device", "cpu", "--out", tmp_path / "one"))
    made = json.loads(finish(start(*given, *RAY, "--out", tmp_path / "two", "--json")))
    assert made["images"] == made["written"] == 8
    assert files(tmp_path / "one") == files(tmp_path / "two")


class BlankWarning(UserWarning):
    pass


def pid(model: int, item: int) -> int:
    time.sleep(0.2)
    return os.getpid()


def die(model: int, item: int) -> None:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)


def warn(model: int, item: int) -> int:
    warnings.warn(f"item {item} is black", BlankWarning, stacklevel=1)
    return item


def refuse(model: int, item: int) -> None:
    raise DataError(f"item {item} is torn")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Workers[int]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # workers find the functions of this file by its name
        with open_workers("ray", int, count=2, device="cpu") as workers:
            yield workers


def test_two_processes_work(cluster: Workers[int]) -> None:
    assert len({process for _, process in cluster.map(pid, range(8))}) == 2
    assert cluster.ask(abs) == 0


def test_warnings_come_back(cluster: Workers[int]) -> None:
    with pytest.warns(BlankWarning, match="^item 1 is black$"):
        assert list(cluster.map(warn, [1])) == [(1, 1)]


def test_what_kills_every_worker_is_given_up(cluster: Workers[int]) -> None:
    with pytest.raises(WorkerError, match="workers died 4 times on one batch"):
        list(cluster.map(die, range(5)))
    assert len(list(cluster.map(pid, range(2)))) == 2


def test_an_error_is_the_one_that_was_raised_there(cluster: Workers[int]) -> None:
    with pytest.raises(DataError, match=r"^item 0 is torn$"):
        list(cluster.map(refuse, range(3)))
