"""Golden data: outputs of the published implementation, and the recipe that makes weights from parameter names.

The data lie in the folder that `CLOUDS_GOLDEN` names. Where it is not set, tests that want them are skipped; where it
is set, a missing set is an error.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

_UNIT_NORMAL_HALF = (
    "query_feat.weight",
    "query_embed.weight",
    "level_embed",
    "level_embed.weight",
    "void_embedding.weight",
    "pos_embed",
    "iou_token.weight",
    "mask_tokens.weight",
    "not_a_point_embed.weight",
    "no_mask_embed.weight",
)


def folder() -> Path:
    """Where the golden data lie; skips the test when `CLOUDS_GOLDEN` is not set."""
    if "CLOUDS_GOLDEN" not in os.environ:
        pytest.skip("CLOUDS_GOLDEN is not set: no golden data")
    return Path(os.environ["CLOUDS_GOLDEN"])


def load(name: str) -> dict[str, np.ndarray]:
    """All arrays of `name`.npz."""
    with np.load(folder() / f"{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def read_json(name: str) -> Any:
    """What `name`.json says."""
    return json.loads((folder() / f"{name}.json").read_text(encoding="utf-8"))


def randn(seed: int, shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
    """Standard normal numbers of numpy's legacy generator, drawn in float64."""
    drawn = np.random.RandomState(seed).standard_normal(size=shape) * scale
    return torch.from_numpy(np.asarray(drawn).astype(np.float32))


def recipe(name: str, shape: tuple[int, ...]) -> Tensor | None:
    """The weight that belongs to a parameter's name; None leaves it as it is."""
    if name.endswith("empty_weight"):
        return None
    if name.endswith("logit_scale"):
        return torch.full(shape, math.log(1 / 0.07))
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(size=tuple(shape))
    x = torch.from_numpy(np.asarray(drawn).astype(np.float32))
    if name.endswith("running_var"):
        return 0.5 + 0.5 * x.abs()
    if name.endswith("gaussian_matrix"):
        return x
    for ending, offset, scale in (("running_mean", 0, 0.1), ("gamma", 0.1, 0.02), ("bias", 0, 0.05)):
        if name.endswith(ending):
            return offset + scale * x
    if name.endswith("token_embedding.weight"):
        return 0.1 * x
    if name.endswith("positional_embedding"):
        return 0.05 * x
    if name.endswith(_UNIT_NORMAL_HALF) or (".point_embeddings." in name and name.endswith("weight")):
        return 0.5 * x
    if len(shape) == 1:  # norms; the last one of a residual block is damped
        return (1 + 0.1 * x) * (0.3 if ".layer" in "." + name and name.endswith("bn3.weight") else 1.0)
    factor = 0.1 if "transformer_" in name and name.endswith(("out_proj.weight", "linear2.weight")) else 1.0
    if name.endswith("class_embed.weight"):
        factor = 4.0
    return x * np.float32(factor / math.sqrt(math.prod(shape[1:])))


def apply_recipe(module: nn.Module, prefix: str = "", rename: Callable[[str], str] = lambda key: key) -> None:
    """Fill every float entry of the state dict, in place, from its name: `prefix` + `rename(key)`."""
    with torch.no_grad():
        for key, value in module.state_dict().items():
            made = recipe(prefix + rename(key), tuple(value.shape)) if value.is_floating_point() else None
            if made is not None:
                value.copy_(made)


def checkpoint(table: str) -> dict[str, Tensor]:
    """Recipe weights under the names of a released checkpoint; `table` is one of keys_*.json."""
    state: dict[str, Tensor] = {}
    for key, (shape, dtype) in read_json(table).items():
        made = recipe(key, tuple(shape)) if dtype == "float32" else None
        state[key] = torch.zeros(shape, dtype=getattr(torch, dtype)) if made is None else made
    return state


def assert_close(actual: Tensor | np.ndarray, expected: Tensor | np.ndarray, *, floor: float, what: str = "") -> None:
    """Largest difference, relative to the largest expected magnitude, within 10 times the noise floor.

    The factor is GOLDEN.md's advice (section 0) for another implementation that computes the same in another order.
    """
    got, wanted = torch.as_tensor(actual).detach().double(), torch.as_tensor(expected).double()
    assert got.shape == wanted.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(wanted.shape)}"
    scale = wanted.abs().max().clamp(min=1e-30)
    difference = float((got - wanted).abs().max() / scale)
    assert difference <= 10 * floor, f"{what}: relative difference {difference:.3g}, allowed {10 * floor:.3g}"
