from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve, frozen
from PIL import Image

import clouds
from clouds import ConfigError, DataError, LabelSpace
from clouds.core.system.images import short_side_size
from clouds.data.folder import Dataset, open_dataset
from clouds.evaluation.analysis import Pixels, Regions
from clouds.evaluation.calibration import Calibration, confidence, count_confidences
from clouds.evaluation.evaluate import evaluate

LABELS = LabelSpace.from_names(["road", "car", "sky"], name="toy")


@frozen
class Answer:
    labels: np.ndarray

    def scores(self) -> np.ndarray:
        raise AssertionError("one view needs labels alone")


class RedChannel:
    """Predicts what a picture's red channel says."""

    labels = LABELS

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def predict_many(
        self, images: Iterable[np.ndarray], *, batch_size: int = 8, short_side: int | None = None, window: int = 2048
    ) -> Iterator[Answer]:
        assert (batch_size, short_side, window) == (1, None, 2048)
        for image in images:
            self.sizes.append((image.shape[0], image.shape[1]))
            yield Answer(labels=image[..., 0])


def _dataset(
    root: Path, pairs: list[tuple[np.ndarray, np.ndarray]], *, split: str = "val", config: str | None = None
) -> str:
    for index, (prediction, truth) in enumerate(pairs):
        for part, pixels in (("images", np.stack([prediction] * 3, axis=-1)), ("labels", truth)):
            path = root / part / split / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    if config:
        (root / "dataset.toml").write_text(config, encoding="utf-8")
    return f"folder:{root}"


def _map(*values: int) -> np.ndarray:
    return np.array([values], np.uint8)


def test_domains_are_scored_apart(tmp_path: Path) -> None:
    day = _dataset(tmp_path / "day", [(_map(0, 1), _map(0, 1)), (_map(2, 2), _map(2, 255))])
    night = _dataset(tmp_path / "night", [(_map(0, 0), _map(0, 1))])
    report = evaluate(RedChannel(), [day, night])
    assert report.per_domain == {"day:val": 100.0, "night:val": 25.0}
    assert report.miou == 62.5
    assert report.protocol == "native"
    assert report.domains["night:val"].iou == {"road": 50.0, "car": 0.0, "sky": None}
    assert report.domains["night:val"].confusion == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert report.domains["night:val"].accuracy == {"road": 100.0, "car": 0.0, "sky": None}
    # One row of pixels is contour from end to end.
    assert report.domains["night:val"].boundary_iou == {"road": 50.0, "car": 0.0, "sky": None}
    assert [result.images for result in report.domains.values()] == [2, 1]


def test_val_is_the_default_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        spec = _dataset(tmp_path / "day", [(_map(0), _map(0))], split=split)
    assert list(evaluate(RedChannel(), [spec]).domains) == ["day:val"]


def test_fold_applies_to_predictions_only(tmp_path: Path) -> None:
    config = '[fold]\ncar = "road"\nsky = "ignore"\n'
    spec = _dataset(tmp_path / "day", [(_map(0, 1, 2, 1), _map(0, 0, 0, 1))], config=config)
    result = evaluate(RedChannel(), [spec]).domains["day:val"]
    assert result.confusion == [[2, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert result.boundary_iou == {"road": 50.0, "car": 0.0, "sky": None}


def test_configs_for_all_and_by_spec(tmp_path: Path) -> None:
    specs = [_dataset(tmp_path / name, [(_map(0, 1), _map(0, 0))]) for name in ("day", "night")]
    config = tmp_path / "fold.toml"
    config.write_text('[fold]\ncar = "road"\n', encoding="utf-8")
    assert evaluate(RedChannel(), specs, configs=config).per_domain == {"day:val": 100.0, "night:val": 100.0}
    by_spec = evaluate(RedChannel(), specs, configs={specs[1]: config})
    assert by_spec.per_domain == {"day:val": 50.0, "night:val": 100.0}


def test_published_protocol_scores_at_a_short_side_of_1024(tmp_path: Path) -> None:
    values = np.array([[0, 0, 2], [0, 0, 2]], np.uint8)
    spec = _dataset(tmp_path / "day", [(values, values)])
    pipeline = RedChannel()
    report = evaluate(pipeline, [spec], protocol="published")
    assert pipeline.sizes == [(1024, 1536)]
    assert report.protocol == "published"
    counts = np.array(report.domains["day:val"].confusion)
    assert counts.sum(axis=1).tolist() == [1024 * 1024, 0, 1024 * 512], "labels are never mixed"
    # Between pixel centres, 512 columns apart, the image rises from 0 to 2 and rounds to 1 in half of them; a centre
    # on the limit may round either way at both ends.
    assert abs(counts[:, 1].sum() / 1024 - 256) <= 2


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1052, 1914), (1024, 1863)), ((1241, 1000), (1271, 1024)), ((1, 1), (1024, 1024)), ((2048, 1024), (2048, 1024))],
)
def test_short_side_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert short_side_size(*size, 1024) == expected


