"""`clouds score`. Heavy imports are inside functions."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from clouds.cli.options import AsJson, Device, Trust
from clouds.cli.output import write


def score(
    checkpoints: list[str],
    /,
    *,
    pictures: str,
    count: Annotated[int, Parameter(validator=Number(gte=1))] = 40,
    refiner: str | None = None,
    data: Annotated[tuple[str, ...], Parameter(consume_multiple=True, show_default=False)] = (),
    device: Device = "auto",
    trust: Trust = (),
    as_json: AsJson = False,
) -> None:
    """Score saved pipelines on pictures without labels, to choose one for a domain that has no labels.

    All scores are in percent, and higher is better: confidence, diversity, information, stability, refinement,
    separation, consensus. With --data, mIoU is measured, too, and how well each score ranks the checkpoints.

    Args:
        checkpoints: folders of saved pipelines of the same classes; or owner/name[@revision] of the hub.
        pictures: folder, glob pattern, or dataset KIND:PATH[:SPLIT], whose labels are not read.
        count: at most this many pictures are used, evenly spaced.
        refiner: a name of `clouds list refiners`, for the score refinement; default: leave it out.
        data: labelled domains KIND:PATH[:SPLIT], to measure the scores themselves.
    """
    from clouds.evaluation.score import score as score_checkpoints

    result = score_checkpoints(
        checkpoints,
        pictures=pictures,
        count=count,
        refiner=refiner,
        data=data,
        device=device,
        trust=trust,
        progress=True,
    )
    write(result.to_json() if as_json else str(result))
