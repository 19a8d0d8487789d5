"""One arm of an ablation with one seed: its scores, and the confusion of each image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attrs import evolve, frozen

from clouds.data.folder import Dataset
from clouds.evaluation.bootstrap import Counts
from clouds.evaluation.confusion import class_iou, mean_iou
from clouds.evaluation.scores import Domains, DomainScores, Evaluation, ScoredRun


@frozen(kw_only=True)
class ArmRun:
    """One arm with one seed.

    Attributes:
        arm: name of the arm.
        joint, warmup: recipes and logged scores of its two phases; the warm-up may be shared.
        checkpoint, start_checkpoint: folders of the pipeline after the joint phase and after the warm-up.
        counts: confusion of each image by scored domain.
        start: the same after the warm-up.
        teacher: confusion of the first teacher's labels for pictures that have labels.
    """

    arm: str
    joint: ScoredRun
    warmup: ScoredRun
    checkpoint: Path
    start_checkpoint: Path
    counts: Counts
    start: Counts
    teacher: Counts

    @property
    def title(self) -> str:
        """Arm and seed."""
        return f"{self.arm}, seed {self.joint.seed}"

    def scored(self, datasets: Mapping[str, Dataset]) -> ScoredRun:
        """Scores at all steps, over both phases."""
        warm = self.joint.recipe["warmup"]["steps"]
        last = warm + self.joint.recipe["joint"]["steps"]
        logged = {one.step: one.domains for one in self.warmup.evaluations}
        logged[warm] = domain_scores(self.start, datasets)
        logged |= {warm + one.step: one.domains for one in self.joint.evaluations}
        logged[last] = domain_scores(self.counts, datasets)
        steps = [Evaluation(step=step, domains=domains) for step, domains in sorted(logged.items())]
        return evolve(self.joint, evaluations=steps)


def domain_scores(counts: Counts, datasets: Mapping[str, Dataset]) -> Domains:
    """Scores of each domain from the confusion of its images."""
    scores: Domains = {}
    for name, each in counts.items():
        total = each.sum(axis=0)
        iou = dict(zip(datasets[name].label_space.names, class_iou(total), strict=True))
        scores[name] = DomainScores(images=len(each), miou=mean_iou(total), iou=iou)
    return scores
