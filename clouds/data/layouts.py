"""File layouts of published datasets as downloaded: one record per kind of SPEC."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Literal

from attrs import frozen

from clouds.core.system.images import EXTENSIONS

SegmentForm = Literal["", "cityscapes", "mapillary", "coco"]


@frozen(kw_only=True)
class FilePattern:
    """Location and name pattern of a set of files; the variable part of a file name is NAME.

    Attributes:
        folder: folder below the root; "<split>" stands for the split's folder.
        endings: possible text after NAME in a file name; case is ignored.
        start: text before NAME in a file name; case is ignored.
        group: meaning of the folders between `folder` and the files, or "" if there are none.
        grouped_names: files in different groups share names, so the NAME of an item is GROUP_NAME.
        skip: ending of files to ignore because other tools write them to the same folder, or "".
    """

    folder: str
    endings: tuple[str, ...]
    start: str = ""
    group: str = ""
    grouped_names: bool = False
    skip: str = ""

    def path(self, root: Path, split_folder: str) -> Path:
        """The folder with the files of a split."""
        return root / self.folder.replace("<split>", split_folder)

    def name_of(self, path: Path) -> str | None:
        """NAME of a file in Unicode's composed form (NFC), without its group; None if the file does not fit."""
        lower, start = path.name.lower(), self.start.lower()
        ending = next((one for one in self.endings if lower.endswith(one.lower())), None)
        if ending is None or not lower.startswith(start) or (self.skip and lower.endswith(self.skip.lower())):
            return None
        return unicodedata.normalize("NFC", path.name[len(start) : -len(ending)])

    def __str__(self) -> str:
        ending = self.endings[0] if len(self.endings) == 1 else f"({'|'.join(self.endings)})"
        return "/".join(part for part in (self.folder, self.group, f"{self.start}NAME{ending}") if part)


@frozen(kw_only=True)
class Layout:
    """File layout of a kind of dataset.

    Attributes:
        variants: published folder layouts: image files and label files, paired by NAME.
        splits: split -> folder; None means that each folder is a split.
        encoding: label encoding, a name for `clouds.data.encodings.label_encoding`.
        source: paper.
        download: files to download, and their address.
        misfits: NAMEs whose image and label may differ in size, and are left out if they do.
        label_tool: how to make the label files, for data that comes without them; "" if it comes with them.
        segments: form of label files that number instances, see `clouds.data.segment_files`; "" for classes alone.
            Files of COCO's form are described by a JSON file of the name of their folder, beside it.
    """

    variants: tuple[tuple[FilePattern, FilePattern], ...]
    splits: dict[str, str] | None
    encoding: str
    source: str
    download: str
    misfits: tuple[str, ...] = ()
    label_tool: str = ""
    segments: SegmentForm = ""

    def __str__(self) -> str:
        variants = ", or ".join(f"{images} and {labels}" for images, labels in self.variants)
        return f"{variants}; {self.label_tool} makes the label files" if self.label_tool else variants


_SPLITS = {name: name for name in ("train", "val", "test")}
_OTHER_TOOLS = "_labelTrainIds.png"  # train ids that other projects' converters write beside the originals


def _acdc(condition: str) -> Layout:
    images = FilePattern(folder=f"rgb_anon/{condition}/<split>", group="<recording>", endings=("_rgb_anon.png",))
    labels = FilePattern(folder=f"gt/{condition}/<split>", group="<recording>", endings=("_gt_labelIds.png",))
    return Layout(
        variants=((images, labels),),
        splits=_SPLITS,
        encoding="cityscapes",
        source="Sakaridis et al., ACDC, ICCV 2021",
        download="rgb_anon_trainvaltest.zip and gt_trainval.zip of https://acdc.vision.ee.ethz.ch",
    )


