"""Small trees in the layouts of published data sets, as their archives unpack, with the files that lie beside."""

from __future__ import annotations

import json
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


def write_red(path: Path, ids: np.ndarray) -> None:
    """The class in the red channel of an RGBA picture, as SHIFT has it; the others say something else."""
    save(path, np.stack([ids, ids + 100, ids * 2, np.full_like(ids, 255)], axis=-1))


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


def write_thousands(path: Path, ids: np.ndarray) -> None:
    """Values of 16 bits, class * 1000 + instance for cars and persons, as Cityscapes has them."""
    save(path, Image.fromarray(np.where(ids >= 24, ids.astype(np.uint16) * 1000 + 2, ids)))


def write_products(path: Path, ids: np.ndarray) -> None:
    """Values of 16 bits, class * 256 + instance, as Mapillary Vistas has them."""
    save(path, Image.fromarray(ids.astype(np.uint16) * 256 + 1))


def write_coco(path: Path, ids: np.ndarray) -> None:
    """One segment per category: an RGB picture of segment ids, which a JSON beside the folder describes."""
    infos = [{"id": 70_000 + one, "category_id": one, "iscrowd": 0} for one in np.unique(ids).tolist() if one]
    write_segments(path, np.where(ids > 0, 70_000 + ids.astype(np.int32), 0), infos)


