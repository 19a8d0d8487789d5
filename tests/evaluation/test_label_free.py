"""Label-free scores against plain references, and where the answer is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import clouds
from clouds.core.contract.tensors import image_tensor
from clouds.core.system.errors import ConfigError, DataError
from clouds.core.system.images import read_image, write_png
from clouds.data.transforms import distort, draw_distortion
from clouds.evaluation.label_free import NAMES, choose_pictures, consensus, label_free_scores, map_name, spaced

CLASSES = ["a", "b", "c"]
ROUNDING = 1e-4  # of float32 sums over some thousand pixels, in percent


def compose(**options: int) -> clouds.Pipeline:
    tiny = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    head = {"name": "linear", "width": 8, **options}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = clouds.compose(backbone=tiny, head=head, labels=CLASSES, device="cpu", refiner="regions")
    pipeline.trained = True
    with torch.no_grad():  # so that several classes are predicted, and not all scores are nearly equal
        for name, weight in pipeline.head.named_parameters():
            weight.mul_(20 if name.endswith("classify.weight") else 1)
    return pipeline


@pytest.fixture
def pipeline() -> clouds.Pipeline:
    return compose()


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Pictures of two sizes, neither a multiple of 32."""
    rng = np.random.default_rng(0)
    for index, size in enumerate([(40, 70), (33, 50), (40, 70)]):
        blocks = rng.integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        write_png(tmp_path / "pictures" / f"{index}.png", np.ascontiguousarray(blocks[: size[0], : size[1]]))
    return choose_pictures(tmp_path / "pictures")


def mean_iou(one: np.ndarray, two: np.ndarray) -> float:
    """Plain mean IoU in percent over the classes of either."""
    found = [((one == k) & (two == k)).sum() / ((one == k) | (two == k)).sum() for k in np.union1d(one, two)]
    return 100 * float(np.mean(found))


def test_entropies_are_those_of_the_scores(pipeline: clouds.Pipeline, pictures: list[Path]) -> None:
    pixels = np.concatenate([pipeline.predict(path).scores().reshape(3, -1) for path in pictures], axis=1)
    shares = (pixels / pixels.sum(0)).astype(np.float64)
    entropy = -(shares * np.log(shares)).sum(0).mean()
    diversity = -(shares.mean(1) * np.log(shares.mean(1))).sum()
    found = label_free_scores(pipeline, pictures)
    assert found["confidence"] == pytest.approx(100 * (1 - entropy / np.log(3)), abs=ROUNDING)
    assert found["diversity"] == pytest.approx(100 * diversity / np.log(3), abs=ROUNDING)
    assert found["information"] == pytest.approx(100 * (diversity - entropy) / np.log(3), abs=ROUNDING)
    assert 1 < found["information"] < 99


def test_stability_compares_with_the_distorted_picture(pipeline: clouds.Pipeline, pictures: list[Path]) -> None:
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for index, path in enumerate(pictures):
        image, rng = read_image(path), np.random.default_rng([0, index])
        height, width = image.shape[:2]
        scale = rng.uniform(0.5, 1.5)
        view = Image.fromarray(distort(image, draw_distortion(rng)))
        view = view.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
        seen = Image.fromarray(pipeline.predict(view).labels).resize((width, height), Image.Resampling.NEAREST)
        pairs.append((pipeline.predict(path).labels.ravel(), np.asarray(seen).ravel()))
    one, two = (np.concatenate(maps) for maps in zip(*pairs, strict=True))
    assert label_free_scores(pipeline, pictures)["stability"] == pytest.approx(mean_iou(one, two))
    assert mean_iou(one, two) < 99


def test_refinement_compares_with_the_refined_labels(pipeline: clouds.Pipeline, pictures: list[Path]) -> None:
    assert pipeline.refiner is not None
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for path in pictures:
        labels = pipeline.predict(path).labels
        image = image_tensor(read_image(path))
        (targets,) = pipeline.refiner.refine([image], [torch.from_numpy(labels)], rngs=[np.random.default_rng(0)])
        pairs.append((labels.ravel(), targets.to_label_map().numpy().ravel()))
    one, two = (np.concatenate(maps) for maps in zip(*pairs, strict=True))
    assert label_free_scores(pipeline, pictures)["refinement"] == pytest.approx(mean_iou(one, two))
    assert mean_iou(one, two) < 99


@pytest.mark.parametrize("options", [{}, {"detail": 32}], ids=["one resolution", "several resolutions"])
def test_separation_is_the_explained_variance(options: dict[str, int], pictures: list[Path]) -> None:
    pipeline = compose(**options)
    cells: list[tuple[int, np.ndarray]] = []  # class and feature of each cell of 16 x 16 pixels with its centre inside
    for path in pictures:
        image, labels = image_tensor(read_image(path)), pipeline.predict(path).labels
        with torch.no_grad():
            level = pipeline.segmenter.features(pipeline.pad([image])).res4[0].numpy()
        for row in range(level.shape[1]):
            for column in range(level.shape[2]):
                y, x = row * 16 + 8, column * 16 + 8
                if y < labels.shape[0] and x < labels.shape[1]:
                    feature = level[:, row, column].astype(np.float64)
                    cells.append((int(labels[y, x]), feature / np.linalg.norm(feature)))
    classes, features = np.array([k for k, _ in cells]), np.stack([feature for _, feature in cells])
    prototypes = np.stack([features[classes == k].mean(0) for k in classes])
    within = ((features - prototypes) ** 2).sum()
    whole = ((features - features.mean(0)) ** 2).sum()
    assert len({*classes}) > 1
    found = label_free_scores(pipeline, pictures)["separation"]
    assert found == pytest.approx(100 * (1 - within / whole), abs=1e-6)  # float64, over a variance of 1e-4 or more