def _idd(id_type: str, encoding: str) -> Layout:
    ending = f"_gtFine_label{id_type}s.png"
    images = FilePattern(
        folder="leftImg8bit/<split>",
        group="<drive>",
        grouped_names=True,
        endings=("_leftImg8bit.png", "_leftImg8bit.jpg"),  # parts I and II of IDD-20k
    )
    labels = FilePattern(folder="gtFine/<split>", group="<drive>", grouped_names=True, endings=(ending,))
    return Layout(
        variants=((images, labels),),
        splits=_SPLITS,
        encoding=encoding,
        source="Varma et al., IDD, WACV 2019",
        download="IDD Segmentation of https://idd.insaan.iiit.ac.in",
        label_tool=f"`python preperation/createLabels.py --datadir FOLDER --id-type {id_type}` of "
        "https://github.com/AutoNUE/public-code",
    )


def _mapillary(version: str, encoding: str, folder: str, *folders: str, segments: SegmentForm = "") -> Layout:
    images = FilePattern(folder="<split>/images", endings=(".jpg",))
    labels = (FilePattern(folder=f"<split>/{one}", endings=(".png",)) for one in (folder, *folders))
    return Layout(
        variants=tuple((images, one) for one in labels),
        splits={"train": "training", "val": "validation", "test": "testing"},
        encoding=encoding,
        source="Neuhold et al., Mapillary Vistas, ICCV 2017" + ("; version 2.0 of 2021" if version == "2.0" else ""),
        download=f"the research edition with labels of v{version}, https://www.mapillary.com/dataset/vistas",
        segments=segments,
    )


def _cityscapes(labels: str, *, segments: SegmentForm = "") -> Layout:
    return Layout(
        variants=(
            (
                FilePattern(folder="leftImg8bit/<split>", group="<city>", endings=("_leftImg8bit.png",)),
                FilePattern(folder="gtFine/<split>", group="<city>", endings=(f"_gtFine_{labels}.png",)),
            ),
        ),
        splits=_SPLITS,
        encoding="cityscapes",
        source="Cordts et al., The Cityscapes Dataset, CVPR 2016",
        download="leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of https://www.cityscapes-dataset.com",
        segments=segments,
    )


def _shift(group: str, suffix: str) -> FilePattern:
    return FilePattern(
        folder=f"discrete/images/<split>/front/{group}",
        group="<sequence>",
        grouped_names=True,
        endings=(f"_{group}_front{suffix}",),
    )


