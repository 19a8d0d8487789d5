"""What the refinement benchmark counts, on label maps made by hand; no teacher is trained."""

from pathlib import Path

import numpy as np
import pytest

import clouds
from benchmarks import refinement
from benchmarks.relabel import Picture, mean_score, methods, vote
from benchmarks.rows import row
from benchmarks.table import refinement_table
from clouds.core.system.images import write_png


def halves() -> tuple[np.ndarray, np.ndarray]:
    """A dark and a light half, and their labels 0 and 2."""
    truth = np.zeros((40, 40), np.uint8)
    truth[:, 20:] = 2
    return np.repeat(truth[..., None] * 100, 3, axis=2), truth


def picture(labels: np.ndarray, image: np.ndarray) -> Picture:
    scores = (labels == np.arange(3)[:, None, None]).astype(np.float32)
    return Picture(image=image, labels=labels, scores=scores)


def by_columns(image: np.ndarray) -> np.ndarray:
    """Two regions: the left and the right half."""
    return (np.arange(image.shape[1]) >= image.shape[1] // 2).astype(int) * np.ones(image.shape[:2], int)


def test_metrics_are_those_of_a_label_map_with_one_wrong_column() -> None:
    _, truth = halves()
    wrong = truth.copy()
    wrong[:, 20] = 0
    counts = refinement.Counts(["road", "sidewalk", "building"])
    counts.add(wrong, truth, 0.5)
    metrics = counts.metrics()
    assert metrics["right pixels"] == pytest.approx(100 * 39 / 40)
    assert counts.classes() == {"road": 95.24, "building": 95.0}
    assert metrics["mIoU"] == pytest.approx(100 * (20 / 21 + 19 / 20) / 2)
    assert metrics["right within 4 px of an edge"] == pytest.approx(100 * 9 / 10)  # 5 columns on each side of the edge
    assert metrics["ignored"] == 0


@pytest.mark.parametrize("way", [mean_score, lambda one, segment: vote(one, segment=segment, agreement=0.6)])
def test_regions_outvote_a_wrong_column(way) -> None:
    image, truth = halves()
    wrong = truth.copy()
    wrong[:, 20] = 0
    assert (way(picture(wrong, image), segment=by_columns) == truth).all()


def test_a_region_without_agreement_keeps_its_labels() -> None:
    image, truth = halves()
    mixed = picture(truth.T.copy(), image)  # each region has half of either label
    assert (vote(mixed, segment=by_columns, agreement=0.6) == truth.T).all()


def test_every_method_keeps_right_labels() -> None:
    image, truth = halves()
    found = methods()
    assert {"identity", "regions", "guided"} <= set(found)
    for name, method in found.items():
        assert (method(picture(truth, image)) == truth).all(), name


def test_pictures_that_chose_options_are_not_measured() -> None:
    chose = np.linspace(0, 366, 100).round()[::5]
    measured = refinement.measured_places(367, 100)
    assert len(measured) == 40
    assert not set(measured) & set(chose.tolist())


def test_rows_of_a_teacher_that_exists(tmp_path: Path) -> None:
    image, truth = halves()
    for number in range(6):
        write_png(tmp_path / "data" / "camvid" / "images" / "train" / f"{number}.png", image)
        write_png(tmp_path / "data" / "camvid" / "labels" / "train" / f"{number}.png", truth)
    pipeline = clouds.compose(backbone="tiny", head="linear", device="cpu")
    pipeline.trained = True
    pipeline.save(tmp_path / "out" / "seed-3" / "warmup")
    rows = refinement.run(tmp_path / "data", tmp_path / "out", 3, spaced=6)
    assert {(one["seed"], one["pictures"]) for one in rows} == {(3, 2)}
    found = {(one["provider"], one["metric"]): one for one in rows}
    assert found["guided", "time per picture"]["repeats"] == 2
    mean = found["identity", "mIoU"]
    assert mean["p50"] == pytest.approx(np.mean(list(mean["classes"].values())), abs=0.01)  # classes have two decimals


def test_the_table_has_means_over_seeds_and_gains() -> None:
    def rows(provider: str, seed: int, miou: float, road: float) -> list[dict[str, object]]:
        facts = {"seed": seed, "pictures": 4}
        return [
            row("refinement", provider, "mIoU", "%", [miou], **facts, classes={"road": road}),
            row("refinement", provider, "ignored", "%", [0.5], **facts),
            row("refinement", provider, "time per picture", "CPU s", [0.1], **facts),
        ]

    measured = rows("identity", 0, 30, 80) + rows("guided", 0, 32, 81) + rows("identity", 1, 34, 84)
    measured += rows("guided", 1, 34, 86) + rows("regions", 1, 37, 85)
    lines = refinement_table(measured).splitlines()
    assert lines[0] == "| refiner | seeds | mIoU, % | ignored, % | time per picture, CPU s |"
    assert lines[2:4] == ["| identity | 2 | 32.0 | 0.5 | 0.1 |", "| guided | 2 | 33.0 (+1.0) | 0.5 | 0.1 |"]
    assert lines[4] == "| regions | 1 | 37.0 (+3.0) | 0.5 | 0.1 |"  # compared with the same seed alone
    assert lines[-3:] == ["| identity | 82.0 |", "| guided | 83.5 |", "| regions | 85.0 |"]
    assert refinement_table([]) == "not measured"
