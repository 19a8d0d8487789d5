"""Pickles are followed before torch reads them: what they would make must fit their file."""

import collections
import contextlib
import io
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clouds.core.system.errors import WeightsError
from clouds.core.weights import pickle_scan
from clouds.core.weights.loading import read_pickle
from clouds.core.weights.pickle_scan import Refused, scan_pickle

HEADER = b"\x80\x02"


def text(value: str) -> bytes:
    content = value.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def with_pickle(path: Path, program: bytes, method: int = zipfile.ZIP_STORED, storage: bytes | None = None) -> Path:
    """A checkpoint of one tensor whose pickle, or whose storage, is another one."""
    saved = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, saved)
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(path, "w", method) as altered:
        for entry in whole.infolist():
            content = whole.read(entry)
            if entry.filename.endswith("data.pkl"):
                content = program or content
            if entry.filename.endswith("data/0"):
                content = content if storage is None else storage
            altered.writestr(entry.filename, content)
    return path


PARAMETER = torch.nn.Parameter(torch.ones(2))
PARAMETER.note = "kept"  # pyright: ignore[reportAttributeAccessIssue]
SPECIAL = torch.ones(2)
SPECIAL.note = "kept"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        {"a": torch.zeros(3, 4).t(), "b": torch.zeros(5)[2:], "c": torch.zeros(())},
        [
            torch.zeros(2, dtype=kind)
            for kind in (torch.bfloat16, torch.int8, torch.uint8, torch.int16, torch.complex64)
        ],
        {"a": PARAMETER, "b": torch.nn.Parameter(torch.ones(1)), "c": SPECIAL},
        torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict(),
        torch.optim.Adam([torch.nn.Parameter(torch.ones(1))]).state_dict(),
        {"s": torch.Size([1, 2]), "d": torch.device("cpu"), "t": torch.float16, "o": collections.OrderedDict(a=1)},
        {"a": np.arange(6).reshape(2, 3).T, "b": np.float32(1), "c": np.array("x" * 3)[()].item(), "d": np.bool_(True)},
        {"n": None, "i": 2**70, "f": 1.5, "b": b"abc", "l": [(), (1,), (1, 2, 3, 4)], "neg": -1, 3: 4},
    ],
)
def test_what_torch_saves_is_read(tmp_path: Path, content: Any, zipped: bool) -> None:
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert repr(read_pickle(tmp_path / "w.pth")) == repr(content)


def encode(value: str, codec: str) -> bytes:
    return HEADER + b"c_codecs\nencode\n" + text(value) + text(codec) + b"\x86R."


@pytest.mark.parametrize(
    ("program", "match"),
    [
        (encode("x" * 9, "punycode"), r"a call of _codecs\.encode that torch\.save does not write"),
        (encode("x" * 9, "zip"), r"a call of _codecs\.encode that torch\.save does not write"),
        (HEADER + b"cnumpy\nndarray\n\x8a\x05\0\0\0\0\x04\x85\x85R.", r"a call of numpy\.ndarray that"),
        (HEADER + b"cnumpy\nndarray\n\x8a\x05\0\0\0\0\x04\x85\x85\x81.", r"a call of numpy\.ndarray that"),
        (HEADER + b"cnumpy\ndtype\n" + text("(9999,9999)f8") + b"\x85R.", r"a call of numpy\.dtype that"),
        (
            HEADER + b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x8a\x05\0\0\0\0\x04\x85C\x01b\x87R.",
            r"does not write \(SHORT_BINBYTES\)",
        ),
        (HEADER + b"cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x04\x85R.", r"carries code \(builtins\.bytearray\)"),
        (HEADER + b"cposix\nsystem\n" + text("true") + b"\x85R.", r"carries code \(posix\.system\)"),
        (HEADER + b"}())K\x01s.", "an instruction without its values|a dict whose key is a tuple"),
        (HEADER + b"}(K\x01K\x02\x86K\x03u.", "a dict whose key is a tuple"),
        (HEADER + b"}K\x01K\x02\x86K\x03s.", "a dict whose key is a tuple"),
        (HEADER + b"R.", "an instruction without its values"),
        (HEADER + b"t.", "an instruction without its values"),
        (HEADER + b"\x86.", "an instruction without its values"),
        (HEADER + b"h\x07.", "an instruction without its values"),
        (HEADER + b"K\x01)R.", r"a call of a value that torch\.save does not write"),
        (HEADER + b"K\x01}b.", r"a state of something that torch\.save gives none"),
        (HEADER + b"K\x01Q.", r"a storage in another form than torch\.save writes"),
        (b"\x80\x04\x95" + bytes(8) + b"N.", r"that torch\.save does not write \(FRAME\)"),
        (b"(lp0\n.", r"that torch\.save does not write \(LIST\)"),
        (HEADER + b"N", r"\(ValueError\)"),
    ],
)
def test_other_programs_are_refused_before_they_run(tmp_path: Path, program: bytes, match: str) -> None:
    with pytest.raises(WeightsError, match=rf"w\.pth: .*nothing of it was run.*{match}"):
        read_pickle(with_pickle(tmp_path / "w.pth", program))


