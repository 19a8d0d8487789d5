"""Smooth random fields on an infinite plane."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

_CELLS = 64  # a power of two: wrapping is a bit mask


class Noise:
    """Value noise: random numbers on a lattice of spacing 1 that repeats every 64 cells, blended smoothly.

    Source: Perlin, "An image synthesizer", SIGGRAPH 1985 (the lattice form without gradients).
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._lattice = rng.random(_CELLS * _CELLS, dtype=np.float32)

    def __call__(self, x: Float32[np.ndarray, "*s"], y: Float32[np.ndarray, "*s"]) -> Float32[np.ndarray, "*s"]:
        """Values in 0..1 at (x, y), in units of lattice cells."""
        x_floor, y_floor = np.floor(x), np.floor(y)
        fx, fy = _smooth(x - x_floor), _smooth(y - y_floor)
        column, row = x_floor.astype(np.int32) & (_CELLS - 1), y_floor.astype(np.int32) & (_CELLS - 1)
        next_column, next_row = (column + 1) & (_CELLS - 1), (row + 1) & (_CELLS - 1)
        row, next_row = row * _CELLS, next_row * _CELLS
        top = _mix(self._lattice[row + column], self._lattice[row + next_column], fx)
        bottom = _mix(self._lattice[next_row + column], self._lattice[next_row + next_column], fx)
        return _mix(top, bottom, fy)

    def cell(self, x: Float32[np.ndarray, "*s"], y: Float32[np.ndarray, "*s"]) -> Float32[np.ndarray, "*s"]:
        """One value in 0..1 per lattice cell, without blending."""
        column, row = np.floor(x).astype(np.int32) & (_CELLS - 1), np.floor(y).astype(np.int32) & (_CELLS - 1)
        return self._lattice[row * _CELLS + column]


def _smooth(t: Float32[np.ndarray, "*s"]) -> Float32[np.ndarray, "*s"]:
    return t * t * (3.0 - 2.0 * t)


def _mix(
    a: Float32[np.ndarray, "*s"], b: Float32[np.ndarray, "*s"], t: Float32[np.ndarray, "*s"]
) -> Float32[np.ndarray, "*s"]:
    return a + (b - a) * t
