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

from clouds.core.system import files
from clouds.core.system.errors import ConfigError, DataError
from clouds.core.system.files import (
    atomic_file,
    atomic_folder,
    inside,
    link_file,
    only_writer,
    own_folder,
    printable,
    target_in,
    without_tilde,
    write_text,
)


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.png"
    with atomic_file(target) as temporary:
        assert temporary.suffix == ".png"  # writers choose the format by the name
        temporary.write_text("new", encoding="utf-8")
        assert not target.exists()
    assert target.read_text(encoding="utf-8") == "new"
    assert files_below(tmp_path) == ["deep", "deep/a.png"]


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(DataError, match=f"{place} is not a regular file"), atomic_file(place) as temporary:
            temporary.write_text("never", encoding="utf-8")
    assert (tmp_path / "pipe").is_fifo()


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError), atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half way \udc80", encoding="utf-8")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"
    assert files_below(tmp_path) == ["a.txt"]


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    target = tmp_path / "a.png"

    def write() -> None:
        with atomic_file(target) as temporary:
            temporary.write_text("half", encoding="utf-8")
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
        "import sys, time\nfrom clouds.core.system.files import atomic_file, atomic_folder\n"
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
        (temporary / "m").write_text("whole", encoding="utf-8")
    assert (tmp_path / "folder" / "m").read_text(encoding="utf-8") == "whole"
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["folder"]  # nothing of the killed one


