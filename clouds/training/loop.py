"""The loop over the steps of a phase: batches, steps, numbers, checkpoints, evaluations, and how it stops."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from attrs import define, frozen

from clouds.core.errors import DataError
from clouds.core.memory import peak_memory
from clouds.core.pipeline import Pipeline
from clouds.core.processes import Processes
from clouds.data.folder import Dataset
from clouds.evaluation.evaluate import evaluate
from clouds.training.checkpoint import Checkpoint, Progress, restore_state, save_checkpoint
from clouds.training.interrupt import StopSignal, TrainingInterrupted
from clouds.training.learner import Learner, distribute
from clouds.training.optimizer import build_optimizer, build_schedule
from clouds.training.recipe import Phase, PhaseConfig, Recipe
from clouds.training.samples import Sample, SampleReader, batches
from clouds.training.steps import State, train_step
from clouds.training.teacher import Teacher
from clouds.training.tracking import JsonLines, Tracker

_SEEDS: dict[Phase, int] = {"warmup": 1, "joint": 2}  # phases draw different samples from the same recipe seed
_GIB = 2**30
Report = Callable[[Phase, int, int, dict[str, float]], None]


@frozen(eq=False, kw_only=True)
class Run:
    """What a run is made of.

    Attributes:
        pipeline: what is trained.
        recipe: how, with the data that it is trained on.
        folder: where everything is written.
        phases: in their order.
        sources: labelled datasets.
        pictures: generated images, for the joint phase.
        processes: which of several processes this is.
    """

    pipeline: Pipeline
    recipe: Recipe
    folder: Path
    phases: tuple[Phase, ...]
    sources: tuple[Dataset, ...]
    pictures: tuple[Path, ...]
    processes: Processes

    def config(self, phase: Phase) -> PhaseConfig:
        """Steps and batch size of a phase."""
        return self.recipe.warmup if phase == "warmup" else self.recipe.joint


@define(eq=False, kw_only=True)
class Loop:
    """What changes as a run goes on, beside the state of its steps.

    Attributes:
        run: what it is made of.
        stop: whether a signal has asked for the end.
        log: in the first process.
        trackers: what else the numbers go to.
        on_step: called with the numbers of each step, in the first process.
        skipped: images that could not be read.
        loss: of the last step.
    """

    run: Run
    stop: StopSignal
    log: JsonLines | None = None
    trackers: Sequence[Tracker] = ()
    on_step: Report | None = None
    skipped: int = 0
    loss: float = float("nan")


def run_phase(loop: Loop, phase: Phase, start: Checkpoint | None) -> None:
    """Make the steps of a phase that are left.

    Args:
        loop: of the run.
        phase: which one.
        start: where the phase goes on; None is its beginning.

    Raises:
        DataError, NonFiniteError, TrainingInterrupted: see `clouds.train`.
    """
    run = loop.run
    state = _start(run, phase)
    stream = _stream(run, phase, state, start.progress.step if start else 0)
    modules = (run.pipeline.backbone, run.pipeline.head)
    for module in modules:
        module.train()
    if start is None or start.document is None:
        _save(loop, state, phase)
    else:
        restore_state(state, start, folder=run.folder)
    before = time.perf_counter()
    while state.step < run.config(phase).steps:
        samples = _next(loop, state, phase, stream)
        lr = state.optimizer.param_groups[0]["lr"]
        numbers = train_step(state, samples)
        numbers |= {
            "lr": lr,
            "images_per_second": run.config(phase).batch_size / (time.perf_counter() - before),
            "memory_gib": _memory(run.pipeline.device),
            "skipped": float(loop.skipped),
        }
        _after_step(loop, state, phase, numbers)
        before = time.perf_counter()
    for module in modules:
        module.eval()


def _start(run: Run, phase: Phase) -> State:
    recipe, pipeline, config = run.recipe, run.pipeline, run.recipe.teacher
    taught = phase == "joint" and bool(run.pictures)
    learner = Learner(pipeline, channels_last=recipe.loop.channels_last)
    optimizer = build_optimizer((pipeline.backbone, pipeline.head), recipe.optimizer)
    return State(
        pipeline=pipeline,
        optimizer=optimizer,
        schedule=build_schedule(optimizer, recipe.optimizer, steps=run.config(phase).steps),
        config=recipe.optimizer,
        seed=recipe.seed * 2 + _SEEDS[phase],
        teacher=Teacher(pipeline, decay=config.decay, confidence=config.confidence) if taught else None,
        teacher_config=config,
        processes=run.processes,
        learner=distribute(learner, run.processes),
        accumulate=recipe.loop.accumulate,
    )


def _stream(run: Run, phase: Phase, state: State, start: int) -> Iterator[list[Sample]]:
    data, config = run.recipe.data, run.config(phase)
    pictures = run.pictures if phase == "joint" else ()
    reader = SampleReader(run.sources, pictures, data.augmentation(), seed=state.seed, on_error=data.on_error)
    factors = list(data.source_factors or [1.0] * len(run.sources))
    return batches(
        reader,
        factors=[*factors, data.generated_factor] if pictures else factors,
        batch_size=config.batch_size,
        steps=config.steps,
        workers=data.workers,
        start=start,
        processes=run.processes,
    )


def _next(loop: Loop, state: State, phase: Phase, stream: Iterator[list[Sample]]) -> list[Sample]:
    """The next batch. The processes agree on whether to go on, so that all of them stop after the same step."""
    samples, error = list[Sample](), None
    try:
        samples = next(stream)
    except DataError as found:
        error = found
    messages = [message for sample in samples for message in sample.skipped]
    for message in messages:
        warnings.warn(f"skipped: {message}", stacklevel=2)
    here = torch.tensor([error is not None, bool(loop.stop.name), len(messages)], dtype=torch.int64)
    errors, stopped, skipped = loop.run.processes.sum(here).tolist()
    loop.skipped += skipped
    if errors or stopped:
        _save(loop, state, phase)
    if error:
        raise error
    if errors:
        raise DataError("another process met an image that cannot be read; see its message")
    if stopped:
        raise TrainingInterrupted(
            f"{loop.stop.name or 'a signal to another process'}: stopped after step {state.step} of {phase}; "
            f"go on with: clouds train --resume {loop.run.folder}"
        )
    return samples


def _after_step(loop: Loop, state: State, phase: Phase, numbers: dict[str, float]) -> None:
    run, steps = loop.run, loop.run.config(phase).steps
    loop.loss = numbers["loss"]
    every = run.recipe.loop.evaluate_every
    if every and state.step % every == 0 and run.recipe.data.evaluation:
        run.pipeline.trained = True
        miou = evaluate(run.pipeline, run.recipe.data.evaluation).miou
        numbers |= {} if miou is None else {"miou": miou}
    if loop.log is not None:
        for tracker in (loop.log, *loop.trackers):
            tracker.log(phase, state.step, numbers)
        if loop.on_step is not None:
            loop.on_step(phase, state.step, steps, numbers)
    if state.step % run.recipe.loop.checkpoint_every == 0 or state.step == steps:
        _save(loop, state, phase)


def _save(loop: Loop, state: State, phase: Phase) -> None:
    size = loop.log.size() if loop.log else 0
    progress = Progress(phases=loop.run.phases, phase=phase, step=state.step, skipped=loop.skipped, log_size=size)
    save_checkpoint(loop.run.folder, state, progress)


def _memory(device: torch.device) -> float:
    """Most memory in use so far, in GiB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    return peak_memory() / _GIB
