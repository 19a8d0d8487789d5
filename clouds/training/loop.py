"""The loop over the steps of a phase: batches, steps, numbers, checkpoints, evaluations, and how it stops."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from attrs import define, field

from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.system.errors import CloudsError, DataError, NonFiniteError, TrainingError
from clouds.core.system.memory import peak_memory
from clouds.core.system.processes import Processes
from clouds.data.folder import Dataset
from clouds.evaluation.evaluate import evaluate
from clouds.training.checkpoint import Progress, restore_state, save_checkpoint
from clouds.training.interrupt import StopSignal, TrainingInterrupted, undisturbed
from clouds.training.learner import Learner, distribute
from clouds.training.optimizer import build_optimizer, build_schedule
from clouds.training.recipe import Phase, PhaseConfig, Recipe
from clouds.training.samples import Sample, SampleReader, batches
from clouds.training.steps import State, seed_global_generators, train_step
from clouds.training.teacher import Teacher
from clouds.training.tracking import JsonLines, Trackers

_SEEDS: dict[Phase, int] = {"warmup": 1, "joint": 2}  # phases draw different samples from the same recipe seed
_GIB = 2**30
BEST = "best"  # the pipeline of the best evaluation, in the run's folder
StepCallback = Callable[[Phase, int, int, dict[str, float]], None]


@define(eq=False, kw_only=True)
class Run:
    """A run: what it is made of, where this call begins, and what its steps write and count.

    Attributes:
        pipeline: what is trained.
        recipe: how, with the data that it is trained on.
        folder: where everything is written.
        phases: in their order.
        sources: labelled datasets.
        pictures: generated images, for the joint phase.
        processes: which of several processes this is.
        stop: whether a signal has asked for the end.
        start: how far the run had come before.
        saved: the checkpoint of `start`; None at the beginning of the run.
        log: in the first process.
        trackers: other receivers of the numbers.
        on_step: called with the numbers of each step, in the first process.
        skipped: number of images that could not be read.
        best: the best score so far, where `loop.best` names one.
        loss: of the last step.
    """

    pipeline: Pipeline
    recipe: Recipe
    folder: Path
    phases: tuple[Phase, ...]
    sources: tuple[Dataset, ...]
    pictures: tuple[Path, ...]
    processes: Processes
    stop: StopSignal
    start: Progress
    saved: dict[str, Any] | None = None
    log: JsonLines | None = None
    trackers: Trackers = field(factory=lambda: Trackers(()))
    on_step: StepCallback | None = None
    skipped: int = 0
    best: float | None = None
    loss: float = float("nan")

    def config(self, phase: Phase) -> PhaseConfig:
        """Steps and batch size of a phase."""
        return self.recipe.warmup if phase == "warmup" else self.recipe.joint


def run_phase(run: Run, phase: Phase) -> None:
    """Make the steps of a phase that are left.

    Args:
        run: its log, counts and checkpoints change.
        phase: which one; the run's first goes on at `run.start`.

    Raises:
        DataError, NonFiniteError, TrainingError, TrainingInterrupted: see `clouds.train`.
    """
    state = _start(run, phase)
    going_on = phase == run.start.phase
    stream = _stream(run, phase, state, run.start.step if going_on else 0)
    modules = (run.pipeline.backbone, run.pipeline.head)
    for module in modules:
        module.train()
    if going_on and run.saved is not None:
        restore_state(state, run.start, run.saved, folder=run.folder)
    else:
        _save(run, state, phase)
    try:
        while state.step < run.config(phase).steps:
            _make_step(run, state, phase, stream)
    except TrainingInterrupted:
        raise
    except Exception as error:  # whatever a component raises must not cost what was learnt
        raise _explained(run, state, phase, error) from error
    for module in modules:
        module.eval()


def _make_step(run: Run, state: State, phase: Phase, stream: Iterator[list[Sample]]) -> None:
    before = time.perf_counter()
    samples = _next(run, state, phase, stream)
    with undisturbed():
        lr = state.optimizer.param_groups[0]["lr"]
        seed_global_generators(state)
        numbers = train_step(state, samples)
        numbers |= {
            "lr": lr,
            "images_per_second": run.config(phase).batch_size / (time.perf_counter() - before),
            "memory_gib": _memory(run.pipeline.device),
            "skipped": float(run.skipped),
        }
        _after_step(run, state, phase, numbers)


def _explained(run: Run, state: State, phase: Phase, error: Exception) -> CloudsError:
    """Write a checkpoint of the last good step; what to raise then says so, with the way on."""
    try:
        with undisturbed():
            _save(run, state, phase)
    except CloudsError:
        there = "the checkpoint before is kept"
    else:
        there = f"there is a checkpoint of step {state.step}"
    way_on = f"{there}; go on with: clouds train --resume {run.folder}"
    for kind in (DataError, NonFiniteError, TrainingError):
        if type(error) is kind:
            return kind(f"{error}; {way_on}")
    if isinstance(error, CloudsError):
        return error
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return TrainingError(f"{reason} (after step {state.step} of {phase}); {there}; {_remedy(error, run.folder)}")


def _remedy(error: Exception, folder: Path) -> str:
    text, command = str(error).lower(), f"clouds train --resume {folder}"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "out of memory" in text:
        return f"a batch in more parts needs less memory: {command} --set loop.accumulate=2"
    return f"CLOUDS_TRACEBACK=1 shows where it came from; go on with: {command}"


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


def _next(run: Run, state: State, phase: Phase, stream: Iterator[list[Sample]]) -> list[Sample]:
    """The next batch. The processes agree on whether to go on, so that all of them stop after the same step."""
    samples, error = list[Sample](), None
    try:
        samples = next(stream)
    except Exception as found:  # noqa: BLE001 - it is raised below, when the other processes know
        error = found
    messages = [message for sample in samples for message in sample.skipped]
    for message in messages:
        warnings.warn(f"skipped: {message}", stacklevel=2)
    here = torch.tensor([error is not None, bool(run.stop.name), len(messages)], dtype=torch.int64)
    errors, stopped, skipped = run.processes.sum(here).tolist()
    run.skipped += skipped
    if error:
        raise error
    if errors:
        raise DataError("another process met an image that cannot be read; see its message")
    if stopped:
        _save(run, state, phase)
        raise TrainingInterrupted(
            f"{run.stop.name or 'a signal to another process'}: stopped after step {state.step} of {phase}; "
            f"go on with: clouds train --resume {run.folder}"
        )
    return samples


def _after_step(run: Run, state: State, phase: Phase, numbers: dict[str, float]) -> None:
    steps = run.config(phase).steps
    run.loss = numbers["loss"]
    try:
        _evaluate(run, state.step, numbers)
    finally:  # the step was made, whatever became of its evaluation
        if run.log is not None:
            run.log.log(phase, state.step, numbers)
            run.trackers.log(phase, state.step, numbers)
            if run.on_step is not None:
                run.on_step(phase, state.step, steps, numbers)
    if state.step % run.recipe.loop.checkpoint_every == 0 or state.step == steps:
        _save(run, state, phase)


def _evaluate(run: Run, step: int, numbers: dict[str, float]) -> None:
    """Every so often, add the mean IoU to the numbers, and keep the pipeline if it is the best so far."""
    settings = run.recipe.loop
    if not settings.evaluate_every or step % settings.evaluate_every or not run.recipe.data.evaluation:
        return
    run.pipeline.trained = True
    score = evaluate(run.pipeline, run.recipe.data.evaluation).miou
    if score is None:  # nothing was labelled, so nothing is known
        return
    numbers["miou"] = score
    if settings.best and (run.best is None or score > run.best):
        run.best = score
        if run.processes.main:
            run.pipeline.save(run.folder / BEST)


def _save(run: Run, state: State, phase: Phase) -> None:
    progress = Progress(
        phases=run.phases,
        phase=phase,
        step=state.step,
        taught=state.taught,
        skipped=run.skipped,
        log_size=run.log.size() if run.log else 0,
        best=run.best,
    )
    save_checkpoint(run.folder, state, progress, keep=run.recipe.loop.keep)


def _memory(device: torch.device) -> float:
    """Most memory in use so far, in GiB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    return peak_memory() / _GIB
