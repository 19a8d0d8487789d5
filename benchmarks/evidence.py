"""What photographs without labels gain on photographs: the arms of an ablation over several seeds, on a CPU.

Source: renders of a driving simulator. Target: CamVid's validation photographs. CamVid's training photographs take the
place of generated images; their labels serve the arm `ceiling` and the accuracy of the first teacher alone. Every
checkpoint has its label-free scores on these photographs, and the tables their rank correlation with mIoU. Backbone:
EfficientNet-Lite2 with frozen ImageNet weights (`plugins/clouds-efficientnet-lite`).

    python -m benchmarks.evidence --data DIR --out DIR [--seeds 0 1 2]

`--data` has `carla_town07`, `carla_mix` and `camvid`. Repeat an interrupted call to continue it. After each seed, the
rows that `benchmarks/results/ablation.jsonl` lacks are appended. Tables and pages are in `--out`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import clouds
from benchmarks import generalization
from benchmarks.rows import RESULTS, append, read_rows, row
from clouds.core.contract.labels import LabelSpace
from clouds.core.system.cpu import missing_instructions
from clouds.core.system.files import link_file
from clouds.data.check import check_dataset
from clouds.data.folder import open_dataset
from clouds.evaluation.spread import Spread
from clouds.training.ablation_result import ROWS

NAME = "ablation"
MIOU, TEACHER = "mIoU, 11 classes", "first teacher"
IMAGES, SIZE = 734, (192, 320)  # twice as many as there are photographs
RECIPE = {
    **generalization.RECIPE,
    "backbone": "efficientnet-lite2",
    "loop.channels_last": True,  # faster on CPUs
}
DTYPE = "bfloat16"  # faster on CPUs with its instructions; on others, which emulate it, float32 takes its place
RARE = {"name": "rare-classes", "temperature": 0.05, "min_pixels": 0}  # some classes have a few pixels in one set
TWO_SCALES, PER_CLASS = "teacher.scales=[0.5,1.0]", "teacher.class_confidence=1.0"
FULL = f"refined+{TWO_SCALES}+{PER_CLASS}"
# Arms of the recipe as it is: what `clouds.ablate` takes, and the name in the table
PLAIN = {
    "source": "source only",
    "generated": "photographs",
    "refined": "photographs, refined",
    f"clouds={FULL}": "photographs, refined, two scales, per class",
    "ceiling": "the photographs' own labels",
}
# Arms with rare-class sampling in both phases
SAMPLED = {
    "source": "source only; rare classes",
    "refined": "photographs, refined; rare classes",
    f"scales=refined+{TWO_SCALES}": "photographs, refined, two scales; rare classes",
    f"classes=refined+{PER_CLASS}": "photographs, refined, per class; rare classes",
    f"clouds={FULL}": "photographs, refined, two scales, per class; rare classes",
    f"drawn={FULL}+data.generated=DRAWN": "the same with drawn scenes alone",
    f"both={FULL}+data.generated=BOTH": "the same with drawn scenes beside photographs",
    f"mixed={FULL}+data.class_mix=true": "the same with ClassMix",
    f"guided={FULL}+refiner=guided": "the same, refined by guided filters",
}


def run(data: Path, out: Path, seeds: Sequence[int]) -> None:
    """Run both ablations seed by seed, and append the missing rows after each."""
    pictures = _pictures(data / "camvid", out)
    sources = [f"folder:{data / name}:train" for name in ("carla_town07", "carla_mix")]
    recipe = {**RECIPE, "data.source": sources, "data.generated": str(pictures["PHOTOGRAPHS"])}
    if not missing_instructions(DTYPE):
        recipe["model.dtype"] = DTYPE
    sampler = {**RARE, "index": [str(path) for path in _indexes(sources, out)]}
    sampled = {**recipe, "data.sampler": sampler}
    target = generalization.photographs(data / "camvid", out / "camvid")
    for count in range(1, len(seeds) + 1):
        for name, arms, settings in (("plain", PLAIN, recipe), ("sampled", SAMPLED, sampled)):
            done = clouds.ablate(
                "folder",
                arms=[_located(arm, pictures) for arm in arms],
                seeds=seeds[:count],
                data=[f"{target}:val"],
                ceiling=[f"{target}:train"],
                out=out / name,
                pictures=f"{target}:train",
                set=settings,
                say=print,
            )
            _append(done.out, {arm.partition("=")[0]: title for arm, title in arms.items()})
            print(done)
            if name == "plain" and count == len(seeds):
                _append_teacher(done.teacher, seeds)


def _pictures(camvid: Path, out: Path) -> dict[str, Path]:
    """Folders of as many photographs, drawn scenes, and both in equal parts."""
    parts: dict[str, dict[str, Any]] = {
        "PHOTOGRAPHS": {"generator": {"name": "photographs", "pictures": str(camvid / "images" / "train")}},
        "DRAWN": {"generator": "procedural", "prompter": "grammar"},
    }
    sets = {
        name: clouds.generate(
            clouds.compose(backbone="tiny", head="linear", **part), n=IMAGES, out=out / name.lower(), size=SIZE
        )
        for name, part in parts.items()
    }
    for name, made in sets.items():
        for path in made.images[: IMAGES // 2]:
            link_file(path, out / "both" / "images" / f"{name.lower()}-{path.name}")
    return {**{name: made.folder for name, made in sets.items()}, "BOTH": out / "both"}


def _indexes(sources: Sequence[str], out: Path) -> list[Path]:
    """Files with the pixel counts of the sources' classes, for rare-class sampling."""
    paths = [out / "index" / f"{number}.json" for number in range(len(sources))]
    for spec, path in zip(sources, paths, strict=True):
        counts = check_dataset(open_dataset(spec, LabelSpace.named("cityscapes"))).class_index
        if counts is None:
            raise SystemExit(f"{spec}: labels are missing or wrong; see `clouds datasets check {spec}`")
        counts.write(path)
    return paths


def _located(arm: str, pictures: dict[str, Path]) -> str:
    for name, folder in pictures.items():
        arm = arm.replace(f"={name}", f"={folder}")
    return arm


def _append(folder: Path, titles: dict[str, str]) -> None:
    """Append the rows of an ablation that the results lack."""
    known = {(one["provider"], one.get("seed")) for one in read_rows(NAME, RESULTS)}
    for one in read_rows(Path(ROWS).stem, folder):
        title = titles[one["arm"]]
        if (title, one["seed"]) not in known:
            (domain,) = one["domains"].values()
            facts = {"seed": one["seed"], "protocol": "native", "arm": f"{folder.name}/{one['arm']}"}
            facts |= {"classes": _rounded(domain["iou"]), "label_free": _rounded(one.get("label_free", {}))}
            append(NAME, [row(NAME, title, MIOU, "%", [one["miou"]], **facts)])


def _append_teacher(teacher: Mapping[str, Mapping[str, Spread | None]], seeds: Sequence[int]) -> None:
    """Append the accuracy per class of the labels of `PLAIN`'s first teachers, unless the results have it."""
    if any(one.get("seeds") == list(seeds) for one in read_rows(NAME, RESULTS)):
        return
    (classes,) = teacher.values()
    means = {name: None if value is None else value.mean for name, value in classes.items()}
    facts = {"seeds": list(seeds), "classes": _rounded(means)}
    append(NAME, [row(NAME, TEACHER, "correct pixels per class", "%", [*facts["classes"].values()], **facts)])


def _rounded(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in values.items() if value is not None}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    run(asked.data.absolute(), asked.out.absolute(), asked.seeds)


if __name__ == "__main__":
    main()
