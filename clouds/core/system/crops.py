"""Random crops of pictures, for images that are made from a list of pictures."""

from __future__ import annotations

import numpy as np

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the picture
_LEAST_SHARE = 0.5  # of the largest crop's sides, once a picture is shown again


def drawn_crop(seed: int, count: int, *, picture: tuple[int, int], size: tuple[int, int]) -> Box:
    """The crop that a seed shows, at a random position.

    The first `count` seeds show the largest crop of the requested aspect ratio; later ones a crop whose sides are 50 to
    100 per cent of it.

    Args:
        seed: seed of the image.
        count: number of pictures.
        picture: (height, width) of the picture.
        size: (height, width) of the image.
    """
    rng = np.random.default_rng(seed)
    scale = min(picture[0] / size[0], picture[1] / size[1])
    if seed >= count:
        scale *= rng.uniform(_LEAST_SHARE, 1.0)
    # Rounding may exceed the picture, which Pillow refuses
    rows, columns = (min(one * scale, float(most)) for one, most in zip(size, picture, strict=True))
    top, left = rng.uniform(0, 1) * (picture[0] - rows), rng.uniform(0, 1) * (picture[1] - columns)
    return left, top, left + columns, top + rows


def rounded(box: Box) -> list[float]:
    """A crop for a manifest, with three decimals."""
    return [round(side, 3) for side in box]
