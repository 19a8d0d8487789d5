from pathlib import Path

import numpy as np
import pytest
from folder_helpers import save
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from layout_helpers import write_deep

from clouds import DataError
from clouds.core.labels import CITYSCAPES
from clouds.data.encodings import label_encoding
from clouds.data.label_files import read_label_pixels

SYNTHIA = label_encoding(CITYSCAPES, "synthia")


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
        with pytest.raises(DataError, match=r"a\.png: cannot be read \(.*\); the file may be truncated or damaged"):
            read_label_pixels(path, SYNTHIA)
    save(path, np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(
        DataError, match=r"a\.png: label has form \['RGB'\], but encoding 'synthia' .* PNG of 16 bits RGB"
    ):
        read_label_pixels(path, SYNTHIA)
    save(path.with_suffix(".jpg"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DataError, match=r"a\.jpg: label has form .* expects a PNG of 16 bits RGB"):
        read_label_pixels(path.with_suffix(".jpg"), SYNTHIA)
    save(path, np.zeros((4, 4), np.uint16))
    with pytest.raises(DataError, match=r"label has form \['I;16B'\]"):
        read_label_pixels(path, SYNTHIA)
