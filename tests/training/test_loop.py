"""What happens around the steps: bad images, losses that are not finite, options of the loop, evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training_helpers import TINY, assert_same, compose, recipe, weights

import clouds
from clouds.core.errors import ConfigError, DataError, NonFiniteError
from clouds.core.interfaces import ImageGenerators
from clouds.training.checkpoint import read_checkpoint
from clouds.training.recipe import LoopConfig
from clouds.training.train import train


def spoil(source: str, name: str = "2.png") -> Path:
    path = Path(source.removeprefix("folder:")) / "images" / "train" / name
    path.write_bytes(path.read_bytes()[:200])
    return path


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_stops_the_run_with_its_name_and_a_checkpoint(
    source: str, tmp_path: Path, workers: int
) -> None:
    spoiled, good = spoil(source), compose()
    settings = recipe(f"data.workers={workers}", "warmup.steps=40", "loop.checkpoint_every=1000")
    with pytest.raises(DataError, match=f"^{spoiled}: .*truncated"):
        train(good, source=source, recipe=settings, out=tmp_path / "run")
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    progress = read_checkpoint(tmp_path / "run").progress
    assert progress.step == len(log) < 40
    before = weights(good)
    spoiled.write_bytes((spoiled.parent / "1.png").read_bytes())
    again, steps = compose(), list[int]()
    train(again, resume=tmp_path / "run", on_step=lambda phase, step, total, numbers: steps.append(step))
    assert steps == list(range(progress.step + 1, 41))
    assert any(not torch.equal(before[key], value) for key, value in weights(again).items())


def test_an_unreadable_image_is_skipped_when_asked_for(source: str, tmp_path: Path) -> None:
    spoiled = spoil(source)
    settings = recipe("data.on_error=skip", "warmup.steps=5")
    with pytest.warns(UserWarning, match=f"skipped: {spoiled}: .*truncated"):
        run = train(compose(), source=source, recipe=settings, out=tmp_path / "run")
    assert run.steps == 5
    assert run.skipped == 2  # ten draws from five images: two epochs
    last = json.loads(run.log.read_text().splitlines()[-1])
    assert last["skipped"] == 2


def test_a_set_without_any_readable_image_stops_the_run(source: str, tmp_path: Path) -> None:
    for index in range(5):
        spoil(source, f"{index}.png")
    with pytest.raises(DataError, match=r"no image of the set can be read: .*png"):
        train(compose(), source=source, recipe=recipe("data.on_error=skip"), out=tmp_path / "run")


class Breaking(clouds.Head):
    """Loss and gradient of a plain head, until step `at`."""

    def __init__(self, at: int, fault: str) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.at, self.fault, self.calls = at, fault, 0

    def forward(self, features, classifier=None):
        size = features.res2.shape[-2:]
        return clouds.HeadOutput(class_logits=torch.zeros(1, 1, 20), mask_logits=torch.zeros(1, 1, *size))

    def loss(self, output, targets, *, points=None, generator=None):
        assert isinstance(generator, ImageGenerators)
        self.calls += 1
        if self.calls <= self.at:
            return {"term": self.weight.square()}
        if self.fault == "term":
            return {"term": self.weight * torch.nan}
        if self.fault == "head":
            raise NonFiniteError("image 1 of the batch is odd")
        return {"term": (self.weight - self.weight).sqrt() * self.weight}  # 0, with an infinite gradient

    def segment(self, output, valid_size, size, *, scores=False):
        return torch.zeros(size, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("term", r"step 4: loss terms \['term'\] are not finite; the images are 0: .*\.png, 1: .*\.png"),
        ("head", r"step 4: image 1 of the batch is odd; the images are 0: .*\.png, 1: .*\.png"),
        ("gradient", r"step 4: the gradient's norm is nan; the images are 0: .*\.png, 1: .*\.png"),
    ],
)
def test_what_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    source: str, tmp_path: Path, fault: str, message: str
) -> None:
    head = Breaking(4, fault)
    with pytest.raises(NonFiniteError, match=message):
        train(compose(head=head), source=source, recipe=recipe("warmup.steps=9"), out=tmp_path / "run")
    assert head.weight.isfinite()
    saved = read_checkpoint(tmp_path / "run")
    assert saved.progress.step == 3
    assert saved.document is not None
    assert saved.document["modules"]["head"]["weight"].isfinite()


SMALL = {"name": "mask2former", "queries": 6, "width": 64, "layers": 2, "encoder_layers": 1, "points": 40}


@pytest.mark.parametrize("head", [{"name": "linear", "width": 8}, SMALL], ids=["linear", "mask2former"])
def test_accumulated_parts_are_one_batch(source: str, generated: Path, tmp_path: Path, head: object) -> None:
    """Parts of 2, 2 and 1 images against one of 5: the losses differ by the order of float32 sums alone."""
    losses = {}
    for parts in (1, 3):
        settings = recipe(f"loop.accumulate={parts}", "joint.batch_size=5", "joint.steps=3", "optimizer.lr=1e-4")
        run = train(
            compose(head=head),
            source=source,
            generated=generated,
            recipe=settings,
            out=tmp_path / str(parts),
            phase="joint",
        )
        losses[parts] = [json.loads(line)["loss"] for line in run.log.read_text().splitlines()]
    # some 10,000 terms: 100 roundings of 6e-8 each, and as much again for what earlier steps left in the weights
    assert losses[3] == pytest.approx(losses[1], rel=2e-5)


def test_a_batch_must_have_an_image_for_each_part(source: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"warmup\.batch_size is 2, but 1 processes with loop\.accumulate=3 need"):
        train(compose(), source=source, recipe=recipe("loop.accumulate=3"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_values_of_the_loop_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"loop needs accumulate >= 1, .*got 0, 1000 and 0"):
        LoopConfig(accumulate=0)


@pytest.mark.parametrize("head", [{"name": "linear", "width": 8}, SMALL], ids=["linear", "mask2former"])
def test_it_runs_with_channels_last_and_in_bfloat16(source: str, generated: Path, tmp_path: Path, head: object) -> None:
    pipeline = clouds.compose(backbone=TINY, head=head, device="cpu", dtype="bfloat16")
    settings = recipe("loop.channels_last=true", "warmup.steps=1", "joint.steps=1")
    run = train(pipeline, source=source, generated=generated, recipe=settings, out=tmp_path / "run")
    assert np.isfinite(run.loss)
    four = [p for p in pipeline.backbone.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in four)
    assert {p.dtype for p in pipeline.head.parameters()} == {torch.float32}
    assert_same(weights(pipeline), weights(clouds.load(run.checkpoint, device="cpu")))


def test_channels_last_changes_the_memory_alone(source: str, tmp_path: Path) -> None:
    found = []
    for value in ("true", "false"):
        settings = recipe(f"loop.channels_last={value}", "warmup.steps=1", "optimizer.lr=0.0")
        found.append(train(compose(), source=source, recipe=settings, out=tmp_path / value).loss)
    assert found[0] == pytest.approx(found[1], rel=1e-5)  # other convolution algorithms: sums of 8 x 49 products


def test_evaluations_are_part_of_the_numbers(source: str, tmp_path: Path) -> None:
    settings = recipe("loop.evaluate_every=2", f'data.evaluation=["{source}"]')
    run = train(compose(), source=source, recipe=settings, out=tmp_path / "run")
    lines = [json.loads(line) for line in run.log.read_text().splitlines()]
    assert ["miou" in line for line in lines] == [False, True, False, True]
    pipeline = clouds.load(run.checkpoint, device="cpu")
    assert lines[-1]["miou"] == pytest.approx(clouds.evaluate(pipeline, [source]).miou)
    assert all(line["images_per_second"] > 0 and line["memory_gib"] > 0 and line["lr"] > 0 for line in lines)
