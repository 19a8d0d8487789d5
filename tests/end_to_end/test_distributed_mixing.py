"""Two processes compute what one does with adapters, and with mixed, sampled and weighted images."""

from pathlib import Path

import pytest
import test_distributed_training as plain
import torch

import clouds
from clouds.core.contract.tensors import image_tensor
from clouds.core.system.images import read_image
from clouds.data.check import check_dataset
from clouds.data.folder import open_dataset
from clouds.training.recipe import load_recipe
from clouds.training.teacher import Teacher
from clouds.training.train import train

data = plain.data  # the fixture

HEAD = {"name": "mask2former", "queries": 8, "width": 64, "layers": 2, "encoder_layers": 1, "points": 64}
TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "trainable": True}
VIT = {"name": "timm:test_vit", "pretrained": False}
NEAR = 'loss.terms=[{name="feature-distance", weight=0.5, ratio=0.2, classes=["road", "wall"]}]'
THRESHOLD = 0.11  # an untrained head is sure of few pixels
CASES = {
    "rein": ({"backbone": VIT, "adapter": "rein", "head": HEAD}, [NEAR]),
    "lora": ({"backbone": VIT, "adapter": "lora", "head": {"name": "linear", "width": 8}}, [NEAR]),
    "mixing": (
        {"backbone": TINY, "head": HEAD},
        [
            *("data.class_mix=true", "data.sampler=rare-classes", 'data.sampler.index=["INDEX"]'),
            *("data.sampler.min_pixels=100", "data.source_weights=[0.25]", "data.generated_weight=2"),
            *(f"teacher.weight_threshold={THRESHOLD}", "teacher.class_confidence=0.9"),
            *('data.augmentations=["randomize"]', NEAR),
        ],
    ),
}
SCRIPT = plain.SCRIPT.replace("import test_distributed_training as", "import test_distributed_mixing as")


def compose(case: str) -> clouds.Pipeline:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return clouds.compose(**CASES[case][0], refiner="regions", device="cpu")


def run(out: str, source: str, generated: str) -> None:
    """The joint phase alone, so that all that is new is in the first step, which starts from the same weights."""
    folder = Path(out).parent
    changes = [text.replace("INDEX", str(folder / "index.json")) for text in CASES[folder.name][1]]
    settings = ["data.crop=[64,64]", "joint.steps=4", "joint.batch_size=5", f"data.source={source}", *changes]
    recipe = load_recipe("folder", settings)
    train(compose(folder.name), generated=generated, recipe=recipe, out=out, phase="joint")


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case: str, tmp_path: Path, data: tuple[str, str]) -> None:
    folder = tmp_path / case
    folder.mkdir()
    index = check_dataset(open_dataset(data[0], clouds.LabelSpace.named("cityscapes"))).class_index
    assert index is not None
    index.write(folder / "index.json")
    run(str(folder / "one"), *data)
    outcome = plain.launch(folder / "two", data, SCRIPT)
    assert outcome.returncode == 0, outcome.stderr
    one, two = plain.read_log(folder / "one"), plain.read_log(folder / "two")
    assert len(one) == len(two) == 4
    terms = [name for name in one[0] if name.split("_")[0] in ("loss", "class", "mask", "dice", "cross", "gradient")]
    for name in terms:
        assert two[0][name] == pytest.approx(one[0][name], rel=plain.FIRST), name
    near = [[line["feature-distance"] for line in lines] for lines in (one, two)]
    assert max(near[0]) > 0
    assert near[1] == pytest.approx(near[0], rel=plain.LOSS, abs=1e-6)
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=plain.LOSS)


def test_the_images_of_the_mixed_case_differ_in_weight(data: tuple[str, str]) -> None:
    teacher = Teacher(compose("mixing"), decay=0.9, weight_threshold=THRESHOLD)
    pictures = sorted((Path(data[1]) / "images").iterdir())
    found = [weight for _, weight in teacher.weighted_label_maps([image_tensor(read_image(one)) for one in pictures])]
    assert len(set(found)) > 1
    assert 0 < sum(found) < len(found)
