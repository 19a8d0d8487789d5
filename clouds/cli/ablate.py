"""`clouds ablate`. Heavy imports are inside functions."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from clouds.cli.options import AsJson, Assignments, UsageError
from clouds.cli.output import write
from clouds.core.system.progress import progress_bar

_Many = Parameter(consume_multiple=True, show_default=False)


def ablate(
    recipe: str,
    /,
    *,
    out: Path,
    arms: Annotated[tuple[str, ...], _Many] = ("source", "generated", "refined"),
    seeds: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (0, 1, 2),
    data: Annotated[tuple[str, ...], _Many] = (),
    ceiling: Annotated[tuple[str, ...], _Many] = (),
    pictures: str | None = None,
    count: Annotated[int, Parameter(validator=Number(gte=1))] = 40,
    assignments: Assignments = (),
    as_json: AsJson = False,
) -> None:
    """Train arms of a recipe with equal steps from a shared warm-up, over several seeds, and compare them.

    Repeat an interrupted command to continue it; a command with more arms or seeds adds them.

    Args:
        recipe: name of a recipe, or a TOML file, with its source and generated images.
        out: folder for all runs, rows.jsonl, table.txt and report.html.
        arms: source, generated, refined, exact, ceiling, or arms of your own NAME=[ARM+]key=value+key=value; separated
            by commas or spaces. Gains are over the first. Default: source,generated,refined.
        seeds: seeds of weights and training.
        data: labelled domains to score on, KIND:PATH[:SPLIT], one or more.
        ceiling: labels of the target that the arm ceiling trains on; the first teacher is measured on them, too.
        pictures: pictures for label-free scores (as of `clouds score`) of all checkpoints, and how well each score
            ranks them: folder, glob pattern, or dataset KIND:PATH[:SPLIT], whose labels are not read.
        count: at most this many of the pictures are used, evenly spaced.
    """
    from clouds.cli.model_commands import step_display
    from clouds.training.ablation import ablate as run_ablation
    from clouds.training.ablation_arms import split_arms

    if not data:
        raise UsageError("ablate needs domains to score on: --data KIND:PATH[:SPLIT] ...")
    with progress_bar() as shown:
        result = run_ablation(
            recipe,
            arms=list(chain.from_iterable(map(split_arms, arms))),
            data=data,
            out=out,
            seeds=seeds,
            ceiling=ceiling,
            pictures=pictures,
            count=count,
            set=assignments,
            on_step=step_display(shown),
            say=shown.console.print,
        )
    write(result.to_json() if as_json else f"{result}\nreport: {result.out / 'report.html'}")
