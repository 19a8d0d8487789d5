"""Two processes compute what one does: the same losses, weights, and evaluation."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import clouds
from clouds.core.system.images import write_png
from clouds.training.checkpoint import read_checkpoint
from clouds.training.recipe import load_recipe
from clouds.training.train import train

# Five images on two processes are three and two; one of the seven is ignored altogether, and crops may be, too.
SETTINGS = [
    *("data.crop=[64,64]", "warmup.steps=4", "warmup.batch_size=5", "joint.steps=4", "joint.batch_size=5"),
    *("loop.evaluate_every=4", "optimizer.clip_norm=0.01"),
]
# A process alone sums over the same samples in another order. A sum of some 10,000 float32 terms is then off by up to
# 100 roundings of 6e-8, about 1e-5: that is the first step. Later ones start from weights that are off by as much, and
# two choices are not continuous: the least certain 48 of 192 points, and the class of a pixel. One other point of the
# 64 of a mask, among some ten masks, moves a term by up to 1 / 640, and the update by its share of the gradient.
FIRST, LOSS, WEIGHTS = 2e-5, 5e-3, 5e-2

# Threads of gloo that outlive Python abort the process now and then. What is registered first is called last.
SCRIPT = """
import atexit, os, sys
@atexit.register
def no_thread_is_left():
    tasks = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
    if any("gloo" in name for name in tasks):
        print("left:", tasks, file=sys.stderr)
        os._exit(3)
sys.path.insert(0, sys.argv[1])
import test_distributed_training as here
here.run(*sys.argv[2:])
"""


def run(out: str, source: str, generated: str, *more: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = clouds.compose(
            backbone={"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "trainable": True},
            head={"name": "mask2former", "queries": 8, "width": 64, "layers": 2, "encoder_layers": 1, "points": 64},
            refiner="regions",
            device="cpu",
        )
    recipe = load_recipe("folder", [*SETTINGS, f'data.evaluation=["{source}"]', *more])
    train(pipeline, source=source, generated=generated, recipe=recipe, out=out)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for index in range(7):
        labels = rng.integers(0, 4, (5, 6)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
        labels[:] = 255 if index == 3 else labels
        image = (labels[..., None] * 50 % 200 + rng.integers(0, 50, (80, 96, 3))).astype(np.uint8)
        write_png(folder / "source" / "images" / "train" / f"{index}.png", image)
        write_png(folder / "source" / "labels" / "train" / f"{index}.png", labels)
    pipeline = clouds.compose(backbone="tiny", head="linear", generator="procedural", prompter="grammar", device="cpu")
    made = clouds.generate(pipeline, 5, out=folder / "generated", size=(64, 64))
    return f"folder:{folder / 'source'}", str(made.folder)


def launch(out: Path, data: tuple[str, ...], script: str = SCRIPT) -> subprocess.CompletedProcess[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    file = out.with_suffix(".py")
    file.write_text(script, encoding="utf-8")
    command = [*torchrun, str(file), str(Path(__file__).parent), str(out), *data]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)


def read_log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def change(folder: Path, phase: str) -> torch.Tensor:
    """What training has made of the weights."""
    before, after = (clouds.load(folder / name, device="cpu") for name in ("start", phase))
    pairs = zip((before.backbone, before.head), (after.backbone, after.head), strict=True)
    return torch.cat(
        [(two - one).flatten() for a, b in pairs for one, two in zip(a.parameters(), b.parameters(), strict=True)]
    ).detach()


def test_two_processes_equal_one(tmp_path: Path, data: tuple[str, str]) -> None:
    run(str(tmp_path / "one"), *data)
    outcome = launch(tmp_path / "two", data)
    assert outcome.returncode == 0, outcome.stderr
    one, two = read_log(tmp_path / "one"), read_log(tmp_path / "two")
    assert [(line["phase"], line["step"]) for line in two] == [(line["phase"], line["step"]) for line in one]
    for name in ("loss", "class", "mask", "dice", "class_0", "mask_1", "gradient_norm"):
        assert two[0][name] == pytest.approx(one[0][name], rel=FIRST), name
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=LOSS)
    for phase in ("warmup", "joint"):
        mine, theirs = (change(tmp_path / name, phase) for name in ("one", "two"))
        assert float((mine - theirs).norm() / mine.norm()) < WEIGHTS
    scores = [[line["miou"] for line in lines if "miou" in line] for lines in (one, two)]
    assert len(scores[0]) == 2
    assert scores[1] == pytest.approx(scores[0], abs=1)  # percent: other weights, other labels where classes tie


COUNT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import clouds
from clouds.core.system.processes import join
processes = join("cpu")
assert processes.world == 2 and join("cpu") == processes  # as a script does that trains twice
report = clouds.evaluate(clouds.load(sys.argv[4], device="cpu"), [sys.argv[3]], analysis=True, calibration=True)
(Path(sys.argv[2] + str(processes.rank))).write_text(report.to_json())
"""


