"""The arms of an ablation: what each changes in a recipe, so that all compare at equal steps. Nothing imports torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import evolve, frozen

from clouds.core.system.config import to_json
from clouds.core.system.errors import ConfigError, did_you_mean
from clouds.training.recipe import DataConfig, Recipe, with_values

BUILT_IN = ("source", "generated", "refined", "exact", "ceiling")
_OWN = re.compile(r"([A-Za-z][\w-]*)=(.+)", re.DOTALL)
_NEXT_ARM = re.compile(r",(?=[A-Za-z][\w-]*(?:[=,]|$))")
_NESTED = re.compile(r"\{[^{}]*\}")  # an inline table, such as {match="backbone.*",lr=0.1}
_NEXT_KEY = re.compile(r"\+(?=[A-Za-z_][\w.]*=)")  # no plus within a value such as 1e+3
_LATER = ("refiner", "generator", "prompter")  # parts of a model that the warm-up does not use


@frozen(kw_only=True)
class ArmSpec:
    """One arm of an ablation.

    Attributes:
        name: its name, also of its folder.
        base: the built-in arm that it changes; its own name for a built-in arm.
        overrides: `key=value` texts on top of the built-in arm.
    """

    name: str
    base: str
    overrides: tuple[str, ...] = ()


@frozen(kw_only=True)
class Inputs:
    """What the arms of an ablation train on.

    Attributes:
        recipe: the recipe for all arms; its joint batch has as many source as generated images.
        images: weighted number of source images in an epoch.
        generated: number of generated images.
        exact: SPEC of the generated images with their exact labels, or empty.
        ceiling: SPECs of the target's own labels, for the arm `ceiling`.
    """

    recipe: Recipe
    images: float
    generated: int
    exact: str
    ceiling: tuple[str, ...]


@frozen(kw_only=True)
class ArmRecipes:
    """The recipes of an arm's warm-up and joint phase."""

    warmup: Recipe
    joint: Recipe

    @property
    def start(self) -> str:
        """Text that is equal for arms that share a warm-up."""
        return to_json(self.warmup.to_dict(), sort_keys=True)


def split_arms(text: str) -> list[str]:
    """The arms in a text such as `source,generated,own=data.crop=[32,64]`; commas within a value do not split it."""
    masked = _NESTED.sub(lambda table: "_" * len(table[0]), text)
    ends = [match.start() for match in _NEXT_ARM.finditer(masked)]
    return [text[start:end] for start, end in zip([0, *(end + 1 for end in ends)], [*ends, len(text)], strict=True)]


def parse_arms(texts: Sequence[str]) -> tuple[ArmSpec, ...]:
    """Parse arms: names of built-in arms, or `NAME=[ARM+]key=value+key=value` on top of one (default: `generated`).

    Raises:
        ConfigError: there is none, a name is unknown or used twice, or an arm of one's own changes nothing.
    """
    if not texts:
        raise ConfigError(f"an ablation needs arms: {', '.join(BUILT_IN)}, or NAME=key=value")
    arms = [_parse_arm(text) for text in texts]
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"arm {name!r} is listed twice; list it once, or give it another name")
    return tuple(arms)


def _parse_arm(text: str) -> ArmSpec:
    if text in BUILT_IN:
        return ArmSpec(name=text, base=text)
    own = _OWN.fullmatch(text)
    if own is None:
        raise ConfigError(
            f"arm {text!r} is unknown{did_you_mean(text, BUILT_IN)}; expected one of {', '.join(BUILT_IN)}, or one of "
            "your own as NAME=key=value+key=value"
        )
    name, words = own[1], _NEXT_KEY.split(own[2])
    base = "generated" if "=" in words[0] else words.pop(0)
    if base not in BUILT_IN:
        raise ConfigError(f"arm {name!r}: {base!r} is no built-in arm{did_you_mean(base, BUILT_IN)}; write key=value")
    if name in BUILT_IN:
        raise ConfigError(f"arm {name!r} is built in and cannot be changed; choose another name")
    if not words:
        raise ConfigError(f"arm {name!r} changes nothing; write {name}={base}+key=value")
    return ArmSpec(name=name, base=base, overrides=tuple(words))


