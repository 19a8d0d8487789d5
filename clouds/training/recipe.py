"""Recipes as typed records. Nothing here imports torch."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from attrs import asdict, evolve, field, fields, frozen

from clouds.core.contract.label_table import label_document
from clouds.core.contract.planner import make_plan
from clouds.core.system.config import merge, parse_assignment, read_toml, set_values, structure, to_toml, within
from clouds.core.system.errors import ConfigError, did_you_mean
from clouds.core.system.files import without_tilde
from clouds.data.spec import parse_spec
from clouds.data.transforms import Augmentation

Phase = Literal["warmup", "joint"]
Overrides = Sequence[str] | Mapping[str, Any]  # "a.b=value" texts, or values by "a.b"
MODEL_KEYS = frozenset(inspect.signature(make_plan).parameters) - {"catalog"}
MANY = 10**9  # more steps, or images in a batch, than any run has


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
    source_factors: tuple[float, ...] = field(default=(), validator=within(0, 1000))
    generated: str = ""
    generated_factor: float = field(default=1.0, validator=within(0, 1000))
    crop: tuple[int, int] = field(default=(320, 640), validator=within(32, 16384))
    scale: tuple[float, float] = field(default=(0.5, 2.0), validator=within(0.01, 100))
    flip: bool = True
    distortion: bool = True
    randomize: bool = False
    crop_offsets: Literal["independent", "diagonal"] = "independent"
    label_resize: Literal["nearest-exact", "nearest"] = "nearest-exact"
    distort_padding: bool = False
    workers: int = field(default=0, validator=within(0, 1024))
    on_error: Literal["stop", "skip"] = "stop"
    evaluation: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        if any(side % 32 for side in self.crop):
            raise ConfigError(f"data.crop is {list(self.crop)}; both sides must be multiples of 32")
        if self.source_factors and len(self.source_factors) != len(self.source):
            raise ConfigError(
                f"data.source_factors has {len(self.source_factors)} values for {len(self.source)} sources"
            )
        low, high = self.scale
        if low > high:
            raise ConfigError(f"data.scale is {list(self.scale)}; expected low <= high")

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
        root = without_tilde(self.root).absolute()  # links below it may lead anywhere, as those to data sets do
        source, evaluation = (
            tuple(str(evolve(spec, path=root / spec.path)) for spec in map(parse_spec, specs))
            for specs in (self.source, self.evaluation)
        )
        generated = str(root / self.generated) if self.generated else ""
        return evolve(self, source=source, generated=generated, evaluation=evaluation)


@frozen(kw_only=True)
class OptimizerConfig:
    """AdamW. `clip_norm` bounds the norm of the full model's gradient; `schedule` "poly" decays with power 0.9."""

    lr: float = field(default=1e-4, validator=within(0, 100, above=True))
    weight_decay: float = field(default=0.05, validator=within(0, 100))
    clip_norm: float = field(default=0.01, validator=within(0, 1e9, above=True))
    schedule: Literal["constant", "poly"] = "constant"


@frozen(kw_only=True)
class PhaseConfig:
    """One phase of training: optimizer steps, and images per step, of all processes together."""

    steps: int = field(validator=within(0, MANY))
    batch_size: int = field(validator=within(1, MANY))


@frozen(kw_only=True)
class TeacherConfig:
    """Exponential moving average of the student.

    Attributes:
        decay: teacher = decay x teacher + (1 - decay) x student.
        every: steps between updates.
        confidence: a pixel whose best class has less than this share of the scores gets no pseudo-label; 0 labels
            every pixel, as published.
    """

    decay: float = field(default=0.999, validator=within(0, 1))
    every: int = field(default=100, validator=within(1, MANY))
    confidence: float = field(default=0.0, validator=within(0, 0.9999))


@frozen(kw_only=True)
class LoopConfig:
    """How the loop runs. But for rounding, nothing here changes what is learnt.

    Attributes:
        accumulate: parts of a process's share of a batch, whose gradients are added up; more parts need less memory.
        channels_last: keep the weights of convolutions with the channels last in memory; faster on some processors.
        checkpoint_every: steps between checkpoints, so the most that a kill can cost.
        keep: checkpoints that are kept. The newest is `checkpoint.pt`, from which a run goes on. With 2 or more each is
            `checkpoint-PHASE-STEP.pt`, too; to go on from one of them, copy it to `checkpoint.pt`.
        evaluate_every: steps between evaluations on `data.evaluation`; 0 makes none.
        best: "miou" keeps the pipeline of the best evaluation so far in `best/`; empty keeps none.
        trackers: where the numbers of each step go beside `log.jsonl`, e.g. "tensorboard", "wandb".
    """

    accumulate: int = field(default=1, validator=within(1, MANY))
    channels_last: bool = False
    checkpoint_every: int = field(default=1000, validator=within(1, MANY))
    keep: int = field(default=1, validator=within(1, 1000))
    evaluate_every: int = field(default=0, validator=within(0, MANY))
    best: Literal["", "miou"] = ""
    trackers: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.best and not self.evaluate_every:
            raise ConfigError(f"loop.best is {self.best!r}, but nothing is evaluated; set loop.evaluate_every, too")


