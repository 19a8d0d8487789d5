"""The whole method in minutes on a CPU: prompts, generation, warm-up, self-training, evaluation on unseen domains."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from attrs import evolve

from clouds.core.contract.catalog import Catalog
from clouds.core.contract.component import Kind
from clouds.core.contract.labels import LabelSpace
from clouds.core.system.files import write_text
from clouds.data.folder import Dataset, open_dataset
from clouds.demo.arms import Bench, compose_seeded, train_arms, train_upper_bound
from clouds.demo.domains import SOURCE, UNSEEN, write_domain
from clouds.demo.page import demo_page
from clouds.demo.pseudo_labels import PseudoLabelQuality
from clouds.demo.result import DemoResult
from clouds.synthesis.generate import generate
from clouds.training.recipe import load_recipe
from clouds.training.train import StepCallback

__all__ = ["DemoResult", "PseudoLabelQuality", "run_demo"]

SIZE = (96, 192)
SOURCE_IMAGES, UNSEEN_IMAGES, GENERATED_IMAGES = 240, 30, 240
SCRATCH, FROZEN = "demo", "demo-frozen"  # recipes


def run_demo(
    out: str | Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    on_step: StepCallback | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> DemoResult:
    """Run the demo, with a backbone trained from scratch and with one of frozen ImageNet features.

    For each backbone, both arms start from the same warm-up weights and make the same number of optimizer steps:
    "source only" continues on the source, "CLOUDS" adds as many generated images to each batch, with the teacher's
    refined labels. The upper bound has the exact labels of these images instead. The unseen domains use textures,
    palettes, layouts, weather and sensor noise that no prompt can produce.

    Without the backbone `efficientnet-lite2`, the columns of frozen features are left out, and the result says so.

    Args:
        out: folder for data, runs and the report; files of an earlier demo are replaced.
        seed: seed of data, weights and training.
        steps: optimizer steps per arm, half of them warm-up; None means the recipes'.
        on_step: called after every optimizer step.
        say: called with one line of text before each stage.
    """
    started, folder = time.monotonic(), Path(out)
    missing = missing_features()
    bench = _bench(folder, seed, steps, on_step, say)
    scratch = train_arms(bench, SCRATCH, title="from scratch")
    frozen = None if missing else train_arms(bench, FROZEN, title="frozen features", prefix="frozen-")
    best = (SCRATCH, scratch.title, "") if frozen is None else (FROZEN, frozen.title, "frozen-")
    upper_bound = train_upper_bound(bench, best[0], title=best[1], prefix=best[2])
    say("writing the report")
    result = DemoResult(
        out=folder,
        report=folder / "report.html",
        seed=seed,
        steps=scratch.steps,
        scratch=scratch,
        frozen=frozen,
        upper_bound=upper_bound,
        missing=missing,
        seconds=time.monotonic() - started,
    )
    write_text(result.report, demo_page(result, bench.unseen, bench.generated))
    write_text(folder / "result.json", result.to_json())
    return result


def missing_features() -> str:
    """One line that says which backbone the frozen features lack and how to install it; empty if it is there."""
    catalog, name = Catalog.from_environment(), load_recipe(FROZEN).model["backbone"]["name"]
    if name in catalog.names(Kind.BACKBONE):
        return ""
    command = catalog.install_command(Kind.BACKBONE, name)
    return (
        f"without frozen features: the backbone {name!r} is not installed{catalog.broken_hint()}; in a copy of the "
        f"sources, `{command}` adds them"
    )


def _bench(
    folder: Path, seed: int, steps: int | None, on_step: StepCallback | None, say: Callable[[str], None]
) -> Bench:
    """Draw the data that all arms share."""
    say(f"drawing the source domain ({SOURCE_IMAGES} images) and {len(UNSEEN)} unseen domains")
    source = f"folder:{_domain(SOURCE, folder, SOURCE_IMAGES, seed)}"
    painter = compose_seeded(evolve(load_recipe(SCRATCH), seed=seed))
    unseen = _unseen(painter.labels, folder, seed)
    say(f"generating {GENERATED_IMAGES} images from prompts")
    generated = generate(
        painter, GENERATED_IMAGES, out=folder / f"generated-{seed}", seed=seed, size=SIZE, keep_labels=True
    )
    return Bench(
        folder=folder,
        source=source,
        unseen=unseen,
        generated=generated,
        seed=seed,
        steps=steps,
        on_step=on_step,
        say=say,
    )


def _domain(name: str, folder: Path, count: int, seed: int) -> Path:
    path = folder / "domains" / name
    write_domain(name, path, count=count, size=SIZE, seed=seed)
    return path


def _unseen(labels: LabelSpace, folder: Path, seed: int) -> list[Dataset]:
    return [
        evolve(open_dataset(f"folder:{_domain(name, folder, UNSEEN_IMAGES, seed)}", labels), name=name)
        for name in UNSEEN
    ]
