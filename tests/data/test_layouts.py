import re
from pathlib import Path

import numpy as np
import pytest
from folder_helpers import save
from layout_helpers import TREES, Tree, write_coco, write_red

from clouds import ConfigError, DataError, LabelSpace
from clouds.core.contract.labels import CITYSCAPES
from clouds.core.system.errors import LeftOutWarning
from clouds.data.check import check_dataset
from clouds.data.convert import convert_dataset
from clouds.data.folder import Dataset, open_dataset
from clouds.data.layouts import LAYOUTS

every_tree = pytest.mark.parametrize("tree", TREES.values(), ids=TREES)


def _open(tree: Tree, root: Path, *, require_labels: bool = True) -> Dataset:
    return open_dataset(f"{tree.kind}:{root}", CITYSCAPES, default_split=tree.split, require_labels=require_labels)


def test_every_kind_is_tried() -> None:
    assert {tree.kind for tree in TREES.values()} | {"folder"} == set(LAYOUTS)


@every_tree
def test_pairs_are_found_and_decoded_as_downloaded(tree: Tree, tmp_path: Path) -> None:
    pairs = tree.fill(tmp_path)
    dataset = _open(tree, tmp_path)
    assert dataset.name == f"{tree.kind}:{tree.split}"
    assert str(dataset.spec) == f"{tree.kind}:{tmp_path}:{tree.split}"
    assert [(item.name, item.image, item.label) for item in dataset.items] == [
        (name, *pair) for name, pair in zip(tree.shown, pairs, strict=True)
    ]
    assert dataset.unpaired == ()
    for index in range(2):
        image, label = dataset.read(index)
        assert image.shape == (*label.shape, 3)
        assert label.tolist() == [list(tree.train_ids), list(tree.train_ids[::-1])]


@every_tree
def test_every_wrong_file_is_found(tree: Tree, tmp_path: Path) -> None:
    group = tree.names[0].removesuffix(tree.names[0].rpartition("/")[2])
    tree.fill(tmp_path)
    tree.add(tmp_path, f"{group}unknown", np.full((2, 3), tree.unknown, np.uint8))
    damaged = tree.add(tmp_path, f"{group}damaged")[1]
    damaged.write_bytes(damaged.read_bytes()[:-30])
    tree.add(tmp_path, f"{group}missing")[1].unlink()
    tree.add(tmp_path, f"{group}orphan")[0].unlink()
    save(tree.add(tmp_path, f"{group}size")[0], np.zeros((5, 5, 3), np.uint8))
    channels = np.zeros((2, 3), np.uint8) if tree.write in (write_red, write_coco) else np.zeros((2, 3, 3), np.uint8)
    save(tree.add(tmp_path, f"{group}channels")[1], channels)
    report = check_dataset(_open(tree, tmp_path, require_labels=False))
    words = re.compile("unknown|damaged|missing|orphan|size|channels")
    assert {(fault.kind, *words.findall(Path(fault.file).name)) for fault in report.faults} == {
        ("values", "unknown"),
        ("label", "damaged"),
        ("missing label", "missing"),
        ("missing image", "orphan"),
        ("size", "size"),
        ("label", "channels"),
    }
    assert report.unknown == {str(tree.unknown): 6}
    values = next(fault for fault in report.faults if fault.kind == "values")
    assert f"are unknown in encoding '{LAYOUTS[tree.kind].encoding}'" in values.message
    assert report.pixels["road"] == 3 * 2 * tree.train_ids.count(0)  # two sound pairs, and the one of another size


@every_tree
def test_missing_labels_say_where_they_are_expected(tree: Tree, tmp_path: Path) -> None:
    tree.fill(tmp_path)[0][1].unlink()
    with pytest.raises(DataError, match="1 of 2 images have no label file; the first is ") as caught:
        _open(tree, tmp_path)
    assert f"expected {tmp_path / tree.label.format(tree.names[0])}" in str(caught.value)
    assert str(caught.value).endswith(f"the layout is {LAYOUTS[tree.kind]}")


