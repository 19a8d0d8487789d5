"""Matching costs: the reference against the written formula, Triton against the float64 reference, and refusals."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from clouds.kernels._triton.matching_cost import _spans
from clouds.kernels.matching_cost import _QUERIES, matching_cost, reference

WEIGHTS = (2.0, 5.0, 5.0)
NAMES = ("class_logits", "mask_values", "labels", "target_values", "valid")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)], scope="module")
def device(request: pytest.FixtureRequest) -> str:
    """Where kernels run; on the CPU through Triton's interpreter."""
    from triton import knobs

    if request.param == "cpu" and not knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is not set, because there is a GPU")
    return request.param


def inputs(
    device: str,
    counts: list[int],
    *,
    layers: int = 2,
    queries: int = 5,
    points: int = 20,
    classes: int = 4,
    scale: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Costs of `counts` targets per image; no tensor is contiguous, and about a third of the points do not count."""
    random = torch.Generator().manual_seed(seed)
    images, targets = len(counts), sum(counts)
    tensors = {
        "class_logits": scale * torch.randn(images, classes, layers, queries, generator=random).permute(2, 0, 3, 1),
        "mask_values": scale * torch.randn(points, layers, images, queries, generator=random).permute(1, 2, 3, 0),
        "labels": torch.randint(0, classes - 1, (targets, 2), generator=random)[:, 0],
        "target_values": torch.rand(targets, layers, points, generator=random).transpose(0, 1),
        "valid": (torch.rand(images, layers, points, generator=random) > 0.3).float().transpose(0, 1),
    }
    return {**{name: tensor.to(device) for name, tensor in tensors.items()}, "counts": counts, "weights": WEIGHTS}


def doubled(arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in arguments.items()
    }


def test_the_reference_is_the_written_formula() -> None:
    """Binary cross entropy and dice written out per pair, in float64: both differ by rounding."""
    arguments = doubled(inputs("cpu", [2, 0, 3], queries=_QUERIES + 1))
    cost = reference(**arguments)
    classes, masks, labels, wanted, valid = (arguments[name] for name in NAMES)
    images = [0, 0, 2, 2, 2]
    for layer, q, t in np.ndindex(*cost.shape):
        keep = valid[layer, images[t]].bool()
        x, y = masks[layer, images[t], q, keep], wanted[layer, t, keep]
        bce = functional.binary_cross_entropy_with_logits(x, y)
        dice = 1 - (2 * (x.sigmoid() * y).sum() + 1) / (x.sigmoid().sum() + y.sum() + 1)
        expected = -2 * classes[layer, images[t], q].softmax(-1)[labels[t]] + 5 * bce + 5 * dice
        np.testing.assert_allclose(cost[layer, q, t].item(), expected.item(), rtol=1e-12)


@settings(max_examples=25)
@given(
    counts=st.lists(st.sampled_from([0, 1, 3, 16, 19]), min_size=1, max_size=3),
    layers=st.integers(1, 2),
    queries=st.sampled_from([1, 7, 16, 18]),
    points=st.sampled_from([1, 31, 32, 70]),
    classes=st.sampled_from([2, 20, 33]),
    scale=st.sampled_from([1.0, 30.0, 1e4]),
    half=st.booleans(),
    seed=st.integers(0, 9999),
)
def test_costs(device: str, counts: list[int], half: bool, scale: float, **sizes: int) -> None:
    arguments = inputs(device, counts, scale=scale, **sizes)
    if half:
        arguments["class_logits"] = arguments["class_logits"].bfloat16()
    found = matching_cost(**arguments, backend="triton")
    assert found.dtype == torch.float32
    # each term is a mean of at most 70 float32 numbers, a difference of two such, or a ratio of two sums; their largest
    # is near 4 times the scale
    tolerance = 20 * 6e-8 * sum(WEIGHTS) * max(1.0, 4 * scale)
    torch.testing.assert_close(found.double(), reference(**doubled(arguments)), rtol=0, atol=tolerance)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy, in the interpreter
def test_points_are_split_over_programs(device: str) -> None:
    """Three splits, the last one not whole; of an infinite logit in one of them the others know nothing."""
    arguments = inputs(device, [2, 0, 3], layers=1, points=1300)
    arguments["target_values"][:, ::2] = arguments["target_values"][:, ::2].round()
    assert _spans(1300, 3) == (512, 3)
    arguments["mask_values"][0, 0, 1, 700], arguments["mask_values"][0, 2, 3, 1299] = float("inf"), -float("inf")
    found, expected = matching_cost(**arguments, backend="triton"), reference(**doubled(arguments))
    # as above, of 1,300 numbers: their sums are made of partial sums of 16, so roundings are no more
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=20 * 6e-8 * 12 * 4, equal_nan=True)
    assert 0 < found.isfinite().sum() < found.numel()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["class_logits", "mask_values"])
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy, in the interpreter
def test_nan_is_where_the_reference_has_it(device: str, name: str, value: float) -> None:
    arguments = inputs(device, [2, 3], classes=40)
    arguments["target_values"] = arguments["target_values"].round()
    arguments[name][1, 0, 2, 3] = value
    arguments[name][0, 1, 1, 0] = value
    arguments["class_logits"][0, 0, 0, :33] = -float("inf")  # a whole tile of classes
    found, expected = matching_cost(**arguments, backend="triton"), reference(**arguments)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.isfinite(), expected.isfinite())
    assert found.isfinite().any()


def test_no_point_counts(device: str) -> None:
    arguments = inputs(device, [2])
    arguments["valid"] = torch.zeros_like(arguments["valid"])
    torch.testing.assert_close(
        matching_cost(**arguments, backend="triton"), reference(**arguments), rtol=0, atol=10 * 6e-8
    )


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize(("counts", "queries"), [([0, 0], 5), ([], 5), ([2, 1], 0)])
def test_nothing_to_match(device: str, backend: str, counts: list[int], queries: int) -> None:
    cost = matching_cost(**inputs(device, counts, queries=queries), backend=backend)
    assert cost.shape == (2, queries, sum(counts))


def test_a_label_that_is_no_class_has_no_cost(device: str) -> None:
    arguments = inputs(device, [3])
    arguments["labels"] = torch.tensor([1, 255, -1], device=device)
    cost = matching_cost(**arguments, backend="triton")
    assert cost[..., 0].isfinite().all()
    assert cost[..., 1:].isnan().all()


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_costs_have_no_gradient(device: str, backend: str) -> None:
    arguments = inputs(device, [2, 1])
    arguments["mask_values"].requires_grad_()
    assert not matching_cost(**arguments, backend=backend).requires_grad


def test_the_operator_is_well_formed(device: str) -> None:
    arguments = inputs(device, [2, 1])
    values = tuple(list(value) if isinstance(value, tuple) else value for value in arguments.values())
    torch.library.opcheck(torch.ops.clouds.matching_cost, values)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("class_logits", (2, 2, 4, 4)),
        ("class_logits", (2, 2, 5)),
        ("mask_values", (2, 5, 20)),
        ("labels", (4,)),
        ("target_values", (2, 3, 21)),
        ("valid", (2, 3, 20)),
    ],
)
def test_shapes_that_do_not_fit(name: str, shape: tuple[int, ...], unchecked_types: None) -> None:
    arguments = inputs("cpu", [2, 1])
    arguments[name] = torch.zeros(shape, dtype=arguments[name].dtype)
    with pytest.raises(ValueError, match=rf"matching_cost: shapes .*'{name}': .* and counts \[2, 1\]; expected class"):
        matching_cost(**arguments)


@pytest.mark.parametrize("counts", [[3], [2, 2], [4, -1], [1, 1, 1]])
def test_counts_that_do_not_fit(counts: list[int]) -> None:
    with pytest.raises(ValueError, match=r"counts \[.*\]; expected .* b counts that sum to t"):
        matching_cost(**{**inputs("cpu", [2, 1]), "counts": counts})


def test_two_devices() -> None:
    arguments = inputs("cpu", [2, 1])
    arguments["valid"] = arguments["valid"].to("meta")
    with pytest.raises(ValueError, match=r"matching_cost: tensors on .*'valid': 'meta'}; expected one device"):
        matching_cost(**arguments)


@pytest.mark.parametrize(("name", "dtype"), [("labels", torch.float32), ("labels", torch.uint8), ("valid", torch.bool)])
def test_types_that_do_not_fit(name: str, dtype: torch.dtype, unchecked_types: None) -> None:
    arguments = inputs("cpu", [2, 1])
    arguments[name] = arguments[name].to(dtype)
    with pytest.raises(TypeError, match=r"matching_cost: labels of torch.* expected int32 or int64 labels"):
        matching_cost(**arguments)


def test_float64_is_refused_by_triton(device: str) -> None:
    arguments = doubled(inputs(device, [2, 1]))
    with pytest.raises(ValueError, match=r"cannot run: it computes in float32, and .*'mask_values'.* are float64"):
        matching_cost(**arguments, backend="triton")
    assert matching_cost(**arguments, backend="torch").dtype == torch.float64
