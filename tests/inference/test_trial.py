"""Pictures of strangers are read, segmented and drawn within limits."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clouds
from clouds.core.pipeline.prediction import Prediction
from clouds.core.system.errors import ConfigError, DataError
from clouds.core.system.images import write_png
from clouds.inference.formats import confidence
from clouds.inference.page import summary
from clouds.inference.trial import (
    MAX_WORDS,
    Limits,
    Model,
    TimeLimitError,
    best_instances,
    confidence_picture,
    differences,
    read_picture,
    read_words,
    time_limit,
)

TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SMALL = {"queries": 20, "width": 64, "layers": 2, "encoder_layers": 1, "points": 60}
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def model(head: str = "mask2former-text", **options: object) -> Model:
    pipeline = clouds.compose(backbone=TINY, head={"name": head, **options}, device="cpu")
    pipeline.trained = True
    return Model("runs/mine", pipeline)


@pytest.fixture(scope="module")
def text() -> Model:
    return model(**SMALL)


def predicted(labels: list[list[int]], names: list[str]) -> Prediction:
    """A prediction whose scores are 1 for the class of a pixel and 0.5 for the others."""
    label_map = np.array(labels, np.uint8)
    scores = np.where(np.arange(len(names))[:, None, None] == label_map, 1.0, 0.5).astype(np.float32)
    return Prediction(
        labels=label_map,
        image=np.full((*label_map.shape, 3), 200, np.uint8),
        label_space=clouds.LabelSpace.from_names(names),
        compute_scores=lambda: scores,
        find_masks=pytest.fail,
    )


def huge_png(path: Path, width: int, height: int) -> Path:
    """A PNG file of this size that ends where its pixels begin."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b""))
    return path


def _chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


class TestPictures:
    def test_a_small_picture_is_unchanged(self, tmp_path: Path) -> None:
        write_png(tmp_path / "a.png", PIXELS)
        assert np.array_equal(read_picture(tmp_path / "a.png", Limits()), PIXELS)

    def test_a_large_one_is_shrunk_with_its_aspect_ratio(self, tmp_path: Path) -> None:
        write_png(tmp_path / "a.png", PIXELS)
        assert read_picture(tmp_path / "a.png", Limits(side=48)).shape == (32, 48, 3)

    def test_one_of_200_megapixels_is_refused_before_it_is_decoded(self, tmp_path: Path) -> None:
        path = huge_png(tmp_path / "huge.png", 20_000, 10_000)
        with pytest.raises(DataError, match=r"^huge\.png: has 10000 x 20000 pixels \(height x width\), more than 134"):
            read_picture(path, Limits())

    def test_no_picture_is_named_without_the_folder_of_uploads(self, tmp_path: Path) -> None:
        (tmp_path / "notes.png").write_text("no picture", encoding="utf-8")
        with pytest.raises(DataError, match=r"^notes\.png: not a picture that can be read; expected PNG or JPEG"):
            read_picture(tmp_path / "notes.png", Limits())


class TestWords:
    def test_commas_and_lines_separate_classes(self) -> None:
        assert read_words(" road,  traffic   light,,\ndeer\n") == ("road", "traffic light", "deer")
        assert read_words("") == ()

    def test_doubles_are_named(self) -> None:
        with pytest.raises(ConfigError, match=r"^classes named twice: deer, road; name each once$"):
            read_words("road, deer, sky, road, deer")

    def test_there_is_a_largest_number(self) -> None:
        assert len(read_words(",".join(map(str, range(MAX_WORDS))))) == MAX_WORDS
        with pytest.raises(ConfigError, match=rf"^{MAX_WORDS + 1} classes; expected at most {MAX_WORDS}$"):
            read_words(",".join(map(str, range(MAX_WORDS + 1))))


