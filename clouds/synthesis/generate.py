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
from clouds.core.contract.records import GeneratedImage, GenerationRequest, Prompt
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.system.errors import ComponentError, ConfigError
from clouds.core.system.files import inside, own_folder, target_in
from clouds.core.system.images import write_png
from clouds.core.system.progress import progress_bar
from clouds.synthesis.filters import Filter, Judgement, fingerprint, judge
from clouds.synthesis.generated_set import GeneratedSet, collect, open_generated
from clouds.synthesis.labelled_source import LabelledSource
from clouds.synthesis.manifest import FILE_NAME, FileLengths, Row, StoredFile, appending, read_rows
from clouds.synthesis.order import Order
from clouds.synthesis.rejections import Rejection, add_rejection, read_rejections
from clouds.synthesis.workers import Here, Workers

NO_PROMPTS = ("",)  # of a generator that reads none
PROMPTS = 100  # Benigmim et al., CVPR 2024: 100 prompts for 5000 images
_LIBRARIES = ("clouds-dgss", "diffusers", "numpy", "pillow", "torch", "transformers")


def generate(
    pipeline: Pipeline,
    n: int = 5000,
    *,
    out: str | os.PathLike[str],
    seed: int = 0,
    prompts: Sequence[str | Prompt] | None = None,
    source: str | None = None,
    size: tuple[int, int] = (768, 768),
    batch_size: int = 4,
    keep_labels: bool = False,
    filters: Sequence[Filter] = (),
    attempts: int = 3,
    verify: bool = False,
    progress: bool = False,
) -> GeneratedSet:
    """Generate a dataset with a pipeline's generator and prompter. See `generate_set`.

    Args:
        pipeline: a composed pipeline with a generator, and with a prompter unless `prompts` are given.
        n: number of images.
        prompts: prompts of the images; None asks the prompter for min(n, 100), if the generator reads prompts.
        source: SPEC of the labelled images that the generator starts from, with labels in the pipeline's label space.
        out, seed, size, batch_size, keep_labels, filters, attempts, verify, progress: see `generate_set`.

    Raises:
        ConfigError: the pipeline has no generator, or has no prompter and no prompts are given.
        DataError: see `generate_set`.
    """
    if pipeline.generator is None:
        raise ConfigError("the pipeline has no generator; compose it with generator='procedural' or another one")
    if prompts is None and pipeline.generator.reads_prompts:
        if pipeline.prompter is None:
            raise ConfigError("the pipeline has no prompter; compose it with prompter='grammar', or give prompts=[...]")
        prompts = pipeline.prompter.write(min(n, PROMPTS), seed=seed)
    return generate_set(
        pipeline.generator,
        pipeline.plan.parts[Kind.GENERATOR],
        NO_PROMPTS if prompts is None else prompts,
        source=LabelledSource.open(source, pipeline.labels) if source else None,
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
    prompts: Sequence[str | Prompt],
    *,
    n: int,
    out: str | os.PathLike[str],
    seed: int = 0,
    source: LabelledSource | None = None,
    size: tuple[int, int] = (768, 768),
    batch_size: int = 4,
    keep_labels: bool = False,
    filters: Sequence[Filter] = (),
    attempts: int = 3,
    verify: bool = False,
    progress: bool = False,
) -> GeneratedSet:
    """Generate the images that `out` lacks of n images; repeating the call finishes an interrupted run.

    Image j shows prompt j mod P of P prompts, has the seed `seed + j`, and is `images/im_{j}_p{j mod P}.png`, as
    published. Images depend neither on the batch nor on interruptions. If a filter rejects image j, it is generated
    again with the seed `seed + j + 2**32`, then `seed + j + 2 * 2**32`, ...; after `attempts` rejections it is left
    out. `rejected.jsonl` lists rejections, so that a later call with the same filters does not repeat them.

    Args:
        generator: the generator, or workers that generate a batch at a time.
        part: the generator's part of a plan, for the manifest.
        prompts: at least one prompt; `NO_PROMPTS` for a generator that reads none. The manifest keeps their origins.
        n: number of images.
        out: folder of the dataset; new, or from an earlier run.
        seed: 0 or more.
        source: the labelled images that the generator starts from, drawn by the image's seed; their labels are always
            written.
        size: (height, width) in pixels.
        batch_size: images per batch of the generator.
        keep_labels: also write exact train ids to `labels/`, if the generator knows them.
        filters: filters that an image must pass. Images of an earlier run are not rejected later, even when a lost file
            is regenerated with its original seed.
        attempts: maximum attempts per image.
        verify: compare the SHA-256 of existing files, not only their size; files that differ are generated again.
        progress: show a progress bar on standard error if it is a terminal.

    Returns:
        The whole dataset in `out`, including earlier images beyond n.

    Raises:
        ConfigError: there are no prompts, a number is out of range, or the generator needs a source and gets none, or
            the other way round.
        DataError: `out` holds something else, or images of other requests, or another process is writing to it.
        ComponentError: the generator breaks its contract.
        WorkerError: see `Workers.map`.
    """
    workers = Here(generator) if isinstance(generator, Generator) else generator
    _check_numbers(n, batch_size, attempts)
    wanted = _check_inputs(part.name, workers, prompts, source)
    model = workers.ask(_describe)
    order = Order.of(model, part, wanted, seed=seed, size=size, source=source, keep_labels=keep_labels)
    with own_folder(out, marker=FILE_NAME) as folder, appending(folder) as append:
        for written in ("images", "labels"):
            inside(folder, written)  # new files stay in the folder; file links are replaced, not followed
        rows, files = read_rows(folder), FileLengths(folder)
        run = _Run(folder, workers, order, tuple(filters), attempts, append)
        missing = run.missing(rows, files, n, verify=verify)
        with progress_bar(shown=progress) as bar:
            for _ in bar.track(run.make(missing, batch_size), total=len(missing), description="generate"):
                pass
        return open_generated(folder, verify=verify) if missing else collect(rows, files, folder, verify=verify)


