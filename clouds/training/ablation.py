"""Ablations: arms of one recipe with equal steps from a shared warm-up, over several seeds, scored image by image."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from attrs import evolve, frozen
from jaxtyping import Int

from clouds.core.contract.component import Kind
from clouds.core.contract.labels import LabelSpace
from clouds.core.pipeline.composer import load
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.system.config import to_json
from clouds.core.system.errors import ConfigError, DataError
from clouds.core.system.files import atomic_file, own_folder, write_text
from clouds.data.check import check_labelled
from clouds.data.folder import Dataset, open_dataset
from clouds.data.spec import parse_spec
from clouds.evaluation.evaluate import Settings, open_datasets
from clouds.evaluation.label_free import COUNT, choose_pictures
from clouds.evaluation.label_free import NAMES as LABEL_FREE
from clouds.synthesis.generated_set import labelled_set, open_generated
from clouds.training.ablation_arms import ArmRecipes, ArmSpec, Inputs, arm_recipes, parse_arms
from clouds.training.ablation_result import Ablation
from clouds.training.ablation_runs import ArmRun
from clouds.training.ablation_scores import Unlabelled
from clouds.training.checkpoint import FILE_NAME as CHECKPOINT
from clouds.training.loop import StepCallback
from clouds.training.recipe import Overrides, Phase, Recipe, load_recipe, with_values
from clouds.training.run_folder import RECIPE, START, read_recipe, read_run
from clouds.training.start import recipe_plan, start_pipeline
from clouds.training.train import train

MARKER, COUNTS, TEACHER = "ablation.json", "images.npz", "teacher.npz"
Say = Callable[[str], None]


@frozen(kw_only=True)
class _Experiment:
    """What all runs of an ablation share."""

    out: Path
    source: str  # name of the recipe, for messages
    scored: Mapping[str, Dataset]
    shown: Mapping[str, Dataset]  # pictures with labels that the teacher is measured on
    on_step: StepCallback | None
    say: Say


def ablate(
    recipe: str | Path | Recipe,
    *,
    arms: Sequence[str],
    data: Sequence[str],
    out: str | os.PathLike[str],
    seeds: Sequence[int] = (0, 1, 2),
    ceiling: Sequence[str] = (),
    pictures: str | os.PathLike[str] | None = None,
    count: int = COUNT,
    set: Overrides = (),
    on_step: StepCallback | None = None,
    say: Say = lambda text: None,
) -> Ablation:
    """Train arms of a recipe that differ in one thing, and compare them. Repeat an interrupted call to continue it.

    For each seed, all arms start from the same warm-up weights, make the same number of steps, and have on average as
    many source images per step: half of `joint.batch_size`. The built-in arms are `source` (the source alone),
    `generated` (plus generated images with the teacher's labels), `refined` (plus the recipe's refiner), `exact` (with
    the generated images' exact labels) and `ceiling` (trained on `ceiling` alone, from the start). An arm of one's own
    is `NAME=key=value+key=value` on top of `generated`, or `NAME=ARM+key=value` on top of another.

    `out` gets `rows.jsonl` (a row per arm and seed), `table.txt`, `report.html`, and all runs.

    Args:
        recipe: name, TOML file, or a `Recipe`, with its source and generated images.
        arms: arms, the first of which gains refer to.
        data: SPECs of the labelled domains to score on; training never reads them.
        out: folder of this ablation; a call with more arms or seeds adds them.
        seeds: seeds of weights and training.
        ceiling: SPECs of labels of the target for the arm `ceiling`. The first teacher is measured on them, too, or
            else on the generated images if these have exact labels.
        pictures: folder, glob pattern or SPEC of pictures for label-free scores of all checkpoints, and their rank
            correlation with mIoU; see `clouds.score`. Arms that learn from the target's labels are left out.
        count: at most this many of the pictures are used.
        set: overrides of the recipe, as of `clouds.train`.
        on_step: called after every optimizer step.
        say: called with one line of text before each run.

    Raises:
        ConfigError: an arm, a seed, the recipe or a SPEC is invalid, or `out` holds another ablation.
        DataError: data cannot be used, or `out` holds something else.
        WeightsError, NonFiniteError, TrainingError, TrainingInterrupted: see `clouds.train`.
    """
    specs = parse_arms(arms)
    if not seeds or len(dict.fromkeys(seeds)) < len(seeds):
        raise ConfigError(f"seeds: expected one or more different numbers, got {list(seeds)}")
    settings = _settings(recipe, data, set)
    source = "of the ablation" if isinstance(recipe, Recipe) else str(recipe)
    labels = recipe_plan(settings, source, "joint").labels
    scored = _open_labelled(settings.data.evaluation, labels)
    targets = tuple(_absolute(spec) for spec in ceiling)
    unlabelled = None if pictures is None else _unlabelled(settings, pictures, count, len(labels))
    described = {"recipe": evolve(settings, seed=0).to_dict(), "ceiling": list(targets)}
    with ExitStack() as closing:
        folder = closing.enter_context(own_folder(out, marker=MARKER))
        _claim(folder, described)
        inputs = _inputs(settings, targets, folder, labels)
        recipes = {(arm, seed): arm_recipes(arm, inputs, seed) for seed in seeds for arm in specs}
        for arm in specs:
            recipe_plan(recipes[arm, seeds[0]].joint, f"of arm {arm.name}", "joint")  # checks all before any trains
        shown = targets or ((inputs.exact,) if inputs.exact else ())
        taught = _open_labelled(shown, labels) if shown else {}
        experiment = _Experiment(out=folder, source=source, scored=scored, shown=taught, on_step=on_step, say=say)
        runs = [_run(experiment, arm, seed, found) for (arm, seed), found in recipes.items()]
        candidates = unlabelled.candidates(_without_ceiling(runs, specs), say) if unlabelled else ()
        result = Ablation.of(folder, specs, runs, scored, taught, candidates)
        result.write()
    return result


def _settings(recipe: str | Path | Recipe, data: Sequence[str], values: Overrides) -> Recipe:
    """The recipe with absolute paths, and with the scored domains as its evaluation data."""
    settings = with_values(recipe, values) if isinstance(recipe, Recipe) else load_recipe(recipe, values)
    if not settings.data.source:
        raise ConfigError("no source to train on; set data.source=folder:PATH")
    if settings.loop.best in LABEL_FREE:
        raise ConfigError(
            f"loop.best is {settings.loop.best!r}, but an ablation compares the last checkpoints; leave it out, and "
            "give pictures=PLACE to score them"
        )
    if settings.joint.batch_size % 2:
        raise ConfigError(
            f"joint.batch_size is {settings.joint.batch_size}; an ablation needs an even number, half of it source"
        )
    located = evolve(settings.data, root=settings.data.root or os.getcwd()).located()
    return evolve(settings, data=evolve(located, root="", evaluation=tuple(_absolute(spec) for spec in data)))


def _unlabelled(recipe: Recipe, pictures: str | os.PathLike[str], count: int, classes: int) -> Unlabelled:
    return Unlabelled(
        pictures=choose_pictures(pictures, count),
        refiner=recipe.model.get("refiner"),
        device=str(recipe.model.get("device", "auto")),
        classes=classes,
    )


def _without_ceiling(runs: Sequence[ArmRun], arms: Sequence[ArmSpec]) -> list[ArmRun]:
    """The runs whose arm does not learn from the target's labels."""
    learning = {arm.name for arm in arms if arm.base == "ceiling"}
    return [run for run in runs if run.arm not in learning]


def _absolute(spec: str) -> str:
    parsed = parse_spec(spec)
    return str(evolve(parsed, path=parsed.path.absolute()))


def _open_labelled(specs: Sequence[str], labels: LabelSpace) -> dict[str, Dataset]:
    datasets = open_datasets(list(specs), labels, None)
    for dataset in datasets.values():
        check_labelled(dataset)
    Settings.make().check(datasets, labels)
    return datasets


def _claim(folder: Path, described: Mapping[str, object]) -> None:
    """Mark a new folder with the ablation; refuse one of another ablation."""
    path, text = folder / MARKER, to_json(described, indent=2, sort_keys=True, default=str) + "\n"
    if not path.is_file():
        write_text(path, text)
    elif path.read_text(encoding="utf-8") != text:
        raise ConfigError(
            f"{folder} holds another ablation: its {MARKER} differs from this recipe, --data or --ceiling; choose "
            "another folder"
        )


def _inputs(recipe: Recipe, ceiling: tuple[str, ...], folder: Path, labels: LabelSpace) -> Inputs:
    data, generated = recipe.data, open_generated(recipe.data.generated) if recipe.data.generated else None
    lengths = [len(open_dataset(spec, labels, default_split="train")) for spec in data.source]
    factors = data.source_factors or [1.0] * len(lengths)
    return Inputs(
        recipe=recipe,
        images=sum(length * factor for length, factor in zip(lengths, factors, strict=True)),
        generated=len(generated.images) if generated else 0,
        exact=labelled_set(generated, folder / "exact", labels) if generated else "",
        ceiling=ceiling,
    )


def _run(experiment: _Experiment, arm: ArmSpec, seed: int, recipes: ArmRecipes) -> ArmRun:
    """Train and score one arm with one seed, as far as earlier calls have not."""
    shared = experiment.out / "warmup" / f"{sha256(recipes.start.encode()).hexdigest()[:8]}-seed-{seed}"
    own = experiment.out / "arms" / arm.name / f"seed-{seed}"
    warm = _train(experiment, recipes.warmup, shared, "warmup", None)
    trained = _train(experiment, recipes.joint, own, "joint", warm)
    device = str(recipes.joint.model.get("device", "auto"))
    return ArmRun(
        arm=arm.name,
        joint=read_run(own, name=f"{arm.name}, seed {seed}"),
        warmup=read_run(shared, name=f"warm-up of {arm.name}, seed {seed}"),
        checkpoint=trained,
        start_checkpoint=warm,
        counts=_counts(own / COUNTS, trained, experiment.scored, device),
        start=_counts(shared / COUNTS, warm, experiment.scored, device),
        teacher=_counts(shared / TEACHER, warm, experiment.shown, device),
    )


def _train(experiment: _Experiment, recipe: Recipe, folder: Path, phase: Phase, init: Path | None) -> Path:
    """Run or resume a phase unless it is complete; return the folder of its pipeline."""
    if (folder / RECIPE).is_file() and to_json(read_recipe(folder).to_dict()) != to_json(recipe.to_dict()):
        raise ConfigError(
            f"{folder} holds a run with another recipe; give the arm another name, or choose another folder"
        )
    complete = folder / phase
    if (complete / "plan.json").is_file():
        return complete
    experiment.say(f"{folder.relative_to(experiment.out)}: {recipe.config(phase).steps} steps")
    if (folder / CHECKPOINT).is_file():
        device = str(recipe.model.get("device", "auto"))
        train(load(folder / START, device=device, trust=tuple(Kind)), resume=folder, on_step=experiment.on_step)
    else:
        pipeline = start_pipeline(recipe, experiment.source, phase, init, tuple(Kind))
        train(pipeline, recipe=recipe, out=folder, phase=phase, on_step=experiment.on_step)
    return complete


def _counts(
    file: Path, checkpoint: Path, datasets: Mapping[str, Dataset], device: str
) -> dict[str, Int[np.ndarray, "n k k+1"]]:
    """Confusion of each image by domain: read from a file, or counted and written there."""
    if not file.is_file():
        pipeline: Pipeline = load(checkpoint, device=device, trust=tuple(Kind))
        pipeline.trained = True  # zero steps are scored on purpose
        found = [Settings.make().confusions(pipeline, dataset) for dataset in datasets.values()]
        with atomic_file(file) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, *found)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            counts = [arrays[f"arr_{index}"] for index in range(len(datasets))]
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise DataError(f"{file}: cannot be read ({error}); remove it, and repeat the call") from error
    return dict(zip(datasets, counts, strict=True))