@frozen(kw_only=True)
class Recipe:
    """Everything that a training run needs. `model` holds arguments of `clouds.compose`.

    Each number's range stands in its field; a value outside of it is a `ConfigError` when the record is made.
    """

    model: dict[str, Any] = field(factory=dict)
    data: DataConfig = field(factory=DataConfig)
    optimizer: OptimizerConfig = field(factory=OptimizerConfig)
    warmup: PhaseConfig
    joint: PhaseConfig
    teacher: TeacherConfig = field(factory=TeacherConfig)
    loop: LoopConfig = field(factory=LoopConfig)
    seed: int = field(default=0, validator=within(0, 2**32 - 1))  # numpy's global generator takes no more

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a TOML or JSON file holds them."""
        return asdict(self)

    def to_toml(self) -> str:
        """The recipe as a file that `load_recipe` reads: every value, nothing left to a default."""
        return to_toml(self.to_dict())


# Settings that can change when a run resumes: no step already made depends on them. `loop.accumulate` changes rounding.
CHANGEABLE = (
    *("data.workers", "data.on_error", "data.evaluation", "model.device", "loop.accumulate", "loop.checkpoint_every"),
    *("loop.keep", "loop.evaluate_every", "loop.best", "loop.trackers"),
)


def changed(recipe: Recipe, overrides: Overrides) -> Recipe:
    """The recipe of a run that goes on, with other values; see `load_recipe`.

    Raises:
        ConfigError: a value is wrong, or its key is none of `CHANGEABLE`.
    """
    fixed = [key for path, _ in _pathed(overrides) if (key := ".".join(path)) not in CHANGEABLE]
    if fixed:
        raise ConfigError(
            f"{', '.join(fixed)} cannot change while a run goes on, because steps that were made depend on it; what "
            f"can: {', '.join(CHANGEABLE)}"
        )
    return with_values(recipe, overrides)


def with_values(recipe: Recipe, overrides: Overrides) -> Recipe:
    """A recipe with other values; see `load_recipe`. Raises `ConfigError` when one is wrong."""
    if not overrides:
        return recipe
    return _settle(
        structure(set_values(recipe.to_dict(), _pathed(overrides)), Recipe, source="the recipe with its values")
    )


def _settle(recipe: Recipe) -> Recipe:
    """The recipe with whole paths, and with the classes that a file holds, so that it needs no other place or file."""
    model = recipe.model | ({"labels": label_document(recipe.model["labels"])} if "labels" in recipe.model else {})
    return evolve(recipe, data=recipe.data.located(), model=model)


def recipe_names() -> list[str]:
    """Names of the recipes that come with the library."""
    return sorted(
        path.name.removesuffix(".toml") for path in files("clouds.recipes").iterdir() if path.name.endswith(".toml")
    )


def load_recipe(name: str | Path, overrides: Overrides = ()) -> Recipe:
    """Load a recipe by name, or from a TOML file, and lay `a.b=value` assignments, or values by `a.b`, over it.

    Keys of `model` may stand alone: `refiner=sam-vit-h` is `model.refiner=sam-vit-h`.

    Raises:
        ConfigError: no such recipe (with the nearest name), or a wrong key or value (with its path).
    """
    document = set_values(_resolve(name), _pathed(overrides))
    data = document.get("data")
    if isinstance(data, dict) and isinstance(data.get("source"), str):
        data["source"] = [data["source"]]  # one SPEC may be given without brackets
    return _settle(structure(document, Recipe, source=f"recipe {name}"))


def _pathed(overrides: Overrides) -> list[tuple[list[str], Any]]:
    """Values by the whole path of their key."""
    if isinstance(overrides, Mapping):
        found = [(key.split("."), value) for key, value in overrides.items()]
    else:
        found = [parse_assignment(text) for text in overrides]
    return [(["model", *path] if path[0] in MODEL_KEYS else path, value) for path, value in found]


def _resolve(name: str | Path, extending: tuple[str, ...] = ()) -> dict[str, Any]:
    """The document of a recipe with everything that it extends below it; `extending` are the recipes above it."""
    chain = (*extending, str(name))
    if str(name) in extending:
        raise ConfigError(f"recipe {name} extends itself: {' -> '.join(chain)}; remove one `extends`")
    document = _read(name)
    base = document.pop("extends", None)
    if base is None:
        return document
    if not isinstance(base, str):
        raise ConfigError(f"recipe {name}: extends is {base!r}; expected one name or .toml file, as a string")
    return merge(_resolve(base, chain), document)


def _read(name: str | Path) -> dict[str, Any]:
    if str(name).endswith(".toml"):
        return read_toml(name)
    if str(name) not in recipe_names():
        raise ConfigError(
            f"unknown recipe {str(name)!r}{did_you_mean(str(name), recipe_names())}, or give a .toml file"
        )
    return tomllib.loads(files("clouds.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8"))
