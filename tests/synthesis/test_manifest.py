import json
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds.core.system.errors import DataError
from clouds.core.system.images import write_png
from clouds.synthesis.generated_set import open_generated
from clouds.synthesis.manifest import FILE_NAME, MadeBy, Row, StoredFile, appending, read_rows
from clouds.synthesis.shards import write_shards

MADE_BY = MadeBy(name="stub", options={"steps": [1, 2]}, distribution="d", version="1")


def write_row(folder: Path, index: int, *, labels: bool = False) -> Row:
    """Write the files of one image and describe them."""
    name = f"im_{index}_p0.png"
    write_png(folder / "images" / name, np.full((2, 3, 3), index, np.uint8))
    picture = StoredFile.of(folder, f"images/{name}")
    if labels:
        write_png(folder / "labels" / name, np.full((2, 3), index, np.uint8))
    return Row(
        index=index,
        file=picture.file,
        bytes=picture.bytes,
        sha256=picture.sha256,
        prompt="a street – at night\u2028in two lines",
        prompt_index=0,
        seed=index,
        size=(2, 3),
        steps=None,
        guidance=7.5,
        fingerprint="00ff00ff00ff00ff",
        scores={"blank": 40.5},
        model={"revision": None},
        batch_size=4,
        filters={"blank": 3.0},
        generator=MADE_BY,
        libraries={"numpy": "2"},
        keep_labels=labels,
        labels=StoredFile.of(folder, f"labels/{name}") if labels else None,
    )


def fill(folder: Path, count: int, *, labels: bool = False) -> list[Row]:
    folder.mkdir(exist_ok=True)
    rows = [write_row(folder, index, labels=labels) for index in range(count)]
    with appending(folder) as append:
        for row in rows:
            append(row)
    return rows


def test_rows_survive(tmp_path: Path) -> None:
    rows = fill(tmp_path, 3, labels=True)
    opened = open_generated(tmp_path)
    assert list(opened.rows) == rows
    assert [path.name for path in opened.images] == ["im_0_p0.png", "im_1_p0.png", "im_2_p0.png"]
    assert opened.labels is not None
    assert [path.parent.name for path in opened.labels] == ["labels"] * 3


def test_labels_count_only_when_every_image_has_them(tmp_path: Path) -> None:
    fill(tmp_path, 2, labels=True)
    with appending(tmp_path) as append:
        append(write_row(tmp_path, 2))
    assert open_generated(tmp_path).labels is None


def test_rows_are_sorted_and_the_latest_of_an_index_counts(tmp_path: Path) -> None:
    first, second = fill(tmp_path, 2)
    with appending(tmp_path) as append:
        append(evolve(first, prompt="again"))
    assert read_rows(tmp_path) == (evolve(first, prompt="again"), second)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row], bytes]:
    """A folder with three rows, the rows, and the manifest's content."""
    folder = tmp_path_factory.mktemp("filled")
    rows = fill(folder, 3)
    return folder, rows, (folder / FILE_NAME).read_bytes()


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_a_line_torn_anywhere_is_dropped_and_the_next_row_is_whole(
    filled: tuple[Path, list[Row], bytes], data: st.DataObject
) -> None:
    folder, rows, content = filled
    kept = data.draw(st.integers(0, len(content)))
    (folder / FILE_NAME).write_bytes(content[:kept])
    whole = content[:kept].count(b"\n")
    assert read_rows(folder) == tuple(rows[:whole])
    with appending(folder) as append:
        append(rows[2])
    assert read_rows(folder) == (*rows[: min(whole, 2)], rows[2])


def test_two_versions_are_one_generator() -> None:
    assert evolve(MADE_BY, version="2") == MADE_BY
    assert evolve(MADE_BY, options={}) != MADE_BY


def test_a_folder_without_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.jsonl: no such file; give a folder that `clouds generate` wrote"):
        open_generated(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content", [b"{}\n", b"[1]\n", b"nonsense\n", b"nonsense", b'{"a": 1}', b"\xff\n", b"1\n", b"[" * 10**5 + b"\n"]
)
def test_a_foreign_manifest_is_named_and_not_touched(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(DataError, match=r"manifest\.jsonl: not the manifest of a generated dataset"):
        open_generated(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == content


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "images/../../secret.png"])
def test_rows_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "set"
    (row,) = fill(folder, 1)
    with appending(folder) as append:
        append(evolve(row, file=name))
    with pytest.raises(DataError, match="leads out of"):
        open_generated(folder)


@pytest.mark.parametrize("part", ["images", "labels"])
def test_missing_files_are_named(tmp_path: Path, part: str) -> None:
    fill(tmp_path, 3, labels=True)
    for index in (1, 2):
        (tmp_path / part / f"im_{index}_p0.png").unlink()
    with pytest.raises(DataError, match=rf"{part}/im_1_p0\.png: is missing.*\(and 1 more\); generate into .* again"):
        open_generated(tmp_path)


@pytest.mark.parametrize("part", ["images", "labels"])
def test_files_of_another_length_are_named(tmp_path: Path, part: str) -> None:
    fill(tmp_path, 1, labels=True)
    path = tmp_path / part / "im_0_p0.png"
    length = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"has {length - 1} bytes; manifest\.jsonl says {length}"):
        open_generated(tmp_path)


def test_every_row_is_one_json_line_with_plain_keys(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    lines = (tmp_path / FILE_NAME).read_bytes().splitlines()
    assert len(lines) == 2
    row = json.loads(lines[1])
    assert (row["file"], row["seed"], row["size"], row["labels"]) == ("images/im_1_p0.png", 1, [2, 3], None)


def test_files_may_be_links_but_writes_stay_in_the_folder(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "set", tmp_path / "disk"
    fill(folder, 2)
    (folder / "images").rename(elsewhere)
    (folder / "images").mkdir()
    for path in elsewhere.iterdir():
        (folder / "images" / path.name).symlink_to(path)
    made = open_generated(folder)
    assert len(made.images) == 2
    with pytest.raises(DataError, match="leads out of"):
        write_shards(made)
