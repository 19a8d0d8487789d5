import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import Run, assert_one_line
from huggingface_hub import constants

from clouds.core.contract.weight_records import FileWeights
from clouds.core.weights.catalog import WEIGHTS


@pytest.fixture(autouse=True)
def _nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("CLOUDS_WEIGHTS", raising=False)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A published file of four bytes, in the cache."""
    path = tmp_path / "cache" / "weights" / "small.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"tiny")
    weights = FileWeights(
        name="small",
        licence="MIT",
        url="http://127.0.0.1:9/small.pth",
        sha256=hashlib.sha256(b"tiny").hexdigest(),
        size=4,
    )
    monkeypatch.setitem(WEIGHTS, "small", weights)
    return path


def test_list_names_all_with_licence_and_place(run: Run, small: Path) -> None:
    outcome = run("weights", "list")
    assert (outcome.code, outcome.err) == (0, "")
    assert all(name in outcome.out for name in WEIGHTS)
    [line] = [line for line in outcome.out.splitlines() if line.startswith("small")]
    assert "MIT" in line
    assert str(small.parent) in line
    assert "\nstable-diffusion-2: its owner withdrew it from the hub" in outcome.out
    found = {entry["name"]: entry for entry in json.loads(run("weights", "list", "--json").out)}
    assert found["small"]["files"] == [str(small)]
    assert found["sam-vit-b"]["size"] == 375_042_383
    assert found["sdxl"]["source"] == "hub: stabilityai/stable-diffusion-xl-base-1.0"


def test_verify_finds_damage(run: Run, small: Path) -> None:
    outcome = run("weights", "verify", "small")
    assert (outcome.code, outcome.out) == (0, f"small: {small}: intact\n")
    small.write_bytes(b"torn")
    outcome = run("weights", "verify")
    expected = f"small: {small}: DAMAGED: hash is {hashlib.sha256(b'torn').hexdigest()}, expected "
    assert outcome.code == 1
    assert outcome.out.startswith(expected)
    [verdict] = json.loads(run("weights", "verify", "--json").out)["files"]
    assert verdict["damaged"] is True


def test_verify_says_what_is_not_there(run: Run) -> None:
    outcome = run("weights", "verify")
    assert (outcome.code, outcome.out) == (0, "no published weights are on this machine\n")
    outcome = run("weights", "verify", "sam-vit-b")
    assert (outcome.code, outcome.out) == (
        1,
        "sam-vit-b: not on this machine; clouds weights fetch sam-vit-b\n",
    )
    assert json.loads(run("weights", "verify", "sam-vit-b", "--json").out) == {"files": [], "missing": ["sam-vit-b"]}


def test_verify_knows_files_without_a_published_hash(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "timm" / "resnet101_clip.openai" / "open_clip_model.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"copied")
    monkeypatch.setenv("CLOUDS_WEIGHTS", str(tmp_path))
    outcome = run("weights", "verify", "clip-rn101")
    assert (outcome.code, outcome.out) == (0, f"clip-rn101: {path}: no published hash is known\n")


def test_fetch_takes_what_is_there(run: Run, small: Path) -> None:
    outcome = run("weights", "fetch", "small")
    assert (outcome.code, outcome.out) == (0, f"small: {small}\n")
    assert json.loads(run("weights", "fetch", "small", "--json").out) == {"small": [str(small)]}


def test_fetch_refuses_what_it_does_not_know(run: Run) -> None:
    assert_one_line(run("weights", "fetch", "sam-vit-x"), "unknown weights 'sam-vit-x'; did you mean 'sam-vit-", code=2)
    assert_one_line(run("weights", "fetch"), "no weights are named; give one or more of clip-convnext-base, ", code=2)
    assert_one_line(run("weights", "fetch", "clouds-released"), "published on a page", "clouds convert")


def test_listing_does_not_import_torch() -> None:
    code = "import sys; from clouds.cli.app import main; main(['weights', 'list']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
