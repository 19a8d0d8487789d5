"""Weight files of the formats that open_clip and timm publish, read without ever running code from them."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# (what a checkpoint holds is not known before it is read)

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from clouds.core.errors import WeightsError
from clouds.core.weights import read_pickle, read_safetensors

_TORCH_ENDINGS = (".bin", ".pt", ".pth")
_WRAPPERS = ("state_dict", "model")  # what training checkpoints file the weights under


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of a .safetensors, .bin, .pt or .pth file, on the CPU.

    Training checkpoints are unwrapped (`state_dict`, `model`, and the prefix `module.` of data-parallel training).

    Raises:
        WeightsError: the file is missing, truncated, of another format, or a pickle that holds more than tensors.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    if path.suffix not in _TORCH_ENDINGS:
        raise WeightsError(f"{path}: weight files end in .safetensors, {', '.join(_TORCH_ENDINGS)}")
    loaded = read_pickle(path)
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not loaded:
        raise WeightsError(f"{path}: expected a state dict (names to tensors), found {type(loaded).__name__}")
    others = [f"{key!r} ({type(value).__name__})" for key, value in loaded.items() if not isinstance(value, Tensor)]
    if others:
        raise WeightsError(f"{path}: expected a state dict (names to tensors), found {', '.join(others[:5])}")
    parallel = all(str(key).startswith("module.") for key in loaded)
    return {str(key).removeprefix("module.") if parallel else str(key): value for key, value in loaded.items()}
