"""Every code block of the documentation does what the page says it does."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from doc_blocks import NOT_RUN, RUN, Runner, find_blocks
from local_hub import serving
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
SLOW: set[str] = set()
HUB = {"docs/tutorials/hub.md"}  # pages that push to a hub: to one on this machine


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages take for granted: a photograph, a folder of them, and two small datasets."""
    rng = np.random.default_rng(0)
    for name, split in (("my-renders", "train"), ("my-photos", "val")):
        for index in range(2):
            label_map = np.repeat(np.repeat(rng.integers(0, 19, (6, 12)), 16, 0), 16, 1).astype(np.uint8)
            picture = np.stack([label_map * 10, 255 - label_map * 10, label_map], -1).astype(np.uint8)
            for kind, array in (("images", picture), ("labels", label_map)):
                (tmp_path / name / kind / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(tmp_path / name / kind / split / f"{index}.png")
    (tmp_path / "photos").mkdir()
    for name in ("street.jpg", "photos/a.jpg", "photos/b.jpg"):
        Image.fromarray(rng.integers(0, 255, (64, 96, 3), np.uint8)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLOUDS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "installed"), *sys.path])  # where a page's own package goes
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"))
    return tmp_path


@pytest.mark.filterwarnings("ignore:the head .* has not been trained")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=_name(page), marks=[pytest.mark.slow] if _name(page) in SLOW else [])
        for page in PAGES
        if find_blocks(page)
    ],
)
def test_blocks(page: Path, reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def printed() -> str:
        return "".join(capsys.readouterr())

    runner = Runner(printed)
    with serving(reader / "home") if _name(page) in HUB else nullcontext():
        for block in find_blocks(page):
            try:
                runner.run(block)
            except BaseException as error:
                error.add_note(f"in the block at {_name(page)}:{block.line}")
                raise


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_block_has_a_language_that_is_run_or_not(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    blocks = find_blocks(page)
    assert {block.language for block in blocks} <= {*RUN, *NOT_RUN}
    assert text.count("```") == 2 * len(blocks), "a fence that is indented, has no language, or is not closed"
    assert all(block.title for block in blocks if block.language == "toml"), "a TOML block says which file it is"
