import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from training_helpers import compose, recipe

import clouds
from clouds.core.contract.offers import Offer
from clouds.core.system.errors import ConfigError, DataError
from clouds.training.tracking import JsonLines, Tracker, open_trackers
from clouds.training.train import train

CALLS: list[tuple[Any, ...]] = []


def module(name: str, **members: object) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update(members)
    return made


class Recorder:
    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        CALLS.append(("open", folder, recipe["seed"]))

    def log(self, phase: str, step: int, numbers: dict[str, float]) -> None:
        CALLS.append((phase, step, sorted(numbers)))

    def close(self) -> None:
        CALLS.append(("close",))


def catalog(**plugins: str) -> clouds.Catalog:
    def offering(name: str) -> object:
        class Plugin:
            @clouds.hookimpl
            def clouds_trackers(self):
                return [(name, f"{__name__}:Recorder"), "odd"] if name == "mine" else [(name, f"{__name__}:Recorder")]

        return Plugin()

    return clouds.Catalog({owner: offering(name) for owner, name in plugins.items()})


def test_plugins_bring_trackers(tmp_path: Path) -> None:
    CALLS.clear()
    offers = catalog(a="mine")
    (tracker,) = open_trackers(["mine"], tmp_path, {"seed": 3}, catalog=offers)
    assert isinstance(tracker, Tracker)
    (call,) = CALLS
    assert call == ("open", tmp_path, 3)
    (broken,) = offers.broken
    assert "clouds_trackers returned 'odd'; expected a pair of a name and an import path" in broken.error


def test_names_are_found_or_explained(tmp_path: Path) -> None:
    both = catalog(a="mine", b="mine")
    with pytest.raises(ConfigError, match="two plugins offer 'mine'; choose one: a::mine or b::mine"):
        open_trackers(["mine"], tmp_path, {"seed": 0}, catalog=both)
    assert len(open_trackers(["b::mine"], tmp_path, {"seed": 0}, catalog=both)) == 1
    with pytest.raises(ConfigError, match=r"loop\.trackers: unknown tracker 'tensorbord'; did you mean 'tensorboard'"):
        open_trackers(["tensorbord"], tmp_path, {})


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_distribution_is_named_with_its_remedy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=f"{name} is not installed; pip install {name}, or remove the tracker"):
        open_trackers([name], tmp_path, {})


def test_weights_and_biases_gets_names_with_their_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    run = SimpleNamespace(log=seen.append, finish=lambda: seen.append("finished"))
    monkeypatch.setitem(sys.modules, "wandb", module("wandb", init=lambda **options: seen.append(options) or run))
    (tracker,) = open_trackers(["wandb"], tmp_path, {"seed": 1})
    tracker.log("joint", 2, {"loss": 0.5})
    tracker.close()
    assert seen == [
        {"dir": str(tmp_path), "name": tmp_path.name, "config": {"seed": 1}},
        {"joint/step": 2, "joint/loss": 0.5},
        "finished",
    ]


def test_tensorboard_gets_scalars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    writer = SimpleNamespace(add_scalar=lambda *values: seen.append(values), close=lambda: seen.append("closed"))
    monkeypatch.setitem(sys.modules, "tensorboard", module("tensorboard"))
    name = "torch.utils.tensorboard"
    monkeypatch.setitem(sys.modules, name, module(name, SummaryWriter=lambda folder: seen.append(folder) or writer))
    (tracker,) = open_trackers(["tensorboard"], tmp_path, {})
    tracker.log("warmup", 1, {"loss": 0.5})
    tracker.close()
    assert seen == [str(tmp_path / "tensorboard"), ("warmup/loss", 0.5, 1), "closed"]


