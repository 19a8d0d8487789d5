"""What generated images and refinement bring on real photographs: three arms over several seeds, on a CPU.

Source: renders of a driving simulator. Target: photographs whose labels are never looked at in training. The backbone
is the example plugin's SqueezeNet with its ImageNet weights, frozen. Every arm of a seed starts from the same warm-up
on the source and makes the same number of further steps with as many source images in each:

- `source`: on the source alone;
- `generated`: with as many drawn images besides, labelled by the teacher;
- `refined`: the same, their labels refined.

    python -m benchmarks.generalization --data DIR --weights squeezenet1_0.safetensors --out DIR [--seeds 0 1 2]

`--data` holds `carla_town07`, `carla_mix` and `camvid`. Rows are appended to `benchmarks/results/generalization.jsonl`
as they are made; a call that was interrupted goes on with the rows that are missing.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import clouds
from benchmarks.rows import RESULTS, append, row
from clouds.core.files import write_text
from clouds.training.recipe import load_recipe

NAME = "generalization"
ARMS: dict[str, dict[str, Any]] = {
    "source": {"generated": False, "refiner": None},
    "generated": {"generated": True, "refiner": None},
    "refined": {"generated": True, "refiner": "regions"},
}
IMAGES, SIZE = 600, (192, 320)
FOLD = """[fold]
rider = "bicycle"
truck = "car"
bus = "car"
"traffic light" = "traffic sign"
terrain = "ignore"
"""
RECIPE = (
    "data.scale=[1.5, 3.0]",
    "data.source_factors=[1.0, 34.0]",
    "warmup.steps=600",
    "joint.steps=400",
    "teacher.confidence=0.0",
)


def run(data: Path, weights: Path, out: Path, seeds: list[int]) -> None:
    """Make the rows that are missing."""
    known = _known()
    generated = out / "generated"
    backbone = {"name": "squeezenet", "weights": str(weights)}
    painter = clouds.compose(backbone="tiny", head="linear", generator="procedural", prompter="grammar")
    clouds.generate(painter, n=IMAGES, out=generated, size=SIZE)
    write_text(out / "camvid.toml", FOLD)
    source = (f"folder:{data / 'carla_town07'}:train", f"folder:{data / 'carla_mix'}:train")
    for seed in seeds:
        recipe = (*RECIPE, f"seed={seed}", f"data.source={json.dumps(source)}")
        warm = out / f"warm-up-{seed}"
        if not (warm / "warmup" / "plan.json").is_file():
            pipeline = clouds.compose(backbone=backbone, head="linear")
            if (warm / "checkpoint.pt").is_file():
                clouds.train(pipeline, resume=warm)
            else:
                clouds.train(pipeline, recipe=load_recipe("folder", recipe), out=warm, phase="warmup")
        for arm, parts in ARMS.items():
            if (arm, seed) not in known:
                append(NAME, [_joint(arm, parts, seed, warm, generated, recipe, data, out)])


def _joint(
    arm: str,
    parts: dict[str, Any],
    seed: int,
    warm: Path,
    generated: Path,
    recipe: tuple[str, ...],
    data: Path,
    out: Path,
) -> dict[str, Any]:
    started = time.perf_counter()
    trained = clouds.load(warm / "warmup")
    pipeline = clouds.compose(backbone=trained.backbone, head=trained.head, refiner=parts["refiner"])
    pictures = generated if parts["generated"] else None
    size = 16 if pictures else 8  # as many source images per step in every arm
    share = f"data.generated_factor={_factor()}"
    clouds.train(
        pipeline,
        generated=pictures,
        recipe=load_recipe("folder", (*recipe, f"joint.batch_size={size}", share)),
        out=out / f"{arm}-{seed}",
        phase="joint",
    )
    report = clouds.evaluate(pipeline, [f"folder:{data / 'camvid'}:val"], configs=out / "camvid.toml")
    seconds = time.perf_counter() - started
    return row(NAME, arm, "mIoU, 11 classes", "%", [report.miou or 0.0], seed=seed, seconds=round(seconds))


def _factor() -> float:
    """Repeats of a generated image per epoch, so that half of the samples are generated."""
    return (2401 + 34.0 * 30) / IMAGES


def _known() -> set[tuple[str, int]]:
    path = RESULTS / f"{NAME}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    return {(one["provider"], one["seed"]) for one in rows}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "weights", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    run(asked.data, asked.weights, asked.out, asked.seeds)


if __name__ == "__main__":
    main()
