"""Where commands write: a folder of its own for each run, and what is said of a full disk."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import SMALL_RECIPE, Run, assert_one_line


def test_a_run_has_a_folder_of_its_own(run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(SMALL_RECIPE, encoding="utf-8")
    command = ("train", "mine.toml", "--set", f"data.source=folder:{photos}", "--set", "model.device=cpu")
    first = run(*command, "--json")
    assert first.code == 0, first.err
    assert json.loads(first.out)["checkpoint"] == str(Path("runs", "mine", "warmup"))
    assert_one_line(run(*command), f"{Path('runs', 'mine')} already has a finished run; choose another folder")
    assert_one_line(
        run(*command, "--out", Path("runs", "mine")), "runs/mine already has a finished run; choose another"
    )
    again = run("train", "--resume", Path("runs", "mine"))
    assert (again.code, again.out) == (0, "2 steps, already complete; trained pipeline in runs/mine/warmup\n")
    assert json.loads(run("train", "--resume", Path("runs", "mine"), "--json").out)["loss"] is None


@pytest.mark.parametrize("text", ["junk", "=3", ""])
def test_what_is_no_assignment_is_wrong_use(run: Run, tmp_path: Path, text: str) -> None:
    outcome = run("train", "folder", "--out", tmp_path / "run", "--set", text)
    assert outcome.code == 2
    assert "is not an assignment" in outcome.err
    assert not (tmp_path / "run").exists()


def test_no_prompts_are_wrong_use(run: Run, tmp_path: Path) -> None:
    assert_one_line(run("prompts", "--n", 0, "--out", tmp_path / "p.txt"), "--n 0: expected at least 1", code=2)
    assert not (tmp_path / "p.txt").exists()


@pytest.mark.parametrize(
    "command", [("prompts", "--n", 900), ("generate", "--generator", "procedural", "--n", 2, "--size", 64, 64)]
)
def test_a_full_disk_is_named_with_its_remedy(tmp_path: Path, command: tuple[object, ...]) -> None:
    """A limit on the size of files, as a process alone can have one, stands for a full disk."""
    out = tmp_path / "out"
    code = (
        "import resource, signal, sys\nfrom clouds.cli.app import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))\nsys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, *map(str, command), "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: [Errno 27] File too large: '")
    assert str(out) in last
    assert last.endswith("free disk space, and repeat the command")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name not in (".lock", "manifest.jsonl")]
