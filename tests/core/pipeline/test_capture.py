"""Forward passes on a GPU that is not there: nothing is copied from the CPU, nothing waits, so that a CUDA graph can
record them.

Fake tensors have a device and a shape, and no data: operations that need data on the CPU raise, and a watcher sees
every operation that is given a tensor of the CPU. Kernels of Triton are not launched; what their launchers do is not
seen.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import clouds
from clouds.kernels.deformable_attention import deformable_attention

PARTS = [
    ("tiny", "linear"),
    ("tiny", "fpn"),
    ("tiny", "mask2former"),
    ("tiny", {"name": "mask2former-text", "geometric_ensemble": True}),
    ("tiny", "mask2former-pooled"),
    ("clip-rn50", {"name": "mask2former", "geometric_ensemble": True}),
    ("timm:vit_tiny_patch16_224", "linear"),
]


class Watcher(TorchDispatchMode):
    """Operations on CUDA, and those with a tensor of the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.on_cuda = 0
        self.with_cpu: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        devices = {one.device.type for one in tree_leaves((args, kwargs, made)) if isinstance(one, Tensor)}
        self.on_cuda += "cuda" in devices
        if "cpu" in devices:
            self.with_cpu.append(str(func))
        return made


@contextmanager
def watched() -> Iterator[Watcher]:
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), Watcher() as watcher:
        yield watcher


def _move_to_fake_cuda(module: nn.Module) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for part in module.modules():
            for name, one in part.named_parameters(recurse=False):
                fake = mode.from_tensor(one.detach()).to("cuda")
                setattr(part, name, nn.Parameter(fake, requires_grad=False))
            for name, one in part.named_buffers(recurse=False):
                setattr(part, name, mode.from_tensor(one).to("cuda"))


@pytest.mark.parametrize(("backbone", "head"), PARTS)
def test_a_forward_pass_can_be_recorded(backbone: str, head: Any, unchecked_types: None) -> None:
    network = clouds.compose(backbone=backbone, head=head, pretrained=False, device="cpu").as_module()
    _move_to_fake_cuda(network)
    with watched() as watcher:
        outputs = network(torch.empty(2, 3, 64, 96, device="cuda"))
    assert {one.device.type for one in outputs} == {"cuda"}
    assert watcher.on_cuda > 50
    assert watcher.with_cpu == []


def test_boxes_as_reference_points_need_no_copy() -> None:
    """They need the sizes of levels as a tensor, which is written on the device. No head has such."""
    shapes, dtype = [(4, 6)], {"device": "cuda"}
    with watched() as watcher:
        value, boxes = torch.empty(1, 24, 2, 32, **dtype), torch.empty(1, 5, 1, 4, **dtype)
        offsets, logits = torch.empty(1, 5, 2, 1, 3, 2, **dtype), torch.empty(1, 5, 2, 1, 3, **dtype)
        deformable_attention(value, shapes, boxes, offsets, logits)
    assert watcher.on_cuda > 0
    assert watcher.with_cpu == []


def test_the_watcher_sees_a_copy() -> None:
    with watched() as watcher:
        torch.tensor([4.0, 6.0]).to("cuda")
    assert watcher.with_cpu != []


def test_a_wait_is_refused() -> None:
    with watched(), pytest.raises(DataDependentOutputException):
        torch.empty(3, device="cuda").sum().item()
