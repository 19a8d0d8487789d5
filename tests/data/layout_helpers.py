"""Small trees in the layouts of published data sets, as their archives unpack, with the files that lie beside."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from attrs import frozen
from folder_helpers import save
from PIL import Image

Write = Callable[[Path, np.ndarray], None]


def write_grey(path: Path, ids: np.ndarray) -> None:
    save(path, ids)


def write_palette(path: Path, ids: np.ndarray) -> None:
    """Indices with a palette, as GTA5 and Mapillary Vistas have them."""
    picture = Image.fromarray(ids).convert("L")
    picture = Image.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette([(7 * value) % 256 for value in range(768)])
    save(path, picture)


def write_deep(path: Path, ids: np.ndarray) -> None:
    """A PNG of three channels of 16 bits: class, instance, nothing, as SYNTHIA has them. Pillow cannot write it."""
    height, width = ids.shape
    channels = np.stack([ids, np.full(ids.shape, 777), np.zeros(ids.shape)], axis=-1).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in channels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    )


@frozen(kw_only=True)
class Tree:
    """A published layout: where the files of NAME lie ("{}"), and how ids are stored.

    `ids` are raw values and `train_ids` what they mean; `unknown` is a value that the data set does not have.
    """

    kind: str
    image: str
    label: str
    names: tuple[str, ...]
    ids: tuple[int, ...]
    train_ids: tuple[int, ...]
    unknown: int
    split: str = "train"
    beside: tuple[str, ...] = ()
    write: Write = write_grey

    def add(self, root: Path, name: str, ids: np.ndarray | None = None) -> tuple[Path, Path]:
        """Write a pair, and what else lies there."""
        image, label = root / self.image.format(name), root / self.label.format(name)
        values = np.array([self.ids, self.ids[::-1]], np.uint8) if ids is None else ids
        save(image, np.full((*values.shape, 3), 90, np.uint8))
        self.write(label, values)
        for other in self.beside:
            save(root / other.format(name), np.full((1, 1, 3), 9, np.uint8))
        return image, label

    def fill(self, root: Path) -> list[tuple[Path, Path]]:
        return [self.add(root, name) for name in self.names]

    @property
    def shown(self) -> tuple[str, ...]:
        """NAMEs without the folders between."""
        return tuple(name.rpartition("/")[2] for name in self.names)


def _acdc(condition: str) -> Tree:
    return Tree(
        kind=f"acdc-{condition}",
        image=f"rgb_anon/{condition}/val/{{}}_rgb_anon.png",
        label=f"gt/{condition}/val/{{}}_gt_labelIds.png",
        names=("GOPR0476/GOPR0476_frame_000854", "GP010476/GP010476_frame_000001"),
        ids=(7, 0, 33),
        train_ids=(0, 255, 18),
        unknown=34,
        split="val",
        beside=(
            f"gt/{condition}/val/{{}}_gt_labelTrainIds.png",
            f"gt/{condition}/val/{{}}_gt_labelColor.png",
            f"gt/{condition}/val/{{}}_gt_invGray.png",
            f"rgb_anon/{condition}/val_ref/{{}}_rgb_ref_anon.png",
        ),
    )


def _bdd100k(image: str, label: str) -> Tree:
    return Tree(
        kind="bdd100k",
        image=image,
        label=label,
        names=("7d06fefd-f7be05a6", "808ff399-54ea36d7"),
        ids=(0, 255, 18),
        train_ids=(0, 255, 18),
        unknown=19,
        split="val",
        beside=("labels/sem_seg/colormaps/val/{}.png", "images/100k/val/{}.jpg"),
    )


def _mapillary(labels: str) -> Tree:
    return Tree(
        kind="mapillary",
        image="validation/images/{}.jpg",
        label=f"validation/{labels}/{{}}.png",
        names=("-1kqLeyUwHW6PyZEnbJIWA", "03G8WHFnNfiJR-457i0MWQ"),
        ids=(13, 65, 52),
        train_ids=(0, 255, 18),
        unknown=66,
        split="val",
        beside=("validation/instances/{}.png", "validation/v2.0/labels/{}.png"),
        write=write_palette,
    )


TREES = {
    "gta5": Tree(
        kind="gta5",
        image="images/{}.png",
        label="labels/{}.png",
        names=("00001", "24966"),
        ids=(7, 0, 34),
        train_ids=(0, 255, 255),
        unknown=35,
        beside=("labels/{}_labelTrainIds.png",),
        write=write_palette,
    ),
    "synthia": Tree(
        kind="synthia",
        image="RGB/{}.png",
        label="GT/LABELS/{}.png",
        names=("0000000", "0009399"),
        ids=(3, 22, 21),
        train_ids=(0, 255, 3),
        unknown=23,
        beside=("GT/LABELS/{}_labelTrainIds.png", "GT/COLOR/{}.png", "Depth/Depth/{}.png"),
        write=write_deep,
    ),
    "cityscapes": Tree(
        kind="cityscapes",
        image="leftImg8bit/train/{}_leftImg8bit.png",
        label="gtFine/train/{}_gtFine_labelIds.png",
        names=("aachen/aachen_000000_000019", "zurich/zurich_000121_000019"),
        ids=(7, 29, 33),
        train_ids=(0, 255, 18),
        unknown=34,
        beside=("gtFine/train/{}_gtFine_color.png", "gtFine/train/{}_gtFine_labelTrainIds.png"),
    ),
    "bdd100k": _bdd100k("images/10k/val/{}.jpg", "labels/sem_seg/masks/val/{}.png"),
    "bdd100k-older": _bdd100k("seg/images/val/{}.jpg", "seg/labels/val/{}_train_id.png"),
    "mapillary": _mapillary("labels"),
    "mapillary-newer": _mapillary("v1.2/labels"),
    **{f"acdc-{condition}": _acdc(condition) for condition in ("fog", "night", "rain", "snow")},
}
