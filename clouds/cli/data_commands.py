"""`clouds prompts`, `clouds generate`, `clouds datasets`: training data. Heavy imports wait for the command to run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter
from cyclopts.validators import MutuallyExclusive

from clouds.cli.options import AsJson, Assignments, DatasetConfig, Device
from clouds.cli.output import write, write_json, write_table
from clouds.core.catalog import Catalog
from clouds.core.component import Kind
from clouds.core.config import override
from clouds.core.errors import PlanError
from clouds.core.labels import CITYSCAPES
from clouds.core.plan import plan_part

_ONE_SOURCE = Group("Prompts", validator=MutuallyExclusive())


def prompts(*, n: int, out: Path, prompter: str = "grammar", seed: int = 0, assignments: Assignments = ()) -> None:
    """Write prompts for a generator, one per line.

    Args:
        n: how many.
        out: the text file to write.
        prompter: a name of `clouds list prompters`.
        seed: another one gives other prompts.
        assignments: options of the prompter.
    """
    from clouds.core.composer import build_part
    from clouds.core.files import write_text

    texts = build_part(Kind.PROMPTER, override({"name": prompter}, assignments)).prompts(n, seed=seed)
    write_text(out, "".join(f"{text}\n" for text in texts))
    write(f"{len(texts)} prompts in {out}")


def generate(
    *,
    generator: str,
    n: int,
    out: Path,
    prompts: Annotated[Path | None, Parameter(group=_ONE_SOURCE)] = None,
    prompter: Annotated[str, Parameter(group=_ONE_SOURCE)] = "grammar",
    size: tuple[int, int] = (768, 768),
    seed: int = 0,
    batch_size: int = 4,
    keep_labels: bool = False,
    device: Device = "auto",
    assignments: Assignments = (),
    as_json: AsJson = False,
) -> None:
    """Generate a dataset with a manifest; the same call again finishes a run that was killed.

    Args:
        generator: a name of `clouds list generators`.
        n: number of images.
        out: folder of the dataset.
        prompts: a text file, one prompt per line.
        prompter: a name of `clouds list prompters`; it writes min(n, 100) prompts.
        size: height and width in pixels.
        seed: image j has the seed `seed + j`.
        batch_size: images that the generator may work on together.
        keep_labels: write exact labels, too, when the generator knows them.
        assignments: options of the generator.
    """
    from torch import nn

    from clouds.core.composer import build_part, pick_device
    from clouds.core.interfaces import Generator
    from clouds.synthesis.generate import PROMPTS, generate_set

    catalog, value = Catalog.from_environment(), override({"name": generator}, assignments)
    part, problems = plan_part(Kind.GENERATOR, value, pretrained=True, catalog=catalog)
    if part is None or problems:
        raise PlanError(problems)
    if prompts is None:
        texts = build_part(Kind.PROMPTER, prompter, catalog=catalog).prompts(min(n, PROMPTS), seed=seed)
    else:
        lines = build_part(Kind.PROMPTER, {"name": "file", "path": str(prompts)}, catalog=catalog)
        texts = list(dict.fromkeys(lines.prompts(n, seed=seed)))  # n lines, and from the start again: each counts once
    drawing: Generator = build_part(Kind.GENERATOR, value, catalog=catalog)
    if isinstance(drawing, nn.Module):
        drawing.to(pick_device(device))
    made = generate_set(
        drawing,
        part,
        texts,
        n=n,
        out=out,
        seed=seed,
        size=size,
        batch_size=batch_size,
        keep_labels=keep_labels,
        progress=True,
    )
    kept = made.labels is not None
    if as_json:
        write_json({"folder": out, "images": len(made.images), "labels": kept, "prompts": len(texts)})
    else:
        write(f"{len(made.images)} images{' with labels' if kept else ''} in {out}")


def check(spec: str, /, *, dataset_config: DatasetConfig = None, as_json: AsJson = False) -> int:
    """Read every file of a dataset, count its classes, and report every fault at once.

    Args:
        spec: KIND:PATH[:SPLIT], for example folder:photos:train.
    """
    from clouds.data.check import check_dataset
    from clouds.data.folder import open_dataset

    dataset = open_dataset(spec, CITYSCAPES, config=dataset_config, require_labels=False)
    report = check_dataset(dataset, progress=True)
    if as_json:
        write(report.to_json())
    else:
        total = max(1, sum(report.pixels.values()))
        rows = [(name, f"{count}", f"{100 * count / total:.2f}") for name, count in report.pixels.items()]
        write_table(("class", "pixels", "per cent"), rows)
        for fault in report.faults:
            write(f"fault: {fault.message}")
        write(f"{report.name}: {report.images} images, {len(report.faults)} faults")
    return 0 if report.ok else 1
