"""The feature distance of DAFormer: its formula, what it refers to, and runs with it."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import evolve
from test_steps import make_state, sample
from training_helpers import TINY, assert_same, compose, recipe, weights

import clouds
from clouds.core.contract.records import Targets
from clouds.core.system.errors import ConfigError
from clouds.training.feature_distance import FeatureDistance
from clouds.training.interrupt import TrainingInterrupted
from clouds.training.learner import Learner
from clouds.training.start import recipe_plan
from clouds.training.steps import train_step
from clouds.training.teacher import Teacher
from clouds.training.train import train

THINGS = range(11, 19)
SIZE = (96, 128)


def _label_maps() -> np.ndarray:
    """Blocks of 16 pixels with things, stuff and ignored pixels; cells of 32 with a share of 0.75 and less occur."""
    rng = np.random.default_rng(0)
    blocks = rng.choice(np.array([0, 11, 13, 255], np.uint8), (2, 6, 8), p=[0.15, 0.6, 0.1, 0.15])
    return blocks.repeat(16, 1).repeat(16, 2)


def _images(count: int = 2) -> list[torch.Tensor]:
    rng = np.random.default_rng(1)
    return [torch.from_numpy(rng.integers(0, 256, (3, *SIZE), np.uint8)) for _ in range(count)]


def _published(student: np.ndarray, reference: np.ndarray, label_maps: np.ndarray, weight: float) -> float:
    """DAFormer's `calc_feat_dist`, in numpy: labels with a majority of 0.75 in a cell, then a masked mean of norms."""
    distances: list[float] = []
    for features, wanted, label_map in zip(student, reference, label_maps, strict=True):
        for row, column in np.ndindex(*features.shape[1:]):
            cell = label_map[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
            classes, counts = np.unique(cell, return_counts=True)
            best = counts.argmax()
            if classes[best] in THINGS and counts[best] / cell.size >= 0.75:
                difference = features[:, row, column] - wanted[:, row, column]
                distances.append(float(np.sqrt((difference**2).sum())))
    assert 2 < len(distances) < label_maps.size // 1024
    return weight * sum(distances) / len(distances)


def _moved(pipeline: clouds.Pipeline, *, by: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in (pipeline.backbone, pipeline.adapter):
            for parameter in () if part is None else part.parameters():
                if parameter.requires_grad:
                    parameter += by * torch.randn(parameter.shape, generator=generator)


def _loss(pipeline: clouds.Pipeline, term: FeatureDistance, targets: list[Targets]) -> torch.Tensor:
    rngs = clouds.core.contract.interfaces.ImageGenerators(range(len(targets)))
    return Learner(pipeline, {"feature-distance": term})(_images(len(targets)), targets, rngs)["feature-distance"]


def _targets() -> list[Targets]:
    return [Targets.from_label_map(torch.from_numpy(one)) for one in _label_maps()]


@pytest.mark.parametrize("adapter", [None, "lora"])
def test_it_is_the_published_formula(adapter: str | None) -> None:
    parts = {"head": "linear", "adapter": adapter, "device": "cpu"}
    pipeline = clouds.compose(backbone={**TINY, "trainable": adapter is None}, **parts)
    images = pipeline.pad(_images())
    with torch.no_grad():
        before = pipeline.segmenter.features(images).res5.numpy().copy()
    term = FeatureDistance(pipeline, weight=0.5)
    _moved(pipeline, by=0.05 if adapter is None else 1.0)
    with torch.no_grad():
        after = pipeline.segmenter.features(images).res5.numpy()
    expected = _published(after, before, _label_maps(), 0.5)
    assert expected > 0.001
    # sums of 32 squares and 24 norms in float32: below 100 roundings of 6e-8
    assert _loss(pipeline, term, _targets()).item() == pytest.approx(expected, rel=1e-5)


def test_it_starts_at_nothing_with_a_finite_gradient() -> None:
    pipeline = compose()
    loss = _loss(pipeline, FeatureDistance(pipeline), _targets())
    loss.backward()
    assert loss.item() == 0
    assert all((one.grad == 0).all() for one in pipeline.backbone.parameters() if one.grad is not None)


def test_each_cells_distance_has_the_weight_of_its_image() -> None:
    pipeline = compose()
    term = FeatureDistance(pipeline)
    _moved(pipeline)
    targets = _targets()
    alone = [_loss(pipeline, term, [one, evolve(two, pseudo=True)]).item() for one, two in [targets]]
    cells = [term.items(one) for one in targets]
    both = _loss(pipeline, term, targets).item()
    half = _loss(pipeline, term, [targets[0], evolve(targets[1], weight=0.5)]).item()
    first = alone[0] * cells[0] / sum(cells)
    assert half == pytest.approx(first + 0.5 * (both - first), rel=1e-5)


def test_pseudo_labels_stuff_and_padding_have_no_cells() -> None:
    pipeline = compose()
    term = FeatureDistance(pipeline, classes=("car",))
    _moved(pipeline)
    car, road = (torch.full((64, 64), value, dtype=torch.uint8) for value in (13, 0))
    assert term.items(Targets.from_label_map(car)) == 4
    assert term.items(Targets.from_label_map(road)) == 0
    assert term.items(Targets.from_label_map(torch.full_like(car, 255))) == 0
    assert term.items(evolve(Targets.from_label_map(car), pseudo=True)) == 0
    halves = torch.full((64, 64), 256 + 13)
    halves[:, torch.arange(64) % 32 < 16] += 256  # in each cell two cars, of which none has 3/4
    assert term.items(Targets.from_label_map(halves)) == 4
    ignored = evolve(Targets.from_label_map(car), valid=torch.zeros((64, 64), dtype=torch.bool))
    assert term.items(ignored) == 0
    assert _loss(pipeline, term, [evolve(one, pseudo=True) for one in _targets()]).item() == 0


def test_a_head_that_sees_half_the_resolution_repeats_its_distances() -> None:
    pipeline = compose(head={"name": "linear", "width": 8, "detail": 32})
    pipeline.head.train()
    term = FeatureDistance(pipeline, ratio=0.01)
    _moved(pipeline)
    seen: list[torch.Tensor] = []
    hook = term.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].images))
    targets = [Targets.from_label_map(torch.full(SIZE, 13, dtype=torch.uint8))]
    loss = _loss(pipeline, term, targets)
    hook.remove()
    assert seen[0].shape[-2:] < SIZE
    with torch.no_grad():
        features = [part(seen[0]).res5 for part in (pipeline.backbone, term.copy)]
    distance = (features[0] - features[1]).norm(dim=1)[0]
    rows, columns = (torch.arange(side // 32) * distance.shape[axis] // (side // 32) for axis, side in enumerate(SIZE))
    assert loss.item() == pytest.approx(0.005 * distance[rows][:, columns].mean().item(), rel=1e-5)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_step_in_parts_equals_a_whole_one(parts: int) -> None:
    """Images have different numbers of cells, and one has none."""
    state = make_state(refiner="identity")
    term = FeatureDistance(state.pipeline, weight=1.0)
    _moved(state.pipeline)
    state.teacher = Teacher(state.pipeline, decay=0.5)
    state.terms, state.accumulate = {"feature-distance": term}, parts
    state.learner = Learner(state.pipeline, state.terms)
    maps = torch.from_numpy(_label_maps())
    batch = [evolve(sample(0, generated=True), position=0)]
    for index, label_map in enumerate([maps[0, :32, :64], maps[1, :32, :64], maps[0, 32:64, 64:]]):
        batch.append(evolve(sample(index + 1, generated=False), label_map=label_map))
    counts = [term.items(Targets.from_label_map(one.label_map)) for one in batch if one.label_map is not None]
    assert len(set(counts)) > 1
    with torch.no_grad():
        images = state.pipeline.pad([one.image for one in batch[1:]])
        distance = (state.pipeline.backbone(images).res5 - term.copy(images).res5).norm(dim=1)
    cells = torch.stack([term.cells(Targets.from_label_map(one.label_map)) for one in batch[1:]])
    assert train_step(state, batch)["feature-distance"] == pytest.approx(distance[cells].mean().item(), rel=1e-5)


TERM = 'loss.terms=[{name="feature-distance", weight=0.1, ratio=0.5, classes=["sky"]}]'


def test_a_run_resumes_bitwise_also_from_a_model_with_other_weights(
    source: str, generated: Path, tmp_path: Path
) -> None:
    """The reference is part of the checkpoint."""
    settings = recipe(
        TERM,
        "data.class_mix=true",
        "teacher.weight_threshold=0.08",
        "data.source_weights=[0.5]",
        f"data.source={source}",
    )
    whole = compose()
    expected = train(whole, generated=generated, recipe=settings, out=tmp_path / "whole")
    seen: list[float] = []

    def stop(name: str, now: int, steps: int, numbers: dict[str, float]) -> None:
        seen.append(numbers["feature-distance"])
        if (name, now) == ("joint", 2):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingInterrupted, match="stopped after step 2 of joint"):
        train(compose(), generated=generated, recipe=settings, out=tmp_path / "run", on_step=stop)
    other = compose()
    _moved(other)
    run = train(other, resume=tmp_path / "run")
    assert_same(weights(whole), weights(other))
    assert run.loss == expected.loss
    assert seen[0] == 0 < min(seen[1:4])  # a warm-up of four steps; a batch of generated images has no cells


def test_an_adapter_has_no_copy_in_the_checkpoint(source: str, tmp_path: Path) -> None:
    pipeline = clouds.compose(backbone={**TINY, "trainable": False}, head="linear", adapter="lora", device="cpu")
    train(pipeline, recipe=recipe(TERM, f"data.source={source}"), out=tmp_path / "run")
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert sorted(saved["modules"]) == ["adapter", "head"]


def test_a_frozen_backbone_has_no_distance(source: str, tmp_path: Path) -> None:
    message = "loss.terms: feature-distance: the backbone tiny is frozen and has no adapter, so its features never"
    for more in ([], ["model.adapter=none"]):
        with pytest.raises(ConfigError, match=message):
            recipe_plan(recipe("model.backbone=tiny", TERM, *more), "mine", None)
    recipe_plan(recipe("model.backbone=tiny", "model.adapter=lora", TERM), "mine", None)
    pipeline = clouds.compose(backbone="tiny", head="linear", device="cpu")
    with pytest.raises(ConfigError, match=r"feature-distance: the backbone .* is frozen and has no adapter"):
        train(pipeline, recipe=recipe(TERM, f"data.source={source}"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.0}, r"ratio is 0\.0; expected more than 0 and at most 1"),
        ({"weight": -1.0}, r"weight is -1\.0; expected at least 0"),
        ({"classes": ("carr",)}, r"classes has 'carr', which is not a class; did you mean 'car'\?"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FeatureDistance(compose(), **options)


def test_a_label_space_without_things_needs_classes() -> None:
    pipeline = compose(labels=clouds.LabelSpace.from_names(["road", "sky"], name="plain"))
    with pytest.raises(ConfigError, match="the label space plain marks no class as a thing; name some in classes"):
        FeatureDistance(pipeline)
