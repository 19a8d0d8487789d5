"""The pipeline at the start of a run: new, or saved after an earlier phase. Heavy imports are inside functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve

from clouds.core.contract.component import Kind
from clouds.core.contract.label_table import label_entry
from clouds.core.contract.named_options import asked_offer
from clouds.core.contract.offers import OfferKind
from clouds.core.contract.plan import Part, Plan, PlanError
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


def nothing_trained(backbone: str) -> str:
    """The fault of a feature distance that is always 0."""
    return (
        f"the backbone {backbone} is frozen and has no adapter, so its features never change; set the backbone's "
        "trainable, choose an adapter, or remove the term"
    )


def _is_frozen(plan: Plan) -> bool:
    """Whether the plan says that nothing is trained up to the features."""
    adapter = plan.parts.get(Kind.ADAPTER)
    return plan.parts[Kind.BACKBONE].options.get("trainable") is False and (adapter is None or adapter.name == "none")


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
    """The plan of the recipe's model, checked against its training settings.

    Raises:
        PlanError: the parts are wrong or do not fit.
        ConfigError: the training data or a loss term does not fit the model, or a loss term, sampler or augmentation is
            unknown.
    """
    plan, data = make_plan(**model_arguments(recipe, source, phase)), recipe.data
    head = plan.parts[Kind.HEAD]
    check_instances(data, head=head.title, provides=head.provides, label_space=plan.labels, joint=phase != "warmup")
    if data.sampler:
        asked_offer(OfferKind.SAMPLER, data.sampler, where="data.sampler")
    for asked in data.augmentations:
        asked_offer(OfferKind.AUGMENTATION, asked, where="data.augmentations")
    for asked in recipe.loss.terms:
        offer = asked_offer(OfferKind.LOSS, asked, where="loss.terms")
        if offer.name == "feature-distance" and _is_frozen(plan):
            raise ConfigError(f"loss.terms: {offer.name}: {nothing_trained(plan.parts[Kind.BACKBONE].title)}")
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


def recorded(recipe: Recipe, plan: Plan, phase: Phase) -> Recipe:
    """The recipe, with a model table that says what is trained.

    A pipeline from code may have other parts than the recipe's table; then the table is made from its plan. A module
    that the user built has its class as `ready` there, in place of a name and options.

    Args:
        recipe: the recipe.
        plan: of the pipeline.
        phase: the last phase of the run.
    """
    try:
        asked = make_plan(**model_arguments(recipe, "", phase))
    except PlanError:  # for example, a recipe without a head
        asked = None
    if asked is not None and _trained(asked, phase) == _trained(plan, phase):
        return recipe
    model: dict[str, Any] = {kind.value: _entry(part) for kind, part in plan.parts.items()}
    model |= {"labels": label_entry(plan.labels), "pretrained": plan.pretrained, "device": plan.device}
    return evolve(recipe, model=model if plan.dtype is None else model | {"dtype": plan.dtype})


def _trained(plan: Plan, phase: Phase) -> object:
    """What two plans have in common if they train the same."""
    used = {kind: _entry(part) for kind, part in plan.parts.items() if kind.value not in _UNUSED[phase]}
    return used, plan.labels, plan.dtype or "float32"


def _entry(part: Part) -> dict[str, Any]:
    return {"ready": part.ready} if part.ready else {"name": part.qualified_name, **part.options}
