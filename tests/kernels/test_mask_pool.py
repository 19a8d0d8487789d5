"""Mask pooling on Triton against its reference in float64: means, gradients, empty masks, any strides."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clouds.kernels.mask_pool import mask_pool, reference

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
FORMS = ["torch", "triton"]
quiet = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # of numpy, which interprets kernels


def inputs(
    batch: int, queries: int, channels: int, size: tuple[int, int], mask_size: tuple[int, int], seed: int = 0
) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, channels, *size, generator=random)
    return features, torch.randn(batch, queries, *mask_size, generator=random)


def tolerance(features: Tensor) -> float:
    """The mean of n float32 numbers is off by at most n roundings of the largest, then it is rounded to its dtype."""
    pixels = features.shape[2] * features.shape[3]
    roundings = pixels * torch.finfo(torch.float32).eps + torch.finfo(features.dtype).eps
    return roundings * float(features.double().abs().amax())


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=12)
@given(
    batch=st.integers(0, 2),
    queries=st.integers(0, 20),
    channels=st.integers(1, 20),
    size=st.tuples(st.integers(1, 12), st.integers(1, 30)),
    coarser=st.integers(1, 3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 9999),
)
def test_means_and_gradients(
    device: str, batch: int, queries: int, channels: int, size: Any, coarser: int, dtype: torch.dtype, seed: int
) -> None:
    mask_size = (size[0] * coarser, size[1] * coarser)
    features, masks = (tensor.to(device) for tensor in inputs(batch, queries, channels, size, mask_size, seed))
    features, masks = features.to(dtype).requires_grad_(), masks.to(dtype)
    exact = features.detach().double().requires_grad_()
    pooled, expected = mask_pool(features, masks, backend="triton"), reference(exact, masks)
    assert pooled.dtype == dtype
    if not features.numel():
        assert pooled.shape == (0, queries, channels)
        return
    atol = tolerance(features.detach())
    torch.testing.assert_close(pooled.double(), expected, rtol=0, atol=atol)
    direction = torch.randn_like(pooled)
    (gradient,) = torch.autograd.grad(pooled, features, direction)
    (wanted,) = torch.autograd.grad(expected, exact, direction.double())
    # a gradient sums one weight for each mask, none above the direction's largest; in bfloat16 and float16 these are
    # rounded to TF32 on a GPU, which is no coarser than their own rounding
    most = float(direction.double().abs().sum(1).amax()) if queries else 0.0
    eps = torch.finfo(dtype).eps + 2**-11 * (dtype != torch.float32) + (queries + 4) * torch.finfo(torch.float32).eps
    torch.testing.assert_close(gradient.double(), wanted, rtol=0, atol=eps * most)


@pytest.mark.slow  # some seconds in the interpreter
@pytest.mark.parametrize("device", DEVICES)
def test_more_than_one_program_of_each_kind(device: str) -> None:
    """Two tiles of masks, three of channels, and several parts of the pixels, the last one shorter."""
    features, masks = (tensor.to(device) for tensor in inputs(2, 130, 140, (33, 41), (33, 41)))
    features.requires_grad_()
    pooled = mask_pool(features, masks, backend="triton")
    expected = reference(features.double(), masks)
    torch.testing.assert_close(pooled.double(), expected, rtol=0, atol=tolerance(features.detach()))
    direction = torch.randn_like(pooled)
    found, wanted = (
        torch.autograd.grad(one, features, direction.to(one.dtype), retain_graph=True)[0] for one in (pooled, expected)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
def test_inputs_of_any_strides(device: str, form: Any) -> None:
    """Cropped maps, whose rows do not follow each other, and channels last."""
    features, masks = (tensor.to(device) for tensor in inputs(2, 6, 8, (9, 12), (7, 14)))
    for one, other in (
        (features[:, ::2, 1:8, 1:11], masks[:, ::2, :, 2:12]),
        (features.to(memory_format=torch.channels_last)[:, :, :7], masks[..., 1:13]),
        (features.mT[:, :, :, :7].mT, masks[..., :12].expand(2, 6, 7, 12)),
    ):
        expected = reference(one.double(), other)
        torch.testing.assert_close(
            mask_pool(one, other, backend=form).double(), expected, rtol=0, atol=tolerance(features)
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
def test_sums_that_float16_cannot_hold(device: str, form: Any) -> None:
    """A mean of 2 over 40,000 pixels; and an empty mask, through which 1 / epsilon would come back."""
    features = torch.full((1, 16, 200, 200), 2.0, dtype=torch.float16, device=device, requires_grad=True)
    masks = torch.tensor([1.0, -1.0], device=device).view(1, 2, 1, 1).expand(1, 2, 200, 200)
    pooled = mask_pool(features, masks, backend=form)
    assert torch.equal(pooled[0, :, 0].cpu(), torch.tensor([2.0, 0.0], dtype=torch.float16))
    pooled.sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
def test_what_is_inside(device: str, form: Any) -> None:
    """0 and NaN are outside; an empty mask has mean 0; logits of any magnitude are a mask."""
    features = torch.arange(6.0, device=device).view(1, 1, 2, 3) + 1
    rows = [[[0.0, -1, float("nan")], [-1e4, 0, 0]], [[1e4, -1e4, 1e-30], [0, 0, 0]], [[float("inf")] * 3] * 2]
    pooled = mask_pool(features, torch.tensor([rows], device=device), backend=form)
    assert pooled.flatten().tolist() == [0.0, 2.0, 3.5]


@quiet
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
def test_nan_where_the_reference_has_it(device: str, form: Any) -> None:
    features, masks = (tensor.to(device) for tensor in inputs(2, 5, 6, (4, 7), (4, 7)))
    features[0, 2, 1, 1], features[1, 3, 3, 6] = float("nan"), float("inf")
    expected = reference(features.double(), masks).isnan()
    assert expected.any()
    assert torch.equal(mask_pool(features, masks, backend=form).isnan(), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
def test_masks_get_no_gradient(device: str, form: Any) -> None:
    features, masks = (tensor.to(device).requires_grad_() for tensor in inputs(1, 2, 3, (2, 3), (4, 6)))
    pooled = mask_pool(features, masks, backend=form).sum()
    assert torch.autograd.grad(pooled, [features, masks], allow_unused=True)[1] is None


def test_gradient_of_the_reference() -> None:
    features, masks = inputs(2, 3, 2, (2, 3), (4, 6))
    assert torch.autograd.gradcheck(lambda one: reference(one, masks), [features.double().requires_grad_()])


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)  # of the check itself
@pytest.mark.parametrize("device", DEVICES)
def test_the_operations_are_registered_as_torch_wants_them(device: str) -> None:
    features, masks = (tensor.to(device) for tensor in inputs(2, 3, 4, (2, 3), (2, 3)))
    torch.library.opcheck(torch.ops.clouds.mask_pool.default, (features.requires_grad_(), masks))
    gradient, counts = torch.rand(2, 3, 4, device=device), torch.rand(2, 3, device=device)
    torch.library.opcheck(torch.ops.clouds.mask_pool_backward.default, (gradient, masks, counts))


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((1, 2, 3), (1, 2, 3, 3)),
        ((1, 2, 3, 3), (2, 2, 3, 3)),
        ((1, 2, 0, 3), (1, 2, 3, 3)),
        ((1, 2, 3, 3), (1, 2, 3, 0)),
    ],
)
def test_shapes_that_do_not_fit_are_named(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"features \(.*\) and mask_logits \(.*\); expected \"b c h w\" and \"b q hm wm\""
    ):
        mask_pool(torch.rand(first), torch.rand(second))


def test_one_device() -> None:
    features, masks = inputs(1, 2, 3, (2, 3), (2, 3))
    with pytest.raises(ValueError, match="features on cpu and mask_logits on meta; expected one device"):
        mask_pool(features, masks.to("meta"))


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("which", [0, 1])
def test_integers_are_refused(which: int) -> None:
    tensors = list(inputs(1, 2, 3, (2, 3), (2, 3)))
    tensors[which] = tensors[which].int()
    with pytest.raises(TypeError, match=r"features of .* and mask_logits of .*; expected floating dtypes"):
        mask_pool(*tensors)


def test_float64_is_not_for_triton() -> None:
    features, masks = inputs(1, 2, 3, (2, 3), (2, 3))
    with pytest.raises(
        ValueError, match="mask_pool: backend 'triton' cannot run: it computes in float32, and got float64"
    ):
        mask_pool(features.double(), masks, backend="triton")
