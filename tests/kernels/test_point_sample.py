"""Point sampling: Triton against the float64 reference, its gradient, both ways of summing it, and refusals."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clouds.kernels.point_sample import point_sample, reference, scatter

SIDES = st.integers(1, 9)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.bool])
# Positions of up to 9 cells have 3 roundings of float32: 2e-6 cells, of maps that differ by up to 10 between cells.
TOLERANCE = 5e-5


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)], scope="module")
def device(request: pytest.FixtureRequest) -> str:
    """Where kernels run; on the CPU through Triton's interpreter."""
    from triton import knobs

    if request.param == "cpu" and not knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is not set, because there is a GPU")
    return request.param


def inputs(
    device: str,
    shape: tuple[int, int, int, int],
    points: int,
    dtype: torch.dtype,
    seed: int,
    order: tuple[int, ...] = (0, 2, 3, 1),
) -> list[Tensor]:
    """Maps whose axes lie in memory in an `order`, and points of which many lie outside, with strides of their own."""
    random = torch.Generator().manual_seed(seed)
    back = [order.index(axis) for axis in range(4)]
    values = torch.randn([shape[axis] for axis in order], generator=random).permute(back)
    maps = shape[0]
    places = torch.rand(2, maps, points, generator=random).permute(1, 2, 0) * 2 - 0.5
    return [(values > 0 if dtype == torch.bool else values.to(dtype)).to(device), places.to(device)]


@settings(max_examples=30)
@given(
    shape=st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 2, 9, 33]), SIDES, SIDES),
    points=st.sampled_from([0, 1, 5, 130]),
    dtype=DTYPES,
    seed=st.integers(0, 9999),
    order=st.permutations(range(4)).map(tuple),
)
def test_values(
    device: str, shape: tuple[int, int, int, int], points: int, dtype: torch.dtype, seed: int, order: tuple[int, ...]
) -> None:
    maps, places = inputs(device, shape, points, dtype, seed, order)
    found = point_sample(maps, places, backend="triton")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), reference(maps, places.double()), rtol=0, atol=TOLERANCE)