def test_an_evaluation_over_two_processes_has_the_counts_of_one(tmp_path: Path, data: tuple[str, str]) -> None:
    pipeline = clouds.compose(backbone="tiny", head="linear", device="cpu")
    pipeline.trained = True
    pipeline.save(tmp_path / "pipeline")
    # Images are segmented one by one, so labels are the same.
    expected = json.loads(clouds.evaluate(pipeline, [data[0]], analysis=True, calibration=True).to_json())
    (result,) = expected["domains"].values()
    ece = result.pop("calibration")["ece"]
    outcome = launch(tmp_path / "report", (data[0], str(tmp_path / "pipeline")), COUNT)
    assert outcome.returncode == 0, outcome.stderr
    for rank in range(2):
        found = json.loads((tmp_path / f"report{rank}").read_text(encoding="utf-8"))
        (result,) = found["domains"].values()
        # The order of the sum over processes: float64 sums of confidences below 1 over some 10,000 pixels.
        assert result.pop("calibration")["ece"] == pytest.approx(ece, abs=1e-9)
        assert found == expected


def run_instances(out: str, source: str) -> None:
    """Train on instances, and score them, on each process."""
    torch.manual_seed(0)
    head = {"name": "mask2former", "queries": 8, "width": 64, "layers": 2, "encoder_layers": 1, "points": 64}
    pipeline = clouds.compose(backbone={"name": "tiny", "trainable": True}, head=head, device="cpu")
    options = ("data.crop=[64,64]", "warmup.steps=1", "warmup.batch_size=5", "data.instances=true")
    train(pipeline, source=source, recipe=load_recipe("folder", list(options)), out=out)
    thresholds = {"object_mask_threshold": 0.0, "overlap_threshold": 0.0}
    report = clouds.evaluate_segments(clouds.load(Path(out, "start"), device="cpu"), [source], **thresholds)
    Path(f"{out}-{os.environ.get('RANK', '')}.json").write_text(report.to_json(), encoding="utf-8")


