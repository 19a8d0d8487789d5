"""Every form of semantic inference against the order of work as published, in float64."""

from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from clouds.kernels.semantic_inference import reference, semantic_inference

module = import_module("clouds.kernels.semantic_inference")

EPS = torch.finfo(torch.float32).eps
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
FORMS = ["torch", "triton"]
quiet = pytest.mark.filterwarnings(
    "ignore:.* encountered in:RuntimeWarning"
)  # of numpy, which the interpreter computes with
SIDES = st.integers(1, 9)
ORDERS, ACTIVATIONS = st.sampled_from(["merge_first", "masks_first"]), st.sampled_from(["sigmoid", "softmax"])


def inputs(queries: int, classes: int, cells: tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(queries, *cells, generator=random) * 4
    return torch.rand(queries, classes, generator=random), logits


def tolerance(probabilities: Tensor, logits: Tensor, *sizes: tuple[int, int]) -> float:
    """Coordinates and weights are off by some roundings of the longest side, sums by one for each query; the former
    multiply the differences of logits, which the sigmoid flattens to a quarter. On a GPU a product of 16-bit inputs is
    rounded to TF32 twice, and their sigmoid is off by 2^-12."""
    side, total = max(max(logits.shape[1:]), *map(max, sizes)), float(probabilities.double().sum(0).max())
    coordinates = 8 * side * EPS * (1 + float(logits.double().abs().max()))
    products = 2.0**-10 + 2.0**-12 if logits.is_cuda and logits.dtype != torch.float32 else 0.0
    return (coordinates + len(logits) * EPS + products) * total


def assert_as_reference(form: Any, probabilities: Tensor, logits: Tensor, *sizes: Any, **options: Any) -> None:
    """Scores agree, and labels wherever the two best scores are further apart than both can be off."""
    expected = reference(probabilities.double(), logits.double(), *sizes, **options, scores=True)
    atol = tolerance(probabilities, logits, *sizes[:3])
    scores = semantic_inference(probabilities, logits, *sizes, **options, scores=True, backend=form)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=atol)
    labels = semantic_inference(probabilities, logits, *sizes, **options, backend=form)
    assert labels.dtype == torch.uint8
    assert labels.shape == sizes[2]
    best = expected.topk(min(2, len(expected)), dim=0).values
    clear = (best[0] - best[-1]) > 2 * atol if len(expected) > 1 else torch.ones_like(best[0], dtype=torch.bool)
    assert torch.equal(labels[clear].long(), expected.argmax(0)[clear])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=7)
@given(
    counts=st.tuples(st.integers(1, 20), st.integers(1, 18)),
    cells=st.tuples(SIDES, SIDES),
    network=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    cut=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    size=st.none() | st.tuples(st.integers(1, 30), st.integers(1, 30)),
    order=ORDERS,
    activation=ACTIVATIONS,
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 9999),
)
def test_any_sizes(
    device: str, form: str, counts: Any, cells: Any, network: Any, cut: Any, size: Any, order: Any, activation: Any,
    dtype: torch.dtype, seed: int,
) -> None:  # fmt: skip
    probabilities, logits = inputs(*counts, cells, seed)
    valid = (max(1, network[0] - cut[0]), max(1, network[1] - cut[1]))
    assert_as_reference(
        form, probabilities.to(device), logits.to(device, dtype), network, valid, size or valid, postprocess=order,
        activation=activation,
    )  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", ["merge_first", "masks_first"])
@pytest.mark.parametrize("size", [(29, 43), (14, 61)])
def test_the_released_stride_cut_anywhere(
    monkeypatch: pytest.MonkeyPatch, device: str, form: str, order: str, size: tuple[int, int]
) -> None:
    """Strips and bands of few rows: groups of four rows start anywhere."""
    for name, value in (("_STRIP", 3000), ("_BAND", 3000), ("_GPU_BAND", 3000)):
        monkeypatch.setattr(module, name, value)
    probabilities, logits = (tensor.to(device) for tensor in inputs(6, 3, (8, 12)))
    assert_as_reference(form, probabilities, logits, (32, 48), (29, 43), size, postprocess=order)