@settings(max_examples=20)
@given(
    shape=st.tuples(st.integers(0, 2), st.sampled_from([1, 9]), SIDES, SIDES),
    points=st.sampled_from([0, 1, 5, 130]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    deterministic=st.booleans(),
    seed=st.integers(0, 9999),
    order=st.permutations(range(4)).map(tuple),
)
def test_gradient_of_the_maps(
    device: str,
    shape: tuple[int, int, int, int],
    points: int,
    dtype: torch.dtype,
    deterministic: bool,
    seed: int,
    order: tuple[int, ...],
) -> None:
    maps, places = inputs(device, shape, points, dtype, seed, order)
    direction = torch.randn(*shape[:2], points, generator=torch.Generator().manual_seed(seed)).to(device)
    leaf, exact = maps.clone().requires_grad_(), maps.double().requires_grad_()
    (expected,) = torch.autograd.grad(reference(exact, places.double()), exact, direction.double())
    with deterministic_algorithms(deterministic):
        (found,) = torch.autograd.grad(point_sample(leaf, places, backend="triton"), leaf, direction)
    assert found.dtype == dtype
    # sums of up to 130 products; a bfloat16 result is rounded once more
    torch.testing.assert_close(
        found.double(), expected, rtol=2**-8 if dtype == torch.bfloat16 else 0, atol=130 * TOLERANCE / 10
    )


class deterministic_algorithms:
    """Sets the switch of torch within a block."""

    def __init__(self, on: bool) -> None:
        self.on = on

    def __enter__(self) -> None:
        torch.use_deterministic_algorithms(self.on)

    def __exit__(self, *_: object) -> None:
        torch.use_deterministic_algorithms(False)


@pytest.fixture
def no_atomics(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Launching the kernel that adds atomically is an error."""
    from clouds.kernels._triton import point_sample as kernels

    monkeypatch.setattr(kernels, "backward", lambda *_: pytest.fail("the gradient was summed atomically"))
    return


def test_deterministic_gradients_use_no_atomics(device: str, no_atomics: None) -> None:
    maps, places = inputs(device, (1, 2, 4, 5), 50, torch.float32, 0)
    maps.requires_grad_()
    with deterministic_algorithms(True):
        first, second = (
            torch.autograd.grad(point_sample(maps, places, backend="triton").sum(), maps)[0] for _ in range(2)
        )
    assert torch.equal(first, second)


@given(shape=st.tuples(SIDES, SIDES, SIDES, SIDES), points=st.integers(0, 40), seed=st.integers(0, 9999))
def test_the_sorted_sum_is_the_gradient(shape: tuple[int, int, int, int], points: int, seed: int) -> None:
    maps, places = (tensor.double() for tensor in inputs("cpu", shape, points, torch.float32, seed))
    direction = torch.randn(*shape[:2], points, dtype=torch.float64)
    maps.requires_grad_()
    (expected,) = torch.autograd.grad(reference(maps, places), maps, direction)
    torch.testing.assert_close(scatter(direction, places, shape[2:]), expected, rtol=1e-12, atol=1e-12)


def test_the_reference_has_right_gradients() -> None:
    maps, places = (tensor.double() for tensor in inputs("cpu", (2, 2, 3, 4), 6, torch.float32, 0))
    assert torch.autograd.gradcheck(lambda maps: reference(maps, places), maps.requires_grad_())


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_points_have_no_gradient(device: str, backend: str) -> None:
    maps, places = inputs(device, (1, 1, 3, 4), 5, torch.float32, 0)
    places.requires_grad_()
    assert not point_sample(maps, places, backend=backend).requires_grad
    point_sample(maps.requires_grad_(), places, backend=backend).sum().backward()
    assert maps.grad is not None
    assert places.grad is None


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of opcheck's own copies
def test_the_operators_are_well_formed(device: str) -> None:
    maps, places = inputs(device, (2, 3, 4, 5), 7, torch.float32, 0)
    torch.library.opcheck(torch.ops.clouds.point_sample, (maps.requires_grad_(), places))
    gradient = torch.randn(2, 3, 7, device=device)
    torch.library.opcheck(torch.ops.clouds.point_sample_backward, (gradient, places, 4, 5, torch.bfloat16))


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy, in the interpreter
@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_nan_is_where_the_reference_has_it(device: str, backend: Any) -> None:
    """The reference of a CPU: on CUDA `grid_sample` reads 0 at NaN and infinite points."""
    maps = torch.randn(1, 2, 4, 5)
    maps[0, 1, 2, 3] = float("nan")
    places = torch.rand(1, 60, 2)
    nan, inf = float("nan"), float("inf")
    places[0, :6] = torch.tensor([[nan, 0.5], [0.5, nan], [inf, 0.5], [0.5, -inf], [1e30, 0.5], [0.5, -1e30]])
    found = point_sample(maps.to(device), places.to(device), backend=backend).cpu()
    assert torch.equal(found.isnan(), reference(maps, places).isnan())
    assert found[0, :, :4].isnan().all()
    assert (found[0, 0, 4:6] == 0).all()


def test_pixels_are_read_at_their_centres() -> None:
    maps = torch.randn(1, 2, 4, 5)
    y, x = torch.meshgrid((torch.arange(4) + 0.5) / 4, (torch.arange(5) + 0.5) / 5, indexing="ij")
    values = point_sample(maps, torch.stack((x, y), -1).reshape(1, -1, 2))
    torch.testing.assert_close(values, maps.flatten(2), rtol=0, atol=1e-5)  # grid arithmetic in float32


@pytest.mark.parametrize(
    ("maps", "points"),
    [((2, 3, 4), (2, 5, 2)), ((2, 3, 4, 5), (2, 5)), ((2, 3, 4, 5), (2, 5, 3)), ((2, 3, 4, 5), (1, 5, 2))],
)
def test_shapes_that_do_not_fit(maps: tuple[int, ...], points: tuple[int, ...], unchecked_types: None) -> None:
    with pytest.raises(ValueError, match=r'maps \(2, .*\) and points \(.*\); expected "n c h w" and "n p 2"'):
        point_sample(torch.zeros(maps), torch.zeros(points))


def test_maps_without_cells() -> None:
    with pytest.raises(ValueError, match=r"maps \(1, 2, 0, 3\) have no cells; expected at least one"):
        point_sample(torch.zeros(1, 2, 0, 3), torch.zeros(1, 5, 2))


def test_two_devices() -> None:
    with pytest.raises(ValueError, match="maps on meta and points on cpu; expected one device"):
        point_sample(torch.zeros(1, 2, 3, 3, device="meta"), torch.zeros(1, 5, 2))


@pytest.mark.parametrize(("maps", "points"), [(torch.int64, torch.float32), (torch.float32, torch.int64)])
def test_types_that_are_no_numbers_of_a_map(maps: torch.dtype, points: torch.dtype, unchecked_types: None) -> None:
    message = rf"maps of {maps} and points of {points}; expected floating point, or bool for maps"
    with pytest.raises(TypeError, match=message):
        point_sample(torch.zeros(1, 2, 3, 3, dtype=maps), torch.zeros(1, 5, 2, dtype=points))


def test_float64_is_refused_by_triton(device: str) -> None:
    maps, places = inputs(device, (1, 1, 3, 3), 2, torch.float32, 0)
    with pytest.raises(ValueError, match="point_sample: backend 'triton' cannot run: it computes in float32, and got"):
        point_sample(maps.double(), places, backend="triton")
    assert point_sample(maps.double(), places, backend="torch").dtype == torch.float64
