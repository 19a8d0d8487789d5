"""The environment report of `clouds doctor --bundle`, to attach to a bug report: no secrets, no home folder."""

from __future__ import annotations

import os
import re
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

_FAMILIES = ("CLOUDS_", "CUDA_", "HF_", "MKL_", "NCCL_", "OMP_", "PYTORCH_", "RAY_", "TORCH", "TRITON_", "XDG_")
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASS|CREDENTIAL|AUTH", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")  # user:password@ of an address
_HIDDEN = "(set, not shown)"


def environment_report(document: dict[str, Any]) -> dict[str, Any]:
    """What `clouds doctor` found, all installed distributions, and settings of the libraries by environment variables.

    Variables of other programs are left out. Values of names that sound like secrets, and credentials in addresses, are
    hidden; the home folder is written as "~".
    """
    installed = {one.name: one.version for one in distributions() if one.name}  # a damaged one has no name
    own = {name: value for name, value in os.environ.items() if name.startswith(_FAMILIES)}
    settings = {name: _HIDDEN if _SECRET.search(name) else value for name, value in own.items()}
    report = {**document, "distributions": dict(sorted(installed.items())), "settings": dict(sorted(settings.items()))}
    return _without_home(report, str(Path.home()))


def _without_home(value: Any, home: str) -> Any:
    if isinstance(value, dict):
        return {key: _without_home(one, home) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_home(one, home) for one in value]
    if isinstance(value, str):
        return _CREDENTIALS.sub("", value.replace(home, "~") if len(home) > 1 else value)
    return value
