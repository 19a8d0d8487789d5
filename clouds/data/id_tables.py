"""Label values of published datasets, mapped to Cityscapes class names.

Names rather than train ids, so that a table serves every label space that selects some of these classes. Classes beyond
the 19 are "ignore". Sources: the label definitions of each dataset; for SYNTHIA and Mapillary Vistas v1.2, the
assignment to Cityscapes classes that is common in domain generalization (CLOUDS, CVPR 2024), which v2.0 continues for
the classes into which it divides those of v1.2.

- IDD: `csTrainId` of its helpers/anue_labels.py. Level-3 ids join some classes; a joint class has the train id that the
  tool gives to one of its members, if they do not disagree (animal joins person, non-drivable fallback rail tracks).
- WildDash 2: `cs_name` of wd2_unified_label_policy.json (Zendel et al., CVPR 2022), the authors' own assignment.
- SHIFT: the Cityscapes ids in the table of classes at https://www.vis.xyz/shift.
- COCO panoptic: categories that have a Cityscapes class of the same meaning; an assignment of this library.
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
_MAPILLARY_V2_IDS = {
    4: "sidewalk",  # curb
    5: "fence",
    12: "wall",
    21: "road",
    24: "sidewalk",
    27: "building",
    30: "person",
    31: "person",  # group
    **dict.fromkeys((32, 33, 34), "rider"),  # bicyclist, motorcyclist, other rider
    **dict.fromkeys(range(35, 45), "road"),  # lane markings
    **dict.fromkeys(range(46, 55), "road"),  # lane markings, after the zebra crossing
    **dict.fromkeys((55, 57, 58), "road"),  # those on other ground
    61: "sky",
    63: "terrain",
    64: "vegetation",
    74: "road",  # manhole
    85: "pole",
    86: "pole",  # group
    88: "pole",  # utility pole
    **dict.fromkeys(range(90, 96), "traffic light"),
    99: "traffic sign",  # direction, front
    100: "traffic sign",  # front
    101: "traffic sign",  # parking
    103: "traffic sign",  # temporary, front
    105: "bicycle",
    107: "bus",
    108: "car",
    110: "motorcycle",
    111: "train",  # on rails
    114: "truck",
}
_IDD_LEVEL3_IDS = {
    0: "road",
    2: "sidewalk",
    3: "terrain",  # non-drivable fallback; rail tracks
    4: "person",  # animals, too
    5: "rider",
    6: "motorcycle",
    7: "bicycle",
    9: "car",
    10: "truck",
    11: "bus",
    14: "wall",
    15: "fence",
    18: "traffic sign",
    19: "traffic light",
    20: "pole",  # groups of poles, too
    22: "building",
    24: "vegetation",
    25: "sky",  # fallback background, too
}
_WILDDASH_IDS = _CITYSCAPES_IDS | {
    34: "truck",  # pickup
    35: "car",  # van
    **dict.fromkeys((38, 41, 43), "road"),  # marking, manhole, pothole
    **dict.fromkeys((45, 46), "pole"),  # frame of a traffic sign, utility pole
    **dict.fromkeys((47, 48, 49), "rider"),  # motorcyclist, bicyclist, other rider
    52: "sidewalk",  # curb
    56: "wall",  # other barrier
    58: "motorcycle",  # autorickshaw
    **dict.fromkeys((61, 64, 70), "road"),  # tram track, bike lane, pedestrian area
    65: "sidewalk",  # bike lane on the sidewalk
    **dict.fromkeys((74, 75, 76), "road"),  # catch basin, crosswalks
    77: "sidewalk",  # manhole
    78: "terrain",  # curb
    79: "road",  # service lane
    80: "sidewalk",  # curb cut
}
_SHIFT_IDS = {
    1: "building",
    2: "fence",
    4: "person",
    5: "pole",
    6: "road",  # line
    7: "road",
    8: "sidewalk",
    9: "vegetation",
    10: "car",  # all vehicles
    11: "wall",
    12: "traffic sign",
    13: "sky",
    18: "traffic light",
    22: "terrain",
}
_COCO_IDS = {
    1: "person",  # riders, too
    2: "bicycle",
    3: "car",
    4: "motorcycle",
    6: "bus",
    7: "train",
    8: "truck",
    10: "traffic light",
    13: "traffic sign",  # stop sign
    **dict.fromkeys((128, 151, 197), "building"),  # house, roof, other buildings
    149: "road",
    **dict.fromkeys((171, 175, 176, 177, 199), "wall"),  # of brick, stone, tile, wood; other walls
    184: "vegetation",  # tree
    185: "fence",
    187: "sky",
    191: "sidewalk",  # pavement
    **dict.fromkeys((193, 194), "terrain"),  # grass, dirt
}
_TRAIN_IDS = dict(enumerate(CITYSCAPES.names))


def _first(count: int, classes: dict[int, str]) -> dict[int, str]:
    """Values 0..count-1 occur; those without a class are "ignore"."""
    return dict.fromkeys(range(count), IGNORE) | classes


ID_TABLES: dict[str, dict[int, str]] = {
    "cityscapes": _first(34, _CITYSCAPES_IDS),  # labelIds
    "gta5": _first(35, _CITYSCAPES_IDS),  # those of Cityscapes, and 34: licence plate
    "synthia": _first(23, _SYNTHIA_IDS),
    "mapillary-v1.2": _first(66, _MAPILLARY_IDS),
    "mapillary-v2.0": _first(124, _MAPILLARY_V2_IDS),
    "bdd100k": _TRAIN_IDS,
    "urbansyn": _first(20, _TRAIN_IDS),  # and 19: unlabeled
    "idd": _TRAIN_IDS,  # csTrainIds
    "idd-level3": _first(26, _IDD_LEVEL3_IDS),
    "dark-zurich": _TRAIN_IDS,
    "wilddash2": _first(81, _WILDDASH_IDS),
    "shift": _first(23, _SHIFT_IDS),
    "coco-panoptic": _first(201, _COCO_IDS),
}

# Label spaces with the classes of a dataset itself: for them, its values are the raw ids of the label space.
OWN_LABEL_SPACES = {
    "mapillary-v1.2": "mapillary-vistas-v1.2",
    "mapillary-v2.0": "mapillary-vistas-v2.0",
    "idd-level3": "idd",
    "coco-panoptic": "coco-panoptic-133",
}
