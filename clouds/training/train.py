"""Training a composed pipeline: warm-up on the source, then joint self-training."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from attrs import evolve, frozen

from clouds.core.contract.interfaces import capabilities
from clouds.core.contract.labels import LabelSpace
from clouds.core.contract.losses import LossTerm
from clouds.core.contract.named_options import NamedOptions, asked_name, build_offer
from clouds.core.contract.offers import OfferKind
from clouds.core.contract.sampling import Sampler
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.system.errors import CloudsError, ConfigError, DataError, WeightsError
from clouds.core.system.files import own_folder, write_text
from clouds.core.system.processes import Processes, join
from clouds.data.check import check_labelled
from clouds.data.folder import Dataset, open_dataset
from clouds.data.spec import Spec
from clouds.evaluation.label_free import NAMES as LABEL_FREE
from clouds.training.checkpoint import (
    FILE_NAME,
    Progress,
    global_random_state,
    keep_checkpoints,
    read_checkpoint,
    set_global_random_state,
)
from clouds.training.generated_images import GeneratedImages, open_generated_images
from clouds.training.instances import check_instances
from clouds.training.interrupt import StopSignal
from clouds.training.loop import Run, StepCallback, run_phase
from clouds.training.optimizer import build_optimizer
from clouds.training.recipe import (
    DataConfig,
    Overrides,
    Phase,
    Recipe,
    RecipeLike,
    changed,
    keys_of,
    load_recipe,
    with_values,
)
from clouds.training.run_folder import LOG, RECIPE, START, read_recipe
from clouds.training.sharding import require_shardable
from clouds.training.start import recorded
from clouds.training.tracking import JsonLines, Trackers, open_trackers

__all__ = ["StepCallback", "TrainingRun", "train"]


@frozen(kw_only=True)
class TrainingRun:
    """Result of a training run.

    Attributes:
        out: folder of the run.
        checkpoint: folder of the trained pipeline, for `clouds.load`.
        log: file with one JSON line per step.
        steps: number of optimizer steps.
        loss: loss of the last step; nan when this call made no step.
        skipped: number of unreadable images, with `data.on_error` "skip".
    """

    out: Path
    checkpoint: Path
    log: Path
    steps: int
    loss: float
    skipped: int = 0


def train(
    pipeline: Pipeline,
    *,
    source: str | Sequence[str] = (),
    generated: str | os.PathLike[str] | None = None,
    recipe: RecipeLike | Recipe | None = None,
    out: str | os.PathLike[str] | None = None,
    phase: Phase | None = None,
    on_step: StepCallback | None = None,
    resume: str | os.PathLike[str] | None = None,
    set: Overrides = (),
) -> TrainingRun:
    """Train a pipeline in place, and save it.

    The run writes `checkpoint.pt` every `loop.checkpoint_every` steps, at the end of a phase, on SIGTERM and SIGINT,
    and when a step fails. `resume` continues from it with bit-identical results. The same recipe, data and weights give
    the same bits: each step seeds the global generators of torch, numpy and Python, and `train` restores them
    afterwards. Under torchrun, each process takes its share of every batch; `batch_size` counts all processes.

    Args:
        pipeline: model to train: the head, and the backbone unless it is frozen.
        source: SPEC (or several) of labelled data; replaces the recipe's.
        generated: folder of a generated dataset; replaces the recipe's. If neither names one, only the source is used.
        recipe: name, TOML file, a table such as `{"extends": "folder", "warmup": {"steps": 20}}`, or a `Recipe`.
        out: new or empty folder for the log, the resolved recipe, the initial pipeline (`start`), and a saved pipeline
            per phase.
        phase: `"warmup"` or `"joint"` alone; None runs the warm-up, and then the joint phase if there are generated
            images. The joint phase without generated images is the control: the same steps on the source alone.
        on_step: called after every step with phase, step, number of steps, and the step's metrics.
        resume: folder of a run to continue; excludes all arguments except `pipeline`, `on_step` and `set`. Compose the
            pipeline as at the start of the run, or load it from `start`; the checkpoint holds the trained weights.
        set: overrides of the recipe, a mapping of `a.b` or `a.b=value` texts, as for `clouds train --set`; with
            `resume` only settings in `clouds.training.recipe.CHANGEABLE`.

    Raises:
        ConfigError, DataError: the recipe, the data or the folder is unusable, or an image cannot be read.
        WeightsError: the checkpoint is damaged, or does not fit the pipeline.
        NonFiniteError: the loss, its gradient or a weight is not finite; the last good checkpoint is kept.
        TrainingError: something else failed in a step: memory, a data loader process, a component.
        TrainingInterrupted: a signal stopped the run.
    """
    if resume is not None and (source or generated or recipe or out or phase):
        raise ConfigError("resume continues a run with its own settings; omit source, generated, recipe, out and phase")
    with StopSignal() as stop, ExitStack() as closing:
        closing.callback(set_global_random_state, global_random_state())  # each step seeds the global generators
        processes = join(pipeline.device.type)
        if resume is not None:
            run = _resumed_run(pipeline, Path(resume), set, processes, stop, closing)
        elif recipe is not None and out is not None:
            settings = _settings(recipe, source, generated, set)
            run = _new_run(pipeline, settings, Path(out), (phase,) if phase else (), processes, stop, closing)
        else:
            raise ConfigError("a new run needs recipe= and out=; to continue a run, give resume=FOLDER")
        _attach_trackers(run, on_step, closing)
        for name in run.phases[run.phases.index(run.start.phase) :]:
            run_phase(run, name)
            pipeline.trained = pipeline.trained or run.recipe.config(name).steps > 0
            if processes.main:
                pipeline.save(run.folder / name)
            processes.wait()
    return TrainingRun(
        out=run.folder,
        checkpoint=run.folder / run.phases[-1],
        log=run.folder / LOG,
        steps=sum(run.recipe.config(name).steps for name in run.phases),
        loss=run.loss,
        skipped=run.skipped,
    )


def _attach_trackers(run: Run, on_step: StepCallback | None, closing: ExitStack) -> None:
    """Give the run its callback and, in the first process, its log and trackers; `closing` closes them."""
    run.on_step = on_step
    if run.processes.main:
        run.log = JsonLines(run.folder / LOG, size=run.start.log_size)
        closing.callback(run.log.close)
        run.trackers = Trackers(open_trackers(run.recipe.loop.trackers, run.folder, run.recipe.to_dict()))
        closing.callback(run.trackers.close)


def _settings(recipe: RecipeLike | Recipe, source: str | Sequence[str], generated: object, values: Overrides) -> Recipe:
    """The recipe with the caller's overrides and data."""
    if of_model := [key for key in keys_of(values) if key.startswith("model.")]:
        raise ConfigError(
            f"set has {of_model[0]}, but the pipeline is composed already; give the option to clouds.compose"
        )
    given = (source,) if isinstance(source, str) else source
    if not (isinstance(given, Sequence) and all(isinstance(one, str) for one in given)):
        raise ConfigError(
            f"source is a {type(source).__name__}; expected a SPEC such as 'folder:PATH', or a list of them"
        )
    given = tuple(given)
    recipe = with_values(recipe, values) if isinstance(recipe, Recipe) else load_recipe(recipe, values, source=given)
    specs = given or recipe.data.source
    if not specs:
        raise ConfigError("no source to train on; give source=SPEC, or --set data.source=folder:PATH")
    return evolve(recipe, data=evolve(recipe.data, source=specs, generated=str(generated or recipe.data.generated)))


