"""Training views per second from PNG files of the size of GTA5's, beside torchvision's own pipeline on the same files.

Both read image and label, resize by a random factor of 0.5 to 2, crop 768x768 (padding 0 and 255), distort colours with
the published ranges and flip, in two reading processes with one thread each, as `torch.utils.data.DataLoader` starts
them. Rounds of the providers alternate, so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from attrs import frozen
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import io, tv_tensors
from torchvision.transforms import v2

from benchmarks.rows import row
from clouds.core.images import write_png
from clouds.core.labels import CITYSCAPES
from clouds.data.folder import open_dataset
from clouds.training.recipe import load_recipe
from clouds.training.samples import SampleReader, batches

WORKERS, BATCH = 2, 4


@frozen(kw_only=True)
class Load:
    """How much is read: files of `size` (height, width) pixels, `images` of them in each of `rounds`."""

    size: tuple[int, int] = (1052, 1914)
    crop: int = 768
    files: int = 16
    images: int = 64
    rounds: int = 7


class TorchvisionReader(TorchDataset[Any]):
    """torchvision's v2 transforms; pictures are decoded by torchvision into tensors, or by Pillow."""

    def __init__(self, folder: Path, load: Load, decoder: Literal["io", "PIL"]) -> None:
        self.files = sorted((folder / "images" / "train").iterdir())
        self.decoder = decoder
        self.transforms = v2.Compose(
            [
                v2.ScaleJitter(target_size=load.size, scale_range=(0.5, 2.0), antialias=True),
                v2.RandomCrop(load.crop, pad_if_needed=True, fill={tv_tensors.Mask: 255, "others": 0}),
                # the published ranges: 32 of 255, 0.5 to 1.5, 36 of 360 degrees
                v2.RandomPhotometricDistort((1 - 32 / 255, 1 + 32 / 255), (0.5, 1.5), (0.5, 1.5), (-0.1, 0.1)),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
            ]
        )

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> Any:
        image = self.files[index % len(self.files)]
        label = image.parents[2] / "labels" / "train" / image.name
        if self.decoder == "io":
            decoded = [io.decode_image(str(path)) for path in (image, label)]
            pair: tuple[Any, Any] = tv_tensors.Image(decoded[0]), tv_tensors.Mask(decoded[1])
        else:
            with Image.open(label) as picture:
                mask = tv_tensors.Mask(np.array(picture))
            with Image.open(image) as picture:
                pair = picture.convert("RGB"), mask
        return self.transforms(*pair)


def run(load: Load | None = None) -> list[dict[str, Any]]:
    """Rows of images per second for each provider, and ours over each peer, from the same rounds."""
    load = load or Load()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = _write_files(folder, load)
        providers: dict[str, Callable[[], None]] = {
            "clouds": lambda: _consume_ours(folder, load),
            f"torchvision {version('torchvision')}, io": lambda: _consume_theirs(folder, load, "io"),
            f"torchvision {version('torchvision')}, PIL": lambda: _consume_theirs(folder, load, "PIL"),
        }
        speeds: dict[str, list[float]] = {provider: [] for provider in providers}
        for _ in range(load.rounds):
            for provider, consume in providers.items():
                start = time.perf_counter()
                consume()
                speeds[provider].append(load.images / (time.perf_counter() - start))
    facts = {
        "shape": list(load.size),
        "crop": load.crop,
        "workers": WORKERS,
        "megabytes_per_file": round(size / 1e6, 2),
    }
    rows = [row("loading", provider, "views", "images/s", values, **facts) for provider, values in speeds.items()]
    for peer in list(providers)[1:]:
        ratios = [mine / theirs for mine, theirs in zip(speeds["clouds"], speeds[peer], strict=True)]
        rows.append(row("loading", "clouds", "times faster", "x", ratios, peer=peer, **facts))
    return rows


def _consume_ours(folder: Path, load: Load) -> None:
    """The released settings, as training reads them."""
    given = [f"data.source=folder:{folder}:train", f"data.crop=[{load.crop},{load.crop}]"]
    data = load_recipe("gta-convnext-l", given).data
    reader = SampleReader([open_dataset(data.source[0], CITYSCAPES)], (), data.augmentation(), seed=0)
    for _ in batches(reader, factors=[1.0], batch_size=BATCH, steps=load.images // BATCH, workers=WORKERS):
        pass


def _consume_theirs(folder: Path, load: Load, decoder: Literal["io", "PIL"]) -> None:
    reader = TorchvisionReader(folder, load, decoder)
    order = torch.randint(1 << 30, (load.images,)).tolist()
    for _ in DataLoader(reader, batch_size=BATCH, sampler=order, num_workers=WORKERS, collate_fn=list):
        pass


def _write_files(folder: Path, load: Load) -> float:
    """Pictures of smooth areas with edges and grain, which compress about as renderings do; returns bytes per image."""
    rng = np.random.default_rng(0)
    height, width = load.size
    for index in range(load.files):
        coarse = rng.integers(0, 19, (height // 64 + 2, width // 64 + 2), np.uint8)
        label = coarse.repeat(64, 0).repeat(64, 1)[:height, :width]
        tint = Image.fromarray(rng.integers(0, 256, (9, 16, 3), np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        grain = rng.normal(0, 2, (height, width, 1))
        image = np.clip(0.7 * np.asarray(tint) + 4.0 * label[..., None] + grain, 0, 255).astype(np.uint8)
        write_png(folder / "images" / "train" / f"{index}.png", image)
        write_png(folder / "labels" / "train" / f"{index}.png", label)
    return float(np.mean([path.stat().st_size for path in (folder / "images" / "train").iterdir()]))
