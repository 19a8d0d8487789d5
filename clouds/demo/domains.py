"""The demo's datasets: the labelled source and the unseen test domains, as `folder:` datasets."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from clouds.core.system.config import to_toml
from clouds.core.system.errors import ConfigError, did_you_mean
from clouds.core.system.files import atomic_folder, target_in, write_text
from clouds.core.system.images import write_png
from clouds.streets.kits.engine import engine_style
from clouds.streets.kits.unseen.kit import unseen_styles
from clouds.streets.render import render

SOURCE = "game-engine"
UNSEEN = ("lamplit-night", "valley-mist", "wet-lens", "snow-drifts")
_SETTINGS = "dataset.toml"


def write_domain(name: str, out: Path, *, count: int, size: tuple[int, int], seed: int) -> None:
    """Write a domain as `out/images/<split>` and `out/labels/<split>`; the source is "train", the others are "val".

    Image i depends only on the domain, the seed, the size and i. Labels are Cityscapes train ids. The folder is written
    atomically, and replaces an earlier one.

    Args:
        name: `SOURCE` or one of `UNSEEN`.
        out: folder of the dataset.
        count: number of images.
        size: (height, width) in pixels.
        seed: 0 or more.

    Raises:
        ConfigError: there is no such domain.
        DataError: `out` exists and is something else.
    """
    styles = {SOURCE: engine_style(), **unseen_styles()}
    if name not in styles:
        raise ConfigError(f"the demo has no domain {name!r}{did_you_mean(name, styles)}")
    split = "train" if name == SOURCE else "val"
    key = int.from_bytes(blake2b(name.encode(), digest_size=8).digest())
    with atomic_folder(out, marker=_SETTINGS) as folder:
        for index in range(count):
            picture = render(styles[name], size, (key, seed, index))
            write_png(target_in(folder, f"images/{split}/{index:04}.png"), picture.image)
            write_png(target_in(folder, f"labels/{split}/{index:04}.png"), picture.label_map)
        write_text(folder / _SETTINGS, to_toml({"labels": {"encoding": "trainIds"}}))