def _new_run(
    pipeline: Pipeline,
    recipe: Recipe,
    folder: Path,
    phases: tuple[Phase, ...],
    processes: Processes,
    stop: StopSignal,
    closing: ExitStack,
) -> Run:
    """Start a run in its own folder."""
    run = _prepare_run(pipeline, recipe, folder, phases, processes, stop)
    run.recipe = recorded(recipe, pipeline.plan, run.phases[-1])
    require_unused(folder)
    _lock_folder(folder, processes, closing)
    require_unused(folder)  # again, now that no other process can start a run here
    if processes.main:
        _write_recipe(folder, run.recipe)
        pipeline.save(folder / START)
    processes.wait()
    return run


def _resumed_run(
    pipeline: Pipeline, folder: Path, values: Overrides, processes: Processes, stop: StopSignal, closing: ExitStack
) -> Run:
    """Restore a run from its checkpoint."""
    read_checkpoint(folder)  # refuses an unusable folder before anything is written
    before = read_recipe(folder)
    recipe = changed(before, values)
    _lock_folder(folder, processes, closing)
    start, saved = read_checkpoint(folder)
    run = _prepare_run(pipeline, recipe, folder, start.phases, processes, stop)
    run.start, run.saved, run.skipped = start, saved, start.skipped
    run.best = start.best if recipe.loop.best == before.loop.best else ()  # other scores do not compare
    steps = run.recipe.config(start.phase).steps
    if start.step > steps:
        raise WeightsError(
            f"{folder / FILE_NAME}: step {start.step} of {start.phase}, but {RECIPE} says {steps} steps; one of the "
            "two files was altered"
        )
    if processes.main:
        keep_checkpoints(folder, start, keep=recipe.loop.keep)
        if recipe != before:
            _write_recipe(folder, recipe)
    return run


