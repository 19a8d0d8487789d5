"""Published weights on this machine, with a small catalog, a local server, and the hub's folder layouts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from attrs import evolve
from huggingface_hub import constants
from weight_helpers import FileServer, serving

from clouds.core.contract.weight_records import FileWeights, HubWeights, PageWeights, Pinned
from clouds.core.system.errors import WeightsError
from clouds.core.weights import download as download_module
from clouds.core.weights.catalog import SAM, WEIGHTS
from clouds.core.weights.store import (
    fetch,
    hub_file,
    hub_folder,
    judge,
    locate,
    obtain,
    open_clip_file,
    require_published,
    weights_file,
    weights_folder,
)

CONTENT = b"weights" * 100
HUB = HubWeights(name="two", licence="MIT", repo="owner/name", files=("model.safetensors", "sub/*.json"))
COMMIT = "c" * 40


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileWeights]:
    """A published file of 700 bytes, and no weights on this machine."""
    monkeypatch.setenv("CLOUDS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("CLOUDS_WEIGHTS", raising=False)
    monkeypatch.setattr(download_module, "_PAUSE", 0.0)
    with serving(FileServer(CONTENT)) as server:
        weights = FileWeights(
            name="one",
            licence="MIT",
            url=server.url,
            sha256=hashlib.sha256(CONTENT).hexdigest(),
            size=len(CONTENT),
        )
        monkeypatch.setitem(WEIGHTS, "one", weights)
        yield weights


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def hub_layout(root: Path, *, notes: bool) -> Path:
    """What `snapshot_download(local_dir=root)` leaves: the files, and with notes their published hashes."""
    for name, content in {"model.safetensors": CONTENT, "sub/a.json": b"{}", "README.md": b"hi"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
        if notes:
            large = name.endswith(".safetensors")
            note = root / ".cache" / "huggingface" / "download" / f"{name}.metadata"
            note.parent.mkdir(parents=True, exist_ok=True)
            published = hashlib.sha256(content).hexdigest() if large else git_sha1(content)
            note.write_text(f"{COMMIT}\n{published}\n1700000000.0\n", encoding="utf-8")
    return root


def test_a_file_is_fetched_once_and_verified(file: FileWeights, tmp_path: Path) -> None:
    assert locate(file) == []
    path = obtain(file)
    assert path == tmp_path / "cache" / "weights" / "weights.pth"
    assert locate(file) == [path] == fetch(file) == [obtain(file)]
    assert judge(file, path).damaged is False


def test_the_folder_comes_before_the_cache(file: FileWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [carried] = fetch(file, tmp_path / "carried")
    cached = obtain(file)
    monkeypatch.setenv("CLOUDS_WEIGHTS", str(tmp_path / "carried"))
    assert obtain(file) == carried != cached
    carried.write_bytes(b"damaged")
    with pytest.raises(
        WeightsError, match=rf"{carried}: sha256 is \w{{64}}, expected {file.sha256}; the file is not u"
    ):
        obtain(file)
    assert judge(file, carried).damaged is True


def test_without_a_network_it_is_said_what_to_do(file: FileWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable = FileWeights(name="x", licence="MIT", url="http://127.0.0.1:9/x.pth", sha256="0" * 64, size=1)
    match = (
        r"could not get weights from http://127.0.0.1:9/x.pth \(URLError: .*refused"
        r".*clouds weights fetch NAME --out FOLDER"
        r".*put them at x.pth in CLOUDS_WEIGHTS=FOLDER, or use pretrained=FILE"
    )
    with pytest.raises(WeightsError, match=match):
        obtain(unreachable)


def test_a_file_of_a_published_name_must_be_the_published_one(file: FileWeights, tmp_path: Path) -> None:
    own = tmp_path / "own.pth"
    own.write_bytes(b"mine")
    assert require_published(own) == own
    renamed = own.rename(tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"weights\.pth: sha256 is .* or rename your own file"):
        require_published(renamed)
    with pytest.raises(WeightsError, match=r"none\.pth: no such weight file"):
        require_published(tmp_path / "none.pth")


def test_a_file_name_that_two_publish_may_be_either(
    file: FileWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a wrong hash of one plugin keep another from its own file."""
    other = evolve(file, name="other", sha256=hashlib.sha256(b"other").hexdigest())
    monkeypatch.setitem(WEIGHTS, "other", other)
    assert weights_file("one", True) == obtain(file)
    path = tmp_path / file.file
    for content in (CONTENT, b"other"):
        path.write_bytes(content)
        assert require_published(path) == path
    path.write_bytes(b"neither")
    with pytest.raises(WeightsError, match=rf"expected {file.sha256} or {other.sha256}; the file is not used"):
        require_published(path)


