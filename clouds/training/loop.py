"""The loop over the steps of a phase: batches, steps, metrics, checkpoints, evaluations, interruption."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import define, field

from clouds.core.contract.losses import LossTerm
from clouds.core.contract.sampling import Sampler
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.system.errors import CloudsError, DataError, NonFiniteError, TrainingError
from clouds.core.system.memory import peak_memory
from clouds.core.system.processes import Processes
from clouds.data.folder import Dataset
from clouds.data.transforms import Augmentation
from clouds.evaluation.evaluate import evaluate
from clouds.evaluation.label_free import NAMES as LABEL_FREE
from clouds.evaluation.label_free import label_free_scores, spaced
from clouds.evaluation.scores import Domains, as_numbers, domain_scores, mean_miou
from clouds.training.best import Scored, rank, save_best
from clouds.training.checkpoint import Progress, restore_state, save_checkpoint
from clouds.training.interrupt import StopSignal, TrainingInterrupted, undisturbed
from clouds.training.learner import Learner, distribute
from clouds.training.optimizer import build_optimizer, build_schedule
from clouds.training.recipe import Phase, Recipe, TeacherConfig
from clouds.training.samples import Sample, SampleReader, batches
from clouds.training.sharding import filled, own_copy, shard_learner, shard_teacher
from clouds.training.steps import State, seed_global_generators, train_step
from clouds.training.teacher import Teacher
from clouds.training.tracking import JsonLines, Trackers

_SEEDS: dict[Phase, int] = {"warmup": 1, "joint": 2}  # so that the phases of one recipe draw different samples
_GIB = 2**30
StepCallback = Callable[[Phase, int, int, dict[str, float]], None]


@define(eq=False, kw_only=True)
class Run:
    """Context of a whole run: its inputs, its starting point, and its outputs and counters.

    Attributes:
        pipeline: model to train.
        recipe: settings, including the data.
        folder: output folder.
        phases: phases in order.
        sources: labelled datasets.
        sampler: chooses the images of the sources, or None.
        views: settings of the training views.
        pictures: generated images that the teacher labels, for the joint phase.
        labelled: generated images with labels of their own, for the joint phase, by kind of label.
        terms: further loss terms, by name.
        processes: rank and number of the training processes.
        stop: records a signal to stop.
        start: progress before this call.
        saved: checkpoint of `start`; None for a new run.
        log: `log.jsonl`, in the first process.
        trackers: other receivers of the metrics.
        on_step: called with the metrics of each step, in the first process.
        skipped: number of unreadable images.
        best: the best scores so far, best first, if `loop.best` names a score.
        loss: loss of the last step.
    """

    pipeline: Pipeline
    recipe: Recipe
    folder: Path
    phases: tuple[Phase, ...]
    sources: tuple[Dataset, ...]
    sampler: Sampler | None = None
    views: Augmentation
    pictures: tuple[Path, ...]
    labelled: dict[str, Dataset] = field(factory=dict)
    terms: dict[str, LossTerm] = field(factory=dict)
    processes: Processes
    stop: StopSignal
    start: Progress
    saved: dict[str, Any] | None = None
    log: JsonLines | None = None
    trackers: Trackers = field(factory=lambda: Trackers(()))
    on_step: StepCallback | None = None
    skipped: int = 0
    best: tuple[Scored, ...] = ()
    loss: float = float("nan")


def run_phase(run: Run, phase: Phase) -> None:
    """Run the remaining steps of a phase.

    Args:
        run: the run; its log, counters and checkpoints change.
        phase: phase to run; the phase of `run.start` continues after the step of `run.start`.

    Raises:
        DataError, NonFiniteError, TrainingError, TrainingInterrupted: see `clouds.train`.
    """
    state = _initial_state(run, phase)
    continuing = phase == run.start.phase
    stream = _open_stream(run, phase, state, run.start.step if continuing else 0)
    modules = state.pipeline.segmenter.parts.values()
    for module in modules:
        module.train()
    if continuing and run.saved is not None:
        restore_state(state, run.start, run.saved, folder=run.folder)
    else:
        if continuing and run.recipe.loop.evaluate_start:
            with _result_weights(run, state):
                _log(run, phase, 0, *_evaluate(run, phase, 0))
        _save(run, state, phase)
    try:
        while state.step < run.recipe.config(phase).steps:
            _make_step(run, state, phase, stream)
    except TrainingInterrupted:
        raise
    except Exception as error:  # no error of a component may cost the trained weights
        raise _error_with_remedy(run, state, phase, error) from error
    _keep_result(run, state)
    for module in run.pipeline.segmenter.parts.values():
        module.eval()


def _keep_result(run: Run, state: State) -> None:
    """Leave the phase's result in the run's pipeline."""
    if state.sharded:
        device = state.pipeline.device
        with _result_weights(run, state):
            pass
        run.pipeline.segmenter.to(device)
    elif run.recipe.teacher.result and state.teacher is not None:
        state.teacher.exchange()


def _make_step(run: Run, state: State, phase: Phase, stream: Iterator[list[Sample]]) -> None:
    before = time.perf_counter()
    samples = _next_batch(run, state, phase, stream)
    with undisturbed():
        lr = state.optimizer.param_groups[0]["lr"]
        seed_global_generators(state)
        numbers = train_step(state, samples)
        numbers |= {
            "lr": lr,
            "images_per_second": run.recipe.config(phase).batch_size / (time.perf_counter() - before),
            "memory_gib": _peak_memory_gib(state.pipeline.device),
            "skipped": float(run.skipped),
        }
        _after_step(run, state, phase, numbers)


def _error_with_remedy(run: Run, state: State, phase: Phase, error: Exception) -> CloudsError:
    """Write a checkpoint of the last good step; return the error to raise, which says how to resume.

    All processes have a part of a sharded state, and only a loss that is not finite stops all of them.
    """
    saved = "the previous checkpoint is kept"
    if not state.sharded or isinstance(error, NonFiniteError):
        with undisturbed(), suppress(CloudsError):
            _save(run, state, phase)
            saved = f"there is a checkpoint of step {state.step}"
    remedy = f"{saved}; resume with: clouds train --resume {run.folder}"
    for kind in (DataError, NonFiniteError, TrainingError):
        if type(error) is kind:
            return kind(f"{error}; {remedy}")
    if isinstance(error, CloudsError):
        return error
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return TrainingError(f"{reason} (after step {state.step} of {phase}); {saved}; {_remedy(error, run.folder)}")


def _remedy(error: Exception, folder: Path) -> str:
    text, command = str(error).lower(), f"clouds train --resume {folder}"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "out of memory" in text:
        return f"splitting a batch into more parts needs less memory: {command} --set loop.accumulate=2"
    return f"CLOUDS_TRACEBACK=1 shows the traceback; resume with: {command}"


def _initial_state(run: Run, phase: Phase) -> State:
    recipe, config = run.recipe, run.recipe.teacher
    sharded = recipe.loop.shard and run.processes.world > 1
    pipeline = own_copy(run.pipeline) if sharded else run.pipeline
    taught = config.result or (phase == "joint" and bool(run.pictures))
    teacher = _teacher(pipeline, config) if taught else None
    learner = Learner(pipeline, run.terms, channels_last=recipe.loop.channels_last)
    if sharded:
        shard_learner(learner)
        if teacher is not None:
            shard_teacher(teacher)
    optimizer = build_optimizer(pipeline.segmenter.parts, recipe.optimizer)
    return State(
        pipeline=pipeline,
        optimizer=optimizer,
        schedule=build_schedule(optimizer, recipe.optimizer, steps=run.recipe.config(phase).steps),
        config=recipe.optimizer,
        seed=recipe.seed * 2 + _SEEDS[phase],
        teacher=teacher,
        teacher_config=config,
        processes=run.processes,
        terms=run.terms,
        learner=learner if sharded else distribute(learner, run.processes),
        accumulate=recipe.loop.accumulate,
        sharded=sharded,
    )


def _teacher(pipeline: Pipeline, config: TeacherConfig) -> Teacher:
    return Teacher(
        pipeline,
        decay=config.decay,
        confidence=config.confidence,
        class_confidence=config.class_confidence,
        weight_threshold=config.weight_threshold,
        scales=config.scales,
    )


def _open_stream(run: Run, phase: Phase, state: State, start: int) -> Iterator[list[Sample]]:
    data, config = run.recipe.data, run.recipe.config(phase)
    pictures, labelled = (run.pictures, run.labelled) if phase == "joint" else ((), {})
    factors = list(data.source_factors or [1.0] * len(run.sources))
    weights = np.multiply(factors, [len(source) for source in run.sources])
    shares = tuple(weights / weights.sum()) if data.class_mix and pictures else ()
    own = [data.label_weights[kind] for kind in labelled]
    reader = SampleReader(
        run.sources,
        pictures,
        run.views,
        seed=state.seed,
        sampler=run.sampler,
        instances=data.instances,
        paste_shares=shares,
        labelled=tuple(labelled.values()),
        weights=(*(data.source_weights or [1.0] * len(run.sources)), *own, data.label_weights["pseudo"]),
        on_error=data.on_error,
    )
    return batches(
        reader,
        factors=[*factors, *[data.generated_factor] * (len(labelled) + bool(pictures))],
        batch_size=config.batch_size,
        steps=config.steps,
        workers=data.workers,
        start=start,
        processes=run.processes,
    )


def _next_batch(run: Run, state: State, phase: Phase, stream: Iterator[list[Sample]]) -> list[Sample]:
    """The next batch. The processes agree on whether to continue, so that all stop after the same step."""
    samples, error = list[Sample](), None
    try:
        samples = next(stream)
    except Exception as found:  # noqa: BLE001 - raised below, after the other processes know
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
        raise DataError("another process found an unreadable image; see its message")
    if stopped:
        _save(run, state, phase)
        raise TrainingInterrupted(
            f"{run.stop.name or 'a signal to another process'}: stopped after step {state.step} of {phase}; "
            f"resume with: clouds train --resume {run.folder}"
        )
    return samples


def _after_step(run: Run, state: State, phase: Phase, numbers: dict[str, float]) -> None:
    loop, steps = run.recipe.loop, run.recipe.config(phase).steps
    run.loss = numbers["loss"]
    domains: Domains = {}
    try:
        if loop.evaluate_every and state.step % loop.evaluate_every == 0:
            with _result_weights(run, state):
                scores, domains = _evaluate(run, phase, state.step)
            numbers |= scores
    finally:  # log the step even if its evaluation fails
        numbers = _log(run, phase, state.step, numbers, domains)
        if run.processes.main and run.on_step is not None:
            run.on_step(phase, state.step, steps, numbers)
    if state.step % loop.checkpoint_every == 0 or state.step == steps:
        _save(run, state, phase)


def _evaluate(run: Run, phase: Phase, step: int) -> tuple[dict[str, float], Domains]:
    """Score the pipeline, and save it if it is among the best so far.

    Returns:
        the label-free score that `loop.best` names, and the scores on `data.evaluation`.
    """
    loop, data, pipeline = run.recipe.loop, run.recipe.data, run.pipeline
    found, domains, miou = dict[str, float](), Domains(), None
    trained, pipeline.trained = pipeline.trained or step > 0, True  # an untrained head is scored on purpose
    if data.evaluation:
        report = evaluate(pipeline, data.evaluation)
        domains, miou = domain_scores(report), report.miou
    if loop.best in LABEL_FREE:
        found = label_free_scores(pipeline, spaced(run.pictures), names=[loop.best])
    pipeline.trained = trained
    score = miou if loop.best == "miou" else found.get(loop.best)
    if score is not None:  # None: no pixel was labelled, or the score is undefined
        scored = Scored(score=score, phase=phase, step=step)
        run.best = rank(run.best, scored, keep=loop.keep_best)
        if run.processes.main:
            save_best(pipeline, run.folder, run.best, scored, keep=loop.keep_best)
    return found, domains


def _result_weights(run: Run, state: State) -> AbstractContextManager[None]:
    """Context in which the pipeline has the weights that are the phase's result."""
    average = state.teacher if run.recipe.teacher.result else None
    if state.sharded:
        segmenter = state.pipeline.segmenter if average is None else average.segmenter
        return filled(run.pipeline, segmenter.parts, state.pipeline.device)
    return nullcontext() if average is None else average.in_student()


def _log(run: Run, phase: Phase, step: int, numbers: dict[str, float], domains: Domains) -> dict[str, float]:
    """Log the numbers and scores of a step in the first process; return the numbers, with the mIoU if it was scored."""
    score = mean_miou(domains)
    numbers = numbers if score is None else numbers | {"miou": score}
    if run.log is not None:
        run.log.log(phase, step, numbers, domains)
        run.trackers.log(phase, step, numbers | as_numbers(domains))
    return numbers


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


def _peak_memory_gib(device: torch.device) -> float:
    """Peak memory so far, in GiB: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    return peak_memory() / _GIB
