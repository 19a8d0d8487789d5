"""Layouts and colours of the unseen domains, and the four styles."""

from __future__ import annotations

from attrs import evolve

from clouds.streets.kits.unseen.models import LIGHTS, SENSORS, WEATHERS
from clouds.streets.kits.unseen.textures import FACADES, TEXTURES
from clouds.streets.records import Kit, Palette, SceneLayout, Style

# Seen from a van: a higher camera, narrower lanes and a longer lens than in the other kits.
VAN = SceneLayout(
    camera_height=(1.95, 2.3),
    focal=(0.84, 0.95),
    horizon=(0.36, 0.42),
    curvature=(0.0, 0.003),
    lane_width=(2.5, 2.85),
    shoulder=(0.2, 1.8),
    sidewalk=(1.5, 3.5),
    verge=(0.2, 1.5),
    lanes=(1, 2),
    building_length=(7.0, 20.0),
    building_height=(7.0, 20.0),
    setback=(0.2, 3.0),
    density=0.85,
    pitched=0.5,
    barriers=("none", "wall", "fence"),
    skyline=("blocks", "hills"),
    tree_shapes=("poplar", "umbrella"),
    tree_height=(4.5, 9.0),
    crossing=0.3,
    objects={
        "car": (1, 4),
        "truck": (0, 1),
        "bus": (0, 1),
        "person": (1, 3),
        "rider": (0, 1),
        "bicycle": (0, 1),
        "tree": (3, 8),
        "pole": (2, 6),
        "traffic light": (0, 2),
        "traffic sign": (1, 3),
    },
)
# Seen from a low sports car with a wide lens on broad lanes.
LOW = evolve(
    VAN,
    camera_height=(0.95, 1.15),
    focal=(0.42, 0.49),
    horizon=(0.46, 0.54),
    lane_width=(3.95, 4.4),
    tree_shapes=("cube", "palm"),
    building_height=(5.0, 24.0),
)

_VEHICLES = {
    "metal": ((94, 112, 96), (226, 160, 60)),
    "tyre": ((14, 14, 16),),
    "skin": ((200, 152, 118), (144, 100, 70)),
    "housing": ((22, 24, 26),),
}
# Including jitter, each colour differs by at least 5 of 255, in some channel, from all colours of the same material in
# the other kits.
SANDSTONE = Palette(
    jitter=3,
    swatches={
        **_VEHICLES,
        "road": ((122, 104, 92), (86, 76, 88)),
        "mark": ((206, 206, 176),),
        "sidewalk": ((150, 132, 104), (196, 154, 140)),
        "curb": ((160, 146, 124),),
        "grass": ((112, 104, 58), (168, 158, 110)),
        "building": ((232, 178, 128), (186, 126, 140), (136, 118, 116)),
        "roof": ((170, 104, 60), (96, 64, 60)),
        "glass": ((30, 44, 40), (128, 140, 120)),
        "wall": ((188, 170, 120), (118, 110, 100)),
        "fence": ((60, 64, 54), (150, 76, 60)),
        "pole": ((44, 52, 62), (172, 176, 150)),
        "sign": ((226, 120, 40), (30, 130, 120)),
        "leaf": ((108, 92, 34), (40, 72, 40), (150, 150, 84)),
        "trunk": ((128, 108, 96), (50, 34, 28)),
        "sky": ((178, 176, 190), (140, 140, 160)),
        "cloth": ((96, 96, 130), (180, 90, 120), (30, 40, 30)),
        "car": ((120, 100, 60), (100, 150, 160), (90, 20, 60)),
        "truck": ((150, 170, 90), (210, 160, 60)),
        "bus": ((40, 60, 140), (180, 200, 150)),
        "train": ((120, 140, 60),),
    },
)
STEEL = Palette(
    jitter=3,
    swatches={
        **_VEHICLES,
        "road": ((52, 58, 70), (150, 152, 158)),
        "mark": ((190, 200, 216),),
        "sidewalk": ((120, 128, 142), (204, 204, 210)),
        "curb": ((90, 96, 108),),
        "grass": ((66, 84, 70), (110, 150, 110)),
        "building": ((96, 112, 140), (204, 216, 226), (80, 64, 84)),
        "roof": ((60, 66, 84), (150, 152, 164)),
        "glass": ((120, 150, 180), (20, 26, 40)),
        "wall": ((96, 104, 124), (190, 196, 206)),
        "fence": ((52, 60, 76), (206, 210, 214)),
        "pole": ((48, 54, 70), (186, 192, 204)),
        "sign": ((150, 40, 120), (60, 160, 70)),
        "leaf": ((34, 60, 56), (90, 110, 96), (124, 150, 110)),
        "trunk": ((44, 48, 56), (112, 104, 108)),
        "sky": ((196, 204, 216), (90, 110, 150)),
        "cloth": ((90, 130, 160), (230, 230, 226), (96, 40, 110)),
        "car": ((100, 108, 130), (20, 90, 90), (220, 210, 120)),
        "truck": ((90, 30, 40), (160, 180, 200)),
        "bus": ((120, 40, 110), (90, 150, 190)),
        "train": ((30, 60, 70),),
    },
)

UNSEEN_KIT = Kit(
    name="unseen domains",
    layouts={"van": VAN, "low": LOW},
    palettes={"sandstone": SANDSTONE, "steel": STEEL},
    textures=TEXTURES,
    facades=FACADES,
    lights=LIGHTS,
    weathers=WEATHERS,
    sensors=SENSORS,
)
_CHOICES = {
    "road": ("cobbles", "tar_seams"),
    "sidewalk": ("hexagons", "cobbles"),
    "building": ("weathered_boards", "checker_panels"),
    "roof": ("weathered_boards", "hexagons"),
    "wall": ("weathered_boards", "hexagons"),
    "fence": ("mesh",),
    "leaf": ("brush_strokes",),
    "grass": ("dry_tussocks",),
    "sky": ("mackerel_sky", "banded_sky"),
}


def _style(*, layout: str, palette: str, weather: str, light: str, sensor: str) -> Style:
    return UNSEEN_KIT.style(
        layout=layout,
        palette=palette,
        textures=_CHOICES,
        facades=sorted(UNSEEN_KIT.facades),
        weather=weather,
        light=light,
        sensor=sensor,
    )


def unseen_styles() -> dict[str, Style]:
    """The unseen domains by name."""
    return {
        "lamplit-night": _style(
            layout="van", palette="steel", weather="dust_veil", light="sodium_lamps", sensor="row_banding"
        ),
        "valley-mist": _style(
            layout="low", palette="sandstone", weather="valley_mist", light="flat_dome", sensor="block_codec"
        ),
        "wet-lens": _style(layout="van", palette="steel", weather="lens_drops", light="flat_dome", sensor="vignette"),
        "snow-drifts": _style(
            layout="low", palette="steel", weather="settled_drifts", light="raking_sun", sensor="row_banding"
        ),
    }