@pytest.mark.slow  # some minutes: the interpreter runs programs one by one
@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=5)
@given(
    cells=st.tuples(st.integers(1, 12), st.integers(1, 20)),
    stride=st.integers(1, 5),
    size=st.tuples(st.integers(1, 40), st.integers(1, 70)),
    order=ORDERS,
    counts=st.tuples(st.integers(1, 40), st.integers(1, 70)),
)
def test_many_sizes_on_triton(device: str, cells: Any, stride: int, size: Any, order: Any, counts: Any) -> None:
    probabilities, logits = (tensor.to(device) for tensor in inputs(*counts, cells))
    network = (cells[0] * stride, cells[1] * stride)
    assert_as_reference("triton", probabilities, logits, network, network, size, postprocess=order)
    assert_as_reference("triton", probabilities, logits, network, network, network)


@settings(max_examples=20)
@given(cells=st.tuples(SIDES, SIDES), size=st.tuples(st.integers(1, 30), st.integers(1, 30)), order=ORDERS)
def test_double_precision_is_kept(cells: Any, size: Any, order: Any) -> None:
    """Some tens of roundings to 2^-53, of coordinates up to 30 and logits up to about 20."""
    probabilities, logits = (tensor.double() for tensor in inputs(5, 4, cells))
    sizes, options = ((24, 20), (21, 19), size), {"postprocess": order, "scores": True}
    found = semantic_inference(probabilities, logits, *sizes, **options, backend="torch")
    torch.testing.assert_close(found, reference(probabilities, logits, *sizes, **options), rtol=0, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
def test_inputs_of_any_strides(device: str, form: str) -> None:
    probabilities, logits = (tensor.to(device) for tensor in inputs(10, 8, (6, 10)))
    assert_as_reference(
        form, probabilities[::2].mT.contiguous().mT[:, ::2], logits[::2].transpose(1, 2)[:, ::2], (20, 24), (20, 24),
        (20, 24),
    )  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(12, 20), (7, 9)])
def test_no_queries_no_scores(device: str, form: Any, size: tuple[int, int]) -> None:
    probabilities, logits = (tensor.to(device) for tensor in inputs(0, 3, (3, 5)))
    scores = semantic_inference(probabilities, logits, (12, 20), (12, 20), size, scores=True, backend=form)
    assert torch.equal(scores.cpu(), torch.zeros(3, *size))
    assert not semantic_inference(probabilities, logits, (12, 20), (12, 20), size, backend=form).any()


@quiet
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_extreme_logits(device: str, form: str, activation: str) -> None:
    probabilities, logits = (tensor.to(device) for tensor in inputs(6, 4, (5, 7)))
    logits = logits.sign() * 1e4
    scores = [
        semantic_inference(p, x, (20, 28), (20, 28), (20, 28), activation=activation, scores=True, backend=one)  # type: ignore[arg-type]
        for p, x, one in ((probabilities, logits, form), (probabilities.double(), logits.double(), "reference"))
    ]
    # at stride 4 all weights are exact, so that logits are, and whatever is not 0 or 1 is the sigmoid of exactly 0
    torch.testing.assert_close(scores[0].double(), scores[1], rtol=0, atol=8 * EPS)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
def test_a_softmax_of_many_queries(device: str, form: Any) -> None:
    """Triton takes some queries at a time: the highest logit rises with them, and the first may all be -inf."""
    probabilities, logits = (tensor.to(device) for tensor in inputs(150, 4, (5, 7)))
    logits = logits.cummax(0).values
    atol = tolerance(probabilities, logits, (5, 7))
    logits[:40, 2:] = -float("inf")
    scores, expected = (
        semantic_inference(p, x, (5, 7), (5, 7), (5, 7), activation="softmax", scores=True, backend=one)
        for p, x, one in ((probabilities, logits, form), (probabilities.double(), logits.double(), "reference"))
    )
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=atol)


@quiet
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(15, 19), (9, 11)])
@pytest.mark.parametrize("order", ["merge_first", "masks_first"])
@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
def test_nan_where_the_reference_has_it(device: str, form: Any, size: Any, order: Any, value: float) -> None:
    probabilities, logits = (tensor.to(device) for tensor in inputs(3, 4, (4, 5)))
    logits[1, 1, 3], logits[2, 2, 1], logits[2, 2, 2] = value, value, -value  # 0 x inf above row 1, and inf - inf
    sizes = ((16, 20), (15, 19), size, order)
    expected, found = (
        semantic_inference(probabilities, logits, *sizes, scores=True, backend=one) for one in ("reference", form)
    )
    assert expected.isnan().any()
    assert torch.equal(found.isnan(), expected.isnan())
    labels = semantic_inference(probabilities, logits, *sizes, backend=form)
    assert (labels[expected.isnan().any(0)] == 0).all()
    probabilities[0, 2] = float("nan")
    assert (semantic_inference(probabilities, logits, *sizes, backend=form)[~expected.isnan().any(0)] == 2).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", [*FORMS, "reference"])
