"""Captions from a language model, one at a time, of scenes that are drawn beforehand; small models can do this."""

from __future__ import annotations

from collections.abc import Collection
from typing import final

import numpy as np
from jaxtyping import Float

from clouds.core.contract.interfaces import Prompter
from clouds.core.contract.labels import LabelSpace
from clouds.core.contract.records import Prompt
from clouds.core.system.errors import ConfigError
from clouds.core.system.progress import progress_bar
from clouds.prompters.chat_models import ChatModel
from clouds.prompters.grammar import KINDS, PLACES, TIMES, WEATHERS
from clouds.prompters.llm_text import caption_key, first_sentence
from clouds.prompters.scenes import Scene, draw_scenes

GRAMMAR = "grammar"  # who wrote a caption that the model did not
_ASK = "Write each caption in a livelier way. Keep the place, the things, the time of day and the weather.\n"
_SHOWN = 2  # examples in a question; others are shown when the model is asked again
_EXAMPLES = (
    (
        "A photo of a rainy city street at dusk with buses and a fence.",
        "A photo of a rainy city street at dusk, where buses pass a long fence.",
    ),
    (
        "A dashcam picture of a sunny country road at noon with trees and a wall.",
        "A dashcam picture of a sunny country road at noon, with trees in front of a wall.",
    ),
    (
        "A street view of a cloudy village road at dawn with bicycles and a sidewalk.",
        "A street view of a cloudy village road at dawn, where bicycles lean beside a sidewalk.",
    ),
    (
        "A wide-angle photo of a snowy highway at night with trucks and traffic signs.",
        "A wide-angle photo of a snowy highway at night, where trucks pass under traffic signs.",
    ),
)


@final
class ScenePrompter(Prompter):
    """Asks a language model to rewrite the plain sentence of a drawn scene, one caption at a time.

    A caption is taken if it names the scene's classes, weather and time of day, and is a new one; else the model is
    asked again, with other examples and another seed. After `rounds` questions the plain sentence is taken; the
    prompt's `origin` says so. The first n captions do not depend on how many are requested.

    Args:
        model: answers the questions.
        label_space: classes that captions name; all of them in as many prompts.
        rounds: maximum questions per caption.
        shares: see `draw_scenes`.

    Raises:
        ConfigError: `rounds` is less than 1, or n is negative or more than the scenes that can be drawn.
    """

    def __init__(
        self,
        model: ChatModel,
        label_space: LabelSpace,
        *,
        rounds: int = 5,
        shares: Float[np.ndarray, " k"] | None = None,
    ) -> None:
        if rounds < 1:
            raise ConfigError(f"prompter llm: rounds={rounds}; expected at least 1")
        self.model, self.label_space, self.rounds, self.shares = model, label_space, rounds, shares

    def prompts(self, n: int, *, seed: int) -> list[str]:
        return [prompt.text for prompt in self.write(n, seed=seed)]

    def write(self, n: int, *, seed: int) -> list[Prompt]:
        most = len(KINDS) * len(PLACES) * len(TIMES) * len(WEATHERS) * len(self.label_space)
        if not 0 <= n <= most:
            raise ConfigError(f"{n} prompts were asked for; ask for 0 to {most}")
        found: dict[str, Prompt] = {}
        scenes = enumerate(draw_scenes(self.label_space, seed=seed, shares=self.shares))
        with progress_bar() as bar:
            task = bar.add_task("prompts", total=n)
            while len(found) < n:
                number, scene = next(scenes)
                prompt = self._ask(scene, (seed, number), found)
                found.setdefault(caption_key(prompt.text), prompt)
                bar.update(task, completed=len(found))
        return list(found.values())

    def _ask(self, scene: Scene, key: tuple[int, int], known: Collection[str]) -> Prompt:
        """Ask until a new caption names the scene; else take the plain sentence."""
        for number in range(self.rounds):
            rng = np.random.default_rng((*key, number))
            (plain, lively), *others = (_EXAMPLES[index] for index in rng.permutation(len(_EXAMPLES))[:_SHOWN])
            examples = [(_ASK + plain, lively), *others]
            answer = self.model.answer(scene.sentence, examples=examples, seed=int(rng.integers(2**31)))
            caption = first_sentence(answer)
            if caption_key(caption) not in known and scene.is_named_in(caption, self.label_space):
                return Prompt(caption, origin={"by": self.model.name, "questions": number + 1})
        return Prompt(scene.sentence, origin={"by": GRAMMAR, "questions": self.rounds})
