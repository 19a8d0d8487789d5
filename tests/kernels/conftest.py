"""What holds for the tests of kernels."""

import hypothesis
import torch


class TorchRandom:
    """torch's generator, as Hypothesis wants it: an example that failed can be drawn once more, number by number."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


_random = TorchRandom()
hypothesis.register_random(_random)
