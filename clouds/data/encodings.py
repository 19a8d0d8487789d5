"""Label encodings map the pixel values of label files to train ids of a label space."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property

import numpy as np
from attrs import frozen
from jaxtyping import UInt8

from clouds.core.contract.labels import CITYSCAPES, IGNORE_ID, LabelSpace
from clouds.core.system.errors import ConfigError, DataError, did_you_mean
from clouds.data.id_tables import ID_TABLES, IGNORE, OWN_LABEL_SPACES

ENCODINGS = ("trainIds", "ids", "color", *ID_TABLES)
_GREY, _COLOR = re.compile("[0-9]{1,3}"), re.compile(r"([0-9]{1,3}),\s*([0-9]{1,3}),\s*([0-9]{1,3})")
_BLACK = 0
_DEEP = "synthia"  # stored with 16 bits per channel
_RED = "shift"  # stored in the red channel, as CARLA writes it
_SUSPECT = 254  # marks unknown codes in lookup tables; a valid train id only in a space of 255 classes
_SHOWN = 8
_REMEDY = (
    'define them in dataset.toml: [labels] encoding = "trainIds", "ids" or "color", '
    'or [labels.mapping] with lines such as {example} = "ignore"'
)


@frozen(eq=False, kw_only=True)
class LabelEncoding:
    """Mapping between the pixel values of label files and train ids.

    Attributes:
        name: one of `ENCODINGS`, or "mapping".
        label_space: label space of the train ids.
        colored: codes are RGB colours, packed as 0xRRGGBB; otherwise they are grey values 0..255.
        codes: code -> train id, for all valid codes. `encode` writes the first code of a train id.
        deep: label files have 16 bits per channel, with the code in the first channel.
        red: label files are 8-bit RGB or RGBA, with the code in the first channel.
        mapped: codes that `[labels.mapping]` lists.
    """

    name: str
    label_space: LabelSpace
    colored: bool
    codes: dict[int, int]
    deep: bool = False
    red: bool = False
    mapped: frozenset[int] = frozenset()

    def __attrs_post_init__(self) -> None:
        limit = 0xFFFFFF if self.colored else 255
        wrong = [code for code in self.codes if not 0 <= code <= limit]
        if wrong:
            raise ConfigError(
                f"label encoding {self.name!r}: value {wrong[0]} is not in 0..{limit}, as 8-bit files need"
            )

    def decode(self, pixels: UInt8[np.ndarray, "h w *rgb"], *, name: str = "label map") -> UInt8[np.ndarray, "h w"]:
        """Turn the pixels of a label file ("h w", or RGB "h w 3" when `colored`) into train ids.

        Raises:
            DataError: a value is unknown; the message has `name`, the values and their pixel counts.
        """
        train_ids = self._lookup(self._pack(pixels, name))
        if (train_ids == _SUSPECT).any():
            self._refuse_unknown(pixels, name)
        return train_ids

    def encode(self, train_ids: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w *rgb"]:
        """Turn train ids into the pixels of a label file: "h w", or RGB "h w 3" when `colored`.

        Raises:
            DataError: a train id has no code in this encoding.
        """
        used = np.flatnonzero(np.bincount(train_ids.ravel(), minlength=256))
        lacking = [int(value) for value in used if int(value) not in self._code_of]
        if lacking:
            raise DataError(
                f"label map: train ids {lacking} have no value in encoding {self.name!r}; add them to its mapping"
            )
        table = np.zeros(256, np.uint32)
        table[list(self._code_of)] = list(self._code_of.values())
        packed = table[train_ids]
        if not self.colored:
            return packed.astype(np.uint8)
        return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1).astype(np.uint8)

    def unknown(self, pixels: UInt8[np.ndarray, "h w *rgb"], *, name: str = "label map") -> dict[str, int]:
        """Pixel counts of unknown values, written as in `[labels.mapping]`."""
        codes, counts = np.unique(self._pack(pixels, name), return_counts=True)
        return {self._text(int(code)): int(n) for code, n in zip(codes, counts, strict=True) if code not in self.codes}

    def _refuse_unknown(self, pixels: np.ndarray, name: str) -> None:
        unknown = self.unknown(pixels, name=name)
        if not unknown:
            return
        shown = ", ".join(f"{code} ({count} pixels)" for code, count in list(unknown.items())[:_SHOWN])
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        example = f'"{next(iter(unknown))}"'
        raise DataError(
            f"{name}: label values {shown}{more} are unknown in encoding {self.name!r} of label space "
            f"{self.label_space.name!r} ({len(self.label_space)} classes); {_REMEDY.format(example=example)}"
        )

    @cached_property
    def _code_of(self) -> dict[int, int]:
        return {train_id: code for code, train_id in reversed(self.codes.items())}

    @cached_property
    def _table(self) -> np.ndarray:
        """Train id of each code; for colours, a full table (16 MB) is faster than a search among the known ones."""
        table = np.full(1 << 24 if self.colored else 256, _SUSPECT, np.uint8)
        table[list(self.codes)] = list(self.codes.values())
        return table

    def _lookup(self, packed: np.ndarray) -> UInt8[np.ndarray, "h w"]:
        """Train ids, `_SUSPECT` for unknown codes. Speed matters: every training sample is decoded here."""
        if self.colored:
            return self._table.take(packed, mode="clip")  # skips the bounds check of "raise"
        translated = bytearray(np.ascontiguousarray(packed)).translate(self._table.data)  # twice as fast as indexing
        return np.frombuffer(translated, np.uint8).reshape(packed.shape)

    def _pack(self, pixels: np.ndarray, name: str) -> np.ndarray:
        wanted = "RGB of shape (h, w, 3)" if self.colored else "one channel of shape (h, w)"
        if pixels.dtype != np.uint8 or pixels.ndim != 2 + self.colored or (self.colored and pixels.shape[2] != 3):
            raise DataError(
                f"{name}: encoding {self.name!r} expects 8-bit labels, {wanted}; "
                f"got {pixels.dtype} of shape {pixels.shape}"
            )
        if not self.colored:
            return pixels
        packed = pixels[..., 0].astype(np.uint32)
        for channel in (1, 2):
            packed <<= 8
            packed |= pixels[..., channel]
        return packed

    def _text(self, code: int) -> str:
        return f"{code >> 16},{code >> 8 & 255},{code & 255}" if self.colored else str(code)


def label_encoding(
    label_space: LabelSpace, name: str | None = None, mapping: Mapping[str, object] | None = None
) -> LabelEncoding:
    """Build the label encoding of a `dataset.toml`.

    Args:
        label_space: label space of the train ids.
        name: "trainIds" (the default without a mapping), "ids" (raw ids of the label space), "color" (its palette), or
            the ids of a published dataset, matched by class name: a key of `ID_TABLES`, such as "cityscapes" or
            "synthia" (16-bit files). Classes that are not in the label space are ignored. A label space that holds the
            dataset's own classes (`OWN_LABEL_SPACES`) keeps them all.
        mapping: from grey values ("7") or colours ("128,64,128") to class names, train ids or "ignore". It extends
            the encoding `name`; without a name it is the whole encoding.

    The value 255 (in colour: black) means "ignore" unless the mapping says otherwise. Train ids in memory are
    0..k-1, and 255 for "ignore".

    >>> label_encoding(LabelSpace.from_names(["road", "sky"]), "ids").codes
    {0: 0, 1: 1, 255: 255}

    Raises:
        ConfigError: unknown encoding or class, a malformed value, classes that share a colour, or classes that are
            not those of Cityscapes, for the ids of a published dataset.
    """
    if name is not None and name not in ENCODINGS:
        raise ConfigError(f"labels.encoding: unknown encoding {name!r}{did_you_mean(name, ENCODINGS)}")
    extra = {
        _code(key): _train_id(label_space, f"labels.mapping.{key}", value) for key, value in (mapping or {}).items()
    }
    kinds = {colored for colored, _ in extra} | ({name == "color"} if name or not extra else set())
    if len(kinds) > 1:
        raise ConfigError(
            "labels.mapping mixes grey values and colours (or does not fit labels.encoding); use one form"
        )
    colored = kinds.pop()
    codes = {} if extra and name is None else _built_in_codes(label_space, name or "trainIds")
    codes.update({code: train_id for (_, code), train_id in extra.items()})
    codes.setdefault(_BLACK if colored else 255, IGNORE_ID)
    name = name or ("mapping" if extra else "trainIds")
    mapped = frozenset(code for _, code in extra)
    return LabelEncoding(
        name=name,
        label_space=label_space,
        colored=colored,
        codes=codes,
        deep=name == _DEEP,
        red=name == _RED,
        mapped=mapped,
    )


def fold_table(label_space: LabelSpace, fold: Mapping[str, str]) -> np.ndarray | None:
    """Lookup table (uint8, 256 entries) from predicted to folded train ids, for datasets with coarser classes; or None.

    Raises:
        ConfigError: a name is not a class of the label space.
    """
    if not fold:
        return None
    table = np.arange(256, dtype=np.uint8)
    for source, target in fold.items():
        table[_train_id(label_space, "fold", source)] = _train_id(label_space, f"fold.{source}", target)
    return table


def _built_in_codes(label_space: LabelSpace, name: str) -> dict[int, int]:
    if name == "trainIds":
        return {**{train_id: train_id for train_id in range(len(label_space))}, label_space.ignore: IGNORE_ID}
    if name == "ids":
        return {raw: train_id for train_id, raw in enumerate(label_space.ids)}
    if name in ID_TABLES:
        return _codes_by_class(label_space, name)
    codes: dict[int, int] = {}
    for train_id, (red, green, blue) in enumerate(label_space.palette):
        other = codes.setdefault(red << 16 | green << 8 | blue, train_id)
        if other != train_id:
            raise ConfigError(
                f"label space {label_space.name!r}: {label_space.names[other]!r} and {label_space.names[train_id]!r} "
                f'share the colour {red},{green},{blue}, so labels.encoding = "color" cannot distinguish them'
            )
    return codes


def _codes_by_class(label_space: LabelSpace, name: str) -> dict[int, int]:
    table = ID_TABLES[name]
    if name in OWN_LABEL_SPACES and label_space == LabelSpace.named(OWN_LABEL_SPACES[name]):
        return dict.fromkeys(table, IGNORE_ID) | {raw: train_id for train_id, raw in enumerate(label_space.ids)}
    known = {*table.values(), *CITYSCAPES.names} - {IGNORE}  # some datasets label fewer classes, such as SHIFT no rider
    strange = [one for one in label_space.names if one not in known]
    if strange:
        hint = did_you_mean(strange[0], known)
        raise ConfigError(
            f"label space {label_space.name!r}: {strange[0]!r} is not a class of encoding {name!r}{hint}; "
            "use classes of Cityscapes, or map the values to classes in [labels.mapping]"
        )
    return {
        code: label_space.names.index(one) if one in label_space.names else IGNORE_ID for code, one in table.items()
    }


def _code(text: str) -> tuple[bool, int]:
    color = _COLOR.fullmatch(text)
    if color:
        red, green, blue = (int(part) for part in color.groups())
        if max(red, green, blue) <= 255:
            return True, red << 16 | green << 8 | blue
    elif _GREY.fullmatch(text) and int(text) <= 255:
        return False, int(text)
    raise ConfigError(f'labels.mapping: {text!r} is neither a value 0..255 ("7") nor a colour ("128,64,128")')


def _train_id(label_space: LabelSpace, key: str, value: object) -> int:
    if value == IGNORE or (type(value) is int and value == IGNORE_ID):
        return IGNORE_ID
    if value in label_space.names:
        return label_space.names.index(value)
    if type(value) is int and 0 <= value < len(label_space):
        return value
    hint = did_you_mean(value, (*label_space.names, IGNORE)) if isinstance(value, str) else ""
    raise ConfigError(
        f"{key}: {value!r} is neither a class of label space {label_space.name!r}, nor a train id "
        f"0..{len(label_space) - 1}, nor {IGNORE!r}{hint}; "
        "for your own classes, give a label space with labels=, or --labels"
    )
