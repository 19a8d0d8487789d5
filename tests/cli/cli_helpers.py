"""What the tests of the command line share."""

import json
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from clouds.training.recipe import load_recipe

SMALL_RECIPE = """
extends = "folder"
[model]
backbone = { name = "tiny", trainable = true, dims = [8, 16, 24, 32], depths = [1, 1, 1, 1] }
head = { name = "linear", width = 16 }
[data]
crop = [32, 32]
[warmup]
steps = 2
batch_size = 1
[joint]
steps = 1
batch_size = 2
"""


@frozen
class Outcome:
    """What a command line did."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


def assert_one_line(outcome: Outcome, *words: str, code: int = 1) -> None:
    """The command failed with one line on standard error, which holds the words, and said nothing else."""
    assert (outcome.code, outcome.out) == (code, ""), outcome
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1, outcome.err
    assert all(word in outcome.err for word in words), outcome.err


def write_evaluated_run(folder: Path, *settings: str, score: float = 50.0) -> Path:
    """The folder of a run that was evaluated at step 4."""
    scores = {"day": {"images": 2, "miou": score, "iou": {"road": score}}}
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps(load_recipe("folder", settings).to_dict()), encoding="utf-8")
    (folder / "log.jsonl").write_text(
        json.dumps({"phase": "warmup", "step": 4, "scores": scores}) + "\n", encoding="utf-8"
    )
    return folder
