"""Training of a backbone that does not fit one card: each process holds a part of every trained tensor.

PyTorch's `fully_shard` (Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", VLDB 2023)
gathers the weights of a block when it runs, and leaves each process its part of gradients, moments and average.
accelerate has FSDP for accelerators alone, so that `fully_shard` is called directly, on a CPU as on GPUs.

What is written is whole: checkpoints and pipelines are those of a run without sharding, and either goes on with the
other's. All functions must be called by all processes.
"""

# pyright: reportUnknownMemberType=false
# (torch has incomplete types)

from __future__ import annotations

import atexit
import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from attrs import evolve
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.pipeline.segmenter import blocks_of
from clouds.core.system.errors import ConfigError
from clouds.training.learner import Learner
from clouds.training.sharded_tensors import scalars, whole_state
from clouds.training.teacher import Teacher


def require_shardable(pipeline: Pipeline) -> None:
    """Refuse a pipeline of which too little is trained.

    Raises:
        ConfigError: the backbone is frozen.
    """
    if not any(one.requires_grad for one in pipeline.backbone.parameters()):
        raise ConfigError(
            f"loop.shard splits a trained backbone, but {type(pipeline.backbone).__name__} is frozen and has neither "
            "gradients nor moments; set the backbone's trainable, or loop.shard=false"
        )


def own_copy(pipeline: Pipeline) -> Pipeline:
    """A pipeline with modules of its own, to shard. The other one stays whole, and waits on the CPU."""
    classifier = pipeline.classifier
    other = copy.copy(pipeline)
    other.segmenter = copy.deepcopy(pipeline.segmenter)
    if classifier is not None and classifier.pooler is not None:
        other._classifier = evolve(classifier, pooler=other.backbone)  # pyright: ignore[reportPrivateUsage]
    pipeline.segmenter.to("cpu")
    return other


def shard_learner(learner: Learner) -> None:
    """Shard a learner in place: each block of its backbone, and the rest. Loss terms stay whole.

    Scalars cannot be split: they stay whole, and `average_scalars` averages their gradients.
    """
    whole = {*learner.terms.parameters(), *scalars(learner.parameters())}
    _shard(learner, [block.module for block in blocks_of(learner.segmenter.backbone)], whole)


def shard_teacher(teacher: Teacher) -> None:
    """Shard a teacher in place. It has no gradients, so that its weights are released after each pass."""
    whole = set(scalars(teacher.segmenter.parameters()))
    _shard(teacher.segmenter, [block.module for block in blocks_of(teacher.backbone)], whole, release=True)


def _shard(root: nn.Module, blocks: Sequence[nn.Module], whole: set[nn.Parameter], *, release: bool = False) -> None:
    device = next(root.parameters()).device.type
    mesh = init_device_mesh(device, (distributed.get_world_size(),))
    # PyTorch's caches keep the mesh, and the mesh the process group, whose threads would outlive Python.
    atexit.register(getattr(mesh, "_pg_registry", {}).clear)  # PyTorch 2.10 keeps the group's name alone
    for module in (*blocks, root):
        fully_shard(
            module,
            mesh=mesh,
            reshard_after_forward=True if release or module is not root else None,
            ignored_params=whole,
        )
    for module in root.modules():
        if isinstance(module, FSDPModule) and distributed.get_backend() != "nccl":
            module.set_force_sum_reduction_for_comms(True)  # gloo has no mean


@contextmanager
def filled(whole: Pipeline, parts: Mapping[str, nn.Module], device: torch.device) -> Iterator[None]:
    """Give a whole pipeline the weights of sharded parts, on their device inside the block, then on the CPU.

    Args:
        whole: the pipeline that `own_copy` was made of.
        parts: a segmenter's modules by name.
        device: of the parts.
    """
    whole.segmenter.to(device)
    for name, part in parts.items():
        whole.segmenter.parts[name].load_state_dict(whole_state(part))
    try:
        yield
    finally:
        whole.segmenter.to("cpu")
