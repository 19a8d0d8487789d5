"""One optimizer step, as functions over a `State`.

Benigmim et al., "Collaborating Foundation Models for Domain Generalized Semantic Segmentation", CVPR 2024, section 3:
the teacher labels the clean view of a generated image, the refiner improves the label map, and the student learns it
on a distorted view, with the same loss as for source images.

A step splits its images over processes, and each process splits its share into `State.accumulate` parts whose gradients
are added up. The result is the loss of the whole batch: each part's terms are weighted by its share of the items that
the term averages over. Mask losses are thus divided by the number of targets of all processes, as published. The class
term is, too, while the published code normalizes it per process. The weights of images do not change these shares; see
`Learner`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from attrs import Factory, define, evolve
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from clouds.core.contract.interfaces import ImageGenerators
from clouds.core.contract.losses import LossTerm
from clouds.core.contract.records import Targets
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.system.errors import NonFiniteError
from clouds.core.system.processes import Processes
from clouds.training.learner import Learner, item_counts
from clouds.training.optimizer_config import OptimizerConfig
from clouds.training.recipe import TeacherConfig
from clouds.training.samples import Sample
from clouds.training.targets import pasted_targets
from clouds.training.teacher import Teacher


@define(kw_only=True)
class State:
    """Training state of one phase, which a step reads and changes.

    Attributes:
        pipeline: the student, with the refiner.
        optimizer, schedule: for the student's trainable parameters.
        config: its `clip_norm` clips the gradient.
        seed: seed of all random choices in a step.
        teacher_config: update interval of the teacher.
        teacher: the EMA teacher; None if neither labels nor result come from it.
        processes: rank and number of the training processes.
        terms: further loss terms, by name.
        learner: the student's loss; distributed over the processes.
        accumulate: number of parts of this process's share of a batch.
        step: index of the next step.
        taught: step of the last teacher update, so that a repeated step does not update it again.
    """

    pipeline: Pipeline
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    config: OptimizerConfig
    seed: int
    teacher_config: TeacherConfig
    teacher: Teacher | None = None
    processes: Processes = Factory(Processes)
    terms: dict[str, LossTerm] = Factory(dict[str, LossTerm])
    learner: nn.Module = Factory(lambda state: Learner(state.pipeline, state.terms), takes_self=True)
    accumulate: int = 1
    step: int = 0
    taught: int = -1


def train_step(state: State, samples: Sequence[Sample]) -> dict[str, float]:
    """Run one optimizer step on a mixed batch; return the loss, its terms, and the gradient norm.

    The teacher is updated before the step, from the student after the previous step (as published).

    Args:
        state: training state.
        samples: this process's share of the batch, at least `state.accumulate` images.

    Raises:
        NonFiniteError: the loss or its gradient is not finite; weights and buffers are unchanged.
    """
    if state.teacher is not None and state.step % state.teacher_config.every == 0 and state.taught != state.step:
        state.teacher.update()
        state.taught = state.step
    with _buffers_kept(*state.pipeline.segmenter.parts.values()):
        terms, norm = _gradients(state, samples)
    state.optimizer.step()
    state.pipeline.head.finish_step()
    state.schedule.step()
    if state.teacher is not None and state.teacher.thresholds is not None:
        state.teacher.thresholds.update(state.processes)
    state.step += 1
    numbers = state.processes.sum(torch.stack([torch.stack(list(terms.values())).sum(), *terms.values()]))
    loss, *each = (numbers / state.processes.world).tolist()
    return {"loss": loss, "gradient_norm": norm.item(), **dict(zip(terms, each, strict=True))}


def _gradients(state: State, samples: Sequence[Sample]) -> tuple[dict[str, Tensor], Tensor]:
    """Put the batch's clipped gradient into the parameters; return the loss terms and the gradient norm."""
    parts = [samples[index :: state.accumulate] for index in range(state.accumulate)]
    targets = [_targets(state, part) for part in parts]
    weights = _part_weights(state, targets)
    state.optimizer.zero_grad(set_to_none=True)
    terms: dict[str, Tensor] = {}
    for index, (part, wanted, weight) in enumerate(zip(parts, targets, weights, strict=True)):
        with _averaging(state.learner, last=index == len(parts) - 1):
            found = _part_terms(state, part, wanted, weight)
            torch.stack(list(found.values())).sum().backward()
        terms = {name: term.detach() + terms.get(name, 0.0) for name, term in found.items()}
    trained = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(trained, state.config.clip_norm or math.inf)
    if not norm.isfinite():
        raise NonFiniteError(
            f"step {state.step}: the gradient's norm is {norm.item()}; the images are {_names(samples)}"
        )
    return terms, norm


