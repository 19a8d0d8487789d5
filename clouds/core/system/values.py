"""Plain values of JSON and TOML, and the type annotations that they match."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import PurePath
from typing import Any, Literal, cast


def accepts(hint: Any, value: Any) -> bool:
    """Whether a plain value (from JSON, TOML or a call) matches a type annotation.

    A list matches a tuple, an int a float, a string a path; a bool is not an int. Annotations other than plain types,
    unions, literals and containers accept everything and are checked by the factory itself.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is None or hint is types.NoneType:
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(accepts(one, value) for one in arguments)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in arguments)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(hint, type) and issubclass(hint, PurePath):
        return isinstance(value, (str, PathLike))
    if hint in (str, bool):
        return isinstance(value, hint)
    if origin in (tuple, list, Sequence):
        return _accepts_sequence(origin, arguments, value)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            return False
        pairs = cast("Mapping[Any, Any]", value).items()
        return all(accepts(arguments[0], key) and accepts(arguments[1], item) for key, item in pairs)
    return True


def _accepts_sequence(origin: Any, arguments: tuple[Any, ...], value: Any) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    items = cast("Sequence[Any]", value)
    if origin is not tuple or arguments[-1:] == (Ellipsis,):
        return all(accepts(arguments[0], item) for item in items)
    return len(items) == len(arguments) and all(
        accepts(hint, item) for hint, item in zip(arguments, items, strict=True)
    )


def to_json_value(value: Any) -> Any:
    """Convert an option to plain JSON types (tuples to lists, paths to strings). Raises `TypeError` if impossible."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, PathLike):
        return fspath(cast("PathLike[str]", value))
    if isinstance(value, Mapping):
        return {str(key): to_json_value(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [to_json_value(item) for item in cast("Sequence[Any]", value)]
    raise TypeError(f"{type(value).__name__} is not a plain value")


def from_json_value(hint: Any, value: Any) -> Any:
    """Convert a plain value that `accepts` allows to the annotated type.

    >>> from_json_value(tuple[int, ...], [1, 2])
    (1, 2)
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return from_json_value(next((one for one in arguments if accepts(one, value)), Any), value)
    if isinstance(hint, type) and issubclass(hint, PurePath):
        return hint(value)
    if origin is tuple and arguments[-1:] == (Ellipsis,):
        return tuple(from_json_value(arguments[0], item) for item in value)
    if origin is tuple:
        return tuple(from_json_value(one, item) for one, item in zip(arguments, value, strict=True))
    if origin in (list, Sequence):
        return [from_json_value(arguments[0], item) for item in value]
    if origin in (dict, Mapping):
        return {from_json_value(arguments[0], key): from_json_value(arguments[1], item) for key, item in value.items()}
    return value
