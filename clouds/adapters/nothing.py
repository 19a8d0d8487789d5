"""The adapter that changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import nn

from clouds.core.contract.adaptation import Adapter, Block, Change


@final
class Nothing(Adapter):
    """Leaves the backbone as it is."""

    mergeable = True

    def changes(self, blocks: Sequence[Block]) -> list[tuple[nn.Module, Change]]:
        return []

    def merge(self, blocks: Sequence[Block]) -> None:
        """Nothing to do."""