@pytest.mark.parametrize("notes", [True, False])
def test_hub_files_lie_in_the_folder(
    file: FileWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes: bool
) -> None:
    assert hub_file("owner/name", "model.safetensors") is None
    root = hub_layout(tmp_path / "carried" / "owner" / "name", notes=notes)
    monkeypatch.setenv("CLOUDS_WEIGHTS", str(tmp_path / "carried"))
    assert hub_folder("owner/name") == root
    assert hub_file("owner/name", "model.safetensors") == root / "model.safetensors"
    assert hub_file("owner/name", "other") is None
    paths = locate(HUB)
    assert paths == [root / "model.safetensors", root / "sub" / "a.json"]
    assert [judge(HUB, path).damaged for path in paths] == [False, False]
    assert [judge(HUB, path).expected is not None for path in paths] == [notes, notes]
    for path in paths:
        path.write_bytes(b"damaged")
    assert [judge(HUB, path).damaged for path in paths] == [notes, notes]
    if notes:
        with pytest.raises(WeightsError, match=r"model\.safetensors: hash is \w{64}, expected \w{64}; the file is not"):
            hub_file("owner/name", "model.safetensors")
        with pytest.raises(WeightsError, match=r"model\.safetensors: hash is \w{64}, expected \w{64}; the file is not"):
            hub_folder("owner/name")
    else:
        assert hub_folder("owner/name") == root
    (root / "sub" / "a.json").unlink()
    assert locate(HUB) == []


@pytest.mark.parametrize("repo", ["../name", "owner/..", "name", "/owner/name", "a/b/c", "", "./."])
def test_only_names_of_repositories_are_looked_up(
    file: FileWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo: str
) -> None:
    (tmp_path / "name").mkdir()
    (tmp_path / "carried" / "a" / "b" / "c").mkdir(parents=True)
    monkeypatch.setenv("CLOUDS_WEIGHTS", str(tmp_path / "carried"))
    assert hub_folder(repo) is None