@pytest.mark.parametrize("shape", [(1, 100_000), (100_000, 1)])
def test_a_published_size_that_is_too_large_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    """A line of 100,000 pixels would become 105 thousand million, of 0.3 TB."""
    spec = _dataset(tmp_path / "day", [(np.zeros(shape), np.zeros(shape))])
    monkeypatch.setattr(Image.Image, "resize", None)
    message = rf"0\.png: {shape[0]} x {shape[1]} pixels .* a short side of 1024 become .*102400000.*or protocol native"
    with pytest.raises(DataError, match=message):
        evaluate(RedChannel(), [spec], protocol="published")
    assert evaluate(RedChannel(), [spec], protocol="native").miou == 100


def test_the_limit_of_a_dataset_holds_for_published_sizes(tmp_path: Path) -> None:
    line, pixels = np.zeros((1, 4)), 1024 * 4096
    spec = _dataset(tmp_path / "day", [(line, line)], config=f"max_pixels = {pixels}")
    assert evaluate(RedChannel(), [spec], protocol="published").miou == 100
    (tmp_path / "day" / "dataset.toml").write_text(f"max_pixels = {pixels - 1}", encoding="utf-8")
    with pytest.raises(DataError, match=rf"more than {pixels - 1}; .* allow for it: max_pixels={pixels} \("):
        evaluate(RedChannel(), [spec], protocol="published")


def test_open_datasets_and_empty_ones(tmp_path: Path) -> None:
    dataset = open_dataset(_dataset(tmp_path / "day", [(_map(0), _map(0))]), LABELS)
    empty = evolve(dataset, name="empty", items=[])
    report = evaluate(RedChannel(), [dataset, empty])
    assert report.per_domain == {"day:val": 100.0, "empty": None}
    assert report.miou == 100.0
    assert report.domains["empty"].images == 0


def test_two_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    specs = [_dataset(tmp_path / place / "day", [(_map(0), _map(0))]) for place in "ab"]
    assert list(evaluate(RedChannel(), specs).domains) == ["day:val", specs[1]]


def test_no_progress_bar_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(RedChannel(), [_dataset(tmp_path / "day", [(_map(0), _map(0))])], progress=True)
    assert capsys.readouterr() == ("", "")


@pytest.fixture(scope="module")
def pipeline() -> clouds.Pipeline:
    tiny = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    made = clouds.compose(backbone=tiny, head={"name": "linear", "width": 16}, device="cpu", labels=LABELS)
    made.trained = True
    return made


def _photographs(root: Path, count: int) -> str:
    """Images of two padded sizes, with labels."""
    rng = np.random.default_rng(0)
    for index in range(count):
        size = (40, 50 + 20 * (index % 2))
        for part, pixels in (("images", rng.integers(0, 256, (*size, 3))), ("labels", rng.integers(0, 3, size))):
            (root / part / "val").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(root / part / "val" / f"{index}.png")
    return f"folder:{root}"


