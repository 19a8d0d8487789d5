"""Training a composed pipeline: warm-up on the source, then joint self-training."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import evolve, frozen

from clouds.core.errors import ConfigError
from clouds.core.files import write_text
from clouds.core.pipeline import Pipeline
from clouds.data.folder import Dataset, open_dataset
from clouds.data.transforms import Augmentation
from clouds.synthesis.manifest import open_generated
from clouds.training.optimizer import build_optimizer, build_schedule
from clouds.training.recipe import Phase, PhaseConfig, Recipe, load_recipe
from clouds.training.samples import SampleReader, batches
from clouds.training.steps import State, train_step
from clouds.training.teacher import Teacher

_SEEDS: dict[Phase, int] = {"warmup": 1, "joint": 2}  # phases draw different samples from the same recipe seed
Report = Callable[[Phase, int, int, dict[str, float]], None]


@frozen(kw_only=True)
class TrainingRun:
    """What a training run left behind.

    Attributes:
        out: its folder.
        checkpoint: the trained pipeline, for `clouds.load`.
        log: one JSON line per step.
        steps: optimizer steps made.
        loss: of the last step.
    """

    out: Path
    checkpoint: Path
    log: Path
    steps: int
    loss: float


def train(
    pipeline: Pipeline,
    *,
    source: str | Sequence[str] = (),
    generated: str | os.PathLike[str] | None = None,
    recipe: str | Path | Recipe,
    out: str | os.PathLike[str],
    phase: Phase | None = None,
    on_step: Report | None = None,
) -> TrainingRun:
    """Train a pipeline in place, and save it.

    Args:
        pipeline: what to train: the head, and the backbone unless it is frozen.
        source: SPEC (or several) of labelled data; replaces the recipe's.
        generated: folder of a generated dataset; replaces the recipe's. None or absent trains on the source alone.
        recipe: name, TOML file, or a `Recipe`.
        out: folder for the log, the resolved recipe, and a saved pipeline per phase.
        phase: `"warmup"` or `"joint"` alone; None runs the warm-up, and then the joint phase if there are generated
            images. The joint phase without generated images is the control: the same steps on the source alone.
        on_step: called after every step with phase, step, number of steps, and the step's numbers.

    Raises:
        ConfigError, DataError: the recipe or the data cannot be used.
        NonFiniteError: the loss is not finite.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    specs = ((source,) if isinstance(source, str) else tuple(source)) or recipe.data.source
    if not specs:
        raise ConfigError("no source to train on; give source=SPEC, or --set data.source=folder:PATH")
    recipe = evolve(recipe, data=evolve(recipe.data, source=specs, generated=str(generated or recipe.data.generated)))
    sources = [open_dataset(spec, pipeline.labels, default_split="train") for spec in specs]
    pictures = open_generated(recipe.data.generated).images if recipe.data.generated else ()
    folder = Path(out)
    write_text(folder / "recipe.json", json.dumps(recipe.to_dict(), indent=2) + "\n")
    phases: tuple[Phase, ...] = (phase,) if phase else (("warmup", "joint") if pictures else ("warmup",))
    log = folder / "log.jsonl"
    log.unlink(missing_ok=True)
    steps, loss = 0, float("nan")
    for name in phases:
        generated_images = pictures if name == "joint" else ()
        made, loss = _run_phase(pipeline, recipe, name, sources, generated_images, log, on_step)
        steps += made
        pipeline.trained = pipeline.trained or made > 0
        pipeline.save(folder / name)
    return TrainingRun(out=folder, checkpoint=folder / phases[-1], log=log, steps=steps, loss=loss)


def _run_phase(
    pipeline: Pipeline,
    recipe: Recipe,
    phase: Phase,
    sources: Sequence[Dataset],
    pictures: Sequence[Path],
    log: Path,
    on_step: Report | None,
) -> tuple[int, float]:
    """Run one phase and return the number of steps and the last loss."""
    config: PhaseConfig = recipe.warmup if phase == "warmup" else recipe.joint
    state = _start(pipeline, recipe, config, phase, with_teacher=bool(pictures))
    settings = Augmentation(
        crop=recipe.data.crop,
        scale=recipe.data.scale,
        flip=recipe.data.flip,
        distortion=recipe.data.distortion,
        randomize=recipe.data.randomize,
    )
    reader = SampleReader(sources, pictures, settings, seed=state.seed)
    factors = list(recipe.data.source_factors or [1.0] * len(sources))
    factors += [recipe.data.generated_factor] if pictures else []
    stream = batches(
        reader, factors=factors, batch_size=config.batch_size, steps=config.steps, workers=recipe.data.workers
    )
    pipeline.backbone.train()
    pipeline.head.train()
    loss = float("nan")
    with open(log, "a", encoding="utf-8") as lines:
        for samples in stream:
            numbers = train_step(state, samples)
            loss = numbers["loss"]
            lines.write(json.dumps({"phase": phase, "step": state.step, **numbers}) + "\n")
            if on_step is not None:
                on_step(phase, state.step, config.steps, numbers)
    pipeline.backbone.eval()
    pipeline.head.eval()
    return state.step, loss


def _start(pipeline: Pipeline, recipe: Recipe, config: PhaseConfig, phase: Phase, *, with_teacher: bool) -> State:
    optimizer, teacher = build_optimizer((pipeline.backbone, pipeline.head), recipe.optimizer), recipe.teacher
    return State(
        pipeline=pipeline,
        optimizer=optimizer,
        schedule=build_schedule(optimizer, recipe.optimizer, steps=config.steps),
        config=recipe.optimizer,
        seed=recipe.seed * 2 + _SEEDS[phase],
        teacher=Teacher(pipeline, decay=teacher.decay, confidence=teacher.confidence) if with_teacher else None,
        teacher_config=teacher,
    )
