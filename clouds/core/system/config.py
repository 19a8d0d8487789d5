"""Configuration files: TOML to typed records, with errors that name the file and the path of the wrong key."""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, time
from pathlib import Path
from typing import Any, TypeVar, cast, get_origin

import cattrs
from attrs import Attribute

from clouds.core.system.errors import CloudsError, ConfigError
from clouds.core.system.values import accepts, from_json_value

T = TypeVar("T")
_BARE_KEY = re.compile("[A-Za-z0-9_-]+")
_SURROGATES = re.compile("[\ud800-\udfff]")
_UNWRITABLE = re.compile("[\ud800-\udfff\ufffe]")
_WRITTEN = re.compile("\ufffe([0-9a-f]{4})")


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML file. Raises `ConfigError` naming the file (and line) when it is missing or malformed."""
    try:
        return parse_toml(Path(path).read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML. Every fault, including nesting too deep for the parser, is a `ValueError`."""
    try:
        return _map_strings(tomllib.loads(text), _unescape)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def to_toml(document: Mapping[str, Any]) -> str:
    """Write a document of plain values and tables of them; `parse_toml` restores every string.

    TOML cannot represent undecodable bytes of file names, which Python keeps as lone surrogates. They are written as
    the noncharacter U+FFFE and four hexadecimal digits, as is U+FFFE itself.
    """
    tables = {key: cast("Mapping[str, Any]", value) for key, value in document.items() if isinstance(value, Mapping)}
    lines = _toml_pairs({key: value for key, value in document.items() if key not in tables})
    for name, table in tables.items():
        lines += [*([""] if lines else []), f"[{_toml_key(name)}]", *_toml_pairs(table)]
    return "\n".join(lines) + "\n"


def to_json(document: Any, **options: Any) -> str:
    """`json.dumps` that escapes only lone surrogates (undecodable bytes of file names), so that any file or stream
    can hold the text; `json.loads` restores it."""
    return _SURROGATES.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(document, ensure_ascii=False, **options))


def within(low: float, high: float = math.inf, *, above: bool = False) -> Callable[[Any, Attribute[Any], Any], None]:
    """Make a validator for a record field: a finite number in low..high, or a tuple or table of such numbers.

    Args:
        low, high: the range, including both ends.
        above: exclude `low`.

    Raises:
        ConfigError: raised by the validator; names field, value and range.
    """
    first = f"more than {low:g}" if above else f"at least {low:g}"
    wanted = first if high == math.inf else f"{first} and at most {high:g}"

    def check(record: Any, attribute: Attribute[Any], value: Any) -> None:
        for number in _numbers(value):
            if not low <= number <= high or number == math.inf or (above and number == low):
                raise ConfigError(f"{attribute.name} is {value}; expected {wanted}")

    return check


def _numbers(value: Any) -> Iterable[float]:
    if isinstance(value, Mapping):
        return cast("Mapping[str, float]", value).values()
    return cast("tuple[float, ...]", value) if isinstance(value, tuple) else (value,)


def parse_json(text: str | bytes) -> Any:
    """Parse JSON. Raises a one-line `ValueError` for malformed or too deeply nested text."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deep") from None


def structure(document: Mapping[str, Any], record: type[T], *, source: str) -> T:
    """Convert plain values to an attrs record; unknown keys and values of another type are errors.

    Raises:
        ConfigError: `source`, then every fault with the path of its key from `$`.
    """
    try:
        return _converter().structure(document, record)
    except Exception as error:  # converters may raise anything for a faulty document
        faults = "; ".join(cattrs.transform_error(error, format_exception=_describe))
        raise ConfigError(f"{source}: {faults}") from error


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """Parse `a.b=value`; the value is parsed as TOML, or else taken as a plain string.

    >>> parse_assignment("model.head.queries=20")
    (['model', 'head', 'queries'], 20)
    >>> parse_assignment("data.source=folder:/photos:train")
    (['data', 'source'], 'folder:/photos:train')
    """
    key, equals, value = text.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigError(f"{text!r} is not an assignment; write it as a.b=value")
    try:
        found = parse_toml(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return path, value
    except ValueError as error:
        raise ConfigError(f"{key.strip()}: {error}") from error
    return path, found["value"] if list(found) == ["value"] else value  # a value with several lines is a string


def override(document: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Return a copy of a document with `a.b=value` assignments applied in order; see `set_values`."""
    return set_values(document, map(parse_assignment, assignments))


