"""What goes wrong in the middle of a run costs no step that was made, and the message says how to go on."""

import copy
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_helpers import assert_same, compose, recipe, weights

import clouds
from clouds.core.system.errors import ConfigError, DataError, NonFiniteError, TrainingError, WeightsError
from clouds.core.system.files import only_writer
from clouds.evaluation.report import DomainResult
from clouds.training import loop
from clouds.training import train as training
from clouds.training.checkpoint import FILE_NAME, read_checkpoint
from clouds.training.recipe import CHANGEABLE, changed
from clouds.training.steps import State
from clouds.training.train import train

Step = Callable[[State, Any], dict[str, float]]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the fourth step of a phase fail, once."""
    plain: Step = loop.train_step

    def fail(error: BaseException) -> None:
        def step(state: State, samples: Any) -> dict[str, float]:
            if state.step == 3:
                monkeypatch.setattr(loop, "train_step", plain)
                plain(copy.deepcopy(state), samples)  # all of it, so that what a step leaves elsewhere is seen
                raise error
            return plain(state, samples)

        monkeypatch.setattr(loop, "train_step", step)

    return fail


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (
            RuntimeError("a plugin's\nbug"),
            r"RuntimeError: a plugin's bug \(after step 3 .*CLOUDS_TRACEBACK=1 shows",
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), r"--resume .*run --set loop\.accumulate=2$"),
        (MemoryError(), r"--resume .*run --set loop\.accumulate=2$"),
        (KeyError("x"), r"KeyError: 'x' \(after step 3 of warmup\); there is a checkpoint of step 3; "),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_whatever_fails_in_a_step_leaves_a_checkpoint_of_the_step_before(
    source: str, generated: Path, tmp_path: Path, failing: Callable[..., None], error: Exception, remedy: str
) -> None:
    whole = compose()
    data = {"source": source, "generated": generated, "recipe": recipe("loop.checkpoint_every=1000")}
    train(whole, **data, out=tmp_path / "whole")
    failing(error)
    with pytest.raises(TrainingError, match=remedy) as caught:
        train(compose(), **data, out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error
    assert read_checkpoint(tmp_path / "run")[0].step == 3
    again = compose()
    train(again, resume=tmp_path / "run")
    assert_same(weights(whole), weights(again))


def test_an_error_of_ours_keeps_its_type_and_says_how_to_go_on(
    source: str, tmp_path: Path, failing: Callable[..., None]
) -> None:
    failing(DataError("an image is odd"))
    with pytest.raises(
        DataError, match=r"^an image is odd; there is a checkpoint of step 3; resume with: clouds train"
    ):
        train(compose(), source=source, recipe=recipe(), out=tmp_path / "run")
    failing(ConfigError("an option is odd"))
    with pytest.raises(ConfigError, match=r"^an option is odd$"):
        train(compose(), source=source, recipe=recipe(), out=tmp_path / "other")


def test_weights_that_are_not_finite_never_replace_a_checkpoint_or_a_pipeline(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: Step = loop.train_step

    def spoil(state: State, samples: Any) -> dict[str, float]:
        numbers = plain(state, samples)
        if state.step == 3:
            with torch.no_grad():
                state.pipeline.head.classify.weight[0, 0] = float("nan")
        return numbers

    monkeypatch.setattr(loop, "train_step", spoil)
    message = (
        r"step 3 of warmup, head: classify\.weight of LinearHead are not finite .*; the previous checkpoint is kept"
    )
    with pytest.raises(NonFiniteError, match=message):
        train(compose(), source=source, recipe=recipe("loop.checkpoint_every=1"), out=tmp_path / "run")
    assert read_checkpoint(tmp_path / "run")[0].step == 2
    monkeypatch.undo()
    again, whole = compose(), compose()
    train(again, resume=tmp_path / "run")
    train(whole, source=source, recipe=recipe(), out=tmp_path / "whole")
    assert_same(weights(again), weights(whole))


class Moody:
    """A tracker that fails at its second step, and when it is closed."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def log(self, phase: str, step: int, numbers: object) -> None:
        self.steps.append(step)
        if step == 2:
            raise ConnectionError("the server\nis away")

    def close(self) -> None:
        raise ValueError("a bug")


class Late(Moody):
    def log(self, phase: str, step: int, numbers: object) -> None:
        self.steps.append(step)


