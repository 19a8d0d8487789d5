"""ClassMix: half of the classes of a labelled view are pasted onto another view.

Source: Tranheden et al., "DACS: Domain Adaptation via Cross-domain Mixed Sampling", WACV 2021, section 3, after Olsson
et al., "ClassMix", WACV 2021.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from clouds.core.contract.labels import IGNORE_ID


def draw_classes(label_map: UInt8[np.ndarray, "h w"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w"]:
    """Keep half of the classes, rounded up as in the published code, and set all other pixels to 255.

    Every set of that many classes is equally likely. Ignored pixels are never kept.
    """
    classes = np.unique(label_map)
    classes = classes[classes != IGNORE_ID]
    chosen = rng.choice(classes, (len(classes) + 1) // 2, replace=False)
    return np.where(np.isin(label_map, chosen), label_map, np.uint8(IGNORE_ID))


def paste(
    image: UInt8[np.ndarray, "h w 3"], pasted: UInt8[np.ndarray, "h w"], onto: UInt8[np.ndarray, "h w 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """M x image + (1 - M) x onto, where M is 1 at the pixels that `pasted` does not ignore."""
    return np.where((pasted != IGNORE_ID)[..., None], image, onto)
