import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

import clouds
from clouds.core.system.errors import DataError, UntrainedHeadWarning

TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SMALL_MASK2FORMER = {"name": "mask2former", "queries": 20, "width": 64, "layers": 3, "encoder_layers": 1}
HEADS = ["linear", SMALL_MASK2FORMER]


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(params=HEADS, ids=["linear", "mask2former"])
def pipeline(request: pytest.FixtureRequest) -> clouds.Pipeline:
    made = clouds.compose(backbone=TINY, head=request.param, device="cpu")
    made.trained = True
    return made


@pytest.mark.parametrize("size", [(1, 1), (7, 90), (64, 96), (65, 97)])
def test_predictions_have_the_images_size(pipeline: clouds.Pipeline, size: tuple[int, int]) -> None:
    prediction = pipeline.predict(random_image(*size))
    assert prediction.labels.shape == size
    assert prediction.labels.dtype == np.uint8
    scores = prediction.scores()
    assert scores.shape == (19, *size)
    assert scores.dtype == np.float32
    assert (scores.argmax(0) == prediction.labels).all()
    assert prediction.overlay().size == size[::-1]


def test_every_form_of_an_image_gives_the_same(pipeline: clouds.Pipeline, tmp_path: Path) -> None:
    pixels = random_image(40, 50)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    forms = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(pixels),
        torch.tensor(pixels).permute(2, 0, 1),
    ]
    expected = pipeline.predict(pixels).labels
    for form in forms:
        assert (pipeline.predict(form).labels == expected).all()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        torch.zeros(4, 4, 3, dtype=torch.uint8),
    ],
)
def test_other_forms_are_refused(pipeline: clouds.Pipeline, image: object) -> None:
    with pytest.raises(DataError, match=r"expected a non-empty uint8 .* got \w+ of shape"):
        pipeline.predict(image)


def test_batches_are_padded_with_the_mean_to_a_multiple_of_32(pipeline: clouds.Pipeline) -> None:
    images = [torch.tensor(random_image(*size)).permute(2, 0, 1) for size in ((33, 64), (20, 70))]
    batch = pipeline.pad(images)
    assert batch.shape == (2, 3, 64, 96)
    assert (batch[0, :, :33, :64] == images[0]).all()
    assert (pipeline.backbone.normalize(batch)[1, :, 20:] == 0).all()


def test_short_side_resizes_and_answers_at_the_own_size(pipeline: clouds.Pipeline) -> None:
    prediction = pipeline.predict(random_image(60, 90), short_side=32)
    assert prediction.labels.shape == (60, 90)
    assert (prediction.scores().argmax(0) == prediction.labels).all()
    with pytest.raises(DataError, match="short_side is 0; expected at least 1"):
        pipeline.predict(random_image(60, 90), short_side=0)


def test_a_window_has_a_pixel(pipeline: clouds.Pipeline) -> None:
    with pytest.raises(DataError, match="window is 0; expected at least 1"):
        pipeline.predict(random_image(60, 90), window=0)


def test_large_images_go_through_windows(pipeline: clouds.Pipeline) -> None:
    image = random_image(200, 300)
    prediction = pipeline.predict(image, window=128)
    assert prediction.labels.shape == (200, 300)
    assert (prediction.scores().argmax(0) == prediction.labels).all()
    # the top left core of the first window is what that window alone predicts
    alone = pipeline.predict(image[:128, :128]).labels
    assert (prediction.labels[:90, :90] == alone[:90, :90]).all()


@pytest.mark.parametrize("short_side", [150, 260])
def test_windows_of_a_resized_image_answer_as_the_whole(pipeline: clouds.Pipeline, short_side: int) -> None:
    """Labels come after resizing, also in windows."""
    image = random_image(200, 300)
    prediction = pipeline.predict(image, short_side=short_side, window=128)
    assert prediction.labels.shape == (200, 300)
    assert (prediction.scores().argmax(0) == prediction.labels).all()
    resized = np.asarray(Image.fromarray(image).resize((short_side * 3 // 2, short_side), Image.Resampling.BILINEAR))
    scores = torch.from_numpy(pipeline.predict(resized, window=128).scores())
    expected = functional.interpolate(scores[None], (200, 300), mode="bilinear")[0].numpy()
    # All but the pixels between two windows, each of which answers from what it sees itself.
    assert np.isclose(prediction.scores(), expected, atol=1e-5).all(0).mean() > 0.9


def test_a_backbone_says_what_its_images_are_padded_to(
    pipeline: clouds.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pipeline.backbone.size_divisor == 32
    monkeypatch.setattr(type(pipeline.backbone), "size_divisor", 64)
    assert pipeline.pad([torch.zeros(3, 20, 70, dtype=torch.uint8)]).shape == (1, 3, 64, 128)


def test_an_untrained_head_warns_once() -> None:
    pipeline = clouds.compose(backbone=TINY, head="linear", device="cpu")
    with pytest.warns(UntrainedHeadWarning, match="has not been trained"):
        pipeline.predict(random_image(8, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.predict(random_image(8, 8))


def test_predicting_keeps_the_mode_of_every_module(pipeline: clouds.Pipeline) -> None:
    pipeline.head.train()
    pipeline.predict(random_image(8, 8))
    assert pipeline.head.training
    assert not pipeline.backbone.training  # frozen


@pytest.mark.filterwarnings("ignore::clouds.SlowDtypeWarning")
def test_reduced_precision_runs_and_stays_finite() -> None:
    reduced = clouds.compose(backbone=TINY, head="linear", device="cpu", dtype=torch.bfloat16)
    reduced.trained = True
    assert reduced.plan.dtype == "bfloat16"
    assert np.isfinite(reduced.predict(random_image(40, 40)).scores()).all()