def test_a_tracker_that_fails_is_said_once_and_left_out(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moody, late = Moody(), Late()
    monkeypatch.setattr(training, "open_trackers", lambda *arguments: [moody, late])
    with pytest.warns(UserWarning, match=r"loop\.trackers: ") as warned:
        run = train(compose(), source=source, recipe=recipe(), out=tmp_path / "run")
    assert sorted(str(one.message) for one in warned) == [
        "loop.trackers: Late failed when it was closed and is dropped: ValueError: a bug",
        "loop.trackers: Moody failed at step 2 of warmup and is dropped: ConnectionError: the server is away",
    ]
    assert (moody.steps, late.steps) == ([1, 2], [1, 2, 3, 4])
    assert len(run.log.read_text(encoding="utf-8").splitlines()) == 4


def stop_at(step: int) -> Callable[..., None]:
    def on_step(phase: str, now: int, steps: int, numbers: dict[str, float]) -> None:
        if now == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return on_step


def interrupted(source: str, out: Path, *more: str, step: int = 2) -> Path:
    with pytest.raises(clouds.CloudsError, match="SIGTERM: stopped after step"):
        train(compose(), source=source, recipe=recipe(*more), out=out, on_step=stop_at(step))
    return out


@pytest.mark.parametrize("kept", [0, 70])
def test_a_log_that_is_too_short_is_not_filled_up(source: str, tmp_path: Path, kept: int) -> None:
    run = interrupted(source, tmp_path / "run")
    lines = (run / "log.jsonl").read_bytes()
    assert len(lines) > 2 * kept
    (run / "log.jsonl").write_bytes(lines[:kept])
    with pytest.warns(UserWarning, match=rf"log\.jsonl has {kept} bytes; the checkpoint says {len(lines)}: some lines"):
        train(compose(), resume=run)
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()] == [3, 4]


