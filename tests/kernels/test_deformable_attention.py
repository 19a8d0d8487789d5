"""Every form of deformable attention against its reference in float64, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from clouds.kernels import deformable_gather
from clouds.kernels.deformable_attention import _locations, deformable_attention, deformable_sampling, reference

SIDES = st.integers(1, 7)
SHAPES = st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=3)
KINDS = ("points", "boxes", "sampling")

# Of the largest magnitude. float32: a position of about 10 cells is rounded twice, to 2^-20 of a cell, and a cell is
# worth some standard deviations; float64 alike. Halves: plain torch rounds shares, four corners and their sums;
# for the logits see `compare`.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 8 * 2.0**-11, torch.bfloat16: 8 * 2.0**-8}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def inputs(
    kind: str, shapes: list[tuple[int, int]], *, batch: int = 2, queries: int = 5, heads: int = 2, width: int = 16,
    points: int = 3, seed: int = 0,
) -> dict[str, Tensor]:  # fmt: skip
    """Tensor arguments by name, in float64, some samples outside; reference points are shared by the images."""
    random = torch.Generator().manual_seed(seed)
    samples = (batch, queries, heads, len(shapes), points)
    cells = sum(height * columns for height, columns in shapes)
    made = {"value": torch.randn(batch, cells, heads, width, generator=random, dtype=torch.float64)}
    logits = torch.randn(samples, generator=random, dtype=torch.float64)
    inside = torch.rand(*samples, 2, generator=random, dtype=torch.float64)
    if kind == "sampling":
        return made | {"sampling_locations": inside * 2 - 0.5, "attention_weights": logits}
    length = 2 if kind == "points" else 4
    places = torch.rand(1, queries, len(shapes), length, generator=random, dtype=torch.float64)
    return made | {"reference_points": places, "offsets": inside * 6 - 3, "attention_logits": logits}


def run(arguments: dict[str, Tensor], shapes: list[tuple[int, int]], backend: Any) -> Tensor:
    function: Callable[..., Tensor] = deformable_sampling if "attention_weights" in arguments else deformable_attention
    return function(spatial_shapes=shapes, backend=backend, **arguments)


def with_gradients(
    arguments: dict[str, Tensor], shapes: list[tuple[int, int]], backend: Any, direction: Tensor | None = None
) -> dict[str, Tensor]:
    """Output, and the gradient of every argument; in `direction`, or of the plain sum."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in arguments.items()}
    output = run(leaves, shapes, backend)
    seen = output.sum() if direction is None else (output * direction.to(output)).sum()
    gradients = torch.autograd.grad(seen, list(leaves.values()))
    return {"output": output.detach(), **dict(zip(leaves, gradients, strict=True))}


def assert_all_near(
    found: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype, rounded: dict[str, float] | None = None
) -> None:
    """To the tolerance of the dtype, and to what rounding of an intermediate result adds to some of them."""
    for name, truth in expected.items():
        assert found[name].shape == truth.shape, name
        if truth.numel():
            error = (found[name].double().cpu() - truth).abs().max()
            allowed = TOLERANCE[dtype] * max(1.0, float(truth.abs().max())) + (rounded or {}).get(name, 0.0)
            assert error <= allowed, name


def off_the_kinks(rounded: dict[str, Tensor], shapes: list[tuple[int, int]]) -> dict[str, Tensor]:
    """Moves samples that lie in one row or column with the centres of cells. There the slope jumps, so that the last
    bit of a position, which forms round differently, decides the gradient; positions in few bits lie there often."""
    moved = dict(rounded)
    name = "offsets" if "offsets" in rounded else "sampling_locations"
    for _ in range(20):
        exact = {key: tensor.double() for key, tensor in moved.items()}
        places = (
            exact[name]
            if name != "offsets"
            else _locations(shapes, exact["reference_points"], exact[name], torch.float64)
        )
        cells = places * torch.tensor([[width, height] for height, width in shapes])[:, None] - 0.5
        near = (cells - cells.round()).abs() < 2.0**-16
        if not near.any():
            return moved
        moved[name] = torch.where(near, moved[name] + 0.3, moved[name])
    raise AssertionError("samples could not be moved away from the centres of cells")


def compare(kind: str, shapes: list[tuple[int, int]], dtype: torch.dtype, backend: str, device: str, **sizes: int):
    drawn = {name: tensor.to(dtype) for name, tensor in inputs(kind, shapes, **sizes).items()}
    rounded = off_the_kinks(drawn, shapes)
    exact = {name: tensor.double() for name, tensor in rounded.items()}
    output = run(exact, shapes, "reference")
    random = torch.Generator().manual_seed(sizes.get("seed", 0) + 1)
    direction = torch.randn(output.shape, generator=random).to(dtype).double()
    # The gradient of a logit is w (g - g'), where g' = sum over channels of (direction x output) is taken from the
    # output as it was rounded, each channel by up to half a unit of the last place.
    channels = (direction * output).abs().unflatten(-1, (-1, rounded["value"].shape[-1])).sum(-1)
    slack = torch.finfo(dtype).eps / 2 * float(channels.max()) if channels.numel() else 0.0
    moved = {name: tensor.to(device) for name, tensor in rounded.items()}
    found = with_gradients(moved, shapes, backend, direction)
    assert found["output"].dtype == dtype
    expected = with_gradients(exact, shapes, "reference", direction)
    assert_all_near(found, expected, dtype, {"attention_logits": slack})


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(KINDS),
    shapes=SHAPES,
    dtype=st.sampled_from(list(TOLERANCE)),
    queries=st.integers(0, 9),
    heads=st.integers(1, 3),
    width=st.sampled_from([1, 6, 16]),
    points=st.integers(1, 4),
    seed=st.integers(0, 9999),
)
def test_plain_torch_gives_the_reference(
    device: str, kind: str, shapes: list, dtype: torch.dtype, **sizes: int
) -> None:
    for backend in ("torch", "reference"):
        compare(kind, shapes, dtype, backend, device, **sizes)


