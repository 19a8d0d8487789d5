"""Where SAM's published weights are (Apache-2.0). Their file names end with the first digits of their sha256."""

from __future__ import annotations

import sys
from hashlib import file_digest
from pathlib import Path
from typing import Literal

from torch.hub import download_url_to_file

from clouds.core.errors import WeightsError
from clouds.core.files import cache_folder

SamModel = Literal["vit_b", "vit_l", "vit_h"]
FILES: dict[SamModel, str] = {
    "vit_b": "sam_vit_b_01ec64.pth",
    "vit_l": "sam_vit_l_0b3195.pth",
    "vit_h": "sam_vit_h_4b8939.pth",
}
_SOURCE = "https://dl.fbaipublicfiles.com/segment_anything"


def download(model: SamModel) -> Path:
    """The published weights, from the user's cache or else from the network.

    Raises:
        WeightsError: they could not be had, or are damaged.
    """
    path = cache_folder("weights") / FILES[model]
    if not path.is_file():
        url = f"{_SOURCE}/{path.name}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            download_url_to_file(url, str(path), hash_prefix=_prefix(path), progress=sys.stderr.isatty())
        except (OSError, RuntimeError) as error:
            raise WeightsError(
                f"SAM weights could not be had from {url} ({type(error).__name__}: {error}); get the file by other "
                f"means and use pretrained=FILE or put it at {path}, or use pretrained=False for random weights"
            ) from error
    return checked(path)


def checked(path: Path) -> Path:
    """The same path, once a file of a published name is found to have the sha256 that its name says.

    Raises:
        WeightsError: it has another, or there is no such file.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weight file")
    if path.name in FILES.values():
        with open(path, "rb") as stream:
            found = file_digest(stream, "sha256").hexdigest()
        if not found.startswith(_prefix(path)):
            raise WeightsError(
                f"{path}: sha256 is {found[:12]}..., expected {_prefix(path)}... as its name says; the file is damaged "
                "or not the published one: download it again, or rename one of your own"
            )
    return path


def _prefix(path: Path) -> str:
    return path.stem.rpartition("_")[2]
