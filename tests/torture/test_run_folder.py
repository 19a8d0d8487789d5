"""The folder of a training run as a state machine: begun, killed, gone on with, robbed of its log, owned by another."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from drill import tree
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scenarios import labelled, pipeline

import clouds
from clouds.core.system.errors import CloudsError, ConfigError, DataError
from clouds.core.system.files import only_writer
from clouds.training.checkpoint import FILE_NAME, read_checkpoint
from clouds.training.recipe import load_recipe
from clouds.training.train import train, unfinished

STEPS, EVERY = 4, 2
RECIPE = [
    *("data.crop=[32,32]", f"warmup.steps={STEPS}", "warmup.batch_size=1"),
    f"loop.checkpoint_every={EVERY}",
]
moments = st.none() | st.integers(1, STEPS)  # the step in which a run is killed; None: it comes to its end


class Killed(BaseException):
    """Stands for a kill: nothing in `clouds` answers to it."""


class RunFolder(RuleBasedStateMachine):
    """What the model knows: the step of the checkpoint (None: no run), and whether lines of the log are lost."""

    source: str
    weights: dict[str, torch.Tensor]
    log: list[tuple[int, float]]

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp())
        self.folder = self.base / "run"
        self.step: int | None = None
        self.foreign = self.lost = False

    def teardown(self) -> None:
        shutil.rmtree(self.base)

    def kill_at(self, moment: int | None):
        def on_step(phase: str, step: int, steps: int, numbers: dict[str, float]) -> None:
            if step == moment:
                raise Killed

        return on_step

    def begin(self, moment: int | None) -> None:
        recipe = load_recipe("folder", RECIPE)
        train(pipeline(), source=self.source, recipe=recipe, out=self.folder, on_step=self.kill_at(moment))

    def go_on(self, moment: int | None, **values: object) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*some lines are lost")
            train(pipeline(), resume=self.folder, on_step=self.kill_at(moment), **values)

    def reaches(self, moment: int | None) -> None:
        """A checkpoint is written after every second step; a kill comes before that of its own step."""
        before = self.step or 0
        if moment is None or moment <= before:
            self.step = STEPS
        else:
            self.step = max(before, (moment - 1) // EVERY * EVERY)

    def refused(self, kind: type[CloudsError], match: str, call, *arguments: object, **values: object) -> None:
        """Whatever is refused changes nothing."""
        before = tree(self.base)
        with pytest.raises(kind, match=match):
            call(*arguments, **values)
        after = tree(self.base)
        after.pop("run/.lock", None), before.pop("run/.lock", None)
        assert after == before

    @initialize()
    def nothing(self) -> None:
        self.source, self.weights, self.log = self.undisturbed()

    @classmethod
    def undisturbed(cls) -> tuple[str, dict[str, torch.Tensor], list[tuple[int, float]]]:
        """Made once: data, and what a run that nothing happens to ends with."""
        if "source" not in cls.__dict__:
            base = Path(tempfile.mkdtemp())
            cls.source = labelled(base / "data", 2)
            train(pipeline(), source=cls.source, recipe=load_recipe("folder", RECIPE), out=base / "run")
            cls.weights, cls.log = weights_of(base / "run"), log_of(base / "run")
        return cls.source, cls.weights, cls.log

    @precondition(lambda self: not self.folder.exists())
    @rule()
    def someone_puts_a_file_there(self) -> None:
        self.folder.mkdir()
        (self.folder / "thesis.txt").write_text("mine", encoding="utf-8")
        self.foreign = True

    @precondition(lambda self: self.foreign)
    @rule()
    def the_file_is_taken_away(self) -> None:
        (self.folder / "thesis.txt").unlink()
        self.foreign = False

    @rule(moment=moments)
    def begins(self, moment: int | None) -> None:
        if self.foreign and self.step is None:
            self.refused(DataError, r"is not empty and has no recipe\.json; choose another folder", self.begin, moment)
        elif self.step in (None, 0):  # killed before its first checkpoint, a run has done nothing that could be lost
            self.step = 0
            self.runs(self.begin, moment)
        else:
            word = "already has a finished run" if self.step == STEPS else f"stopped after step {self.step} of warmup"
            self.refused(ConfigError, word, self.begin, moment)

    @rule(moment=moments, values=st.sampled_from([{}, {"set": ["data.on_error=skip"]}, {"set": ["loop.keep=2"]}]))
    def goes_on(self, moment: int | None, values: dict[str, list[str]]) -> None:
        if self.step is None:
            self.refused(ConfigError, "so there is no run to resume; start a new run", self.go_on, moment, **values)
        else:
            self.runs(self.go_on, moment, **values)

    def runs(self, call, moment: int | None, **values: object) -> None:
        before = self.step or 0
        if moment is None or moment <= before:
            call(moment, **values)
        else:
            with pytest.raises(Killed):
                call(moment, **values)
        self.reaches(moment)

    @precondition(lambda self: self.step is not None)
    @rule(value=st.sampled_from(["warmup.steps=9", "seed=3", "optimizer.lr=0.5"]))
    def another_recipe_is_refused(self, value: str) -> None:
        self.refused(ConfigError, value.partition("=")[0], self.go_on, None, set=[value])

    @precondition(lambda self: self.step is not None)
    @rule()
    def a_second_writer_is_refused(self) -> None:
        with only_writer(self.folder / ".lock"):
            self.refused(DataError, "another run is writing to this folder", self.go_on, None)
            if self.step == 0:
                self.refused(DataError, "another run is writing to this folder", self.begin, None)

    @precondition(lambda self: self.step is not None)
    @rule(share=st.integers(0, 1000))
    def the_log_loses_its_end(self, share: int) -> None:
        log = self.folder / "log.jsonl"
        content = log.read_bytes()
        kept = len(content) * share // 1000  # a share, because the length varies with the times that the log has
        log.write_bytes(content[:kept])
        self.lost = self.lost or kept < len(content)

    @precondition(lambda self: self.step is not None)
    @rule()
    def a_kill_left_half_a_file(self) -> None:
        for left in (".checkpoint.0123abcd.tmp.pt", ".recipe.0123abcd.tmp.json"):
            (self.folder / left).write_bytes(b"half")
        unfinished(self.folder)
        assert (self.folder / ".checkpoint.0123abcd.tmp.pt").exists()  # who only reads changes nothing
        self.go_on(1 if self.step == STEPS else None)
        self.step = STEPS

    @invariant()
    def the_folder_is_as_the_model_says(self) -> None:
        if self.step is None:
            assert not (self.folder / FILE_NAME).exists()
            return
        assert read_checkpoint(self.folder)[0].step == self.step
        left = unfinished(self.folder)
        assert (left and left.step) == (None if self.step in (0, STEPS) else self.step)
        if self.step == STEPS:
            found = weights_of(self.folder)
            assert [key for key, value in self.weights.items() if not torch.equal(found[key], value)] == []
            assert {path.name for path in self.folder.glob(".*")} == {".lock"}
        log = log_of(self.folder)
        assert log == [line for line in self.log if line in log]  # in order, each once, and with the very losses
        assert self.lost or len(log) >= self.step


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    made = clouds.load(folder / "warmup", device="cpu")
    return {**made.backbone.state_dict(), **{f"head.{key}": value for key, value in made.head.state_dict().items()}}


def log_of(folder: Path) -> list[tuple[int, float]]:
    path = folder / "log.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [(json.loads(line)["step"], json.loads(line)["loss"]) for line in lines if line.endswith(b"\n")]


TestRunFolder = pytest.mark.slow(RunFolder.TestCase)
TestRunFolder.settings = settings(
    max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
