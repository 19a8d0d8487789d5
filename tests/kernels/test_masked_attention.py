"""Masked attention: every form against the float64 reference; the Triton kernels run in the interpreter on a CPU.

Mask embeddings and features are small whole numbers: their products are exact in every type, so that no logit of a mask
is on the other side of 0 for rounding, and many are 0.
"""

from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clouds.kernels.masked_attention import attention_bias, attention_mask, masked_attention, reference

module = import_module("clouds.kernels.masked_attention")

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
# Of the largest number. Float32: products of up to 128 channels and sums over some hundred keys, each rounded to 6e-8,
# whose errors add like a random walk; a logit's error counts in full, and logits here are up to about 20 in size.
# bfloat16 and float16: results are rounded to 2^-9 and 2^-11, on a GPU the weights, too. A gradient of q or k comes
# from the sum over channels of the rounded output and its gradient: of up to 128 terms, the root of which is 11.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 16 * 2**-9, torch.float16: 16 * 2**-11}


def inputs(b: int, m: int, q: int, n: int, d: int = 16, c: int = 3, **options: Any) -> list[Tensor]:
    """q, k, v, mask_embed, mask_features; the first query of each image has an empty mask."""
    dtype = options.setdefault("dtype", torch.float32)
    shapes = ((b, m, q, d), (b, m, n, d), (b, m, n, d))
    attended = [torch.randn(shape, **options).requires_grad_() for shape in shapes]
    embed, features = torch.randint(-2, 3, (b, q, c)).to(**options), torch.randint(-2, 3, (b, c, n)).to(**options)
    features[:, 0] = features[:, 0].abs() + 1
    embed[:, :1] = torch.tensor([-1, *[0] * (c - 1)], dtype=dtype)
    return [*attended, embed, features]


def run(compute: Any, tensors: list[Tensor], gradient: Tensor | None = None, **options: Any) -> list[Tensor]:
    """Output and gradients of q, k and v, for the same gradient of the output."""
    output = compute(*tensors, **options)
    gradient = torch.ones_like(output) if gradient is None else gradient.to(output)
    return [output, *torch.autograd.grad(output, tensors[:3], gradient)]


def doubles(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().cpu().double().requires_grad_(tensor.requires_grad) for tensor in tensors]


