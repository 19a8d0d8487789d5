"""Recipes as typed records. Nothing here imports torch."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast, get_args

from attrs import asdict, evolve, field, fields, frozen

from clouds.core.contract.catalog import Catalog
from clouds.core.contract.label_table import label_document
from clouds.core.contract.labels import LabelKind
from clouds.core.contract.named_options import NamedOptions, build_offer
from clouds.core.contract.offers import OfferKind, find_offer
from clouds.core.contract.planner import make_plan
from clouds.core.system.config import merge, parse_assignment, read_toml, set_values, structure, to_toml, within
from clouds.core.system.errors import ConfigError
from clouds.core.system.files import without_tilde
from clouds.data.spec import parse_spec
from clouds.data.transforms import Augmentation
from clouds.training.optimizer_config import MANY, OptimizerConfig

Phase = Literal["warmup", "joint"]
RecipeLike = str | Path | Mapping[str, Any]  # a name, a TOML file, or a table with the keys of a file
Overrides = Sequence[str] | Mapping[str, Any]  # "a.b=value" texts, or values by "a.b"
MODEL_KEYS = frozenset(inspect.signature(make_plan).parameters) - {"catalog"}
# Former keys of `data`, and what to write now
_RENAMED = {"randomize": 'augmentations = ["randomize"]', "rare_classes": 'sampler = {name = "rare-classes", ...}'}


@frozen(kw_only=True)
class DataConfig:
    """The training data and its augmentation.

    Attributes:
        root: base folder of relative paths in `source`, `generated`, `evaluation` and `sampler.index`; empty leaves
            them unchanged.
        source: SPECs of labelled datasets.
        source_factors: how often an epoch repeats each image, per source; empty means 1 for all.
        generated: folder of a generated dataset, or empty.
        generated_factor: how often an epoch repeats each generated image.
        source_weights: weight of an image's loss, per source; empty means 1 for all. `clouds.training.learner.Learner`
            says what is weighted.
        generated_weight: weight of a generated image's loss. With a number, the teacher labels all of them. A table
            such as {exact = 1.0, inherited = 0.5, pseudo = 0.5} has a weight per kind of label in the manifest: images
            of the kinds "exact" and "inherited" that it names keep their labels, and are read like those of a source.
            The teacher labels all others; they have the weight of "pseudo", 1 by default.
        sampler: chooses the images of the sources, a name or a table of `name` and options: "rare-classes"
            (`clouds.data.rare_classes.RareClassSampler`), or a plugin's; empty takes them in a shuffled order.
        instances: learn one mask per instance of a thing, and one per stuff class, instead of one per class; crowds are
            ignored. It needs sources of a kind ending in "-panoptic", a head that separates instances, and no
            generated images.
        class_mix: in the joint phase, paste half of the classes of a source view onto each generated image's distorted
            view, and their labels onto its pseudo-labels (ClassMix, as DACS).
        crop: (height, width) in pixels, multiples of 32.
        scale, flip, distortion, crop_offsets, label_resize, cat_max_ratio, distort_padding: see
            `clouds.data.transforms.Augmentation`.
        augmentations: further changes of the student's views, in this order, each a name or a table of `name` and
            options: "randomize" (`clouds.data.randomize`), or a plugin's.
        workers: data loader processes per training process; 0 reads images in the training process.
        on_error: at an unreadable image, "stop" ends the run and "skip" uses the next image of the dataset.
        evaluation: SPECs of labelled datasets to evaluate on during training.
    """

    root: str = ""
    source: tuple[str, ...] = ()
    source_factors: tuple[float, ...] = field(default=(), validator=within(0, 1000))
    generated: str = ""
    generated_factor: float = field(default=1.0, validator=within(0, 1000))
    source_weights: tuple[float, ...] = field(default=(), validator=within(0, 1000))
    generated_weight: float | dict[str, float] = field(default=1.0, validator=within(0, 1000))
    sampler: NamedOptions = ""
    instances: bool = False
    class_mix: bool = False
    crop: tuple[int, int] = field(default=(320, 640), validator=within(32, 16384))
    scale: tuple[float, float] = field(default=(0.5, 2.0), validator=within(0.01, 100))
    flip: bool = True
    distortion: bool = True
    augmentations: tuple[NamedOptions, ...] = ()
    crop_offsets: Literal["independent", "diagonal"] = "independent"
    label_resize: Literal["nearest-exact", "nearest"] = "nearest-exact"
    cat_max_ratio: float = field(default=1.0, validator=within(0, 1, above=True))
    distort_padding: bool = False
    workers: int = field(default=0, validator=within(0, 1024))
    on_error: Literal["stop", "skip"] = "stop"
    evaluation: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        if any(side % 32 for side in self.crop):
            raise ConfigError(f"data.crop is {list(self.crop)}; both sides must be multiples of 32")
        for name, values in (("source_factors", self.source_factors), ("source_weights", self.source_weights)):
            if values and len(values) != len(self.source):
                raise ConfigError(f"data.{name} has {len(values)} values for {len(self.source)} sources")
        index = _index_of(self.sampler)
        if index and len(index) != len(self.source):
            raise ConfigError(f"data.sampler.index has {len(index)} files for {len(self.source)} sources")
        unknown = self.label_weights.keys() - {*get_args(LabelKind)}
        if unknown:
            kinds = ", ".join(get_args(LabelKind))
            raise ConfigError(f"data.generated_weight has {', '.join(sorted(unknown))}; expected some of {kinds}")
        if self.class_mix and self.source_factors and not any(self.source_factors):
            raise ConfigError("data.class_mix pastes source views, but all data.source_factors are 0; raise one")
        low, high = self.scale
        if low > high:
            raise ConfigError(f"data.scale is {list(self.scale)}; expected low <= high")

    @property
    def label_weights(self) -> dict[str, float]:
        """Weights of generated images by kind of label: "pseudo", and the kinds whose own labels are used."""
        given = self.generated_weight
        return {"pseudo": 1.0, **given} if isinstance(given, dict) else {"pseudo": given}

    def augmentation(self) -> Augmentation:
        """The settings of the training views.

        Raises:
            ConfigError: an augmentation is unknown, or its options are wrong.
        """
        wanted = cast("Any", Callable)  # for type checkers it is no type
        changes = tuple(
            build_offer(OfferKind.AUGMENTATION, one, wanted=wanted, where="data.augmentations")
            for one in self.augmentations
        )
        own = {one.name: getattr(self, one.name) for one in fields(Augmentation) if one.name != "changes"}
        return Augmentation(**own, changes=changes)

    def located(self) -> DataConfig:
        """Resolve relative paths against `root`; applying it twice changes nothing more.

        Raises:
            ConfigError: a SPEC is malformed.
        """
        if not self.root:
            return self
        root = without_tilde(self.root).absolute()  # not resolved: links to datasets may point anywhere
        source, evaluation = (
            tuple(str(evolve(spec, path=root / spec.path)) for spec in map(parse_spec, specs))
            for specs in (self.source, self.evaluation)
        )
        generated = str(root / self.generated) if self.generated else ""
        sampler = self.sampler
        if isinstance(sampler, dict) and (index := _index_of(sampler)):
            sampler = {**sampler, "index": [str(root / path) for path in index]}
        return evolve(self, source=source, generated=generated, evaluation=evaluation, sampler=sampler)


def _index_of(sampler: NamedOptions) -> list[str]:
    """The files of a sampler's option `index`, if it has one."""
    index = sampler.get("index") if isinstance(sampler, dict) else None
    return [path for path in index if isinstance(path, str)] if isinstance(index, (list, tuple)) else []