def test_a_folder_that_is_not_there_is_named(file: FileWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDS_WEIGHTS", "/no/where")
    with pytest.raises(WeightsError, match=r"CLOUDS_WEIGHTS=/no/where: no such folder; make it with `clouds weights"):
        weights_folder()
    with pytest.raises(WeightsError, match="no such folder"):
        obtain(file)


def test_hub_repositories_are_fetched_and_verified(
    file: FileWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def snapshot(repo: str, *, revision: str | None, allow_patterns: list[str], local_dir: Path) -> str:
        assert revision is None
        calls.append({"repo": repo, "patterns": allow_patterns})
        return str(hub_layout(local_dir, notes=True))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    root = tmp_path / "out" / "owner" / "name"
    assert fetch(HUB, tmp_path / "out") == [root / "model.safetensors", root / "sub" / "a.json"]
    assert calls == [{"repo": "owner/name", "patterns": ["model.safetensors", "sub/*.json"]}]
    lacking = HubWeights(name="l", licence="MIT", repo="owner/name", files=("model.safetensors", "*.bin"))
    with pytest.raises(WeightsError, match=r"repository owner/name has not all of model.safetensors, \*\.bin; got "):
        fetch(lacking, tmp_path / "out")


def test_what_is_pinned_is_asked_for_and_verified(
    file: FileWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def snapshot(repo: str, *, revision: str | None, allow_patterns: list[str], local_dir: Path) -> str:
        asked.append(revision)
        return str(hub_layout(local_dir, notes=False))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    right, wrong = (Pinned(len(CONTENT), hashlib.sha256(content).hexdigest()) for content in (CONTENT, b"other"))
    weights = evolve(HUB, revision=COMMIT, pinned={"model.safetensors": right})
    (path, _) = fetch(weights, tmp_path / "out")
    assert asked == [COMMIT]
    assert judge(weights, path).expected == right.sha256
    weights = evolve(weights, pinned={"model.safetensors": wrong})
    with pytest.raises(WeightsError, match=rf"hash is {right.sha256}, expected {wrong.sha256}; the file is not used"):
        fetch(weights, tmp_path / "out")
    monkeypatch.setitem(WEIGHTS, "two", weights)
    monkeypatch.setenv("CLOUDS_WEIGHTS", str(tmp_path / "out"))
    with pytest.raises(WeightsError, match=rf"expected {wrong.sha256}; the file is not used"):
        hub_file("owner/name", "model.safetensors")


def test_another_form_of_a_file_does_where_the_first_is_not_there(
    file: FileWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some repositories of open_clip have no safetensors; a .bin is read without running code, too."""
    root = tmp_path / "out" / "owner" / "name"

    def snapshot(repo: str, *, revision: str | None, allow_patterns: list[str], local_dir: Path) -> str:
        local_dir.mkdir(parents=True, exist_ok=True)
        if "open_clip_pytorch_model.bin" in allow_patterns:
            (local_dir / "open_clip_pytorch_model.bin").write_bytes(b"old")
        return str(local_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    files = {"files": ("open_clip_model.safetensors",), "instead": ("open_clip_pytorch_model.bin",)}
    weights = HubWeights(name="l", licence="MIT", repo="owner/name", **files)
    assert fetch(weights, tmp_path / "out") == [root / "open_clip_pytorch_model.bin"]
    monkeypatch.setenv("CLOUDS_WEIGHTS", str(tmp_path / "out"))
    assert locate(weights) == [root / "open_clip_pytorch_model.bin"]
    assert open_clip_file({"hf_hub": "owner/name/"}) == root / "open_clip_pytorch_model.bin"
    (root / "own.bin").write_bytes(b"own")
    assert open_clip_file({"hf_hub": "owner/name/own.bin"}) == root / "own.bin"
    (root / "own.safetensors").write_bytes(b"own")
    assert open_clip_file({"hf_hub": "owner/name/own.bin"}) == root / "own.safetensors"
    (root / "open_clip_model.safetensors").write_bytes(b"new")
    assert open_clip_file({"hf_hub": "owner/name/"}) == root / "open_clip_model.safetensors"
    assert open_clip_file({"hf_hub": "owner/name/none.bin"}) is None


def test_the_hubs_own_cache_is_looked_in(file: FileWeights, tmp_path: Path) -> None:
    """Its layout: content by hash, and links to it by commit."""
    root = tmp_path / "hub" / "models--owner--name"
    snapshot = root / "snapshots" / COMMIT
    for name, content in {"model.safetensors": CONTENT, "sub/a.json": b"{}"}.items():
        blob = root / "blobs" / (hashlib.sha256(content).hexdigest() if "model" in name else git_sha1(content))
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blob)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    paths = locate(HUB)
    assert [path.name for path in paths] == ["model.safetensors", "a.json"]
    assert all(judge(HUB, path).expected and not judge(HUB, path).damaged for path in paths)


def test_an_unreachable_hub_is_named(file: FileWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        WeightsError, match=r"from hub repository owner/name \(ConnectionError: no route\).*owner/name/ in"
    ):
        fetch(HUB)
    assert locate(HUB) == []


def test_pages_are_for_people(file: FileWeights) -> None:
    page = WEIGHTS["clouds-released"]
    assert isinstance(page, PageWeights)
    assert locate(page) == []
    with pytest.raises(WeightsError, match=r"published on a page, without hashes: https://partage.*clouds convert"):
        fetch(page)


def test_the_catalog_says_what_the_libraries_say() -> None:
    """Repositories are those that open_clip and timm download from."""
    import open_clip
    import timm

    from clouds.backbones.published import CLIP_MODELS, TIMM_MODELS

    for name, clip in CLIP_MODELS.items():
        weights = WEIGHTS[name]
        assert isinstance(weights, HubWeights)
        assert open_clip.get_pretrained_cfg(clip.model, clip.weights)["hf_hub"] == f"{weights.repo}/"
        tokenizer = open_clip.get_model_config(clip.model)["text_cfg"].get("hf_tokenizer_name", weights.repo)
        assert tokenizer == weights.repo
    for name, model in TIMM_MODELS.items():
        weights, config = WEIGHTS[name], timm.get_pretrained_cfg(model.model)
        assert isinstance(weights, HubWeights)
        assert config is not None
        assert config.hf_hub_id == weights.repo


def test_entries_are_well_formed() -> None:
    for name, weights in WEIGHTS.items():
        assert weights.name == name
        if isinstance(weights, FileWeights):
            assert len(bytes.fromhex(weights.sha256)) == 32
            assert weights.size > 0
        if isinstance(weights, HubWeights):
            assert weights.pinned.keys() <= set(weights.files)
            assert not weights.revision or len(bytes.fromhex(weights.revision)) == 20
            assert all(len(bytes.fromhex(known.sha256)) == 32 and known.size for known in weights.pinned.values())
    assert [weights.file for weights in SAM.values()] == [
        "sam_vit_b_01ec64.pth",
        "sam_vit_l_0b3195.pth",
        "sam_vit_h_4b8939.pth",
    ]


def test_a_component_asks_by_name_or_brings_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own.pth"
    own.write_bytes(b"own")
    assert weights_file("small", own) == own
    small = FileWeights(
        name="small",
        licence="",
        url="http://127.0.0.1:9/small.pth",
        sha256=hashlib.sha256(b"small").hexdigest(),
        size=5,
    )
    monkeypatch.setitem(WEIGHTS, "small", small)
    monkeypatch.setenv("CLOUDS_WEIGHTS", str(tmp_path))
    (tmp_path / "small.pth").write_bytes(b"small")
    assert weights_file("small", True) == tmp_path / "small.pth"
    with pytest.raises(WeightsError, match="no published weights in one file are named 'sdxl'"):
        weights_file("sdxl", True)