@pytest.mark.parametrize("kind", [kind for kind in LAYOUTS if kind != "folder"])
def test_what_is_not_there_is_named_with_what_to_download(kind: str, tmp_path: Path) -> None:
    layout = LAYOUTS[kind]
    with pytest.raises(DataError) as caught:
        open_dataset(f"{kind}:{tmp_path}", CITYSCAPES)
    images, labels = layout.variants[0]
    assert str(caught.value).startswith(f"{kind}:{tmp_path}: no folder {tmp_path}")
    for part in (str(images), str(labels), str(tmp_path), layout.download):
        assert part in str(caught.value)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "leftImg8bit" / "val" / "frankfurt").mkdir(parents=True)
    with pytest.raises(DataError, match=r"leftImg8bit/val holds no image; expected .*<city>/NAME_leftImg8bit\.png"):
        open_dataset(f"cityscapes:{tmp_path}:val", CITYSCAPES)


def test_splits(tmp_path: Path) -> None:
    TREES["gta5"].fill(tmp_path)
    assert len(open_dataset(f"gta5:{tmp_path}", CITYSCAPES, default_split="val")) == 2, "the only one is taken"
    with pytest.raises(DataError, match=r"kind 'gta5' has no split 'val'; known: train"):
        open_dataset(f"gta5:{tmp_path}:val", CITYSCAPES)
    with pytest.raises(DataError, match=r"kind 'mapillary' has no split '\.\.'; known: test, train, val"):
        open_dataset(f"mapillary:{tmp_path}:..", CITYSCAPES)


@pytest.mark.parametrize("names", [("bdd100k", "bdd100k-older"), ("mapillary", "mapillary-newer")])
def test_two_variants_in_one_place_are_ambiguous(names: tuple[str, str], tmp_path: Path) -> None:
    for name in names:
        TREES[name].fill(tmp_path)
    with pytest.raises(DataError, match=r"both .* exist, so the labels are ambiguous; rename one of them"):
        _open(TREES[names[0]], tmp_path)


def test_folders_of_one_level_may_be_left_out(tmp_path: Path) -> None:
    for path in (pair for pairs in TREES["acdc-fog"].fill(tmp_path) for pair in pairs):
        path.rename(path.parent.parent / path.name)
    assert len(_open(TREES["acdc-fog"], tmp_path)) == 2


def test_one_name_in_two_folders(tmp_path: Path) -> None:
    tree = TREES["cityscapes"]
    tree.add(tmp_path, "aachen/a")
    tree.add(tmp_path, "bochum/a")
    with pytest.raises(DataError, match=r"bochum/a_.* and .*aachen/a_.* share the name 'a'; .* paired by name"):
        _open(tree, tmp_path)


def test_other_label_spaces_by_class_name(tmp_path: Path) -> None:
    TREES["cityscapes"].fill(tmp_path)
    some = LabelSpace.from_names(["bicycle", "car"], name="wheels")
    dataset = open_dataset(f"cityscapes:{tmp_path}", some)
    assert dataset.read_label(0).tolist() == [[255, 255, 0], [0, 255, 255]]
    animals = LabelSpace.from_names(["road", "cow"], name="farm")
    with pytest.raises(
        ConfigError, match=r"label space 'farm': 'cow' is not a class of encoding 'cityscapes'.* known: bi"
    ):
        open_dataset(f"cityscapes:{tmp_path}", animals)


def test_a_configuration_may_fold_or_encode_anew(tmp_path: Path) -> None:
    TREES["mapillary"].fill(tmp_path)
    (tmp_path / "dataset.toml").write_text('[fold]\nrider = "bicycle"\n', encoding="utf-8")
    dataset = _open(TREES["mapillary"], tmp_path)
    assert (dataset.encoding.name, dataset.fold is None) == ("mapillary-v1.2", False)
    (tmp_path / "dataset.toml").write_text(
        '[labels]\nencoding = "mapillary-v1.2"\n[labels.mapping]\n65 = "sky"\n', encoding="utf-8"
    )
    assert _open(TREES["mapillary"], tmp_path).read_label(0)[0].tolist() == [0, 10, 18]


def test_a_folder_may_hold_ids_of_a_published_data_set(tmp_path: Path) -> None:
    image, label = TREES["synthia"].add(tmp_path / "raw", "a")
    for path, part in ((image, "images"), (label, "labels")):
        (tmp_path / part / "night").mkdir(parents=True)
        path.rename(tmp_path / part / "night" / path.name)
    (tmp_path / "dataset.toml").write_text('[labels]\nencoding = "synthia"\n', encoding="utf-8")
    assert open_dataset(f"folder:{tmp_path}", CITYSCAPES).read_label(0)[0].tolist() == [0, 255, 3]


