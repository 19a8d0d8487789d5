"""Mean and deviation of a figure over the seeds of an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from attrs import frozen


@frozen
class Spread:
    """A mean, and the standard deviation of a sample; None for a single value."""

    mean: float
    deviation: float | None = None

    @classmethod
    def over(cls, values: Sequence[float | None]) -> Spread | None:
        """The spread of values; None if there is none, or if one was not measured."""
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return None
        return cls(fmean(known), stdev(known) if len(known) > 1 else None)

    def __str__(self) -> str:
        return f"{self.mean:z.1f}" if self.deviation is None else f"{self.mean:z.1f} ± {self.deviation:.1f}"
