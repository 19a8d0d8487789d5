"""Reading weights safely and putting them into modules with a full account of what does not fit."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (torch and safetensors are typed in parts only)

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from clouds.core.errors import WeightsError

_SHOWN = 5


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Raises:
        WeightsError: the file is missing, truncated or of another format.
    """
    if not Path(path).is_file():
        raise WeightsError(f"{path}: no such weight file")
    try:
        with safe_open(os.fspath(path), framework="pt") as opened:
            file = cast("Any", opened)
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a whole safetensors file ({error})") from error


def load_weights(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load a state dict that must fit exactly.

    Raises:
        WeightsError: naming missing keys, left-over keys and wrong shapes; the module is then unchanged.
    """
    own = module.state_dict()
    shapes = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    faults = [
        f"{len(keys)} {what}: {', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''}"
        for what, keys in (
            ("missing keys", [key for key in own if key not in state]),
            ("keys that no parameter has", [key for key in state if key not in own]),
            ("wrong shapes", shapes),
        )
        if keys
    ]
    if faults:
        raise WeightsError(f"{source} does not fit {type(module).__name__}: {'; '.join(faults)}")
    module.load_state_dict(dict(state))
