"""What the tests of the command line share."""

from collections.abc import Callable

from attrs import frozen


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
