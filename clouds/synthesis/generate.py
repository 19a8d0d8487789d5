"""Resumable generation of datasets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

from attrs import frozen

from clouds.core.component import Kind
from clouds.core.errors import ComponentError, ConfigError, DataError
from clouds.core.images import write_png
from clouds.core.interfaces import GeneratedImage, GenerationRequest, Generator
from clouds.core.pipeline import Pipeline
from clouds.core.plan import Part
from clouds.core.progress import progress_bar
from clouds.synthesis.manifest import (
    FILE_NAME,
    GeneratedSet,
    MadeBy,
    Row,
    StoredFile,
    appending,
    open_generated,
    read_rows,
)

PROMPTS = 100  # Benigmim et al., CVPR 2024: 100 prompts for 5000 images
_LIBRARIES = ("clouds-dgss", "diffusers", "numpy", "pillow", "torch", "transformers")


def generate(
    pipeline: Pipeline,
    n: int = 5000,
    *,
    out: str | os.PathLike[str],
    seed: int = 0,
    prompts: Sequence[str] | None = None,
    size: tuple[int, int] = (768, 768),
    batch_size: int = 4,
    keep_labels: bool = False,
    progress: bool = False,
) -> GeneratedSet:
    """Make a dataset with a pipeline's generator and prompter. See `generate_set`.

    Args:
        pipeline: a composed pipeline with a generator, and with a prompter unless `prompts` are given.
        n: number of images.
        prompts: what to show; None asks the prompter for min(n, 100).
        out, seed, size, batch_size, keep_labels, progress: see `generate_set`.

    Raises:
        ConfigError: the pipeline has no generator, or no prompter while no prompts are given.
        DataError: see `generate_set`.
    """
    if pipeline.generator is None:
        raise ConfigError("the pipeline has no generator; compose it with generator='procedural' or another one")
    if prompts is None:
        if pipeline.prompter is None:
            raise ConfigError("the pipeline has no prompter; compose it with prompter='grammar', or give prompts=[...]")
        prompts = pipeline.prompter.prompts(min(n, PROMPTS), seed=seed)
    return generate_set(
        pipeline.generator,
        pipeline.plan.parts[Kind.GENERATOR],
        prompts,
        n=n,
        out=out,
        seed=seed,
        size=size,
        batch_size=batch_size,
        keep_labels=keep_labels,
        progress=progress,
    )


@frozen(kw_only=True)
class _Job:
    """An image to make.

    Attributes:
        name: of its files.
        request: for the generator.
        asked: what its row says before there is a picture; equal for every run that may go on with it.
        keep_labels: whether to write exact labels.
    """

    name: str
    request: GenerationRequest
    asked: dict[str, Any]
    keep_labels: bool


def generate_set(
    generator: Generator,
    part: Part,
    prompts: Sequence[str],
    *,
    n: int,
    out: str | os.PathLike[str],
    seed: int = 0,
    size: tuple[int, int] = (768, 768),
    batch_size: int = 4,
    keep_labels: bool = False,
    progress: bool = False,
) -> GeneratedSet:
    """Make n images, or those of them that `out` lacks: a killed run is finished by the same call.

    Image j shows prompt j mod P of the P prompts, has the seed `seed + j`, and is `images/im_{j}_p{j mod P}.png`, as
    published. Images do not depend on the batch, nor on how often the run was interrupted.

    Args:
        generator: what draws.
        part: the generator's part of a plan, for the manifest.
        prompts: at least one.
        n: number of images.
        out: folder of the dataset; new, or one of an earlier run.
        seed: 0 or more.
        size: (height, width) in pixels.
        batch_size: images that the generator may work on together.
        keep_labels: write exact train ids to `labels/`, too, when the generator knows them.
        progress: show a progress bar on standard error, when that is a terminal.

    Returns:
        The whole dataset in `out`, with earlier images beyond n, if any.

    Raises:
        ConfigError: no prompts, or a number out of range.
        DataError: `out` holds something else, or images of other requests.
        ComponentError: the generator breaks its contract.
    """
    if isinstance(prompts, str) or not prompts:
        raise ConfigError(f"prompts must be a list of at least one text, got {prompts!r}")
    if n < 1 or batch_size < 1:
        raise ConfigError(f"generation needs n >= 1 and batch_size >= 1, got n={n} and batch_size={batch_size}")
    folder = Path(out)
    jobs = _jobs(prompts, n=n, seed=seed, size=size, made_by=MadeBy.of(part), keep_labels=keep_labels)
    missing = _missing(folder, jobs)
    libraries = _libraries()
    with appending(folder) as append:
        made = _draw(generator, missing, batch_size)
        for job, image in _shown(made, len(missing), shown=progress):
            append(_store(folder, job, image, libraries))
    return open_generated(folder)


def _jobs(
    prompts: Sequence[str], *, n: int, seed: int, size: tuple[int, int], made_by: MadeBy, keep_labels: bool
) -> list[_Job]:
    jobs: list[_Job] = []
    for index in range(n):
        which = index % len(prompts)
        request = GenerationRequest(prompt=prompts[which], seed=seed + index, size=size)
        name = f"im_{index}_p{which}.png"
        asked = {
            "index": index,
            "file": f"images/{name}",
            "prompt": request.prompt,
            "prompt_index": which,
            "seed": request.seed,
            "size": request.size,
            "steps": request.steps,
            "guidance": request.guidance,
            "generator": made_by,
        }
        jobs.append(_Job(name=name, request=request, asked=asked, keep_labels=keep_labels))
    return jobs


def _missing(folder: Path, jobs: Sequence[_Job]) -> list[_Job]:
    """The jobs without complete files in the folder, which is made if missing.

    Raises:
        DataError: the folder holds something else, or images of other requests.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        return list(jobs)
    if not (folder / FILE_NAME).exists():
        raise DataError(f"{folder} is not empty and has no {FILE_NAME}; choose another folder")
    rows = {row.index: row for row in read_rows(folder)}
    return [job for job in jobs if (row := rows.get(job.asked["index"])) is None or not _done(folder, row, job)]


