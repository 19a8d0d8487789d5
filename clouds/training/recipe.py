"""Recipes as typed records. Nothing here imports torch."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from attrs import asdict, evolve, field, fields, frozen

from clouds.core.config import merge, override, read_toml, structure, to_toml, user_path
from clouds.core.errors import ConfigError, did_you_mean
from clouds.core.label_table import label_document
from clouds.core.plan import make_plan
from clouds.data.spec import parse_spec
from clouds.data.transforms import Augmentation

Phase = Literal["warmup", "joint"]
MODEL_KEYS = frozenset(inspect.signature(make_plan).parameters) - {"catalog"}


@frozen(kw_only=True)
class DataConfig:
    """What is trained on, and how it is cropped.

    Attributes:
        root: folder below which relative paths of `source`, `generated` and `evaluation` lie; empty leaves them alone.
        source: SPECs of labelled datasets.
        source_factors: repeats per epoch of an image of each source; empty means 1 for all.
        generated: folder of a generated dataset, or empty.
        generated_factor: repeats per epoch of a generated image.
        crop: (height, width) in pixels, multiples of 32.
        scale, flip, distortion, randomize, crop_offsets, label_resize, distort_padding: how views are made, see
            `clouds.data.transforms.Augmentation`.
        workers: processes that read images, for each training process; 0 reads in the training process.
        on_error: "stop" ends the run at an image that cannot be read, "skip" takes the set's next one in its place.
        evaluation: SPECs of labelled datasets for evaluations during training.
    """

    root: str = ""
    source: tuple[str, ...] = ()
    source_factors: tuple[float, ...] = ()
    generated: str = ""
    generated_factor: float = 1.0
    crop: tuple[int, int] = (320, 640)
    scale: tuple[float, float] = (0.5, 2.0)
    flip: bool = True
    distortion: bool = True
    randomize: bool = False
    crop_offsets: Literal["independent", "diagonal"] = "independent"
    label_resize: Literal["nearest-exact", "nearest"] = "nearest-exact"
    distort_padding: bool = False
    workers: int = 0
    on_error: Literal["stop", "skip"] = "stop"
    evaluation: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        if any(side < 32 or side % 32 for side in self.crop):
            raise ConfigError(f"data.crop is {list(self.crop)}; both sides must be multiples of 32")
        if self.source_factors and len(self.source_factors) != len(self.source):
            raise ConfigError(
                f"data.source_factors has {len(self.source_factors)} values for {len(self.source)} sources"
            )
        low, high = self.scale
        if not 0 < low <= high:
            raise ConfigError(f"data.scale is {list(self.scale)}; expected 0 < low <= high")

    def augmentation(self) -> Augmentation:
        """How training views are made."""
        return Augmentation(**{one.name: getattr(self, one.name) for one in fields(Augmentation)})

    def located(self) -> DataConfig:
        """The same with paths below `root`, absolute ones as they are; done twice it changes nothing more.

        Raises:
            ConfigError: a spec is wrong.
        """
        if not self.root:
            return self
        root = user_path(self.root).absolute()  # links below it may lead anywhere, as those to data sets do
        source, evaluation = (
            tuple(str(evolve(spec, path=root / spec.path)) for spec in map(parse_spec, specs))
            for specs in (self.source, self.evaluation)
        )
        generated = str(root / self.generated) if self.generated else ""
        return evolve(self, source=source, generated=generated, evaluation=evaluation)


@frozen(kw_only=True)
class OptimizerConfig:
    """AdamW. `clip_norm` bounds the norm of the full model's gradient; `schedule` "poly" decays with power 0.9."""

    lr: float = 1e-4
    weight_decay: float = 0.05
    clip_norm: float = 0.01
    schedule: Literal["constant", "poly"] = "constant"


@frozen(kw_only=True)
class PhaseConfig:
    """One phase of training: optimizer steps, and images per step, of all processes together."""

    steps: int
    batch_size: int

    def __attrs_post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1:
            raise ConfigError(f"a phase needs steps >= 0 and batch_size >= 1, got {self.steps} and {self.batch_size}")


