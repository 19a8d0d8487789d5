"""The environment report of `clouds doctor --bundle`, to attach to a bug report: no secrets, no home folder."""

from __future__ import annotations

import os
import re
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

_FAMILIES = ("CLOUDS_", "CUDA_", "HF_", "MKL_", "NCCL_", "OMP_", "PYTORCH_", "RAY_", "TORCH", "TRITON_", "XDG_")
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASS|CREDENTIAL|AUTH", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)\S*@")  # user:password@ of an address, to the last @: passwords may have others
_QUERY = re.compile(r"(://[^\s?]*)\?\S*")  # of an address; keys are passed in it
_PLAIN = re.compile(r"[\w\s.,:;/~=+%@*-]*")  # what settings are written in; documents such as JSON may hold secrets
_TOKEN = re.compile(r"\b(hf|gh[a-z]|github_pat|glpat|sk|AKIA|eyJ)[-_A-Za-z0-9]{12,}")
_HIDDEN = "(set, not shown)"


def environment_report(document: dict[str, Any]) -> dict[str, Any]:
    """What `clouds doctor` found, all installed distributions, and settings of the libraries by environment variables.

    Variables of other programs are left out. Hidden are values of names that sound like secrets, values that look like
    tokens or are documents, and credentials and queries of addresses; the home folder is written as "~".
    """
    installed = {one.name: one.version for one in distributions() if one.name}  # a damaged one has no name
    own = {name: value for name, value in os.environ.items() if name.startswith(_FAMILIES)}
    settings = {name: _shown(name, value) for name, value in own.items()}
    report = {**document, "distributions": dict(sorted(installed.items())), "settings": dict(sorted(settings.items()))}
    return _without_home(report, str(Path.home()))


def _shown(name: str, value: str) -> str:
    value = _without_credentials(value)
    return value if _PLAIN.fullmatch(value) and not (_SECRET.search(name) or _TOKEN.search(value)) else _HIDDEN


def _without_credentials(text: str) -> str:
    return _QUERY.sub(r"\1", _CREDENTIALS.sub("", text))


def _without_home(value: Any, home: str) -> Any:
    if isinstance(value, dict):
        return {key: _without_home(one, home) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_home(one, home) for one in value]
    if isinstance(value, str):
        return _without_credentials(value.replace(home, "~") if len(home) > 1 else value)
    return value
