"""Exit codes, error messages and imports, which are the same for every command."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from cli_helpers import Run

import clouds
from clouds.cli import catalog_commands
from clouds.cli.app import main
from clouds.cli.output import write, write_json, write_table


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_names_every_command(run: Run, arguments: list[str]) -> None:
    outcome = run(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    commands = "demo list info doctor plan train evaluate predict prompts generate sheet refine convert bench datasets"
    commands += " weights"
    assert all(f"\n│ {command} " in outcome.out for command in commands.split())
    assert "Exit codes: 0 done, 1 failed, 2 wrong use" in outcome.out


def test_version(run: Run) -> None:
    assert run("--version").out == f"{clouds.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lst"], ['Unknown command "lst"', 'Did you mean "list"?']),
        (["datasets", "chekc"], ["chekc", "check"]),
        (["list", "--jsn"], ["--jsn", "--json"]),
        (["list", "wheels"], ["unknown kind 'wheels'", "expected one of backbone, adapter, generator"]),
        (["list", "heads", "surplus"], ["surplus"]),
        (["info"], ["requires an argument"]),
        (["generate", "--n", "3"], ["--generator"]),
        (["prompts", "--n", "three", "--out", "x"], ["--n", "three"]),
        (
            ["generate", "--generator", "g", "--n", "1", "--out", "x", "--prompts", "f", "--prompter", "p"],
            ["--prompter"],
        ),
        (["train", "folder", "--out", "x", "--phase", "later"], ["later", "warmup", "joint"]),
        (
            ["evaluate", "x", "--data", "folder:y", "--protocol", "own"],
            ["unknown evaluation protocol 'own'", "native", "published"],
        ),
        (["evaluate", "x", "--data", "folder:y", "--protocol", "slide-512"], ["did you mean 'slide-512-341'?"]),
        (["evaluate", "x", "--data", "folder:y", "--protocol", "all", "native"], ["'all' stands for every protocol"]),
        (["evaluate", "x", "--benchmark", "gta-to-cmb"], ["did you mean 'gta-to-cbm'?"]),
        (["evaluate", "x"], ["--data KIND:PATH[:SPLIT] ..., or --benchmark NAME"]),
        (["predict", "checkpoint"], ["IMAGES", "requires an argument"]),
    ],
)
def test_wrong_use_exits_with_2_and_says_what_is_wrong(run: Run, arguments: list[str], words: list[str]) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert all(word in outcome.err for word in words), outcome.err


def test_a_failure_exits_with_1_and_one_line(run: Run) -> None:
    outcome = run("info", "tinny")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == "error: unknown component 'tinny'; did you mean 'tiny'?\n"


def test_a_failure_shows_where_it_came_from_when_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDS_TRACEBACK", "1")
    with pytest.raises(clouds.UnknownComponentError, match="tinny"):
        run("info", "tinny")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (PermissionError(13, "Permission denied", "/root/x"), 1, "error: [Errno 13] Permission denied: '/root/x'\n"),
    ],
)
def test_interruptions_and_the_system_have_their_codes(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(catalog_commands, "write_table", fail)
    outcome = run("list")
    assert (outcome.code, outcome.err) == (code, message)


@pytest.mark.parametrize("arguments", [["plan", "folder"], ["list", "recipes", "--json"]])
def test_a_reader_that_has_left_ends_the_command_without_a_message(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = "import sys; from clouds.cli.app import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_mistakes_of_ours_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(catalog_commands, "write_table", fail)
    with pytest.raises(ZeroDivisionError):
        main(["list"])


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["list", "--json"], ["list", "backbones"], ["info", "tiny"], ["plan", "folder"], ["info", "tinny"]],
)
def test_looking_around_does_not_import_torch(arguments: list[str]) -> None:
    code = f"import sys; from clouds.cli.app import main; main({arguments!r}); sys.exit(10 * ('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("arguments", "code"), [(["list"], 0), (["info", "tinny"], 1), (["lst"], 2)])
def test_the_installed_program_returns_the_exit_code(arguments: list[str], code: int) -> None:
    call = "from importlib.metadata import entry_points as e; import sys; " + (
        "[p] = e(group='console_scripts', name='clouds'); sys.exit(p.load()())"
    )
    done = subprocess.run([sys.executable, "-c", call, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("Traceback" in done.stderr) is False


@pytest.mark.filterwarnings("default")
def test_names_in_warnings_cannot_steer_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings of any category, as they are shown and as a program above records them."""

    def warn(*_: object, **__: object) -> None:
        warnings.warn("left out: evil\x1b[2J\udcff.png", UserWarning, stacklevel=1)

    monkeypatch.setattr(catalog_commands, "write_table", warn)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, category, *_: sys.stderr.write(f"{category.__name__}: {message}\n")
        assert run("list").err == "UserWarning: left out: evil\\x1b[2J\\xff.png\n"
    with pytest.warns(UserWarning, match=r"left out: evil\\x1b\[2J\\xff\.png"):
        run("list")


def test_names_cannot_steer_a_terminal(run: Run, tmp_path: Path) -> None:
    checkpoint, name = tmp_path / "checkpoint\x1b]0;owned\x07", "evil\x1b[2J\udcff.png"
    assert r"evil\x1b[2J\xff.png: holds no picture" in run("predict", checkpoint, name).err
    (tmp_path / name).touch()
    outcome = run("predict", checkpoint, tmp_path / name)
    assert outcome.code == 1
    assert r"checkpoint\x1b]0;owned\x07: no saved pipeline here" in outcome.err
    assert "\x1b" not in outcome.err


def test_tables_and_json_are_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2J\x9b2J\udcff\u202e"
    write_table(["file"], [[name]])
    write(name)
    write_json({"file": name})
    shown = capsys.readouterr().out
    assert all(letter.isprintable() or letter == "\n" for letter in shown)
    assert shown.count(r"a\x1b[2J\x9b2J\xff\u202e") == 2
    assert json.loads(shown[shown.index("{") :]) == {"file": name}


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_and_options(run: Run) -> None:
    script = run("completion", "bash").out
    words = 'COMP_WORDS=(clouds %s); COMP_CWORD=1; _clouds; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", script + words % "eval"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[:1] == ["evaluate"]


def test_completion_for_an_unknown_shell_is_wrong_use(run: Run) -> None:
    outcome = run("completion", "csh")
    assert outcome.code == 2
    assert "csh" in outcome.err
