"""What is launched, as a record: the same configurations run on a device and are compiled ahead of time in tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen


@frozen(kw_only=True)
class Launch:
    """A launch configuration. Where one is defined, a comment says why it is what it is.

    Attributes:
        blocks: sizes of the tiles, by the names of the kernel's compile-time arguments; powers of two.
        num_warps: warps of 32 threads per program.
        num_stages: loads in flight in a software-pipelined loop.
    """

    blocks: Mapping[str, int]
    num_warps: int
    num_stages: int

    def arguments(self) -> dict[str, int]:
        """As keyword arguments of a launch."""
        return {**self.blocks, "num_warps": self.num_warps, "num_stages": self.num_stages}


@frozen(kw_only=True, eq=False)
class Variant:
    """One form of a kernel that is shipped. Each module of kernels lists its forms as `VARIANTS`.

    Attributes:
        name: of the kernel and the form, e.g. "deformable_attention_forward bf16 d32".
        kernel: the function that `triton.jit` made.
        signature: Triton types of the arguments that are known at run time, e.g. {"value": "*bf16", "n": "i32"}.
        constants: compile-time arguments beside the tile sizes of `launch`.
        launch: how it is launched.
        forward: whether it is used in inference; such a kernel must not spill registers.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any] = field(factory=dict)
    launch: Launch
    forward: bool
