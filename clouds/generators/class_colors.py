"""Classes of one label space as classes of another, to paint label maps for a model of other classes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import UInt8

from clouds.core.contract.labels import IGNORE_ID, LabelSpace
from clouds.core.system.errors import ConfigError

# Classes that look alike and share no word, or share the wrong one first; ours.
_ALIKE = {
    "vegetation": "tree",
    "terrain": "grass",
    "traffic sign": "signboard",
    "sign symbol": "signboard",
    "rider": "person",
    "bicyclist": "person",
    "motorcyclist": "person",
    "motorcycle": "minibike",
    "billboard": "signboard",
    "street light": "street lamp",
    "crosswalk - plain": "road",
    "lane marking - crosswalk": "road",
    "lane marking - general": "road",
}


@lru_cache(maxsize=8)
def class_table(classes: LabelSpace, known: LabelSpace) -> UInt8[np.ndarray, " 256"]:
    """Train id in `known` of each train id in `classes`; 255 without one.

    The first that is a name or else a synonym in `known` decides: the name of the class, a class that looks alike, the
    synonyms of the class.

    >>> from clouds.core.contract.labels import CITYSCAPES
    >>> ade = LabelSpace.named("ade20k-150")
    >>> [ade.names[i] for i in class_table(CITYSCAPES, ade)[[0, 8, 9, 11]]]
    ['road', 'tree', 'grass', 'person']

    Raises:
        ConfigError: there is none for any class.
    """
    words = {word: i for i, group in reversed([*enumerate(known.synonyms)]) for word in group}
    words |= {name: i for i, name in enumerate(known.names)}
    table = np.full(256, IGNORE_ID, np.uint8)
    for train_id, (name, synonyms) in enumerate(zip(classes.names, classes.synonyms, strict=True)):
        tried = (name, _ALIKE.get(name, name), *synonyms)
        table[train_id] = next((words[word] for word in tried if word in words), IGNORE_ID)
    if (table == IGNORE_ID).all():
        raise ConfigError(f"none of the classes {', '.join(classes.names)} is known in {known.name!r}")
    table.setflags(write=False)
    return table
