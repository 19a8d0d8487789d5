"""Label spaces: the classes behind the train ids of a segmentation."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from attrs import Factory, field, frozen

from clouds.core.system.config import read_toml
from clouds.core.system.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
Color = tuple[int, int, int]
# Where labels of a generated image come from: its generator, the labelled image that it was made from, or a teacher
LabelKind = Literal["exact", "inherited", "pseudo"]
IGNORE_ID = 255  # "not labelled" in all label maps in memory; files may use another value
_FOLDER = Path(__file__).parent / "label_spaces"
_MAX_CLASSES = 255  # label maps are uint8, and one value is reserved for "ignore"


def _require_list(value: Iterable[T], what: str) -> tuple[T, ...]:
    """Convert to a tuple; a string, which would be split into letters, is an error."""
    if isinstance(value, str):
        raise ConfigError(f"{what} must be a list, not the string {value!r}; write [{value!r}]")
    return tuple(value)


def _to_names(value: Iterable[str]) -> tuple[str, ...]:
    return _require_list(value, "class names")


def _to_synonyms(value: Iterable[Iterable[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(_require_list(group, "synonyms of a class") for group in _require_list(value, "synonyms"))


def _to_palette(value: Iterable[Sequence[int]]) -> tuple[Color, ...]:
    colors = [_require_list(color, "a colour of the palette") for color in _require_list(value, "palette")]
    wrong = [color for color in colors if len(color) != 3]
    if wrong:
        raise ConfigError(f"palette: {wrong[0]} is not a colour; expected (red, green, blue)")
    return tuple((int(r), int(g), int(b)) for r, g, b in colors)


def _to_ids(value: Iterable[int]) -> tuple[int, ...]:
    return tuple(int(i) for i in _require_list(value, "ids"))


def _to_flags(value: Iterable[bool]) -> tuple[bool, ...]:
    return tuple(bool(flag) for flag in _require_list(value, "things"))


def _no_things(space: LabelSpace) -> tuple[bool, ...]:
    return (False,) * len(space.names)


def distinct_palette(count: int) -> tuple[Color, ...]:
    """Return `count` colours (RGB, 0..255) with hues a golden angle apart, so that neighbours differ."""
    colors: list[Color] = []
    for index in range(count):
        r, g, b = colorsys.hsv_to_rgb((index * 0.618034) % 1.0, 0.55 + 0.4 * (index % 2), 0.95 - 0.3 * (index % 3) / 2)
        colors.append((round(r * 255), round(g * 255), round(b * 255)))
    return tuple(colors)


@frozen(kw_only=True)
class LabelSpace:
    """The classes of a segmentation, in the order of their train ids 0..k-1.

    Attributes:
        name: shown in plans and reports.
        names: one name per class.
        synonyms: words for each class, used by text-classified heads; the best word gives the class score.
        palette: one RGB colour (0..255) per class, for overlays and colour encodings.
        ids: one raw id per class, for label files with dataset ids instead of train ids.
        ignore: value of "not labelled" in files of train ids, besides 255; in memory it is always 255.
        things: whether instances of each class can be counted (persons, cars); other classes are stuff.

    Raises:
        ConfigError: there are no or more than 255 classes, duplicate names, or lists of different lengths.
    """

    name: str
    names: tuple[str, ...] = field(converter=_to_names)
    synonyms: tuple[tuple[str, ...], ...] = field(converter=_to_synonyms)
    palette: tuple[Color, ...] = field(converter=_to_palette)
    ids: tuple[int, ...] = field(converter=_to_ids)
    ignore: int = 255
    things: tuple[bool, ...] = field(default=Factory(_no_things, takes_self=True), converter=_to_flags)

    def __attrs_post_init__(self) -> None:
        count = len(self.names)
        if not 1 <= count <= _MAX_CLASSES:
            raise ConfigError(f"label space {self.name!r} has {count} classes; expected 1 to {_MAX_CLASSES}")
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise ConfigError(f"label space {self.name!r} names classes twice: {', '.join(repeated)}")
        if "" in self.names or any(not group or "" in group for group in self.synonyms):
            raise ConfigError(f"label space {self.name!r} has an empty class name or an empty synonym")
        for what, values in (
            ("synonyms", self.synonyms),
            ("palette", self.palette),
            ("ids", self.ids),
            ("things", self.things),
        ):
            if len(values) != count:
                raise ConfigError(f"label space {self.name!r}: {len(values)} {what} for {count} classes")
        if len(set(self.ids)) != count:
            raise ConfigError(f"label space {self.name!r}: ids are not distinct: {list(self.ids)}")
        if any(not 0 <= channel <= 255 for color in self.palette for channel in color):
            raise ConfigError(f"label space {self.name!r}: palette values must be in 0..255")
        if not count <= self.ignore <= 255:
            raise ConfigError(f"label space {self.name!r}: ignore={self.ignore} must lie in {count}..255")

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """Train id of the class called `name`. Raises `ConfigError` with the nearest name."""
        if name not in self.names:
            raise ConfigError(f"label space {self.name!r} has no class {name!r}{did_you_mean(name, self.names)}")
        return self.names.index(name)

    def color_table(self, *, other: Color = (0, 0, 0)) -> np.ndarray:
        """RGB colours of all label map values, uint8 "256 3"; values without a class get `other`."""
        import numpy as np  # plans need no arrays

        table = np.full((256, 3), other, np.uint8)
        table[: len(self)] = self.palette
        return table

    @classmethod
    def from_names(
        cls,
        names: Iterable[str],
        *,
        name: str = "custom",
        synonyms: Iterable[Iterable[str]] | None = None,
        palette: Iterable[Sequence[int]] | None = None,
        ids: Iterable[int] | None = None,
        ignore: int = 255,
        things: Iterable[str] = (),
    ) -> LabelSpace:
        """Build a label space from class names; missing arguments are derived from them.

        `things` lists the classes whose instances can be counted.

        >>> LabelSpace.from_names(["road", "sky"]).ids
        (0, 1)
        """
        classes, counted = _to_names(names), set(_require_list(things, "things"))
        unknown = sorted(counted - set(classes))
        if unknown:
            hint = did_you_mean(unknown[0], classes)
            raise ConfigError(f"label space {name!r}: things has {unknown[0]!r}, which is not a class{hint}")
        return cls(
            name=name,
            names=classes,
            synonyms=[(one,) for one in classes] if synonyms is None else synonyms,
            palette=distinct_palette(len(classes)) if palette is None else palette,
            ids=range(len(classes)) if ids is None else ids,
            ignore=ignore,
            things=[one in counted for one in classes],
        )

    @classmethod
    def named(cls, name: str) -> LabelSpace:
        """Return a built-in label space (`"cityscapes"`). Raises `ConfigError` for an unknown name."""
        if name not in built_in_names():
            raise ConfigError(f"unknown label space {name!r}{did_you_mean(name, built_in_names())}")
        if name == CITYSCAPES.name:
            return CITYSCAPES
        return cls.from_names(name=name, **read_toml(_FOLDER / f"{name}.toml"))

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON types; `LabelSpace(**d)` converts back."""
        return {
            "name": self.name,
            "names": list(self.names),
            "synonyms": [list(group) for group in self.synonyms],
            "palette": [list(color) for color in self.palette],
            "ids": list(self.ids),
            "ignore": self.ignore,
            "things": list(self.things),
        }


