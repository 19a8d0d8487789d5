"""What holds for the tests of kernels."""

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import torch
import triton


class TorchRandom:
    """torch's generator, as Hypothesis wants it: an example that failed can be drawn once more, number by number."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


_random = TorchRandom()
hypothesis.register_random(_random)


@pytest.fixture(autouse=True, scope="session")
def _loops_in_the_interpreter() -> Iterator[None]:
    """Loops over `range(0, count, BLOCK)`, under Triton 3.6 with NumPy 2.4: only its interpreter cannot run them.

    It keeps a number as an array with one axis, which this NumPy refuses to turn into an int. Triton 3.9 is mended.
    """
    if not triton.__version__.startswith("3.6."):
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