def triton_cases(examples: int, *, levels: int, points: int, queries: list[int], widths: list[int]) -> Callable:
    drawn = given(
        kind=st.sampled_from(KINDS),
        shapes=st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=levels),
        dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
        batch=st.integers(1, 2),
        queries=st.sampled_from(queries),
        heads=st.integers(1, 3),
        width=st.sampled_from(widths),
        points=st.integers(1, points),
        seed=st.integers(0, 9999),
    )
    allowed = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return lambda test: settings(max_examples=examples, suppress_health_check=allowed)(drawn(test))


@triton_cases(6, levels=2, points=2, queries=[1, 17], widths=[16, 32])  # the interpreter takes up to a second for each
def test_triton_gives_the_reference(device: str, kind: str, shapes: list, dtype: torch.dtype, **sizes: int) -> None:
    compare(kind, shapes, dtype, "triton", device, **sizes)


@pytest.mark.slow  # minutes in the interpreter
@triton_cases(60, levels=4, points=5, queries=[0, 1, 7, 33, 70], widths=[16, 32, 64, 128])
def test_triton_gives_the_reference_often(
    device: str, kind: str, shapes: list, dtype: torch.dtype, **sizes: int
) -> None:
    compare(kind, shapes, dtype, "triton", device, **sizes)


@pytest.mark.parametrize("sizes", [(4, 4, 32, 1), (2, 3, 128, 3)])
def test_triton_gives_the_reference_for_released_points_and_for_wide_heads(device: str, sizes: tuple) -> None:
    heads, points, width, levels = sizes
    shapes = [(2, 3), (4, 5), (7, 9)][:levels]
    compare(
        "points", shapes, torch.float32, "triton", device, batch=1, queries=5, heads=heads, width=width, points=points
    )


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_differences(kind: str, backend: str) -> None:
    shapes = [(2, 3), (1, 1)]
    arguments = inputs(kind, shapes, queries=2, width=2, points=2)
    leaves = tuple(tensor.requires_grad_() for tensor in arguments.values())
    torch.autograd.gradcheck(lambda *given: run(dict(zip(arguments, given, strict=True)), shapes, backend), leaves)


def test_a_cpu_gives_the_same_gradients_each_time() -> None:
    shapes = [(30, 40), (15, 20)]
    single = {name: tensor.float() for name, tensor in inputs("points", shapes, queries=1500).items()}
    found, again = (with_gradients(single, shapes, "torch") for _ in range(2))
    assert all(torch.equal(found[name], again[name]) for name in found)


@pytest.mark.parametrize("kind", ["points", "sampling"])
def test_sorted_sums_give_the_same_gradients(deterministic: None, device: str, kind: str) -> None:
    shapes = [(3, 4), (2, 1)]
    single = {name: tensor.float() for name, tensor in inputs(kind, shapes, heads=1, points=2).items()}
    truth = with_gradients({name: tensor.double() for name, tensor in single.items()}, shapes, "reference")
    moved = {name: tensor.to(device) for name, tensor in single.items()}
    found, again = (with_gradients(moved, shapes, "triton") for _ in range(2))
    assert_all_near(found, truth, torch.float32)
    assert all(torch.equal(found[name], again[name]) for name in found)


def test_deterministic_gradients_come_from_the_sort(deterministic: None, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(3, 4)]
    single = {name: tensor.float() for name, tensor in inputs("points", shapes, batch=1, heads=1, points=1).items()}
    monkeypatch.setattr(deformable_gather, "scatter", lambda gradient, *rest: torch.full((1, 12, 1, 16), 7.0))
    assert (with_gradients(single, shapes, "triton")["value"] == 7).all()


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_strides(device: str, backend: str, kind: str) -> None:
    """Views with gaps, transposed and expanded, with an expanded gradient."""
    shapes = [(3, 4), (2, 1)]
    single = {name: tensor.float() for name, tensor in inputs(kind, shapes, points=2).items()}
    truth = with_gradients({name: tensor.double() for name, tensor in single.items()}, shapes, "reference")
    views = {name: tensor.to(device).mT.contiguous().mT for name, tensor in single.items()}
    views["value"] = views["value"].repeat(1, 1, 1, 2)[..., ::2].copy_(views["value"])
    if kind == "points":
        assert not views["offsets"].is_contiguous()
    assert not views["value"].is_contiguous()
    assert_all_near(with_gradients(views, shapes, backend), truth, torch.float32)


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (0, 2, 3, 1), (3, 1, 0, 2)])
def test_values_in_any_order(device: str, order: tuple[int, ...]) -> None:
    """Axes of the values in memory from slow to fast: heads first, cells last, channels first."""
    shapes = [(3, 4), (2, 1)]
    single = {name: tensor.float() for name, tensor in inputs("points", shapes, points=2).items()}
    truth = with_gradients({name: tensor.double() for name, tensor in single.items()}, shapes, "reference")
    moved = {name: tensor.to(device) for name, tensor in single.items()}
    back = [order.index(axis) for axis in range(4)]
    moved["value"] = moved["value"].permute(order).contiguous().permute(back)
    assert not moved["value"].is_contiguous()
    assert_all_near(with_gradients(moved, shapes, "triton"), truth, torch.float32)