@frozen(kw_only=True)
class PhaseConfig:
    """One training phase: the number of optimizer steps, and images per step over all processes."""

    steps: int = field(validator=within(0, MANY))
    batch_size: int = field(validator=within(1, MANY))


@frozen(kw_only=True)
class TeacherConfig:
    """Exponential moving average of the student.

    Attributes:
        decay: teacher = decay x teacher + (1 - decay) x student.
        every: steps between updates.
        confidence: minimum share of the scores that a pixel's best class needs, else the pixel is ignored; 0 labels
            every pixel, as published.
        class_confidence: the same with one minimum per class, this fraction of the mean over the class's pixels in
            earlier steps (weighted by `decay`; see `clouds.training.class_thresholds`); 0 labels every pixel.
        weight_threshold: a generated image's loss is weighted by the share of its pixels whose best class has at least
            this share of the scores (DACS, DAFormer: 0.968); 0 weights every image alike, as published.
        scales: sizes at which the teacher sees each generated image, relative to the view's; their scores are averaged.
        result: whether the average, not the student, is evaluated and saved as the result of each phase. The warm-up
            then has a teacher, too, and the joint phase starts from its average.
    """

    decay: float = field(default=0.999, validator=within(0, 1))
    every: int = field(default=100, validator=within(1, MANY))
    confidence: float = field(default=0.0, validator=within(0, 0.9999))
    class_confidence: float = field(default=0.0, validator=within(0, 10))
    weight_threshold: float = field(default=0.0, validator=within(0, 0.9999))
    scales: tuple[float, ...] = field(default=(1.0,), validator=within(0.01, 100))
    result: bool = False

    def __attrs_post_init__(self) -> None:
        if not self.scales or len({*self.scales}) < len(self.scales):
            raise ConfigError(f"teacher.scales is {list(self.scales)}; expected different numbers such as [0.5, 1.0]")


