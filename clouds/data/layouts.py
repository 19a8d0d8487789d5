"""File layouts of published datasets as downloaded: one record per kind of SPEC."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from clouds.core.system.images import EXTENSIONS


@frozen(kw_only=True)
class FilePattern:
    """Location and name pattern of a set of files; the variable part of a file name is NAME.

    Attributes:
        folder: folder below the root; "<split>" stands for the split's folder.
        endings: possible text after NAME in a file name; case is ignored.
        group: meaning of the folders between `folder` and the files, or "" if there are none.
        skip: ending of files to ignore because other tools write them to the same folder, or "".
    """

    folder: str
    endings: tuple[str, ...]
    group: str = ""
    skip: str = ""

    def path(self, root: Path, split_folder: str) -> Path:
        """The folder with the files of a split."""
        return root / self.folder.replace("<split>", split_folder)

    def __str__(self) -> str:
        ending = self.endings[0] if len(self.endings) == 1 else f"({'|'.join(self.endings)})"
        return "/".join(part for part in (self.folder, self.group, f"NAME{ending}") if part)


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
    """

    variants: tuple[tuple[FilePattern, FilePattern], ...]
    splits: dict[str, str] | None
    encoding: str
    source: str
    download: str
    misfits: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", or ".join(f"{images} and {labels}" for images, labels in self.variants)


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
    "cityscapes": Layout(
        variants=(
            (
                FilePattern(folder="leftImg8bit/<split>", group="<city>", endings=("_leftImg8bit.png",)),
                FilePattern(folder="gtFine/<split>", group="<city>", endings=("_gtFine_labelIds.png",)),
            ),
        ),
        splits=_SPLITS,
        encoding="cityscapes",
        source="Cordts et al., The Cityscapes Dataset, CVPR 2016",
        download="leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of https://www.cityscapes-dataset.com",
    ),
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
    "mapillary": Layout(
        variants=tuple(
            (
                FilePattern(folder="<split>/images", endings=(".jpg",)),
                FilePattern(folder=f"<split>/{labels}", endings=(".png",)),
            )
            for labels in ("labels", "v1.2/labels")
        ),
        splits={"train": "training", "val": "validation", "test": "testing"},
        encoding="mapillary-v1.2",
        source="Neuhold et al., Mapillary Vistas, ICCV 2017",
        download="the research edition with labels of v1.2, https://www.mapillary.com/dataset/vistas",
    ),
    **{f"acdc-{condition}": _acdc(condition) for condition in ("fog", "night", "rain", "snow")},
}
