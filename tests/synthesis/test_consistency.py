"""Inherited labels that the image does not show are ignored, and images of which too little is left are rejected."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from source_helpers import PART, SIZE, Dim, open_source

import clouds
from clouds.core.contract.labels import CITYSCAPES
from clouds.core.system.errors import ConfigError
from clouds.core.system.images import read_image
from clouds.synthesis.consistency import ConsistencyFilter, connected_regions, load_consistency_filter
from clouds.synthesis.generate import generate_set
from clouds.synthesis.rejections import FILE_NAME as REJECTED


class Seen:
    """A segmenter whose prediction is given."""

    labels = CITYSCAPES

    def __init__(self, prediction: np.ndarray) -> None:
        self.prediction = prediction

    def predict(self, image: np.ndarray) -> SimpleNamespace:
        return SimpleNamespace(labels=self.prediction)


@pytest.fixture(autouse=True)
def _stubs(unchecked_types: None) -> None:
    """The segmenter of these tests is no pipeline."""


def inherited(labels: np.ndarray, space: clouds.LabelSpace = CITYSCAPES) -> clouds.GeneratedImage:
    image = np.zeros((*labels.shape, 3), np.uint8)
    source = clouds.LabelledImage(image=image, labels=labels, label_space=space)
    request = clouds.GenerationRequest(prompt="", seed=0, size=labels.shape, source=source)
    return clouds.GeneratedImage(request=request, image=image, labels=labels, label_kind="inherited")


LABELS = np.array(
    [
        [10, 10, 10, 0, 0, 13],
        [10, 10, 10, 0, 13, 0],
        [255, 255, 10, 0, 0, 0],
        [13, 13, 10, 0, 0, 0],
    ],
    np.uint8,
)


def test_regions_are_connected_also_diagonally_and_never_ignored_pixels() -> None:
    regions = connected_regions(LABELS)
    assert (regions[LABELS == 255] == 0).all()
    assert regions.max() == 4  # sky, road, and two cars
    for value in range(1, 5):
        assert len(np.unique(LABELS[regions == value])) == 1
    assert regions[0, 5] == regions[1, 4] != regions[3, 0]


def test_a_region_is_kept_if_the_segmenter_sees_enough_of_it() -> None:
    seen = LABELS.copy()
    seen[0, :4] = 8  # 3 of 8 pixels of the sky, 1 of 11 of the road
    seen[3, 0] = 8  # one of two pixels of a car: exactly half
    seen[0, 5] = seen[1, 4] = 8
    verdict = ConsistencyFilter(Seen(seen), agreement=0.5).check(inherited(LABELS))
    expected = LABELS.copy()
    expected[0, 5] = expected[1, 4] = 255
    np.testing.assert_array_equal(verdict.labels, expected)
    assert verdict.regions == {"labelled": 4, "dropped": 1}
    labelled = int((LABELS != 255).sum())
    assert verdict.score == pytest.approx(1 - 2 / labelled)
    strict = ConsistencyFilter(Seen(seen), agreement=1.0).check(inherited(LABELS))
    assert strict.regions == {"labelled": 4, "dropped": 4}
    assert (strict.score, {*np.unique(strict.labels)}) == (0.0, {255})


def test_the_segmenter_may_know_more_classes_in_another_order() -> None:
    space = clouds.LabelSpace.from_names(["sky", "road"])
    labels = np.array([[0, 0, 1, 255]], np.uint8)
    seen = np.array([[10, 10, 3, 3]], np.uint8)
    verdict = ConsistencyFilter(Seen(seen)).check(inherited(labels, space))
    np.testing.assert_array_equal(verdict.labels, [[0, 0, 255, 255]])


def test_an_image_without_labelled_pixels_has_score_0() -> None:
    nothing = np.full((2, 3), 255, np.uint8)
    assert ConsistencyFilter(Seen(nothing)).check(inherited(nothing)).score == 0.0


def test_wrong_uses_are_named() -> None:
    with pytest.raises(ConfigError, match=r"filter consistency: the agreement is 2; expected 0\.\.1"):
        ConsistencyFilter(Seen(LABELS), agreement=2)
    with pytest.raises(ConfigError, match=r"filter consistency: the minimum score is -1; expected 0\.\.1"):
        ConsistencyFilter(Seen(LABELS), -1)
    request = clouds.GenerationRequest(prompt="", seed=0, size=(4, 6))
    exact = clouds.GeneratedImage(request=request, image=np.zeros((4, 6, 3), np.uint8), labels=LABELS)
    with pytest.raises(ConfigError, match="compares inherited labels with images, and this generator returns none"):
        ConsistencyFilter(Seen(LABELS)).check(exact)
    space = clouds.LabelSpace.from_names(["sky", "canal"])
    with pytest.raises(ConfigError, match="the segmenter does not know 'canal' of the labels; give one"):
        ConsistencyFilter(Seen(LABELS)).check(inherited(LABELS % 2, space))


class TestInGeneration:
    def make(self, folder: Path, generator: Dim, *filters: ConsistencyFilter) -> list[dict[str, int]]:
        source = open_source(folder / "source")
        made = generate_set(
            generator,
            PART,
            ["fog"],
            n=3,
            out=folder / "set",
            source=source,
            size=SIZE,
            filters=filters,
        )
        assert made.labels is not None
        for label in made.labels:
            assert {*np.unique(read_image(label)[..., 0])} <= {10, 255}
        return [row.regions or {} for row in made.rows]

    def test_dropped_regions_are_counted_and_ignored(self, tmp_path: Path) -> None:
        sky = Seen(np.full(SIZE, 10, np.uint8))
        assert self.make(tmp_path, Dim(), ConsistencyFilter(sky, 0.1)) == [{"labelled": 2, "dropped": 1}] * 3

    def test_a_lost_file_is_made_again_with_the_same_labels(self, tmp_path: Path) -> None:
        again, judge = Dim(), ConsistencyFilter(Seen(np.full(SIZE, 10, np.uint8)), 0.1)
        self.make(tmp_path, Dim(), judge)
        before = {path: path.read_bytes() for path in (tmp_path / "set" / "labels").iterdir()}
        (tmp_path / "set" / "labels" / "im_1_p0.png").unlink()
        with pytest.raises(ConfigError, match=r"image 1 is generated again, and the filters .* dropped labels"):
            self.make(tmp_path, Dim())
        assert self.make(tmp_path, again, judge) == [{"labelled": 2, "dropped": 1}] * 3
        assert again.seeds == [1]
        assert {path: path.read_bytes() for path in (tmp_path / "set" / "labels").iterdir()} == before

    def test_an_image_with_too_little_left_is_made_again_and_then_left_out(self, tmp_path: Path) -> None:
        generator, nothing = Dim(), ConsistencyFilter(Seen(np.full(SIZE, 8, np.uint8)), 0.1)
        source = open_source(tmp_path / "source")
        made = generate_set(
            generator, PART, ["fog"], n=1, out=tmp_path / "set", source=source, size=SIZE, filters=[nothing], attempts=2
        )
        assert made.rows == ()
        assert generator.seeds == [0, 2**32]
        rejected = (tmp_path / "set" / REJECTED).read_text(encoding="utf-8").splitlines()
        assert len(rejected) == 2
        assert '"rejected_by": "consistency:0.5:pipeline"' in rejected[0]


def test_a_saved_pipeline_judges_and_names_the_filter(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = clouds.compose(backbone="tiny", head="linear", device="cpu")
    pipeline.trained = True
    pipeline.save(tmp_path / "model")
    judge = load_consistency_filter(tmp_path / "model", least=0.2, agreement=0.25, device="cpu")
    assert judge.name.startswith("consistency:0.25:")
    assert len(judge.name) == len("consistency:0.25:") + 8
    drawn = open_source(tmp_path / "source").draw(0, (32, 64))
    seen = pipeline.predict(drawn.image).labels
    verdict = judge.check(inherited_from(drawn))
    kept = (verdict.labels == drawn.labels) & (drawn.labels != 255)
    for region in range(1, connected_regions(drawn.labels).max() + 1):
        inside = connected_regions(drawn.labels) == region
        assert kept[inside].all() == ((seen == drawn.labels)[inside].mean() >= 0.25)


def inherited_from(drawn: clouds.LabelledImage) -> clouds.GeneratedImage:
    request = clouds.GenerationRequest(prompt="", seed=0, size=drawn.labels.shape, source=drawn)
    return clouds.GeneratedImage(request=request, image=drawn.image, labels=drawn.labels, label_kind="inherited")
