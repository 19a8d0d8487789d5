"""The kit of the procedural generator, and its colours."""

from __future__ import annotations

from clouds.streets.kits.promptable.layouts import LAYOUTS
from clouds.streets.kits.promptable.light import LIGHTS, SENSORS
from clouds.streets.kits.promptable.textures import FACADES, TEXTURES
from clouds.streets.kits.promptable.weather import WEATHERS
from clouds.streets.records import Kit, Palette

# sRGB. Deliberately broad, so that training on these images shows that colour does not decide the class.
WIDE = Palette(
    jitter=6,
    swatches={
        "road": ((92, 92, 96), (118, 116, 114), (72, 74, 80), (136, 132, 126), (104, 98, 92)),
        "mark": ((228, 228, 224), (232, 206, 92)),
        "sidewalk": ((168, 164, 158), (190, 178, 162), (150, 150, 156), (172, 142, 126)),
        "curb": ((196, 194, 188), (128, 126, 124)),
        "grass": ((96, 132, 62), (128, 140, 78), (150, 132, 88), (78, 108, 60)),
        "building": (
            *((186, 160, 132), (160, 92, 74), (206, 198, 180), (142, 142, 146), (222, 208, 160), (116, 92, 80)),
            *((172, 180, 186), (200, 150, 110)),
        ),
        "roof": ((140, 74, 58), (84, 80, 84), (112, 96, 84)),
        "glass": ((66, 82, 100), (96, 112, 122), (44, 52, 60)),
        "wall": ((166, 154, 138), (142, 100, 84), (134, 134, 132)),
        "fence": ((122, 98, 72), (86, 96, 88), (176, 170, 160)),
        "pole": ((112, 114, 116), (74, 78, 78), (150, 150, 146)),
        "housing": ((40, 44, 42), (58, 52, 36)),
        "sign": ((206, 40, 44), (44, 92, 180), (240, 240, 236), (236, 196, 48)),
        "leaf": ((70, 108, 48), (96, 128, 58), (54, 88, 56), (124, 130, 60), (150, 112, 48)),
        "trunk": ((94, 74, 56), (70, 60, 52)),
        "sky": ((126, 168, 216), (150, 186, 222), (104, 148, 204), (172, 194, 214)),
        "skin": ((226, 178, 148), (176, 124, 92), (112, 78, 60)),
        "cloth": (
            *((52, 58, 84), (150, 46, 48), (66, 66, 66), (198, 190, 176)),
            *((60, 104, 88), (206, 142, 56), (122, 84, 124)),
        ),
        "car": (
            *((190, 192, 196), (42, 44, 48), (162, 36, 38), (44, 74, 130)),
            *((236, 236, 234), (70, 96, 74), (196, 164, 110)),
        ),
        "truck": ((222, 222, 216), (182, 88, 40), (58, 88, 140), (110, 122, 114)),
        "bus": ((204, 60, 44), (232, 188, 60), (62, 120, 88), (214, 214, 208)),
        "train": ((196, 52, 48), (60, 96, 150), (214, 206, 184)),
        "metal": ((60, 62, 66), (170, 48, 44), (52, 92, 140), (196, 198, 200)),
        "tyre": ((30, 30, 32), (46, 46, 48)),
    },
)

KIT = Kit(
    name="procedural generator",
    layouts=LAYOUTS,
    palettes={"wide": WIDE},
    textures=TEXTURES,
    facades=FACADES,
    lights=LIGHTS,
    weathers=WEATHERS,
    sensors=SENSORS,
)
