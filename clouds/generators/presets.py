"""One function per built-in generator and prompter: the numbers, and the built object. Light to import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouds.core.labels import LabelSpace

if TYPE_CHECKING:
    from clouds.core.interfaces import Generator, Prompter


def procedural() -> Generator:
    """Draws street scenes: time of day, weather, place and objects follow the prompt, the rest is drawn by the seed."""
    from clouds.generators.procedural import ProceduralGenerator

    return ProceduralGenerator()


def grammar(labels: LabelSpace) -> Prompter:
    """Sentences from a small grammar, every choice equally often.

    Args:
        labels: classes that the grammar has no words for are mentioned by their name.
    """
    from clouds.generators.grammar import GrammarPrompter

    return GrammarPrompter(labels)


def file(*, path: str) -> Prompter:
    """Prompts from a text file.

    Args:
        path: UTF-8, one prompt per line; blank lines and lines that begin with # are skipped.
    """
    from clouds.generators.prompt_file import FilePrompter

    return FilePrompter(path)
