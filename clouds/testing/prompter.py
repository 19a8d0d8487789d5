"""The contract of prompters."""

from __future__ import annotations

from clouds.core.contract.interfaces import Prompter
from clouds.testing.contract import require, require_instance

_SEED = 3


def check_prompter(prompter: Prompter, *, most: int = 7) -> None:
    """Check a built prompter for 0, 1 and `most` prompts.

    It returns a list of exactly n non-empty lines of text; the same n and seed give the same list, and `write` the same
    texts.

    Raises:
        ContractError: a clause is broken.
    """
    require_instance(prompter, Prompter, "prompter")
    for n in (0, 1, most):
        prompts = prompter.prompts(n, seed=_SEED)
        require(
            isinstance(prompts, list) and len(prompts) == n,
            prompter,
            f"prompts({n}, seed={_SEED}) must be a list of {n} strings",
            got=repr(prompts)[:200],
            remedy="return exactly n, or raise clouds.ConfigError when n cannot be made",
        )
        bad = [text for text in prompts if not (isinstance(text, str) and text.strip() and len(text.splitlines()) == 1)]
        require(
            not bad,
            prompter,
            "a prompt must be one line of text, because prompts are kept one per line",
            got=bad[:3],
            remedy="strip prompts, and leave empty ones out",
        )
        again = prompter.prompts(n, seed=_SEED)
        require(
            again == prompts,
            prompter,
            f"prompts({n}, seed={_SEED}) must be the same on every call",
            got="two different lists",
            remedy="draw from random.Random(seed), never from global state",
        )
        written = [prompt.text for prompt in prompter.write(n, seed=_SEED)]
        require(
            written == prompts,
            prompter,
            f"write({n}, seed={_SEED}) must have the texts of prompts({n}, seed={_SEED})",
            got="two different lists",
            remedy="return from prompts the texts of write",
        )
