"""Label-free scores of the checkpoints of an ablation, kept beside each run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen

from clouds.core.contract.component import Kind
from clouds.core.pipeline.build import build_part
from clouds.core.pipeline.composer import load
from clouds.core.system.config import parse_json, to_json
from clouds.core.system.errors import DataError
from clouds.core.system.files import write_text
from clouds.evaluation.bootstrap import Counts
from clouds.evaluation.confusion import mean, mean_iou
from clouds.evaluation.label_free import label_free_scores, names_with
from clouds.evaluation.rank_correlation import Candidate
from clouds.evaluation.score import with_consensus
from clouds.training.ablation_runs import ArmRun

_FOLDER, _FILE = "label-free", "scores.json"  # in the folder of a run, with the predicted label maps
Say = Callable[[str], None]


def _to_tuple(value: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(value)


@frozen(kw_only=True)
class Unlabelled:
    """What the checkpoints of an ablation are scored on.

    Attributes:
        pictures: image files.
        refiner: the recipe's refiner, which scores all arms; None without.
        device: device of the pipelines.
        classes: number of classes.
    """

    pictures: tuple[Path, ...] = field(converter=_to_tuple)
    refiner: object
    device: str
    classes: int

    def candidates(self, runs: Sequence[ArmRun], say: Say) -> tuple[Candidate, ...]:
        """Score the warm-ups and arms, as far as earlier calls have not. Seeds of an arm are one group."""
        checkpoints: dict[Path, tuple[str, ArmRun, Counts]] = {}
        for run in runs:  # arms may share a warm-up
            checkpoints.setdefault(run.start_checkpoint, (f"warm-up of {run.arm}", run, run.start))
        checkpoints |= {run.checkpoint: (run.arm, run, run.counts) for run in runs}
        found: list[Candidate] = []
        for checkpoint, (group, run, counts) in checkpoints.items():
            name = f"{group}, seed {run.joint.seed}"
            scores = self._scores(checkpoint, name, say)
            found.append(Candidate(name=name, group=group, scores=scores, miou=_miou(counts)))
        folders = [checkpoint.parent / _FOLDER for checkpoint in checkpoints]
        return tuple(with_consensus(found, folders, len(self.pictures), self.classes))

    def _scores(self, checkpoint: Path, name: str, say: Say) -> dict[str, float]:
        folder, of = checkpoint.parent / _FOLDER, self._described()
        file = folder / _FILE
        if file.is_file() and (known := _read(file))["of"] == of:
            return known["scores"]
        say(f"{name}: label-free scores of {len(self.pictures)} pictures")
        ready = {} if self.refiner is None else {"refiner": build_part("refiner", self.refiner)}
        pipeline = load(checkpoint, device=self.device, trust=tuple(Kind), ready=ready)
        pipeline.trained = True  # zero steps are scored on purpose
        file.unlink(missing_ok=True)  # the label maps beside it are about to change
        scores = label_free_scores(pipeline, self.pictures, names=names_with(self.refiner), keep=folder)
        write_text(file, to_json({"of": of, "scores": scores}, indent=2, allow_nan=False) + "\n")
        return scores

    def _described(self) -> dict[str, Any]:
        """Plain values that are equal if the scores are."""
        files = [(str(path.absolute()), path.stat()) for path in self.pictures]
        return {"refiner": self.refiner, "pictures": [[name, one.st_size, one.st_mtime_ns] for name, one in files]}


def _read(file: Path) -> dict[str, Any]:
    try:
        document = parse_json(file.read_text(encoding="utf-8"))
        return {"of": document["of"], "scores": {name: float(value) for name, value in document["scores"].items()}}
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise DataError(f"{file}: cannot be read ({error}); remove it, and repeat the call") from error


def _miou(counts: Counts) -> float | None:
    """Mean mIoU of the domains that have labelled pixels."""
    return mean([mean_iou(each.sum(axis=0)) for each in counts.values()])