def test_one_class_everywhere_is_certain_and_stable_but_not_diverse(
    pipeline: clouds.Pipeline, pictures: list[Path]
) -> None:
    with torch.no_grad():
        pipeline.head.get_parameter("classify.weight").zero_()
        pipeline.head.get_parameter("classify.bias").copy_(torch.tensor([100.0, 0.0, 0.0]))
    found = label_free_scores(pipeline, pictures)
    certain = {"confidence": 100, "stability": 100, "refinement": 100}
    nothing = {"diversity": 0, "information": 0, "separation": 0}
    assert found == pytest.approx(certain | nothing, abs=ROUNDING)


def test_equal_scores_are_unsure_but_diverse(pipeline: clouds.Pipeline, pictures: list[Path]) -> None:
    with torch.no_grad():
        pipeline.head.get_parameter("classify.weight").zero_()
        pipeline.head.get_parameter("classify.bias").zero_()
    found = label_free_scores(pipeline, pictures, names=("confidence", "diversity", "information"))
    assert found == pytest.approx({"confidence": 0, "diversity": 100, "information": 0}, abs=ROUNDING)


def test_scores_repeat_and_do_not_touch_the_pipeline(pipeline: clouds.Pipeline, pictures: list[Path]) -> None:
    pipeline.train()
    first, state = label_free_scores(pipeline, pictures), torch.random.get_rng_state()
    assert label_free_scores(pipeline, pictures) == first
    assert torch.equal(state, torch.random.get_rng_state())
    assert pipeline.head.training
    assert tuple(first) == NAMES
    assert label_free_scores(pipeline, pictures, names=["stability"]) == {"stability": first["stability"]}


def test_without_a_refiner_there_is_no_refinement(pictures: list[Path]) -> None:
    pipeline = compose()
    alone = clouds.compose(backbone=pipeline.backbone, head=pipeline.head, labels=CLASSES, device="cpu")
    alone.trained = True
    assert set(label_free_scores(alone, pictures)) == set(NAMES) - {"refinement"}


def test_large_pictures_are_made_smaller(
    pipeline: clouds.Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clouds.evaluation.label_free._MOST_PIXELS", 32 * 64)
    write_png(tmp_path / "large.png", np.zeros((64, 128, 3), np.uint8))
    label_free_scores(pipeline, [tmp_path / "large.png"], names=["confidence"], keep=tmp_path / "maps")
    with Image.open(tmp_path / "maps" / map_name(0)) as labels:
        assert labels.size == (64, 32)


def test_consensus_is_the_mean_agreement_with_the_others(tmp_path: Path) -> None:
    maps = {"one": [[0, 0], [1, 1]], "two": [[0, 0], [1, 1]], "three": [[0, 1], [1, 1]]}
    for name, labels in maps.items():
        write_png(tmp_path / name / map_name(0), np.array(labels, np.uint8))
        write_png(tmp_path / name / map_name(1), np.zeros((1, 4), np.uint8))
    # of 6 and 5 pixels of class 0, 5 are common, and of 2 and 3 of class 1, 2
    other = 100 * (5 / 6 + 2 / 3) / 2
    found = consensus([tmp_path / name for name in maps], 2, classes=3)
    assert found == pytest.approx([(100 + other) / 2, (100 + other) / 2, other])
    assert consensus([tmp_path / "one"], 2, classes=3) == [None]


def test_pictures_are_evenly_spaced() -> None:
    paths = [Path(f"{index}") for index in range(10)]
    assert spaced(paths, 4) == [Path("0"), Path("2"), Path("5"), Path("7")]
    assert spaced(paths, 10) == spaced(paths, 99) == paths


def test_bad_input_is_refused(pipeline: clouds.Pipeline, pictures: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="label-free score 'stabilty' is unknown; did you mean 'stability'"):
        label_free_scores(pipeline, pictures, names=["stabilty"])
    with pytest.raises(DataError, match="label-free scores need pictures, but there are none"):
        label_free_scores(pipeline, [])
    with pytest.raises(ConfigError, match="count is 0; expected at least 1 picture"):
        choose_pictures(tmp_path / "pictures", 0)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="none"):
        choose_pictures(tmp_path / "none")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.png"):
        label_free_scores(pipeline, [tmp_path / "broken.png"])
    single = clouds.compose(backbone=pipeline.backbone, head="linear", labels=["a"], device="cpu")
    with pytest.raises(ConfigError, match=r"need two or more classes; .* has 1"):
        label_free_scores(single, pictures)
