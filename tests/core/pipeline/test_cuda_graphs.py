"""Recorded forward passes: with a stand-in for CUDA graphs that records operations on a CPU, and on a GPU.

The stand-in does what CUDA does: a recording is a list of operations on memory that stays where it is, and a replay
runs them again on what lies there now.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import clouds
from benchmarks import graphs, kernels
from benchmarks.decoder import Sizes
from clouds.bench.problems import Size
from clouds.core.pipeline.cuda_graphs import CudaGraphs
from clouds.core.system.errors import ConfigError

TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SMALL_MASK2FORMER = {"name": "mask2former", "queries": 20, "width": 64, "layers": 3, "encoder_layers": 1}


class Tape(TorchDispatchMode):
    """Operations and what they wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        written = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, written))
        return written


class Graph:
    """In place of `torch.cuda.CUDAGraph`."""

    pools: list[object]  # those that recordings were asked to share

    def __init__(self) -> None:
        self.tape = Tape()

    def pool(self) -> object:
        return f"the pool of {id(self)}"

    def replay(self) -> None:
        for function, args, kwargs, written in self.tape.calls:
            again = function(*args, **kwargs)
            for kept, new in zip(tree_leaves(written), tree_leaves(again), strict=True):
                if isinstance(kept, Tensor) and kept.data_ptr() != new.data_ptr():  # no view, nor in place
                    kept.copy_(new)


class Stream:
    def wait_stream(self, other: object) -> None:
        pass


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> type[Graph]:
    @contextmanager
    def graph(recording: Graph, *, pool: object = None, capture_error_mode: str = "thread_local") -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        Graph.pools.append(pool)
        with recording.tape:
            yield

    Graph.pools = []
    replacements = {"CUDAGraph": Graph, "graph": graph, "Stream": Stream, "current_stream": Stream}
    for name, value in {**replacements, "stream": nullcontext, "device": nullcontext}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return Graph


