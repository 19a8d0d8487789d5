"""Pipelines beside each other on the same images."""

import html
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clouds
from clouds import ConfigError, LabelSpace
from clouds.evaluation.pipeline_comparison import compare_pipelines
from clouds.evaluation.views import Segmentation

LABELS = LabelSpace.from_names(["road", "car", "sky"], name="toy")


class Channel:
    """Predicts what a channel of a picture says."""

    def __init__(self, channel: int, labels: LabelSpace = LABELS) -> None:
        self.channel, self.labels = channel, labels

    def predict_many(
        self, images: Iterator[np.ndarray], *, batch_size: int = 8, short_side: int | None = None, window: int = 2048
    ) -> Iterator[Segmentation]:
        for image in images:
            yield Segmentation(image[..., self.channel])


@pytest.fixture
def spec(tmp_path: Path) -> str:
    """Three images; the first model is right on the first one, the second on all but the first."""
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    wrong, half = np.array([[1, 1, 0, 0]], np.uint8), np.array([[0, 0, 0, 0]], np.uint8)
    for name, red, green in (("a", truth, half), ("b", wrong, truth), ("c", truth, truth)):
        pixels = np.stack([red, green, np.zeros_like(red)], axis=-1)
        for part, picture in (("images", pixels), ("labels", truth)):
            (tmp_path / "day" / part / "val").mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(tmp_path / "day" / part / "val" / f"{name}.png")
    return f"folder:{tmp_path / 'day'}"


def test_a_comparison(spec: str) -> None:
    found = compare_pipelines({"old": Channel(0), "<new>": Channel(1)}, [spec])
    old, new = found.reports.values()
    assert old.domains["day:val"].per_image == {"a": 100.0, "b": 0.0, "c": 100.0}
    assert new.domains["day:val"].per_image == {"a": 25.0, "b": 100.0, "c": 100.0}
    (gain,) = found.gains.values()
    assert gain == pytest.approx((new.miou or 0) - (old.miou or 0))
    assert found.unmeasured == ()
    # The images that changed, the most first, with both predictions.
    b, a = found.examples["day:val"]
    assert (b.name, b.why, a.name, a.why) == ("b", "+100.0 points", "a", "-75.0 points")
    assert b.predictions["old"].tolist() == [[1, 1, 0, 0]]
    assert b.predictions["<new>"].tolist() == [[0, 0, 1, 1]]
    document = json.loads(found.to_json())
    assert document["gains"] == found.gains
    assert document["pipelines"]["old"] == json.loads(old.to_json())


def test_text_and_page(spec: str) -> None:
    found = compare_pipelines({"old": Channel(0), "<new>": Channel(1), "old again": Channel(0)}, [spec])
    text, page = found.to_text(), html.unescape(found.to_html())
    for words in ("pipeline", "gain", "IoU per class on day:val", "<new> − old", "protocol native"):
        assert words in text
    for words in ("<new> against old", "old again against old", "No image changed.", "IoU per class"):
        assert words in page
    assert "<new> − old" in page
    assert "<new>" not in found.to_html().replace("\\u003cnew\\u003e", "")


def test_wrong_pipelines_are_named(spec: str) -> None:
    with pytest.raises(ConfigError, match="expected two or more pipelines by name, got 1"):
        compare_pipelines({"old": Channel(0)}, [spec])
    other = Channel(0, LabelSpace.from_names(["road", "boat"], name="harbour"))
    message = r"^new: has 2 classes \(road, boat\), but old has 3 classes \(road, car, sky\); compare pipelines"
    with pytest.raises(ConfigError, match=message):
        compare_pipelines({"old": Channel(0), "new": other}, [spec])
    with pytest.raises(ConfigError, match="unknown evaluation protocol"):
        clouds.compare_pipelines({"old": Channel(0), "new": Channel(1)}, [spec], protocol="nativ")
