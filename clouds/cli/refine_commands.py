"""`clouds refine`: label maps refined once, and embeddings made ahead. Heavy imports wait for the command to run."""

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
    """Refine the label maps of a generated dataset once; the same call again finishes a run that was killed.

    The result is a dataset of its own, folder:OUT:train, with pictures of before and after in OUT/pictures.

    Args:
        folder: a generated dataset.
        refiner: a name of `clouds list refiners`.
        checkpoint: saved pipeline that labels the images; without it their own label maps are refined.
        out: folder for the result; FOLDER-refined when left out.
        seed: of the refiner's random choices.
        assignments: options of the refiner.
    """
    from clouds.synthesis.engines import open_workers, plan_component, to_document
    from clouds.synthesis.generated_set import open_generated
    from clouds.synthesis.refine import build_label_refiner, predicted_labels, refine_set

    dataset = open_generated(folder)
    own = None if checkpoint else _own_labels(dataset)
    model = str(checkpoint.resolve()) if checkpoint else None
    part = plan_component(Kind.REFINER, override({"name": refiner}, assignments), Catalog.from_environment())
    build = partial(build_label_refiner, to_document(part), model, device, trust)
    with open_workers(engine, build, count=workers, device=device) as refining:
        made = refine_set(
            refining,
            dataset.images,
            own,
            out=out or folder.with_name(f"{folder.resolve().name}-refined"),
            label_space=refining.ask(predicted_labels),
            made_with=_made_with(part, folder, checkpoint),
            seed=seed,
            progress=True,
        )
    if as_json:
        write_json({"spec": made.spec, "images": made.images, "written": made.written})
    else:
        write(f"{made.written} label maps refined, {made.images - made.written} were there: {made.spec}")


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
    """Make the image embeddings of a generated dataset ahead; the same call again makes what is missing.

    Training uses them with the same refiner and `--set refiner.cache=CACHE`.

    Args:
        folder: a generated dataset.
        refiner: a name of `clouds list refiners` with the option `cache`.
        cache: folder for the embeddings.
        orientation: "both": of mirror images, too, which training shows half of the time.
        assignments: options of the refiner, such as cache_bytes.
    """
    from clouds.synthesis.embeddings import prepare_embeddings
    from clouds.synthesis.engines import build_component, plan_component, to_document
    from clouds.synthesis.generated_set import open_generated

    dataset = open_generated(folder)
    asked = override({"name": refiner, "cache": str(cache)}, assignments)
    part = plan_component(Kind.REFINER, asked, Catalog.from_environment())
    built: Refiner = build_component(Kind.REFINER.value, to_document(part), device)
    room = part.options.get("cache_bytes")  # refiners of plugins need not have it
    made = prepare_embeddings(built, dataset.images, room=room, mirrored=orientation == "both", progress=True)
    if as_json:
        write_json({"cache": cache, "embeddings": made.count, "bytes": made.bytes})
    else:
        write(f"{made.count} embeddings ({made.bytes / 1e9:.2f} GB) in {cache}")


def _made_with(part: Part, folder: Path, checkpoint: Path | None) -> dict[str, Any]:
    """What refined labels are of; a checkpoint by the content of its files, as one trained further is another."""
    from clouds.core.weights.download import sha256_of

    files = sorted(path for path in checkpoint.iterdir() if path.is_file()) if checkpoint else []
    hashes = {path.name: sha256_of(path) for path in files}
    return {
        "refiner": part.name,
        "options": part.options,
        "images": str(folder.resolve()),
        "labels": hashes if checkpoint else "its own",
    }


def _own_labels(dataset: GeneratedSet) -> Callable[[Path], np.ndarray]:
    """What gives the label map that an image has already."""
    from clouds.core.contract.labels import CITYSCAPES
    from clouds.data.encodings import label_encoding
    from clouds.data.label_files import read_label_pixels

    if dataset.labels is None:
        raise DataError(f"{dataset.folder} has no label map for every image; give --checkpoint, which labels them")
    own = dict(zip(dataset.images, dataset.labels, strict=True))
    train_ids = label_encoding(CITYSCAPES, "trainIds")  # as a manifest promises, of whatever label space
    return lambda path: read_label_pixels(own[path], train_ids)
