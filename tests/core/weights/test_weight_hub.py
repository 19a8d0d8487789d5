"""The hub's own client against a small hub on this machine: fetched, kept, verified, resumed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from local_hub import Hub, serving

from clouds.core.contract.weight_records import HubWeights
from clouds.core.system.errors import WeightsError
from clouds.core.weights.store import fetch, hub_file, hub_folder, judge, locate

WEIGHTS = HubWeights(name="two", licence="MIT", repo="owner/name", files=("model.safetensors", "sub/*.json"))
LARGE = bytes(range(256)) * 400


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serving(tmp_path / "home") as served:
        served.commit("owner/name", {"model.safetensors": LARGE, "sub/a.json": b"{}", "README.md": b"not needed"})
        yield served


def test_a_folder_is_made_for_another_machine(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "carried" / "owner" / "name"
    assert fetch(WEIGHTS, tmp_path / "carried") == [root / "model.safetensors", root / "sub" / "a.json"]
    assert not (root / "README.md").exists()
    monkeypatch.setenv("CLOUDS_WEIGHTS", str(tmp_path / "carried"))
    assert hub_file("owner/name", "model.safetensors") == root / "model.safetensors"
    assert all(judge(WEIGHTS, path).expected for path in locate(WEIGHTS))
    (root / "model.safetensors").write_bytes(LARGE[:-1] + b"x")
    with pytest.raises(WeightsError, match=r"model\.safetensors: hash is .*the file is not used"):
        hub_file("owner/name", "model.safetensors")
    with pytest.raises(WeightsError, match=r"model\.safetensors: hash is .*the file is not used"):
        hub_folder("owner/name")


def test_the_hubs_cache_serves_as_well(hub: Hub, tmp_path: Path) -> None:
    assert locate(WEIGHTS) == []
    paths = fetch(WEIGHTS)
    assert [path.name for path in paths] == ["model.safetensors", "a.json"]
    assert locate(WEIGHTS) == paths
    verdicts = [judge(WEIGHTS, path) for path in paths]
    assert all(verdict.expected and not verdict.damaged for verdict in verdicts)
    paths[0].resolve().write_bytes(LARGE[::-1])
    assert [judge(WEIGHTS, path).damaged for path in paths] == [True, False]
    with pytest.raises(
        WeightsError, match=r"model\.safetensors: hash is \w{64}, expected \w{64}; the file is not used"
    ):
        fetch(WEIGHTS)


def test_a_broken_connection_is_resumed(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client keeps whole blocks, of 10 MB by default."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 400)
    hub.stops = [1000]
    fetch(WEIGHTS, tmp_path / "carried")
    assert (tmp_path / "carried" / "owner" / "name" / "model.safetensors").read_bytes() == LARGE
    ranges = [asked for name, asked in hub.asked if name == "model.safetensors"]
    assert ranges[0] is None
    assert ranges[1] in ("bytes=800-", "bytes=1000-")
