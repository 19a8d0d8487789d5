"""What happens around the steps: bad images, losses that are not finite, options of the loop, evaluation."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from training_helpers import TINY, assert_same, compose, recipe, weights

import clouds
from clouds.core.contract.interfaces import ImageGenerators
from clouds.core.system.errors import ConfigError, DataError, NonFiniteError
from clouds.core.system.images import write_png
from clouds.core.system.processes import Processes
from clouds.training.checkpoint import read_checkpoint
from clouds.training.interrupt import TrainingInterrupted
from clouds.training.recipe import LoopConfig
from clouds.training.train import train


def file_of(source: str, kind: str = "images", name: str = "2.png") -> Path:
    return Path(source.removeprefix("folder:")) / kind / "train" / name


def spoil(source: str, name: str = "2.png") -> Path:
    path = file_of(source, name=name)
    path.write_bytes(path.read_bytes()[:200])
    return path


def after_two_epochs(source: str) -> Callable[..., None]:
    """Spoils an image after ten draws from five images."""

    def on_step(phase: str, step: int, steps: int, numbers: dict[str, float]) -> None:
        if step == 5:
            spoil(source)

    return on_step


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_stops_the_run_with_its_name_and_a_checkpoint(
    source: str, tmp_path: Path, workers: int
) -> None:
    spoiled, good = file_of(source), compose()
    settings = recipe(f"data.workers={workers}", "warmup.steps=40", "loop.checkpoint_every=1000")
    with pytest.raises(DataError, match=f"^{spoiled}: .*truncated"):
        train(good, source=source, recipe=settings, out=tmp_path / "run", on_step=after_two_epochs(source))
    log = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    progress = read_checkpoint(tmp_path / "run")[0]
    assert 5 <= progress.step == len(log) < 10  # in the third epoch, or the fourth if the reader was ahead
    before = weights(good)
    spoiled.write_bytes((spoiled.parent / "1.png").read_bytes())
    again, steps = compose(), list[int]()
    train(again, resume=tmp_path / "run", on_step=lambda phase, step, total, numbers: steps.append(step))
    assert steps == list(range(progress.step + 1, 41))
    assert any(not torch.equal(before[key], value) for key, value in weights(again).items())


def test_an_unreadable_image_is_skipped_when_asked_for(source: str, tmp_path: Path) -> None:
    settings = recipe("data.on_error=skip", "warmup.steps=10")
    with pytest.warns(UserWarning, match=f"skipped: {file_of(source)}: .*truncated"):
        run = train(compose(), source=source, recipe=settings, out=tmp_path / "run", on_step=after_two_epochs(source))
    assert run.steps == 10
    assert run.skipped == 2  # of four epochs the last two
    counts = [json.loads(line)["skipped"] for line in run.log.read_text(encoding="utf-8").splitlines()]
    assert counts[:5] == [0] * 5
    assert sorted(counts) == counts
    assert 1 <= counts[7] <= counts[9] == 2  # the eighth step ends the third epoch


@pytest.mark.parametrize(
    ("errors", "stops", "error", "message"),
    [
        (1, 0, DataError, "another process found an unreadable image; see its message"),
        (0, 1, TrainingInterrupted, "a signal to another process: stopped after step 2 of warmup; resume with"),
    ],
)
def test_what_stops_another_process_stops_this_one_after_the_same_step(
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    errors: int,
    stops: int,
    error: type[Exception],
    message: str,
) -> None:
    """The other process says so beside the third batch."""
    plain, questions = Processes.sum, list[int]()

    def sum_with_another(self: Processes, values: torch.Tensor) -> torch.Tensor:
        if values.shape == (3,) and values.dtype == torch.int64:  # errors, stops, skipped
            questions.append(1)
            if len(questions) == 3:
                return values + torch.tensor([errors, stops, 0])
        return plain(self, values)

    monkeypatch.setattr(Processes, "sum", sum_with_another)
    with pytest.raises(error, match=message):
        train(compose(), source=source, recipe=recipe(), out=tmp_path / "run")
    assert read_checkpoint(tmp_path / "run")[0].step == 2


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_label_value_without_a_meaning_is_never_learnt(source: str, tmp_path: Path, on_error: str) -> None:
    label = file_of(source, "labels")
    write_png(label, np.full((40, 70), 77, np.uint8))
    settings, out = recipe(f"data.on_error={on_error}", "warmup.steps=5"), tmp_path / "run"
    if on_error == "stop":
        with pytest.raises(DataError, match=f"{label}: .*77"):
            train(compose(), source=source, recipe=settings, out=out)
    else:
        with pytest.warns(UserWarning, match=f"skipped: {label}: .*77"):
            assert train(compose(), source=source, recipe=settings, out=out).skipped == 2


def test_a_set_without_any_readable_image_stops_the_run(source: str, tmp_path: Path) -> None:
    for index in range(5):
        spoil(source, f"{index}.png")
    with pytest.raises(DataError, match=r"no image of the dataset can be read: .*png"):
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
def test_what_is_not_finite_stops_the_run_with_a_checkpoint_of_the_last_good_step(
    source: str, tmp_path: Path, fault: str, message: str
) -> None:
    head = Breaking(4, fault)
    with pytest.raises(NonFiniteError, match=message):
        train(compose(head=head), source=source, recipe=recipe("warmup.steps=9"), out=tmp_path / "run")
    assert head.weight.isfinite()
    progress, saved = read_checkpoint(tmp_path / "run")
    assert progress.step == 4
    assert saved["modules"]["head"]["weight"].isfinite()


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
        losses[parts] = [json.loads(line)["loss"] for line in run.log.read_text(encoding="utf-8").splitlines()]
    # some 10,000 terms: 100 roundings of 6e-8 each, and as much again for what earlier steps left in the weights
    assert losses[3] == pytest.approx(losses[1], rel=2e-5)


def test_a_batch_must_have_an_image_for_each_part(source: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"warmup\.batch_size is 2, but 1 processes with loop\.accumulate=3 need"):
        train(compose(), source=source, recipe=recipe("loop.accumulate=3"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_values_of_the_loop_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"accumulate is 0; expected at least 1"):
        LoopConfig(accumulate=0)
    with pytest.raises(
        ConfigError, match=r"loop\.best is 'miou', but evaluation is off; also set loop\.evaluate_every"
    ):
        LoopConfig(best="miou")
    with pytest.raises(ConfigError, match=r"evaluate_start is true, but evaluation is off; also set loop\.evaluate_ev"):
        LoopConfig(evaluate_start=True)
    with pytest.raises(ConfigError, match=r"loop\.keep_best is 2, but loop\.best names no score; also set it"):
        LoopConfig(keep_best=2)


@pytest.mark.filterwarnings("ignore::clouds.SlowDtypeWarning")
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


@pytest.mark.parametrize("head", [{"name": "linear", "width": 8}, SMALL], ids=["linear", "mask2former"])
def test_bfloat16_rounds_and_leaves_the_weights_in_float32(
    source: str, generated: Path, tmp_path: Path, head: object
) -> None:
    losses, moments = {}, set[torch.dtype]()
    for dtype in ("float32", "bfloat16"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            pipeline = clouds.compose(backbone=TINY, head=head, device="cpu", dtype=dtype)
        settings = recipe("joint.steps=1", "optimizer.lr=1e-4")
        run = train(pipeline, source=source, generated=generated, recipe=settings, out=tmp_path / dtype, phase="joint")
        losses[dtype] = run.loss
        saved = read_checkpoint(tmp_path / dtype)[1]
        assert saved is not None
        tensors = [value for name in saved["modules"] for value in saved["modules"][name].values()]
        tensors += [value for state in saved["optimizer"]["state"].values() for value in state.values()]
        moments |= {value.dtype for value in tensors if value.is_floating_point()}
    assert moments == {torch.float32}
    assert losses["bfloat16"] != losses["float32"]
    # A value keeps 8 bits, so a rounding is off by up to 2**-9. Some 50 of them follow each other and add up like a
    # random walk; over the pixels of a loss they cancel further.
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=50**0.5 * 2**-9)


def test_channels_last_changes_the_memory_alone(source: str, tmp_path: Path) -> None:
    found = []
    for value in ("true", "false"):
        settings = recipe(f"loop.channels_last={value}", "warmup.steps=1", "optimizer.lr=1e-30")
        found.append(train(compose(), source=source, recipe=settings, out=tmp_path / value).loss)
    assert found[0] == pytest.approx(found[1], rel=1e-5)  # other convolution algorithms: sums of 8 x 49 products


def test_evaluations_are_part_of_the_numbers(source: str, tmp_path: Path) -> None:
    settings = recipe("loop.evaluate_every=2", f'data.evaluation=["{source}"]')
    run = train(compose(), source=source, recipe=settings, out=tmp_path / "run")
    lines = [json.loads(line) for line in run.log.read_text(encoding="utf-8").splitlines()]
    assert ["miou" in line for line in lines] == [False, True, False, True]
    pipeline = clouds.load(run.checkpoint, device="cpu")
    assert lines[-1]["miou"] == pytest.approx(clouds.evaluate(pipeline, [source]).miou)
    report = clouds.evaluate(pipeline, [source])
    assert lines[-1]["scores"] == {
        name: {"images": 5, "miou": result.miou, "iou": result.iou} for name, result in report.domains.items()
    }
    assert all(line["images_per_second"] > 0 and line["memory_gib"] > 0 and line["lr"] > 0 for line in lines)


@pytest.mark.parametrize("trained", [False, True])
def test_the_score_before_the_first_step_is_logged_when_asked_for(
    source: str, generated: Path, tmp_path: Path, trained: bool
) -> None:
    options = ("loop.evaluate_every=4", f'data.evaluation=["{source}"]', "loop.best=miou", "warmup.steps=1")
    pipeline, plain = compose(), compose()
    pipeline.trained, before = trained, weights(pipeline)
    called: list[int] = []
    run = train(
        pipeline,
        source=source,
        generated=generated,
        recipe=recipe("loop.evaluate_start=true", "joint.steps=2", "optimizer.lr=1e-9", *options),
        out=tmp_path / "run",
        on_step=lambda phase, step, steps, numbers: called.append(step),
    )
    lines = [json.loads(line) for line in run.log.read_text(encoding="utf-8").splitlines()]
    places = [("warmup", 0), ("warmup", 1), ("joint", 1), ("joint", 2)]  # once in a run
    assert [(line["phase"], line["step"]) for line in lines] == places
    plain.trained = True
    assert lines[0]["miou"] == pytest.approx(clouds.evaluate(plain, [source]).miou)
    assert lines[0].keys() == {"phase", "step", "miou", "scores"}
    assert called == [1, 1, 2]
    best = clouds.load(run.out / "best", device="cpu")
    assert best.trained == trained
    assert_same(weights(best), before)


def test_a_score_before_the_first_step_changes_no_bit_of_the_training(source: str, tmp_path: Path) -> None:
    found = []
    for start in ("false", "true"):
        settings = recipe("loop.evaluate_every=9", f'data.evaluation=["{source}"]', f"loop.evaluate_start={start}")
        pipeline = compose()
        train(pipeline, source=source, recipe=settings, out=tmp_path / start)
        found.append(weights(pipeline))
    assert_same(*found)


@pytest.mark.parametrize(
    ("specs", "error", "message"),
    [
        (
            ["folder:nowhere"],
            DataError,
            r"^data\.evaluation: folder:nowhere: .* disable it with loop\.evaluate_every=0",
        ),
        (["fodler:x"], ConfigError, r"^data\.evaluation: .* did you mean 'folder'"),
        (
            ["{source}", "{source}:train"],
            ConfigError,
            r"^data\.evaluation: {source}:train is listed twice; list it once",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_found_before_training(
    source: str, tmp_path: Path, specs: list[str], error: type[Exception], message: str
) -> None:
    specs = [spec.format(source=source) for spec in specs]
    settings = recipe("loop.evaluate_every=2", f"data.evaluation={json.dumps(specs)}")
    with pytest.raises(error, match=message.replace("{source}", source)):
        train(compose(), source=source, recipe=settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    unused = recipe("warmup.steps=1", f"data.evaluation={json.dumps(specs)}")
    train(compose(), source=source, recipe=unused, out=tmp_path / "run")
