"""Effect of generated images and refinement on real photographs: three arms over several seeds, on a CPU.

Source: renders of a driving simulator. Target: photographs whose labels are never used in training. The backbone is
SqueezeNet with frozen ImageNet weights (`plugins/clouds-torchvision`). All arms of a seed start from the same warm-up
on the source, and make the same number of further steps with as many source images per step:

- `source`: on the source only;
- `generated`: plus as many drawn images, labelled by the teacher;
- `refined`: the same, with refined labels.

A further run, with the first seed, is the arm `source` with the backbone `tiny`, trained from scratch.

    python -m benchmarks.generalization --data DIR --weights squeezenet1_0.safetensors --out DIR [--seeds 0 1 2]

`--data` has `carla_town07`, `carla_mix` and `camvid`. Each row is appended to `benchmarks/results/generalization.jsonl`
when it is ready; repeat an interrupted call to add the missing rows.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import clouds
from benchmarks.rows import RESULTS, append, row
from clouds.core.system.config import to_toml
from clouds.core.system.files import write_text
from clouds.training.recipe import load_recipe

NAME = "generalization"
ARMS: dict[str, dict[str, Any]] = {
    "source": {"generated": False, "refiner": None},
    "generated": {"generated": True, "refiner": None},
    "refined": {"generated": True, "refiner": "regions"},
}
MODEL = "torchvision:squeezenet1_0"
NORMALISATION = {"mean": [123, 117, 104], "std": [1, 1, 1], "unit_rms": True}  # of the weights' training images
SCRATCH = "source, tiny from scratch"
IMAGES, SIZE = 600, (192, 320)
FOLD = {"rider": "bicycle", "truck": "car", "bus": "car", "traffic light": "traffic sign", "terrain": "ignore"}
RECIPE = (
    "data.scale=[1.5, 3.0]",
    "data.source_factors=[1.0, 34.0]",
    "warmup.steps=300",
    "joint.steps=150",
    "teacher.confidence=0.0",
)


def run(data: Path, weights: Path, out: Path, seeds: list[int]) -> None:
    """Compute and append the missing rows."""
    known = _known()
    generated = out / "generated"
    frozen = {"name": MODEL, "pretrained": str(weights), **NORMALISATION}
    painter = clouds.compose(backbone="tiny", head="linear", generator="procedural", prompter="grammar")
    clouds.generate(painter, n=IMAGES, out=generated, size=SIZE)
    write_text(out / "camvid.toml", to_toml({"fold": FOLD}))
    source = (f"folder:{data / 'carla_town07'}:train", f"folder:{data / 'carla_mix'}:train")
    for seed in seeds:
        recipe = (*RECIPE, f"seed={seed}", f"data.source={json.dumps(source)}")
        warm = _warm_up(frozen, recipe, out / f"warm-up-{seed}")
        for arm, parts in ARMS.items():
            if (arm, seed) not in known:
                append(NAME, [_joint(arm, parts, seed, warm, generated, recipe, data, out)])
    recipe = (*RECIPE, f"seed={seeds[0]}", f"data.source={json.dumps(source)}")
    if (SCRATCH, seeds[0]) not in known:
        warm = _warm_up({"name": "tiny", "trainable": True}, recipe, out / f"warm-up-{SCRATCH}")
        append(NAME, [_joint(SCRATCH, ARMS["source"], seeds[0], warm, generated, recipe, data, out)])


def _warm_up(backbone: dict[str, Any], recipe: tuple[str, ...], folder: Path) -> Path:
    """Run or resume the warm-up, and return the folder of its pipeline."""
    if not (folder / "warmup" / "plan.json").is_file():
        pipeline = clouds.compose(backbone=backbone, head="linear")
        started = time.perf_counter()
        if (folder / "checkpoint.pt").is_file():
            clouds.train(pipeline, resume=folder)
        else:
            clouds.train(pipeline, recipe=load_recipe("folder", recipe), out=folder, phase="warmup")
        print(f"{folder.name}: {time.perf_counter() - started:.0f} s", flush=True)
    return folder / "warmup"


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
    trained = clouds.load(warm)
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
    facts = {"seed": seed, "seconds": round(seconds), "protocol": report.protocol, "recipe": list(RECIPE)}
    return row(NAME, arm, "mIoU, 11 classes", "%", [report.miou or 0.0], **facts)


def _factor() -> float:
    """How often an epoch repeats each generated image, so that half of the samples are generated."""
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
