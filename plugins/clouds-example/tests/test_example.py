"""What the components do beyond their contract."""

import json
from pathlib import Path

import clouds
import numpy as np
import pytest
import torch
from clouds.testing import check_loss_term
from PIL import Image
from safetensors.torch import save_model
from torchvision.models import squeezenet1_0

import clouds_example
from clouds_example.components import FlatScenes, Majority, PixelMLP, SqueezeNet


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    net = squeezenet1_0(weights=None)
    save_model(net, tmp_path / "net.safetensors")
    backbone = SqueezeNet(str(tmp_path / "net.safetensors"))
    assert torch.equal(backbone.stages[0][0].weight, net.features[0].weight)


def test_maps_lie_where_the_image_is() -> None:
    """A bright column in the middle is seen in the middle of every level, within half a cell of that level.

    All weights of a layer are equal: random ones see the column here more and there less.
    """
    backbone = SqueezeNet(None).freeze()
    for weights in backbone.parameters():
        torch.nn.init.constant_(weights, 1 / weights[0].numel() if weights.ndim == 4 else 0)  # of an output; no bias
    plain = backbone.mean.expand(1, 3, 256, 256).clone()
    marked = plain.clone()
    marked[..., 126:130] = 255
    for name, level in backbone(marked).levels().items():
        change = (level - backbone(plain).levels()[name]).abs().mean((0, 1, 2))
        centre = (change * (torch.arange(len(change)) + 0.5)).sum() / change.sum() / len(change)
        assert abs(float(centre) - 0.5) < 0.5 / len(change)


def test_night_is_dark_and_labels_are_where_colours_are() -> None:
    requests = [clouds.GenerationRequest(prompt=prompt, seed=1, size=(60, 80)) for prompt in ("by day", "at night")]
    day, night = FlatScenes().generate(requests)
    assert night.image.mean() < day.image.mean() / 2
    for label in np.unique(day.labels):
        assert np.ptp(day.image[day.labels == label], axis=0).max() < 10


def test_a_majority_removes_specks_and_keeps_areas() -> None:
    label_map = torch.zeros(9, 9, dtype=torch.uint8)
    label_map[2, 2], label_map[:, 5:] = 7, 255
    expected = label_map.clone()
    expected[2, 2] = 0
    assert torch.equal(Majority(radius=1).vote(label_map), expected)


@pytest.mark.filterwarnings("ignore:the head PixelMLP has not been trained")
def test_the_five_make_a_pipeline() -> None:
    pipeline = clouds.compose(
        backbone="squeezenet",
        head="pixel-mlp",
        generator="flat-scenes",
        refiner="majority",
        prompter="cities",
        device="cpu",
    )
    (prompt,) = pipeline.prompter.prompts(1, seed=0)
    (made,) = pipeline.generator.generate([clouds.GenerationRequest(prompt=prompt, seed=0, size=(50, 70))])
    prediction = pipeline.predict(made.image)
    assert prediction.labels.shape == (50, 70)


def test_the_loss_term_keeps_its_contract() -> None:
    pipeline = clouds.compose(backbone="squeezenet", head="pixel-mlp", device="cpu")
    check_loss_term(clouds_example.sure_masks(pipeline), pipeline.backbone.features)


def test_the_loss_term_is_added_to_a_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder, shape in (("images", (64, 64, 3)), ("labels", (64, 64))):
        (tmp_path / "data" / folder / "train").mkdir(parents=True)
        Image.fromarray(rng.integers(0, 2, shape, np.uint8)).save(tmp_path / "data" / folder / "train" / "a.png")
    run = clouds.train(
        clouds.compose(backbone="tiny", head="pixel-mlp", device="cpu"),
        source=f"folder:{tmp_path / 'data'}",
        recipe="folder",
        out=tmp_path / "run",
        set={"loss.terms": ["sure-masks"], "data.crop": [64, 64], "warmup.steps": 1, "warmup.batch_size": 2},
    )
    numbers = json.loads(run.log.read_text(encoding="utf-8"))
    assert 0 < numbers["sure-masks"] <= 0.1 * np.log(2) + 1e-6  # entropy of a coin, in float32
    assert abs(numbers["loss"] - numbers["mask"] - numbers["sure-masks"]) < 1e-5


def test_an_adapter_is_all_that_is_trained() -> None:
    pipeline = clouds.compose(backbone="tiny", head="pixel-mlp", adapter="channel-scale", device="cpu")
    assert not any(parameter.requires_grad for parameter in pipeline.backbone.parameters())
    assert len(list(pipeline.adapter.parameters())) == len(pipeline.backbone.blocks)


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    """A small set of the kind `split-first`."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "streets" / split / kind).mkdir(parents=True)
        for name in ("a", "b"):
            labels = rng.integers(0, 19, (64, 96), np.uint8)
            Image.fromarray(np.stack([labels * 10] * 3, -1)).save(
                tmp_path / "streets" / split / "images" / f"{name}.jpg"
            )
            Image.fromarray(labels).save(tmp_path / "streets" / split / "labels" / f"{name}.png")
    return tmp_path / "streets"


def test_a_run_reads_its_kind_of_dataset_and_writes_its_table(streets: Path, tmp_path: Path) -> None:
    pipeline = clouds.compose(backbone="tiny", head="pixel-mlp", device="cpu")
    short = {"warmup.steps": 2, "warmup.batch_size": 2, "data.crop": [64, 64], "loop.trackers": ["loss-table"]}
    run = clouds.train(pipeline, source=f"split-first:{streets}", recipe="folder", out=tmp_path / "run", set=short)
    rows = (tmp_path / "run" / "loss.csv").read_text(encoding="utf-8").splitlines()
    assert [row.rpartition(",")[0] for row in rows] == ["phase,step", "warmup,1", "warmup,2"]
    assert float(rows[-1].rpartition(",")[2]) == pytest.approx(run.loss)
    assert list(clouds.evaluate(pipeline, [f"split-first:{streets}:val"]).per_domain) == ["split-first:val"]


def test_a_set_without_labels_is_told_what_its_kind_expects(streets: Path) -> None:
    (streets / "val" / "labels" / "a.png").unlink()
    pipeline = clouds.compose(backbone="tiny", head="pixel-mlp", device="cpu")
    with pytest.raises(clouds.DataError, match=r"1 of 2 images have no label file.*expected .*val/labels/a\.png"):
        clouds.evaluate(pipeline, [f"split-first:{streets}:val"])


def test_the_loss_of_a_batch_is_that_of_its_parts() -> None:
    """Half of the pixels of one image are ignored, so it weighs half as much."""
    head, output = PixelMLP(4, 8, 3), clouds.HeadOutput(torch.zeros(2, 3, 4), torch.randn(2, 3, 8, 8))
    label_maps = torch.randint(0, 3, (2, 32, 32), dtype=torch.uint8)
    label_maps[1, 16:] = 255
    targets = [clouds.Targets.from_label_map(one) for one in label_maps]
    assert [head.loss_counts([target])["mask"] for target in targets] == [1024, 512]
    first, second = (head.loss(output.images([i]), [target])["mask"] for i, target in enumerate(targets))
    torch.testing.assert_close(head.loss(output, targets)["mask"], (2 * first + second) / 3)


def test_the_template_stays_small() -> None:
    files = Path(clouds_example.__file__).parent.glob("*.py")
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) < 260