def write_segments(path: Path, segments: np.ndarray, infos: list[dict[str, int]]) -> None:
    """An RGB picture of segment ids, and its annotation in the JSON beside the folder."""
    channels = [segments % 256, segments // 256 % 256, segments // 65536]
    save(path, np.stack(channels, axis=-1).astype(np.uint8))
    index = path.parent.with_name(f"{path.parent.name}.json")
    document = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {"annotations": []}
    document["annotations"].append({"file_name": path.name, "image_id": 7, "segments_info": infos})
    index.write_text(json.dumps(document), encoding="utf-8")


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
    grouped_names: bool = False

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
        """NAMEs without the folders between, or with them where other folders have files of the same name."""
        return tuple(self.show(name) for name in self.names)

    def show(self, name: str) -> str:
        return name.replace("/", "_") if self.grouped_names else name.rpartition("/")[2]


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


def _mapillary(labels: str, kind: str = "mapillary") -> Tree:
    return Tree(
        kind=kind,
        image="validation/images/{}.jpg",
        label=f"validation/{labels}/{{}}.png",
        names=("-1kqLeyUwHW6PyZEnbJIWA", "03G8WHFnNfiJR-457i0MWQ"),
        ids=(13, 65, 52),
        train_ids=(0, 255, 18),
        unknown=66,
        split="val",
        beside=("validation/panoptic/{}.png", "validation/v2.0/labels/{}.png"),
        write=write_palette if kind == "mapillary" else write_products,
    )


def _mapillary_v2(kind: str, folder: str, write: Write) -> Tree:
    return Tree(
        kind=kind,
        image="training/images/{}.jpg",
        label=f"training/v2.0/{folder}/{{}}.png",
        names=("-1kqLeyUwHW6PyZEnbJIWA", "03G8WHFnNfiJR-457i0MWQ"),
        ids=(21, 123, 105),
        train_ids=(0, 255, 18),
        unknown=124,
        beside=("training/v1.2/labels/{}.png", "training/v2.0/panoptic/{}.png"),
        write=write,
    )


def _idd(id_type: str, ids: tuple[int, ...], train_ids: tuple[int, ...], unknown: int) -> Tree:
    return Tree(
        kind="idd" if id_type == "csTrainId" else "idd-level3",
        image="leftImg8bit/val/{}_leftImg8bit.png",
        label=f"gtFine/val/{{}}_gtFine_label{id_type}s.png",
        names=("119/frame0029", "201/frame0029"),
        ids=ids,
        train_ids=train_ids,
        unknown=unknown,
        split="val",
        beside=("gtFine/val/{}_gtFine_labelColors.png", f"gtFine/val/{{}}_gtFine_instance{id_type}s.png"),
        grouped_names=True,
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
    "cityscapes-panoptic": Tree(
        kind="cityscapes-panoptic",
        image="leftImg8bit/train/{}_leftImg8bit.png",
        label="gtFine/train/{}_gtFine_instanceIds.png",
        names=("aachen/aachen_000000_000019", "zurich/zurich_000121_000019"),
        ids=(7, 29, 33),
        train_ids=(0, 255, 18),
        unknown=34,
        beside=("gtFine/train/{}_gtFine_color.png", "gtFine/train/{}_gtFine_labelIds.png"),
        write=write_thousands,
    ),
    "bdd100k": _bdd100k("images/10k/val/{}.jpg", "labels/sem_seg/masks/val/{}.png"),
    "bdd100k-older": _bdd100k("seg/images/val/{}.jpg", "seg/labels/val/{}_train_id.png"),
    "mapillary": _mapillary("labels"),
    "mapillary-newer": _mapillary("v1.2/labels"),
    "mapillary-v2.0": _mapillary_v2("mapillary-v2.0", "labels", write_palette),
    "mapillary-panoptic": _mapillary("instances", "mapillary-panoptic"),
    "mapillary-panoptic-newer": _mapillary("v1.2/instances", "mapillary-panoptic"),
    "mapillary-v2.0-panoptic": _mapillary_v2("mapillary-v2.0-panoptic", "instances", write_products),
    "coco-panoptic": Tree(
        kind="coco-panoptic",
        image="train2017/{}.jpg",
        label="annotations/panoptic_train2017/{}.png",
        names=("000000000009", "000000581929"),
        ids=(149, 0, 2),
        train_ids=(0, 255, 18),
        unknown=201,
        beside=("val2017/{}.jpg", "annotations/panoptic_val2017/{}.png"),
        write=write_coco,
    ),
    "urbansyn": Tree(
        kind="urbansyn",
        image="rgb/rgb_{}.png",
        label="ss/ss_{}.png",
        names=("0001", "7539"),
        ids=(0, 19, 18),
        train_ids=(0, 255, 18),
        unknown=20,
        beside=("ss_color/ss_color_{}.png", "depth/depth_{}.png"),
    ),
    "idd": _idd("csTrainId", (0, 255, 9), (0, 255, 9), 19),
    "idd-level3": _idd("level3Id", (0, 255, 3), (0, 255, 9), 26),
    "dark-zurich": Tree(
        kind="dark-zurich",
        image="rgb_anon/val/night/{}_rgb_anon.png",
        label="gt/val/night/{}_gt_labelTrainIds.png",
        names=("GOPR0356/GOPR0356_frame_000321", "GOPR0356/GOPR0356_frame_000324"),
        ids=(0, 255, 18),
        train_ids=(0, 255, 18),
        unknown=33,
        split="val",
        beside=("gt/val/night/{}_gt_labelColor.png", "gt/val/night/{}_gt_invGray.png"),
    ),
    "wilddash2": Tree(
        kind="wilddash2",
        image="images/{}.jpg",
        label="semantic/{}_labelIds.png",
        names=("aa0000_100000", "zm0001_100000"),
        ids=(7, 14, 35),
        train_ids=(0, 255, 13),
        unknown=81,
        split="val",
        beside=("panoptic/{}.png", "semantic/{}_instanceIds.png"),
    ),
    "shift": Tree(
        kind="shift",
        image="discrete/images/val/front/img/{}_img_front.jpg",
        label="discrete/images/val/front/semseg/{}_semseg_front.png",
        names=("007b-4e72/00000000", "0116-4859/00000000"),
        ids=(7, 0, 10),
        train_ids=(0, 255, 13),
        unknown=23,
        split="val",
        beside=("discrete/images/val/front/depth/{}_depth_front.png",),
        write=write_red,
        grouped_names=True,
    ),
    **{f"acdc-{condition}": _acdc(condition) for condition in ("fog", "night", "rain", "snow")},
}
