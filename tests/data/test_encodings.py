import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clouds import ConfigError, DataError, LabelSpace
from clouds.core.contract.labels import CITYSCAPES
from clouds.data.encodings import ENCODINGS, LabelEncoding, fold_table, label_encoding

_maps = arrays(np.uint8, st.tuples(st.integers(0, 9), st.integers(0, 9)), elements=st.sampled_from([*range(19), 255]))
_mappings = st.dictionaries(
    st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255)).map(lambda rgb: "{},{},{}".format(*rgb)),
    st.sampled_from([*CITYSCAPES.names, "ignore"]),
    min_size=1,
) | st.dictionaries(st.integers(0, 255).map(str), st.sampled_from([*CITYSCAPES.names, "ignore"]), min_size=1)


@given(train_ids=_maps, name=st.sampled_from(ENCODINGS))
def test_built_in_encodings_round_trip(train_ids: np.ndarray, name: str) -> None:
    encoding = label_encoding(CITYSCAPES, name)
    labelled = np.array([*encoding.codes.values()], np.uint8)  # IDD's level-3 ids have no train, for example
    train_ids = np.where(np.isin(train_ids, labelled), train_ids, np.uint8(255))
    assert np.array_equal(encoding.decode(encoding.encode(train_ids)), train_ids)


@given(data=st.data(), mapping=_mappings)
def test_mappings_round_trip(data: st.DataObject, mapping: dict[str, str]) -> None:
    encoding = label_encoding(CITYSCAPES, mapping=mapping)
    known = sorted(set(encoding.codes.values()))
    train_ids = data.draw(arrays(np.uint8, (3, 4), elements=st.sampled_from(known)))
    assert np.array_equal(encoding.decode(encoding.encode(train_ids)), train_ids)


@given(pixels=arrays(np.uint8, (5, 7)), name=st.sampled_from(["trainIds", "ids"]))
def test_decode_agrees_with_the_table_pixel_by_pixel(pixels: np.ndarray, name: str) -> None:
    encoding = label_encoding(CITYSCAPES, name)
    unknown = {str(value): int(count) for value, count in zip(*np.unique(pixels, return_counts=True), strict=True)
               if int(value) not in encoding.codes}  # fmt: skip
    assert encoding.unknown(pixels) == unknown
    known = np.where(np.isin(pixels, list(encoding.codes)), pixels, 255).astype(np.uint8)
    assert encoding.decode(known).tolist() == [[encoding.codes[value] for value in row] for row in known.tolist()]


def test_color_is_the_palette_and_black_is_ignored() -> None:
    encoding = label_encoding(CITYSCAPES, "color")
    pixels = np.array([[(128, 64, 128), (70, 130, 180), (0, 0, 0)]], np.uint8)
    assert encoding.decode(pixels).tolist() == [[0, 10, 255]]


def test_mapping_extends_a_named_encoding() -> None:
    encoding = label_encoding(CITYSCAPES, "ids", {"0": "ignore", "34": "car", "35": 2})
    assert encoding.decode(np.array([[7, 0, 34, 35, 255]], np.uint8)).tolist() == [[0, 255, 13, 2, 255]]
    assert encoding.encode(np.array([[13]], np.uint8)).tolist() == [[26]], "the first value of a class is written"


def test_ignore_is_255_in_memory_whatever_files_say() -> None:
    labels = LabelSpace.from_names(["a", "b"], ignore=9)
    assert label_encoding(labels).decode(np.array([[1, 9, 255]], np.uint8)).tolist() == [[1, 255, 255]]


def test_unknown_values_are_named_with_their_pixels() -> None:
    pixels = np.array([[0, 34, 34, 77]], np.uint8)
    with pytest.raises(
        DataError,
        match=r"a.png: label values 34 \(2 pixels\), 77 \(1 pixels\) are unknown in encoding \'trainIds\' of label "
        r'space \'cityscapes\' \(19 classes\); define them in dataset.toml: .* "34" = "ignore"',
    ):
        label_encoding(CITYSCAPES).decode(pixels, name="a.png")
    with pytest.raises(DataError, match=r"label values 1,2,3 \(1 pixels\) are unknown in encoding 'color'"):
        label_encoding(CITYSCAPES, "color").decode(np.array([[(1, 2, 3)]], np.uint8))
    with pytest.raises(DataError, match=r"26 \(1 pixels\) and 222 more are unknown"):
        label_encoding(CITYSCAPES).decode(np.arange(19, 249, dtype=np.uint8)[None])


def test_a_space_of_255_classes_has_no_spare_train_id() -> None:
    many = LabelSpace.from_names([f"class {number}" for number in range(255)])
    pixels = np.arange(256, dtype=np.uint8)[None]
    assert np.array_equal(label_encoding(many).decode(pixels), pixels)
    with pytest.raises(DataError, match=r"label values 3 \(1 pixels\) are unknown"):
        label_encoding(many, mapping={"2": 254}).decode(np.array([[2, 3]], np.uint8))