def assert_equal(found: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        scale = float(other.detach().abs().nan_to_num(0).max()) if other.numel() else 0.0
        tolerance = TOLERANCE[dtype] * max(scale, 1.0)  # gradients that cancel to 0 are sums of numbers of about 1
        torch.testing.assert_close(one.detach().cpu().double(), other.detach(), rtol=0, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", ["triton", "torch", "reference"])
@settings(max_examples=4)
@given(
    b=st.integers(1, 2),
    m=st.integers(1, 2),
    q=st.sampled_from([1, 5, 17]),
    n=st.sampled_from([1, 31, 32, 33, 65, 130]),
    d=st.sampled_from([16, 32]),
    c=st.sampled_from([1, 3, 40]),
)
def test_output_and_gradients(backend: Any, device: str, b: int, m: int, q: int, n: int, d: int, c: int) -> None:
    tensors = inputs(b, m, q, n, d, c, device=device)
    gradient = torch.randn(b, m, q, d)
    expected = run(reference, doubles(tensors), gradient)
    assert_equal(run(masked_attention, tensors, gradient, backend=backend), expected, torch.float32)


@pytest.mark.slow  # the interpreter takes seconds for each of many blocks of queries, spans of keys and wide heads
@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=15)
@given(
    b=st.integers(1, 2),
    m=st.integers(1, 2),
    q=st.integers(1, 300),
    n=st.integers(1, 1100),
    d=st.sampled_from([16, 32, 64, 128]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_sweep(device: str, b: int, m: int, q: int, n: int, d: int, dtype: torch.dtype) -> None:
    tensors = inputs(b, m, q, n, d, 7, device=device, dtype=dtype)
    gradient = torch.randn(b, m, q, d).to(dtype)
    expected = run(reference, doubles(tensors), gradient)
    assert_equal(run(masked_attention, tensors, gradient, backend="triton"), expected, dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_summed_in_float32(device: str, dtype: torch.dtype) -> None:
    tensors = inputs(1, 2, 20, 80, device=device, dtype=dtype)
    gradient = torch.randn(1, 2, 20, 16).to(dtype)
    expected = run(reference, doubles(tensors), gradient)
    assert_equal(run(masked_attention, tensors, gradient, backend="triton"), expected, dtype)


@pytest.mark.parametrize("device", DEVICES)
def test_released_sizes(device: str) -> None:
    """8 heads of 32 channels, 100 queries, 256 channels of mask features; strides of a decoder, nothing contiguous."""
    made = inputs(1, 8, 100, 64, 32, 256, device=device)
    q, k, v = (x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in made[:3])
    tensors = [q, k, v, made[3][:, :, ::2], made[4].transpose(1, 2).contiguous().transpose(1, 2)[:, ::2]]
    gradient = torch.randn(1, 1, 100, 1).expand(1, 8, 100, 32)
    expected = run(reference, doubles(tensors), gradient)
    found = run(masked_attention, tensors, gradient.to(device), backend="triton")
    assert_equal(found, expected, torch.float32)
    assert all(one.transpose(1, 2).is_contiguous() for one in found)  # so that joining the heads copies nothing


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(0, 2, 3, 40), (1, 2, 0, 40), (1, 0, 3, 40)])
def test_nothing_to_compute(shape: tuple[int, int, int, int], device: str) -> None:
    tensors = inputs(*shape, device=device)
    output, *gradients = run(masked_attention, tensors, backend="triton")
    assert output.shape == tensors[0].shape
    for gradient, tensor in zip(gradients, tensors, strict=False):
        assert gradient.shape == tensor.shape
        assert not gradient.any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", ["triton", "torch", "reference"])
def test_extreme_logits(backend: Any, device: str) -> None:
    """Logits of up to 1e4 in size, in whole numbers: the weights are those of the few largest."""
    q, k = (torch.randint(-5, 6, (1, 2, size, 16)).float() * 16 for size in (20, 90))
    tensors = [q.requires_grad_(), k.requires_grad_(), *inputs(1, 2, 20, 90)[2:]]
    expected = run(reference, doubles(tensors))
    moved = [tensor.detach().to(device).requires_grad_(i < 3) for i, tensor in enumerate(tensors)]
    found = run(masked_attention, moved, backend=backend)
    assert float((q @ k.mT).detach().abs().max()) / 4 > 5e3
    for one, other in zip(found, expected, strict=True):
        # a whole product is exact; a quarter of it, times log2(e), has an error of 1e4 x 2 x 6e-8 of an exponent
        scale = max(1.0, float(other.detach().abs().max()))
        torch.testing.assert_close(one.cpu().double(), other, rtol=0, atol=5e-3 * scale)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.filterwarnings("ignore:(invalid value|All-NaN slice) encountered:RuntimeWarning")  # the interpreter's
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", range(5))
def test_not_a_number_where_the_reference_has_it(place: int, value: float, device: str) -> None:
    tensors = [tensor.detach() for tensor in inputs(2, 1, 6, 40)]
    tensors[place][0, ..., 2, 1] = value
    tensors = [tensor.to(device).requires_grad_(i < 3) for i, tensor in enumerate(tensors)]
    expected = run(reference, doubles(tensors))
    found = run(masked_attention, tensors, backend="triton")
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.isnan().cpu(), other.isnan())
        assert not other[1].isnan().any()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_logits_that_are_all_infinitely_small_are_as_in_softmax() -> None:
    q, k, v, embed, features = (tensor.detach() for tensor in inputs(1, 1, 4, 40))
    q.fill_(1)
    k[..., 0] = -torch.inf
    assert masked_attention(q, k, v, embed, features, backend="triton").isnan().all()
    assert reference(q, k, v, embed, features).isnan().all()


def test_a_query_with_an_empty_mask_attends_everywhere() -> None:
    logits = torch.tensor([[[-1.0, -2.0], [-1.0, 0.0], [torch.nan, 1.0]]])
    assert attention_mask(logits)[0, 0].tolist() == [[True, True], [False, True], [False, True]]


@settings(max_examples=10)
@given(queries=st.integers(1, 4), keys=st.integers(1, 100))
def test_masks_as_bits(queries: int, keys: int) -> None:
    *_, embed, features = inputs(2, 1, queries, keys)
    words = module._pack(embed, features).long().transpose(1, 2)
    inside = (words[:, :, :-1, None] >> torch.arange(32) & 1).bool().flatten(2)
    assert torch.equal(inside[..., :keys], embed @ features >= 0)
    assert not inside[..., keys:].any()
    assert torch.equal(words[..., -1] == 0, ~inside.any(-1))


def test_gradients_of_the_reference() -> None:
    q, k, v, embed, features = doubles(inputs(1, 2, 3, 5, 2))
    assert torch.autograd.gradcheck(lambda *qkv: reference(*qkv, embed, features), (q, k, v))


def test_masks_get_no_gradient() -> None:
    tensors = inputs(1, 1, 3, 40)
    for tensor in tensors[3:]:
        tensor.requires_grad_()
    for backend in ("triton", "torch", "reference"):
        output = masked_attention(*tensors, backend=backend)
        assert torch.autograd.grad(output.sum(), tensors[3:], allow_unused=True) == (None, None)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of opcheck's own copies
@pytest.mark.parametrize("device", DEVICES)
def test_custom_ops_are_registered_as_torch_expects(device: str) -> None:
    tensors = inputs(1, 2, 3, 5, device=device)
    torch.library.opcheck(module._pack, tensors[3:])
    words = module._pack(*tensors[3:])
    torch.library.opcheck(module._attend, (*tensors[:3], words))
    q, k, v = (tensor.detach() for tensor in tensors[:3])
    output, totals = module._attend(q, k, v, words)
    torch.library.opcheck(module._attend_backward, (torch.ones_like(output), q, k, v, words, output, totals))


@pytest.mark.parametrize("device", DEVICES)
def test_results_are_right_and_the_same_in_every_run(device: str) -> None:
    """For two blocks of queries, whose gradients of keys add up, and three splits of keys."""
    tensors = inputs(1, 1, 140, 300, device=device)
    first, second = (run(masked_attention, tensors, backend="triton") for _ in range(2))
    assert_equal(first, run(reference, doubles(tensors)), torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("keys", [64, 77])
def test_xformers(keys: int, dtype: torch.dtype) -> None:
    pytest.importorskip("xformers")
    tensors = inputs(2, 8, 100, keys, 32, device="cuda", dtype=dtype)
    gradient = torch.randn(2, 8, 100, 32).to(dtype)
    expected = run(reference, doubles(tensors), gradient)
    assert_equal(run(masked_attention, tensors, gradient.cuda(), backend="xformers"), expected, dtype)


@given(keys=st.integers(1, 40), queries=st.integers(1, 5))
def test_a_bias_for_xformers(keys: int, queries: int) -> None:
    mask = torch.rand(2, 1, queries, keys) < 0.5
    bias = attention_bias(mask, torch.bfloat16)
    assert torch.equal(bias == 0, mask)
    assert torch.equal(bias == -torch.inf, ~mask)
    assert all(stride % 8 == 0 for stride in bias.stride()[:-1])
    assert bias.stride(-1) == 1
