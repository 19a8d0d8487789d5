"""Operations that dominate time and memory: one file per operation, with formula, source and plain reference.

The operations are attributes of this package, imported on first use, so that `import clouds.kernels` never imports
torch. Other names are imported from the operation's file: `from clouds.kernels.mask_pool import reference`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clouds.kernels.deformable_attention import deformable_attention, deformable_sampling
    from clouds.kernels.mask_pool import mask_pool
    from clouds.kernels.masked_attention import masked_attention
    from clouds.kernels.matching_cost import matching_cost
    from clouds.kernels.point_sample import point_sample
    from clouds.kernels.semantic_inference import semantic_inference

_FILE_OF = {
    "deformable_attention": "deformable_attention",
    "deformable_sampling": "deformable_attention",
    "mask_pool": "mask_pool",
    "masked_attention": "masked_attention",
    "matching_cost": "matching_cost",
    "point_sample": "point_sample",
    "semantic_inference": "semantic_inference",
}

__all__ = [*_FILE_OF]  # pyright: ignore[reportUnsupportedDunderAll]


class _Kernels(ModuleType):
    """This package. The name of an operation is its function, even after the module of that name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing a submodule sets it as an attribute of the package, which would hide the function.
        if name not in _FILE_OF:
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _FILE_OF:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{self.__name__}.{_FILE_OF[name]}"), name)

    def __dir__(self) -> list[str]:
        return sorted(__all__)


sys.modules[__name__].__class__ = _Kernels
