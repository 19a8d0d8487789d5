"""The fast form of deformable sampling against its reference, in float64, where both differ by rounding alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clouds.kernels.deformable_attention import deformable_sampling, reference

SIDES = st.integers(1, 7)


def inputs(shapes: list[tuple[int, int]], queries: int, heads: int, seed: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    cells, levels = sum(height * width for height, width in shapes), len(shapes)
    value = torch.randn(2, cells, heads, 4, generator=random, dtype=torch.float64)
    locations = torch.rand(2, queries, heads, levels, 3, 2, generator=random, dtype=torch.float64) * 2 - 0.5
    weights = torch.randn(2, queries, heads, levels, 3, generator=random, dtype=torch.float64)
    return [value.requires_grad_(), locations.requires_grad_(), weights.requires_grad_()]


@settings(max_examples=30)
@given(
    shapes=st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=3),
    queries=st.integers(1, 9),
    heads=st.integers(1, 3),
    seed=st.integers(0, 9999),
)
def test_both_forms_agree(shapes: list[tuple[int, int]], queries: int, heads: int, seed: int) -> None:
    value, locations, weights = inputs(shapes, queries, heads, seed)
    fast, plain = (function(value, shapes, locations, weights) for function in (deformable_sampling, reference))
    torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-9)
    direction = torch.randn(fast.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for one, other in zip(
        torch.autograd.grad(fast, [value, locations, weights], direction),
        torch.autograd.grad(plain, [value, locations, weights], direction),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_more_queries_than_one_gather_takes() -> None:
    value, locations, weights = inputs([(3, 4)], 5000, 1, 0)
    torch.testing.assert_close(
        deformable_sampling(value, [(3, 4)], locations, weights),
        reference(value, [(3, 4)], locations, weights),
        rtol=1e-9,
        atol=1e-9,
    )


def test_locations_that_are_not_numbers_give_nan_and_far_ones_zero() -> None:
    value, locations, weights = (tensor.detach() for tensor in inputs([(3, 4)], 3, 1, 0))
    locations[0, 0], locations[0, 1] = float("nan"), 1e30
    output = deformable_sampling(value, [(3, 4)], locations, weights)
    assert output[0, 0].isnan().all()
    assert (output[0, 1] == 0).all()
    assert output[0, 2].isfinite().all()


@pytest.mark.parametrize("shapes", [[(3, 3)], [(2, 6), (1, 1)]])
def test_shapes_that_do_not_fit_are_named(shapes: list[tuple[int, int]]) -> None:
    value, locations, weights = inputs([(3, 4)], 2, 1, 0)
    with pytest.raises(ValueError, match=r"spatial_shapes .* levels and .* cells; .* 1 levels, and value has 12 cells"):
        deformable_sampling(value, shapes, locations, weights)