def test_tensorboard_reads_what_it_was_given(source: str, tmp_path: Path) -> None:
    reason = "tensorboard is an option; the test beside shows what it is given"
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason=reason)
    settings = recipe('loop.trackers=["tensorboard"]')
    run = train(compose(), source=source, recipe=settings, out=tmp_path / "run")
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    written = [json.loads(line) for line in run.log.read_text(encoding="utf-8").splitlines()]
    assert set(events.Tags()["scalars"]) == {f"warmup/{name}" for name in written[0].keys() - {"phase", "step"}}
    found = [(event.step, event.value) for event in events.Scalars("warmup/loss")]
    # they are kept in float32
    assert found == [(line["step"], pytest.approx(line["loss"], rel=2**-23)) for line in written]


def test_tensorboard_and_others_get_scores_per_domain_and_class(source: str, tmp_path: Path) -> None:
    reason = "tensorboard is an option; `as_numbers` is tested beside"
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason=reason)
    options = ('loop.trackers=["tensorboard"]', "loop.evaluate_every=4", f'data.evaluation=["{source}"]')
    run = train(compose(), source=source, recipe=recipe(*options), out=tmp_path / "run")
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    last = json.loads(run.log.read_text(encoding="utf-8").splitlines()[-1])
    ((name, scores),) = last["scores"].items()
    measured = {f"warmup/iou/{name}/{label}": value for label, value in scores["iou"].items() if value is not None}
    assert len(measured) == 2  # road and sky
    for tag, value in {f"warmup/miou/{name}": scores["miou"], **measured}.items():
        ((step, found),) = [(event.step, event.value) for event in events.Scalars(tag)]
        assert (step, found) == (4, pytest.approx(value, rel=2**-23))
    assert not any(tag.startswith(f"warmup/iou/{name}/car") for tag in events.Tags()["scalars"])


def test_a_run_uses_and_closes_what_was_asked_for(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS.clear()
    mine = Offer("mine", f"{__name__}:Recorder")
    monkeypatch.setattr(clouds.Catalog, "offers", lambda self, kind: {"a::mine": mine})
    train(compose(), source=source, recipe=recipe('loop.trackers=["mine"]', "warmup.steps=1"), out=tmp_path / "run")
    opened, (phase, step, names), closed = CALLS
    assert (opened[0], phase, step, closed) == ("open", "warmup", 1, ("close",))
    assert {"loss", "lr", "images_per_second"} <= set(names)


def test_a_log_can_be_watched(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "log.jsonl")
    log.log("warmup", 1, {"loss": 1.0})
    assert (tmp_path / "log.jsonl").read_text(encoding="utf-8") == '{"phase": "warmup", "step": 1, "loss": 1.0}\n'
    log.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "log.jsonl")
    log._stream.close()
    with open("/dev/full", "ab", buffering=0) as full:
        log._stream = full
        with pytest.raises(
            DataError, match=r"log\.jsonl: step 7 of joint cannot be written: .*No space left.*disk space"
        ):
            log.log("joint", 7, {"loss": 1.0})


def test_a_log_goes_on_where_its_checkpoint_was(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "log.jsonl")
    log.log("warmup", 1, {"loss": 1.0})
    size = log.size()
    log.log("warmup", 2, {"loss": 2.0})
    log.close()
    again = JsonLines(tmp_path / "log.jsonl", size=size)
    again.log("warmup", 2, {"loss": 3.0})
    again.close()
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [1.0, 3.0]


def test_a_log_that_is_a_link_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine", encoding="utf-8")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").symlink_to(victim)
    with pytest.raises(DataError, match=r"log\.jsonl is, or lies behind, a link out of"):
        JsonLines(tmp_path / "run" / "log.jsonl")
    assert victim.read_text(encoding="utf-8") == "mine"


def test_the_size_is_that_of_what_is_kept(tmp_path: Path) -> None:
    """Also before the first line: a checkpoint of this moment records it."""
    log = JsonLines(tmp_path / "log.jsonl")
    log.log("warmup", 1, {"loss": 1.0})
    kept = log.size()
    log.log("warmup", 2, {"loss": 1.0})
    log.close()
    for size in (kept, 0):
        again = JsonLines(tmp_path / "log.jsonl", size=size)
        assert again.size() == size == (tmp_path / "log.jsonl").stat().st_size
        again.close()
