"""Scans a pickle of torch.save for code, sizes and running time, without executing it.

A pickle is a program. torch's `weights_only` runs no foreign code, but calls allowed functions with any argument, such
as an array of any shape or a codec of quadratic time. This module interprets each instruction on a stack of stand-ins.
It accepts only tensors, numpy arrays and plain values whose data the file holds, before torch reads it.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable, Mapping
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, cast, final
from zipfile import BadZipFile, ZipFile, is_zipfile

_SHOWN = 5  # names in a message
_MOST_STEPS = 5_000_000  # instructions, which take some seconds; a tensor takes about 30
_MOST_SIZES = 64  # dimensions of a tensor
_LEGACY = 5  # pickles in a legacy file (no archive): magic number, protocol, system, content, storage keys
_MARK = object()
_DTYPE = re.compile(r"[<>=|]?[a-zA-Z?]\d{0,3}")  # no structured dtypes or subarrays
_ARRAYS = tuple(f"numpy.{core}.multiarray" for core in ("core", "_core"))
_PLAIN = re.compile(
    r"torch (b?float\d+\w*|u?int\d+|complex\d+|bool|half|double|Tensor)|torch\.nn\.parameter Parameter|numpy ndarray"
)
_STORAGES = {  # bytes per element
    **{f"torch {name}Storage": 1 for name in ("Byte", "Char", "Bool", "QInt8", "QUInt8")},
    **{f"torch {name}Storage": 2 for name in ("Half", "BFloat16", "Short")},
    **{f"torch {name}Storage": 4 for name in ("Float", "Int", "QInt32")},
    **{f"torch {name}Storage": 8 for name in ("Double", "Long", "ComplexFloat")},
    "torch ComplexDoubleStorage": 16,
    "torch.storage UntypedStorage": 1,
}


class Refused(Exception):
    """The pickle is not a checkpoint of tensors, arrays and plain values that fit the file."""


class TorchScript(Refused):
    """The file is a TorchScript program with weights."""


class CarriesCode(Refused):
    """The pickle uses unknown functions or classes, which the message lists."""


@final
class _StandIn:
    """Stand-in for an object of the pickle: `name` of a function or class, `size` in elements of a storage."""

    __slots__ = ("name", "size")

    def __init__(self, name: str = "", size: int = 0) -> None:
        self.name, self.size = name, size


_OTHER, _BUILT = _StandIn(), _StandIn()  # `_BUILT` accepts a state: a dict, an array or its dtype


def scan_file(path: Path) -> None:
    """Scan the pickles of a torch.save file.

    Raises:
        Refused, CarriesCode: see `scan_pickle`; or the entries of an archive are larger than the archive.
        ValueError: the file is something else or truncated.
    """
    bytes_ = path.stat().st_size
    if not is_zipfile(path):
        with open(path, "rb") as stream:
            for _ in range(_LEGACY):
                scan_pickle(stream, bytes_)
        return
    try:
        with ZipFile(path) as archive:
            entries = {entry.filename: entry.file_size for entry in archive.infolist()}
            names = [name for name in entries if name.endswith("/data.pkl")]
            if any(name.endswith("/constants.pkl") for name in entries):
                raise TorchScript
            if len(names) != 1 or sum(entries.values()) > bytes_ or len(entries) < len(archive.infolist()):
                raise Refused("an archive of other entries than torch.save writes, which compresses none")
            root = names[0].removesuffix("data.pkl") + "data/"
            sizes = {name.removeprefix(root): size for name, size in entries.items() if name.startswith(root)}
            scan_pickle(BytesIO(archive.read(names[0])), sizes)
    except (BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(str(error)) from error


def scan_pickle(stream: BytesIO | BufferedReader, sizes: Mapping[str, int] | int) -> None:
    """Scan one pickle; afterwards the stream is positioned after it.

    Args:
        stream: positioned at the pickle's first byte.
        sizes: bytes of each storage by key, or bytes of the whole file as an upper bound.

    Raises:
        Refused: the pickle has an instruction or call that torch.save does not write, a tensor larger than its storage,
            or a storage larger than the stored data.
        CarriesCode: names unknown functions and classes.
        ValueError: the bytes are not a pickle, or it is truncated.
    """
    scan = _Scan(sizes)
    try:
        for steps, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if steps >= _MOST_STEPS:
                raise Refused(f"more than {_MOST_STEPS} instructions")
            scan.step(opcode.name, argument)
    except Refused:
        if not scan.unknown:
            raise
    if scan.unknown:
        raise CarriesCode(", ".join(sorted(scan.unknown)[:_SHOWN]))


@final
class _Scan:
    """The stack machine. Values that calls depend on are kept; all others share one stand-in."""

    def __init__(self, sizes: Mapping[str, int] | int) -> None:
        self.sizes = sizes
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.unknown: set[str] = set()

    def step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(_VALUES[name](argument))
        elif name in _TUPLES:
            count = _TUPLES[name]
            self.stack[len(self.stack) - count :] = [tuple(self._pop(count))]
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in _NOTHING:
            raise Refused(f"an instruction that torch.save does not write ({name})")

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise Refused("an instruction without its values")
        return self.stack[len(self.stack) - count :]

    def _to_mark(self) -> list[Any]:
        items: list[Any] = []
        while self.stack:
            item = self.stack.pop()
            if item is _MARK:
                return items[::-1]
            items.append(item)
        raise Refused("an instruction without its values")

    def _take(self) -> Any:
        if not self.stack:
            raise Refused("an instruction without its values")
        return self.stack.pop()

    def put(self, place: int) -> None:
        self.memo[place] = self._pop(1)[0]

    def get(self, place: int) -> None:
        if place not in self.memo:
            raise Refused("an instruction without its values")
        self.stack.append(self.memo[place])

    def find(self, argument: str) -> None:
        """Push a function or class, given as "module name"."""
        if not (argument in _CALLS or argument in _STORAGES or _PLAIN.fullmatch(argument)):
            self.unknown.add(argument.replace(" ", "."))
        self.stack.append(_StandIn(argument))

    def make_tuple(self, _: object) -> None:
        self.stack.append(tuple(self._to_mark()))

    def add(self, _: object) -> None:
        self._take()
        self._pop(1)

    def add_all(self, _: object) -> None:
        self._to_mark()
        self._pop(1)

    def set_pairs(self, _: object) -> None:
        for key in self._to_mark()[::2]:
            _require_key(key)
        self._pop(1)

    def set_pair(self, _: object) -> None:
        self._take()
        _require_key(self._take())
        self._pop(1)

    def build(self, _: object) -> None:
        self._take()
        if self._pop(1)[0] is not _BUILT and not self.unknown:
            raise Refused("a state of something that torch.save gives none")

    def storage(self, _: object) -> None:
        """Push a storage, given as ('storage', class, key, location, elements, ...)."""
        said = self._take()
        if not isinstance(said, tuple) or len(stated := cast("tuple[Any, ...]", said)) < 5:
            raise Refused("a storage in another form than torch.save writes")
        _, kind, key, _, count = stated[:5]
        width = _STORAGES.get(kind.name) if isinstance(kind, _StandIn) else None
        if width is None or type(key) is not str or type(count) is not int:
            raise Refused("a storage in another form than torch.save writes")
        room = self.sizes if isinstance(self.sizes, int) else self.sizes.get(key, 0)
        if not 0 <= count * width <= room:
            raise Refused(f"a storage of {count * width} bytes, for which the file has {room}")
        self.stack.append(_StandIn(size=count))

    def call(self, _: object) -> None:
        arguments, function = self._take(), self._take()
        name = function.name if isinstance(function, _StandIn) else ""
        known = name in _CALLS and isinstance(arguments, tuple) and _CALLS[name](cast("tuple[Any, ...]", arguments))
        if not (known or name.replace(" ", ".") in self.unknown):
            raise Refused(f"a call of {name.replace(' ', '.') or 'a value'} that torch.save does not write")
        self.stack.append(_BUILT if name in _STATEFUL else _OTHER)


def _require_key(key: Any) -> None:
    """Refuse tuples as keys: hashing nested tuples may take exponential time."""
    if isinstance(key, tuple):
        raise Refused("a dict whose key is a tuple")


def _is_tensor_call(arguments: tuple[Any, ...]) -> bool:
    """Check (storage, offset, size, stride, ...): at most as many elements as the storage has."""
    if len(arguments) < 4 or not isinstance(arguments[0], _StandIn) or not isinstance(arguments[2], tuple):
        return False
    size = cast("tuple[Any, ...]", arguments[2])
    if len(size) > _MOST_SIZES or not all(type(length) is int and length >= 0 for length in size):
        return False
    if math.prod(size) > arguments[0].size:
        raise Refused(f"a tensor of shape {size}, for which its storage has {arguments[0].size} elements")
    return True


def _is_text_call(arguments: tuple[Any, ...]) -> bool:
    return len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1"


def _is_array_call(arguments: tuple[Any, ...]) -> bool:
    return len(arguments) == 3 and isinstance(arguments[0], _StandIn) and arguments[1] == (0,)


def _is_dtype_call(arguments: tuple[Any, ...]) -> bool:
    return bool(arguments) and isinstance(arguments[0], str) and bool(_DTYPE.fullmatch(arguments[0]))


def _is_wrapped(arguments: tuple[Any, ...]) -> bool:
    return bool(arguments) and isinstance(arguments[0], _StandIn)


def _is_typed(arguments: tuple[Any, ...]) -> bool:
    """Check a tensor with attributes: (function, class, arguments, attributes)."""
    if len(arguments) != 4 or not isinstance(arguments[0], _StandIn) or not isinstance(arguments[2], tuple):
        return False
    return arguments[0].name in _TENSORS and _TENSORS[arguments[0].name](cast("tuple[Any, ...]", arguments[2]))


_TENSORS: dict[str, Callable[[tuple[Any, ...]], bool]] = {
    "torch._utils _rebuild_tensor": _is_tensor_call,
    "torch._utils _rebuild_tensor_v2": _is_tensor_call,
    "torch._utils _rebuild_parameter": _is_wrapped,
    "torch._utils _rebuild_parameter_with_state": _is_wrapped,
}
_CALLS: dict[str, Callable[[tuple[Any, ...]], bool]] = {
    **_TENSORS,
    "torch._tensor _rebuild_from_type_v2": _is_typed,
    "collections OrderedDict": lambda arguments: not arguments,
    "torch Size": lambda arguments: len(arguments) == 1,
    "torch device": lambda arguments: all(isinstance(one, (str, int)) for one in arguments),
    "_codecs encode": _is_text_call,
    "numpy dtype": _is_dtype_call,
    **{f"{module} _reconstruct": _is_array_call for module in _ARRAYS},
    **{f"{module} scalar": lambda arguments: len(arguments) == 2 for module in _ARRAYS},
}
_STATEFUL = ("collections OrderedDict", "numpy dtype", *(f"{module} _reconstruct" for module in _ARRAYS))


def _literal(value: Any) -> Any:
    return value


# Instructions that torch's own weights reader supports.
_VALUES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("SHORT_BINSTRING", "BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _literal),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"), lambda _: _OTHER),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_TUPLE": lambda _: (),
    "MARK": lambda _: _MARK,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STEPS: dict[str, Callable[[_Scan, Any], None]] = {
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Scan.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Scan.get),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Scan.call),
    "GLOBAL": _Scan.find,
    "TUPLE": _Scan.make_tuple,
    "APPEND": _Scan.add,
    "APPENDS": _Scan.add_all,
    "SETITEM": _Scan.set_pair,
    "SETITEMS": _Scan.set_pairs,
    "BUILD": _Scan.build,
    "BINPERSID": _Scan.storage,
}
_NOTHING = ("PROTO", "STOP")