class TestModels:
    def test_words_are_the_classes_of_an_open_vocabulary_head(self, text: Model) -> None:
        assert text.segment(PIXELS, ("deer", "road"), Limits()).label_space.names == ("deer", "road")
        own = text.segment(PIXELS, (), Limits())
        assert own.label_space.name == "cityscapes"
        assert np.array_equal(own.labels, text.pipeline.predict(PIXELS).labels)

    def test_a_head_with_fixed_classes_keeps_them(self) -> None:
        fixed = model("linear", width=16)
        assert not fixed.takes_words
        assert fixed.segment(PIXELS, ("deer",), Limits()).label_space.name == "cityscapes"

    def test_the_time_is_limited(self, text: Model) -> None:
        with pytest.raises(TimeLimitError, match=r"^stopped after 0 seconds; choose a smaller picture, or start with"):
            text.segment(PIXELS, (), Limits(seconds=0))
        assert text.segment(PIXELS, (), Limits()).labels.shape == PIXELS.shape[:2]

    def test_the_time_to_embed_words_counts(self, text: Model) -> None:
        with pytest.raises(TimeLimitError), time_limit(text.pipeline, 0):
            _ = text.pipeline.with_labels(["a word that no cache has"]).classifier

    def test_limits_are_checked(self) -> None:
        with pytest.raises(ValueError, match="'side' must be >= 32: 31"):
            Limits(side=31)


class TestPages:
    def test_the_summary_names_classes_and_what_is_missing(self, text: Model) -> None:
        assert summary(text) == "<li><strong>runs/mine</strong>: 19 classes (cityscapes), or your own in words</li>"
        fixed = model("linear", width=16)
        fixed.pipeline.trained = False
        assert "; <strong>not trained: its predictions mean nothing</strong></li>" in summary(fixed)

    def test_names_of_strangers_are_text(self, text: Model) -> None:
        space = clouds.LabelSpace.from_names(["road"], name="<img src='http://example.com/x.png'>")
        assert "<img" not in summary(Model("<b>", text.pipeline.with_labels(space)))


class TestDrawings:
    def test_confidence_is_the_share_of_the_best_class(self) -> None:
        found = predicted([[0, 0, 0, 2]], ["road", "sky", "<b>"])
        picture, table = confidence_picture(found)
        assert np.array_equal(picture, np.full((1, 4), 128))  # 1 / (1 + 0.5 + 0.5), of 255
        assert confidence(found.scores()).mean() == 0.5
        cells = [row.split("</span> ")[1] for row in table.split("<tr>")[2:]]
        assert cells[0].startswith("road</td><td>75.0%</td><td>50%</td>")
        assert cells[1].startswith("&lt;b&gt;</td><td>25.0%</td><td>50%</td>")
        assert len(cells) == 2  # classes without a pixel are left out

    def test_instances_are_numbered_with_their_classes_and_scores(self, text: Model) -> None:
        found = text.segment(PIXELS, ("deer", "road"), Limits())
        best, instances = best_instances(found), found.instances(top=20)
        assert len(best) == (instances.scores >= 0.1).sum() > 0
        assert best[0][1] == f"1 {('deer', 'road')[instances.labels[0]]} {instances.scores[0]:.2f}"
        assert np.array_equal(best[0][0] > 0, instances.masks[0])

    def test_classes_of_two_models_are_compared_by_name(self) -> None:
        one, other = predicted([[0, 1], [1, 1]], ["road", "sky"]), predicted([[1, 0], [2, 1]], ["sky", "road", "car"])
        picture, share = differences(one, other)
        marked = (picture != 50).any(-1)  # a quarter of 200
        assert np.array_equal(marked, [[False, False], [True, True]])
        assert share == 0.5


def test_the_page_shows_what_the_formats_write(tmp_path: Path, text: Model) -> None:
    write_png(tmp_path / "a.png", PIXELS)
    found = text.segment(read_picture(tmp_path / "a.png", Limits()), (), Limits())
    shown, _ = confidence_picture(found)
    assert np.array_equal(
        shown, (confidence(text.pipeline.predict(Image.open(tmp_path / "a.png")).scores()) * 255).round()
    )
