"""One optimizer step, as plain functions over a state.

Benigmim et al., "Collaborating Foundation Models for Domain Generalized Semantic Segmentation", CVPR 2024, section 3:
the teacher labels the clean view of a generated image, the refiner improves the label map, and the student learns it
on a distorted view, with the same loss as for source images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from attrs import define
from torch.optim.lr_scheduler import LambdaLR

from clouds.core.interfaces import Targets
from clouds.core.pipeline import Pipeline
from clouds.training.recipe import OptimizerConfig, TeacherConfig
from clouds.training.samples import Sample
from clouds.training.teacher import Teacher


@define(kw_only=True)
class State:
    """What a step reads and changes.

    Attributes:
        pipeline: the student, with the refiner.
        optimizer, schedule: of the student's trainable parameters.
        config: for the gradient's clipping.
        seed: of every random choice that belongs to a step.
        teacher_config: how often the teacher is updated.
        teacher: None while there are no generated images.
        step: number of the next step.
    """

    pipeline: Pipeline
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    config: OptimizerConfig
    seed: int
    teacher_config: TeacherConfig
    teacher: Teacher | None = None
    step: int = 0


def train_step(state: State, samples: Sequence[Sample]) -> dict[str, float]:
    """Carry out one optimizer step on a mixed batch; returns the loss, its terms, and the gradient's norm.

    The teacher is updated before the step, from the student as the step before left it (as published).
    """
    pipeline, device = state.pipeline, state.pipeline.device
    if state.teacher is not None and state.step % state.teacher_config.every == 0:
        state.teacher.update()
    pseudo = pseudo_targets(state, [sample for sample in samples if sample.clean is not None])
    targets = [
        pseudo[sample.position] if sample.label_map is None else Targets.from_label_map(sample.label_map)
        for sample in samples
    ]
    output = pipeline.forward([sample.image.to(device) for sample in samples])
    points = torch.Generator().manual_seed(_key(state.seed, state.step))
    terms = pipeline.head.loss(output, [target.to(device) for target in targets], generator=points)
    loss = torch.stack(list(terms.values())).sum()
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    trained = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(trained, state.config.clip_norm)
    state.optimizer.step()
    state.schedule.step()
    state.step += 1
    numbers = {name: term.item() for name, term in terms.items()}
    return {"loss": loss.item(), "gradient_norm": norm.item(), **numbers}


def pseudo_targets(state: State, generated: Sequence[Sample]) -> dict[int, Targets]:
    """Targets of generated images by sample position: teacher on the clean view, then refiner."""
    if not generated:
        return {}
    if state.teacher is None:
        raise ValueError("generated images need a teacher; the state has none")
    clean = [sample.clean.to(state.pipeline.device) for sample in generated if sample.clean is not None]
    label_maps = state.teacher.label_maps(clean)
    refiner = state.pipeline.refiner
    if refiner is None:
        refined = [Targets.from_label_map(label_map) for label_map in label_maps]
    else:
        rngs = [np.random.default_rng([state.seed, sample.position]) for sample in generated]
        refined = refiner.refine(clean, label_maps, rngs=rngs)
    return {sample.position: target for sample, target in zip(generated, refined, strict=True)}


def _key(seed: int, step: int) -> int:
    """One 63-bit seed from two numbers, without the correlation of neighbouring seeds."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)
