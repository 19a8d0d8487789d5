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
from clouds.core.system.errors import ConfigError, DataError

if TYPE_CHECKING:
    from clouds.inference.encoder import Encoded, Named, PredictOptions
    from clouds.inference.folder import PredictedFolder
    from clouds.inference.sources import Source

PredictionFormat = Literal[
    "train-ids", "ids", "cityscapes-ids", "color", "overlay", "scores", "confidence", "panoptic", "instances"
]


def predict(
    checkpoint: Path,
    images: list[str],
    /,
    *,
    out: Path = Path("predictions"),
    formats: Annotated[tuple[PredictionFormat, ...], Parameter(name="--format", show_default=False)] = (),
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
        checkpoint: folder of a saved pipeline; or owner/name[@revision] of the hub.
        images: images of any size, folders, glob patterns and datasets KIND:PATH[:SPLIT] with images, or videos.
        out: folder for the results, also of the frames of a video; or a video file, such as out.mp4.
        formats: what to write; repeatable. Default: train-ids and overlay; overlay for a video file. train-ids; ids
            (the label space's own); cityscapes-ids (for the test servers of Cityscapes and ACDC); color; overlay;
            scores (float16, classes x height x width, .npy); confidence (share of the best class, 0..255); panoptic
            (COCO: ids as colours, and JSON); instances (COCO results, JSON).
        as_zip: also write OUT.zip with the files of the first format, to upload to a test server.
        short_side: first resize the short side to this many pixels; the results keep the image's own size.
        window: images with more than window x window pixels are segmented in overlapping windows of that side.
        scales: average the scores at these sizes, relative to the image's.
        flip: also average the scores of the mirror image.
        readers: threads that read and decode images.
    """
    from clouds.inference.sources import find_sources
    from clouds.inference.video import is_video

    formats = formats or (("overlay",) if is_video(out) else ("train-ids", "overlay"))
    numbers = {"short_side": short_side, "max_pixels": max_pixels, "batch_size": batch_size, "readers": readers}
    options = _options(formats, {"scales": scales, "flip": flip, "window": window}, numbers)
    sources = find_sources(images, max_pixels=options.max_pixels)
    checkpoint = _find_checkpoint(checkpoint, formats)
    if is_video(out):
        if as_zip:
            raise UsageError(f"--zip needs a folder of results, but --out {out} is a video; leave --zip out")
        return _predict_video(checkpoint, sources, out, options, engine, device, trust, as_json=as_json)
    done = _predict_folder(checkpoint, sources, out, options, engine, workers, device, trust)
    _write_outcome(done, out, formats, as_zip=as_zip, as_json=as_json)
    return 1 if done.failures else 0


def _find_checkpoint(checkpoint: Path, formats: tuple[str, ...]) -> Path:
    """The folder of a saved pipeline, whose label space must have the formats."""
    from clouds.core.pipeline.checkpoint import read_checkpoint
    from clouds.core.pipeline.hub import find_checkpoint
    from clouds.inference.formats import check_formats

    folder = find_checkpoint(checkpoint)
    check_formats(formats, read_checkpoint(folder).plan.labels)
    return folder


def _predict_folder(
    checkpoint: Path,
    sources: list[Source],
    out: Path,
    options: PredictOptions,
    engine: str,
    workers: int | None,
    device: str,
    trust: Sequence[str],
) -> PredictedFolder:
    """Write the predictions of images and frames."""
    from clouds.inference.folder import predict_folder
    from clouds.inference.sources import check_names
    from clouds.inference.video import is_video

    check_names(sources, options.formats, out)
    with _open_encoder(checkpoint, options, engine, workers, device, trust) as encode:
        return predict_folder(
            encode,
            sources,
            out=out,
            made_with=_made_with(checkpoint, options),
            max_pixels=options.max_pixels,
            total=None if any(is_video(one.path) for one in sources) else len(sources),
            report=write_error,
            progress=True,
        )


def _predict_video(
    checkpoint: Path,
    sources: list[Source],
    out: Path,
    options: PredictOptions,
    engine: str,
    device: str,
    trust: Sequence[str],
    *,
    as_json: bool,
) -> int:
    """Write the predictions of a video as a video."""
    from clouds.inference.encoder import build_encoder
    from clouds.inference.formats import find_formats
    from clouds.inference.video import frame_rate, is_video, read_frames, write_video

    pictures = [one.picture for one in find_formats(options.formats)]
    if engine != "local" or len(sources) != 1 or not is_video(sources[0].path) or len(pictures) != 1 or not pictures[0]:
        raise UsageError(
            f"--out {out} is a video: give one video, one --format of color, overlay, confidence, and --engine local; "
            "for frames, give a folder as --out"
        )
    if out.resolve() == sources[0].path.resolve():
        raise DataError(f"{out} is the video itself and would be overwritten; choose another --out")
    encoder = build_encoder(str(checkpoint), options, device, trust)
    path = sources[0].path
    frames = read_frames(path, max_pixels=options.max_pixels)
    count = write_video(encoder.predict(frames), pictures[0], out=out, rate=frame_rate(path))
    if as_json:
        write_json({"video": out, "frames": count})
    else:
        write(f"{count} frames: {options.formats[0]} in {out}")
    return 0


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
    """Write the zip file, or remove an earlier one if images failed, and print what was done."""
    from clouds.inference.folder import write_zip, zip_path
    from clouds.inference.formats import find_formats

    kinds = {kind: ending for one in find_formats(formats) for kind, ending in one.files.items()}
    if as_zip and done.failures:
        zip_path(out).unlink(missing_ok=True)
    elif as_zip:
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
