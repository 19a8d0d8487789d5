import gc
import io
import os
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from PIL import Image

from clouds.core.contract.plan import Part
from clouds.core.pipeline.build import build_part
from clouds.core.system.errors import ConfigError, DataError
from clouds.synthesis.generate import generate_set
from clouds.synthesis.generated_set import GeneratedSet
from clouds.synthesis.shards import write_shards

PART = Part(kind="generator", name="procedural", distribution="clouds-dgss", version="0")


@pytest.fixture
def dataset(tmp_path: Path) -> GeneratedSet:
    generator = build_part("generator", "procedural")
    return generate_set(generator, PART, ["day"], n=5, out=tmp_path, size=(32, 48), keep_labels=True)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_them(dataset: GeneratedSet) -> None:
    import webdataset

    paths = write_shards(dataset, images_per_shard=2)
    assert [path.name for path in paths] == ["000000.tar", "000001.tar", "000002.tar"]
    samples = list(webdataset.WebDataset([str(path) for path in paths], shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [f"im_{index}_p0" for index in range(5)]
    assert dataset.labels is not None
    for sample, row, image in zip(samples, dataset.rows, dataset.images, strict=True):
        assert (sample["png"] == np.asarray(Image.open(image))).all()
        assert (sample["json"]["seed"], sample["json"]["sha256"]) == (row.seed, row.sha256)
    raw = next(iter(webdataset.WebDataset(str(paths[0]), shardshuffle=False)))
    gc.collect()  # webdataset leaves it to the collector to close the files that it reads
    assert (np.asarray(Image.open(io.BytesIO(raw["labels.png"]))) == np.asarray(Image.open(dataset.labels[0]))).all()


def test_complete_shards_stay_and_others_are_written_again(dataset: GeneratedSet) -> None:
    paths = write_shards(dataset, images_per_shard=2)
    whole = [path.read_bytes() for path in paths]
    for path in paths:
        os.utime(path, (0, 0))
    paths[1].write_bytes(whole[1][:700])
    paths[2].write_bytes(b"no tar")
    assert write_shards(dataset, images_per_shard=2) == paths
    assert [path.stat().st_mtime == 0 for path in paths] == [True, False, False]
    assert [path.read_bytes() for path in paths] == whole


def test_rows_that_changed_are_written_again(dataset: GeneratedSet) -> None:
    paths = write_shards(dataset)
    before = paths[0].read_bytes()
    changed = evolve(dataset, rows=(evolve(dataset.rows[0], prompt="dax"), *dataset.rows[1:]))
    assert write_shards(changed)[0].read_bytes() != before


def test_larger_shards_replace_smaller_ones(dataset: GeneratedSet) -> None:
    write_shards(dataset, images_per_shard=1)
    (path,) = write_shards(dataset, images_per_shard=10)
    assert [path] == list(path.parent.iterdir())


def test_wrong_use_is_named(dataset: GeneratedSet) -> None:
    with pytest.raises(ConfigError, match="shards need at least 1 image each, got images_per_shard=0"):
        write_shards(dataset, images_per_shard=0)
    with pytest.raises(ConfigError, match="has no manifest, which shards need"):
        write_shards(evolve(dataset, rows=()))
    with pytest.raises(ConfigError, match="its manifest lists no image; generate at least one"):
        write_shards(evolve(dataset, rows=(), images=(), labels=None))


def test_shards_stay_in_their_folder(dataset: GeneratedSet, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "mine.tar").touch()
    (dataset.folder / "shards").symlink_to(elsewhere)
    with pytest.raises(DataError, match="shards is, or lies behind, a link out of"):
        write_shards(dataset)
    assert [path.name for path in elsewhere.iterdir()] == ["mine.tar"]