# Cordts et al., "The Cityscapes Dataset", CVPR 2016: the 19 evaluated classes with colours and raw ids.
# Synonyms: the prompt-engineered names of the published CLOUDS code.
_CITYSCAPES: list[tuple[str, Color, int, str]] = [
    ("road", (128, 64, 128), 7, "road,railroad"),
    ("sidewalk", (244, 35, 232), 8, "sidewalk,pavement"),
    ("building", (70, 70, 70), 11, "building,buildings,edifice,edifices,house,ceiling"),
    ("wall", (102, 102, 156), 12, "wall,walls,brick wall,stone wall,tile wall,wood wall"),
    ("fence", (190, 153, 153), 13, "fence,fences"),
    ("pole", (153, 153, 153), 17, "pole,poles"),
    ("traffic light", (250, 170, 30), 19, "traffic light,traffic lights"),
    ("traffic sign", (220, 220, 0), 20, "traffic sign,stop sign"),
    ("vegetation", (107, 142, 35), 21, "vegetation,tree,trees,palm tree,bushes"),
    ("terrain", (152, 251, 152), 22, "terrain,river,sand,sea,snow,water,mountain,grass,dirt,rock"),
    ("sky", (70, 130, 180), 23, "sky,clouds"),
    ("person", (220, 20, 60), 24, "person"),
    ("rider", (255, 0, 0), 25, "rider"),
    ("car", (0, 0, 142), 26, "car,cars"),
    ("truck", (0, 0, 70), 27, "truck,trucks"),
    ("bus", (0, 60, 100), 28, "bus,buses"),
    ("train", (0, 80, 100), 31, "train,trains,locomotive,locomotives,freight train"),
    ("motorcycle", (0, 0, 230), 32, "motorcycle,motorcycles"),
    ("bicycle", (119, 11, 32), 33, "bicycle,bicycles,bike,bikes"),
]

CITYSCAPES = LabelSpace(
    name="cityscapes",
    names=[row[0] for row in _CITYSCAPES],
    synonyms=[row[3].split(",") for row in _CITYSCAPES],
    palette=[row[1] for row in _CITYSCAPES],
    ids=[row[2] for row in _CITYSCAPES],
    things=[row[2] >= 24 for row in _CITYSCAPES],  # persons and vehicles
)


def built_in_names() -> list[str]:
    """Names of the built-in label spaces, sorted: `cityscapes`, and the TOML files in `label_spaces/`."""
    return sorted([CITYSCAPES.name, *(path.stem for path in _FOLDER.glob("*.toml"))])