@pytest.mark.parametrize("backend", ["torch", "triton", "reference"])
@pytest.mark.parametrize("sizes", [{"batch": 0}, {"queries": 0}])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_nothing_out(device: str, backend: str, sizes: dict[str, int], kind: str) -> None:
    shapes = [(3, 4), (1, 1)]
    moved = {name: tensor.float().to(device) for name, tensor in inputs(kind, shapes, **sizes).items()}
    found = with_gradients(moved, shapes, backend)
    assert found["output"].shape == (sizes.get("batch", 2), sizes.get("queries", 5), 32)
    assert all((tensor == 0).all() for tensor in found.values())


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_extreme_logits(device: str, backend: str) -> None:
    shapes = [(3, 4), (1, 1)]
    exact = inputs("points", shapes, batch=1)
    exact["attention_logits"] = exact["attention_logits"].sign() * 1e4
    exact = {name: tensor.float().double() for name, tensor in exact.items()}
    moved = {name: tensor.float().to(device) for name, tensor in exact.items()}
    assert_all_near(with_gradients(moved, shapes, backend), with_gradients(exact, shapes, "reference"), torch.float32)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy's, of the interpreter
@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
def test_nan_is_where_the_reference_has_nan(device: str, backend: str, kind: str, what: float) -> None:
    """One such number in each argument, at different queries and cells, and samples that read that cell or not."""
    shapes = [(3, 4), (2, 2)]
    single = {name: tensor.float() for name, tensor in inputs(kind, shapes, batch=1, queries=9).items()}
    where, weights = list(single)[-2:]
    single[where][0, 1, 0, 0, 0, 0] = single[where][0, 2, 1, 1, 2, 1] = what
    single[weights][0, 3, 1, 1, 0] = what
    single["value"][0, 5, 0, 3] = what
    if kind != "sampling":
        single["reference_points"][0, 4, 1, 1] = what
    found = run({name: tensor.to(device) for name, tensor in single.items()}, shapes, backend).cpu()
    expected = run(single, shapes, "reference")
    assert torch.equal(found.isnan(), expected.isnan())
    assert expected.isfinite().any()
    finite = expected.isfinite()
    torch.testing.assert_close(
        found[finite], expected[finite], rtol=1e-4, atol=1e-5 * max(1.0, float(expected[finite].abs().max()))
    )


def test_more_queries_than_one_gather_takes() -> None:
    assert deformable_gather._ROWS < deformable_gather._QUERIES < 2500
    compare("points", [(3, 4)], torch.float64, "torch", "cpu", queries=2500, heads=1, width=2, points=1)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own
@pytest.mark.parametrize("kind", ["points", "sampling"])
def test_the_operators_are_what_torch_expects(device: str, kind: str) -> None:
    shapes = [(3, 4), (1, 1)]
    small = inputs(kind, shapes, batch=1, queries=2, heads=1, points=1)  # torch runs it some 20 times
    single = [tensor.float().to(device) for tensor in small.values()]
    value, centers, offsets, logits = single if kind == "points" else (single[0], None, *single[1:])
    leaves = [tensor.requires_grad_() for tensor in (value, offsets, logits)]
    arguments = (leaves[0], [3, 4, 1, 1], centers, *leaves[1:])
    torch.library.opcheck(torch.ops.clouds.deformable_attention.default, arguments)
    with torch.no_grad():
        output = torch.ops.clouds.deformable_attention(*arguments)
        torch.library.opcheck(
            torch.ops.clouds.deformable_attention_backward.default, (output.clone(), output, *arguments)
        )


def test_locations_that_are_not_numbers_give_nan_and_far_ones_zero() -> None:
    arguments = inputs("sampling", [(3, 4)], queries=3, heads=1)
    arguments["sampling_locations"][0, 0], arguments["sampling_locations"][0, 1] = float("nan"), 1e30
    output = run(arguments, [(3, 4)], "auto")
    assert output[0, 0].isnan().all()
    assert (output[0, 1] == 0).all()
    assert output[0, 2].isfinite().all()
    assert reference(arguments["value"], [(3, 4)], *list(arguments.values())[1:]).isnan().any()