def pseudo_targets(state: State, generated: Sequence[Sample]) -> dict[int, Targets]:
    """Targets of generated images by sample position: teacher on the clean view, then refiner."""
    if not generated:
        return {}
    if state.teacher is None:
        raise ValueError("generated images need a teacher; the state has none")
    clean = [sample.clean.to(state.pipeline.device) for sample in generated if sample.clean is not None]
    label_maps, weights = zip(*state.teacher.weighted_label_maps(clean), strict=True)
    refiner = state.pipeline.refiner
    if refiner is None:
        refined = [Targets.from_label_map(label_map) for label_map in label_maps]
    else:
        rngs = [np.random.default_rng([state.seed, sample.position]) for sample in generated]
        refined = refiner.refine(clean, label_maps, rngs=rngs)
    found = zip(generated, refined, weights, strict=True)
    return {sample.position: evolve(target, weight=weight, pseudo=True) for sample, target, weight in found}


def _targets(state: State, samples: Sequence[Sample]) -> list[Targets]:
    """Targets of labelled and generated images, in the order of the samples, on the pipeline's device."""
    pseudo = pseudo_targets(state, [sample for sample in samples if sample.clean is not None])
    found = [
        pseudo[sample.position] if sample.label_map is None else Targets.from_label_map(sample.label_map)
        for sample in samples
    ]
    device = state.pipeline.device
    mixed = [
        target.to(device) if sample.pasted is None else pasted_targets(target.to(device), sample.pasted.to(device))
        for sample, target in zip(samples, found, strict=True)
    ]
    return [evolve(target, weight=target.weight * sample.weight) for sample, target in zip(samples, mixed, strict=True)]


def _part_weights(state: State, targets: Sequence[Sequence[Targets]]) -> list[dict[str, float]]:
    """Factors of the loss terms, per part, by name as in `item_counts`.

    With them, the mean over processes of the sum over parts is the loss of the whole batch.
    """
    if state.processes.world * len(targets) == 1:
        return [{"": 1.0}]
    counts = [item_counts(state.pipeline.head, part, state.terms) for part in targets]
    own = torch.tensor([list(part.values()) for part in counts], dtype=torch.float64)
    share = (state.processes.sum(own.sum(0)) / state.processes.world).tolist()
    return [
        {name: count / total if total else 0.0 for (name, count), total in zip(part.items(), share, strict=True)}
        for part in counts
    ]


def _part_terms(
    state: State, samples: Sequence[Sample], targets: Sequence[Targets], weights: dict[str, float]
) -> dict[str, Tensor]:
    images = [sample.image.to(state.pipeline.device) for sample in samples]
    generator = ImageGenerators([_key(state.seed, sample.position) for sample in samples])
    terms, fault = dict[str, Tensor](), ""
    try:
        terms = state.learner(images, targets, generator)
    except NonFiniteError as error:
        fault = str(error)
    bad = [name for name, term in terms.items() if not term.isfinite()]
    if bad:
        fault = f"loss terms {bad} are not finite"
    _stop_together(state, fault and f"{fault}; the images are {_names(samples)}")
    return {name: term * weights.get(name, weights[""]) for name, term in terms.items()}


def _stop_together(state: State, fault: str) -> None:
    """Stop all processes when one has a fault; the others would wait forever for its gradients."""
    faults = state.processes.sum(torch.tensor(int(bool(fault))))
    if faults:
        raise NonFiniteError(f"step {state.step}: {fault or 'the loss of another process is not finite'}")


def _averaging(learner: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Synchronize gradients over the processes only once per step, at the last part."""
    return learner.no_sync() if isinstance(learner, DistributedDataParallel) and not last else nullcontext()


def _names(samples: Sequence[Sample]) -> str:
    return ", ".join(f"{index}: {sample.name}" for index, sample in enumerate(samples))


def seed_global_generators(state: State) -> None:
    """Seed the global generators of torch, numpy and Python from seed, step and process.

    Dropout, stochastic depth and plugins draw from them; a repeated step then draws the same values.
    """
    seed = _key(state.seed, state.step, state.processes.rank)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def _buffers_kept(*modules: nn.Module) -> Iterator[None]:
    """Restore buffers when the block fails, since a forward pass updates running statistics of batch norms.

    Modules in eval mode do not change theirs.
    """
    training = [part for module in modules for part in module.modules() if part.training]
    buffers = [buffer for part in training for buffer in part.buffers(recurse=False)]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    except BaseException:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        raise


def _key(*numbers: int) -> int:
    """Hash numbers into one 63-bit seed, so that neighbouring seeds are uncorrelated."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
