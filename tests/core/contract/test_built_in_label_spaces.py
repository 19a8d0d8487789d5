"""Label spaces as data files: their sizes, and what a few of their rows say."""

from pathlib import Path

import pytest

import clouds
from clouds import LabelSpace
from clouds.core.contract.label_table import read_labels
from clouds.core.contract.labels import built_in_names

SIZES = {
    "ade20k-150": 150,
    "camvid": 11,
    "cityscapes": 19,
    "coco-panoptic-133": 133,
    "coco-stuff": 171,
    "idd": 26,
    "mapillary-vistas-v1.2": 65,
    "mapillary-vistas-v2.0": 123,
    "pascal-context-59": 59,
}


def test_the_built_in_ones() -> None:
    assert {name: len(LabelSpace.named(name)) for name in built_in_names()} == SIZES


@pytest.mark.parametrize(
    ("name", "raw", "word"),
    [
        ("ade20k-150", 3, "clouds"),  # sky; files hold 0 for other
        ("camvid", 4, "sidewalk"),
        ("coco-panoptic-133", 200, "rug"),
        ("coco-stuff", 181, "wood"),
        ("idd", 23, "tunnel"),
        ("mapillary-vistas-v1.2", 64, "ego vehicle"),
        ("mapillary-vistas-v2.0", 103, "traffic sign - temporary (front)"),
        ("pascal-context-59", 1, "airplane"),
    ],
)
def test_raw_ids_and_words(name: str, raw: int, word: str) -> None:
    space = LabelSpace.named(name)
    assert word in space.synonyms[space.ids.index(raw)]


@pytest.mark.parametrize(("name", "things"), [("ade20k-150", 100), ("coco-panoptic-133", 80), ("coco-stuff", 80)])
def test_published_numbers_of_things(name: str, things: int) -> None:
    assert sum(LabelSpace.named(name).things) == things


def test_mapillary_keeps_37_classes_with_instances() -> None:
    assert sum(LabelSpace.named("mapillary-vistas-v1.2").things) == 37


def test_a_plan_takes_every_form_of_labels(tmp_path: Path) -> None:
    path = tmp_path / "skin.toml"
    path.write_text('names = ["background", "lesion"]\n', encoding="utf-8")
    sizes = {"ade20k-150": 150, 3: 3, ("a", "b"): 2, str(path): 2}
    for labels, count in sizes.items():
        plan = clouds.plan(backbone="tiny", head="linear", labels=list(labels) if isinstance(labels, tuple) else labels)
        assert len(plan.labels) == count
    assert read_labels(3).names == ("class 0", "class 1", "class 2")


def test_wrong_labels() -> None:
    with pytest.raises(clouds.ConfigError, match="'custom' names classes twice: a"):
        read_labels(["a", "b", "a"])
    with pytest.raises(clouds.ConfigError, match="has 0 classes; expected 1 to 255"):
        read_labels(0)
    with pytest.raises(clouds.ConfigError, match="names, their number, a table or a TOML file, got bool"):
        read_labels(True)
    with pytest.raises(clouds.ConfigError, match="unknown label space 'ade20k'; did you mean 'ade20k-150'"):
        read_labels("ade20k")