def _write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write the recipe with absolute data paths, so that the run can resume from any working directory."""
    used = recipe.data if recipe.loop.evaluate_every else evolve(recipe.data, evaluation=())
    data = evolve(used, root=used.root or os.getcwd()).located()
    data = evolve(data, root=used.root, evaluation=data.evaluation or recipe.data.evaluation)
    write_text(folder / RECIPE, json.dumps(evolve(recipe, data=data).to_dict(), indent=2) + "\n")


def _lock_folder(folder: Path, processes: Processes, closing: ExitStack) -> None:
    """Lock the folder in the first process until `closing` ends; if that fails, all processes stop.

    Raises:
        DataError: the folder holds something else, or another run is writing to it.
    """
    fault: CloudsError | None = None
    if processes.main:
        try:
            closing.enter_context(own_folder(folder, marker=RECIPE))
        except CloudsError as error:
            fault = error
    if fault:
        processes.sum(torch.ones((), dtype=torch.int64))
        raise fault
    if processes.sum(torch.zeros((), dtype=torch.int64)):
        raise DataError(f"{folder}: the first process could not lock this folder; see its message")


def require_unused(folder: Path) -> None:
    """Refuse a folder that already has a run with at least one step.

    Raises:
        ConfigError: names the folder and the remedy.
    """
    if not (folder / FILE_NAME).is_file():
        return
    (progress, _), left = read_checkpoint(folder), unfinished(folder)
    if progress.step == 0 and progress.phase == progress.phases[0]:
        return
    if left is not None:
        raise ConfigError(
            f"{folder} has a run that stopped after step {left.step} of {left.phase}; continue it with clouds train "
            f"--resume {folder}, or choose another folder"
        )
    raise ConfigError(f"{folder} already has a finished run; choose another folder, or remove it")


def unfinished(folder: Path) -> Progress | None:
    """Progress of an interrupted run in a folder; None when there is nothing to resume."""
    if not (folder / FILE_NAME).is_file():
        return None
    (progress, _), recipe = read_checkpoint(folder), read_recipe(folder)
    steps = recipe.config(progress.phase).steps
    begun = progress.step > 0 or progress.phase != progress.phases[0]
    return progress if begun and (progress.phase, progress.step) != (progress.phases[-1], steps) else None


def _prepare_run(
    pipeline: Pipeline,
    recipe: Recipe,
    folder: Path,
    phases: tuple[Phase, ...],
    processes: Processes,
    stop: StopSignal,
) -> Run:
    """Check the optimizer's groups, the data of the phases (all if none is named), and that a batch can be split."""
    joint = bool(recipe.data.generated) and phases != ("warmup",)
    if recipe.loop.shard:
        require_shardable(pipeline)
    build_optimizer(pipeline.segmenter.parts, recipe.optimizer)  # a pattern that matches nothing stops the run here
    if recipe.loop.evaluate_every:
        _check_evaluation(recipe.data.evaluation, pipeline.labels)
    sources = _open_sources(pipeline, recipe.data, joint=joint)
    generated = open_generated_images(recipe.data, pipeline.labels) if joint else GeneratedImages()
    _check_best(recipe.loop.best, generated, pipeline)
    phases = phases or (("warmup", "joint") if generated else ("warmup",))
    run = Run(
        pipeline=pipeline,
        recipe=recipe,
        folder=folder,
        phases=phases,
        sources=tuple(sources),
        sampler=_sampler(recipe.data.sampler, sources),
        views=recipe.data.augmentation(),
        pictures=generated.pictures,
        labelled=generated.labelled,
        terms=_loss_terms(recipe.loss.terms, pipeline),
        processes=processes,
        stop=stop,
        start=Progress(phases=phases, phase=phases[0]),
    )
    for name in phases:
        _check_weights(recipe.data, name, generated if name == "joint" else GeneratedImages())
        _check_parts(recipe, name, processes)
    return run