def altered(change: Callable[[bytes], bytes]) -> bytes:
    """The pickle of a tensor of three elements, changed."""
    saved = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, saved)
    with zipfile.ZipFile(saved) as whole:
        program = whole.read(next(name for name in whole.namelist() if name.endswith("data.pkl")))
    assert change(program) != program
    return change(program)


@pytest.mark.parametrize(
    ("program", "match"),
    [
        (encode("a", "utf-8"), r"_codecs\.encode"),
        (altered(lambda program: program.replace(b"K\x03\x85", b"M\xff\xff\x85")), r"a tensor of shape \(65535,\)"),
        (altered(lambda program: program.replace(b"K\x03t", b"M\xff\xfft")), r"a storage of 262140 bytes, for which"),
        (altered(lambda program: program.replace(b"FloatStorage", b"ComplexDoubleStorage")), "a storage of 48 bytes"),
        (altered(lambda program: program.replace(b"FloatStorage", b"OddStorage")), r"carries code \(torch\.OddStorage"),
    ],
)
def test_sizes_that_the_file_does_not_have_are_refused(tmp_path: Path, program: bytes, match: str) -> None:
    path = with_pickle(tmp_path / "w.pth", program, storage=bytes(12))
    with pytest.raises(WeightsError, match=rf"w\.pth: .*{match}"):
        read_pickle(path)


def test_a_tensor_that_shows_its_elements_many_times_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(10**12)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"a tensor of shape \(1000000000000,\), for which its storage has 1 elem"):
        read_pickle(tmp_path / "w.pth")


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = with_pickle(tmp_path / "w.pth", b"", zipfile.ZIP_DEFLATED, storage=bytes(10**6))
    with pytest.raises(WeightsError, match=r"an archive of other entries than torch\.save writes, which compresses"):
        read_pickle(path)


def test_many_instructions_are_refused_after_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_scan, "_MOST_STEPS", 100)
    scan_pickle(io.BytesIO(HEADER + b"N" * 90 + b"."), 0)
    with pytest.raises(Refused, match="more than 100 instructions"):
        scan_pickle(io.BytesIO(HEADER + b"N" * 100 + b"."), 0)


def test_each_instruction_is_followed_once() -> None:
    """The work is linear: as many steps as instructions, whatever they are, and nothing is made of what they name."""
    programs = (encode("x" * 10, "latin1"), encode("x" * 10_000, "latin1"))
    assert len({sum(1 for _ in pickletools.genops(program)) for program in programs}) == 1
    for program in programs:
        scan_pickle(io.BytesIO(program), len(program))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_or_followed(content: bytes) -> None:
    with contextlib.suppress(Refused, ValueError):
        scan_pickle(io.BytesIO(content), len(content))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=20,
    )
)
def test_plain_values_are_followed(content: Any) -> None:
    saved = io.BytesIO()
    torch.save(content, saved)
    with zipfile.ZipFile(saved) as whole:
        scan_pickle(io.BytesIO(whole.read("archive/data.pkl")), 0)