@pytest.mark.parametrize("size", [(8, 12), (9, 7)])
def test_the_lowest_of_equal_labels_wins(device: str, form: Any, size: tuple[int, int]) -> None:
    """One query, so that equal probabilities make equal scores, to the bit."""
    logits = torch.randn(1, 2, 3, device=device)
    probabilities = torch.tensor([[0.25, 0.5, 0.5, 0.125, 0.5]], device=device)
    assert (semantic_inference(probabilities, logits, (8, 12), (8, 12), size, backend=form) == 1).all()


@pytest.mark.parametrize("band", [1, 3000, 1 << 19])
@pytest.mark.parametrize("classes", [1, 19, 255])
@pytest.mark.parametrize("size", [(29, 43), (14, 61), (80, 90), (3, 4)])
def test_labels_are_the_argmax_of_scores(
    monkeypatch: pytest.MonkeyPatch, band: int, classes: int, size: tuple[int, int]
) -> None:
    """To the bit: most pixels have equally good classes, some have NaN, and bands are cut anywhere."""
    monkeypatch.setattr(module, "_BAND", band)
    probabilities, logits = inputs(6, classes, (8, 12))
    sizes = ((32, 48), (29, 43), size)
    for one in (probabilities.mul(3).round(), probabilities.where(probabilities < 0.95, torch.nan)):
        scores, labels = (semantic_inference(one, logits, *sizes, scores=wanted) for wanted in (True, False))
        assert torch.equal(labels, scores.argmax(0).to(torch.uint8))
    logits[0, 3] = torch.nan
    scores, labels = (semantic_inference(probabilities, logits, *sizes, scores=wanted) for wanted in (True, False))
    assert 0 < scores.isnan().any(0).sum() < labels.numel()
    assert torch.equal(labels, scores.argmax(0).to(torch.uint8))


def test_a_sigmoid_by_an_approximate_tanh_is_off_by_2_to_the_minus_12() -> None:
    """In float64, with the largest error that the instruction may have: 2^-11 of its value, either way."""
    logits = torch.linspace(-40, 40, 100_001, dtype=torch.float64)
    tanh = (logits / 2).tanh()
    for error in (-(2.0**-11), 2.0**-11):
        off = (0.5 + 0.5 * tanh * (1 + error) - logits.sigmoid()).abs()
        assert 2.0**-13 < off.max() <= 2.0**-12 + 1e-15


def test_tables_are_made_once_for_each_size_and_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple] = []
    new = module._new_tables
    monkeypatch.setattr(module, "_new_tables", lambda *sizes: made.append(sizes) or new(*sizes))
    module._kept_tables.cache_clear()
    probabilities, logits = inputs(3, 2, (2, 3))
    for size in ((8, 12), (9, 7), (8, 12), (9, 7)):
        with torch.inference_mode(mode=size == (8, 12)):
            semantic_inference(probabilities, logits, (8, 12), (8, 12), size, backend="triton")
    assert [one[3] for one in made] == [(8, 12), (9, 7)]
    assert module._kept_tables.cache_parameters()["maxsize"] == 32


@pytest.mark.gpu
def test_a_cuda_graph_keeps_its_tables() -> None:
    """Further sizes push the tables of this one out of the cache; those of the graph stay."""
    probabilities, logits = (one.cuda() for one in inputs(5, 4, (8, 12)))
    sizes = ((32, 48), (29, 43), (14, 61))
    expected = semantic_inference(probabilities, logits, *sizes)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        labels = semantic_inference(probabilities, logits, *sizes)
    for width in range(1, 80):
        semantic_inference(probabilities, logits, *sizes[:2], (14, width))
    graph.replay()
    assert torch.equal(labels, expected)


