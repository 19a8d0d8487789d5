"""Training views per second from PNG files of GTA5's size, compared with torchvision's transforms on the same files.

Both read image and label, resize by a random factor of 0.5 to 2, crop 768x768 (padding 0 and 255), distort colours in
the published ranges and flip, in two data loader processes with one thread each. Rounds of the providers alternate, so
that other load affects all of them.
"""

from __future__ import annotations

import resource
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import frozen
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from benchmarks.rows import row
from clouds.core.contract.labels import CITYSCAPES
from clouds.core.system.images import write_png
from clouds.data.folder import open_dataset
from clouds.training.recipe import load_recipe
from clouds.training.samples import SampleReader, batches

WORKERS, BATCH = 2, 4


@frozen(kw_only=True)
class Load:
    """Amount of work: `images` files of `size` (height, width) pixels in each of `rounds`."""

    size: tuple[int, int] = (1052, 1914)
    crop: int = 768
    files: int = 16
    images: int = 64
    rounds: int = 7


class TorchvisionReader(TorchDataset[Any]):
    """torchvision's v2 transforms on images decoded by Pillow, as in torchvision's own datasets.

    Its decoder to tensors is deprecated since 0.29 and not measured.
    """

    def __init__(self, folder: Path, load: Load) -> None:
        self.files = sorted((folder / "images" / "train").iterdir())
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
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        file = self.files[index]
        with Image.open(file.parents[2] / "labels" / "train" / file.name) as picture:
            label = tv_tensors.Mask(np.array(picture))
        with Image.open(file) as picture:
            return self.transforms(picture.convert("RGB"), label)


def run(load: Load | None = None) -> list[dict[str, Any]]:
    """Rows of views per second and of the loader processes' CPU time for each provider, and our ratio to the peer."""
    load = load or Load()
    peer = f"torchvision {version('torchvision')}"
    readers = {"clouds": _consume_ours, peer: _consume_theirs}
    speeds: dict[str, list[float]] = {provider: [] for provider in readers}
    burdens: dict[str, list[float]] = {provider: [] for provider in readers}
    with tempfile.TemporaryDirectory() as name:
        size = _write_files(Path(name), load)
        for seed in range(load.rounds):
            for provider, consume in readers.items():
                start, before = time.perf_counter(), _cpu_of_children()
                consume(Path(name), load, seed)
                speeds[provider].append(load.images / (time.perf_counter() - start))
                burdens[provider].append(1000 * (_cpu_of_children() - before) / load.images)
    facts = {
        "shape": list(load.size),
        "crop": load.crop,
        "workers": WORKERS,
        "megabytes_per_file": round(size / 1e6, 2),
    }
    rows = [row("loading", provider, "views", "images/s", values, **facts) for provider, values in speeds.items()]
    rows += [
        row("loading", provider, "CPU time per view", "ms", values, **facts) for provider, values in burdens.items()
    ]
    ratios = [mine / theirs for mine, theirs in zip(speeds["clouds"], speeds[peer], strict=True)]
    saved = [theirs / mine for mine, theirs in zip(burdens["clouds"], burdens[peer], strict=True)]
    rows.append(row("loading", "clouds", "views, times faster", "x", ratios, peer=peer, **facts))
    rows.append(row("loading", "clouds", "CPU time, times less", "x", saved, peer=peer, **facts))
    return rows


def _cpu_of_children() -> float:
    """CPU-seconds of ended child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _consume_ours(folder: Path, load: Load, seed: int) -> None:
    """Read views as in training, with the released settings."""
    given = [f"data.source=folder:{folder}:train", f"data.crop=[{load.crop},{load.crop}]"]
    data = load_recipe("gta-convnext-l", given).data
    reader = SampleReader([open_dataset(data.source[0], CITYSCAPES)], (), data.augmentation(), seed=seed)
    for _ in batches(reader, factors=[1.0], batch_size=BATCH, steps=load.images // BATCH, workers=WORKERS):
        pass


def _consume_theirs(folder: Path, load: Load, seed: int) -> None:
    reader, generator = TorchvisionReader(folder, load), torch.Generator().manual_seed(seed)
    order = torch.randint(len(reader), (load.images,), generator=generator).tolist()
    loader = DataLoader(
        reader, batch_size=BATCH, sampler=order, num_workers=WORKERS, collate_fn=list, generator=generator
    )
    for _ in loader:
        pass


def _write_files(folder: Path, load: Load) -> float:
    """Write images with smooth areas, edges and grain, which compress about like renders; return bytes per image."""
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
