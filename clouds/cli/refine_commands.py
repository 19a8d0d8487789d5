"""`clouds refine`: refine label maps, and compute embeddings in advance. Heavy imports are inside functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import App, Parameter

from clouds.cli.options import AsJson, Assignments, Device, Engine, Trust, WorkerCount
from clouds.cli.output import write, write_json
from clouds.core.contract.catalog import Catalog
from clouds.core.contract.component import Kind
from clouds.core.system.config import override
from clouds.core.system.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from clouds.core.contract.interfaces import Refiner
    from clouds.core.contract.plan import Part
    from clouds.synthesis.generated_set import GeneratedSet


def refine_app() -> App:
    """`clouds refine DIR` and `clouds refine prepare DIR`."""
    app = App(name="refine", help=refine.__doc__, default_parameter=Parameter(negative=()))
    app.default(refine)
    app.command(prepare, name="prepare")
    return app


def refine(
    folder: Path,
    /,
    *,
    refiner: str,
    checkpoint: Path | None = None,
    out: Path | None = None,
    seed: int = 0,
    engine: Engine = "local",
    workers: WorkerCount = None,
    device: Device = "auto",
    trust: Trust = (),
    assignments: Assignments = (),
    as_json: AsJson = False,
) -> None:
    """Refine the label maps of a generated dataset; repeat the command to finish an interrupted run.

    The result is a new dataset, folder:OUT:train, with images of before and after in OUT/pictures.

    Args:
        folder: a generated dataset.
        refiner: a name from `clouds list refiners`.
        checkpoint: saved pipeline (or owner/name of the hub) that labels the images; default: refine their label maps.
        out: folder for the result; default: FOLDER-refined.
        seed: seed of the refiner's random choices.
        assignments: options of the refiner.
    """
    from clouds.synthesis.engines import open_workers, plan_component, to_document
    from clouds.synthesis.generated_set import open_generated
    from clouds.synthesis.refine import build_label_refiner, predicted_labels, refine_set

    dataset = open_generated(folder)
    model = None if checkpoint is None else _find_folder(checkpoint)
    own = None if model else _own_labels(dataset)
    part = plan_component(Kind.REFINER, override({"name": refiner}, assignments), Catalog.from_environment())
    build = partial(build_label_refiner, to_document(part), str(model) if model else None, device, trust)
    with open_workers(engine, build, count=workers, device=device) as refining:
        made = refine_set(
            refining,
            dataset.images,
            own,
            out=out or folder.with_name(f"{folder.resolve().name}-refined"),
            label_space=refining.ask(predicted_labels),
            made_with=_made_with(part, folder, model),
            seed=seed,
            progress=True,
        )
    if as_json:
        write_json({"spec": made.spec, "images": made.images, "written": made.written})
    else:
        write(f"{made.written} label maps refined, {made.images - made.written} existed: {made.spec}")


def prepare(
    folder: Path,
    /,
    *,
    refiner: str,
    cache: Path,
    orientation: Literal["both", "upright"] = "both",
    device: Device = "auto",
    assignments: Assignments = (),
    as_json: AsJson = False,
) -> None:
    """Compute the image embeddings of a generated dataset in advance; repeat the command to add missing ones.

    Training uses them with the same refiner and `--set refiner.cache=CACHE`.

    Args:
        folder: a generated dataset.
        refiner: a name from `clouds list refiners` that has the option `cache`.
        cache: folder for the embeddings.
        orientation: "both" includes mirror images, which training shows half of the time.
        assignments: options of the refiner, such as cache_bytes.
    """
    from clouds.synthesis.embeddings import prepare_embeddings
    from clouds.synthesis.engines import build_component, plan_component, to_document
    from clouds.synthesis.generated_set import open_generated

    dataset = open_generated(folder)
    asked = override({"name": refiner, "cache": str(cache)}, assignments)
    catalog = Catalog.from_environment()
    part = plan_component(Kind.REFINER, asked, catalog)
    built: Refiner = build_component(Kind.REFINER.value, to_document(part), device, catalog)
    room = part.options.get("cache_bytes")  # plugins' refiners may lack it
    made = prepare_embeddings(built, dataset.images, room=room, mirrored=orientation == "both", progress=True)
    if as_json:
        write_json({"cache": cache, "embeddings": made.count, "bytes": made.bytes})
    else:
        write(f"{made.count} embeddings ({made.bytes / 1e9:.2f} GB) in {cache}")


def _find_folder(checkpoint: Path) -> Path:
    from clouds.core.pipeline.hub import find_checkpoint

    return find_checkpoint(checkpoint).resolve()


def _made_with(part: Part, folder: Path, checkpoint: Path | None) -> dict[str, Any]:
    """Provenance of refined labels; a checkpoint is identified by its file hashes."""
    from clouds.synthesis.provenance import checkpoint_hashes

    return {
        "refiner": part.name,
        "options": part.options,
        "images": str(folder.resolve()),
        "labels": checkpoint_hashes(checkpoint) if checkpoint else "its own",
    }


def _own_labels(dataset: GeneratedSet) -> Callable[[Path], np.ndarray]:
    """A function that reads the existing label map of an image."""
    from clouds.core.contract.labels import CITYSCAPES
    from clouds.data.encodings import label_encoding
    from clouds.data.label_files import read_label_pixels

    if dataset.labels is None:
        raise DataError(f"{dataset.folder} lacks label maps; give --checkpoint to label the images")
    own = dict(zip(dataset.images, dataset.labels, strict=True))
    train_ids = label_encoding(CITYSCAPES, "trainIds")  # a manifest's labels are train ids of any label space
    return lambda path: read_label_pixels(own[path], train_ids)