def set_values(document: Mapping[str, Any], values: Iterable[tuple[Sequence[str], Any]]) -> dict[str, Any]:
    """Return a copy of a document with values set by the path of their key, in order.

    A component given by name (`head = "linear"`) becomes a table when one of its options is set.
    """
    changed = _copy(document)
    for path, value in values:
        table = changed
        for key in path[:-1]:
            inner = table.get(key, {})
            inner = {"name": inner} if isinstance(inner, str) else inner
            if not isinstance(inner, dict):
                raise ConfigError(f"{'.'.join(path)}: {key!r} is a value, not a table")
            table[key] = inner
            table = cast("dict[str, Any]", inner)
        table[path[-1]] = value
    return changed


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` updated with `changes`: tables are merged recursively, other values replaced."""
    merged = _copy(base)
    for key, value in changes.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, Mapping):
            merged[key] = merge(cast("dict[str, Any]", below), cast("Mapping[str, Any]", value))
        else:
            merged[key] = value
    return merged


def flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables by dotted keys; an empty table is a value."""
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(cast("Mapping[str, Any]", value), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _toml_pairs(table: Mapping[str, Any]) -> list[str]:
    return [f"{_toml_key(key)} = {_toml_value(value)}" for key, value in table.items()]


def _toml_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _toml_value(key)


def _toml_value(value: Any) -> str:
    """Format a value in one line. JSON strings (except DEL), integers and booleans are valid TOML."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(_toml_pairs(cast("Mapping[str, Any]", value))) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml_value, cast("list[Any]", value))) + "]"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, str):
        value = _UNWRITABLE.sub(lambda match: f"\ufffe{ord(match[0]):04x}", value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f").replace("\ufffe", "\\uFFFE")


def _unescape(text: str) -> str:
    return _WRITTEN.sub(lambda match: chr(int(match[1], 16)), text)


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_strings(one, change) for one in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {change(key): _map_strings(one, change) for key, one in cast("dict[str, Any]", value).items()}
    return value


def _describe(error: BaseException, kind: Any) -> str:
    if isinstance(error, cattrs.ForbiddenExtraKeysError):  # keys from a pickle may not be strings
        return f"extra fields found ({', '.join(sorted(map(str, error.extra_fields)))})"
    plain = isinstance(error, (TypeError, CloudsError, ArithmeticError)) or type(error) is Exception  # of a literal
    return str(error) if plain else cattrs.v.format_exception(error, kind)


def _copy(document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _copy(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else value
        for key, value in document.items()
    }


def _converter() -> cattrs.Converter:
    """Make a converter that rejects unknown keys and never converts values implicitly ("5" is not an int)."""
    converter = cattrs.Converter(forbid_extra_keys=True)

    def strict(value: Any, kind: Any) -> Any:
        if not accepts(kind, value):
            raise TypeError(_type_fault(value, kind))
        return kind(value)

    inner = set[Any]()  # list types that use the default hook

    def listed(kind: Any) -> Callable[[Any, Any], Any]:
        inner.add(kind)
        convert = converter.get_structure_hook(kind, cache_result=False)
        inner.remove(kind)

        def check(value: Any, kind: Any) -> Any:
            if not isinstance(value, (list, tuple)):  # strings and tables would be iterated
                raise TypeError(_type_fault(value, kind))
            return convert(value, kind)

        return check

    def named(value: Any, kind: Any) -> Any:
        if not accepts(kind, value):
            raise TypeError(f"{value!r} is neither a name nor a table")
        return value

    for kind in (int, float, str, bool):
        converter.register_structure_hook(kind, strict)
    converter.register_structure_hook_func(lambda kind: kind == str | dict[str, Any], named)
    converter.register_structure_hook_func(lambda kind: kind == float | dict[str, float], _number_or_table)
    converter.register_structure_hook_factory(
        lambda kind: get_origin(kind) in (tuple, list) and kind not in inner, listed
    )
    return converter


def _number_or_table(value: Any, kind: Any) -> Any:
    if not accepts(kind, value):
        raise TypeError(f"{value!r} is neither a number nor a table of numbers")
    return from_json_value(kind, value)


def _type_fault(value: Any, kind: Any) -> str:
    return f"{value!r} is not of type {kind.__name__ if isinstance(kind, type) else kind}"
