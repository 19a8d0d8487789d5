"""The comparison of graph and pipeline finds what it must."""

import pytest
import torch
from torch import Tensor

import clouds
from clouds.core.contract.records import HeadOutput
from clouds.core.pipeline.export_check import check_graph

EXAMPLES = [torch.zeros(2, 3, 40, 50, dtype=torch.uint8)]


@pytest.fixture
def pipeline() -> clouds.Pipeline:
    tiny = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    return clouds.compose(backbone=tiny, head={"name": "linear", "width": 16}, labels=5, device="cpu")


def graph_of(pipeline: clouds.Pipeline, *, scores: bool, shift: float = 0.0):
    def run(images: Tensor) -> list[Tensor]:
        found = pipeline.forward(list(images))
        size = (images.shape[2], images.shape[3])
        made = pipeline.head.segment_all(found, size, size, scores=True) + shift * torch.eye(5)[1][None, :, None, None]
        return [made if scores else made.argmax(1).to(torch.uint8)]

    return run


def test_equal_graphs_pass(pipeline: clouds.Pipeline) -> None:
    for output in ("scores", "labels"):
        check_graph(pipeline, graph_of(pipeline, scores=output == "scores"), output, EXAMPLES)

    def logits(images: Tensor) -> tuple[Tensor, Tensor]:
        found = pipeline.forward(list(images))
        return found.class_logits, found.mask_logits

    check_graph(pipeline, logits, "panoptic-logits", EXAMPLES)


def test_a_difference_beyond_rounding_is_found(pipeline: clouds.Pipeline) -> None:
    with pytest.raises(clouds.ConfigError, match=r"graph and pipeline differ by .* of the largest value"):
        check_graph(pipeline, graph_of(pipeline, scores=True, shift=1e-3), "scores", EXAMPLES)
    with pytest.raises(clouds.ConfigError, match=r"labels of graph and pipeline differ at \d+ of 4000 pixels"):
        check_graph(pipeline, graph_of(pipeline, scores=False, shift=1.0), "labels", EXAMPLES)


def test_another_shape_is_found(pipeline: clouds.Pipeline) -> None:
    with pytest.raises(clouds.ConfigError, match="the graph returned "):
        check_graph(pipeline, lambda images: [torch.zeros(1)], "scores", EXAMPLES)


def test_weights_that_are_not_finite(pipeline: clouds.Pipeline) -> None:
    with torch.no_grad():
        next(pipeline.head.parameters()).fill_(torch.nan)
    with pytest.raises(clouds.NonFiniteError, match="output for random images is not finite"):
        check_graph(pipeline, graph_of(pipeline, scores=True), "scores", EXAMPLES)


def test_an_unstable_pipeline_is_refused(pipeline: clouds.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clouds.core.pipeline.export_check._CONTRASTS", (-1.0, 2.0))
    with pytest.raises(clouds.ConfigError, match=r"masks for 50 draws of \(2, 3, 40, 50\) random images change"):
        check_graph(pipeline, graph_of(pipeline, scores=True), "scores", EXAMPLES)


def half_graph_of(pipeline: clouds.Pipeline, *, labels: bool = False, factor: float = 1.0):
    """What a graph in float16 does: autocast, and all else in float32."""

    def run(images: Tensor) -> list[Tensor]:
        with torch.autocast("cpu", dtype=torch.float16):  # around the network: `forward` switches it off
            found = pipeline.segmenter(pipeline.pad(list(images)), pipeline.classifier)
        found = HeadOutput(class_logits=found.class_logits.float(), mask_logits=found.mask_logits.float() * factor)
        size = (images.shape[2], images.shape[3])
        return [pipeline.head.segment_all(found, size, size)] if labels else [found.class_logits, found.mask_logits]

    return run


def test_a_reduced_graph_may_differ_as_autocast_does(pipeline: clouds.Pipeline) -> None:
    check_graph(pipeline, half_graph_of(pipeline, labels=True), "labels", EXAMPLES, "float16")
    check_graph(pipeline, half_graph_of(pipeline), "panoptic-logits", EXAMPLES, "float16")
    with pytest.raises(clouds.ConfigError, match="graph and pipeline differ by"):
        check_graph(pipeline, half_graph_of(pipeline), "panoptic-logits", EXAMPLES)  # as a graph in float32


def test_a_reduced_graph_that_differs_by_more_is_found(pipeline: clouds.Pipeline) -> None:
    message = r"the graph in float16 differs from the pipeline in float32 by .*, 5 times what autocast changes"
    with pytest.raises(clouds.ConfigError, match=message):
        check_graph(pipeline, half_graph_of(pipeline, factor=1.01), "panoptic-logits", EXAMPLES, "float16")
    with pytest.raises(clouds.ConfigError, match=message):
        check_graph(pipeline, half_graph_of(pipeline, labels=True, factor=-1), "labels", EXAMPLES, "float16")


def test_a_dtype_that_changes_too_much_is_refused(pipeline: clouds.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clouds.core.pipeline.export_check.LOSS", 1e-6)
    with pytest.raises(clouds.ConfigError, match=r"bfloat16 changes the pipeline's output by at least .* for 50 draws"):
        check_graph(pipeline, half_graph_of(pipeline), "panoptic-logits", EXAMPLES, "bfloat16")


@pytest.mark.parametrize("head", ["linear", {"name": "mask2former", "queries": 8, "width": 64}])
@pytest.mark.parametrize("scores", [False, True])
def test_segment_all_is_segment_of_every_image(head: object, scores: bool) -> None:
    pipeline = clouds.compose(backbone="tiny", head=head, labels=5, device="cpu")
    images = list(torch.randint(0, 256, (3, 3, 40, 50), dtype=torch.uint8))
    with torch.inference_mode():
        output = pipeline.forward(images)
        together = pipeline.head.segment_all(output, (40, 50), (40, 50), scores=scores)
        alone = torch.stack(
            [pipeline.head.segment(output.image(i), (40, 50), (40, 50), scores=scores) for i in range(3)]
        )
    if scores:
        torch.testing.assert_close(together, alone)  # summed in another order
    else:
        assert (together == alone).float().mean() > 0.999  # roundings decide ties
