"""The rows of the decoder and memory benchmarks, on sizes so small that their numbers mean nothing; and one bound."""

import pytest
import torch

from benchmarks import decoder, memory

SMALL = decoder.Sizes(
    image=(64, 96),
    channels=8,
    width=64,
    encoder_layers=1,
    encoder_feedforward=16,
    decoder_layers=3,
    feedforward=16,
    queries=20,
)


def test_both_decoders_are_timed_beside_the_peer() -> None:
    threads = torch.get_num_threads()
    rows = decoder.run(SMALL, repeats=3)
    assert torch.get_num_threads() == threads
    peer = next(one["peer"] for one in rows if "peer" in one)
    parts = ("pixel decoder", "transformer decoder", "both decoders")
    assert [(one["provider"], one["metric"], one["unit"]) for one in rows] == [
        expected
        for part in parts
        for expected in (("clouds", part, "s"), (peer, part, "s"), ("clouds", f"{part}, times faster", "x"))
    ]
    assert all(one["threads"] == 2 and one["repeats"] == 3 and one["p50"] > 0 for one in rows)


def test_both_decoders_have_the_same_sizes() -> None:
    """What the peer lacks of ours is the class head: 64 x 20 weights and 20 biases."""
    mine, peer = (
        sum(one.numel() for part in parts for one in part.parameters())
        for parts in (decoder.ours(SMALL), decoder.theirs(SMALL))
    )
    assert mine - peer == 65 * 20


@pytest.mark.slow
def test_peaks_of_memory_are_measured_beside_the_peer() -> None:
    rows = memory.run((64, 96), backbone="tiny")
    assert [(one["provider"], one["metric"]) for one in rows] == [
        (provider, f"peak, {metric}")
        for provider in ("clouds", "transformers")
        for metric in ("built", "predicted 64x96")
    ]
    built, predicted = rows[0]["p50"], rows[1]["p50"]
    assert 0.1 < built <= predicted < 3  # gigabytes: torch alone takes more than the first


@pytest.mark.slow
def test_segmenting_1024x2048_with_a_resnet_50_takes_less_than_three_gigabytes() -> None:
    _, predicted = memory.measure(memory.OURS, (1024, 2048), backbone="clip-rn50")
    assert predicted < 3