class Network(nn.Module):
    """A linear layer, some steps of which work in place, and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("offset", torch.ones(2))
        self.runs = 0

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.runs += 1
        product = self.linear(images).mul_(2)
        return product + self.offset, product.sum(1)


@pytest.fixture
def network() -> Iterator[Network]:
    with torch.inference_mode():
        yield Network()


def _check(graphs: CudaGraphs, network: Network, batch: int, *, runs: int) -> None:
    """The graphs give what the network gives, in so many runs of its Python code."""
    images = torch.rand(batch, 3)
    before = network.runs
    found = graphs(network, images)
    assert network.runs - before == runs
    for one, expected in zip(found, network(images), strict=True):
        assert torch.equal(one, expected)


EAGER, RECORDED, REPLAYED = 1, 2, 0  # runs of the Python code: a recording is made after one run that is thrown away


def test_a_shape_is_recorded_when_it_comes_again(cuda: type[Graph], network: Network) -> None:
    graphs = CudaGraphs(4)
    for runs in (EAGER, RECORDED, REPLAYED, REPLAYED):
        _check(graphs, network, 5, runs=runs)
    _check(graphs, network, 6, runs=EAGER)
    _check(graphs, network, 5, runs=REPLAYED)


def test_an_answer_outlives_the_next_replay(cuda: type[Graph], network: Network) -> None:
    graphs = CudaGraphs(1)
    images = torch.rand(4, 5, 3)
    answers = [graphs(network, one) for one in images]
    for answer, one in zip(answers, images, strict=True):
        assert all(torch.equal(found, expected) for found, expected in zip(answer, network(one), strict=True))


def test_the_least_recently_used_recording_goes_first(cuda: type[Graph], network: Network) -> None:
    graphs = CudaGraphs(2)
    for batch in (1, 2, 3):
        _check(graphs, network, batch, runs=EAGER)
    _check(graphs, network, 1, runs=RECORDED)
    _check(graphs, network, 2, runs=RECORDED)
    _check(graphs, network, 1, runs=REPLAYED)
    _check(graphs, network, 3, runs=RECORDED)  # in place of 2
    _check(graphs, network, 1, runs=REPLAYED)
    _check(graphs, network, 2, runs=RECORDED)  # in place of 3
    assert Graph.pools[0] is None
    assert all(pool is not None for pool in Graph.pools[1:]), "recordings share the memory of the first"


def _replace(network: Network) -> None:
    network.linear.weight = nn.Parameter(torch.rand(2, 3), requires_grad=False)


def _replace_buffer(network: Network) -> None:
    network.offset = torch.full((2,), 3.0)


def _train(network: Network) -> None:
    network.linear.train(not network.linear.training)


@pytest.mark.parametrize("change", [_replace, _replace_buffer, _train])
def test_what_was_recorded_with_other_weights_is_dropped(
    cuda: type[Graph], network: Network, change: Callable[[Network], None]
) -> None:
    graphs = CudaGraphs(4)
    for runs in (EAGER, RECORDED, REPLAYED):
        _check(graphs, network, 5, runs=runs)
    change(network)
    for runs in (EAGER, RECORDED, REPLAYED):
        _check(graphs, network, 5, runs=runs)


def test_another_type_of_autocast_drops_recordings(cuda: type[Graph], network: Network) -> None:
    graphs = CudaGraphs(4)
    for dtype in (None, torch.bfloat16, None):
        for runs in (EAGER, RECORDED, REPLAYED):
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                _check(graphs, network, 5, runs=runs)


def test_a_recording_keeps_no_weights_that_autocast_converted(cuda: type[Graph]) -> None:
    """They would be freed with its cache. A change in place shows which weights the recording reads."""
    network, graphs = Network(), CudaGraphs(4)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):  # outside, so that the cache lives on
        for runs in (EAGER, RECORDED, REPLAYED):
            _check(graphs, network, 5, runs=runs)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        network.linear.weight.mul_(2)
        _check(graphs, network, 5, runs=REPLAYED)


def test_weights_that_change_in_place_are_read_as_they_are(cuda: type[Graph], network: Network) -> None:
    graphs = CudaGraphs(4)
    for runs in (EAGER, RECORDED, REPLAYED):
        network.load_state_dict(Network().state_dict())
        _check(graphs, network, 5, runs=runs)


def test_what_cannot_be_recorded_is_said(cuda: type[Graph], network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = CudaGraphs(4)
    graphs(network, torch.rand(5, 3))

    def fail(error: Exception) -> Callable[..., Any]:
        @contextmanager
        def graph(recording: Graph, **options: object) -> Iterator[None]:
            yield
            raise error

        return graph

    monkeypatch.setattr(torch.cuda, "graph", fail(RuntimeError("operation not permitted when stream is capturing")))
    message = r"no CUDA graph of images \(5, 3\) can be recorded: operation not permitted .*graphs\(0\) switches"
    with pytest.raises(ConfigError, match=message):
        graphs(network, torch.rand(5, 3))
    monkeypatch.setattr(torch.cuda, "graph", fail(torch.OutOfMemoryError("out of memory")))
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        graphs(network, torch.rand(5, 3))


def _composed(device: str = "cpu", **options: Any) -> clouds.Pipeline:
    made = clouds.compose(backbone=TINY, device=device, **{"head": SMALL_MASK2FORMER, **options})
    made.trained = True
    return made


def _images(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(seed).integers(0, 256, (60, 90, 3), np.uint8) for seed in range(count)]


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_pipeline_predicts_the_same_with_graphs(
    cuda: type[Graph], monkeypatch: pytest.MonkeyPatch, dtype: str | None
) -> None:
    pipeline = _composed(dtype=dtype)
    images = _images(4)
    expected = [pipeline.predict(image) for image in images]
    monkeypatch.setattr(pipeline, "_graphs", CudaGraphs(2))
    found = [pipeline.predict(image) for image in images]
    monkeypatch.setattr(pipeline.backbone, "forward", None)
    found += [pipeline.predict(image) for image in images]  # of recordings alone
    for one, plain in zip(found, expected * 2, strict=True):
        assert np.array_equal(one.labels, plain.labels)
        assert np.array_equal(one.scores(), plain.scores())


def test_other_labels_have_recordings_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = _composed(head={**SMALL_MASK2FORMER, "name": "mask2former-text"})
    monkeypatch.setattr(pipeline, "_graphs", CudaGraphs(3))
    other = pipeline.with_labels(clouds.LabelSpace.from_names(["road", "sky"]))
    assert other._graphs is not pipeline._graphs
    assert other._graphs is not None
    assert other._graphs.limit == 3
    pipeline.use_cuda_graphs(0)
    assert pipeline.with_labels(clouds.LabelSpace.from_names(["road"]))._graphs is None


def test_graphs_are_asked_for_where_there_are_none() -> None:
    pipeline = _composed()
    message = r"the pipeline is on cpu, and CUDA graphs need a CUDA device; compose or load it with device='cuda'"
    with pytest.raises(ConfigError, match=message):
        pipeline.use_cuda_graphs()
    with pytest.raises(ConfigError, match="limit is -1; expected at least 0"):
        pipeline.use_cuda_graphs(-1)
    pipeline.use_cuda_graphs(0)


def test_the_benchmark_measures_recordings(cuda: type[Graph]) -> None:
    rows = list(graphs.measure(Sizes(image=(64, 64)), torch.device("cpu"), repeats=2))
    assert [(one["provider"], one["metric"], one["unit"]) for one in rows] == [
        (provider, metric, "ms")
        for provider in ("eager", "CUDA graph")
        for metric in ("device", "wall clock", "launching")
    ]
    assert len(Graph.pools) == 1, "one recording"


def test_the_benchmark_replays_operations(cuda: type[Graph]) -> None:
    size = Size(image=(64, 96), queries=5)
    rows = kernels.replays("mask_pool", size, torch.float32, torch.device("cpu"), repeats=2)
    assert [(one["provider"], one["direction"], one["repeats"], one.get("error")) for one in rows] == [
        (provider, "forward, CUDA graph", 2, None) for provider in ("clouds triton", "clouds torch")
    ]
    assert len(Graph.pools) == 2, "one recording for each form"


def test_an_operation_that_cannot_be_recorded_gets_a_row_with_the_reason(
    cuda: type[Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(recording: Graph) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", fail)
    size = Size(image=(64, 96), queries=5)
    rows = kernels.replays("mask_pool", size, torch.float32, torch.device("cpu"), repeats=2)
    message = "RuntimeError: operation not permitted when stream is capturing"
    assert [(one["p50"], one["error"]) for one in rows] == [(None, message)] * 2


class NoCopies(TorchDispatchMode):
    """Refuses tensors of numbers from Python, which torch makes on the CPU, and tensors of a CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        written = func(*args, **(kwargs or {}))
        devices = {one.device.type for one in tree_leaves((args, kwargs, written)) if isinstance(one, Tensor)}
        assert func is not torch.ops.aten.lift_fresh.default, "a tensor of numbers from Python"
        assert devices <= {"meta"}, func
        return written


