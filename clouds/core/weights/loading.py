"""Reads weights safely and loads them into modules; errors list everything that does not fit."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (torch and safetensors have incomplete types)

from __future__ import annotations

import codecs
import hashlib
import math
import os
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from clouds.core.system.errors import NonFiniteError, WeightsError
from clouds.core.weights.pickle_scan import CarriesCode, Refused, TorchScript, scan_file

_SHOWN = 5
# Functions that unpickle numpy arrays and scalars, which checkpoints hold besides tensors.
_REBUILD_ARRAY, _REBUILD_SCALAR = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
_NUMPY: list[Any] = [
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"},
    codecs.encode,
    *((_REBUILD_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_REBUILD_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


def check_finite(module: nn.Module, *, source: str, state: Mapping[str, Tensor] | None = None) -> None:
    """Refuse NaN or infinite weights, so that they never replace good ones.

    Buffers may hold infinities, as masks do.

    Args:
        module: names its parameters and buffers.
        source: for the message.
        state: values that count in the place of the module's own.

    Raises:
        NonFiniteError: names `source` and the first non-finite tensors.
    """
    values = state or {}
    weights = {name: values.get(name, weight) for name, weight in module.named_parameters()}
    buffers = {name: values.get(name, buffer) for name, buffer in module.named_buffers()}
    bad = [name for name, weight in weights.items() if not weight.isfinite().all()]
    bad += [name for name, buffer in buffers.items() if buffer.is_floating_point() and buffer.isnan().any()]
    if bad:
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise NonFiniteError(
            f"{source}: {', '.join(bad[:_SHOWN])}{more} of {type(module).__name__} are not finite (NaN or infinite); "
            "go back to an earlier checkpoint, and look at the learning rate and the precision"
        )


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Raises:
        WeightsError: the file is missing, truncated or of another format.
    """
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118


def safetensors_sizes(path: str | os.PathLike[str]) -> list[int]:
    """Number of elements of each tensor in a safetensors file, from its header.

    Raises:
        WeightsError: the file is missing, truncated or of another format.
    """
    with _opened(path) as file:
        return [math.prod(file.get_slice(key).get_shape()) for key in file.keys()]  # noqa: SIM118


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Generator[Any]:
    if not Path(path).is_file():
        raise WeightsError(f"{path}: no such weight file")
    try:
        with safe_open(os.fspath(path), framework="pt") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a whole safetensors file ({error})") from error


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Load a file of `torch.save` to the CPU: tensors, numpy arrays and plain values; code is never run.

    The pickle is scanned before anything is created (`pickle_scan`), so the file's size bounds time and memory.

    Raises:
        WeightsError: the file is missing, truncated or of another format, its pickle carries code, or its tensors
            exceed the stored data.
    """
    if not Path(path).is_file():
        raise WeightsError(f"{path}: no such weight file")
    try:
        scan_file(Path(path))
        with torch.serialization.safe_globals(_NUMPY), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on pickle protocols; unreadable files are errors anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except TorchScript as error:
        raise WeightsError(
            f"{path}: is a TorchScript program, nothing of it was run; if you trust it, extract its weights: "
            "torch.save(torch.jit.load(path, map_location='cpu').state_dict(), 'weights.pth')"
        ) from error
    except CarriesCode as error:
        raise WeightsError(
            f"{path}: refused, nothing of it was run: a pickle that carries code ({error}); "
            "a file of tensors alone is safe: torch.save({'model': model.state_dict()}, path)"
        ) from error
    except Exception as error:  # a damaged file may raise anything; the cause is kept
        reason = str(error) if isinstance(error, Refused) else type(error).__name__
        raise WeightsError(
            f"{path}: not a whole checkpoint of torch.save, nothing of it was run: truncated, of another format, or a "
            f"pickle that carries code ({reason})"
        ) from error


def digest(state: Mapping[str, Tensor]) -> str:
    """sha256 (hex) of a state dict's names, dtypes, shapes and bits, independent of their order."""
    whole = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        whole.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Faults that prevent loading `state` into tensors `own`, by type of fault; empty if it fits."""
    shapes = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    faults = {
        "missing keys": [key for key in own if key not in state],
        "keys that no parameter has": [key for key in state if key not in own],
        "wrong shapes": shapes,
    }
    return {what: found for what, found in faults.items() if found}


def load_weights(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load a state dict that must fit exactly.

    Raises:
        WeightsError: names missing keys, unexpected keys and wrong shapes; the module is then unchanged.
    """
    own = module.state_dict()
    faults = [
        f"{len(found)} {what}: {', '.join(found[:_SHOWN])}{', ...' if len(found) > _SHOWN else ''}"
        for what, found in misfits(own, state).items()
    ]
    if faults:
        raise WeightsError(f"{source} does not fit {type(module).__name__}: {'; '.join(faults)}")
    own.update(state)  # `own` carries module version metadata, which some classes need to load
    module.load_state_dict(own)
