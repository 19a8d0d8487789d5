"""What holds for every test: shapes are checked at run time, slow and GPU tests run only where they can."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import hypothesis
import jaxtyping
import pytest
from beartype import BeartypeConf, FrozenDict, beartype

# Read when torch is first imported, and by the processes that tests start. Models here are so small that a second
# thread gains little, and on a machine that is busy otherwise threads that wait for each other cost a factor of 7.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def _torch_sees_a_gpu() -> bool:
    import torch

    with warnings.catch_warnings(action="ignore"):  # a driver that is too old, or without a device, is no GPU
        return torch.cuda.is_available()


# Without a GPU, Triton's interpreter runs the kernels on CPU tensors, unless it was said which runs them. Triton reads
# this when it is first imported, which torch's own import does not do.
_GPU = _torch_sees_a_gpu()
os.environ.setdefault("TRITON_INTERPRET", "0" if _GPU else "1")
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # its default, of which Triton 3.9 warns where it is unset


def _checked() -> list[str]:
    """All modules of `clouds` but the kernels, whose source Triton reads itself."""
    (root,) = map(
        Path, (find_spec("clouds") or pytest.exit("clouds is not installed")).submodule_search_locations or []
    )
    parts = [f"clouds.{path.stem}" for path in root.iterdir() if path.stem not in ("kernels", "bench")]
    return parts + [
        f"clouds.{room}.{path.stem}"
        for room in ("kernels", "bench")
        for path in (root / room).iterdir()
        if path.stem not in ("_triton", "gather")
    ]


# The hook wants a type checker that it can import by name. An int may stand for a float, as PEP 484 says; `Self` is
# left alone because the hook decorates methods one by one, where beartype cannot know the class.
_checker = ModuleType("clouds_type_checker")
_checker.check = beartype(  # pyright: ignore[reportAttributeAccessIssue]
    conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({Self: Any}))
)
sys.modules[_checker.__name__] = _checker
jaxtyping.install_import_hook(_checked(), f"{_checker.__name__}.check")

hypothesis.settings.register_profile("clouds", deadline=None)  # a busy machine makes no test wrong
hypothesis.settings.load_profile("clouds")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too (`-m slow`: only these)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    slow = [item for item in items if "slow" in item.keywords]
    items[:] = [item for item in items if "slow" not in item.keywords]
    config.hook.pytest_deselected(items=slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    obstacle = None
    if not _GPU:
        obstacle = "torch sees no CUDA device"
    elif os.environ["TRITON_INTERPRET"] == "1":
        obstacle = "TRITON_INTERPRET=1 runs no kernel on it"
    if obstacle and os.environ.get("CLOUDS_REQUIRE_GPU") == "1":
        pytest.fail(f"CLOUDS_REQUIRE_GPU=1, but {obstacle}")
    if obstacle:
        pytest.skip(f"needs a CUDA device; {obstacle}")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests, and the processes that they start, leave the user's cache alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOUDS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _unsynced() -> Iterator[None]:
    """Files of tests need not survive a power failure, and a busy disk is slow to wait for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _loops_in_the_interpreter() -> Iterator[None]:
    """Loops over `range(0, count, BLOCK)`, under Triton 3.6 with NumPy 2.4: only its interpreter cannot run them.

    It keeps a number as an array with one axis, which this NumPy refuses to turn into an int. Triton 3.9 is mended.
    """
    if find_spec("triton") is None or not import_module("triton").__version__.startswith("3.6."):
        yield
        return
    from triton.runtime import interpreter

    original = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang_tensor", patched)
        yield


@pytest.fixture
def unchecked_types() -> Any:
    """Switch the run-time type checks off, to see how `clouds` itself answers a value of a wrong type."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
