"""Launch configurations as records."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen


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
