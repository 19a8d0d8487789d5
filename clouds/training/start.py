"""The pipeline at the start of a run: new, or saved after an earlier phase. Heavy imports are inside functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve

from clouds.core.contract.component import Kind
from clouds.core.contract.plan import Plan
from clouds.core.contract.planner import make_plan
from clouds.core.system.errors import ConfigError, did_you_mean
from clouds.training.instances import check_instances
from clouds.training.recipe import MODEL_KEYS, Phase, Recipe

if TYPE_CHECKING:
    from clouds.core.pipeline.pipeline import Pipeline

_UNUSED: dict[Phase, tuple[str, ...]] = {  # training reads generated images from disk
    "warmup": ("generator", "prompter", "refiner"),
    "joint": ("generator", "prompter"),
}


def start_pipeline(
    recipe: Recipe, source: str, phase: Phase | None, init: Path | None, trust: Sequence[Kind] = ()
) -> Pipeline:
    """A new pipeline with weights from the recipe's seed, or the saved pipeline `init` with the recipe's refiner.

    The refiner is added because a pipeline saved after the warm-up has none.

    Args:
        recipe: the recipe.
        source: its name, for messages.
        phase: the first phase of the run; None for all phases.
        init: folder of a saved pipeline.
        trust: see `clouds.load`.
    """
    import torch

    from clouds.core.pipeline.build import build_part
    from clouds.core.pipeline.composer import compose, load

    model = model_arguments(recipe, source, phase or "joint")
    if init is None:
        recipe_plan(recipe, source, phase or "joint")  # raises before anything is built
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            return compose(**model)
    part = make_plan(**model).parts.get(Kind.REFINER)
    ready = {} if part is None else {"refiner": build_part("refiner", part.request)}
    pipeline = load(init, device=str(model.get("device", "auto")), ready=ready, trust=trust)
    if part is not None:
        pipeline.plan = evolve(pipeline.plan, parts={**pipeline.plan.parts, Kind.REFINER: part})
    return pipeline


def recipe_plan(recipe: Recipe, source: str, phase: Phase | None) -> Plan:
    """The plan of the recipe's model; raises `ConfigError` if the training data does not fit it."""
    plan = make_plan(**model_arguments(recipe, source, phase))
    head = plan.parts[Kind.HEAD]
    check_instances(
        recipe.data, head=head.title, provides=head.provides, label_space=plan.labels, joint=phase != "warmup"
    )
    return plan


def model_arguments(recipe: Recipe, source: str, phase: Phase | None) -> dict[str, Any]:
    """The recipe's arguments of `compose`, without those that the phase does not need.

    A missing backbone or head is None, which the plan reports.
    """
    for key in recipe.model:
        if key not in MODEL_KEYS:
            raise ConfigError(f"recipe {source}: model.{key} is unknown{did_you_mean(key, MODEL_KEYS)}")
    needed = {key: value for key, value in recipe.model.items() if phase is None or key not in _UNUSED[phase]}
    return {"backbone": None, "head": None, **needed}
