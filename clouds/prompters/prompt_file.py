"""Prompts from a text file."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path
from typing import final

from clouds.core.contract.interfaces import Prompter
from clouds.core.system.errors import ConfigError


@final
class FilePrompter(Prompter):
    """Reads one prompt per line, in order; a longer request repeats the file (the published method: j mod 100).

    Args:
        path: UTF-8 text; blank lines and lines that start with # are skipped.

    Raises:
        ConfigError: the file is missing, not UTF-8, or has no prompt; or n is negative.
    """

    def __init__(self, path: str) -> None:
        try:
            lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: no such file; `clouds prompts --n 100 --out {path}` makes one") from error
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: prompts cannot be read as UTF-8 text: {error}") from error
        self._prompts = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not self._prompts:
            raise ConfigError(f"{path}: has no prompt; write one per line")

    def prompts(self, n: int, *, seed: int) -> list[str]:
        if n < 0:
            raise ConfigError(f"{n} prompts were asked for; ask for 0 or more")
        return list(islice(cycle(self._prompts), n))
