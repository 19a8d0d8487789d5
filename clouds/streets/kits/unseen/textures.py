"""Textures and window patterns of the unseen domains."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from clouds.streets.records import Patch

Values = Float32[np.ndarray, " n"]


def cobbles(patch: Patch) -> Values:
    """Round stones in staggered rows, each with its own tone."""
    row = np.floor(patch.b / 0.5)
    a, b = patch.a / 0.4 + 0.5 * (row % 2), patch.b / 0.5
    dome = 1.0 - 0.5 * ((a % 1.0 - 0.5) ** 2 + (b % 1.0 - 0.5) ** 2)
    return dome * (0.85 + 0.3 * patch.noise.cell(a, b))


def tar_seams(patch: Patch) -> Values:
    """Old asphalt: wandering dark seams between lighter plates."""
    wander = patch.noise(patch.a * 0.5, patch.b * 0.2) - patch.noise(patch.b * 0.3 + 9, patch.a * 0.4)
    return np.where(np.abs(wander) < 0.045, np.float32(0.7), np.float32(1.06))


def hexagons(patch: Patch) -> Values:
    """Paving of tilted cells."""
    u, v = patch.a / 0.9 + patch.b / 1.6, patch.a / 0.9 - patch.b / 1.6
    return 0.82 + 0.34 * patch.noise.cell(u, v)


def weathered_boards(patch: Patch) -> Values:
    """Horizontal boards with grain."""
    edge = (patch.b / 0.45 % 1.0) < 0.14
    return np.where(edge, 0.75, 0.9 + 0.2 * patch.noise(patch.a * 0.7, np.floor(patch.b / 0.45) * 3.7))


def checker_panels(patch: Patch) -> Values:
    """Cladding of light and dark panels."""
    return 0.88 + 0.24 * ((np.floor(patch.a / 1.9) + np.floor(patch.b / 1.4)) % 2).astype(np.float32)


def brush_strokes(patch: Patch) -> Values:
    """Slanted strokes, like leaves in wind."""
    return 0.7 + 0.6 * patch.noise((patch.a + patch.b) * 6 + 13 * patch.key, (patch.a - patch.b) * 1.1)


def dry_tussocks(patch: Patch) -> Values:
    """Scattered tussocks on bare soil."""
    tussock = patch.noise(patch.a * 2.7, patch.b * 2.1) > 0.55
    return np.where(tussock, np.float32(1.25), np.float32(0.8))


def mesh(patch: Patch) -> Values:
    """Diagonal wire mesh."""
    u, v = (patch.a + patch.b) / 0.5 % 1.0, (patch.a - patch.b) / 0.5 % 1.0
    return np.where((u < 0.2) | (v < 0.2), np.float32(0.7), np.float32(1.12))


def mackerel_sky(patch: Patch) -> Values:
    """Rows of small clouds that close up towards the horizon."""
    far = 1.0 / (0.12 + np.maximum(patch.b, 0.0))
    return 0.92 + 0.16 * np.sin(2.2 * far + 3 * patch.noise(patch.a * far, far)) * np.minimum(1.0, 3 * patch.b + 0.2)


def banded_sky(patch: Patch) -> Values:
    """Layers of different greys."""
    return 0.9 + 0.2 * patch.noise(patch.a * 0.3, patch.b * 9.0)


def ribbon_windows(patch: Patch) -> tuple[Values, Values]:
    """Unbroken bands of glass, one per storey of 4.2 m."""
    storey = patch.b / 4.2
    inside = (storey % 1.0 > 0.45) & (storey % 1.0 < 0.8)
    return inside.astype(np.float32), patch.noise.cell(patch.a / 6, storey)


def round_arches(patch: Patch) -> tuple[Values, Values]:
    """Narrow windows with round tops, one per 2.1 m."""
    a, b = (patch.a + 5 * patch.key) / 2.1, patch.b / 3.7
    u, v = a % 1.0 - 0.5, b % 1.0
    body = (np.abs(u) < 0.22) & (v > 0.22) & (v < 0.6)
    top = (u * 2.1) ** 2 + ((v - 0.6) * 3.7) ** 2 < 0.46**2
    return (body | top).astype(np.float32), patch.noise.cell(a, b)


def balconies(patch: Patch) -> tuple[Values, Values]:
    """Doors behind balconies at irregular distances."""
    b = patch.b / 2.8
    a = patch.a / 4.6 + 0.3 * np.floor(b) + 3 * patch.key
    inside = (a % 1.0 > 0.1) & (a % 1.0 < 0.42) & (b % 1.0 < 0.74) & (b > 0.2)
    return inside.astype(np.float32), patch.noise.cell(a, b)


TEXTURES = (
    *(cobbles, tar_seams, hexagons, weathered_boards, checker_panels, brush_strokes, dry_tussocks, mesh),
    *(mackerel_sky, banded_sky),
)
FACADES = (ribbon_windows, round_arches, balconies)