def _done(folder: Path, row: Row, job: _Job) -> bool:
    changes = [
        f"{name} {getattr(row, name)!r}, now {value!r}"
        for name, value in job.asked.items()
        if getattr(row, name) != value
    ]
    if changes:
        raise DataError(
            f"{folder / FILE_NAME}: image {row.index} was made with {'; '.join(changes)}; "
            "give the same request to go on, or another folder"
        )
    return (row.keep_labels or not job.keep_labels) and not row.faults(folder)


def _draw(generator: Generator, jobs: Iterable[_Job], batch_size: int) -> Iterator[tuple[_Job, GeneratedImage]]:
    waiting = iter(jobs)
    while batch := list(islice(waiting, batch_size)):
        images = list(generator.generate([job.request for job in batch]))
        if len(images) != len(batch):
            raise ComponentError(
                f"generator {type(generator).__name__} gave {len(images)} images for {len(batch)} requests; "
                "it must give one each, in order"
            )
        yield from zip(batch, images, strict=True)


def _store(folder: Path, job: _Job, image: GeneratedImage, libraries: dict[str, str]) -> Row:
    """Write the files of one image, and return its row."""
    kept = image.labels if job.keep_labels else None
    for what, array in (("an image", image.image), ("a label map", kept)):
        if array is not None and array.shape[:2] != job.request.size:
            raise ComponentError(
                f"the generator gave {what} of shape {array.shape} for a request of size {job.request.size} "
                f"(height, width), image {job.name}; it must keep to the size"
            )
    labels = None
    if kept is not None:
        write_png(folder / "labels" / job.name, kept)
        labels = StoredFile.of(folder, f"labels/{job.name}")
    write_png(folder / job.asked["file"], image.image)
    picture = StoredFile.of(folder, job.asked["file"])
    return Row(
        **job.asked,
        bytes=picture.bytes,
        sha256=picture.sha256,
        libraries=libraries,
        keep_labels=job.keep_labels,
        labels=labels,
    )


def _libraries() -> dict[str, str]:
    """Versions of what may have had a part in a picture; what is not installed had none."""
    versions: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _shown(work: Iterable[Any], total: int, *, shown: bool) -> Iterator[Any]:
    with progress_bar(shown=shown) as bar:
        yield from bar.track(work, total=total, description="generate")
