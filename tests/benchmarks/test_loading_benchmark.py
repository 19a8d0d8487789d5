"""The rows of the loading benchmark, on files so small that their numbers mean nothing."""

from pathlib import Path

import numpy as np
import torch

from benchmarks import loading

SMALL = loading.Load(size=(70, 90), crop=64, files=2, images=4, rounds=2)


def test_the_peer_is_timed_in_the_same_rounds() -> None:
    rows = loading.run(SMALL)
    ours, peer = (one["provider"] for one in rows if one["metric"] == "views")
    assert ours == "clouds"
    assert {one["peer"] for one in rows if one["unit"] == "x"} == {peer}
    assert all(one["repeats"] == 2 and one["p50"] > 0 for one in rows)


def test_the_peer_makes_the_same_kind_of_view(tmp_path: Path) -> None:
    loading._write_files(tmp_path, SMALL)
    image, label = loading.TorchvisionReader(tmp_path, SMALL)[1]
    assert (image.shape, image.dtype) == ((3, 64, 64), torch.uint8)
    assert (label.shape, label.dtype) == ((64, 64), torch.uint8)
    assert set(np.unique(label)) <= {*range(19), 255}