def test_a_reading_process_that_is_killed_costs_no_step(source: str, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(phase: str, step: int, steps: int, numbers: dict[str, float]) -> None:
        if step == 3 and not killed:
            killed.extend(child.pid for child in multiprocessing.active_children() if child.pid)
            os.kill(killed[0], signal.SIGKILL)

    settings = recipe("data.workers=1", "warmup.steps=400", "loop.checkpoint_every=1000")
    with pytest.raises(TrainingError, match=r"^a data loader process died \(.*--set data\.workers=0 .*a checkpoint of"):
        train(compose(), source=source, recipe=settings, out=tmp_path / "run", on_step=kill)
    lines = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert 3 <= read_checkpoint(tmp_path / "run")[0].step == len(lines) < 400


class TestTheFolder:
    def test_a_run_that_was_finished_is_not_overwritten(self, source: str, tmp_path: Path) -> None:
        run = train(compose(), source=source, recipe=recipe(), out=tmp_path / "run")
        before = run.log.read_bytes()
        with pytest.raises(ConfigError, match=r"run already has a finished run; choose another folder, or remove it"):
            train(compose(), source=source, recipe=recipe("seed=1"), out=tmp_path / "run")
        interrupted(source, tmp_path / "other")
        with pytest.raises(ConfigError, match=r"a run that stopped after step 2 of warmup; continue it with"):
            train(compose(), source=source, recipe=recipe(), out=tmp_path / "other")
        assert run.log.read_bytes() == before

    def test_files_of_another_program_are_left_alone(self, source: str, tmp_path: Path) -> None:
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "log.jsonl").write_text("mine", encoding="utf-8")
        with pytest.raises(DataError, match=r"thesis is not empty and has no recipe\.json; choose another folder"):
            train(compose(), source=source, recipe=recipe(), out=tmp_path / "thesis")
        assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["log.jsonl"]

    def test_a_run_that_was_killed_before_its_first_step_can_be_begun_anew(self, source: str, tmp_path: Path) -> None:
        for left in ("recipe.json", FILE_NAME):
            train(compose(), source=source, recipe=recipe("warmup.steps=0"), out=tmp_path / left)
            if left == "recipe.json":
                (tmp_path / left / FILE_NAME).unlink()
            assert train(compose(), source=source, recipe=recipe(), out=tmp_path / left).steps == 4

    def test_one_run_at_a_time(self, source: str, tmp_path: Path) -> None:
        run = interrupted(source, tmp_path / "run")
        left = run / ".checkpoint.0123abcd.tmp.pt"
        left.touch()
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        with only_writer(run / ".lock"), pytest.raises(DataError, match="another run is writing to this folder"):
            train(compose(), resume=run)
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

    def test_it_goes_on_from_any_folder(
        self, source: str, generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        data = Path(source.removeprefix("folder:")).relative_to(tmp_path)
        settings = recipe(f"data.evaluation=['folder:{data}:train']", "loop.evaluate_every=3")
        with pytest.raises(clouds.CloudsError, match="SIGTERM"):
            train(
                compose(),
                source=f"folder:{data}",
                generated=generated.relative_to(tmp_path),
                recipe=settings,
                out="run",
                on_step=stop_at(2),
            )
        monkeypatch.chdir("/")
        assert train(compose(), resume=tmp_path / "run").steps == 8


class TestKeeping:
    def test_the_last_checkpoints_are_kept(self, source: str, generated: Path, tmp_path: Path) -> None:
        settings = recipe("loop.checkpoint_every=1", "loop.keep=3")
        train(compose(), source=source, generated=generated, recipe=settings, out=tmp_path / "run")
        names = [f"checkpoint-joint-{step}.pt" for step in (2, 3, 4)]
        assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint*")) == [*names, FILE_NAME]
        whole = clouds.load(tmp_path / "run" / "joint", device="cpu")
        (tmp_path / "run" / FILE_NAME).write_bytes((tmp_path / "run" / names[0]).read_bytes())
        again = compose()
        train(again, resume=tmp_path / "run", set={"loop.keep": 1})
        assert_same(weights(whole), weights(again))
        assert [path.name for path in (tmp_path / "run").glob("checkpoint*")] == [FILE_NAME]

    def test_a_kill_before_a_checkpoint_had_its_name_is_made_up_for(self, source: str, tmp_path: Path) -> None:
        """Also after the last step, which is followed by no other checkpoint."""
        run = tmp_path / "run"
        train(compose(), source=source, recipe=recipe("loop.checkpoint_every=1", "loop.keep=2"), out=run)
        (run / "checkpoint-warmup-4.pt").unlink()
        (run / "checkpoint-warmup-2.pt").write_bytes(b"one too many")
        os.utime(run / "checkpoint-warmup-2.pt", (0, 0))
        train(compose(), resume=run)
        names = ["checkpoint-warmup-3.pt", "checkpoint-warmup-4.pt", FILE_NAME]
        assert sorted(path.name for path in run.glob("checkpoint*")) == names

    def test_the_best_pipeline_is_kept(self, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        scores = iter([30.0, 40.0, 35.0, 40.0])
        seen: list[dict[str, torch.Tensor]] = []

        def evaluate(pipeline: clouds.Pipeline, specs: object) -> clouds.Report:
            seen.append(weights(pipeline))
            means = dict.fromkeys(("fwiou", "mean_accuracy", "pixel_accuracy", "boundary_miou"))
            classes = {name: {} for name in ("iou", "accuracy", "boundary_iou")}
            result = DomainResult(miou=next(scores), images=1, confusion=[], **means, **classes)
            return clouds.Report(protocol="native", domains={"day": result})

        monkeypatch.setattr(loop, "evaluate", evaluate)
        best = (f"data.evaluation=['{source}:train']", "loop.evaluate_every=1", "loop.best=miou", "loop.keep_best=2")
        run = interrupted(source, tmp_path / "run", *best, step=3)
        assert sorted(path.name for path in run.glob("best*")) == ["best", "best-warmup-2", "best-warmup-3"]
        train(compose(), resume=run)
        assert_same(weights(clouds.load(run / "best", device="cpu")), seen[1])
        names = ["best", "best-warmup-2", "best-warmup-4"]  # of equal scores the earlier is better
        assert sorted(path.name for path in run.glob("best*")) == names
        for name, before in (("best-warmup-2", seen[1]), ("best-warmup-4", seen[3])):
            assert_same(weights(clouds.load(run / name, device="cpu")), before)


class TestGoingOn:
    def test_what_does_not_change_the_steps_may_change(self, source: str, tmp_path: Path) -> None:
        run = interrupted(source, tmp_path / "run")
        train(compose(), resume=run, set={"data.on_error": "skip", "device": "cpu"})
        assert json.loads((run / "recipe.json").read_text(encoding="utf-8"))["data"]["on_error"] == "skip"
        assert "model.device" in CHANGEABLE

    @pytest.mark.parametrize("key", ["seed", "optimizer.lr", "warmup.steps", "model.head.width", "data.crop"])
    def test_the_rest_may_not(self, key: str) -> None:
        with pytest.raises(ConfigError, match=rf"^{key} cannot change when a run resumes, .*; settings that can: data"):
            changed(recipe(), {key: 1})

    def test_values_reach_a_new_run(self, source: str, tmp_path: Path) -> None:
        for given in ("folder", recipe()):
            values = {"warmup.steps": 1, "warmup.batch_size": 1, "data.crop": [32, 32]}
            assert train(compose(), source=source, recipe=given, set=values, out=tmp_path / str(type(given))).steps == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["progress"].update(zz=1), "extra fields found"),
        (lambda d: d["progress"].pop("phase"), "phase"),
        (lambda d: d["progress"].update(step=-1), "step is -1; expected at least 0"),
        (lambda d: d["progress"].update(step="1"), "'1' is not of type int"),
        (lambda d: d["progress"].update(step=5), r"step 5 of warmup, but recipe\.json says 4 steps"),
        (lambda d: d["progress"].update(phase="x"), "phase"),
        (lambda d: d["progress"].update(phase="joint"), "expected one of the run's phases"),
        (lambda d: d["progress"].update(log_size=-1), "log_size is -1; expected at least 0"),
        (lambda d: d.update(modules=[]), "not the checkpoint of a run"),
        (lambda d: d["modules"].update(head=None), "not the checkpoint of a run"),
        (lambda d: d["modules"]["head"].popitem(), "does not fit LinearHead"),
        (
            lambda d: d["modules"]["head"]["norm.weight"].fill_(float("inf")),
            r"norm\.weight of .* are not finite",
        ),
        (lambda d: d.update(optimizer={}), r"damaged or altered \(KeyError"),
        (lambda d: d["optimizer"]["param_groups"].pop(), r"damaged or altered \(ValueError"),
        (lambda d: d["optimizer"]["param_groups"][0].update(lr=float("inf")), "the optimizer's state is not finite"),
        (lambda d: d["optimizer"]["state"][0]["exp_avg"].fill_(float("nan")), "the optimizer's state is not finite"),
        (lambda d: d.update(schedule=None), "not the checkpoint of a run"),
        (lambda d: d.update(random=[]), r"damaged or altered \(IndexError"),
        (lambda d: d.update(random=[None]), "not the checkpoint of a run"),
        (lambda d: d["random"][0].update(torch=torch.zeros(3, dtype=torch.uint8)), r"damaged or altered \("),
    ],
)
def test_a_checkpoint_that_was_altered_is_one_line(
    source: str, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    run = interrupted(source, tmp_path / "run")
    document = read_checkpoint(run)[1]
    assert document is not None
    change(document)
    torch.save(document, run / FILE_NAME)
    with pytest.raises(WeightsError, match=message) as caught:
        train(compose(), resume=run)
    assert "\n" not in str(caught.value)


def test_a_log_size_beyond_the_log_takes_no_room(source: str, tmp_path: Path) -> None:
    run = interrupted(source, tmp_path / "run")
    document = read_checkpoint(run)[1]
    assert document is not None
    document["progress"]["log_size"] = 10**12
    torch.save(document, run / FILE_NAME)
    with pytest.warns(UserWarning, match=r"the checkpoint says 1000000000000: some lines are lost"):
        train(compose(), resume=run)
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()] == [
        1,
        2,
        3,
        4,
    ]


class Noisy(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(torch.nn.functional.dropout(x, 0.5, self.training))


def test_the_seed_reaches_what_components_draw_from_global_generators(source: str, tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate((3, 3, 4)):
        pipeline = compose()
        pipeline.head.classify = Noisy(pipeline.head.classify)
        torch.manual_seed(number)  # whatever the caller did before
        before = torch.get_rng_state()
        found.append(train(pipeline, source=source, recipe=recipe(f"seed={seed}"), out=tmp_path / str(number)).loss)
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1] != found[2]
