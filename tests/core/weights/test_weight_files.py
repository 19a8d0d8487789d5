"""Weight files of every format, whole and broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch
from safetensors.torch import save_file

from clouds.core.system.errors import WeightsError
from clouds.core.weights.files import read_weights

STATE = {"a.weight": torch.arange(600.0), "b": torch.ones(2, 3, dtype=torch.float16)}


def write(path: Path, what: Any) -> Path:
    if path.suffix == ".safetensors":
        save_file(what, path)
    else:
        torch.save(what, path)
    return path


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[key], value) for key, value in STATE.items())


@pytest.mark.parametrize("ending", [".safetensors", ".bin", ".pt", ".pth"])
def test_every_format_is_read(tmp_path: Path, ending: str) -> None:
    assert same(read_weights(write(tmp_path / f"w{ending}", STATE)))


@pytest.mark.parametrize(
    "wrapped",
    [
        {"state_dict": STATE, "epoch": 3, "optimizer": {"lr": 0.1}},
        {"model": STATE},
        {"state_dict": {f"module.{key}": value for key, value in STATE.items()}},
    ],
)
def test_training_checkpoints_are_unwrapped(tmp_path: Path, wrapped: dict[str, Any]) -> None:
    assert same(read_weights(write(tmp_path / "w.pt", wrapped)))


def test_the_old_format_without_zip_is_read(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.bin", _use_new_zipfile_serialization=False)
    assert same(read_weights(tmp_path / "w.bin"))


@pytest.mark.parametrize("ending", [".safetensors", ".bin", ".pt"])
def test_missing_files_are_named(tmp_path: Path, ending: str) -> None:
    with pytest.raises(WeightsError, match=rf"w\{ending}: no such weight file"):
        read_weights(tmp_path / f"w{ending}")


def test_unknown_endings_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"w\.npz: weight files end in \.safetensors, \.bin, \.pt, \.pth"):
        read_weights(tmp_path / "w.npz")


@pytest.mark.parametrize("kept", [0, 1, 100, 2000])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files_are_refused(tmp_path: Path, kept: int, zipped: bool) -> None:
    whole = tmp_path / "whole.bin"
    torch.save(STATE, whole, _use_new_zipfile_serialization=zipped)
    assert whole.stat().st_size > kept
    (tmp_path / "w.bin").write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"w\.bin: (refused, .*no checkpoint at all|not a whole checkpoint)"):
        read_weights(tmp_path / "w.bin")


def test_truncated_safetensors_are_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.safetensors", STATE)
    (tmp_path / "w.safetensors").write_bytes(whole.read_bytes()[:-10])
    with pytest.raises(WeightsError, match=r"w\.safetensors: not a whole safetensors file"):
        read_weights(tmp_path / "w.safetensors")


class Mischief:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("mischief-was-done"),)


def test_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "w.bin", {"a": Mischief()})
    with pytest.raises(WeightsError, match=r"w\.bin: refused, nothing of it was run: a pickle that carries code"):
        read_weights(tmp_path / "w.bin")
    assert not Path("mischief-was-done").exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (torch.ones(3), r"expected a state dict \(names to tensors\), found Tensor"),
        ({}, r"expected a state dict \(names to tensors\), found dict"),
        ({"a": torch.ones(1), "epoch": 3}, r"expected a state dict .*found 'epoch' \(int\)"),
    ],
)
def test_files_of_other_things_are_refused(tmp_path: Path, content: Any, match: str) -> None:
    with pytest.raises(WeightsError, match=match):
        read_weights(write(tmp_path / "w.pt", content))


# -- wrappings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrap", "named"),
    [
        (lambda state: {f"_orig_mod.{key}": value for key, value in state.items()}, False),
        (lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()}, False),
        (lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()}, False),
        (lambda state: {f"_fsdp_wrapped_module.{key}": value for key, value in state.items()}, False),
        (lambda state: {"epoch": 1, "state_dict_ema": state}, False),
        (lambda state: {"epoch": 1, "optimizer": {"state": {0: {"m": torch.ones(1)}}}, "model_ema": state}, False),
        (lambda state: {"teacher": {"weights": state}, "step": 3}, False),
        (lambda state: {"my_own_name": state, "epoch": 3}, False),
        (lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}}, True),
        (
            lambda state: {
                "teacher": {**{f"backbone.{key}": v for key, v in state.items()}, "dino_head.a": torch.ones(1)}
            },
            True,
        ),
        (lambda state: {f"teacher.backbone.{key}": value for key, value in state.items()}, True),
    ],
)
def test_wrappings_with_one_choice_are_taken_off(tmp_path: Path, wrap: Any, named: bool) -> None:
    assert same(read_weights(write(tmp_path / "w.pt", wrap(STATE)), names=STATE if named else ()))


@pytest.mark.parametrize(
    ("wrap", "match"),
    [
        (
            lambda state: {"state_dict": state, "state_dict_ema": state},
            r"holds weights more than once, in 'state_dict', 'state_dict_ema' \(a moving average, EMA, or a teacher "
            r"beside the model\); choose one: torch\.save\(torch\.load\('.*w\.pt'\)\['state_dict'\], 'one\.pth'\)",
        ),
        (lambda state: {"student": state, "teacher": state}, "more than once, in 'student', 'teacher'"),
        (
            lambda state: {f"{role}.{key}": value for role in ("student", "teacher") for key, value in state.items()},
            r"more than once, under 'student\.', 'teacher\.'; save the ones that you choose alone",
        ),
    ],
)
def test_a_choice_between_weights_is_the_users(tmp_path: Path, wrap: Any, match: str) -> None:
    with pytest.raises(WeightsError, match=match):
        read_weights(write(tmp_path / "w.pt", wrap(STATE)), names=STATE)


def test_names_that_the_module_has_keep_their_prefix(tmp_path: Path) -> None:
    """A module may have a part of that name itself, and a part of it may look like the whole."""
    state = {"model.a.weight": torch.arange(600.0), "model.b": torch.ones(2)}
    path = write(tmp_path / "w.pt", state)
    assert read_weights(path, names=state).keys() == state.keys()
    assert read_weights(path).keys() == state.keys()
    assert read_weights(path, names=["x", "y", "z", "b"]).keys() == state.keys()


def test_a_torchscript_program_is_named_with_the_way_on(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "w.pt", "w") as archive:  # as torch.jit.save lays it out
        for name in ("data.pkl", "code/__torch__.py", "constants.pkl", "data/0"):
            archive.writestr(f"w/{name}", b"")
    with pytest.raises(WeightsError, match=r"w\.pt: is a TorchScript program, .* extract its weights: torch\.save\("):
        read_weights(tmp_path / "w.pt")
