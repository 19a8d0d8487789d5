"""`clouds predict`. Heavy imports are inside functions."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attrs import asdict
from cyclopts import Parameter
from cyclopts.validators import Number

from clouds.cli.options import AsJson, BatchSize, Device, Engine, MaxPixels, Trust, UsageError, WorkerCount
from clouds.cli.output import write, write_error, write_json
from clouds.core.system.errors import ConfigError

if TYPE_CHECKING:
    from clouds.inference.encoder import Encoded, Named, PredictOptions
    from clouds.inference.folder import PredictedFolder

PredictionFormat = Literal[
    "train-ids", "ids", "cityscapes-ids", "color", "overlay", "scores", "confidence", "panoptic", "instances"
]


def predict(
    checkpoint: Path,
    images: list[str],
    /,
    *,
    out: Path = Path("predictions"),
    formats: Annotated[tuple[PredictionFormat, ...], Parameter(name="--format")] = ("train-ids", "overlay"),
    as_zip: Annotated[bool, Parameter(name="--zip")] = False,
    short_side: int | None = None,
    window: int = 2048,
    scales: Annotated[tuple[float, ...], Parameter(consume_multiple=True)] = (1.0,),
    flip: bool = False,
    batch_size: BatchSize = 1,
    readers: Annotated[int, Parameter(validator=Number(gte=1))] = 2,
    max_pixels: MaxPixels = None,
    engine: Engine = "local",
    workers: WorkerCount = None,
    device: Device = "auto",
    trust: Trust = (),
    as_json: AsJson = False,
) -> int:
    """Segment images: OUT/NAME.png has the class of every pixel, OUT/NAME_overlay.png shows it on the image.

    Repeat the command to finish an interrupted run: only what is missing is predicted. Images that cannot be read are
    named, and the rest is done; the exit code is then 1.

    Args:
        checkpoint: folder of a saved pipeline.
        images: images of any size, or folders, glob patterns and datasets KIND:PATH[:SPLIT] with images.
        out: folder for the results.
        formats: what to write; repeatable. train-ids; ids (the label space's own); cityscapes-ids (for the test servers
            of Cityscapes and ACDC); color; overlay; scores (float16, classes x height x width, .npy); confidence (share
            of the best class, 0..255); panoptic (COCO: ids as colours, and JSON); instances (COCO results, JSON).
        as_zip: also write OUT.zip with the files of the first format, to upload to a test server.
        short_side: first resize the short side to this many pixels; the results keep the image's own size.
        window: images with more than window x window pixels are segmented in overlapping windows of that side.
        scales: average the scores at these sizes, relative to the image's.
        flip: also average the scores of the mirror image.
        readers: threads that read and decode images.
    """
    from clouds.core.pipeline.checkpoint import read_checkpoint
    from clouds.inference.folder import predict_folder
    from clouds.inference.formats import check_formats
    from clouds.inference.sources import check_names, find_sources

    numbers = {"short_side": short_side, "max_pixels": max_pixels, "batch_size": batch_size, "readers": readers}
    options = _options(formats, {"scales": scales, "flip": flip, "window": window}, numbers)
    sources = find_sources(images)
    check_names(sources, formats, out)
    check_formats(formats, read_checkpoint(checkpoint).plan.labels)
    with _open_encoder(checkpoint, options, engine, workers, device, trust) as encode:
        made_with = _made_with(checkpoint, options)
        total, report = len(sources), write_error
        done = predict_folder(encode, sources, out=out, made_with=made_with, total=total, report=report, progress=True)
    _write_outcome(done, out, formats, as_zip=as_zip, as_json=as_json)
    return 1 if done.failures else 0


def _options(formats: tuple[str, ...], views: dict[str, Any], numbers: dict[str, Any]) -> PredictOptions:
    """Options of the command; invalid ones are wrong use."""
    from clouds.evaluation.views import Views
    from clouds.inference.encoder import PredictOptions

    try:
        given = {name: value for name, value in numbers.items() if value is not None}
        return PredictOptions(formats=formats, views=Views(**views), **given)
    except ConfigError as error:
        raise UsageError(str(error)) from error


@contextmanager
def _open_encoder(
    checkpoint: Path,
    options: PredictOptions,
    engine: str,
    count: int | None,
    device: str,
    trust: Sequence[str],
) -> Generator[Callable[[Iterable[Named]], Iterator[Encoded]]]:
    """Yield a function that predicts images in this process, or on a cluster."""
    from clouds.inference.encoder import build_encoder, encode_on
    from clouds.synthesis.engines import open_workers
    from clouds.synthesis.workers import Here

    build = partial(build_encoder, str(checkpoint.resolve()), options, device, trust)
    with open_workers(engine, build, count=count, device=device) as workers:
        local = isinstance(workers, Here)
        yield workers.model.encode if local else partial(encode_on, workers, batch_size=options.batch_size)


def _made_with(checkpoint: Path, options: PredictOptions) -> dict[str, Any]:
    """Provenance of predictions: what decides their content."""
    from clouds.synthesis.provenance import checkpoint_hashes

    return {
        "checkpoint": checkpoint_hashes(checkpoint),
        "formats": sorted(options.formats),
        "short_side": options.short_side,
        "views": asdict(options.views),
    }


def _write_outcome(done: PredictedFolder, out: Path, formats: tuple[str, ...], *, as_zip: bool, as_json: bool) -> None:
    """Write the zip file unless images failed, and print what was done."""
    from clouds.inference.folder import write_zip
    from clouds.inference.formats import find_formats

    kinds = {kind: ending for one in find_formats(formats) for kind, ending in one.files.items()}
    if as_zip and not done.failures:
        endings = find_formats(formats[:1])[0].files.values()
        write_zip(out, [out / f"{name}{ending}" for name in done.images for ending in endings])
    if as_json:
        write_json([{"image": image, **_result(done, name, out, kinds)} for name, image in done.images.items()])
        return
    counts = f"{len(done.written)} images predicted, {len(done.existing)} existed"
    failed = f", {len(done.failures)} failed{'; no zip file' if as_zip else ''}" if done.failures else ""
    write(f"{counts}{failed}: {', '.join(formats)} in {out}")


def _result(done: PredictedFolder, name: str, out: Path, kinds: Mapping[str, str]) -> dict[str, Any]:
    if name in done.failures:
        return {"error": done.failures[name]}
    return {kind: out / f"{name}{ending}" for kind, ending in kinds.items()}