class Launches(TorchDispatchMode):
    """Counts operations that are no views, about a launch each on a GPU."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("order", ["merge_first", "masks_first"])
def test_plain_torch_launches_little_on_a_gpu(order: Any) -> None:
    """The kind "meta" takes the strips of a GPU, of 2^24 logits: 13 here of 12 launches each, where a CPU takes 1024.
    Nothing waits for the device: "meta" has no numbers to wait for."""
    probabilities, logits = torch.empty(100, 19, device="meta"), torch.empty(100, 256, 512, device="meta")
    size = (1024, 2048)
    with Launches() as made:
        labels = semantic_inference(probabilities, logits, size, size, size, order)
    assert labels.shape == size
    assert made.count < 200
    with Largest() as seen:
        semantic_inference(probabilities, logits, size, size, size, order)
    assert seen.elements <= 1 << 24


class Largest(TorchDispatchMode):
    """Remembers the most elements of any tensor that an operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in [out] if isinstance(out, Tensor) else out if isinstance(out, (tuple, list)) else []:
            self.elements = max(self.elements, tensor.numel() if isinstance(tensor, Tensor) else 0)
        return out


@pytest.mark.parametrize(
    ("order", "size", "classes"),
    [
        ("merge_first", (1024, 2048), 19),
        ("masks_first", (1024, 2048), 19),
        ("merge_first", (1000, 1500), 19),
        ("merge_first", (512, 1024), 255),
    ],
)
def test_nothing_large_is_made(order: Any, size: tuple[int, int], classes: int) -> None:
    """The labels, and one row of 255 classes with the two that it is made of, are 1 % of 100 queries at 1024 x 2048."""
    probabilities, logits = inputs(100, classes, (256, 512))
    with Largest() as largest:
        semantic_inference(probabilities, logits, (1024, 2048), (1024, 2048), size, order, backend="torch")
    assert largest.elements <= 0.0105 * 100 * 1024 * 2048


def test_logits_that_lie_channels_last_are_copied_once() -> None:
    """As convolutions make them, depending on their size and on the number of threads."""
    probabilities, logits = inputs(20, 5, (64, 512))
    channels_last = logits.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    sizes = ((256, 2048), (256, 2048), (256, 2048))
    with torch.profiler.profile(record_shapes=True) as profile:
        labels = semantic_inference(probabilities, channels_last, *sizes, backend="torch")
    copies = [one for one in profile.events() if one.name == "aten::copy_" and one.input_shapes[0] == [20, 64, 512]]
    assert len(copies) == 1
    assert torch.equal(labels, semantic_inference(probabilities, logits, *sizes, backend="torch"))


def test_reduced_precision_is_merged_in_float32() -> None:
    probabilities, logits = inputs(50, 5, (6, 9))
    logits = logits.bfloat16()
    sizes = ((24, 36), (23, 36), (11, 40))
    scores = [semantic_inference(probabilities, x, *sizes, scores=True) for x in (logits, logits.float())]
    assert torch.equal(*scores)


@example(order="merge_first", activation="sigmoid")
@settings(max_examples=4)
@given(order=ORDERS, activation=ACTIVATIONS)
def test_scores_are_differentiable_in_torch(order: Any, activation: Any) -> None:
    def scores(probabilities: Tensor, logits: Tensor) -> Tensor:
        return semantic_inference(
            probabilities, logits, (8, 12), (7, 11), (5, 6), order, activation=activation, scores=True, backend="torch"
        )

    assert torch.autograd.gradcheck(scores, [tensor.double().requires_grad_() for tensor in inputs(3, 2, (2, 3))])


def test_triton_computes_no_gradients() -> None:
    probabilities, logits = inputs(3, 2, (2, 3))
    scores = semantic_inference(
        probabilities, logits.requires_grad_(), (8, 12), (8, 12), (8, 12), scores=True, backend="triton"
    )
    with pytest.raises(RuntimeError, match=r"clouds.semantic_inference.default but no autograd formula"):
        scores.sum().backward()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("scores", "size"), [(False, (8, 12)), (True, (9, 7))])
def test_the_operation_is_registered_as_torch_wants_it(device: str, scores: bool, size: Any) -> None:
    probabilities, logits = (tensor.to(device) for tensor in inputs(3, 2, (2, 3)))
    torch.library.opcheck(
        torch.ops.clouds.semantic_inference.default,
        (probabilities, logits, (8, 12), (8, 12), size, False, False, scores),
    )


def test_the_most_classes_that_labels_can_name() -> None:
    assert_as_reference("triton", *inputs(3, 255, (2, 3)), (8, 12), (8, 12), (8, 12))
