"""Reading weight files that nobody vouches for, and telling apart states by their digest."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clouds.core.system.errors import WeightsError
from clouds.core.weights.loading import digest, load_weights, misfits, read_pickle


class Code:
    """Creates a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.victim),)


class TestReadPickle:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_tensors_arrays_and_plain_values_come_back(self, tmp_path: Path, zipped: bool) -> None:
        content = {
            "model": {"a": torch.arange(3.0), "b": np.ones((2, 3), np.float32), "c": np.asfortranarray(np.eye(2, 3))},
            "scheduler": {"last_lr": np.float64(0.5), "iteration": np.int64(3)},
            "iteration": 7,
        }
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        read = read_pickle(tmp_path / "a.pth")
        assert read["iteration"] == 7
        assert read["scheduler"] == content["scheduler"]
        for key, value in content["model"].items():
            assert type(read["model"][key]) is type(value)
            assert (read["model"][key] == value).all()

    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_is_refused_and_not_run(self, tmp_path: Path, zipped: bool) -> None:
        path, victim = tmp_path / "evil.pth", tmp_path / "was-run"
        torch.save({"model": {"a": Code(victim)}}, path, _use_new_zipfile_serialization=zipped)
        message = (
            r"evil\.pth: .*, nothing of it was run: a pickle that carries code \(posix\.mkdir\); a file of tensors"
        )
        with pytest.raises(WeightsError, match=message):
            read_pickle(path)
        assert not victim.exists()

    def test_a_plain_pickle_with_code_is_refused_and_not_run(self, tmp_path: Path) -> None:
        path, victim = tmp_path / "evil.pkl", tmp_path / "was-run"
        path.write_bytes(f"cposix\nmkdir\n(V{victim}\ntR.".encode())  # protocol 0: call posix.mkdir(victim)
        with pytest.raises(WeightsError, match=r"evil\.pkl: .*nothing of it was run: a pickle that carries code"):
            read_pickle(path)
        assert not victim.exists()

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"gone\.pth: no such weight file"):
            read_pickle(tmp_path / "gone.pth")

    @pytest.mark.parametrize("zipped", [True, False])
    @given(share=st.floats(0, 1, exclude_max=True))
    def test_a_truncated_file_is_named(
        self, tmp_path_factory: pytest.TempPathFactory, zipped: bool, share: float
    ) -> None:
        path = tmp_path_factory.mktemp("cut") / "cut.pth"
        torch.save({"model": {"a": torch.zeros(100)}}, path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(WeightsError, match=r"cut\.pth: not a whole checkpoint"):
            read_pickle(path)

    @pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"PK\x05\x06" + bytes(18)])
    def test_another_file_is_named(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "other.pth").write_bytes(content)
        with pytest.raises(WeightsError, match=r"other\.pth: not a whole checkpoint"):
            read_pickle(tmp_path / "other.pth")


class TestDigest:
    def test_the_order_of_keys_does_not_matter(self) -> None:
        a, b = torch.rand(2, 3), torch.tensor(4)
        assert digest({"a": a, "b": b}) == digest({"b": b, "a": a.clone()})

    def test_strides_do_not_matter(self) -> None:
        a = torch.rand(2, 3)
        assert digest({"a": a}) == digest({"a": a.t().contiguous().t()})

    @pytest.mark.parametrize(
        "other",
        [
            {"b": torch.zeros(2, 3)},
            {"a": torch.zeros(3, 2)},
            {"a": torch.zeros(2, 3, dtype=torch.int32)},
            {"a": -torch.zeros(2, 3)},
            {"a": torch.zeros(2, 3), "b": torch.zeros(0)},
            {},
        ],
    )
    def test_names_shapes_types_and_bits_do(self, other: dict[str, torch.Tensor]) -> None:
        assert digest(other) != digest({"a": torch.zeros(2, 3)})


def test_misfits_names_every_fault() -> None:
    own = {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(4)}
    state = {"b": torch.zeros(3), "c": torch.zeros(5), "d": torch.zeros(1)}
    assert misfits(own, state) == {
        "missing keys": ["a"],
        "keys that no parameter has": ["d"],
        "wrong shapes": ["c is (5,), expected (4,)"],
    }
    assert misfits(own, own) == {}


def test_load_weights_counts_faults_and_shows_the_first() -> None:
    module = torch.nn.ModuleList([torch.nn.Linear(1, 1) for _ in range(4)])
    message = (
        "file does not fit ModuleList: 8 missing keys: 0.weight, 0.bias, 1.weight, 1.bias, 2.weight, ...; 1 keys that"
    )
    with pytest.raises(WeightsError, match=re.escape(message)):
        load_weights(module, {"x": torch.zeros(1)}, source="file")


def test_load_weights_tells_a_class_its_version() -> None:
    """A state dict without versions, as of a safetensors file, reads like one of this version once it fits."""

    class Versioned(torch.nn.Linear):
        _version = 2

        def _load_from_state_dict(self, state: Any, prefix: str, metadata: dict[str, Any], *rest: Any) -> None:
            assert metadata["version"] == 2
            super()._load_from_state_dict(state, prefix, metadata, *rest)

    module, state = Versioned(1, 1), {"weight": torch.ones(1, 1), "bias": torch.ones(1)}
    load_weights(module, state, source="file")
    assert module.weight.item() == 1
