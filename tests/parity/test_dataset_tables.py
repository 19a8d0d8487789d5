"""Golden set 14: what the values in the label files of published data sets mean."""

import golden
import numpy as np
import pytest

from clouds.core.contract.labels import CITYSCAPES, IGNORE_ID
from clouds.data.encodings import label_encoding


@pytest.mark.parametrize(
    ("encoding", "table"),
    [("gta5", "gta"), ("synthia", "synthia"), ("cityscapes", "cityscapes"), ("mapillary-v1.2", "mapillary")],
)
def test_id_tables(encoding: str, table: str) -> None:
    published = {
        int(value): train_id for value, train_id in golden.read_json("14_tables")["id_to_trainid"][table].items()
    }
    ours = label_encoding(CITYSCAPES, encoding)
    values = np.array([sorted(ours.codes)], np.uint8)
    assert set(published) <= set(ours.codes)
    assert ours.decode(values)[0].tolist() == [published.get(value, IGNORE_ID) for value in values[0].tolist()]


def test_cityscapes_is_what_the_published_tables_say() -> None:
    tables = golden.read_json("14_tables")
    evaluated = [row for row in tables["cityscapes_labels"] if 0 <= row["trainId"] < 255]
    assert [row["name"] for row in evaluated] == list(CITYSCAPES.names)
    assert [row["id"] for row in evaluated] == list(CITYSCAPES.ids)
    assert [row["name"] for row in tables["categories"] if row["isthing"]] == [
        name for name, thing in zip(CITYSCAPES.names, CITYSCAPES.things, strict=True) if thing
    ]
    assert [tuple(color) for color in tables["palette"][: len(CITYSCAPES)]] == list(CITYSCAPES.palette)
    assert [tuple(group) for group in tables["prompt_engineered"]] == list(CITYSCAPES.synonyms)


def test_label_ids_cover_what_cityscapes_defines() -> None:
    rows = golden.read_json("14_tables")["cityscapes_labels"]
    ours = label_encoding(CITYSCAPES, "cityscapes").codes
    drawn = {row["id"]: row["trainId"] for row in rows if row["id"] >= 0}  # the id -1 is never drawn
    assert {code: train_id for code, train_id in ours.items() if code != IGNORE_ID} == drawn
