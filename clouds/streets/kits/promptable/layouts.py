"""Streets that a prompt can name. Camera height, focal length and lane width stay in the ranges of a passenger car."""

from __future__ import annotations

from attrs import evolve

from clouds.streets.records import SceneLayout

CITY = SceneLayout(
    camera_height=(1.25, 1.85),
    focal=(0.52, 0.78),
    horizon=(0.40, 0.52),
    curvature=(0.0, 0.004),
    lane_width=(3.0, 3.6),
    shoulder=(0.3, 2.6),
    sidewalk=(1.8, 4.0),
    verge=(0.0, 1.2),
    lanes=(1, 2),
    building_length=(9.0, 24.0),
    building_height=(9.0, 26.0),
    setback=(0.0, 1.5),
    density=0.93,
    pitched=0.2,
    barriers=("none", "none", "wall", "fence"),
    skyline=("blocks", "trees"),
    tree_shapes=("round", "oval"),
    tree_height=(4.0, 8.0),
    crossing=0.4,
    objects={
        "car": (1, 4),
        "truck": (0, 1),
        "bus": (0, 1),
        "person": (1, 4),
        "rider": (0, 1),
        "bicycle": (0, 1),
        "tree": (2, 6),
        "pole": (3, 7),
        "traffic light": (0, 2),
        "traffic sign": (1, 3),
    },
)
SUBURB = evolve(
    CITY,
    sidewalk=(1.4, 2.6),
    verge=(1.0, 4.0),
    lanes=(1, 1),
    building_length=(8.0, 14.0),
    building_height=(4.5, 8.5),
    setback=(2.0, 7.0),
    density=0.8,
    pitched=0.8,
    barriers=("fence", "wall", "fence", "none"),
    skyline=("trees", "hills"),
    tree_shapes=("round", "oval", "conifer", "bush"),
    crossing=0.25,
    objects={**CITY.objects, "car": (1, 3), "person": (0, 2), "tree": (6, 14), "pole": (2, 5), "traffic light": (0, 1)},
)
VILLAGE = evolve(
    SUBURB,
    lane_width=(3.0, 3.2),
    shoulder=(0.1, 0.6),
    sidewalk=(0.0, 1.8),
    verge=(0.3, 2.5),
    building_height=(3.5, 7.0),
    setback=(0.0, 4.0),
    density=0.7,
    pitched=0.95,
    barriers=("wall", "fence", "wall", "none"),
    skyline=("hills",),
)
HIGHWAY = evolve(
    CITY,
    curvature=(0.0, 0.0015),
    lane_width=(3.4, 3.8),
    shoulder=(0.8, 1.7),
    sidewalk=(0.0, 0.0),
    verge=(3.0, 9.0),
    lanes=(2, 3),
    setback=(6.0, 20.0),
    density=0.12,
    barriers=("fence", "wall", "none"),
    skyline=("hills", "trees"),
    tree_shapes=("round", "conifer", "bush"),
    tree_height=(4.0, 9.0),
    crossing=0.0,
    objects={"car": (3, 7), "truck": (0, 2), "bus": (0, 1), "tree": (4, 12), "pole": (0, 4), "traffic sign": (1, 3)},
)
COUNTRY = evolve(
    HIGHWAY,
    curvature=(0.0, 0.005),
    lane_width=(3.0, 3.3),
    shoulder=(0.1, 0.6),
    lanes=(1, 1),
    verge=(2.0, 7.0),
    density=0.15,
    pitched=0.9,
    building_height=(3.5, 7.0),
    objects={"car": (0, 2), "truck": (0, 1), "tree": (6, 16), "pole": (0, 3), "traffic sign": (0, 2), "rider": (0, 1)},
)
LAYOUTS = {"city": CITY, "suburb": SUBURB, "village": VILLAGE, "highway": HIGHWAY, "country": COUNTRY}
