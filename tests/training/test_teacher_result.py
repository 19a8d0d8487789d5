"""`teacher.result`: the average is evaluated, saved, and starts the next phase. Runs with any optimizer resume."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from training_helpers import assert_same, compose, recipe, weights

import clouds
from clouds.core.system.errors import ConfigError
from clouds.training.checkpoint import read_checkpoint
from clouds.training.interrupt import TrainingInterrupted
from clouds.training.teacher import Teacher
from clouds.training.train import train

RESULT = ("teacher.result=true", "teacher.decay=0.5", "loop.evaluate_every=2")


def stop_at(phase: str, step: int):
    def stop(name: str, now: int, steps: int, numbers: dict[str, float]) -> None:
        if (name, now) == (phase, step):
            os.kill(os.getpid(), signal.SIGTERM)

    return stop


def test_exchange_is_exact_and_also_after_an_error() -> None:
    pipeline = compose()
    teacher = Teacher(pipeline, decay=0.5)
    before = weights(pipeline)
    with torch.no_grad():
        for parameter in teacher.head.parameters():
            parameter.add_(1)
    own = {key: value.clone() for key, value in teacher.head.state_dict().items()}

    def fail_inside() -> None:
        with teacher.in_student():
            assert_same(own, dict(pipeline.head.state_dict()))
            raise RuntimeError("in the block")

    with pytest.raises(RuntimeError, match="in the block"):
        fail_inside()
    assert_same(before, weights(pipeline))
    assert_same(own, dict(teacher.head.state_dict()))


def averaged(run: Path) -> dict[str, torch.Tensor]:
    """Weights of the teacher in a checkpoint, with the names of `weights`."""
    saved = read_checkpoint(run)[1]["modules"]
    return saved["teacher backbone"] | {f"head.{key}": value for key, value in saved["teacher head"].items()}


def test_the_warm_up_has_an_average_which_is_its_result(source: str, tmp_path: Path) -> None:
    """Steps 0 and 2 update it, from the student before them: the second is half of what two plain steps give."""
    start, two, pipeline = weights(compose()), compose(), compose()
    train(two, source=source, recipe=recipe("warmup.steps=2", "optimizer.schedule=constant"), out=tmp_path / "two")
    settings = recipe(*RESULT, f'data.evaluation=["{source}"]', "optimizer.schedule=constant", "loop.best=miou")
    run = train(pipeline, source=source, recipe=settings, out=tmp_path / "run")
    result = weights(pipeline)
    for key, value in weights(two).items():
        # one multiply-add in float32, written in two orders
        torch.testing.assert_close(result[key], 0.5 * (start[key] + value), rtol=1e-6, atol=1e-7)
    assert_same(result, averaged(tmp_path / "run"))
    assert_same(result, weights(clouds.load(run.checkpoint, device="cpu")))
    lines = [json.loads(line) for line in run.log.read_text(encoding="utf-8").splitlines()]
    assert lines[-1]["miou"] == clouds.evaluate(pipeline, [source]).miou
    best = clouds.evaluate(clouds.load(tmp_path / "run" / "best", device="cpu"), [source]).miou
    assert best == max(line.get("miou", 0) for line in lines)


def test_evaluating_the_average_leaves_the_training_as_it_is(source: str, generated: Path, tmp_path: Path) -> None:
    found = []
    for every in (0, 1):
        settings = recipe(*RESULT, f"loop.evaluate_every={every}", f'data.evaluation=["{source}"]')
        pipeline = compose()
        train(pipeline, source=source, generated=generated, recipe=settings, out=tmp_path / str(every))
        found.append(weights(pipeline) | read_checkpoint(tmp_path / str(every))[1]["modules"]["backbone"])
    assert_same(*found)


def test_the_joint_phase_starts_from_the_average_and_ends_with_its_own(
    source: str, generated: Path, tmp_path: Path
) -> None:
    both, settings = compose(), recipe(*RESULT, "loop.evaluate_every=0")
    train(both, source=source, generated=generated, recipe=settings, out=tmp_path / "both")
    assert_same(weights(both), averaged(tmp_path / "both"))
    assert_same(weights(both), weights(clouds.load(tmp_path / "both" / "joint", device="cpu")))
    later = clouds.load(tmp_path / "both" / "warmup", device="cpu")
    data = {"source": source, "generated": generated, "recipe": settings}
    train(later, **data, out=tmp_path / "later", phase="joint")
    assert_same(weights(both), weights(later))


def test_without_generated_images_the_joint_phase_has_an_average_too(source: str, tmp_path: Path) -> None:
    pipeline = compose()
    train(pipeline, source=source, recipe=recipe(*RESULT), out=tmp_path / "run", phase="joint")
    assert_same(weights(pipeline), averaged(tmp_path / "run"))


@pytest.mark.parametrize(
    "settings",
    [
        RESULT[:2],
        ("optimizer.name=sgd", "optimizer.schedule=cosine", "optimizer.lr_warmup=3"),
        ("optimizer.name=sgd", "optimizer.momentum=0.0", "optimizer.schedule=step", "optimizer.milestones=[0.5]"),
        ("optimizer.schedule=constant", 'optimizer.groups=[{match="backbone.*", lr=0.1}]', "optimizer.clip_norm=0"),
    ],
)
@pytest.mark.parametrize(("phase", "step"), [("warmup", 3), ("joint", 2)])
def test_a_stopped_run_goes_on_to_the_same_bits(
    source: str, generated: Path, tmp_path: Path, settings: tuple[str, ...], phase: str, step: int
) -> None:
    whole, again = compose(), compose()
    data = {"source": source, "generated": generated, "recipe": recipe(*settings)}
    expected = train(whole, **data, out=tmp_path / "whole")
    with pytest.raises(TrainingInterrupted, match=f"stopped after step {step} of {phase}"):
        train(compose(), **data, out=tmp_path / "run", on_step=stop_at(phase, step))
    run = train(again, resume=tmp_path / "run")
    assert_same(weights(whole), weights(again))
    assert run.loss == expected.loss
    rates = [
        [json.loads(line)["lr"] for line in one.log.read_text(encoding="utf-8").splitlines()] for one in (run, expected)
    ]
    assert rates[0] == rates[1]


def test_a_finished_run_gives_its_average_again(source: str, tmp_path: Path) -> None:
    pipeline, again = compose(), compose()
    train(pipeline, source=source, recipe=recipe(*RESULT), out=tmp_path / "run")
    train(again, resume=tmp_path / "run")
    assert_same(weights(pipeline), weights(again))


def test_a_pattern_without_a_parameter_stops_before_the_folder_is_made(source: str, tmp_path: Path) -> None:
    settings = recipe('optimizer.groups=[{match="bakbone.*", lr=0.1}]')
    with pytest.raises(ConfigError, match=r"'bakbone\.\*' matches no trained parameter; did you mean 'backbone\.\*'"):
        train(compose(), source=source, recipe=settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unknown_keys_of_groups_are_named() -> None:
    with pytest.raises(ConfigError, match=r"extra fields found \(ld\) @ \$\.optimizer\.groups\[0\]"):
        recipe('optimizer.groups=[{match="backbone.*", ld=0.1}]')


def test_clipping_switched_off_leaves_the_gradients(source: str, tmp_path: Path) -> None:
    """Beyond every gradient's norm and off are the same bits."""
    found = []
    for value in ("0", "1e9"):
        pipeline = compose()
        settings = recipe(f"optimizer.clip_norm={value}", "optimizer.name=sgd", "optimizer.lr=0.01")
        train(pipeline, source=source, recipe=settings, out=tmp_path / value)
        found.append(weights(pipeline))
    assert_same(*found)
