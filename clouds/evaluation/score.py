"""Label-free scores of saved pipelines beside each other, and their rank correlation with mIoU where it is known."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attrs import asdict, evolve, field, frozen

from clouds.core.contract.component import Kind
from clouds.core.contract.labels import LabelSpace
from clouds.core.pipeline.build import build_part
from clouds.core.pipeline.checkpoint import read_checkpoint
from clouds.core.pipeline.composer import load
from clouds.core.pipeline.hub import find_checkpoint
from clouds.core.system.config import to_json
from clouds.core.system.errors import ConfigError
from clouds.core.system.progress import progress_bar
from clouds.evaluation import html
from clouds.evaluation.evaluate import Settings, open_datasets
from clouds.evaluation.label_free import COUNT, choose_pictures, consensus, label_free_scores, names_with
from clouds.evaluation.rank_correlation import Candidate, candidate_table, correlation_table, rank_correlations


def _to_tuple(value: Iterable[Candidate]) -> tuple[Candidate, ...]:
    return tuple(value)


@frozen(kw_only=True)
class LabelFreeScores:
    """The result of `clouds.score`.

    Attributes:
        candidates: the checkpoints with their scores, in the order in which they were given.
        pictures: number of pictures.
    """

    candidates: tuple[Candidate, ...] = field(converter=_to_tuple)
    pictures: int

    def __str__(self) -> str:
        """Tables for a terminal: the scores, and their rank correlations if mIoU is known."""
        lines = [f"in percent, on {self.pictures} pictures; higher is better"]
        lines += [html.text_table(*candidate_table(self.candidates))]
        note, header, rows = correlation_table(self.candidates)
        return "\n".join([*lines, note, html.text_table(header, rows)] if rows else lines)

    def to_json(self) -> str:
        """All figures as JSON text."""
        return to_json({"pictures": self.pictures, **describe(self.candidates)}, indent=2, allow_nan=False)


def describe(candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Candidates and rank correlations as plain values."""
    return {
        "checkpoints": [asdict(one) for one in candidates],
        "rank_correlations": {name: asdict(one) for name, one in rank_correlations(candidates).items()},
    }


def with_consensus(
    candidates: Sequence[Candidate], folders: Sequence[Path], pictures: int, classes: int
) -> list[Candidate]:
    """The candidates with the score `consensus`: mean agreement with the others of the same group, if there are any.

    Args:
        candidates: candidates without this score.
        folders: their label maps, as `label_free_scores` writes them.
        pictures: number of pictures.
        classes: number of classes.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index, one in enumerate(candidates):
        groups[one.group].append(index)
    found = [*candidates]
    for group in groups.values():
        values = consensus([folders[index] for index in group], pictures, classes=classes)
        for index, value in zip(group, values, strict=True):
            if value is not None:
                found[index] = evolve(found[index], scores={**found[index].scores, "consensus": value})
    return found


def score(
    checkpoints: Sequence[str | os.PathLike[str]],
    *,
    pictures: str | os.PathLike[str],
    count: int = COUNT,
    refiner: object = None,
    data: Sequence[str] = (),
    device: str = "auto",
    trust: Sequence[Kind | str] = (),
    progress: bool = False,
) -> LabelFreeScores:
    """Score saved pipelines on pictures without labels, to choose one for a domain that has no labels.

    The scores are those of `clouds.evaluation.label_free.label_free_scores`, and `consensus`: the mean agreement of a
    checkpoint's labels with those of each other one. With `data`, mIoU is measured, too, and the rank correlation of
    each score with it.

    Args:
        checkpoints: folders of saved pipelines of the same classes, or owner/name[@revision] of the hub.
        pictures: a folder, glob pattern, or dataset SPEC, whose labels are not read.
        count: at most this many pictures are used, evenly spaced.
        refiner: name (or table of name and options) of a refiner for the score `refinement`; None leaves it out.
        data: SPECs of labelled domains, to measure the scores themselves.
        device, trust: see `clouds.load`.
        progress: show a progress bar on standard error if it is a terminal.

    Raises:
        ConfigError: a checkpoint is listed twice or has other classes, or the refiner, a SPEC or `count` is invalid.
        DataError: there is no picture, or data cannot be used.
        WeightsError, TrustError: see `clouds.load`.
    """
    folders = {str(one): find_checkpoint(Path(one)) for one in checkpoints}
    if not checkpoints or len(folders) < len(checkpoints):
        raise ConfigError(f"score: expected one or more different checkpoints, got {[str(one) for one in checkpoints]}")
    label_space = _common_labels(folders)
    chosen = choose_pictures(pictures, count)
    datasets = open_datasets(list(data), label_space, None) if data else {}
    settings = Settings.make()
    settings.check(datasets, label_space)
    candidates = list[Candidate]()
    with TemporaryDirectory() as temporary, progress_bar(shown=progress) as bar:
        task = bar.add_task("score", total=len(folders))
        maps = [Path(temporary) / str(index) for index in range(len(folders))]
        for (name, folder), keep in zip(folders.items(), maps, strict=True):
            ready = {} if refiner is None else {"refiner": build_part("refiner", refiner)}
            pipeline = load(folder, device=device, trust=trust, ready=ready)
            scores = label_free_scores(pipeline, chosen, names=names_with(refiner), keep=keep)
            miou = settings.evaluate(pipeline, datasets).miou if datasets else None
            candidates.append(Candidate(name=name, group="", scores=scores, miou=miou))
            bar.update(task, advance=1)
        candidates = with_consensus(candidates, maps, len(chosen), len(label_space))
    return LabelFreeScores(candidates=[evolve(one, group=one.name) for one in candidates], pictures=len(chosen))


def _common_labels(folders: dict[str, Path]) -> LabelSpace:
    found = {name: read_checkpoint(folder).plan.labels for name, folder in folders.items()}
    first = next(iter(found))
    for name, labels in found.items():
        if labels.names != found[first].names:
            raise ConfigError(
                f"{name}: has the classes of {labels.name!r}, but {first} those of {found[first].name!r}; score "
                "checkpoints of the same classes"
            )
    return found[first]
