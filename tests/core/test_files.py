"""Files appear whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds.core.errors import DataError
from clouds.core.files import atomic_file, atomic_folder, inside, write_text


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.png"
    with atomic_file(target) as temporary:
        assert temporary.suffix == ".png"  # writers choose the format by the name
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert files_below(tmp_path) == ["deep", "deep/a.png"]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError), atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half way \udc80", encoding="utf-8")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert files_below(tmp_path) == ["a.txt"]


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    target = tmp_path / "a.png"

    def write() -> None:
        with atomic_file(target) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=rf"No space left on device: '{target}'"):
        write()
    assert files_below(tmp_path) == []


def test_a_file_that_was_not_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "a.txt"):
        pass
    assert files_below(tmp_path) == []


def test_a_killed_writer_leaves_no_file_of_that_name(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom clouds.core.files import atomic_file, atomic_folder\n"
        "with atomic_folder(sys.argv[1] + '/folder', marker='m') as f, atomic_file(sys.argv[1] + '/a.txt') as t:\n"
        "    t.write_text('half'); (f / 'm').write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGKILL)
    assert not (tmp_path / "a.txt").exists()
    assert not (tmp_path / "folder").exists()
    write_text(tmp_path / "a.txt", "whole")  # what is left over is in nobody's way
    with atomic_folder(tmp_path / "folder", marker="m") as temporary:
        (temporary / "m").write_text("whole")
    assert (tmp_path / "folder" / "m").read_text() == "whole"


def test_a_folder_replaces_one_of_its_sort(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for text in ("first", "second"):
        with atomic_folder(target, marker="plan.json") as temporary:
            (temporary / "plan.json").write_text(text)
            (temporary / text).touch()
    assert files_below(tmp_path) == ["out", "out/plan.json", "out/second"]
    with pytest.raises(RuntimeError, match="half way"), atomic_folder(target, marker="plan.json"):
        raise RuntimeError("half way")
    assert files_below(tmp_path) == ["out", "out/plan.json", "out/second"]


def test_an_empty_folder_is_replaced_and_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with atomic_folder(tmp_path / "empty", marker="m") as temporary:
        (temporary / "m").touch()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").touch()
    (tmp_path / "file").touch()
    for name in ("thesis", "file"):
        message = f"{name} exists and has no m; choose another folder, or remove it"
        with pytest.raises(DataError, match=message), atomic_folder(tmp_path / name, marker="m"):
            pytest.fail("the block must not run")
    assert (tmp_path / "thesis" / "chapter").exists()


def test_the_old_folder_survives_an_interrupt_while_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with atomic_folder(tmp_path / "out", marker="m") as temporary:
        (temporary / "m").write_text("old")
    replace = os.replace

    def interrupted(source: Path, target: Path) -> None:
        if Path(target).name == "out":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "out", marker="m") as temporary:
        (temporary / "m").write_text("new")
    assert [path.read_text() for path in tmp_path.rglob("m")] == ["old"]


names = st.lists(st.sampled_from(["a", "b", "..", ".", "", "c.png"]), min_size=1, max_size=5).map("/".join) | st.text()


@given(names)
def test_names_stay_inside_their_folder(name: str) -> None:
    root = Path("/data/set")
    try:
        path = inside(root, name)
    except DataError:
        return
    assert path == root or root in path.parents


@pytest.mark.parametrize("name", ["../other/a.png", "/etc/passwd", "a/../../b", "..", "a\0b"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"leads out of .*; names must stay inside|has a null character"):
        inside(tmp_path, name)


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="leads out of"):
        inside(tmp_path / "root", "link/secret")
    assert inside(tmp_path / "root", "a/./b.png") == tmp_path / "root" / "a" / "b.png"


def test_names_that_are_no_text_are_written_as_escapes(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "b\udcff")
    assert (tmp_path / "a.txt").read_text() == r"b\udcff"
