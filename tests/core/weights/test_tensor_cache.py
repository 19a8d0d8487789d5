"""Tensors on disk: bounded, whole or absent, for several processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clouds.core.system.errors import ConfigError, DataError
from clouds.core.weights.tensor_cache import DamagedCacheWarning, TensorCache

ENTRY = {"a": torch.arange(256, dtype=torch.float16).view(4, 64)}

# Writes and reads entries until it is killed or has done so many rounds; what it reads must be whole.
SCRIPT = """
import sys
import torch
from clouds.core.weights.tensor_cache import TensorCache

cache, own = TensorCache(sys.argv[1], max_bytes=int(sys.argv[2])), int(sys.argv[3])
for number in range(int(sys.argv[4])):
    cache.put(f"{own}-{number}", {"a": torch.full((4, 4096), number)})
    for other in range(3):
        found = cache.get(f"{other}-{number}")
        assert found is None or (found["a"] == number).all()
"""


def start(folder: Path, *, own: int, rounds: int, max_bytes: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(max_bytes), str(own), str(rounds)])


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def bytes_of_one(folder: Path) -> int:
    TensorCache(folder / "one", max_bytes=10**6).put("one", ENTRY)
    return size(folder / "one")


def test_what_was_put_is_got(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "cache", max_bytes=10**6)
    assert cache.get("a") is None
    cache.put("a", ENTRY)
    found = cache.get("a")
    assert found is not None
    assert found["a"].equal(ENTRY["a"])
    assert cache.get("b") is None


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    folder, one = tmp_path / "cache", bytes_of_one(tmp_path)
    cache = TensorCache(folder, max_bytes=3 * one)
    for age, key in enumerate("abc"):
        cache.put(key, ENTRY)
        os.utime(folder / f"{key}.cached.safetensors", ns=(age, age))  # files of one moment may have the same time
    cache.get("a")
    cache.put("d", ENTRY)
    assert [key for key in "abcd" if cache.get(key)] == ["a", "c", "d"]
    assert size(folder) <= cache.max_bytes


def test_what_a_killed_process_left_unfinished_makes_room(tmp_path: Path) -> None:
    one = bytes_of_one(tmp_path)
    folder = tmp_path / "cache"
    folder.mkdir()
    left = folder / ".a.cached.12345678.tmp.safetensors"
    left.write_bytes(b"0" * 2 * one)
    os.utime(left, ns=(0, 0))
    TensorCache(folder, max_bytes=2 * one).put("b", ENTRY)
    assert [path.name for path in folder.iterdir()] == ["b.cached.safetensors"]


def test_what_another_process_is_about_to_finish_stays(tmp_path: Path) -> None:
    """It is the oldest file, where its process was stopped for a moment before the last step."""
    one = bytes_of_one(tmp_path)
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / ".a.cached.12345678.tmp.safetensors").write_bytes(b"0" * one)
    cache = TensorCache(folder, max_bytes=2 * one)
    for key in "bc":
        cache.put(key, ENTRY)
    assert {path.name for path in folder.iterdir()} == {".a.cached.12345678.tmp.safetensors", "c.cached.safetensors"}


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    one = bytes_of_one(tmp_path)
    folder = tmp_path / "cache"
    (folder / "sub").mkdir(parents=True)
    for name in ("thesis.tar", "model.safetensors", "sub/a.cached.safetensors"):
        (folder / name).write_bytes(b"0" * 4 * one)
        os.utime(folder / name, ns=(0, 0))
    os.utime(folder / "sub", ns=(0, 0))
    cache = TensorCache(folder, max_bytes=2 * one)
    for key in "abc":
        cache.put(key, ENTRY)
    assert [key for key in "abc" if cache.get(key)] == ["b", "c"]
    assert {path.name for path in folder.iterdir()} >= {"thesis.tar", "model.safetensors", "sub"}
    assert (folder / "sub" / "a.cached.safetensors").exists()


def test_a_damaged_entry_is_none(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path, max_bytes=10**6)
    cache.put("a", ENTRY)
    path = tmp_path / "a.cached.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(DamagedCacheWarning, match=r"a\.cached\.safetensors: not as it was put .* computed again"):
        assert cache.get("a") is None
    assert cache.get("a") is None  # said once
    cache.put("a", ENTRY)
    assert cache.get("a") is not None


def test_an_entry_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path, max_bytes=1 << 20)
    cache.put("key", {"x": torch.ones(2)})
    (entry,) = (path for path in tmp_path.rglob("*") if path.is_file() and path.suffix == ".safetensors")
    entry.unlink()
    entry.mkdir()
    with pytest.warns(DamagedCacheWarning, match="Is a directory"):
        assert cache.get("key") is None


@pytest.mark.parametrize(
    "other",
    [
        {"a": ENTRY["a"][:2]},
        {"b": ENTRY["a"]},
        {},
        {"a": ENTRY["a"] + 1},
        {"a": ENTRY["a"].view(torch.int16)},
        {"a": ENTRY["a"]},
    ],
)
def test_a_file_that_was_not_put_there_is_not_believed(tmp_path: Path, other: dict[str, torch.Tensor]) -> None:
    cache = TensorCache(tmp_path, max_bytes=10**6)
    cache.put("a", ENTRY)
    save_file(other, tmp_path / "a.cached.safetensors")
    with pytest.warns(DamagedCacheWarning, match="its key or its digest is another one"):
        assert cache.get("a") is None


def test_any_changed_byte_is_noticed(tmp_path: Path) -> None:
    TensorCache(tmp_path, max_bytes=10**6).put("a", ENTRY)
    path = tmp_path / "a.cached.safetensors"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.warns(DamagedCacheWarning):
            assert TensorCache(tmp_path, max_bytes=10**6).get("a") is None, place


def test_an_entry_of_another_key_or_beyond_the_bound_is_not_believed(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path, max_bytes=10**6)
    cache.put("a", ENTRY)
    shutil.copy(tmp_path / "a.cached.safetensors", tmp_path / "b.cached.safetensors")
    with pytest.warns(DamagedCacheWarning, match="its key or its digest is another one"):
        assert cache.get("b") is None
    with pytest.warns(DamagedCacheWarning, match="larger than the whole cache"):
        assert TensorCache(tmp_path, max_bytes=100).get("a") is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = TensorCache(tmp_path / "file" / "cache", max_bytes=10**6)
    assert cache.get("a") is None
    with pytest.raises(DataError, match=r"file/cache cannot be written \(.*\); make room there or choose another"):
        cache.put("a", ENTRY)


def test_a_full_disk_leaves_nothing_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TensorCache(tmp_path, max_bytes=10**6)
    cache.put("a", ENTRY)

    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as stream:
            stream.write(data[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DataError, match="No space left on device"):
            cache.put("b", ENTRY)
    assert [path.name for path in tmp_path.iterdir()] == ["a.cached.safetensors"]
    assert cache.get("a") is not None


def test_an_entry_above_the_bound_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one entry takes \d+ bytes, the bound on all is 100; raise the bound"):
        TensorCache(tmp_path, max_bytes=100).put("a", ENTRY)
    with pytest.raises(ConfigError, match="bound of 0 bytes; expected at least 1"):
        TensorCache(tmp_path, max_bytes=0)


def test_several_processes_share_a_folder_and_one_is_killed(tmp_path: Path) -> None:
    """Bound of about ten entries; the killed process is in the middle of its rounds."""
    folder, bound = tmp_path / "cache", 10 * (4 * 4096 * 8 + 200)
    killed = start(folder, own=0, rounds=10**9, max_bytes=bound)
    others = [start(folder, own=own, rounds=60, max_bytes=bound) for own in (1, 2)]
    deadline = time.monotonic() + 300  # a busy machine takes long to import torch
    while not list(folder.glob("0-*")):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert [other.wait(timeout=300) for other in others] == [0, 0]
    cache = TensorCache(folder, max_bytes=bound)
    whole = [path for path in folder.glob("*.safetensors") if not path.name.startswith(".")]
    assert whole
    assert all(cache.get(path.name.removesuffix(".cached.safetensors")) is not None for path in whole)
    cache.put("last", ENTRY)
    assert size(folder) <= bound
