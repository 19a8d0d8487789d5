"""A camera above a road that may bend.

World coordinates in metres: x to the right of the own lane's middle, y up from the ground, z ahead of the camera.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from attrs import frozen
from jaxtyping import Float, Float32

FAR = 400.0  # metres; farther objects are drawn at this distance
NEAR = 0.5
Metres = TypeVar("Metres", float, np.ndarray)


@frozen(kw_only=True)
class Camera:
    """Pinhole camera looking straight ahead.

    Attributes:
        height: metres above the ground.
        focal: focal length as a fraction of the picture's width.
        horizon: row of the horizon as a fraction of the picture's height, from the top.
        curvature: curvature of the road in 1/m; points at distance z are shifted right by curvature * z^2 / 2.
    """

    height: float
    focal: float
    horizon: float
    curvature: float

    def bend(self, z: Metres) -> Metres:
        """Shift to the right of the road at distance z, in metres."""
        return 0.5 * self.curvature * z * z

    def project(self, points: Float[np.ndarray, "n 3"], size: tuple[int, int]) -> Float[np.ndarray, "n 2"]:
        """Continuous pixel coordinates (column, row) of world points with z > 0; pixel i covers i..i+1."""
        height, width = size
        x, y, z = points.T
        scale = self.focal * width / z
        columns = width / 2 + (x + self.bend(z)) * scale
        return np.stack([columns, self.horizon * height + (self.height - y) * scale], axis=1)

    def rays(self, size: tuple[int, int]) -> tuple[Float32[np.ndarray, "1 w"], Float32[np.ndarray, "h 1"]]:
        """Slopes of the rays through the pixel centres: right per metre ahead, and down per metre ahead."""
        height, width = size
        focal = self.focal * width
        right = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / focal
        down = (np.arange(height, dtype=np.float32) + 0.5 - self.horizon * height) / focal
        return right[None].astype(np.float32), down[:, None].astype(np.float32)
