"""Resumable generation of datasets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from clouds.core.contract.component import Kind
from clouds.core.contract.interfaces import Generator
from clouds.core.contract.plan import Part
from clouds.core.contract.records import GeneratedImage, GenerationRequest
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.system.errors import ComponentError, ConfigError, DataError
from clouds.core.system.files import inside, own_folder, target_in
from clouds.core.system.images import write_png
from clouds.core.system.progress import progress_bar
from clouds.synthesis.filters import Filter, fingerprint, judge
from clouds.synthesis.generated_set import GeneratedSet, collect, open_generated
from clouds.synthesis.manifest import FILE_NAME, FileLengths, MadeBy, Row, StoredFile, appending, read_rows
from clouds.synthesis.rejections import Rejection, add_rejection, read_rejections
from clouds.synthesis.workers import Here, Workers

PROMPTS = 100  # Benigmim et al., CVPR 2024: 100 prompts for 5000 images
ATTEMPT = 2**32  # between the seeds of an image's attempts, so that no other image has them
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
    filters: Sequence[Filter] = (),
    attempts: int = 3,
    verify: bool = False,
    progress: bool = False,
) -> GeneratedSet:
    """Make a dataset with a pipeline's generator and prompter. See `generate_set`.

    Args:
        pipeline: a composed pipeline with a generator, and with a prompter unless `prompts` are given.
        n: number of images.
        prompts: what to show; None asks the prompter for min(n, 100).
        out, seed, size, batch_size, keep_labels, filters, attempts, verify, progress: see `generate_set`.

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
        filters=filters,
        attempts=attempts,
        verify=verify,
        progress=progress,
    )


def generate_set(
    generator: Generator | Workers[Generator],
    part: Part,
    prompts: Sequence[str],
    *,
    n: int,
    out: str | os.PathLike[str],
    seed: int = 0,
    size: tuple[int, int] = (768, 768),
    batch_size: int = 4,
    keep_labels: bool = False,
    filters: Sequence[Filter] = (),
    attempts: int = 3,
    verify: bool = False,
    progress: bool = False,
) -> GeneratedSet:
    """Make n images, or those of them that `out` lacks: a killed run is finished by the same call.

    Image j shows prompt j mod P of the P prompts, has the seed `seed + j`, and is `images/im_{j}_p{j mod P}.png`, as
    published. Images do not depend on the batch, nor on how often the run was interrupted. One that a filter rejects
    is drawn again with the seed `seed + j + 2**32`, then 2 * 2**32, ...; after `attempts` rejections it is left out,
    and what was rejected is not tried again by a later call with the same filters (`rejected.jsonl`).

    Args:
        generator: what draws; or workers that draw, each a batch at a time.
        part: the generator's part of a plan, for the manifest.
        prompts: at least one.
        n: number of images.
        out: folder of the dataset; new, or one of an earlier run.
        seed: 0 or more.
        size: (height, width) in pixels.
        batch_size: images that the generator may work on together.
        keep_labels: write exact train ids to `labels/`, too, when the generator knows them.
        filters: what an image must pass to be kept. Images of an earlier run are not judged again, nor those of them
            that are made again, with the seed that they had.
        attempts: how often an image is drawn before it is left out.
        verify: compare the SHA-256 of the files that are there, not only their length; others are made again.
        progress: show a progress bar on standard error, when that is a terminal.

    Returns:
        The whole dataset in `out`, with earlier images beyond n, if any.

    Raises:
        ConfigError: no prompts, or a number out of range.
        DataError: `out` holds something else, or images of other requests, or another run is writing to it.
        ComponentError: the generator breaks its contract.
        WorkerError: see `Workers.map`.
    """
    if isinstance(prompts, str) or not prompts:
        raise ConfigError(f"prompts must be a list of at least one text, got {prompts!r}")
    if min(n, batch_size, attempts) < 1:
        raise ConfigError(
            f"generation needs n, batch_size and attempts of at least 1, got n={n}, batch_size={batch_size} and "
            f"attempts={attempts}"
        )
    workers = Here(generator) if isinstance(generator, Generator) else generator
    order = Order.of(workers.ask(_describe), part, prompts, seed=seed, size=size, keep_labels=keep_labels)
    with own_folder(out, marker=FILE_NAME) as folder, appending(folder) as append:
        for written in ("images", "labels"):
            inside(folder, written)  # files may be links, which new ones replace; what is written stays here
        rows, files = read_rows(folder), FileLengths(folder)
        run = _Run(folder, workers, order, tuple(filters), attempts, append)
        missing = run.missing(rows, files, n, verify=verify)
        with progress_bar(shown=progress) as bar:
            for _ in bar.track(run.make(missing, batch_size), total=len(missing), description="generate"):
                pass
        return open_generated(folder, verify=verify) if missing else collect(rows, files, folder, verify=verify)