def arm_recipes(arm: ArmSpec, inputs: Inputs, seed: int) -> ArmRecipes:
    """The recipes of an arm. Its joint phase has as many source images per step as every other arm, on average.

    The warm-up is that of the recipe, unless the arm changes the model or the warm-up itself; `ceiling` trains on its
    own labels from the start. All other settings of an arm act in the joint phase.

    Raises:
        ConfigError: the arm needs data or a refiner that the recipe lacks, or an override is invalid.
    """
    base = evolve(inputs.recipe, seed=seed)
    _check_needs(arm, inputs)
    source = base if arm.base != "ceiling" else evolve(base, data=_only(base.data, inputs.ceiling))
    joint = with_values(_JOINT[arm.base](source, inputs), arm.overrides)
    if joint.seed != seed:
        raise ConfigError(f"arm {arm.name!r} sets the seed; all arms have those of `seeds`: leave it out")
    model = {key: value for key, value in joint.model.items() if key not in _LATER}
    warmup = evolve(source, model=model, warmup=joint.warmup, data=evolve(source.data, generated=""))
    return ArmRecipes(warmup=warmup, joint=joint)


def _check_needs(arm: ArmSpec, inputs: Inputs) -> None:
    recipe, needs = inputs.recipe, f"arm {arm.name!r} needs"
    if arm.base in ("generated", "refined", "exact") and not recipe.data.generated:
        raise ConfigError(f"{needs} generated images; set data.generated=FOLDER, or leave the arm out")
    if arm.base in ("generated", "refined", "exact") and not inputs.generated:
        raise ConfigError(f"{needs} generated images, but {recipe.data.generated} has none; generate some")
    if arm.base == "refined" and not recipe.model.get("refiner"):
        raise ConfigError(f"{needs} a refiner; set refiner=NAME, or leave the arm out")
    if arm.base == "exact" and not inputs.exact:
        raise ConfigError(f"{needs} an exact label map for each image of {recipe.data.generated}; leave the arm out")
    sampler = recipe.data.sampler
    if arm.base in ("exact", "ceiling") and isinstance(sampler, dict) and sampler.get("index"):
        raise ConfigError(f"{needs} other sources than data.sampler.index counts; leave the arm or the sampler out")
    if arm.base == "ceiling" and not inputs.ceiling:
        raise ConfigError(f"{needs} the target's own labels; give ceiling=SPEC, or leave the arm out")


def _without_generated(recipe: Recipe, inputs: Inputs) -> Recipe:
    """The labelled half of each batch alone."""
    half = evolve(recipe.joint, batch_size=recipe.joint.batch_size // 2)
    return evolve(_without_refiner(recipe), joint=half, data=evolve(recipe.data, generated=""))


def _with_generated(recipe: Recipe, inputs: Inputs) -> Recipe:
    """As many generated as source images."""
    return evolve(recipe, data=evolve(recipe.data, generated_factor=inputs.images / inputs.generated))


def _with_exact(recipe: Recipe, inputs: Inputs) -> Recipe:
    """The generated images as a further source, as often as without their labels."""
    data = recipe.data
    factors = (*(data.source_factors or [1.0] * len(data.source)), inputs.images / inputs.generated)
    weight = data.label_weights.get("exact", data.label_weights["pseudo"])
    weights = (*(data.source_weights or [1.0] * len(data.source)), weight)
    source = (*data.source, inputs.exact)
    more = evolve(data, source=source, source_factors=factors, source_weights=weights, generated="")
    return evolve(_without_refiner(recipe), data=more)


def _only(data: DataConfig, specs: tuple[str, ...]) -> DataConfig:
    return evolve(data, source=specs, source_factors=(), source_weights=(), generated="")


def _without_refiner(recipe: Recipe) -> Recipe:
    return evolve(recipe, model={key: value for key, value in recipe.model.items() if key != "refiner"})


_JOINT = {
    "source": _without_generated,
    "generated": lambda recipe, inputs: _with_generated(_without_refiner(recipe), inputs),
    "refined": _with_generated,
    "exact": _with_exact,
    "ceiling": _without_generated,
}
