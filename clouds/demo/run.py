"""The whole method in minutes on a CPU: prompts, generation, warm-up, self-training, evaluation on unseen domains."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from attrs import asdict, evolve, frozen

from clouds.core.pipeline.composer import compose, load
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.system.files import write_text
from clouds.data.folder import Dataset, open_dataset
from clouds.demo.domains import SOURCE, UNSEEN, write_domain
from clouds.demo.page import demo_page
from clouds.demo.pseudo_labels import PseudoLabelQuality, measure_pseudo_labels
from clouds.evaluation.evaluate import evaluate
from clouds.evaluation.report import Report
from clouds.synthesis.generate import generate
from clouds.synthesis.generated_set import GeneratedSet
from clouds.training.recipe import PhaseConfig, Recipe, load_recipe
from clouds.training.run_folder import RECIPE
from clouds.training.train import StepCallback as StepReport
from clouds.training.train import train

SIZE = (96, 192)
SOURCE_IMAGES, UNSEEN_IMAGES, GENERATED_IMAGES = 240, 30, 240


@frozen(kw_only=True)
class DemoResult:
    """Result of `clouds demo`.

    Attributes:
        out: folder with data, runs and report.
        report: the HTML page.
        seed, steps: settings of this run; steps are optimizer steps per arm, including the warm-up.
        warmup, source_only, clouds: evaluations on the unseen domains, after the warm-up and for the two arms.
        pseudo_labels: quality of the teacher's pseudo-labels after the warm-up, before and after refinement.
        seconds: duration.
    """

    out: Path
    report: Path
    seed: int
    steps: int
    warmup: Report
    source_only: Report
    clouds: Report
    pseudo_labels: PseudoLabelQuality
    seconds: float

    def table(self) -> list[tuple[str, float | None, float | None]]:
        """Rows (domain, mIoU of source only, mIoU of CLOUDS) in percent; the last row is the mean of the domains."""
        before, after = self.source_only.per_domain, self.clouds.per_domain
        rows = [(name, before[name], after[name]) for name in before]
        return [*rows, ("mean", self.source_only.miou, self.clouds.miou)]

    def to_json(self) -> str:
        """The table and the settings of the run, as JSON text."""
        domains = {name: {"source_only": before, "clouds": after} for name, before, after in self.table()}
        document = {
            "seed": self.seed,
            "steps": self.steps,
            "unit": "mIoU in percent, over the classes present in each domain",
            "protocol": self.clouds.protocol,
            "domains": domains,
            "warmup": self.warmup.miou,
            "pseudo_labels": asdict(self.pseudo_labels),
            "report": str(self.report),
            "seconds": round(self.seconds, 1),
        }
        return json.dumps(document, indent=2) + "\n"


def run_demo(
    out: str | Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    on_step: StepReport | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> DemoResult:
    """Run the demo.

    Both arms start from the same warm-up weights and make the same number of optimizer steps: "source only" continues
    on the source, "CLOUDS" adds as many generated images to each batch, with the teacher's refined labels. The unseen
    domains use textures, palettes, layouts, weather and sensor noise that no prompt can produce.

    Args:
        out: folder for data, runs and the report; files of an earlier demo are replaced.
        seed: seed of data, weights and training.
        steps: optimizer steps per arm, half of them warm-up; None means the recipe's.
        on_step: called after every optimizer step.
        say: called with one line of text before each stage.
    """
    started, folder = time.monotonic(), Path(out)
    recipe = _recipe(seed, steps)
    say(f"drawing the source domain ({SOURCE_IMAGES} images) and {len(UNSEEN)} unseen domains")
    source = f"folder:{_domain(SOURCE, folder, SOURCE_IMAGES, seed)}"
    pipeline = _compose(recipe, seed)
    unseen = _unseen(pipeline, folder, seed)
    say(f"generating {GENERATED_IMAGES} images from prompts")
    generated = generate(
        pipeline, GENERATED_IMAGES, out=folder / f"generated-{seed}", seed=seed, size=SIZE, keep_labels=True
    )
    say(f"warm-up on the source: {recipe.warmup.steps} steps")
    train(pipeline, source=source, recipe=recipe, out=_cleared(folder / "warmup"), phase="warmup", on_step=on_step)
    arms = {
        name: _continue(recipe, source, pictures, folder, name, on_step, say)
        for name, pictures in (("source-only", None), ("clouds", generated.folder))
    }
    say("evaluating on the unseen domains, comparing pseudo-labels with exact ones, and writing the report")
    result = DemoResult(
        out=folder,
        report=folder / "report.html",
        seed=seed,
        steps=recipe.warmup.steps + recipe.joint.steps,
        warmup=evaluate(pipeline, unseen),
        source_only=evaluate(arms["source-only"], unseen),
        clouds=evaluate(arms["clouds"], unseen),
        pseudo_labels=measure_pseudo_labels(pipeline, generated),
        seconds=time.monotonic() - started,
    )
    write_text(result.report, _page(result, arms, pipeline, unseen, generated))
    write_text(folder / "result.json", result.to_json())
    return result


def _recipe(seed: int, steps: int | None) -> Recipe:
    recipe = evolve(load_recipe("demo"), seed=seed)
    if steps is None:
        return recipe
    half = PhaseConfig(steps=steps - steps // 2, batch_size=recipe.warmup.batch_size)
    rest = PhaseConfig(steps=steps // 2, batch_size=recipe.joint.batch_size)
    return evolve(recipe, warmup=half, joint=rest)


def _continue(
    recipe: Recipe,
    source: str,
    pictures: Path | None,
    folder: Path,
    name: str,
    on_step: StepReport | None,
    say: Callable[[str], None],
) -> Pipeline:
    """Train one arm: the joint phase from the warm-up's weights, with or without generated images."""
    say(f"{name}: {recipe.joint.steps} more steps")
    arm = load(folder / "warmup" / "warmup")
    train(
        arm,
        source=source,
        generated=pictures,
        recipe=recipe if pictures else _without_generated(recipe),
        out=_cleared(folder / name),
        phase="joint",
        on_step=on_step,
    )
    return arm


def _cleared(folder: Path) -> Path:
    """Remove the run of an earlier demo from an arm's folder; `train` refuses other files."""
    if (folder / RECIPE).is_file():
        shutil.rmtree(folder)
    return folder


def _without_generated(recipe: Recipe) -> Recipe:
    """The control: the same steps with the labelled half of each batch."""
    return evolve(recipe, joint=evolve(recipe.joint, batch_size=recipe.joint.batch_size // 2))


def _domain(name: str, folder: Path, count: int, seed: int) -> Path:
    path = folder / "domains" / name
    write_domain(name, path, count=count, size=SIZE, seed=seed)
    return path


def _unseen(pipeline: Pipeline, folder: Path, seed: int) -> list[Dataset]:
    return [
        evolve(open_dataset(f"folder:{_domain(name, folder, UNSEEN_IMAGES, seed)}", pipeline.labels), name=name)
        for name in UNSEEN
    ]


def _compose(recipe: Recipe, seed: int) -> Pipeline:
    """Compose with initial weights from the seed; the caller's random state is unchanged."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return compose(**recipe.model, device="auto")


def _page(
    result: DemoResult, arms: dict[str, Pipeline], teacher: Pipeline, unseen: list[Dataset], generated: GeneratedSet
) -> str:
    return demo_page(
        rows=result.table(),
        arms=arms,
        teacher=teacher,
        unseen=unseen,
        generated=generated,
        quality=result.pseudo_labels,
        subtitle=(f"seed {result.seed}, {result.steps} optimizer steps per arm, {result.seconds:.0f} seconds"),
    )