@pytest.mark.parametrize("head", ["linear", "fpn", "mask2former", "mask2former-text", "mask2former-pooled"])
def test_a_forward_pass_copies_nothing_from_the_host(head: str) -> None:
    """A CUDA graph records no such copies. The kind "meta" takes the forms of a GPU without Triton."""
    options = SMALL_MASK2FORMER if head.startswith("mask2former") else {}
    network = _composed(head={**options, "name": head}).as_module().to("meta")
    images = torch.empty(2, 3, 64, 96, device="meta")
    with torch.no_grad(), NoCopies():
        network(images)


@pytest.mark.gpu
@pytest.mark.parametrize("head", ["linear", SMALL_MASK2FORMER], ids=["linear", "mask2former"])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_gpu_predicts_the_same_with_graphs(head: Any, dtype: str | None) -> None:
    """A replay launches the kernels of the eager run on the same inputs; libraries may choose others while they record,
    which round differently: labels may differ where two classes are equal to rounding."""
    pipeline = _composed("cuda", head=head, dtype=dtype)
    images = _images(4)
    expected = [pipeline.predict(image).scores() for image in images]
    pipeline.use_cuda_graphs()
    for batch_size in (1, 2):
        for _ in range(2):
            found = pipeline.predict_many(images, batch_size=batch_size)
            for one, plain in zip(found, expected, strict=True):
                tolerance = 2e-5 if dtype is None else 2e-2
                assert np.abs(one.scores() - plain).mean() < tolerance
