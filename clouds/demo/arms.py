"""The arms of the demo: from one warm-up, with the source alone, with CLOUDS, and with exact labels."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from attrs import evolve, field, frozen

from clouds.core.contract.labels import CITYSCAPES
from clouds.core.pipeline.composer import compose, load
from clouds.core.pipeline.pipeline import Pipeline
from clouds.data.folder import Dataset
from clouds.demo.pseudo_labels import PseudoLabelQuality, measure_pseudo_labels
from clouds.evaluation.evaluate import evaluate
from clouds.evaluation.report import Report
from clouds.synthesis.generated_set import GeneratedSet, labelled_set
from clouds.training.recipe import PhaseConfig, Recipe, load_recipe
from clouds.training.run_folder import RECIPE
from clouds.training.train import StepCallback, train


@frozen(kw_only=True)
class Bench:
    """What all arms share.

    Attributes:
        folder: folder of the demo; each run has its own below.
        source: SPEC of the labelled source.
        unseen: the domains to score on.
        generated: generated images, with exact labels.
        seed: seed of weights and training.
        steps: optimizer steps per arm, half of them warm-up; None means the recipe's.
        on_step: called after every optimizer step.
        say: called with one line of text before each run.
    """

    folder: Path
    source: str
    unseen: list[Dataset]
    generated: GeneratedSet
    seed: int
    steps: int | None
    on_step: StepCallback | None
    say: Callable[[str], None]

    def recipe(self, name: str) -> Recipe:
        """A recipe with this source, seed and number of steps."""
        recipe = evolve(load_recipe(name, {"data.source": [self.source]}), seed=self.seed)
        if self.steps is None:
            return recipe
        half = PhaseConfig(steps=self.steps - self.steps // 2, batch_size=recipe.warmup.batch_size)
        rest = PhaseConfig(steps=self.steps // 2, batch_size=recipe.joint.batch_size)
        return evolve(recipe, warmup=half, joint=rest)


@frozen(kw_only=True)
class Arm:
    """A trained pipeline and its evaluation on the unseen domains."""

    pipeline: Pipeline = field(repr=False)
    report: Report


@frozen(kw_only=True)
class Arms:
    """The arms of one kind of weights.

    Attributes:
        title: what the weights are.
        backbone: name of the backbone.
        steps: optimizer steps per arm, including the warm-up.
        warmup: after the warm-up, with the refiner; this pipeline is the first teacher of self-training.
        source_only, clouds: the two arms.
        pseudo_labels: quality of the first teacher's pseudo-labels.
    """

    title: str
    backbone: str
    steps: int
    warmup: Arm
    source_only: Arm
    clouds: Arm
    pseudo_labels: PseudoLabelQuality


def train_arms(bench: Bench, recipe_name: str, *, title: str, prefix: str = "") -> Arms:
    """Train the warm-up of a recipe and both arms, and score them; `prefix` begins the names of their folders."""
    recipe = bench.recipe(recipe_name)
    pipeline = compose_seeded(recipe)
    start = _cleared(bench.folder / f"{prefix}warmup")
    bench.say(f"{title}: warm-up on the source, {recipe.warmup.steps} steps")
    train(pipeline, recipe=recipe, out=start, phase="warmup", on_step=bench.on_step)
    source_only, clouds = (
        _continue(bench, settings, start, f"{prefix}{name}", title=f"{title}, {name}")
        for name, settings in (("source-only", _without_generated(recipe)), ("clouds", _with_generated(recipe, bench)))
    )
    return Arms(
        title=title,
        backbone=recipe.model["backbone"]["name"],
        steps=recipe.warmup.steps + recipe.joint.steps,
        warmup=Arm(pipeline=pipeline, report=evaluate(pipeline, bench.unseen)),
        source_only=source_only,
        clouds=clouds,
        pseudo_labels=measure_pseudo_labels(pipeline, bench.generated),
    )


def train_upper_bound(bench: Bench, recipe_name: str, *, title: str, prefix: str = "") -> Arm:
    """Go on from the warm-up of `train_arms` with the exact labels of the generated images in place of the teacher's.

    This bounds from above what better pseudo-labels of the same images can bring.
    """
    exact = labelled_set(bench.generated, bench.folder / f"exact-{bench.seed}", CITYSCAPES)
    recipe = bench.recipe(recipe_name)
    both = evolve(recipe, data=evolve(recipe.data, source=(*recipe.data.source, exact)))
    return _continue(bench, both, bench.folder / f"{prefix}warmup", "upper-bound", title=f"{title}, upper bound")


def compose_seeded(recipe: Recipe) -> Pipeline:
    """Compose with initial weights from the seed; the caller's random state is unchanged."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return compose(**recipe.model, device="auto")


def _continue(bench: Bench, recipe: Recipe, start: Path, name: str, *, title: str) -> Arm:
    """Train one arm from the warm-up's weights, and score it."""
    bench.say(f"{title}: {recipe.joint.steps} more steps")
    arm, folder = load(start / "warmup"), _cleared(bench.folder / name)
    train(
        arm, source=recipe.data.source or bench.source, recipe=recipe, out=folder, phase="joint", on_step=bench.on_step
    )
    return Arm(pipeline=arm, report=evaluate(arm, bench.unseen))


def _with_generated(recipe: Recipe, bench: Bench) -> Recipe:
    return evolve(recipe, data=evolve(recipe.data, generated=str(bench.generated.folder)))


def _without_generated(recipe: Recipe) -> Recipe:
    """The control: the same steps with the labelled half of each batch."""
    return evolve(recipe, joint=evolve(recipe.joint, batch_size=recipe.joint.batch_size // 2))


def _cleared(folder: Path) -> Path:
    """Remove the run of an earlier demo from an arm's folder; `train` refuses other files."""
    if (folder / RECIPE).is_file():
        shutil.rmtree(folder)
    return folder
