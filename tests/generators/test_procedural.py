"""The procedural generator keeps its promises about requests, and pictures follow their prompts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds.core.contract.labels import CITYSCAPES
from clouds.core.contract.records import GeneratedImage, GenerationRequest
from clouds.generators.presets import procedural

SIZE = (48, 96)
requests = st.builds(
    GenerationRequest,
    prompt=st.text(max_size=40) | st.sampled_from(["a rainy city at night with buses", "snow on a village road"]),
    seed=st.integers(0, 2**40),
    size=st.tuples(st.integers(1, 24), st.integers(1, 40)),
)


def draw(prompt: str, seed: int = 0, size: tuple[int, int] = SIZE) -> GeneratedImage:
    (picture,) = procedural().generate([GenerationRequest(prompt=prompt, seed=seed, size=size)])
    return picture


def draw_many(prompt: str, count: int = 8) -> list[GeneratedImage]:
    return list(procedural().generate(GenerationRequest(prompt=prompt, seed=seed, size=SIZE) for seed in range(count)))


def labels_of(picture: GeneratedImage) -> np.ndarray:
    assert picture.labels is not None
    return picture.labels


def mean_brightness(prompt: str) -> float:
    return float(np.mean([picture.image.mean() for picture in draw_many(prompt)]))


def share_of(name: str, prompt: str) -> list[float]:
    return [float((labels_of(picture) == CITYSCAPES.index(name)).mean()) for picture in draw_many(prompt)]


@settings(max_examples=25)
@given(batch=st.lists(requests, min_size=1, max_size=3), data=st.data())
def test_a_request_gives_the_same_picture_in_any_batch(batch: list[GenerationRequest], data: st.DataObject) -> None:
    chosen = data.draw(st.sampled_from(batch))
    together = dict(zip(map(id, batch), procedural().generate(batch), strict=True))[id(chosen)]
    (alone,) = procedural().generate([chosen])
    assert together.request == chosen
    np.testing.assert_array_equal(together.image, alone.image)
    np.testing.assert_array_equal(labels_of(together), labels_of(alone))


@settings(max_examples=40)
@given(request=requests)
def test_pictures_are_rgb_with_a_train_id_for_every_pixel(request: GenerationRequest) -> None:
    (picture,) = procedural().generate([request])
    assert picture.image.dtype == np.uint8
    assert picture.image.shape == (*request.size, 3)
    assert labels_of(picture).dtype == np.uint8
    assert labels_of(picture).shape == request.size
    assert labels_of(picture).max() < len(CITYSCAPES)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (97, 195), (512, 1024), (768, 768)])
def test_any_size(size: tuple[int, int]) -> None:
    picture = draw("a foggy highway", size=size)
    assert picture.image.shape == (*size, 3)
    assert labels_of(picture).shape == size


def test_seed_and_prompt_both_matter() -> None:
    first = draw("a city by day")
    assert (first.image != draw("a city by day", seed=1).image).any()
    assert (first.image != draw("a city by day.").image).any()


def test_the_scene_does_not_depend_on_the_size() -> None:
    small, large = (labels_of(draw("a city by day", size=size)) for size in ((64, 128), (192, 384)))
    # Scaling by 3 keeps the pixel centres: every third centre of the large picture is one of the small picture's.
    assert (small == large[1::3, 1::3]).mean() > 0.97  # polygon edges round differently at each size


def test_nights_are_darker_than_dusks_and_dusks_than_days() -> None:
    night, dusk, day = (mean_brightness(f"a city street {when}, sunny") for when in ("at night", "at dusk", "at noon"))
    assert night < dusk < day


def test_fog_takes_contrast_from_what_is_far() -> None:
    def contrast(prompt: str) -> float:
        upper = [picture.image[: SIZE[0] // 2].std() for picture in draw_many(prompt)]
        return float(np.mean(upper))

    assert contrast("a foggy city at noon") < 0.8 * contrast("a sunny city at noon")


def test_snow_brightens_the_ground() -> None:
    def ground(prompt: str) -> float:
        roads = [picture.image[labels_of(picture) <= 1].mean() for picture in draw_many(prompt)]
        return float(np.mean(roads))

    assert ground("a snowy city at noon") > ground("a sunny city at noon") + 20


def test_rain_takes_colour() -> None:
    def colour(prompt: str) -> float:
        return float(np.mean([np.ptp(picture.image.astype(int), axis=2).mean() for picture in draw_many(prompt)]))

    assert colour("a rainy city at noon") < colour("a sunny city at noon")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("cars", "car"),
        ("trucks", "truck"),
        ("buses", "bus"),
        ("trams", "train"),
        ("motorcycles", "motorcycle"),
        ("pedestrians", "person"),
        ("cyclists", "rider"),
        ("bicycles", "bicycle"),
        ("trees", "vegetation"),
        ("lamps", "pole"),
        ("traffic lights", "traffic light"),
        ("traffic signs", "traffic sign"),
    ],
)
def test_what_is_asked_for_is_there(words: str, name: str) -> None:
    shares = share_of(name, f"a city street with {words}")
    # One object may be hidden behind another one; all eight pictures without it would be a fault.
    assert np.count_nonzero(shares) >= 6


def test_what_is_ruled_out_is_absent() -> None:
    assert share_of("car", "a busy city street without cars") == [0.0] * 8
    assert max(share_of("car", "an empty road") + share_of("person", "an empty road")) == 0.0


def test_places_differ() -> None:
    assert np.mean(share_of("building", "downtown avenue")) > 2 * np.mean(share_of("building", "country road"))
    assert np.mean(share_of("terrain", "country road")) > np.mean(share_of("terrain", "downtown avenue"))


def test_what_a_prompt_leaves_open_varies() -> None:
    pictures = draw_many("")
    means = {tuple(picture.image.mean(axis=(0, 1)).round()) for picture in pictures}
    assert len(means) == len(pictures)
