"""Export of a generated dataset as WebDataset shards (tar files for sequential reading)."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from attrs import asdict

from clouds.core.system.config import to_json
from clouds.core.system.errors import ConfigError
from clouds.core.system.files import atomic_file, inside, target_in
from clouds.core.system.progress import progress_bar
from clouds.synthesis.generated_set import GeneratedSet
from clouds.synthesis.manifest import Row

FOLDER = "shards"


def write_shards(dataset: GeneratedSet, *, images_per_shard: int = 1000, progress: bool = False) -> tuple[Path, ...]:
    """Write `shards/000000.tar`, ... into a dataset's folder; complete shards are kept.

    A sample has the key `im_{j}_p{k}`, and the files `png` (the image), `json` (its manifest row) and, if there are
    exact labels, `labels.png` (train ids).

    Args:
        dataset: a dataset with a manifest.
        images_per_shard: number of images in all shards but the last.
        progress: show a progress bar on standard error if it is a terminal.

    Raises:
        ConfigError: `images_per_shard` is less than 1, or the dataset has no manifest, or an empty one.
        DataError: a file is a link that points outside the folder.
    """
    if images_per_shard < 1:
        raise ConfigError(f"shards need at least 1 image each, got images_per_shard={images_per_shard}")
    if not dataset.images:
        raise ConfigError(f"{dataset.folder}: its manifest lists no image; generate at least one")
    if not dataset.rows:
        raise ConfigError(f"{dataset.folder}: has no manifest, which shards need; generate the dataset")
    folder = target_in(dataset.folder, FOLDER)
    waiting = iter(dataset.rows)
    groups = iter(lambda: list(islice(waiting, images_per_shard)), [])
    paths: list[Path] = []
    total = -(-len(dataset.rows) // images_per_shard)
    with progress_bar(shown=progress) as bar:
        for number, rows in enumerate(bar.track(groups, total=total, description="shards")):
            paths.append(target_in(dataset.folder, f"{FOLDER}/{number:06d}.tar"))
            if not _is_complete(paths[-1], rows):
                _write(paths[-1], dataset.folder, rows)
    for path in set(folder.glob("*.tar")) - set(paths):  # from an earlier run with smaller shards
        path.unlink()
    return tuple(paths)


def _write(path: Path, folder: Path, rows: Sequence[Row]) -> None:
    from webdataset.writer import TarWriter

    with atomic_file(path) as temporary, TarWriter(str(temporary), encoder=False, mtime=0) as tar:
        for row in rows:
            sample: dict[str, Any] = {"__key__": _key(row), "json": _document(row)}
            sample["png"] = inside(folder, row.file).read_bytes()  # a link outside would leak its file into the tar
            if row.labels:
                sample["labels.png"] = inside(folder, row.labels.file).read_bytes()
            tar.write(sample)


def _is_complete(path: Path, rows: Sequence[Row]) -> bool:
    """Whether a shard has the files of these rows, compared by size, and exactly these rows."""
    if not path.is_file():
        return False
    wanted = {f"{_key(row)}.png": row.bytes for row in rows}
    wanted |= {f"{_key(row)}.labels.png": row.labels.bytes for row in rows if row.labels}
    documents = {f"{_key(row)}.json": _document(row) for row in rows}
    wanted |= {name: len(document) for name, document in documents.items()}
    try:
        with tarfile.open(path, "r:") as tar:
            if {member.name: member.size for member in tar} != wanted:
                return False
            found = {name: tar.extractfile(name) for name in documents}
            return all(file is not None and file.read() == documents[name] for name, file in found.items())
    except tarfile.TarError:
        return False


def _key(row: Row) -> str:
    return Path(row.file).stem


def _document(row: Row) -> bytes:
    return to_json(asdict(row)).encode()
