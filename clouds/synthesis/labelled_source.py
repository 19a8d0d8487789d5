"""Labelled images from which generators make others."""

from __future__ import annotations

import hashlib
from typing import Any, final

import numpy as np
from attrs import evolve
from PIL import Image

from clouds.core.contract.labels import LabelSpace
from clouds.core.contract.records import LabelledImage
from clouds.core.system.crops import drawn_crop, rounded
from clouds.core.weights.download import sha256_of
from clouds.data.folder import Dataset, open_dataset


@final
class LabelledSource:
    """Crops of a labelled dataset.

    Seed s shows image s mod N of the N images in sorted order, cropped as by `clouds.core.system.crops.drawn_crop`.

    Args:
        dataset: the labelled images.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    @classmethod
    def open(cls, spec: str, label_space: LabelSpace) -> LabelledSource:
        """Open a dataset by its SPEC, with labels in a label space. Raises as `clouds.data.folder.open_dataset`."""
        return cls(open_dataset(spec, label_space, default_split="train"))

    def draw(self, seed: int, size: tuple[int, int]) -> LabelledImage:
        """The crop of a seed, resized to (height, width): the image by Lanczos, labels by their nearest pixel.

        Raises:
            DataError: a file cannot be read, or image and label differ in size.
        """
        (height, width), count = size, len(self.dataset)
        item = self.dataset.items[seed % count]
        image, labels = self.dataset.read(seed % count)
        box = drawn_crop(seed, count, picture=(image.shape[0], image.shape[1]), size=size)
        shown, marked = (
            np.asarray(Image.fromarray(pixels).resize((width, height), how, box=box))
            for pixels, how in ((image, Image.Resampling.LANCZOS), (labels, Image.Resampling.NEAREST))
        )
        origin = {"file": str(item.image.absolute()), "sha256": sha256_of(item.image), "crop": rounded(box)}
        return LabelledImage(image=shown, labels=marked, label_space=self.dataset.label_space, origin=origin)

    def describe(self) -> dict[str, Any]:
        """SPEC, number of images, a hash of their names, and the classes of the labels, for manifests."""
        spec = evolve(self.dataset.spec, path=self.dataset.spec.path.absolute())
        names = "\n".join(item.name for item in self.dataset.items)
        return {
            "spec": str(spec),
            "images": len(self.dataset),
            "names": hashlib.sha256(names.encode()).hexdigest(),
            "classes": list(self.dataset.label_space.names),
        }
