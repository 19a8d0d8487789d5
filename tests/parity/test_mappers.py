"""Golden set 15: whole training samples and evaluation inputs of the published code, and its learning rates."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve, frozen
from golden import load, read_json
from published_draws import LARGEST, MEAN, assert_same_colours, same_draws, to_distortion

from clouds.core.contract.labels import CITYSCAPES, LabelSpace
from clouds.core.system.images import write_png
from clouds.data import transforms
from clouds.data.transforms import Augmentation, augment, generated_views
from clouds.evaluation.evaluate import evaluate
from clouds.training.optimizer import build_schedule
from clouds.training.recipe import load_recipe

SETTINGS = load_recipe("gta-convnext-l").data.augmentation()
LABELLED, GENERATED = (0, 1, 2), (3, 4)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return load("15_mappers")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return read_json("15_mappers_lr")


def _inputs(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        arrays["in_img_blocks"].repeat(20, axis=0).repeat(20, axis=1),
        arrays["in_label_stride10"].repeat(10, axis=0).repeat(10, axis=1),
        arrays["in_gen_blocks"].repeat(64, axis=0).repeat(64, axis=1),
    )


def _replay(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> np.random.Generator:
    distortion = to_distortion(call[-1] for call in case["color_draws"])
    monkeypatch.setattr(transforms, "draw_distortion", lambda rng: distortion)
    return same_draws(case["np_seed"])


def _assert_published(made: np.ndarray, arrays: dict[str, np.ndarray], name: str) -> None:
    assert_same_colours(made[::8, ::8].transpose(2, 0, 1), arrays[f"{name}_stride8"])
    mean, deviation, largest = arrays[f"{name}_stats"]
    assert abs(made.mean() - mean) <= MEAN
    assert abs(made.std() - deviation) <= MEAN
    assert abs(int(made.max()) - largest) <= LARGEST


@pytest.mark.parametrize("index", LABELLED)
def test_labelled_samples(
    arrays: dict[str, np.ndarray], document: dict[str, Any], monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    case, (image, label, _) = document["train"][index], _inputs(arrays)
    view, target = augment(image, label, _replay(case, monkeypatch), SETTINGS)
    _assert_published(view, arrays, f"train{index}_img")
    assert np.array_equal(target[::8, ::8], arrays[f"train{index}_seg_stride8"])
    assert np.bincount(target.ravel(), minlength=256)[case["gt_classes"]].tolist() == case["areas"]


def test_sound_labelled_samples_have_other_label_borders(
    arrays: dict[str, np.ndarray], document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, (image, label, _) = document["train"][2], _inputs(arrays)
    _, target = augment(image, label, _replay(case, monkeypatch), Augmentation(crop=(768, 768)))
    areas = np.bincount(target.ravel(), minlength=256)[case["gt_classes"]]
    # Half a pixel along the borders of blocks of 12.4 x 12.4 pixels changes less than a tenth of them.
    assert 0 < np.abs(areas - case["areas"]).sum() < 0.1 * sum(case["areas"])


@pytest.mark.parametrize("index", GENERATED)
@pytest.mark.parametrize("settings", [SETTINGS, Augmentation(crop=(768, 768))], ids=["published", "sound"])
def test_generated_samples(
    arrays: dict[str, np.ndarray],
    document: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    index: int,
    settings: Augmentation,
) -> None:
    """At the published size both settings do the same."""
    case, (_, _, generated) = document["train"][index], _inputs(arrays)
    clean, distorted = generated_views(generated, _replay(case, monkeypatch), settings)
    assert np.array_equal(clean[::8, ::8].transpose(2, 0, 1), arrays[f"train{index}_img_stride8"])
    _assert_published(distorted, arrays, f"train{index}_img_aug")


@frozen
class _Recorder:
    """A predictor that keeps what it is shown."""

    seen: list[np.ndarray]
    labels: LabelSpace = CITYSCAPES

    def predict_many(
        self, images: Iterable[np.ndarray], *, batch_size: int = 8, short_side: int | None = None, window: int = 2048
    ) -> Iterator["_Answer"]:
        for image in images:
            self.seen.append(image)
            yield _Answer(np.zeros(image.shape[:2], np.uint8))


@frozen
class _Answer:
    labels: np.ndarray

    def scores(self) -> np.ndarray:
        raise AssertionError("labels are enough")


def test_evaluation_inputs(arrays: dict[str, np.ndarray], document: dict[str, Any], tmp_path: Path) -> None:
    image, label, _ = _inputs(arrays)
    write_png(tmp_path / "images" / "val" / "a.png", image)
    write_png(tmp_path / "labels" / "val" / "a.png", label)
    recorder, published = _Recorder([]), document["test"]
    report = evaluate(recorder, [f"folder:{tmp_path}"], protocol="published")
    (seen,) = recorder.seen
    assert np.array_equal(seen[::64, ::64].transpose(2, 0, 1), arrays["test_img_stride64"])
    assert [seen.mean(), seen.std(), seen.max()] == pytest.approx(published["stats"])
    (domain,) = report.domains.values()
    assert [sum(row) for row in domain.confusion] == published["bincount"]


def _recipe_name(config: str) -> str:
    return f"{config.split('/')[2]}-convnext-l"


def test_learning_rates(document: dict[str, Any]) -> None:
    assert len(document["lr"]) == 6
    for config, published in document["lr"].items():
        recipe = load_recipe(_recipe_name(config))
        phase = recipe.warmup if "/warmup/" in config else recipe.joint
        assert phase.steps == published["max_iter"]
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=recipe.optimizer.lr)
        factor = build_schedule(optimizer, recipe.optimizer, steps=phase.steps).lr_lambdas[0]
        for step, rate in published["lr_used_at_iteration"].items():
            # Both are the base rate times a power in float64; the last digit may differ.
            assert recipe.optimizer.lr * factor(int(step)) == pytest.approx(rate, rel=1e-12)


def test_a_constant_rate_is_not_the_poly_one(document: dict[str, Any]) -> None:
    rates = document["lr"]["configs/warmup/synthia/train_syn.yaml"]["lr_used_at_iteration"]
    config = evolve(load_recipe("synthia-convnext-l").optimizer, schedule="constant")
    factor = build_schedule(torch.optim.SGD([torch.zeros(1)], lr=config.lr), config, steps=30000).lr_lambdas[0]
    assert config.lr * factor(15000) != pytest.approx(rates["15000"], rel=0.1)
