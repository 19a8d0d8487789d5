"""Reads weight files in the formats of open_clip and timm without running code from them."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# (the content of a checkpoint has no static type)

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from clouds.core.system.errors import WeightsError
from clouds.core.weights.loading import read_pickle, read_safetensors

_TORCH_ENDINGS = (".bin", ".pt", ".pth")
_PLAIN = ("state_dict", "model", "model_state_dict")  # keys of the weights in training checkpoints
_OTHERS = ("ema", "teacher", "student", "momentum", "swa")  # keys of further copies
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # torch's own


def read_weights(path: Path, *, names: Collection[str] = ()) -> dict[str, Tensor]:
    """Read the state dict of a .safetensors, .bin, .pt or .pth file to the CPU.

    Unambiguous wrappers are removed: tables of training checkpoints (`state_dict`, `model`, `state_dict_ema`,
    `teacher`, ...), prefixes of data-parallel training and `torch.compile` (`module.`, `_orig_mod.`), and, given
    `names`, any other prefix of them (`model.`, `teacher.backbone.`).

    Args:
        path: the file.
        names: parameter names of the module.

    Raises:
        WeightsError: the file is missing, truncated, of another format, or a pickle with more than tensors; or it holds
            the weights more than once.
    """
    if path.suffix == ".safetensors":
        return unwrap_names(read_safetensors(path)[0], names, source=str(path))
    if path.suffix not in _TORCH_ENDINGS:
        raise WeightsError(f"{path}: weight files end in .safetensors, {', '.join(_TORCH_ENDINGS)}")
    loaded = unwrap_tables(read_pickle(path), source=str(path))
    if not isinstance(loaded, Mapping) or not loaded:
        raise WeightsError(f"{path}: expected a state dict (names to tensors), found {type(loaded).__name__}")
    others = [f"{key!r} ({type(value).__name__})" for key, value in loaded.items() if not isinstance(value, Tensor)]
    if others:
        raise WeightsError(f"{path}: expected a state dict (names to tensors), found {', '.join(others[:5])}")
    return unwrap_names({str(key): value for key, value in loaded.items()}, names, source=str(path))


def unwrap_tables(content: Any, *, source: str, kinds: tuple[type, ...] = (Tensor,)) -> Any:
    """Extract the table of weights from a training checkpoint; content without one is returned unchanged.

    Args:
        content: the unpickled file.
        source: the file, for messages.
        kinds: types of weights.

    Raises:
        WeightsError: there are several tables, such as the model's and its moving average's (EMA).
    """
    while isinstance(content, Mapping) and not any(isinstance(value, kinds) for value in content.values()):
        tables = [key for key, value in content.items() if _holds_weights(value, kinds)]
        known = [key for key in tables if key in _PLAIN or any(word in str(key).lower() for word in _OTHERS)]
        tables = known or tables
        if not tables:
            break
        if len(tables) > 1:
            raise WeightsError(
                f"{source}: holds weights more than once, in {', '.join(map(repr, tables))} (a moving average, EMA, or "
                f"a teacher beside the model); choose one: torch.save(torch.load({source!r})[{tables[0]!r}], 'one.pth')"
            )
        content = content[tables[0]]
    return content


def _holds_weights(value: Any, kinds: tuple[type, ...]) -> bool:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    return any(isinstance(item, kinds) or _holds_weights(item, kinds) for item in value.values())


def unwrap_names(state: Mapping[str, Any], names: Collection[str], *, source: str) -> dict[str, Any]:
    """Remove the prefixes that wrappers add to names.

    Raises:
        WeightsError: the weights occur more than once, under different prefixes.
    """
    state = {_WRAPPERS.sub("", key): value for key, value in state.items()}
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    wanted = frozenset(names)
    found = Counter(key[:cut] for key in state for cut in _part_starts(key) if key[cut:] in wanted)
    most = max(found.values(), default=0)
    if 2 * most <= len(wanted) or found[""] == most:
        return state
    first, *more = [prefix for prefix, count in found.items() if count == most]
    if more:
        raise WeightsError(
            f"{source}: holds the weights more than once, under {', '.join(map(repr, (first, *more)))}; save the ones "
            "that you choose alone, without that prefix"
        )
    return {key.removeprefix(first): value for key, value in state.items() if key.startswith(first)}


def _part_starts(key: str) -> list[int]:
    """Start positions of the parts of a dotted name."""
    return [0, *(match.end() for match in re.finditer(r"\.", key))]