def _check_parts(recipe: Recipe, phase: Phase, processes: Processes) -> None:
    """Refuse a batch with fewer images than parts that it is split into."""
    size, parts = recipe.config(phase).batch_size, processes.world * recipe.loop.accumulate
    if size < parts:
        raise ConfigError(
            f"{phase}.batch_size is {size}, but {processes.world} processes with "
            f"loop.accumulate={recipe.loop.accumulate} need at least {parts} images in a batch"
        )


def _check_best(best: str, generated: GeneratedImages, pipeline: Pipeline) -> None:
    """Refuse a label-free score that cannot be computed."""
    if best in LABEL_FREE and not generated.pictures:
        raise ConfigError(
            f"loop.best is {best!r}, which is computed on generated images without labels, but this run has "
            "none; set data.generated and run the joint phase, or choose loop.best=miou"
        )
    if best == "refinement" and pipeline.refiner is None:
        raise ConfigError(
            "loop.best is 'refinement', but the pipeline has no refiner; set refiner=NAME, or another score"
        )


def _check_weights(data: DataConfig, phase: Phase, generated: GeneratedImages) -> None:
    """Refuse a phase in which the images that are drawn have weight 0."""
    count = len(data.source)
    kinds = [*generated.labelled, *(["pseudo"] if generated.pictures else [])]
    factors = (*(data.source_factors or [1.0] * count), *[data.generated_factor] * len(kinds))
    weights = (*(data.source_weights or [1.0] * count), *[data.label_weights[kind] for kind in kinds])
    drawn = [weight for factor, weight in zip(factors, weights, strict=True) if factor]
    if drawn and not any(drawn):
        raise ConfigError(
            f"{phase}: all images that are drawn have weight 0, so nothing would be learned; raise data.source_weights"
            + (" or data.generated_weight" if generated else "")
        )


def _loss_terms(asked: Sequence[NamedOptions], pipeline: Pipeline) -> dict[str, LossTerm]:
    """The loss terms by name. They are made before the first step, and a checkpoint restores their state."""
    where, terms = "loss.terms", dict[str, LossTerm]()
    for one in asked:
        term = build_offer(OfferKind.LOSS, one, pipeline, wanted=LossTerm, where=where)
        name = asked_name(one, where=where)
        if terms.setdefault(name, term.to(pipeline.device)) is not term:
            raise ConfigError(f"{where}: {name!r} is listed twice; list it once")
    return terms


def _sampler(asked: NamedOptions, sources: Sequence[Dataset]) -> Sampler | None:
    return build_offer(OfferKind.SAMPLER, asked, sources, wanted=Sampler, where="data.sampler") if asked else None


def _open_sources(pipeline: Pipeline, data: DataConfig, *, joint: bool) -> list[Dataset]:
    """The labelled datasets, which must have something to learn."""
    head, labels = pipeline.head, pipeline.labels
    check_instances(data, head=type(head).__name__, provides=capabilities(head), label_space=labels, joint=joint)
    sources = [open_dataset(spec, labels, default_split="train") for spec in data.source]
    for dataset in sources:
        check_labelled(dataset)
        if data.instances:
            dataset.read_segments(0)  # a JSON that does not fit its PNGs stops the run here
    return sources


def _check_evaluation(specs: Sequence[str], label_space: LabelSpace) -> None:
    """Check the evaluation data before training starts, rather than hours later at the first evaluation."""
    seen = set[Spec]()
    for spec in specs:
        try:
            dataset = open_dataset(spec, label_space, default_split="val")
            check_labelled(dataset)
        except (ConfigError, DataError) as error:
            raise type(error)(f"data.evaluation: {error}; or disable it with loop.evaluate_every=0") from error
        if dataset.spec in seen:
            raise ConfigError(f"data.evaluation: {dataset.spec} is listed twice; list it once")
        seen.add(dataset.spec)
