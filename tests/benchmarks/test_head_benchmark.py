"""The rows of the head benchmark, on sizes so small that their numbers mean nothing; it compares like with like."""

import pytest
import torch

from benchmarks import decoder, head, reference_head
from benchmarks.dense import DenseLayers
from clouds.core.contract.records import Features

SMALL = decoder.Sizes(
    image=(64, 96),
    channels=8,
    width=64,
    encoder_layers=2,
    encoder_feedforward=16,
    decoder_layers=4,
    feedforward=16,
    queries=20,
)


def test_the_reference_order_makes_the_same_logits() -> None:
    """Sums of up to 256 numbers of size 1, in 6 layers; measured: 2e-6."""
    mine, features = decoder.head(SMALL), Features(**SMALL.features())
    with torch.no_grad():
        expected, output = mine(features), reference_head.forward(mine, features)
        labels = [
            mine.segment(expected, SMALL.image, SMALL.image),
            reference_head.segment(output, SMALL.image),
        ]
    torch.testing.assert_close(output.class_logits, expected.class_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.mask_logits, expected.mask_logits, atol=1e-4, rtol=1e-4)
    assert len(output.auxiliary) == SMALL.decoder_layers
    assert (labels[0] == labels[1]).float().mean() > 0.99  # pixels where two classes are as good to the last bit


def test_dense_layers_are_recorded_and_repeated() -> None:
    weight, x = torch.randn(3, 8), torch.randn(2, 4, 8)
    with torch.no_grad(), DenseLayers() as dense:
        torch.nn.functional.linear(x, weight).relu()
        torch.nn.functional.conv2d(torch.randn(1, 3, 5, 5), torch.randn(2, 3, 3, 3))
        torch.einsum("bqc,bnc->bqn", x, x)
        x.softmax(-1)
    assert len(dense.calls) == 3
    shapes = [tuple(call().shape) for call in dense.calls]
    assert shapes[1:] == [(1, 2, 3, 3), (2, 4, 4)]
    assert shapes[0] in {(8, 3), (2, 4, 3)}  # a linear layer is a matrix product of all rows


def test_all_dense_layers_of_a_head_are_among_them() -> None:
    mine, features = decoder.head(SMALL), Features(**SMALL.features())
    with torch.no_grad(), DenseLayers() as dense:
        mine(features)
    convolutions = 3 + 3  # input projections; lateral, output and mask features
    encoder = 6 * SMALL.encoder_layers  # offsets, weights, values, output, two of the feed-forward
    attention = (4 + 4 + 2) * SMALL.decoder_layers
    masks = (3 + 1) * (SMALL.decoder_layers + 1)  # three layers of an embedding, and its product with features
    assert len(dense.calls) == convolutions + encoder + attention + masks + 1  # and the classes


def test_the_rows_of_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "THREADS", 1)  # two wait for each other on a busy machine
    rows = head.run(SMALL, dtypes=("bfloat16",), repeats=1)
    peer = next(one["provider"] for one in rows if one["provider"].startswith("transformers"))
    times = {(one["provider"], one["metric"]) for one in rows if one["unit"] == "s"}
    assert times == {
        *((provider, metric) for provider in ("clouds", "reference order", peer) for metric in ("forward", "labels")),
        ("dense layers", "forward"),
    }
    ratios = {(one["metric"], one["peer"]) for one in rows if one["unit"] == "x"}
    assert ratios == {
        (f"{metric}, times faster", other) for metric in ("forward", "labels") for other in ("reference order", peer)
    }
    assert [one["metric"] for one in rows if one["unit"] == "%"] == ["forward, share of dense layers"]
    assert all(one["dtype"] == "bfloat16" and one["p50"] > 0 for one in rows)
