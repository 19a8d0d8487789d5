"""What prompts, the demo's source and its unseen domains can reach has nothing in common, and can be drawn."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from clouds.core.contract.labels import CITYSCAPES
from clouds.core.system.errors import ConfigError
from clouds.streets.kits.engine import ENGINE, engine_style
from clouds.streets.kits.promptable.kit import KIT
from clouds.streets.kits.unseen.kit import UNSEEN_KIT, unseen_styles
from clouds.streets.records import MATERIALS, Interval, Kit, Palette, Style
from clouds.streets.render import render
from clouds.streets.scene import CLASS_NAMES

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


def test_labels_are_cityscapes_train_ids() -> None:
    assert CITYSCAPES.names == CLASS_NAMES


@pytest.mark.parametrize("name", unseen_styles())
@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (97, 193)])
def test_unseen_models_draw_at_any_size(name: str, size: tuple[int, int]) -> None:
    picture = render(unseen_styles()[name], size, (0,))
    assert picture.image.shape == (*size, 3)
    assert picture.label_map.shape == size


def test_unseen_domains_show_no_class_that_the_source_never_shows() -> None:
    def classes(style: Style, count: int) -> set[int]:
        return {int(i) for index in range(count) for i in np.unique(render(style, (48, 96), (index,)).label_map)}

    known = classes(engine_style(), 30)
    for name, style in unseen_styles().items():
        assert classes(style, 6) <= known, name