@frozen(kw_only=True)
class LossConfig:
    """What is added to the head's loss.

    Attributes:
        terms: further terms, each a name or a table of `name` and options: "feature-distance"
            (`clouds.training.feature_distance.FeatureDistance`), or a plugin's.
    """

    terms: tuple[NamedOptions, ...] = ()


@frozen(kw_only=True)
class LoopConfig:
    """Settings of the loop. None changes the training result, except by rounding, and `accumulate` as said there.

    Attributes:
        accumulate: gradient accumulation: parts into which each process splits its share of a batch, to save memory.
            Trained batch norms see each part alone.
        channels_last: use the channels-last memory format for convolutions; faster on some processors.
        shard: split weights, gradients and moments of a trained backbone and its head, and the teacher's average, over
            the processes (FSDP), for those that do not fit one card; with a single process nothing is split.
        checkpoint_every: steps between checkpoints, so the most that a kill can cost.
        keep: number of checkpoints to keep. A run resumes from the newest, `checkpoint.pt`. With 2 or more, each is
            also `checkpoint-PHASE-STEP.pt`; to resume from an earlier one, copy it to `checkpoint.pt`.
        evaluate_every: steps between evaluations on `data.evaluation`; 0 disables them.
        evaluate_start: also evaluate before the first step of the run.
        best: the score by which evaluations choose the pipeline in `best/`; empty saves none. "miou" is that on
            `data.evaluation`. The others need no labels: `clouds.evaluation.label_free` on 40 generated images.
        keep_best: number of best pipelines to keep. With 2 or more, each is also in `best-PHASE-STEP/`.
        trackers: receivers of each step's metrics besides `log.jsonl`, e.g. "tensorboard", "wandb".
    """

    accumulate: int = field(default=1, validator=within(1, MANY))
    channels_last: bool = False
    shard: bool = False
    checkpoint_every: int = field(default=1000, validator=within(1, MANY))
    keep: int = field(default=1, validator=within(1, 1000))
    evaluate_every: int = field(default=0, validator=within(0, MANY))
    evaluate_start: bool = False
    best: Literal["", "miou", "confidence", "diversity", "information", "stability", "refinement", "separation"] = ""
    keep_best: int = field(default=1, validator=within(1, 1000))
    trackers: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.shard and self.channels_last:
            raise ConfigError("loop.shard and loop.channels_last exclude each other: sharded weights have one order")
        if self.best and not self.evaluate_every:
            raise ConfigError(f"loop.best is {self.best!r}, but evaluation is off; also set loop.evaluate_every")
        if self.evaluate_start and not self.evaluate_every:
            raise ConfigError("loop.evaluate_start is true, but evaluation is off; also set loop.evaluate_every")
        if self.keep_best > 1 and not self.best:
            raise ConfigError(f"loop.keep_best is {self.keep_best}, but loop.best names no score; also set it")


