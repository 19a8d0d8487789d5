"""The operations as attributes of their package."""

import subprocess
import sys

import pytest

from clouds import kernels
from clouds.kernels import mask_pool
from clouds.kernels.deformable_attention import deformable_sampling
from clouds.kernels.mask_pool import mask_pool as of_the_file


def test_names_are_operations() -> None:
    assert set(dir(kernels)) == set(kernels.__all__)
    for name in kernels.__all__:
        assert getattr(kernels, name).__name__ == name
    assert kernels.mask_pool is mask_pool is of_the_file
    assert kernels.deformable_sampling is deformable_sampling


@pytest.mark.parametrize(
    "first", ["from clouds.kernels import mask_pool", "from clouds.kernels.mask_pool import mask_pool"]
)
def test_a_name_is_the_operation_whichever_is_imported_first(first: str) -> None:
    """The file of an operation has the operation's name, and an import binds it in the package."""
    program = f"{first}\nimport clouds.kernels.mask_pool\nassert clouds.kernels.mask_pool is mask_pool"
    program += "\nassert callable(mask_pool), mask_pool"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match=r"module 'clouds\.kernels' has no attribute 'maskpool'"):
        kernels.maskpool  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
