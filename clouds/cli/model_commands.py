"""`clouds plan`, `train`, `demo`. Heavy imports are inside functions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from clouds.cli.catalog_commands import list_components
from clouds.cli.options import (
    AsJson,
    Assignments,
    Labels,
    Trust,
    UsageError,
)
from clouds.cli.output import write, write_json, write_table
from clouds.core.contract.component import Kind
from clouds.core.system.errors import ConfigError
from clouds.core.system.progress import progress_bar
from clouds.training.recipe import Phase, changed, load_recipe
from clouds.training.start import recipe_plan, start_pipeline

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from clouds.core.pipeline.pipeline import Pipeline
    from clouds.training.train import TrainingRun


def plan(
    recipe: str,
    /,
    *,
    assignments: Assignments = (),
    labels: Labels = "",
    phase: Phase | None = None,
    as_json: AsJson = False,
) -> None:
    """Print a recipe with every value, and check its pipeline without building anything.

    The output is a valid recipe file; its last lines list the parts as comments.

    Args:
        recipe: name of a recipe, or a TOML file.
        labels: label space; replaces the recipe's.
        phase: only the parts that this training phase needs.
    """
    settings = load_recipe(recipe, _with_labels(assignments, labels))
    if as_json:
        made = recipe_plan(settings, recipe, phase)
        write_json({**json.loads(made.to_json()), "recipe": settings.to_dict()})
        return
    write(settings.to_toml())
    made = recipe_plan(settings, recipe, phase)
    write("\n".join(f"# {line}" for line in str(made).splitlines()))


def train(
    recipe: str = "",
    /,
    *,
    list_recipes: Annotated[bool, Parameter(name="--list", negative="")] = False,
    out: Path | None = None,
    assignments: Assignments = (),
    labels: Labels = "",
    phase: Phase | None = None,
    init: Path | None = None,
    resume: Path | None = None,
    trust: Trust = (),
    as_json: AsJson = False,
) -> None:
    """Train on a labelled source, then also on generated images if there are any.

    On several GPUs: torchrun --nproc-per-node N --no-python clouds train ...

    On several machines that share data and --out, on each of them: torchrun --nnodes M --nproc-per-node N
    --rdzv-backend c10d --rdzv-endpoint FIRST:29500 --no-python clouds train ...

    Args:
        recipe: name of a recipe, or a TOML file.
        list_recipes: list the recipes, as `clouds list recipes`, and train nothing.
        out: folder for the log, the resolved recipe, checkpoints, and a saved pipeline per phase; default: a new folder
            runs/RECIPE.
        labels: label space; replaces the recipe's.
        phase: warmup or joint; default: both.
        init: saved pipeline to start from instead of a new model, for example the warm-up's for the joint phase: a
            folder, or owner/name[@revision] of the hub.
        resume: folder of an interrupted run to continue exactly; excludes other options except --set of settings that
            do not affect past steps, such as data.on_error=skip.
    """
    from clouds.core.system.processes import join
    from clouds.training.run_folder import read_recipe
    from clouds.training.train import train as run_training

    if list_recipes:
        list_components("recipe", as_json=as_json)
        return
    assignments = _with_labels(assignments, labels)
    out = _find_out(resume, recipe, out, other=phase or init)
    settings = changed(read_recipe(resume), assignments) if resume else load_recipe(recipe, assignments)
    processes = join(device := str(settings.model.get("device", "auto")))
    with progress_bar(shown=processes.main) as shown:
        run = run_training(
            _initial_pipeline(resume, device, trust)
            if resume
            else start_pipeline(settings, recipe, phase, init, trust),
            recipe=None if resume else settings,
            out=out,
            phase=phase,
            resume=resume,
            set=assignments if resume else (),
            on_step=step_display(shown),
        )
    if processes.main:
        _write_run(run, as_json=as_json)


def demo(*, out: Path = Path("demo"), seed: int = 0, steps: int | None = None, as_json: AsJson = False) -> None:
    """Run the complete method on built-in data, on a CPU in minutes, and write an HTML report.

    Args:
        out: folder for data, models and the report.
        seed: seed of all random choices.
        steps: optimizer steps of each arm, half of them warm-up; default: the recipe's.
    """
    from clouds.demo.run import run_demo

    with progress_bar() as shown:
        result = run_demo(out, seed=seed, steps=steps, on_step=step_display(shown), say=shown.console.print)
    if as_json:
        write(result.to_json())
        return
    header, rows = result.by_arm()
    write_table(header, [(name, *map(_percent, values)) for name, *values in rows])
    for arms in result.trained:
        found = arms.pseudo_labels
        write(
            f"{arms.title}: pseudo-labels of {found.images} generated images, mIoU against the exact labels: "
            f"{_percent(found.before)} before refinement, {_percent(found.after)} after"
        )
    if result.missing:
        write(result.missing)
    write(f"{result.steps} optimizer steps each, seed {result.seed}, {result.seconds:.0f} s; report: {result.report}")


def step_display(shown: Progress) -> Callable[[Phase, int, int, dict[str, float]], None]:
    """A training callback with one progress bar per phase: loss, last mIoU, images per second, memory."""
    tasks: dict[Phase, TaskID] = {}
    last: dict[str, float] = {}
    forms = {"loss": "loss {:.3f}", "miou": "mIoU {:.1f} %", "images_per_second": "{:.1f} images/s"}
    forms["memory_gib"] = "{:.1f} GiB"

    def on_step(phase: Phase, step: int, steps: int, numbers: dict[str, float]) -> None:
        if phase not in tasks:
            tasks[phase] = shown.add_task(phase, total=steps)
        last.update(numbers)
        facts = [form.format(last[name]) for name, form in forms.items() if name in last]
        shown.update(tasks[phase], completed=step, description=", ".join([phase, *facts]))

    return on_step


def _write_run(run: TrainingRun, *, as_json: bool) -> None:
    loss = None if math.isnan(run.loss) else run.loss  # the run was already complete
    if as_json:
        write_json({"checkpoint": run.checkpoint, "log": run.log, "steps": run.steps, "loss": loss})
        return
    last = "already complete" if loss is None else f"last loss {loss:.3f}"
    write(f"{run.steps} steps, {last}; trained pipeline in {run.checkpoint}")


def _find_out(resume: Path | None, recipe: str, out: Path | None, *, other: object) -> Path | None:
    """The folder of a new run, or None to resume one. Options that contradict each other are refused."""
    if resume and (recipe or out or other):
        raise UsageError("--resume continues a run with its own settings; omit RECIPE, --out, --phase and --init")
    if not (resume or recipe):
        raise UsageError("a new run needs RECIPE, see clouds train --list; to continue a run, give --resume DIR")
    return None if resume else _new_folder(out, recipe)


def _new_folder(asked: Path | None, recipe: str) -> Path:
    """The folder of a new run. A mistake must not overwrite an earlier run."""
    from clouds.training.train import require_unused

    out = asked or Path("runs", Path(recipe).stem)
    require_unused(out)
    if asked is None and out.exists():
        raise ConfigError(f"{out} already has a run; choose another folder with --out")
    return out


def _initial_pipeline(folder: Path, device: str, trust: tuple[Kind, ...]) -> Pipeline:
    """Load the initial pipeline of a run to resume. Resuming trusts its recipe, so also the refiner that it names."""
    from clouds.core.pipeline.composer import load
    from clouds.training.run_folder import START

    return load(folder / START, device=device, trust=(Kind.REFINER, *trust))


def _with_labels(assignments: Sequence[str], labels: str) -> tuple[str, ...]:
    return (*assignments, f"labels={labels}") if labels else tuple(assignments)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
