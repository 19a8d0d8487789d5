"""The demo's domains: what prompts, the source and the unseen domains can reach has nothing in common."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from clouds.core.contract.labels import CITYSCAPES
from clouds.core.system.errors import ConfigError, DataError
from clouds.data.folder import open_dataset
from clouds.demo import domains
from clouds.demo.domains import SOURCE, UNSEEN, write_domain
from clouds.demo.engine import ENGINE, engine_style
from clouds.demo.unseen.kit import UNSEEN_KIT, unseen_styles
from clouds.generators.promptable.kit import KIT
from clouds.generators.street.records import MATERIALS, Interval, Kit, Palette, Style
from clouds.generators.street.render import render

SIZE = (24, 48)
MODELS = ("textures", "facades", "lights", "weathers", "sensors")
AXES = ("camera_height", "focal", "lane_width")
PAIRS = [(UNSEEN_KIT, KIT), (UNSEEN_KIT, ENGINE), (ENGINE, KIT)]
UNSEEN_PAIRS = PAIRS[:2]


def name_of(kits: tuple[Kit, Kit]) -> str:
    return " | ".join(kit.name for kit in kits)


@pytest.mark.parametrize("models", MODELS)
@pytest.mark.parametrize("kits", PAIRS, ids=map(name_of, PAIRS))
def test_no_model_is_in_two_kits(kits: tuple[Kit, Kit], models: str) -> None:
    one, other = (getattr(kit, models) for kit in kits)
    assert one
    assert other
    assert not set(one) & set(other)
    assert not set(one.values()) & set(other.values())


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("kits", UNSEEN_PAIRS, ids=map(name_of, UNSEEN_PAIRS))
def test_layouts_do_not_overlap(kits: tuple[Kit, Kit], axis: str) -> None:
    for one, other in product(*(kit.layouts.values() for kit in kits)):
        a: Interval = getattr(one, axis)
        b: Interval = getattr(other, axis)
        assert a[1] < b[0] or b[1] < a[0], (axis, a, b)


@pytest.mark.parametrize("kits", UNSEEN_PAIRS, ids=map(name_of, UNSEEN_PAIRS))
def test_trees_have_other_shapes(kits: tuple[Kit, Kit]) -> None:
    unseen, other = ({shape for layout in kit.layouts.values() for shape in layout.tree_shapes} for kit in kits)
    assert not unseen & other


def distance(one: Palette, other: Palette, material: str) -> int:
    """The least distance (largest difference of a channel, 0..255) between reachable colours, jitter included."""
    reach = one.jitter + other.jitter
    return min(
        max(abs(a - b) for a, b in zip(first, second, strict=True)) - reach
        for first, second in product(one.swatches[material], other.swatches[material])
    )


@pytest.mark.parametrize("material", MATERIALS)
@pytest.mark.parametrize("kits", UNSEEN_PAIRS, ids=map(name_of, UNSEEN_PAIRS))
def test_colours_of_a_material_keep_their_distance(kits: tuple[Kit, Kit], material: str) -> None:
    for one, other in product(*(kit.palettes.values() for kit in kits)):
        assert distance(one, other, material) >= 5


def test_a_style_cannot_borrow_from_another_kit() -> None:
    own = {
        "layout": "van",
        "palette": "steel",
        "textures": {"road": ("cobbles",)},
        "facades": ("balconies",),
        "weather": "valley_mist",
        "light": "sodium_lamps",
        "sensor": "vignette",
    }
    UNSEEN_KIT.style(**own)
    for what, foreign in (
        ("layout", "city"),
        ("palette", "wide"),
        ("textures", {"road": ("fine_grain",)}),
        ("facades", ("grid_windows",)),
        ("weather", "exponential_fog"),
        ("light", "daylight"),
        ("sensor", "soft_lens"),
    ):
        with pytest.raises(ConfigError, match=r"kit 'unseen domains' has no '\w+' among its \w+; "):
            UNSEEN_KIT.style(**{**own, what: foreign})


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
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"exists and has no dataset\.toml"):
        write_domain(SOURCE, tmp_path, count=1, size=SIZE, seed=0)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_an_unknown_domain(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the demo has no domain 'wet-lense'; did you mean 'wet-lens'"):
        write_domain("wet-lense", tmp_path / "d", count=1, size=SIZE, seed=0)


def test_the_unseen_domains_are_the_styles_of_their_kit() -> None:
    assert set(UNSEEN) == set(unseen_styles())
    used = {stage for style in unseen_styles().values() for stage in style.stages}
    offered = {*UNSEEN_KIT.weathers.values(), *UNSEEN_KIT.lights.values(), *UNSEEN_KIT.sensors.values()}
    assert used == offered


@pytest.mark.parametrize("name", UNSEEN)
@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (97, 193)])
def test_unseen_models_draw_at_any_size(name: str, size: tuple[int, int]) -> None:
    picture = render(unseen_styles()[name], size, (0,))
    assert picture.image.shape == (*size, 3)
    assert picture.labels.shape == size


def test_unseen_domains_show_no_class_that_the_source_never_shows() -> None:
    def classes(style: Style, count: int) -> set[int]:
        return {int(i) for index in range(count) for i in np.unique(render(style, (48, 96), (index,)).labels)}

    known = classes(engine_style(), 30)
    for name, style in unseen_styles().items():
        assert classes(style, 6) <= known, name