def test_a_folder_replaces_one_of_its_sort(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for text in ("first", "second"):
        with atomic_folder(target, marker="plan.json") as temporary:
            (temporary / "plan.json").write_text(text, encoding="utf-8")
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
        (temporary / "m").write_text("old", encoding="utf-8")
    replace = os.replace

    def interrupted(source: Path, target: Path) -> None:
        if Path(target).name == "out":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "out", marker="m") as temporary:
            (temporary / "m").write_text("new", encoding="utf-8")
    assert [path.read_text(encoding="utf-8") for path in tmp_path.rglob("m")] == ["old"]
    with pytest.raises(RuntimeError, match="another"), atomic_folder(tmp_path / "out", marker="m"):
        raise RuntimeError("another fault")
    assert (tmp_path / "out" / "m").read_text(encoding="utf-8") == "old"  # it has its name again


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_is_replaced_with_and_without_an_exchange_of_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    if not exchanges:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "out", marker="m") as temporary:
            (temporary / "m").write_text(text, encoding="utf-8")
    assert (tmp_path / "out" / "m").read_text(encoding="utf-8") == "new"
    assert files_below(tmp_path) == ["out", "out/m"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two names in one step")
def test_there_is_a_folder_of_that_name_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No rename moves it away, and none takes its place: the names are exchanged."""
    with atomic_folder(tmp_path / "out", marker="m") as temporary:
        (temporary / "m").write_text("old", encoding="utf-8")
    monkeypatch.setattr(os, "replace", lambda *names: pytest.fail(f"renamed {names}"))
    with atomic_folder(tmp_path / "out", marker="m") as temporary:
        (temporary / "m").write_text("new", encoding="utf-8")
    assert (tmp_path / "out" / "m").read_text(encoding="utf-8") == "new"


def test_an_exchange_that_fails_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No such file or directory: '.*b'"):
        files._exchange(tmp_path / "a", tmp_path / "b")


def test_a_folder_that_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out", marker="m") as first:
        (first / "m").write_text("first", encoding="utf-8")
        with atomic_folder(tmp_path / "out", marker="m") as second:
            (second / "m").write_text("second", encoding="utf-8")
        assert (first / "m").read_text(encoding="utf-8") == "first"
    assert (tmp_path / "out" / "m").read_text(encoding="utf-8") == "first"
    assert files_below(tmp_path) == ["out", "out/m"]


class TestOwnFolder:
    def test_it_is_made_and_owned_once(self, tmp_path: Path) -> None:
        with own_folder(tmp_path / "deep" / "run", marker="m") as folder:
            write_text(folder / "m", "mine")
            other = own_folder(folder, marker="m")
            with pytest.raises(DataError, match=r"another run is writing to this folder"), other:
                pytest.fail("the block must not run")
        with own_folder(folder, marker="m"):
            assert (folder / "m").read_text(encoding="utf-8") == "mine"

    def test_what_holds_something_else_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter").touch()
        (tmp_path / "file").touch()
        for name, reason in (("thesis", "is not empty and has no m"), ("file", "is not a folder")):
            with pytest.raises(DataError, match=reason), own_folder(tmp_path / name, marker="m"):
                pytest.fail("the block must not run")
        assert files_below(tmp_path) == ["file", "thesis", "thesis/chapter"]

    def test_what_a_killed_process_left_unfinished_is_removed(self, tmp_path: Path) -> None:
        with own_folder(tmp_path, marker="m.json"):
            write_text(tmp_path / "m.json", "{}")
        (tmp_path / ".m.0123abcd.tmp.json").write_text("half", encoding="utf-8")
        (tmp_path / ".out.0123abcd.tmp").mkdir()
        (tmp_path / ".out.0123abcd.tmp" / "part").touch()
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / ".im_0.0123abcd.tmp.png").touch()
        with own_folder(tmp_path, marker="m.json"):
            assert files_below(tmp_path) == [".lock", "images", "m.json"]

    def test_a_process_that_was_killed_before_it_wrote_the_marker_is_in_nobodys_way(self, tmp_path: Path) -> None:
        (tmp_path / ".lock").touch()
        (tmp_path / ".m.0123abcd.tmp.json").write_text("half", encoding="utf-8")
        with own_folder(tmp_path, marker="m.json"):
            assert files_below(tmp_path) == [".lock"]

    def test_a_folder_that_was_being_replaced_gets_its_name_back(self, tmp_path: Path) -> None:
        (tmp_path / ".out.0123abcd.old").mkdir()
        (tmp_path / ".out.0123abcd.old" / "part").write_text("old", encoding="utf-8")
        with own_folder(tmp_path, marker="m"):
            assert (tmp_path / "out" / "part").read_text(encoding="utf-8") == "old"

    def test_nothing_is_removed_while_another_process_owns_it(self, tmp_path: Path) -> None:
        left = tmp_path / ".m.0123abcd.tmp.json"
        left.touch()
        with only_writer(tmp_path / ".lock"):
            with pytest.raises(DataError, match="another run is writing"), own_folder(tmp_path, marker="m"):
                pytest.fail("the block must not run")
            assert left.exists()


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
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == r"b\udcff"


@pytest.mark.parametrize("name", ["sub/a.txt", "sub/deeper/a.txt", "link.txt"])
def test_nothing_is_written_behind_a_link_out(tmp_path: Path, name: str) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for folder in (root, elsewhere / "deeper"):
        folder.mkdir(parents=True)
    (root / "sub").symlink_to(elsewhere)
    (root / "link.txt").symlink_to(elsewhere / "new.txt")
    with pytest.raises(DataError, match=rf"{name} is, or lies behind, a link out of .*root; nothing is written there"):
        target_in(root, name)
    assert not (elsewhere / "new.txt").exists()


def test_a_file_is_linked_once(tmp_path: Path) -> None:
    source, other, target = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "sub" / "link.txt"
    source.write_text("a", encoding="utf-8")
    target.parent.mkdir()
    target.symlink_to(tmp_path / "gone.txt")
    link_file(source, target)
    assert target.samefile(source)
    other.write_text("b", encoding="utf-8")
    link_file(other, target)
    assert target.samefile(source)


def test_links_that_stay_inside_and_a_root_that_is_one_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "real" / "short").symlink_to("sub")
    (tmp_path / "root").symlink_to("real")
    assert target_in(tmp_path / "root", "short/a.txt") == tmp_path / "root" / "short" / "a.txt"


@pytest.mark.parametrize("name", ["../a", "/etc/a", "a\0b"])
def test_names_that_lead_out_by_themselves_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"leads out of|null character"):
        target_in(tmp_path, name)


def test_the_lock_of_a_folder_is_no_link_out(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path.parent / "elsewhere")
    with pytest.raises(DataError, match="lock is, or lies behind, a link out of"), only_writer(tmp_path / "lock"):
        pass
    assert not (tmp_path.parent / "elsewhere").exists()


@given(st.text())
def test_printable_text_cannot_steer_a_terminal(text: str) -> None:
    shown = printable(text)
    assert all(letter.isprintable() or letter in "\n\t" for letter in shown)
    shown.encode("utf-8")
    assert printable(shown) == shown
    assert shown == text or not text.isprintable()


def test_bytes_of_names_that_are_no_text_are_shown() -> None:
    assert printable(os.fsdecode(b"caf\xe9\x1b[2J\r.png")) == r"caf\xe9\x1b[2J\r.png"
    assert printable("a\u202egnp.exe") == r"a\u202egnp.exe"
    assert printable("Zürich – 東京 😀") == "Zürich – 東京 😀"


@pytest.mark.parametrize("name", ["~nobody-here/x", "~og\0/x"])
def test_a_home_folder_that_cannot_be_found_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match="no home folder of that user; give the path itself"):
        without_tilde(name)