@frozen
class _Missing:
    """An image to generate; `row` is its manifest row if only its files were lost."""

    index: int
    attempt: int
    row: Row | None = None


@frozen
class _Batch:
    """Images to generate together, and their requests."""

    which: list[_Missing]
    requests: list[GenerationRequest]


def reads_prompts(generator: Generator) -> bool:
    """Whether its images depend on prompts; a function for `Workers.ask`."""
    return generator.reads_prompts


def reads_source(generator: Generator) -> bool:
    """Whether it starts from labelled images; a function for `Workers.ask`."""
    return generator.reads_source


def _check_numbers(n: int, batch_size: int, attempts: int) -> None:
    if min(n, batch_size, attempts) < 1:
        raise ConfigError(
            f"generation needs n, batch_size and attempts of at least 1, got n={n}, batch_size={batch_size} and "
            f"attempts={attempts}"
        )


def _check_inputs(
    name: str, workers: Workers[Generator], prompts: Sequence[str | Prompt], source: LabelledSource | None
) -> list[Prompt]:
    """The prompts, if the generator gets what it reads, and nothing else."""
    if isinstance(prompts, str) or not prompts:
        raise ConfigError(f"prompts must be a list of at least one text, got {prompts!r}")
    found = [Prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    if any(prompt.text for prompt in found) and not workers.ask(reads_prompts):
        raise ConfigError(f"generator {name} reads no prompts; leave them out")
    wanted = workers.ask(reads_source)
    if wanted and source is None:
        raise ConfigError(f"generator {name} starts from labelled images; give their SPEC as source")
    if source is not None and not wanted:
        raise ConfigError(f"generator {name} does not start from labelled images; leave out the source")
    return found


def _describe(generator: Generator) -> dict[str, Any]:
    return dict(generator.describe())


def _draw(generator: Generator, batch: _Batch) -> list[GeneratedImage]:
    images = list(generator.generate(batch.requests))
    if len(images) != len(batch.requests):
        raise ComponentError(
            f"generator {type(generator).__name__} returned {len(images)} images for {len(batch.requests)} requests; "
            "it must return one per request, in order"
        )
    return images


@frozen
class _Run:
    """A run that generates the missing images of a folder."""

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
        """Images without complete files, except those rejected too often. An image in the manifest is never left out.

        Args:
            rows, files: content of the folder.
            n: number of requested images.
            verify: see `generate_set`.

        Raises:
            DataError: the folder holds images of other requests.
        """
        for one in self.filters:
            one.begin()
        known: dict[int, _Missing | None] = {}  # None for complete images
        for (index, prompt), seeds in read_rejections(self.folder, self.thresholds).items():
            if prompt == self.order.prompt(index).text:
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
        """Generate the images in batches; filter and store them one by one."""
        waiting = iter(missing)
        batches = map(self._batch, iter(lambda: list(islice(waiting, batch_size)), []))
        for batch, images in self.workers.map(_draw, batches):
            for one, image in zip(batch.which, images, strict=True):
                if one.row:  # not rejected when it was first generated
                    row = self._store(one.index, self._judge_again(one.row, image), len(images))
                    self.append(evolve(row, scores=one.row.scores, filters=one.row.filters))
                else:
                    self._store_or_retry(one.index, one.attempt, image, together=len(images))
                yield

    def _batch(self, which: list[_Missing]) -> _Batch:
        return _Batch(which, [self.order.request(one.index, one.attempt) for one in which])

    def _judge_again(self, row: Row, image: GeneratedImage) -> Judgement:
        """Drop the labels that the filters of the first time dropped.

        Raises:
            ConfigError: this run has other filters.
        """
        self._check_sizes(row.index, image)
        if row.regions is None:
            return Judgement(image, row.scores, None)
        if row.filters != self.thresholds:
            raise ConfigError(
                f"image {row.index} is generated again, and the filters {row.filters} dropped labels of it; give the "
                f"same filters, not {self.thresholds}"
            )
        return judge(image, self.filters, rejects=False)

    def _store_or_retry(self, index: int, attempt: int, image: GeneratedImage, *, together: int) -> None:
        """Store the image, or the first further attempt that passes the filters."""
        while True:
            self._check_sizes(index, image)
            judged = judge(image, self.filters)
            if judged.rejected_by is None:
                row = self._store(index, judged, together)
                self.append(row)
                for one in self.filters:
                    one.keep(row.fingerprint)
                return
            rejection = Rejection(
                index=index,
                prompt=image.request.prompt,
                seed=image.request.seed,
                rejected_by=judged.rejected_by,
                scores=judged.scores,
                filters=self.thresholds,
            )
            add_rejection(self.folder, rejection)
            attempt, together = attempt + 1, 1
            if attempt >= self.attempts:
                return
            ((_, (image,)),) = self.workers.map(_draw, [self._batch([_Missing(index, attempt)])])

    def _check_sizes(self, index: int, image: GeneratedImage) -> None:
        kept = image.labels if self.order.keep_labels else None
        for what, array in (("an image", image.image), ("a label map", kept)):
            if array is not None and array.shape[:2] != self.order.size:
                raise ComponentError(
                    f"the generator returned {what} of shape {array.shape} for a request of size {self.order.size} "
                    f"(height, width), image {self.order.name(index)}; it must keep the size"
                )

    def _store(self, index: int, judged: Judgement, together: int) -> Row:
        """Write the files of one image, and return its row."""
        name, image = self.order.name(index), judged.image
        source, labels = image.request.source, None
        if image.labels is not None and self.order.keep_labels:
            write_png(target_in(self.folder, f"labels/{name}"), image.labels)
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
            scores=judged.scores,
            labels=labels,
            label_kind=image.label_kind if labels else "pseudo",
            regions=judged.regions,
            origin=image.origin or (source and source.origin),
            prompt_origin=self.order.prompt(index).origin,
            **self.order.shared,
            batch_size=together,
            filters=self.thresholds,
            libraries=_libraries(),
            keep_labels=self.order.keep_labels,
        )


@cache
def _libraries() -> dict[str, str]:
    """Versions of installed libraries that may influence an image."""
    versions: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
