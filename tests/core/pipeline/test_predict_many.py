"""Many images: the answers of `predict`, in order, whatever shares a batch."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import clouds
from clouds.core.system.errors import DataError, LeftOutWarning, UntrainedHeadWarning
from clouds.core.system.images import write_png

TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SMALL_MASK2FORMER = {"name": "mask2former", "queries": 20, "width": 64, "layers": 3, "encoder_layers": 1}

# A batch goes through other loops of the same routines than an image alone, which add in another order: some hundred
# float32 roundings (6e-8) of the largest score, as in `test_export`. `python -m benchmarks precision` measures them.
TOLERANCE = 2e-5


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class Endless:
    """Items by index without end, as a torch Dataset that leaves its length to the sampler."""

    def __getitem__(self, index: int) -> np.ndarray:
        return random_image(4, 4, index)


def _composed(head: Any) -> clouds.Pipeline:
    made = clouds.compose(backbone=TINY, head=head, device="cpu")
    made.trained = True
    return made


@pytest.fixture(scope="module")
def linear() -> clouds.Pipeline:
    return _composed("linear")


@pytest.fixture(scope="module")
def mask2former() -> clouds.Pipeline:
    return _composed(SMALL_MASK2FORMER)


@pytest.fixture
def batches(linear: clouds.Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, ...]]]:
    """The sizes of the images in each batch that goes through the network."""
    seen: list[list[tuple[int, ...]]] = []
    forward = linear.forward

    def watch(images: Sequence[torch.Tensor]) -> Any:
        seen.append([tuple(image.shape[1:]) for image in images])
        return forward(images)

    monkeypatch.setattr(linear, "forward", watch)
    return seen


@settings(max_examples=15)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), max_size=8),
    batch_size=st.integers(1, 4),
    short_side=st.sampled_from([None, 40]),
    window=st.sampled_from([2048, 48]),
)
def test_answers_are_those_of_predict_in_order(
    linear: clouds.Pipeline,
    sizes: list[tuple[int, int]],
    batch_size: int,
    short_side: int | None,
    window: int,
) -> None:
    images = [random_image(*size, seed) for seed, size in enumerate(sizes)]
    options = {"short_side": short_side, "window": window}
    found = list(linear.predict_many(images, batch_size=batch_size, **options))
    assert [one.labels.shape for one in found] == sizes
    for one, image in zip(found, images, strict=True):
        assert np.array_equal(one.image, image)
        _assert_same(one, linear.predict(image, **options))


def _assert_same(one: clouds.Prediction, alone: clouds.Prediction) -> None:
    expected = alone.scores()
    tolerance = TOLERANCE * expected.max()
    np.testing.assert_allclose(one.scores(), expected, rtol=0, atol=tolerance)
    best = np.sort(expected, axis=0)
    clear = best[-1] - best[-2] > 2 * tolerance
    assert np.array_equal(one.labels[clear], alone.labels[clear])


def test_a_batch_of_masks_is_the_masks_alone(mask2former: clouds.Pipeline) -> None:
    """Within the tolerance where no rounding opens or closes attention: an image whose predictions hardly change when
    its pixels change by a rounding has no mask logit so near to 0."""
    images = list(islice(_stable_images(mask2former), 3))
    for one, image in zip(mask2former.predict_many(images, batch_size=3), images, strict=True):
        _assert_same(one, mask2former.predict(image))


def _stable_images(pipeline: clouds.Pipeline) -> Iterator[np.ndarray]:
    network = pipeline.as_module()
    for seed in count():
        image = random_image(64, 96, seed)
        batch = pipeline.pad([torch.from_numpy(image).permute(2, 0, 1)])
        with torch.inference_mode():
            (_, exact), *others = (network(batch * factor) for factor in (1, 1 - 1e-5, 1 + 1e-5))
        if all((masks - exact).abs().max() < 1e-3 * exact.abs().max() for _, masks in others):
            yield image


@pytest.mark.parametrize("head", ["linear", "mask2former"])
def test_one_by_one_is_predict_to_the_bit(head: str, request: pytest.FixtureRequest) -> None:
    pipeline = request.getfixturevalue(head)
    images = [random_image(40 + seed, 90 - seed, seed) for seed in range(3)]
    for one, image in zip(pipeline.predict_many(images, batch_size=1), images, strict=True):
        alone = pipeline.predict(image)
        assert np.array_equal(one.labels, alone.labels)
        assert np.array_equal(one.scores(), alone.scores())
        if pipeline.head.instances:
            assert len(one.instances().labels) == len(alone.instances().labels)


def test_images_of_one_padded_size_share_a_batch(linear: clouds.Pipeline, batches: list[list[tuple[int, ...]]]) -> None:
    sizes = [(40, 50), (33, 90), (64, 64), (33, 33), (60, 96), (64, 33)]
    assert len(list(linear.predict_many([random_image(*size) for size in sizes], batch_size=3))) == 6
    assert batches == [[(40, 50), (64, 64), (33, 33)], [(33, 90), (60, 96)], [(64, 33)]]


def test_sizes_count_after_resizing(linear: clouds.Pipeline, batches: list[list[tuple[int, ...]]]) -> None:
    images = [random_image(20, 30), random_image(64, 96)]
    list(linear.predict_many(images, batch_size=2, short_side=32))
    assert batches == [[(32, 48), (32, 48)]]


def test_an_image_in_windows_goes_alone_and_holds_nobody_up(
    linear: clouds.Pipeline, batches: list[list[tuple[int, ...]]]
) -> None:
    images = [random_image(60, 100), random_image(60, 60), random_image(60, 100), random_image(50, 50)]
    found = list(linear.predict_many(images, batch_size=2, window=64))
    assert batches == [[(60, 64)]] * 4 + [[(60, 60), (50, 50)]]
    assert [one.labels.shape for one in found] == [image.shape[:2] for image in images]
    with pytest.raises(DataError, match="was segmented in windows"):
        found[0].instances()


def test_an_endless_iterator_is_answered_as_it_comes(linear: clouds.Pipeline) -> None:
    """Of more sizes than fit into the batches that wait; 3 x batch_size images are held at most."""
    taken = 0

    def images() -> Iterator[np.ndarray]:
        nonlocal taken
        for height in cycle(range(10, 300, 32)):
            taken += 1
            yield np.zeros((height, 8, 3), np.uint8)

    predictions = linear.predict_many(images(), batch_size=2)
    for number, prediction in enumerate(islice(predictions, 25)):
        assert prediction.labels.shape == (10 + 32 * (number % 10), 8)
        assert taken <= number + 3 * 2
    predictions.close()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(["b.png", "a.JPG", "c.jpeg"]):
        Image.fromarray(random_image(20, 30 + number)).save(tmp_path / name)
    (tmp_path / ".d.png").write_text("unfinished", encoding="utf-8")
    (tmp_path / "deeper").mkdir()
    Image.fromarray(random_image(20, 33)).save(tmp_path / "deeper" / "e.png")
    return tmp_path


def test_what_is_no_picture_of_a_folder_is_said(linear: clouds.Pipeline, folder: Path) -> None:
    for number in range(6):
        (folder / f"{number}.txt").write_text("no picture", encoding="utf-8")
    with pytest.warns(LeftOutWarning, match=r": 6 files \(0\.txt, .*, 4\.txt, \.\.\.\): not read; pictures are "):
        predictions = list(linear.predict_many(folder))
    assert len(predictions) == 3


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (lambda folder: folder, ["a.JPG", "b.png", "c.jpeg"]),
        (lambda folder: f"{folder}/*.png", ["b.png"]),
        (lambda folder: f"{folder}/**/*.png", ["b.png", "deeper/e.png"]),
        (lambda folder: str(folder / "c.jpeg"), ["c.jpeg"]),
        (lambda folder: [folder / "c.jpeg", str(folder / "b.png")], ["c.jpeg", "b.png"]),
        (lambda folder: (folder / name for name in ("c.jpeg", "c.jpeg")), ["c.jpeg", "c.jpeg"]),
    ],
    ids=["folder", "glob", "deep glob", "file", "list", "iterator"],
)
def test_where_images_come_from(
    linear: clouds.Pipeline, folder: Path, images: Callable[[Path], Any], expected: list[str]
) -> None:
    found = list(linear.predict_many(images(folder)))
    assert [one.path for one in found] == [folder / name for name in expected]
    for one in found:
        assert one.path is not None
        assert np.array_equal(one.labels, linear.predict(one.path).labels)


def test_every_form_of_an_image_in_one_list(linear: clouds.Pipeline, folder: Path) -> None:
    pixels = random_image(20, 30)
    forms = [folder / "b.png", pixels, Image.fromarray(pixels), torch.tensor(pixels).permute(2, 0, 1)]
    found = list(linear.predict_many(forms, batch_size=1))
    assert [one.path for one in found] == [folder / "b.png", None, None, None]
    assert all(np.array_equal(one.labels, found[0].labels) for one in found)
    stacked = list(linear.predict_many(np.stack([pixels, pixels]), batch_size=1))
    assert all(np.array_equal(one.labels, found[0].labels) for one in stacked)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_an_image_that_cannot_be_read_ends_it_where_it_comes(
    linear: clouds.Pipeline, folder: Path, batch_size: int
) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    names = ["a.JPG", "b.png", "c.jpeg", "broken.png", "a.JPG"]
    predictions = linear.predict_many([folder / name for name in names], batch_size=batch_size)
    assert [one.path for one in islice(predictions, 3)] == [folder / name for name in names[:3]]
    with pytest.raises(DataError, match=r"broken\.png: not a picture that can be read"):
        next(predictions)


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (2, 3), (8, 2)])
def test_broken_images_are_reported_and_the_rest_is_done(
    linear: clouds.Pipeline, folder: Path, batch_size: int, workers: int
) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "cut.png").write_bytes((folder / "b.png").read_bytes()[:200])
    broken: list[tuple[Any, str]] = []
    found = linear.predict_many(
        folder,
        batch_size=batch_size,
        workers=workers,
        on_error=lambda image, error: broken.append((image, str(error))),
    )
    assert [one.path for one in found] == [folder / name for name in ("a.JPG", "b.png", "c.jpeg")]
    assert [image for image, _ in broken] == [folder / "broken.png", folder / "cut.png"]
    assert "broken.png: not a picture" in broken[0][1]
    assert "cut.png: cannot be read" in broken[1][1]


def test_a_dataset_spec_stands_for_its_images(linear: clouds.Pipeline, tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_png(tmp_path / "images" / "val" / f"{name}.png", random_image(20, 30))
    found = linear.predict_many(f"folder:{tmp_path}:val", workers=2)
    assert [one.path.name for one in found if one.path] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([], {"batch_size": 0}, "batch_size is 0; expected at least 1 image"),
        ([], {"workers": 0}, "workers is 0; expected at least 1 thread"),
        ([], {"short_side": 0}, "short_side is 0; expected at least 1 pixel"),
        ([], {"window": 0}, "window is 0; expected at least 1 pixel"),
        ("nowhere", {}, "nowhere: no such file or folder$"),
        ("nowhere/*.png", {}, r"nowhere/\*\.png: holds no picture; expected files that end in \.jpg, \.jpeg"),
        (
            "folder:nowhere:val",
            {},
            r"folder:nowhere:val: .*no folder nowhere/images",
        ),
        (random_image(4, 4), {}, r"expected several images, got one; pass \[image\], or call predict\(image\)"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), {}, "expected several images, got one"),
        (Image.new("RGB", (4, 4)), {}, "expected several images, got one"),
        (None, {}, "images: expected a folder, a glob pattern, a SPEC or images, got a NoneType"),
        (Endless(), {}, "got a Endless; for a torch Dataset, pass an iterator of its images"),
    ],
)
def test_wrong_use_is_said_at_once(
    linear: clouds.Pipeline, unchecked_types: None, images: Any, options: dict[str, int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        linear.predict_many(images, **options)


def test_an_empty_folder(linear: clouds.Pipeline, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no picture"):
        linear.predict_many(tmp_path)


def test_images_without_a_path_are_named_by_their_position(linear: clouds.Pipeline) -> None:
    images = [random_image(4, 4), np.zeros((4, 4), np.uint8)]
    with pytest.raises(DataError, match=r"image 1: expected a non-empty uint8 array .* got uint8 of shape \(4, 4\)"):
        list(linear.predict_many(images))
    deep = Image.fromarray(np.zeros((4, 4), np.uint16))
    with pytest.raises(DataError, match="image 0: has mode I;16"):
        list(linear.predict_many([deep]))


def test_an_untrained_head_warns_before_anything_is_read() -> None:
    pipeline = clouds.compose(backbone=TINY, head="linear", device="cpu")
    with pytest.warns(UntrainedHeadWarning, match="has not been trained"):
        pipeline.predict_many([Path("nowhere.png")])
