"""Label files that number instances, their segment maps, and augmentation of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from folder_helpers import save
from layout_helpers import write_segments
from PIL import Image

from clouds import ConfigError, DataError, LabelSpace
from clouds.core.contract.labels import CITYSCAPES
from clouds.data.folder import Dataset, open_dataset
from clouds.data.rare_classes import Wanted
from clouds.data.segment_files import are_crowds, without_crowds
from clouds.data.transforms import Augmentation, augment

ROAD, CAR, PERSON = 0, 13, 11


def _coco(root: Path, segments: list[list[int]], infos: list[dict[str, int]], name: str = "a") -> Path:
    pixels = np.array(segments, np.int32)
    save(root / "train2017" / f"{name}.jpg", np.zeros((*pixels.shape, 3), np.uint8))
    path = root / "annotations" / "panoptic_train2017" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_segments(path, pixels, infos)
    return path


def _open(root: Path, labels: LabelSpace = CITYSCAPES, kind: str = "coco-panoptic") -> Dataset:
    return open_dataset(f"{kind}:{root}", labels, default_split="train")


def _sixteen_bits(root: Path, kind: str, values: list[list[int]]) -> Dataset:
    places = {
        "cityscapes-panoptic": ("leftImg8bit/train/b/b_leftImg8bit.png", "gtFine/train/b/b_gtFine_instanceIds.png"),
        "mapillary-panoptic": ("training/images/b.jpg", "training/v1.2/instances/b.png"),
    }
    image, label = (root / one for one in places[kind])
    pixels = np.array(values, np.uint16)
    save(image, np.zeros((*pixels.shape, 3), np.uint8))
    save(label, Image.fromarray(pixels))
    return _open(root, kind=kind)


def test_cityscapes_numbers_instances_after_the_class(tmp_path: Path) -> None:
    values = [[7, 26000, 26001], [26, 24000, 0], [11, 24012, 33]]
    image, segments = _sixteen_bits(tmp_path, "cityscapes-panoptic", values).read_segments(0)
    assert image.shape == (3, 3, 3)
    assert segments.dtype == np.int32
    # a group of cars and one of bicycles have no number: they are crowds
    cars, persons = (
        [one * 256 + 256 + name for one in ones] for name, ones in ((CAR, (26000, 26001)), (PERSON, (24000, 24012)))
    )
    assert segments.tolist() == [[ROAD, *cars], [CAR, persons[0], 255], [2, persons[1], 18]]
    assert are_crowds(segments, CITYSCAPES).tolist() == [[False] * 3, [True, False, False], [False, False, True]]
    assert without_crowds(segments, CITYSCAPES).tolist()[1] == [255, persons[0], 255]


def test_mapillary_numbers_instances_in_the_low_byte(tmp_path: Path) -> None:
    values = [[13 * 256, 55 * 256, 55 * 256 + 1], [65 * 256, 48 * 256, 19 * 256 + 255]]
    dataset = _sixteen_bits(tmp_path, "mapillary-panoptic", values)
    # traffic lights have instances there, but are no things of Cityscapes
    segments = dataset.read_segments(0)[1]
    assert (segments % 256).tolist() == dataset.read(0)[1].tolist() == [[ROAD, CAR, CAR], [255, 6, PERSON]]
    assert (segments // 256).tolist() == [[0, 55 * 256 + 1, 55 * 256 + 2], [0, 0, 20 * 256]]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("mapillary-panoptic", [[20 * 256, 21 * 256, 22 * 256]]),  # bicyclist, motorcyclist, other rider
        ("cityscapes-panoptic", [[26000, 27000, 28000]]),  # car, truck and bus as one class
    ],
)
def test_instances_of_classes_that_join_stay_apart(kind: str, values: list[list[int]], tmp_path: Path) -> None:
    if kind == "cityscapes-panoptic":
        mapping = '[labels]\nencoding = "cityscapes"\n[labels.mapping]\n27 = "car"\n28 = "car"\n'
        (tmp_path / "dataset.toml").write_text(mapping, encoding="utf-8")
    dataset = _sixteen_bits(tmp_path, kind, values)
    assert len(set(dataset.read(0)[1].ravel().tolist())) == 1
    assert len(np.unique(dataset.read_segments(0)[1])) == 3


def test_coco_describes_segments_beside(tmp_path: Path) -> None:
    infos = [
        {"id": 5, "category_id": 149, "iscrowd": 0},
        {"id": 66_000, "category_id": 3, "iscrowd": 0},
        {"id": 300, "category_id": 3, "iscrowd": 0},
        {"id": 9, "category_id": 3, "iscrowd": 1},
        {"id": 11, "category_id": 17},
    ]
    _coco(tmp_path, [[5, 66_000, 300], [0, 9, 11]], infos)
    dataset = _open(tmp_path)
    assert dataset.read_segments(0)[1].tolist() == [[ROAD, 512 + CAR, 768 + CAR], [255, CAR, 255]]
    assert dataset.read(0)[1].tolist() == [[ROAD, CAR, CAR], [255, CAR, 255]]
    own = LabelSpace.named("coco-panoptic-133")
    cat, road = own.index("cat"), own.index("road")
    assert _open(tmp_path, own).read_segments(0)[1].tolist() == [[road, 514, 770], [255, 2, 5 * 256 + cat]]


def test_segments_that_the_json_lacks_are_named(tmp_path: Path) -> None:
    path = _coco(tmp_path, [[5, 6, 7]], [{"id": 5, "category_id": 1, "iscrowd": 0}])
    index = tmp_path / "annotations" / "panoptic_train2017.json"
    with pytest.raises(DataError, match=rf"{path}: has segments \[6, 7\], which {index} does not describe"):
        _open(tmp_path).read_segments(0)


def test_the_json_of_other_images_is_refused_when_the_set_is_opened(tmp_path: Path) -> None:
    _coco(tmp_path, [[0]], [])
    index = tmp_path / "annotations" / "panoptic_train2017.json"
    index.write_text(json.dumps({"annotations": [{"file_name": "b.png", "segments_info": []}]}), encoding="utf-8")
    with pytest.raises(
        DataError, match=rf"{index} does not describe 1 file \(a\.png\); it may belong to another split"
    ):
        _open(tmp_path)
    unchecked = open_dataset(f"coco-panoptic:{tmp_path}:train", CITYSCAPES, require_labels=False)
    with pytest.raises(DataError, match=r"does not describe 1 file \(a\.png\)"):
        unchecked.read_label(0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"panoptic_train2017\.json: no such file; it describes the segments"),
        ("[", r"cannot be read as JSON of COCO's panoptic format \(JSONDecodeError: "),
        ("{}", r"cannot be read as JSON of COCO's panoptic format \(KeyError: 'annotations'\)"),
        ('{"annotations": [{"file_name": "a.png", "segments_info": [{"id": 1, "category_id": 300}]}]}', "0 to 254"),
        ('{"annotations": [{"file_name": "a.png", "segments_info": [{"id": 1.5, "category_id": 3}]}]}', "integers"),
    ],
)
def test_a_json_that_cannot_be_read_is_named(text: str | None, message: str, tmp_path: Path) -> None:
    _coco(tmp_path, [[0]], [])
    index = tmp_path / "annotations" / "panoptic_train2017.json"
    index.unlink()
    if text is not None:
        index.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        _open(tmp_path)


def test_pictures_of_another_form_are_refused(tmp_path: Path) -> None:
    path = _coco(tmp_path, [[5]], [{"id": 5, "category_id": 1, "iscrowd": 0}])
    save(path, np.zeros((1, 1), np.uint8))
    with pytest.raises(DataError, match="segments are an 8-bit RGB PNG, but this has form L"):
        _open(tmp_path).read_segments(0)
    dataset = _sixteen_bits(tmp_path, "cityscapes-panoptic", [[300]])
    with pytest.raises(DataError, match=r"value 300 is no class \* 1000 \+ instance"):
        dataset.read_segments(0)
    save(tmp_path / "gtFine/train/b/b_gtFine_instanceIds.png", np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(DataError, match="instances are a greyscale PNG of 16 bits, but this has mode RGB"):
        dataset.read_segments(0)


def test_kinds_without_instances_say_so(tmp_path: Path) -> None:
    save(tmp_path / "images" / "train" / "a.png", np.zeros((2, 2, 3), np.uint8))
    save(tmp_path / "labels" / "train" / "a.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(
        ConfigError, match=r"label files of kind 'folder' number no instances; kinds that do: cityscapes-panoptic, "
    ):
        _open(tmp_path, kind="folder").read_segments(0)


def _scene(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A segment map, and a picture of its classes and instances."""
    rng = np.random.default_rng(0)
    classes, instances = rng.integers(0, 19, shape), rng.integers(0, 4, shape)
    picture = np.stack([classes, instances, np.full(shape, 9)], axis=-1).astype(np.uint8)
    return picture, (instances * 256 + classes).astype(np.int32)