@pytest.mark.parametrize("batch_size", [1, 2])
def test_few_files_are_read_ahead(
    tmp_path: Path, pipeline: clouds.Pipeline, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    """One by one, the next file is read while the model works; in batches at most 3 x batch_size images are held."""
    dataset, begun, predicted = open_dataset(_photographs(tmp_path, 6), LABELS), list[int](), list[int]()
    forward = pipeline.forward

    class Watched(Dataset):
        def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            begun.append(index)
            return dataset.read(index)

    def watch(images: list[Any]) -> Any:
        assert len(begun) <= len(predicted) + (2 if batch_size == 1 else 3 * batch_size)
        predicted.extend(range(len(predicted), len(predicted) + len(images)))
        return forward(images)

    monkeypatch.setattr(pipeline, "forward", watch)
    watched = Watched(**{name: getattr(dataset, name) for name in ("name", "spec", "items", "label_space", "encoding")})
    evaluate(pipeline, [watched], batch_size=batch_size)
    assert begun == predicted == list(range(6))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_report_is_that_of_images_predicted_alone(
    tmp_path: Path, pipeline: clouds.Pipeline, batch_size: int
) -> None:
    """One by one to the bit. A batch sums in another order, which changes scores by at most 2e-5 (`test_predict_many`),
    and so may change labels where the two best scores are nearer than twice that."""
    dataset = open_dataset(_photographs(tmp_path, 6), LABELS)
    expected, unclear = np.zeros((3, 4), np.int64), 0
    for index in range(len(dataset)):
        image, truth = dataset.read(index)
        prediction = pipeline.predict(image)
        np.add.at(expected, (truth, prediction.labels), 1)
        *_, second, best = np.sort(prediction.scores(), axis=0)
        unclear += int((best - second < 4e-5).sum())
    assert unclear < 100
    found = evaluate(pipeline, [dataset], batch_size=batch_size).domains[dataset.name].confusion
    assert np.abs(np.array(found) - expected).sum() <= (0 if batch_size == 1 else 2 * unclear)


def test_batches_of_views(tmp_path: Path, pipeline: clouds.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image and its mirror image share a batch."""
    spec, seen, forward = _photographs(tmp_path, 2), list[int](), pipeline.forward

    def watch(images: list[Any]) -> Any:
        seen.append(len(images))
        return forward(images)

    monkeypatch.setattr(pipeline, "forward", watch)
    together = evaluate(pipeline, [spec], flip=True, scales=(0.5, 1.0), batch_size=2)
    assert seen == [2] * 4
    seen.clear()
    alone = evaluate(pipeline, [spec], flip=True, scales=(0.5, 1.0))
    assert seen == [1] * 8
    assert together.miou == pytest.approx(alone.miou, abs=0.1)


def test_a_faulty_file_ends_the_evaluation_where_it_comes(tmp_path: Path) -> None:
    spec = _dataset(tmp_path / "day", [(_map(0), _map(0)), (_map(0), _map(9)), (_map(0), _map(0))])
    pipeline = RedChannel()
    with pytest.raises(DataError, match=r"labels/val/1\.png"):
        evaluate(pipeline, [spec])
    assert len(pipeline.sizes) == 1, "in order: what came before it was evaluated, what comes after it was not"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda spec: evaluate(RedChannel(), [spec], scales=[]), r"scales: expected different positive numbers"),
        (lambda spec: evaluate(RedChannel(), [spec], batch_size=0), "batch_size is 0; expected at least 1 image"),
        (lambda spec: evaluate(RedChannel(), [spec], window=0), "window is 0; expected at least 1 pixel"),
        (
            lambda spec: evaluate(RedChannel(), [spec], protocol="publishd"),
            "protocol 'publishd'; did you mean 'published'",
        ),
        (
            lambda spec: evaluate(RedChannel(), spec),
            r"expected a list of dataset specs, got 'folder.*write \[SPEC, ...\]",
        ),
        (lambda spec: evaluate(RedChannel(), []), r"expected a list of dataset specs, got \[\]"),
        (lambda spec: evaluate(RedChannel(), [spec, f"{spec}:val"]), r"dataset 'day:val' is listed twice"),
        (
            lambda spec: evaluate(RedChannel(), [open_dataset(spec, LABELS)] * 2),
            r"dataset 'day:val' is listed twice; list it once, or rename one",
        ),
        (
            lambda spec: evaluate(RedChannel(), [spec], configs={spec + "x": Path("a.toml")}),
            r"configs: 'folder:.*x' is not among the datasets; did you mean 'folder",
        ),
        (
            lambda spec: evaluate(RedChannel(), [open_dataset(spec, LabelSpace.from_names(["road"], name="other"))]),
            r"day:val: has label space 'other', but the pipeline predicts 'toy'; open it with label_space=pipel",
        ),
    ],
)
def test_wrong_use(tmp_path: Path, call: Callable[[str], object], message: str) -> None:
    spec = _dataset(tmp_path / "day", [(_map(0), _map(0))])
    with pytest.raises(ConfigError, match=message):
        call(spec)


def test_impossible_prediction_names_the_image(tmp_path: Path) -> None:
    spec = _dataset(tmp_path / "day", [(_map(0, 7), _map(0, 0))])
    with pytest.raises(DataError, match=r"images/val/0\.png: prediction has train ids \[7\]"):
        evaluate(RedChannel(), [spec])


def test_faulty_label_names_the_file(tmp_path: Path) -> None:
    spec = _dataset(tmp_path / "day", [(_map(0, 0), _map(0, 9))])
    with pytest.raises(DataError, match=r"labels/val/0\.png: label values 9"):
        evaluate(RedChannel(), [spec])


def test_what_is_measured_besides(tmp_path: Path) -> None:
    pairs = [(_map(0, 1), _map(0, 1)), (_map(2, 2), _map(1, 255)), (_map(0, 0), _map(0, 1))]
    spec = _dataset(tmp_path / "day", pairs)
    plain, report = evaluate(RedChannel(), [spec]), evaluate(RedChannel(), [spec], analysis=True)
    result = report.domains["day:val"]
    assert result.per_image == {"0": 100.0, "1": 0.0, "2": 25.0}
    assert plain.domains["day:val"] == evolve(result, analysis=None)
    assert result.calibration is None
    assert result.analysis is not None
    assert result.analysis.all_sizes()["10 % and more"] == Regions(labelled=5, correct=3, regions=5)
    assert result.analysis.bands["1"] == Pixels(labelled=5, correct=3)
    assert [(one.name, one.why) for one in report.examples["day:val"]] == [
        ("1", "worst"),
        ("2", "worst"),
        ("0", "best"),
    ]
    first = report.examples["day:val"][0]
    assert (first.truth.tolist(), first.predictions["prediction"].tolist()) == ([[1, 255]], [[2, 2]])
    assert clouds.Report.from_json(report.to_json()) == report
    assert "analysis" not in plain.to_json()


def test_examples_are_folded(tmp_path: Path) -> None:
    config = '[fold]\ncar = "road"\n'
    spec = _dataset(tmp_path / "day", [(_map(1, 1), _map(0, 0))], config=config)
    (example,) = evaluate(RedChannel(), [spec], analysis=True).examples["day:val"]
    assert example.scores == {"prediction": 100.0}
    assert example.predictions["prediction"].tolist() == [[0, 0]]


@pytest.mark.parametrize("settings", [{}, {"flip": True}, {"protocol": "slide-512-341"}])
def test_calibration_is_that_of_the_scores(tmp_path: Path, pipeline: clouds.Pipeline, settings: dict[str, Any]) -> None:
    dataset = open_dataset(_photographs(tmp_path, 3), LABELS)
    plain = evaluate(pipeline, [dataset], **settings).domains[dataset.name]
    result = evaluate(pipeline, [dataset], calibration=True, **settings).domains[dataset.name]
    assert evolve(result, calibration=None) == plain
    assert result.calibration is not None
    assert sum(one.pixels for one in result.calibration.bins) == np.sum(plain.confusion)
    if settings:
        return
    counts = np.zeros((15, 3))
    for index in range(3):
        image, truth = dataset.read(index)
        prediction = pipeline.predict(image)
        counts += count_confidences(confidence(prediction.scores()), prediction.labels == truth, truth != 255)
    assert result.calibration == Calibration.from_counts(counts)
