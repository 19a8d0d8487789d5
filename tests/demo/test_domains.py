"""The demo's domains as datasets in folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clouds.core.contract.labels import CITYSCAPES
from clouds.core.system.errors import ConfigError, DataError
from clouds.data.folder import open_dataset
from clouds.demo import domains
from clouds.demo.domains import SOURCE, UNSEEN, write_domain
from clouds.streets.kits.unseen.kit import UNSEEN_KIT, unseen_styles

SIZE = (24, 48)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", [SOURCE, *UNSEEN])
def test_a_domain_is_a_dataset(tmp_path: Path, name: str) -> None:
    write_domain(name, tmp_path / "d", count=3, size=SIZE, seed=0)
    dataset = open_dataset(f"folder:{tmp_path / 'd'}", CITYSCAPES)
    assert len(dataset) == 3
    seen = set()
    for index in range(3):
        image, label = dataset.read(index)
        assert image.shape == (*SIZE, 3)
        assert label is not None
        assert label.shape == SIZE
        assert label.max() < len(CITYSCAPES)
        seen.add(image.tobytes())
    assert len(seen) == 3


def test_pictures_do_not_depend_on_the_count(tmp_path: Path) -> None:
    write_domain(SOURCE, tmp_path / "few", count=2, size=SIZE, seed=5)
    write_domain(SOURCE, tmp_path / "many", count=4, size=SIZE, seed=5)
    few, many = files(tmp_path / "few"), files(tmp_path / "many")
    assert {name: many[name] for name in few} == few


def test_domains_and_seeds_show_different_streets(tmp_path: Path) -> None:
    labels = set()
    for name, seed in [(SOURCE, 0), (SOURCE, 1), *((name, 0) for name in UNSEEN)]:
        write_domain(name, tmp_path / f"{name}{seed}", count=1, size=SIZE, seed=seed)
        (label,) = (tmp_path / f"{name}{seed}" / "labels").rglob("*.png")
        labels.add(label.read_bytes())
    assert len(labels) == 2 + len(UNSEEN)


def test_a_domain_takes_the_place_of_a_larger_one(tmp_path: Path) -> None:
    write_domain(SOURCE, tmp_path / "d", count=4, size=SIZE, seed=0)
    write_domain(SOURCE, tmp_path / "d", count=2, size=SIZE, seed=0)
    assert len(list((tmp_path / "d").rglob("*.png"))) == 2 * 2


def test_a_run_that_is_cut_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*arguments: object) -> None:
        raise KeyboardInterrupt

    write_once = domains.write_png

    def write_then_break(path: Path, pixels: np.ndarray) -> None:
        write_once(path, pixels)
        monkeypatch.setattr(domains, "write_png", break_down)

    monkeypatch.setattr(domains, "write_png", write_then_break)
    with pytest.raises(KeyboardInterrupt):
        write_domain(SOURCE, tmp_path / "d", count=2, size=SIZE, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_someone_elses_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match=r"exists and has no dataset\.toml"):
        write_domain(SOURCE, tmp_path, count=1, size=SIZE, seed=0)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "mine"


def test_an_unknown_domain(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the demo has no domain 'wet-lense'; did you mean 'wet-lens'"):
        write_domain("wet-lense", tmp_path / "d", count=1, size=SIZE, seed=0)


def test_the_unseen_domains_are_the_styles_of_their_kit() -> None:
    assert set(UNSEEN) == set(unseen_styles())
    used = {stage for style in unseen_styles().values() for stage in style.stages}
    offered = {*UNSEEN_KIT.weathers.values(), *UNSEEN_KIT.lights.values(), *UNSEEN_KIT.sensors.values()}
    assert used == offered
