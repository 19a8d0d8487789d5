"""Effect of generated images and refinement on real photographs: an ablation over several seeds, on a CPU.

Source: renders of a driving simulator. Target: photographs whose labels are never used in training. The backbone is
SqueezeNet with frozen ImageNet weights (`plugins/clouds-torchvision`). The arms are `source`, `generated` and `refined`
of `clouds.ablate`. A further ablation, with the first seed, is the arm `source` with the backbone `tiny`, trained from
scratch.

    python -m benchmarks.generalization --data DIR --weights squeezenet1_0.safetensors --out DIR [--seeds 0 1 2]

`--data` has `carla_town07`, `carla_mix` and `camvid`. Repeat an interrupted call to continue it. Rows that
`benchmarks/results/generalization.jsonl` lacks are appended at the end; tables and pages are in `--out`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import clouds
from benchmarks.rows import append, read_rows, row
from clouds.core.system.config import to_toml
from clouds.core.system.files import link_file, write_text
from clouds.training.ablation_result import ROWS

NAME = "generalization"
ARMS = ("source", "generated", "refined")
MODEL = "torchvision:squeezenet1_0"
NORMALISATION = {"mean": [123, 117, 104], "std": [1, 1, 1], "unit_rms": True}  # of the weights' training images
SCRATCH = "source, tiny from scratch"
IMAGES, SIZE = 600, (192, 320)
FOLD = {"rider": "bicycle", "truck": "car", "bus": "car", "traffic light": "traffic sign", "terrain": "ignore"}
RECIPE = {
    "head": "linear",
    "refiner": "regions",
    "data.scale": [1.5, 3.0],
    "data.source_factors": [1.0, 34.0],
    "warmup.steps": 300,
    "joint.steps": 150,
    "joint.batch_size": 16,  # half of it source
    "teacher.confidence": 0.0,
}


def run(data: Path, weights: Path, out: Path, seeds: list[int]) -> None:
    """Run both ablations, and append the missing rows."""
    painter = clouds.compose(backbone="tiny", head="linear", generator="procedural", prompter="grammar")
    generated = clouds.generate(painter, n=IMAGES, out=out / "generated", size=SIZE)
    frozen = {"name": MODEL, "pretrained": str(weights), **NORMALISATION}
    recipe = {
        **RECIPE,
        "backbone": frozen,
        "data.source": [f"folder:{data / 'carla_town07'}:train", f"folder:{data / 'carla_mix'}:train"],
        "data.generated": str(generated.folder),
    }
    target = [f"{photographs(data / 'camvid', out / 'camvid')}:val"]
    scratch = {**recipe, "backbone": {"name": "tiny", "trainable": True}}
    done = clouds.ablate("folder", arms=ARMS, seeds=seeds, data=target, out=out / "arms", set=recipe)
    _append(done.out, {name: name for name in ARMS})
    done = clouds.ablate("folder", arms=["source"], seeds=seeds[:1], data=target, out=out / "scratch", set=scratch)
    _append(done.out, {"source": SCRATCH})


def photographs(data: Path, folder: Path) -> str:
    """SPEC, without its split, of the photographs with 11 classes: links to the data beside a `dataset.toml`."""
    for name in ("images", "labels"):
        link_file(data / name, folder / name)
    write_text(folder / "dataset.toml", to_toml({"fold": FOLD}))
    return f"folder:{folder}"


def _append(folder: Path, providers: dict[str, str]) -> None:
    """Append the rows of an ablation that the results lack."""
    known = {(one["provider"], one["seed"]) for one in read_rows(NAME)}
    for one in read_rows(Path(ROWS).stem, folder):
        provider = providers[one["arm"]]
        if (provider, one["seed"]) not in known:
            facts = {"seed": one["seed"], "protocol": "native", "recipe": json.dumps(RECIPE)}
            append(NAME, [row(NAME, provider, "mIoU, 11 classes", "%", [one["miou"] or 0.0], **facts)])


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