@frozen(kw_only=True)
class Recipe:
    """All settings of a training run; `model` holds arguments of `clouds.compose`.

    Each field validates its range; a value outside it raises `ConfigError`.
    """

    model: dict[str, Any] = field(factory=dict)
    data: DataConfig = field(factory=DataConfig)
    optimizer: OptimizerConfig = field(factory=OptimizerConfig)
    warmup: PhaseConfig
    joint: PhaseConfig
    teacher: TeacherConfig = field(factory=TeacherConfig)
    loss: LossConfig = field(factory=LossConfig)
    loop: LoopConfig = field(factory=LoopConfig)
    seed: int = field(default=0, validator=within(0, 2**32 - 1))  # numpy's global generator takes no more

    def config(self, phase: Phase) -> PhaseConfig:
        """Steps and batch size of a phase."""
        return self.warmup if phase == "warmup" else self.joint

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a TOML or JSON file holds them."""
        return asdict(self)

    def to_toml(self) -> str:
        """The recipe as TOML text for `load_recipe`, with every value written out."""
        return to_toml(self.to_dict())


# Settings that may change when a run resumes: past steps do not depend on them. `loop.accumulate` changes rounding.
CHANGEABLE = (
    *("data.workers", "data.on_error", "data.evaluation", "model.device", "loop.accumulate", "loop.checkpoint_every"),
    *("loop.shard", "loop.keep", "loop.evaluate_every", "loop.best", "loop.keep_best", "loop.trackers"),
)


def changed(recipe: Recipe, overrides: Overrides) -> Recipe:
    """Apply overrides to the recipe of a run that resumes; see `load_recipe`.

    Raises:
        ConfigError: a value is invalid, or its key is not in `CHANGEABLE`.
    """
    fixed = [key for key in keys_of(overrides) if key not in CHANGEABLE]
    if fixed:
        raise ConfigError(
            f"{', '.join(fixed)} cannot change when a run resumes, because past steps depend on it; settings that "
            f"can: {', '.join(CHANGEABLE)}"
        )
    return with_values(recipe, overrides)


def keys_of(overrides: Overrides) -> list[str]:
    """The full keys that overrides set, such as `model.head`."""
    return [".".join(path) for path, _ in _pathed(overrides)]


def with_values(recipe: Recipe, overrides: Overrides) -> Recipe:
    """Apply overrides to a recipe; see `load_recipe`. Raises `ConfigError` for an invalid value."""
    if not overrides:
        return recipe
    return _settle(to_recipe(set_values(recipe.to_dict(), _pathed(overrides)), source="the recipe with its values"))


def to_recipe(document: Any, *, source: str) -> Recipe:
    """A document as a recipe. Raises `ConfigError`: `source`, then a former key and what replaced it, or all faults."""
    data: Any = document.get("data") if isinstance(document, dict) else None
    for key in sorted(_RENAMED.keys() & data) if isinstance(data, dict) else ():
        raise ConfigError(f"{source}: data.{key} has another name now; write data.{_RENAMED[key]}, or omit it")
    return structure(document, Recipe, source=source)


def _settle(recipe: Recipe) -> Recipe:
    """Make the recipe self-contained: absolute paths, and the classes of a label file in place of its name."""
    model = recipe.model | ({"labels": label_document(recipe.model["labels"])} if "labels" in recipe.model else {})
    return evolve(recipe, data=recipe.data.located(), model=model)


def recipe_names() -> list[str]:
    """Names of the recipes that come with the library."""
    return sorted(
        path.name.removesuffix(".toml") for path in files("clouds.recipes").iterdir() if path.name.endswith(".toml")
    )


def load_recipe(name: RecipeLike, overrides: Overrides = (), *, source: Sequence[str] = ()) -> Recipe:
    """Load a recipe by name, from a TOML file or from a table, and apply overrides.

    A table has the keys of a file: `{"extends": "folder", "warmup": {"steps": 20}}`. Overrides are `a.b=value` texts,
    or a mapping of `a.b`. `source` takes the place of the recipe's sources before factors per source are checked.

    Keys of `model` need no prefix: `refiner=sam-vit-h` is `model.refiner=sam-vit-h`.

    Raises:
        ConfigError: the recipe is unknown (names the nearest), or a key or value is invalid (names its path).
    """
    document = set_values(
        _resolve(name), [*_pathed(overrides), *([(["data", "source"], list(source))] if source else [])]
    )
    data = document.get("data")
    if isinstance(data, dict) and isinstance(data.get("source"), str):
        data["source"] = [data["source"]]  # a single SPEC needs no brackets
    return _settle(to_recipe(document, source=f"recipe {_title(name)}"))


def _pathed(overrides: Overrides) -> list[tuple[list[str], Any]]:
    """Override values with the full path of their key. A table of the recipe sets its keys, and leaves the others."""
    if isinstance(overrides, Mapping):
        found = [(key.split("."), value) for key, value in overrides.items()]
    else:
        found = [parse_assignment(text) for text in overrides]
    paths = [(["model", *path] if path[0] in MODEL_KEYS else path, value) for path, value in found]
    return [
        (path if key is None else [*path, key], one)
        for path, value in paths
        for key, one in (value.items() if len(path) == 1 and isinstance(value, Mapping) else [(None, value)])
    ]


def _title(name: RecipeLike) -> str:
    return "given as a table" if isinstance(name, Mapping) else str(name)


def _resolve(name: RecipeLike, extending: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a recipe and merge it over the one it extends; `extending` names the recipes that led here."""
    chain = (*extending, _title(name))
    if _title(name) in extending:
        raise ConfigError(f"recipe {name} extends itself: {' -> '.join(chain)}; remove one `extends`")
    document = dict(name) if isinstance(name, Mapping) else _read(name)
    base = document.pop("extends", None)
    if base is None:
        return document
    if not isinstance(base, str):
        raise ConfigError(f"recipe {_title(name)}: extends is {base!r}; expected one name or .toml file, as a string")
    return merge(_resolve(base, chain), document)


def _read(name: str | Path) -> dict[str, Any]:
    if str(name).endswith(".toml"):
        return read_toml(name)
    if str(name) not in recipe_names():
        offers = Catalog.from_environment().offers(OfferKind.RECIPE)
        remedy = ", or give a .toml file"
        offer = find_offer("recipe", str(name), offers, built_in=recipe_names(), remedy=remedy)
        return read_toml(offer.load_as(Path))
    return tomllib.loads(files("clouds.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8"))