LAYOUTS: dict[str, Layout] = {
    "folder": Layout(
        variants=(
            (
                FilePattern(folder="images/<split>", endings=EXTENSIONS),
                FilePattern(folder="labels/<split>", endings=(".png",)),
            ),
        ),
        splits=None,
        encoding="trainIds",
        source="anyone's own data",
        download="your own files; dataset.toml says how labels are encoded",
    ),
    "gta5": Layout(
        variants=(
            (
                FilePattern(folder="images", endings=(".png",)),
                FilePattern(folder="labels", endings=(".png",), skip=_OTHER_TOOLS),
            ),
        ),
        splits={"train": ""},
        encoding="gta5",
        source="Richter et al., Playing for Data, ECCV 2016",
        download="all ten parts of images and labels of https://download.visinf.tu-darmstadt.de/data/from_games",
        misfits=("15188", "17705"),  # the images lack some rows
    ),
    "synthia": Layout(
        variants=(
            (
                FilePattern(folder="RGB", endings=(".png",)),
                FilePattern(folder="GT/LABELS", endings=(".png",), skip=_OTHER_TOOLS),
            ),
        ),
        splits={"train": ""},
        encoding="synthia",
        source="Ros et al., The SYNTHIA Dataset, CVPR 2016",
        download="SYNTHIA-RAND-CITYSCAPES of https://synthia-dataset.net",
    ),
    "cityscapes": _cityscapes("labelIds"),
    "cityscapes-panoptic": _cityscapes("instanceIds", segments="cityscapes"),
    "bdd100k": Layout(
        variants=(
            (
                FilePattern(folder="images/10k/<split>", endings=(".jpg",)),
                FilePattern(folder="labels/sem_seg/masks/<split>", endings=(".png",)),
            ),
            (
                FilePattern(folder="seg/images/<split>", endings=(".jpg",)),
                FilePattern(folder="seg/labels/<split>", endings=("_train_id.png",)),
            ),
        ),
        splits=_SPLITS,
        encoding="bdd100k",
        source="Yu et al., BDD100K, CVPR 2020",
        download="10K Images and Segmentation of http://bdd-data.berkeley.edu",
    ),
    "mapillary": _mapillary("1.2", "mapillary-v1.2", "labels", "v1.2/labels"),
    "mapillary-v2.0": _mapillary("2.0", "mapillary-v2.0", "v2.0/labels"),
    "mapillary-panoptic": _mapillary("1.2", "mapillary-v1.2", "instances", "v1.2/instances", segments="mapillary"),
    "mapillary-v2.0-panoptic": _mapillary("2.0", "mapillary-v2.0", "v2.0/instances", segments="mapillary"),
    "coco-panoptic": Layout(
        variants=(
            (
                FilePattern(folder="<split>", endings=(".jpg",)),
                FilePattern(folder="annotations/panoptic_<split>", endings=(".png",)),
            ),
        ),
        splits={"train": "train2017", "val": "val2017"},
        encoding="coco-panoptic",
        source="Lin et al., COCO, ECCV 2014; Kirillov et al., Panoptic Segmentation, CVPR 2019",
        download="train2017.zip, val2017.zip and panoptic_annotations_trainval2017.zip, with the archives in "
        "it unpacked in place: https://cocodataset.org",
        segments="coco",
    ),
    "urbansyn": Layout(
        variants=(
            (
                FilePattern(folder="rgb", start="rgb_", endings=(".png",)),
                FilePattern(folder="ss", start="ss_", endings=(".png",)),
            ),
        ),
        splits={"train": ""},
        encoding="urbansyn",
        source="Gómez et al., UrbanSyn, Neurocomputing 2025",
        download="rgb and ss of https://huggingface.co/datasets/UrbanSyn/UrbanSyn",
    ),
    "idd": _idd("csTrainId", "idd"),
    "idd-level3": _idd("level3Id", "idd-level3"),
    "dark-zurich": Layout(
        variants=(
            (
                FilePattern(folder="rgb_anon/<split>", group="<recording>", endings=("_rgb_anon.png",)),
                FilePattern(folder="gt/<split>", group="<recording>", endings=("_gt_labelTrainIds.png",)),
            ),
        ),
        splits={name: f"{name}/night" for name in ("train", "val", "test")},
        encoding="dark-zurich",
        source="Sakaridis et al., Guided Curriculum Model Adaptation, ICCV 2019",
        download="Dark_Zurich_val_anon.zip, the part with labels: https://www.trace.ethz.ch/publications/2019/GCMA_UIoU",
    ),
    "wilddash2": Layout(
        variants=(
            (
                FilePattern(folder="images", endings=(".jpg",)),
                FilePattern(folder="semantic", endings=("_labelIds.png",)),
            ),
        ),
        splits={"val": ""},
        encoding="wilddash2",
        source="Zendel et al., Unifying Panoptic Segmentation for Autonomous Driving, CVPR 2022",
        download="wd_public_v2p0.zip of https://wilddash.cc",
        label_tool="`python pano2sem.py --json_path FOLDER/panoptic.json --outp_dir_sem FOLDER/semantic` of "
        "https://github.com/ozendelait/wilddash_scripts",
    ),
    "shift": Layout(
        variants=((_shift("img", ".jpg"), _shift("semseg", ".png")),),
        splits=_SPLITS,
        encoding="shift",
        source="Sun et al., SHIFT, CVPR 2022",
        download="img.zip and semseg.zip of the front view, discrete shifts, 1 fps, each unpacked into a folder of its "
        "name: https://www.vis.xyz/shift",
    ),
    **{f"acdc-{condition}": _acdc(condition) for condition in ("fog", "night", "rain", "snow")},
}
