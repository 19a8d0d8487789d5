"""`clouds push`, and commands that take a pipeline of the hub by name; against a small hub on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_helpers import SMALL_RECIPE, Run, assert_one_line
from huggingface_hub import ModelCard
from local_hub import Hub, serving

import clouds
from clouds.training.run_folder import final_scores


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serving(tmp_path / "home") as served:
        yield served


def _clouds(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a command line in a process of its own, as a user does."""
    command = "from clouds.cli.app import main; raise SystemExit(main())"
    return subprocess.run([sys.executable, "-c", command, *map(str, words)], capture_output=True, text=True)


def test_a_user_pushes_and_another_predicts(hub: Hub, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    done = _clouds("push", checkpoint, "me/roads")
    commit = hub.repos["me/roads"][-1][0]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f'pushed: me/roads@{commit}\nuse it: clouds.load("me/roads"), or clouds predict me/roads IMAGES\n'
    )
    picture = photos / "images" / "val" / "a.png"
    for name, out in ((checkpoint, "own"), (f"me/roads@{commit}", "other")):
        done = _clouds("predict", name, picture, "--out", tmp_path / out, "--device", "cpu")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "own" / "a.png").read_bytes() == (tmp_path / "other" / "a.png").read_bytes()


def test_every_command_takes_names_of_the_hub(
    run: Run, hub: Hub, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    assert json.loads(run("push", checkpoint, "me/roads", "--private", "--json").out)["pushed"].startswith("me/roads@")
    recipe = tmp_path / "small.toml"
    recipe.write_text(SMALL_RECIPE, encoding="utf-8")
    scenes = tmp_path / "scenes"
    generator = ("generate", "--generator", "procedural", "--n", "1", "--size", "64", "64", "--out", scenes)
    assert run(*generator).code == 0
    for words in (
        ("evaluate", "me/roads", "--data", f"folder:{photos}", "--device", "cpu"),
        ("refine", scenes, "--refiner", "identity", "--checkpoint", "me/roads@main", "--device", "cpu"),
        ("push", "me/roads", "me/copy"),
    ):
        outcome = run(*words)
        assert outcome.code == 0, outcome
    settings = ("--set", f"data.source=folder:{photos}:val", "--set", "warmup.steps=1", "--set", "model.device=cpu")
    outcome = run("train", recipe, "--init", "me/roads", "--out", tmp_path / "run", *settings)
    assert outcome.code == 0, outcome
    first, copy = (
        {key: value for key, value in hub.repos[name][-1][1].items() if key != "README.md"}
        for name in ("me/roads", "me/copy")
    )
    assert first == copy


def test_the_card_of_a_run_has_its_recipe_and_scores(run: Run, hub: Hub, photos: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(SMALL_RECIPE, encoding="utf-8")
    data = f"folder:{photos}:val"
    sets = ("--set", f"data.source={data}", "--set", f'data.evaluation=["{data}"]', "--set", "loop.evaluate_every=1")
    assert run("train", recipe, "--out", tmp_path / "run", "--phase", "warmup", *sets).code == 0
    saved = tmp_path / "run" / "warmup"
    report = tmp_path / "report"
    words = ("--data", data, "--protocol", "native", "clouds-1024", "--report", report, "--device", "cpu")
    assert run("evaluate", saved, *words).code == 0
    picture = photos / "images" / "val" / "a.png"
    assert run("push", saved, "me/roads", "--report", report / "report.json", "--picture", picture).code == 0
    files = hub.repos["me/roads"][-1][1]
    card = ModelCard(files["README.md"].decode())
    assert "scored while training, at its last step" in card.content
    assert "[warmup]\nsteps = 2\n" in card.content
    results = card.data.eval_results or []
    words = ["protocol native: ", "protocol native: ", "protocol clouds-1024: "]
    assert all(str(one.metric_name).startswith(f"mIoU ({start}") for one, start in zip(results, words, strict=True))
    (scores,) = final_scores(tmp_path / "run", "warmup").values()
    assert results[0].metric_value == round(scores.miou or 0, 2) == results[1].metric_value
    assert "prediction.png" in files
    assert final_scores(tmp_path / "run", "joint") == {}


def test_faults_are_one_line_each(run: Run, hub: Hub, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    picture = photos / "images" / "val" / "a.png"
    (tmp_path / "report.json").write_text('{"miou": 3}', encoding="utf-8")
    (tmp_path / "other.json").write_text("[[", encoding="utf-8")
    hub.commit("me/gated", {})
    hub.gated.add("me/gated")
    out = tmp_path / "out"
    assert_one_line(run("predict", "me/none", picture, "--out", out), "me/none: no such folder, and none of the hub")
    assert_one_line(run("predict", "me/gated@main", picture, "--out", out), "its owner must grant you access")
    assert not out.exists()
    assert_one_line(run("push", checkpoint, "roads"), "'roads' is no name of a repository; expected 'owner/name'")
    assert_one_line(run("push", tmp_path, "me/roads"), "no saved pipeline here (plan.json is missing)")
    for name in ("report.json", "other.json", "gone.json"):
        outcome = run("push", checkpoint, "me/roads", "--report", tmp_path / name)
        assert_one_line(outcome, f"{name}: cannot be read as a report of clouds evaluate")
    assert_one_line(run("push", checkpoint, "me/roads", "--picture", tmp_path / "report.json"), "report.json")
    hub.refused.add("create")
    assert_one_line(run("push", checkpoint, "me/roads"), "me/roads: cannot be pushed to the hub")
    assert set(hub.repos) == {"me/gated"}


def test_without_a_login_the_remedy_is_said(checkpoint: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert "HF_TOKEN" not in os.environ
    done = _clouds("push", checkpoint, "me/roads")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("log in with `hf auth login`, or set HF_TOKEN\n")
    assert done.stderr.count("\n") == 1


def test_names_are_understood_by_load(checkpoint: Path, hub: Hub, run: Run) -> None:
    assert run("push", checkpoint, "me/roads").code == 0
    assert clouds.load("me/roads", device="cpu").trained
