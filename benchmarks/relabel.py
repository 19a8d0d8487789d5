"""Ways to change a teacher's label map with the picture's help: our refiners, and methods of other libraries.

Peers, where installed: superpixels of scikit-image (SLIC, Felzenszwalb) that vote by label or by mean score, and the
dense CRF of pydensecrf2 (Kraehenbuehl, Koltun, "Efficient Inference in Fully Connected CRFs", NeurIPS 2011).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from attrs import frozen
from jaxtyping import Float, Int, UInt8

from clouds.core.contract.tensors import image_tensor
from clouds.core.pipeline.build import build_part


@frozen(eq=False, kw_only=True)
class Picture:
    """A picture with what a teacher says about it.

    Attributes:
        image: RGB.
        labels: the class with the highest score.
        scores: class scores, at least 0.
    """

    image: UInt8[np.ndarray, "h w 3"]
    labels: UInt8[np.ndarray, "h w"]
    scores: Float[np.ndarray, "k h w"]


Method = Callable[[Picture], np.ndarray]  # to the changed label map
Segment = Callable[[np.ndarray], np.ndarray]  # image to region numbers


def methods() -> dict[str, Method]:
    """All methods by name; those of libraries that are not installed are left out."""
    found = {
        "identity": refiner("identity"),
        "regions": refiner("regions"),
        "guided, no balance": refiner("guided", balance=0.0),
        "guided": refiner("guided"),
    }
    if find_spec("skimage"):
        library: Any = import_module("skimage.segmentation")
        slic = partial(library.slic, n_segments=1000, compactness=10, start_label=0)
        grown = partial(library.felzenszwalb, scale=200, sigma=0.8, min_size=50)
        found |= {
            "scikit-image SLIC, vote": partial(vote, segment=slic, agreement=0.6),
            "scikit-image SLIC, mean score": partial(mean_score, segment=slic),
            "scikit-image Felzenszwalb, vote": partial(vote, segment=grown, agreement=0.6),
        }
    if find_spec("pydensecrf"):
        found["pydensecrf2, dense CRF"] = dense_crf
    return found


def refiner(name: str, **options: float) -> Method:
    """A refiner of the catalog; its random choices are those of seed 0."""
    built = build_part("refiner", {"name": name, **options})

    def refine(picture: Picture) -> np.ndarray:
        image, labels = image_tensor(picture.image), torch.from_numpy(picture.labels.copy())
        (targets,) = built.refine([image], [labels], rngs=[np.random.default_rng(0)])
        return targets.to_label_map().numpy()

    return refine


def vote(picture: Picture, *, segment: Segment, agreement: float) -> UInt8[np.ndarray, "h w"]:
    """Give each region its most frequent label if at least a share of `agreement` has it."""
    regions = segment(picture.image)
    votes = _sums(regions, [picture.labels == label for label in range(len(picture.scores))])
    agreed = votes.max(axis=1) >= agreement * votes.sum(axis=1)
    return np.where(agreed[regions], votes.argmax(axis=1)[regions], picture.labels).astype(np.uint8)


def mean_score(picture: Picture, *, segment: Segment) -> UInt8[np.ndarray, "h w"]:
    """Give each region the class with the highest mean share of the scores."""
    regions = segment(picture.image)
    shares = picture.scores / picture.scores.sum(axis=0)
    return _sums(regions, list(shares)).argmax(axis=1)[regions].astype(np.uint8)


def dense_crf(picture: Picture) -> UInt8[np.ndarray, "h w"]:
    """Ten mean-field steps from labels that are right with probability 0.7.

    The pairwise terms have deviations of 3 px, and of 60 px together with 10 of colour (0..255).
    """
    library: Any = import_module("pydensecrf.densecrf")
    height, width = picture.labels.shape
    present = np.unique(picture.labels)
    right = picture.labels.reshape(-1) == present[:, None]
    energy = -np.log(np.where(right, 0.7, 0.3 / max(1, len(present) - 1))).astype(np.float32)
    field = library.DenseCRF2D(width, height, len(present))
    field.setUnaryEnergy(np.ascontiguousarray(energy))
    field.addPairwiseGaussian(sxy=3, compat=3)
    field.addPairwiseBilateral(sxy=60, srgb=10, rgbim=np.ascontiguousarray(picture.image), compat=5)
    return present[np.array(field.inference(10)).argmax(axis=0)].reshape(height, width)


def _sums(regions: Int[np.ndarray, "h w"], planes: list[np.ndarray]) -> Float[np.ndarray, "r k"]:
    """Sum of each plane "h w" within each region."""
    flat = regions.ravel()
    return np.stack([np.bincount(flat, weights=plane.ravel()) for plane in planes], axis=1)