@pytest.mark.slow  # starts two processes
@pytest.mark.filterwarnings("ignore:the head .* has not been trained")
def test_instances_of_both_processes_are_counted(tmp_path: Path) -> None:
    rng, spec = np.random.default_rng(0), f"cityscapes-panoptic:{tmp_path}:train"
    for index in range(5):
        ids = rng.choice([7, 23, 24, 26000, 26001, 26002, 33001][: 2 + index], (5, 6)).repeat(16, 0).repeat(16, 1)
        write_png(
            tmp_path / "leftImg8bit" / "train" / f"{index}_leftImg8bit.png", rng.integers(0, 9, (80, 96, 3), np.uint8)
        )
        (tmp_path / "gtFine" / "train").mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids.astype(np.uint16)).save(tmp_path / "gtFine" / "train" / f"{index}_gtFine_instanceIds.png")
    run_instances(str(tmp_path / "one"), spec)
    outcome = launch(tmp_path / "two", (spec,), SCRIPT.replace("here.run(", "here.run_instances("))
    assert outcome.returncode == 0, outcome.stderr
    (one,), (two,) = (read_log(tmp_path / name) for name in ("one", "two"))
    for name in ("loss", "class", "mask", "dice", "class_0", "mask_1", "gradient_norm"):
        assert two[name] == pytest.approx(one[name], rel=FIRST), name
    expected = json.loads((tmp_path / "one-.json").read_text(encoding="utf-8"))
    assert expected["domains"]["cityscapes-panoptic:train"]["pq"] is not None
    for rank in range(2):
        # images are segmented one by one, so segments are the same
        assert json.loads((tmp_path / f"two-{rank}.json").read_text(encoding="utf-8")) == expected


@pytest.mark.slow
def test_shares_that_are_not_joined_would_be_noticed(tmp_path: Path, data: tuple[str, str]) -> None:
    """With the mean over images of what each process averaged, losses are off by far more than the tolerance."""
    run(str(tmp_path / "one"), *data)
    averaged = "from clouds.heads.mask2former import Mask2Former\nMask2Former.loss_counts = clouds.Head.loss_counts"
    outcome = launch(tmp_path / "two", data, SCRIPT.replace("here.run(", f"import clouds\n{averaged}\nhere.run("))
    assert outcome.returncode == 0, outcome.stderr
    one, two = read_log(tmp_path / "one"), read_log(tmp_path / "two")
    assert abs(one[0]["class"] - two[0]["class"]) > 10 * FIRST * one[0]["class"]
    assert max(abs(a["loss"] - b["loss"]) / a["loss"] for a, b in zip(one, two, strict=True)) > LOSS
    mine, theirs = (change(tmp_path / name, "warmup") for name in ("one", "two"))
    assert float((mine - theirs).norm() / mine.norm()) > 2 * WEIGHTS


FAULT = """
import clouds
from clouds.core.system.errors import NonFiniteError
from clouds.heads.mask2former import Mask2Former
plain, calls = Mask2Former.loss, []
def loss(self, *arguments, **options):
    calls.append(1)
    if len(calls) == 3 and os.environ["RANK"] == "1":
        raise NonFiniteError("costs of image 0 are not finite")
    return plain(self, *arguments, **options)
Mask2Former.loss = loss
here.run("""


@pytest.mark.slow  # starts two processes; tests/training has the same with one that pretends to be another
def test_a_loss_that_is_not_finite_stops_both(tmp_path: Path, data: tuple[str, str]) -> None:
    outcome = launch(tmp_path / "run", data, SCRIPT.replace("here.run(", f"import os\n{FAULT}"))
    assert outcome.returncode == 1
    assert "NonFiniteError: step 2: costs of image 0 are not finite; the images are 0: " in outcome.stderr
    assert "NonFiniteError: step 2: the loss of another process is not finite" in outcome.stderr
    assert read_checkpoint(tmp_path / "run")[0].step == 2  # the last good one


@pytest.mark.slow  # as above
def test_an_unreadable_image_stops_both_after_the_same_step(tmp_path: Path, data: tuple[str, str]) -> None:
    folder = tmp_path / "source"
    shutil.copytree(data[0].removeprefix("folder:"), folder)
    spoiled = folder / "images" / "train" / "2.png"
    spoiled.write_bytes(spoiled.read_bytes()[:200])
    outcome = launch(tmp_path / "run", (f"folder:{folder}", data[1]))
    assert outcome.returncode == 1
    assert f"DataError: {spoiled}: " in outcome.stderr
    assert "DataError: another process found an unreadable image" in outcome.stderr
    assert read_checkpoint(tmp_path / "run")[0].step == len(read_log(tmp_path / "run")) < 4