@pytest.mark.parametrize("shape", [(30, 50), (90, 140)])
def test_crops_and_flips_move_segments_with_the_image(shape: tuple[int, int]) -> None:
    image, segments = _scene(shape)
    settings = Augmentation(crop=(48, 64), scale=(1.0, 1.0), distortion=False)
    views = [augment(image, segments, np.random.default_rng(seed), settings) for seed in range(20)]
    for view, seen in views:
        inside = view[..., 2] == 9
        assert inside.sum() == min(48, shape[0]) * min(64, shape[1])
        assert (seen[inside] == view[inside][:, 1].astype(np.int32) * 256 + view[inside][:, 0]).all()
        assert (seen[~inside] == 255).all()
    assert len({view.tobytes() for view, _ in views}) > 1


@pytest.mark.parametrize("resize", ["nearest-exact", "nearest"])
@pytest.mark.parametrize("wanted", [None, Wanted(train_id=3, pixels=40)])
def test_a_segment_map_is_scaled_as_its_label_map(resize: str, wanted: Wanted | None) -> None:
    image, segments = _scene((70, 110))
    segments = segments % 256 + 256 * (segments % 256 * 7 % 5)  # the instance follows from the class
    settings = Augmentation(crop=(48, 64), label_resize=resize, cat_max_ratio=0.9)
    for seed in range(20):
        draws = [np.random.default_rng(seed) for _ in range(2)]
        view, seen = augment(image, segments, draws[0], settings, wanted)
        same, label_map = augment(image, segments.astype(np.uint8), draws[1], settings, wanted)
        assert (view == same).all()
        assert (seen.astype(np.uint8) == label_map).all()
        assert (seen // 256 == np.where(label_map == 255, 0, label_map.astype(np.int32) * 7 % 5)).all()
