"""Records of launch configurations."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen


@frozen(kw_only=True)
class Launch:
    """A launch configuration. Comments at each definition give the reasons.

    Attributes:
        blocks: tile sizes by name of the kernel's compile-time argument; powers of two.
        num_warps: warps of 32 threads per program.
        num_stages: loads in flight in a software-pipelined loop.
    """

    blocks: Mapping[str, int]
    num_warps: int
    num_stages: int

    def arguments(self) -> dict[str, int]:
        """Convert to keyword arguments of a launch."""
        return {**self.blocks, "num_warps": self.num_warps, "num_stages": self.num_stages}