@frozen(kw_only=True)
class TeacherConfig:
    """Exponential moving average of the student.

    Attributes:
        decay: teacher = decay x teacher + (1 - decay) x student.
        every: steps between updates.
        confidence: a pixel whose best class has less than this share of the scores gets no pseudo-label; 0 labels
            every pixel, as published.
    """

    decay: float = 0.999
    every: int = 100
    confidence: float = 0.0

    def __attrs_post_init__(self) -> None:
        if not (0 <= self.decay <= 1 and 0 <= self.confidence < 1) or self.every < 1:
            raise ConfigError(
                f"teacher needs decay in 0..1, confidence in 0..1 and every >= 1, "
                f"got {self.decay}, {self.confidence} and {self.every}"
            )


@frozen(kw_only=True)
class LoopConfig:
    """How the loop runs. But for rounding, nothing here changes what is learnt.

    Attributes:
        accumulate: parts of a process's share of a batch, whose gradients are added up; more parts need less memory.
        channels_last: keep the weights of convolutions with the channels last in memory; faster on some processors.
        checkpoint_every: steps between checkpoints, so the most that an interruption can cost.
        evaluate_every: steps between evaluations on `data.evaluation`; 0 makes none.
        trackers: where the numbers of each step go beside `log.jsonl`, e.g. "tensorboard", "wandb".
    """

    accumulate: int = 1
    channels_last: bool = False
    checkpoint_every: int = 1000
    evaluate_every: int = 0
    trackers: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.accumulate < 1 or self.checkpoint_every < 1 or self.evaluate_every < 0:
            raise ConfigError(
                f"loop needs accumulate >= 1, checkpoint_every >= 1 and evaluate_every >= 0, "
                f"got {self.accumulate}, {self.checkpoint_every} and {self.evaluate_every}"
            )


@frozen(kw_only=True)
class Recipe:
    """Everything that a training run needs. `model` holds arguments of `clouds.compose`."""

    model: dict[str, Any] = field(factory=dict)
    data: DataConfig = field(factory=DataConfig)
    optimizer: OptimizerConfig = field(factory=OptimizerConfig)
    warmup: PhaseConfig
    joint: PhaseConfig
    teacher: TeacherConfig = field(factory=TeacherConfig)
    loop: LoopConfig = field(factory=LoopConfig)
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a TOML or JSON file holds them."""
        return asdict(self)

    def to_toml(self) -> str:
        """The recipe as a file that `load_recipe` reads: every value, nothing left to a default."""
        return to_toml(self.to_dict())


def recipe_names() -> list[str]:
    """Names of the recipes that come with the library."""
    return sorted(
        path.name.removesuffix(".toml") for path in files("clouds.recipes").iterdir() if path.name.endswith(".toml")
    )


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe by name, or from a TOML file, and lay `a.b=value` assignments over it.

    Keys of `model` may stand alone: `refiner=sam-vit-h` is `model.refiner=sam-vit-h`.

    Raises:
        ConfigError: no such recipe (with the nearest name), or a wrong key or value (with its path).
    """
    document = override(_resolve(name), map(_whole_key, overrides))
    data = document.get("data")
    if isinstance(data, dict) and isinstance(data.get("source"), str):
        data["source"] = [data["source"]]  # one SPEC may be given without brackets
    recipe = structure(document, Recipe, source=f"recipe {name}")
    model = recipe.model | ({"labels": label_document(recipe.model["labels"])} if "labels" in recipe.model else {})
    return evolve(recipe, data=recipe.data.located(), model=model)


def _whole_key(assignment: str) -> str:
    first = re.split("[.=]", assignment, maxsplit=1)[0].strip()
    return f"model.{assignment.lstrip()}" if first in MODEL_KEYS else assignment


def _resolve(name: str | Path, below: tuple[str, ...] = ()) -> dict[str, Any]:
    """The document of a recipe with everything that it extends below it."""
    document = _read(name)
    base = document.pop("extends", None)
    if base is None:
        return document
    if not isinstance(base, str) or base in (*below, str(name)):
        raise ConfigError(
            f"recipe {name}: extends is {base!r}; expected another recipe's name or file, not one of its own"
        )
    return merge(_resolve(base, (*below, str(name))), document)


def _read(name: str | Path) -> dict[str, Any]:
    if str(name).endswith(".toml"):
        return read_toml(name)
    if str(name) not in recipe_names():
        raise ConfigError(
            f"unknown recipe {str(name)!r}{did_you_mean(str(name), recipe_names())}, or give a .toml file"
        )
    return tomllib.loads(files("clouds.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8"))
