"""Label values of published datasets, mapped to Cityscapes class names.

Names rather than train ids, so that a table serves every label space that selects some of these classes. Classes beyond
the 19 are "ignore". Sources: the label definitions of each dataset; for SYNTHIA and Mapillary Vistas, the assignment to
Cityscapes classes that is common in domain generalization (CLOUDS, CVPR 2024).
"""

from __future__ import annotations

from clouds.core.contract.labels import CITYSCAPES

IGNORE = "ignore"

_CITYSCAPES_IDS = dict(zip(CITYSCAPES.ids, CITYSCAPES.names, strict=True))
_SYNTHIA_IDS = {
    1: "sky",
    2: "building",
    3: "road",
    4: "sidewalk",
    5: "fence",
    6: "vegetation",
    7: "pole",
    8: "car",
    9: "traffic sign",
    10: "person",
    11: "bicycle",
    12: "motorcycle",
    15: "traffic light",
    16: "terrain",
    17: "rider",
    18: "truck",
    19: "bus",
    20: "train",
    21: "wall",
}
_MAPILLARY_IDS = {
    2: "sidewalk",  # curb
    3: "fence",
    6: "wall",
    13: "road",
    15: "sidewalk",
    17: "building",
    19: "person",
    20: "rider",  # bicyclist
    21: "rider",  # motorcyclist
    22: "rider",  # other rider
    24: "road",  # lane marking
    27: "sky",
    29: "terrain",
    30: "vegetation",
    41: "road",  # manhole
    45: "pole",
    47: "pole",  # utility pole
    48: "traffic light",
    50: "traffic sign",  # front; the back is not a sign
    52: "bicycle",
    54: "bus",
    55: "car",
    57: "motorcycle",
    58: "train",  # on rails
    61: "truck",
}


def _first(count: int, classes: dict[int, str]) -> dict[int, str]:
    """Values 0..count-1 occur; those without a class are "ignore"."""
    return dict.fromkeys(range(count), IGNORE) | classes


ID_TABLES: dict[str, dict[int, str]] = {
    "cityscapes": _first(34, _CITYSCAPES_IDS),  # labelIds
    "gta5": _first(35, _CITYSCAPES_IDS),  # those of Cityscapes, and 34: licence plate
    "synthia": _first(23, _SYNTHIA_IDS),
    "mapillary-v1.2": _first(66, _MAPILLARY_IDS),  # v2.0 has 124, in another order
    "bdd100k": dict(enumerate(CITYSCAPES.names)),  # train ids
}
