"""Prompts from a language model."""

from __future__ import annotations

import warnings
from typing import final

import numpy as np

from clouds.core.contract.interfaces import Prompter
from clouds.core.contract.labels import LabelSpace
from clouds.core.system.errors import ConfigError
from clouds.core.system.progress import progress_bar
from clouds.prompters.chat_models import ChatModel
from clouds.prompters.grammar import TIMES, WEATHERS
from clouds.prompters.llm_text import caption_key, parse_captions
from clouds.prompters.prompt_statistics import classes_named

_SHOWN = 10  # earlier captions in a question
_EXAMPLE = "A photo of a busy road in daylight with sunny weather."  # one of the published prompts


class CoverageWarning(UserWarning):
    """Some classes occur in no prompt."""


@final
class LlmPrompter(Prompter):
    """Asks a language model for captions of street scenes (CLOUDS, CVPR 2024, section 3.1) until n distinct ones exist.

    The paper published the answers, 100 captions of Llama-2-70B-chat, but not the question. This question follows the
    form of the answers: a kind of picture, a subject of the classes, a time, a weather. Captions differ in more than
    case and punctuation. Later questions show some earlier captions and list the classes that are still missing. If n
    is at least the number of classes, questions continue until all classes occur or an answer adds none.

    Args:
        model: answers the questions.
        label_space: classes that captions should name.
        batch: captions per question.
        rounds: maximum questions, as a multiple of the ideal number.

    Raises:
        ConfigError: `batch` or `rounds` is less than 1, n is negative, or the answers have fewer than n captions.
    """

    def __init__(self, model: ChatModel, label_space: LabelSpace, *, batch: int = 25, rounds: int = 5) -> None:
        for option, value in (("batch", batch), ("rounds", rounds)):
            if value < 1:
                raise ConfigError(f"prompter llm: {option}={value}; expected at least 1")
        self.model, self.label_space, self.batch, self.rounds = model, label_space, batch, rounds

    def prompts(self, n: int, *, seed: int) -> list[str]:
        if n < 0:
            raise ConfigError(f"{n} prompts were asked for; ask for 0 or more")
        found = self._ask(n, seed)
        if len(found) < n:
            raise ConfigError(
                f"prompter llm: {self._limit(n)} answers of {self.model.name} have {len(found)} distinct captions, but "
                f"{n} were requested; use a model that follows instructions, a higher temperature, or more rounds"
            )
        chosen = _choose(found, n, self.label_space)
        named = set[str]().union(*(classes_named(caption, self.label_space) for caption in chosen))
        missing = [name for name in self.label_space.names if name not in named]
        if missing and n >= len(self.label_space):
            warnings.warn(f"no prompt names {', '.join(missing)}", CoverageWarning, stacklevel=2)
        return chosen

    def _ask(self, n: int, seed: int) -> list[str]:
        """Ask until there are n distinct captions, or the limit of questions is reached."""
        found: dict[str, str] = {}
        named: set[str] = set()
        with progress_bar() as bar:
            task = bar.add_task("prompts", total=n)
            for number in range(self._limit(n)):
                missing = [name for name in self.label_space.names if name not in named]
                enough = len(found) >= n
                if enough and (not missing or n < len(self.label_space)):
                    break
                rng = np.random.default_rng((seed, number))
                lacking = len(missing) if enough else n - len(found)
                question = self._question(lacking, list(found.values()), missing, rng)
                for caption in parse_captions(self.model.answer(question, seed=int(rng.integers(2**31)))):
                    if found.setdefault(caption_key(caption), caption) is caption:
                        named |= classes_named(caption, self.label_space)
                bar.update(task, completed=min(len(found), n))
                if enough and named.isdisjoint(missing):
                    break
        return list(found.values())

    def _limit(self, n: int) -> int:
        return self.rounds * -(-n // self.batch)

    def _question(self, lacking: int, captions: list[str], missing: list[str], rng: np.random.Generator) -> str:
        """The question. It suggests a random time and weather."""
        time, weather = rng.choice(TIMES), rng.choice(WEATHERS)
        lines = [
            f"Write {min(lacking, self.batch)} different captions of photos that a camera in a city or on a "
            "road could take, as prompts for a text-to-image model.",
            "Each is one sentence: a kind of picture (photo, picture, snapshot), what is to be seen, the time of day "
            "and the weather.",
            f"For example: {_EXAMPLE}",
            f"Vary places, objects, times of day and weather; let some be {time}, and some in {weather} weather.",
            f"Objects are taken from: {', '.join(missing or self.label_space.names)}.",
        ]
        if captions:
            shown = rng.choice(len(captions), size=min(_SHOWN, len(captions)), replace=False)
            lines += ["Do not repeat these:", *(f"- {captions[index]}" for index in sorted(shown))]
        lines.append("Answer with a numbered list of the captions alone.")
        return "\n".join(lines)


def _choose(captions: list[str], n: int, label_space: LabelSpace) -> list[str]:
    """Choose n captions in their order; those that name a new class take precedence."""
    named: set[str] = set()
    first: list[int] = []
    others: list[int] = []
    for index, caption in enumerate(captions):
        classes = classes_named(caption, label_space)
        (others if classes <= named else first).append(index)
        named |= classes
    return [captions[index] for index in sorted((first + others)[:n])]
