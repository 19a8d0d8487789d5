"""Textures and window patterns of the procedural generator."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from clouds.streets.records import Patch

Values = Float32[np.ndarray, " n"]


def fine_grain(patch: Patch) -> Values:
    """Asphalt, concrete: grain of a few centimetres on broad stains."""
    return 0.88 + 0.14 * patch.noise(patch.a * 5, patch.b * 5) + 0.12 * patch.noise(patch.a * 0.4, patch.b * 0.15)


def wheel_ruts(patch: Patch) -> Values:
    """Darker tracks along the road, with stains."""
    return 0.97 + 0.07 * np.cos(patch.a * 3.6) - 0.14 * patch.noise(patch.a * 0.8, patch.b * 0.1)


def square_slabs(patch: Patch) -> Values:
    """Slabs of 60 cm with dark joints, each with its own tone."""
    a, b = patch.a / 0.6, patch.b / 0.6
    joint = ((a % 1.0) < 0.08) | ((b % 1.0) < 0.08)
    tone = 0.9 + 0.2 * patch.noise.cell(a, b)
    return np.where(joint, 1.0 - 0.3 * _visible(patch, 0.6), tone)


def brick_courses(patch: Patch) -> Values:
    """Rows of bricks, every other row shifted by half a brick."""
    row = np.floor(patch.b / 0.3)
    column = patch.a / 0.7 + 0.5 * (row % 2)
    joint = ((column % 1.0) < 0.1) | ((patch.b / 0.3 % 1.0) < 0.16)
    return np.where(joint, 1.0 - 0.28 * _visible(patch, 0.5), 0.88 + 0.2 * patch.noise.cell(column, row))


def rough_plaster(patch: Patch) -> Values:
    """Blotches of half a metre, streaks from above."""
    blotch = patch.noise(patch.a * 1.7 + 31 * patch.key, patch.b * 1.7)
    return 0.86 + 0.16 * blotch + 0.1 * patch.noise(patch.a * 3, patch.b * 0.2)


def floor_bands(patch: Patch) -> Values:
    """A lighter band at each storey."""
    return np.where((patch.b + patch.key) / 3.0 % 1.0 < 0.18, 1.15, 0.96 + 0 * patch.b)


def leaf_clumps(patch: Patch) -> Values:
    """Light and dark clumps of leaves."""
    clump = patch.noise(patch.a * 2.3, patch.b * 2.3 + 17 * patch.key)
    return 0.66 + 0.5 * clump + 0.2 * patch.noise(patch.a * 7, patch.b * 7)


def leaf_speckle(patch: Patch) -> Values:
    """Small leaves against the light."""
    return 0.72 + 0.56 * patch.noise(patch.a * 6 + 40 * patch.key, patch.b * 6)


def mown_grass(patch: Patch) -> Values:
    """Tufts on mown stripes."""
    stripes = 0.05 * np.sin(patch.a * 1.3 + 6 * patch.key)
    return 0.82 + stripes + 0.35 * patch.noise(patch.a * 1.5, patch.b * 0.9)


def upright_slats(patch: Patch) -> Values:
    """Boards or bars of 30 cm with dark gaps."""
    gap = (patch.a / 0.3 % 1.0) < 0.3
    return np.where(gap, 1.0 - 0.45 * _visible(patch, 0.35), 1.0)


def clear_gradient(patch: Patch) -> Values:
    """A sky that is lighter towards the horizon."""
    return 1.0 + 0.28 * np.exp(-6.0 * np.maximum(patch.b, 0.0)) - 0.12 * np.minimum(patch.b, 1.0)


def scattered_cumulus(patch: Patch) -> Values:
    """Clouds on a plane high above the street."""
    rise = np.maximum(patch.b, 0.02)
    cloud = patch.noise(patch.a / rise * 1.1, 0.9 / rise) * 0.65 + 0.35 * patch.noise(patch.a / rise * 3, 2.6 / rise)
    return 1.0 + 0.2 * np.exp(-6.0 * rise) + 0.5 * np.clip(cloud - 0.5, 0.0, 0.5) * np.clip(rise * 6, 0, 1)


def grid_windows(patch: Patch) -> tuple[Values, Values]:
    """Upright windows, one per 2.4 m in storeys of 3 m."""
    return _windows(patch, spacing=2.4, storey=3.0, across=(0.28, 0.72), up=(0.3, 0.82))


def wide_windows(patch: Patch) -> tuple[Values, Values]:
    """Broad office windows, one per 3.4 m in storeys of 3.4 m."""
    return _windows(patch, spacing=3.4, storey=3.4, across=(0.1, 0.9), up=(0.34, 0.84))


def slim_windows(patch: Patch) -> tuple[Values, Values]:
    """Tall narrow windows, one per 1.5 m in storeys of 3.2 m."""
    return _windows(patch, spacing=1.5, storey=3.2, across=(0.3, 0.7), up=(0.16, 0.86))


def _windows(
    patch: Patch, *, spacing: float, storey: float, across: tuple[float, float], up: tuple[float, float]
) -> tuple[Values, Values]:
    a, b = patch.a / spacing + 7 * patch.key, patch.b / storey
    inside = (a % 1.0 > across[0]) & (a % 1.0 < across[1]) & (b % 1.0 > up[0]) & (b % 1.0 < up[1]) & (b > 0.1)
    return inside.astype(np.float32), patch.noise.cell(a + 50 * patch.key, b)


def _visible(patch: Patch, period: float) -> Values:
    """1 where the resolution suffices for a pattern of this period (metres), falling to 0 where it would alias."""
    return np.clip(2.0 - 4.0 * patch.pixel / period, 0.0, 1.0)


TEXTURES = (
    *(fine_grain, wheel_ruts, square_slabs, brick_courses, rough_plaster, floor_bands, leaf_clumps, leaf_speckle),
    *(mown_grass, upright_slats, clear_gradient, scattered_cumulus),
)
FACADES = (grid_windows, wide_windows, slim_windows)

# Choices of textures by material, one per surface.
CHOICES = {
    "road": ("fine_grain", "wheel_ruts"),
    "sidewalk": ("fine_grain", "square_slabs"),
    "building": ("brick_courses", "rough_plaster", "floor_bands"),
    "roof": ("brick_courses", "rough_plaster"),
    "wall": ("brick_courses", "rough_plaster", "square_slabs"),
    "fence": ("upright_slats",),
    "leaf": ("leaf_clumps", "leaf_speckle"),
    "grass": ("mown_grass", "fine_grain"),
    "sky": ("clear_gradient", "scattered_cumulus"),
}