def test_the_known_misfits_of_gta5_are_left_out_and_said(tmp_path: Path) -> None:
    for name, rows in (("15187", 8), ("15188", 7), ("17705", 8)):
        save(tmp_path / "images" / f"{name}.png", np.zeros((rows, 6, 3), np.uint8))
        save(tmp_path / "labels" / f"{name}.png", np.full((8, 6), 7, np.uint8))
    with pytest.warns(LeftOutWarning, match=r"gta5:.*:train: 1 file \(15188\.png\): left out, because image and label"):
        dataset = open_dataset(f"gta5:{tmp_path}", CITYSCAPES)
    assert [item.name for item in dataset.items] == ["15187", "17705"], "17705 was mended"
    with pytest.warns(LeftOutWarning):
        made = convert_dataset(open_dataset(f"gta5:{tmp_path}", CITYSCAPES), tmp_path / "out")
    assert made.written == 2
    (tmp_path / "images" / "15188.png").write_bytes(b"no picture")
    dataset = open_dataset(f"gta5:{tmp_path}", CITYSCAPES)
    with pytest.raises(DataError, match=r"15188\.png: not a picture"):
        dataset.read(1)


@pytest.mark.parametrize("kind", ["idd", "idd-level3"])
def test_polygons_of_idd_are_not_enough(kind: str, tmp_path: Path) -> None:
    tree = TREES[kind]
    for image, label in tree.fill(tmp_path):
        stem = image.name.removesuffix("_leftImg8bit.png")
        label.with_name(f"{stem}_gtFine_polygons.json").write_text("{}", encoding="utf-8")
        label.unlink()
    id_type = "csTrainId" if kind == "idd" else "level3Id"
    with pytest.raises(
        DataError,
        match=rf"119/frame0029_gtFine_label{id_type}s\.png, where frame0029_gtFine_\w+\.\w+ is; .* `python "
        rf"preperation/createLabels\.py --datadir FOLDER --id-type {id_type}` of \S+ makes the label files",
    ):
        _open(tree, tmp_path)


def test_panoptic_labels_of_wilddash_are_not_enough(tmp_path: Path) -> None:
    tree = TREES["wilddash2"]
    for _, label in tree.fill(tmp_path):
        label.unlink()
    with pytest.raises(
        DataError, match=r"semantic/aa0000_100000_labelIds\.png.* `python pano2sem\.py .* makes the label"
    ):
        _open(tree, tmp_path)


@pytest.mark.parametrize("kind", ["idd", "shift"])
def test_files_of_one_name_in_two_groups_are_converted_apart(kind: str, tmp_path: Path) -> None:
    tree = TREES[kind]
    tree.fill(tmp_path / "download")
    made = convert_dataset(_open(tree, tmp_path / "download"), tmp_path / "out")
    converted = open_dataset(made.spec, CITYSCAPES)
    assert [item.name for item in converted.items] == list(tree.shown)
    assert converted.read_label(0).tolist() == [list(tree.train_ids), list(tree.train_ids[::-1])]


def test_classes_that_a_data_set_never_labels_have_no_pixel(tmp_path: Path) -> None:
    TREES["shift"].fill(tmp_path)
    assert check_dataset(_open(TREES["shift"], tmp_path)).pixels["rider"] == 0


@pytest.mark.parametrize(
    ("tree", "name", "row"),
    [
        ("mapillary", "mapillary-vistas-v1.2", [13, 255, 52]),
        ("mapillary-v2.0", "mapillary-vistas-v2.0", [21, 255, 105]),
        ("idd-level3", "idd", [0, 255, 3]),
    ],
)
def test_a_data_set_in_its_own_label_space(tree: str, name: str, row: list[int], tmp_path: Path) -> None:
    TREES[tree].fill(tmp_path)
    dataset = open_dataset(f"{TREES[tree].kind}:{tmp_path}", LabelSpace.named(name), default_split=TREES[tree].split)
    assert dataset.read_label(0)[0].tolist() == row
