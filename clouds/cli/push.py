"""`clouds push`: a saved pipeline to the Hugging Face hub. Heavy imports are inside functions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from attrs import frozen
from cyclopts import Parameter

from clouds.cli.options import AsJson
from clouds.cli.output import write, write_json
from clouds.core.system.config import parse_json
from clouds.core.system.errors import ConfigError
from clouds.evaluation.protocols import find_protocol
from clouds.training.run_folder import LOG, RECIPE, final_scores

if TYPE_CHECKING:
    from clouds.core.pipeline.model_card import Scores


def push(
    checkpoint: Path,
    name: str,
    /,
    *,
    reports: Annotated[tuple[Path, ...], Parameter(name="--report", consume_multiple=True, show_default=False)] = (),
    picture: Path | None = None,
    private: bool = False,
    as_json: AsJson = False,
) -> None:
    """Push a saved pipeline to the Hugging Face hub, with a generated model card. Needs a login: hf auth login.

    If the folder lies in that of its training run, the card also has the run's recipe and last scores.

    Args:
        checkpoint: folder of a saved pipeline; or owner/name[@revision] of the hub.
        name: owner/name of the repository; it is created if it does not exist.
        reports: report.json of `clouds evaluate --report`, for the card.
        picture: a picture for the card, such as an overlay of `clouds predict`.
        private: create the repository as a private one.
    """
    from clouds.core.pipeline.checkpoint import read_checkpoint
    from clouds.core.pipeline.hub import find_checkpoint, push_checkpoint
    from clouds.core.pipeline.model_card import load_call, own_modules

    folder = find_checkpoint(checkpoint)
    run = folder.resolve().parent
    of_a_run = (run / RECIPE).is_file() and (run / LOG).is_file()
    pushed = push_checkpoint(
        folder,
        name,
        recipe=run / RECIPE if of_a_run else None,
        reports=[*(_run_scores(run, folder.name) if of_a_run else ()), *_read_reports(reports)],
        picture=picture,
        private=private,
    )
    if as_json:
        write_json({"pushed": pushed})
    else:
        saved = read_checkpoint(folder)
        command = "" if own_modules(saved) else f", or clouds predict {name} IMAGES"
        write(f"pushed: {pushed}\nuse it: {load_call(name, saved)}{command}")


@frozen(kw_only=True)
class _RunScores:
    """Scores of a run at its last step, for the card."""

    settings: str
    per_domain: dict[str, float | None]


def _run_scores(run: Path, phase: str) -> Iterator[Scores]:
    found = final_scores(run, phase) if phase in ("warmup", "joint") else None
    if found:
        words = f"protocol native: {find_protocol('native')}; scored while training, at its last step"
        yield _RunScores(settings=words, per_domain={name: scores.miou for name, scores in found.items()})


def _read_reports(paths: Iterable[Path]) -> Iterator[Scores]:
    """The reports in files of `Report.to_json` and `ProtocolReports.to_json`."""
    from clouds.evaluation.report import Report

    for path in paths:
        try:
            document = parse_json(path.read_text(encoding="utf-8"))
            several = isinstance(document, dict) and isinstance(document.get("protocols"), dict)
            for one in document["protocols"].values() if several else [document]:
                yield Report.from_json(json.dumps(one))
        except (OSError, ValueError, ConfigError) as error:
            raise ConfigError(f"{path}: cannot be read as a report of clouds evaluate: {error}") from error
