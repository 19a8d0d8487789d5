"""What the tests of the command line share."""

from collections.abc import Callable

from attrs import frozen

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
