"""`clouds generate --set prompter.OPTION=... --set generator.OPTION=...`, and `clouds train --list`."""

from pathlib import Path

from cli_helpers import Run, assert_one_line


def test_options_reach_the_part_with_their_prefix(run: Run, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("A road at night.\nA road by day.\n", encoding="utf-8")
    words = ["generate", "--generator", "procedural", "--n", 2, "--size", 32, 64, "--out", tmp_path / "made"]
    done = run(*words, "--prompter", "file", "--set", f"prompter.path={tmp_path / 'texts.txt'}")
    assert done.code == 0, done
    assert "A road at night." in (tmp_path / "made" / "manifest.jsonl").read_text(encoding="utf-8")
    wrong = run(*words, "--set", "generator.nothing=1")
    assert wrong.code == 1
    assert "procedural: unknown option 'nothing'" in wrong.err
    assert_one_line(
        run(*words, "--prompts", tmp_path / "texts.txt", "--set", "prompter.seed=1"),
        "--set prompter.seed=1: the prompts are those of",
        "no prompter is used; omit it",
        code=2,
    )


def test_train_lists_the_recipes(run: Run) -> None:
    listed = run("train", "--list")
    assert listed.code == 0
    assert listed.out == run("list", "recipes").out
    assert "cityscapes-r50" in listed.out
    assert_one_line(run("train"), "a new run needs RECIPE, see clouds train --list", code=2)