@frozen(kw_only=True)
class Order:
    """What is asked for, whatever the number of images; see `generate_set`.

    Attributes:
        shared: what the rows of this run have in common.
    """

    prompts: tuple[str, ...]
    seed: int
    size: tuple[int, int]
    keep_labels: bool
    shared: dict[str, Any]

    @classmethod
    def of(
        cls,
        model: dict[str, Any],
        part: Part,
        prompts: Sequence[str],
        *,
        seed: int,
        size: tuple[int, int],
        keep_labels: bool,
    ) -> Order:
        """`model` is what the generator says about itself."""
        model = dict(model)
        shared = {
            "generator": MadeBy.of(part),
            "steps": model.pop("steps", None),
            "guidance": model.pop("guidance", None),
            "model": model,
            "size": size,
        }
        return cls(prompts=tuple(prompts), seed=seed, size=size, keep_labels=keep_labels, shared=shared)

    def request(self, index: int, attempt: int = 0) -> GenerationRequest:
        """What the generator is asked for."""
        seed = self.seed + index + attempt * ATTEMPT
        return GenerationRequest(prompt=self.prompts[index % len(self.prompts)], seed=seed, size=self.size)

    def name(self, index: int) -> str:
        """The name of an image's files."""
        return f"im_{index}_p{index % len(self.prompts)}.png"

    def attempt(self, seed: int, index: int) -> int:
        """Which attempt at an image has this seed."""
        return max(0, (seed - self.seed - index) // ATTEMPT)

    def check(self, row: Row, path: Path) -> None:
        """Raises `DataError` when the row is of another request."""
        which = row.index % len(self.prompts)
        asked: dict[str, Any] = {
            "file": f"images/{self.name(row.index)}",
            "prompt": self.prompts[which],
            "prompt_index": which,
            "seed": self.seed + row.index + self.attempt(row.seed, row.index) * ATTEMPT,
            **self.shared,
        }
        changes = [
            f"{name} {getattr(row, name)!r}, now {value!r}"
            for name, value in asked.items()
            if getattr(row, name) != value
        ]
        if changes:
            raise DataError(
                f"{path}: image {row.index} was made with {'; '.join(changes)}; "
                "give the same request to go on, or another folder"
            )


@frozen
class _Missing:
    """An image to draw, and the row that it has when it is only made again."""

    index: int
    attempt: int
    row: Row | None = None


@frozen
class _Batch:
    """Images that are drawn together, and what is asked for."""

    which: list[_Missing]
    requests: list[GenerationRequest]


def _describe(generator: Generator) -> dict[str, Any]:
    return dict(generator.describe())


def _draw(generator: Generator, batch: _Batch) -> list[GeneratedImage]:
    images = list(generator.generate(batch.requests))
    if len(images) != len(batch.requests):
        raise ComponentError(
            f"generator {type(generator).__name__} gave {len(images)} images for {len(batch.requests)} requests; "
            "it must give one each, in order"
        )
    return images


@frozen
class _Run:
    """A run that makes what is missing in a folder."""

    folder: Path
    workers: Workers[Generator]
    order: Order
    filters: tuple[Filter, ...]
    attempts: int
    append: Callable[[Row], None]

    @property
    def thresholds(self) -> dict[str, float]:
        return {one.name: one.least for one in self.filters}

    def missing(self, rows: Iterable[Row], files: FileLengths, n: int, *, verify: bool) -> list[_Missing]:
        """The images that have no complete files and are not given up. What the manifest lists never is.

        Args:
            rows, files: of the folder.
            n: number of images that are wanted.
            verify: see `generate_set`.

        Raises:
            DataError: the folder holds images of other requests.
        """
        for one in self.filters:
            one.begin()
        known: dict[int, _Missing | None] = {}  # those that are complete are None
        for (index, prompt), seeds in read_rejections(self.folder, self.thresholds).items():
            if prompt == self.order.request(index).prompt:
                known[index] = _Missing(index, 1 + max(self.order.attempt(seed, index) for seed in seeds))
        path = self.folder / FILE_NAME
        for row in rows:
            if row.index not in range(n):
                continue
            self.order.check(row, path)
            for one in self.filters:
                one.keep(row.fingerprint)
            whole = (row.keep_labels or not self.order.keep_labels) and not row.faults(files, verify=verify)
            again = self.order.attempt(row.seed, row.index)
            known[row.index] = None if whole else _Missing(row.index, again, row)
        wanted = (known[index] if index in known else _Missing(index, 0) for index in range(n))
        return [one for one in wanted if one and (one.row or one.attempt < self.attempts)]

    def make(self, missing: Iterable[_Missing], batch_size: int) -> Iterator[None]:
        """Draw the images in batches, and settle them one by one."""
        waiting = iter(missing)
        batches = map(self._batch, iter(lambda: list(islice(waiting, batch_size)), []))
        for batch, images in self.workers.map(_draw, batches):
            for one, image in zip(batch.which, images, strict=True):
                if one.row:  # it was judged when it was first made
                    row = self._store(one.index, image, one.row.scores, len(images))
                    self.append(evolve(row, filters=one.row.filters))
                else:
                    self._settle(one.index, one.attempt, image, together=len(images))
                yield

    def _batch(self, which: list[_Missing]) -> _Batch:
        return _Batch(which, [self.order.request(one.index, one.attempt) for one in which])

    def _settle(self, index: int, attempt: int, image: GeneratedImage, *, together: int) -> None:
        """Keep the picture, or the first further attempt that passes the filters."""
        while True:
            scores, rejected_by = judge(image, self.filters)
            if rejected_by is None:
                row = self._store(index, image, scores, together)
                self.append(row)
                for one in self.filters:
                    one.keep(row.fingerprint)
                return
            rejection = Rejection(
                index=index,
                prompt=image.request.prompt,
                seed=image.request.seed,
                rejected_by=rejected_by,
                scores=scores,
                filters=self.thresholds,
            )
            add_rejection(self.folder, rejection)
            attempt, together = attempt + 1, 1
            if attempt >= self.attempts:
                return
            ((_, (image,)),) = self.workers.map(_draw, [self._batch([_Missing(index, attempt)])])

    def _store(self, index: int, image: GeneratedImage, scores: dict[str, float], together: int) -> Row:
        """Write the files of one image, and return its row."""
        name = self.order.name(index)
        kept = image.labels if self.order.keep_labels else None
        for what, array in (("an image", image.image), ("a label map", kept)):
            if array is not None and array.shape[:2] != self.order.size:
                raise ComponentError(
                    f"the generator gave {what} of shape {array.shape} for a request of size {self.order.size} "
                    f"(height, width), image {name}; it must keep to the size"
                )
        labels = None
        if kept is not None:
            write_png(target_in(self.folder, f"labels/{name}"), kept)
            labels = StoredFile.of(self.folder, f"labels/{name}")
        write_png(target_in(self.folder, f"images/{name}"), image.image)
        picture = StoredFile.of(self.folder, f"images/{name}")
        return Row(
            index=index,
            file=picture.file,
            bytes=picture.bytes,
            sha256=picture.sha256,
            prompt=image.request.prompt,
            prompt_index=index % len(self.order.prompts),
            seed=image.request.seed,
            fingerprint=fingerprint(image.image),
            scores=scores,
            labels=labels,
            **self.order.shared,
            batch_size=together,
            filters=self.thresholds,
            libraries=_libraries(),
            keep_labels=self.order.keep_labels,
        )


@cache
def _libraries() -> dict[str, str]:
    """Versions of what may have had a part in a picture; what is not installed had none."""
    versions: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
