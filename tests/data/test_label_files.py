from pathlib import Path

import numpy as np
import pytest
from folder_helpers import save
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from layout_helpers import write_deep
from PIL import Image
from png_writer import GREY, PALETTE, write_samples

from clouds import DataError
from clouds.core.contract.labels import CITYSCAPES
from clouds.data.encodings import label_encoding
from clouds.data.label_files import read_label_pixels

SYNTHIA, TRAIN_IDS = label_encoding(CITYSCAPES, "synthia"), label_encoding(CITYSCAPES, "trainIds")
SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=20)


@given(ids=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_the_class_of_16_bit_files_is_their_first_channel(
    tmp_path_factory: pytest.TempPathFactory, ids: np.ndarray
) -> None:
    path = tmp_path_factory.getbasetemp() / "deep.png"
    write_deep(path, ids)
    assert np.array_equal(read_label_pixels(path, SYNTHIA), ids)


def test_16_bit_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(DataError, match=r"a\.png: no such file"):
        read_label_pixels(path, SYNTHIA)
    for content in (b"no picture", b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.png: not a picture that can be read; expected PNG"):
            read_label_pixels(path, SYNTHIA)
    save(path, np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DataError, match=r"a\.png: label has form RGB, but encoding 'synthia' .* 16-bit RGB PNG"):
        read_label_pixels(path, SYNTHIA)
    save(path, np.zeros((4, 4), np.uint16))
    with pytest.raises(DataError, match=r"label has form I;16B"):
        read_label_pixels(path, SYNTHIA)


def test_label_files_are_pngs(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match=r"a\.jpg: not a picture that can be read; expected PNG"):
        read_label_pixels(tmp_path / "a.jpg", TRAIN_IDS)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("transparency", [b"", b"\0\1"])
@pytest.mark.parametrize("depth", [2, 4, 8])
@given(data=st.data())
def test_greys_of_any_depth_keep_their_sample_values(
    tmp_path_factory: pytest.TempPathFactory, depth: int, transparency: bytes, interlaced: bool, data: st.DataObject
) -> None:
    samples = data.draw(arrays(np.uint8, SHAPES, elements=st.integers(0, 2**depth - 1)))
    path = tmp_path_factory.getbasetemp() / "grey.png"
    write_samples(path, samples, depth=depth, transparency=transparency, interlaced=interlaced)
    assert np.array_equal(read_label_pixels(path, TRAIN_IDS), samples)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("transparency", [b"", b"\0\xff"])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@given(data=st.data())
def test_a_palette_with_colours_keeps_indices_and_one_of_other_greys_gives_greys(
    tmp_path_factory: pytest.TempPathFactory, depth: int, transparency: bytes, interlaced: bool, data: st.DataObject
) -> None:
    indices = data.draw(arrays(np.uint8, SHAPES, elements=st.integers(0, 2**depth - 1)))
    order = data.draw(st.permutations(range(256))) if depth == 8 else [13, 255, 0, 7, 1, *range(20, 31)][: 2**depth]
    path = tmp_path_factory.getbasetemp() / "palette.png"
    for palette, wanted in (
        ([(value, value, value) for value in order], np.array(order, np.uint8)[indices]),
        ([(128, 64, 128), *((value, value, value) for value in order[1:])], indices),
    ):
        write_samples(
            path, indices, depth=depth, kind=PALETTE, palette=palette, transparency=transparency, interlaced=interlaced
        )
        assert np.array_equal(read_label_pixels(path, TRAIN_IDS), wanted)


@given(values=arrays(np.uint8, SHAPES, elements=st.sampled_from([0, 13, 18, 255])))
def test_what_pillow_writes(tmp_path_factory: pytest.TempPathFactory, values: np.ndarray) -> None:
    path = tmp_path_factory.getbasetemp() / "pillow.png"
    grey = Image.fromarray(values)
    palette, names = (Image.frombytes("P", grey.size, values.tobytes()) for _ in range(2))
    palette.putpalette([value for level in range(256) for value in (level,) * 3])
    names.putpalette([(7 * value) % 256 for value in range(768)])
    for picture in (grey, palette, names):
        picture.save(path, optimize=True)
        assert np.array_equal(read_label_pixels(path, TRAIN_IDS), values)


@pytest.mark.parametrize("greys", [[0, 0, 0, 0], [5, 5, 5, 5], [0, 9, 0]])
def test_greys_that_do_not_tell_indices_apart_are_for_people(tmp_path: Path, greys: list[int]) -> None:
    indices = np.array([[0, 1, 2]], np.uint8)
    path = write_samples(
        tmp_path / "a.png", indices, depth=2, kind=PALETTE, palette=[(value, value, value) for value in greys]
    )
    assert np.array_equal(read_label_pixels(path, TRAIN_IDS), indices)


def test_an_index_beyond_the_palette_stays(tmp_path: Path) -> None:
    path = write_samples(tmp_path / "a.png", np.array([[0, 3]]), depth=2, kind=PALETTE, palette=[(4, 4, 4)])
    assert read_label_pixels(path, TRAIN_IDS).tolist() == [[0, 3]]


@pytest.mark.parametrize(
    ("kind", "depth", "greys", "said"),
    [
        (GREY, 1, (), "1 bit per pixel"),
        (PALETTE, 1, (0, 255), "a palette of 2 greys from black to white"),
        (PALETTE, 2, (0, 85, 170, 255), "a palette of 4 greys from black to white"),
        (PALETTE, 2, (0, 128, 255), "a palette of 3 greys from black to white"),
    ],
)
def test_what_can_be_meant_in_two_ways_is_said_unless_a_mapping_settles_it(
    tmp_path: Path, kind: int, depth: int, greys: tuple[int, ...], said: str
) -> None:
    palette = [(value, value, value) for value in greys]
    path = write_samples(tmp_path / "a.png", np.array([[0, 1, 1]]), depth=depth, kind=kind, palette=palette)
    high = greys[1] if greys else 255
    with pytest.raises(DataError, match=rf"a\.png: label has {said}, so its values can be 0, 1 or 0, {high}; list the"):
        read_label_pixels(path, TRAIN_IDS)
    for value in (1, high):
        encoding = label_encoding(CITYSCAPES, None, {"0": "road", str(value): "sky"})
        assert read_label_pixels(path, encoding).tolist() == [[0, value, value]]
        assert encoding.decode(read_label_pixels(path, encoding)).tolist() == [[0, 10, 10]]
    both = label_encoding(CITYSCAPES, None, {"0": "road", "1": "sky", str(high): "car"})
    with pytest.raises(DataError, match="store it as 8-bit greyscale"):
        read_label_pixels(path, both)


def test_black_alone_can_be_meant_in_one_way(tmp_path: Path) -> None:
    path = write_samples(tmp_path / "a.png", np.zeros((2, 3), np.uint8), depth=1)
    assert not read_label_pixels(path, TRAIN_IDS).any()
