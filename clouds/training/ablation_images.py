"""The parts of an ablation's page that show images: confusions, every image's score, and the images that changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from clouds.core.contract.component import Kind
from clouds.core.pipeline.composer import load
from clouds.core.pipeline.pipeline import Pipeline
from clouds.data.folder import Dataset
from clouds.evaluation import html, parts
from clouds.evaluation.confusion import mean, mean_iou
from clouds.evaluation.evaluate import Settings
from clouds.evaluation.examples import PerImage, most_changed, ranked
from clouds.training.ablation_runs import ArmRun

Scores = dict[str, dict[str, PerImage]]  # mIoU of each image by domain, by arm


def image_sections(runs: Sequence[ArmRun], scored: Mapping[str, Dataset]) -> list[html.Section]:
    """Confusions of each arm, and its images against those of the first arm.

    Args:
        runs: all runs; pictures are those of the first one's seed.
        scored: the scored datasets by domain name.
    """
    arms = list(dict.fromkeys(run.arm for run in runs))
    seed = runs[0].joint.seed
    shown = [run for run in runs if run.joint.seed == seed]
    scores = {run.arm: _scores([run], scored) for run in shown}
    names = next(iter(scored.values())).label_space.names
    matrices = {
        arm: np.sum([each.sum(0) for run in runs if run.arm == arm for each in run.counts.values()], axis=0)
        for arm in arms
    }
    confusions = parts.confusions(matrices, names)
    if len(shown) == 1:
        chosen = {name: ranked(scores[shown[0].arm][name]) for name in scored}
        return [confusions, parts.worst_to_best(Settings.make().examples(_load(shown), scores, scored, chosen))]
    first, last = shown[0].arm, shown[-1].arm
    chosen = {name: most_changed(scores[first][name], scores[last][name]) for name in scored}
    examples = Settings.make().examples(_load(shown), scores, scored, chosen)
    means = {arm: _scores([run for run in runs if run.arm == arm], scored) for arm in arms}
    return [confusions, parts.image_scatter(means), parts.changed_images(examples, first=first, last=last)]


def _scores(runs: Sequence[ArmRun], scored: Mapping[str, Dataset]) -> dict[str, PerImage]:
    """mIoU of each image by domain, mean over runs."""
    return {
        name: {
            item.name: mean([mean_iou(run.counts[name][index]) for run in runs])
            for index, item in enumerate(dataset.items)
        }
        for name, dataset in scored.items()
    }


def _load(runs: Sequence[ArmRun]) -> Iterator[tuple[str, Pipeline]]:
    """The pipeline of each run by its arm, one at a time."""
    for run in runs:
        device = str(run.joint.recipe["model"].get("device", "auto"))
        yield run.arm, load(run.checkpoint, device=device, trust=tuple(Kind))