def test_views_of_label_maps_are_decoded() -> None:
    pixels = np.array([[7, 8, 11], [0, 0, 33]], np.uint8).T
    assert label_encoding(CITYSCAPES, "cityscapes").decode(pixels).tolist() == [[0, 255], [1, 255], [2, 18]]


def test_class_without_a_value_cannot_be_written() -> None:
    encoding = label_encoding(CITYSCAPES, mapping={"1": "road"})
    with pytest.raises(DataError, match=r"train ids \[3, 4\] have no value in encoding 'mapping'; add them"):
        encoding.encode(np.array([[0, 3, 4]], np.uint8))


@pytest.mark.parametrize(
    ("name", "pixels", "message"),
    [
        ("trainIds", np.zeros((2, 2, 3), np.uint8), r"'trainIds' expects 8-bit labels, one channel .* got uint8 of"),
        ("color", np.zeros((2, 2), np.uint8), r"'color' expects .* RGB .* got uint8 of shape \(2, 2\)"),
        ("color", np.zeros((2, 2, 4), np.uint8), r"got uint8 of shape \(2, 2, 4\)"),
        ("ids", np.zeros((2, 2), np.uint16), r"got uint16"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_pixels_of_another_form(name: str, pixels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        label_encoding(CITYSCAPES, name).decode(pixels)


@pytest.mark.parametrize(
    ("name", "mapping", "message"),
    [
        ("trainId", {}, r"labels.encoding: unknown encoding 'trainId'; did you mean 'trainIds'\?"),
        (None, {"7": "raod"}, r"labels.mapping.7: 'raod' is neither a class .* did you mean 'road'\?"),
        (
            None,
            {"7": 19},
            r"labels.mapping.7: 19 is neither .* nor a train id 0..18, nor 'ignore'; for your own classes",
        ),
        (None, {"256": "road"}, r"'256' is neither a value 0..255 \(\"7\"\) nor a colour"),
        (None, {"1,2,300": "road"}, "'1,2,300' is neither a value"),
        (None, {"#804080": "road"}, "'#804080' is neither a value"),
        (None, {"7": "road", "1,2,3": "car"}, "mixes grey values and colours"),
        ("ids", {"1,2,3": "car"}, "mixes grey values and colours"),
    ],
)
def test_wrong_settings(name: str | None, mapping: dict[str, str | int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        label_encoding(CITYSCAPES, name, mapping)


def test_label_spaces_that_an_encoding_cannot_hold() -> None:
    with pytest.raises(ConfigError, match=r"value 1000 is not in 0..255, as 8-bit files need"):
        label_encoding(LabelSpace.from_names(["a"], ids=[1000]), "ids")
    with pytest.raises(ConfigError, match=r"'a' and 'b' share the colour 1,1,1"):
        label_encoding(LabelSpace.from_names(["a", "b"], palette=[(1, 1, 1)] * 2), "color")


def test_fold() -> None:
    table = fold_table(CITYSCAPES, {"rider": "bicycle", "terrain": "ignore"})
    assert table is not None
    changed = {int(value): int(table[value]) for value in np.flatnonzero(table != np.arange(256))}
    assert changed == {12: 18, 9: 255}
    assert fold_table(CITYSCAPES, {}) is None
    with pytest.raises(ConfigError, match=r"fold.rider: 'bike' is neither .* known: bicycle, "):
        fold_table(CITYSCAPES, {"rider": "bike"})


def test_encodings_compare_by_identity_and_stay_frozen() -> None:
    encoding = label_encoding(CITYSCAPES)
    with pytest.raises(AttributeError):
        encoding.name = "other"  # type: ignore[misc]
    assert isinstance(encoding, LabelEncoding)


@pytest.mark.parametrize(
    ("name", "raw", "names"),
    [
        ("idd", [9, 16, 255], ["terrain", "train", "ignore"]),  # csTrainIds
        ("idd-level3", [1, 3, 4, 8, 12, 25], ["ignore", "terrain", "person", "ignore", "ignore", "sky"]),
        (
            "wilddash2",
            [14, 34, 35, 38, 49, 52, 58, 67],
            ["ignore", "truck", "car", "road", "rider", "sidewalk", "motorcycle", "ignore"],
        ),
        ("shift", [0, 4, 6, 10, 14, 22], ["ignore", "person", "road", "car", "ignore", "terrain"]),
        (
            "mapillary-v2.0",
            [4, 45, 46, 61, 98, 99, 103, 115],
            ["sidewalk", "ignore", "road", "sky", "ignore", "traffic sign", "traffic sign", "ignore"],
        ),
    ],
)
def test_ids_of_published_data_sets(name: str, raw: list[int], names: list[str]) -> None:
    decoded = label_encoding(CITYSCAPES, name).decode(np.array([raw], np.uint8))[0]
    assert [CITYSCAPES.names[i] if i < 19 else "ignore" for i in decoded] == names
