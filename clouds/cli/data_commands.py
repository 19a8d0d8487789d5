"""`clouds prompts`, `clouds generate`, `clouds datasets`: training data. Heavy imports are inside functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attrs import asdict
from cyclopts import Group, Parameter
from cyclopts.validators import MutuallyExclusive

from clouds.cli.options import AsJson, Assignments, DatasetConfig, Device, Engine, Labels, UsageError, WorkerCount
from clouds.cli.output import write, write_json, write_notes, write_table
from clouds.core.contract.catalog import Catalog
from clouds.core.contract.component import Kind
from clouds.core.contract.labels import CITYSCAPES, LabelSpace
from clouds.core.system.config import override, parse_assignment
from clouds.core.system.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from clouds.core.contract.interfaces import Generator
    from clouds.core.contract.plan import Part
    from clouds.core.contract.records import Prompt
    from clouds.synthesis.filters import Filter
    from clouds.synthesis.generated_set import GeneratedSet
    from clouds.synthesis.labelled_source import LabelledSource
    from clouds.synthesis.workers import Workers

_ONE_SOURCE = Group("Prompts", validator=MutuallyExclusive())
_SHOWN_FAULTS = 20


def prompts(
    *,
    n: int,
    out: Path,
    prompter: str = "grammar",
    seed: int = 0,
    assignments: Assignments = (),
    as_json: AsJson = False,
) -> None:
    """Write prompts for a generator, one per line, and count their classes, weather and time of day.

    Args:
        n: number of prompts.
        out: text file to write.
        prompter: a name from `clouds list prompters`.
        seed: random seed.
        assignments: options of the prompter.
    """
    if n < 1:
        raise UsageError(f"--n {n}: expected at least 1")
    from clouds.core.system.files import write_text
    from clouds.prompters.prompt_statistics import describe_prompts

    made = _write_prompts(override({"name": prompter}, assignments), n, seed, Catalog.from_environment())
    texts, origins = [prompt.text for prompt in made], _count_origins(made)
    write_text(out, "".join(f"{text}\n" for text in texts))
    found = describe_prompts(texts, CITYSCAPES)
    if as_json:
        write_json({"file": out, **asdict(found), **origins})
        return
    write(f"{len(texts)} prompts in {out}, {found.distinct} distinct; they name")
    for what, counts in (("classes", found.classes), ("weather", found.weather), ("time of day", found.time)):
        write(f"  {what}: {_list_counts(counts)}")
    for what, counts in origins.items():
        write(f"{what.replace('_', ' ')}: {_list_counts(counts)}")


def generate(
    *,
    generator: str,
    n: int,
    out: Path,
    prompts: Annotated[Path | None, Parameter(group=_ONE_SOURCE)] = None,
    prompter: Annotated[str | None, Parameter(group=_ONE_SOURCE)] = None,
    pictures: str | None = None,
    source: str | None = None,
    labels: Labels = "",
    size: tuple[int, int] = (768, 768),
    seed: int = 0,
    batch_size: int = 4,
    keep_labels: bool = False,
    filters: Annotated[tuple[str, ...], Parameter(name="--filter", show_default=False)] = (),
    clip: str = "ViT-B-32-quickgelu/openai",
    segmenter: Path | None = None,
    agreement: float = 0.5,
    attempts: int = 3,
    verify: bool = False,
    shards: bool = False,
    engine: Engine = "local",
    workers: WorkerCount = None,
    device: Device = "auto",
    assignments: Assignments = (),
    as_json: AsJson = False,
) -> None:
    """Generate a dataset with a manifest; repeat the command to finish an interrupted run.

    Args:
        generator: a name from `clouds list generators`.
        n: number of images.
        out: folder of the dataset.
        prompts: text file, one prompt per line.
        prompter: a name from `clouds list prompters`; it writes min(n, 100) prompts. Without --prompts, it is grammar.
        pictures: folder, glob pattern or dataset SPEC of the generator photographs; it reads no prompts.
        source: SPEC of the labelled images that controlnet-seg and img2img start from; images inherit their labels.
        labels: label space of these labels; default: Cityscapes, or the classes of the dataset's mapping.
        size: height and width in pixels.
        seed: image j has the seed `seed + j`.
        batch_size: images per batch of the generator.
        keep_labels: also write exact labels, if the generator knows them.
        filters: blank, duplicate, clip or consistency; repeatable. A rejected image is generated again with another
            seed. The optional value is the minimum score, as in duplicate=5 (different bits of 64), clip=0.25, or
            consistency=0.5 (share of the inherited labels that is kept).
        clip: open_clip's MODEL/WEIGHTS, or MODEL/FILE, for the filter clip.
        segmenter: saved pipeline for the filter consistency. It predicts each image; regions of inherited labels that
            it does not see become 255 (ignore).
        agreement: minimum share of a region's pixels in which the segmenter must see its class, 0 to 1.
        attempts: maximum attempts per image; after that it is left out.
        verify: compare hashes of existing files with the manifest, not only their size.
        shards: also write WebDataset tars to OUT/shards.
        assignments: options of the generator, also written generator.OPTION, and prompter.OPTION of the prompter.
    """
    from clouds.synthesis.generate import generate_set, reads_prompts

    catalog, wanted = Catalog.from_environment(), _by_part(assignments)
    part = _plan_generator(generator, pictures, wanted[Kind.GENERATOR], catalog)
    judges = _build_filters(filters, clip, segmenter, agreement, device)
    options: dict[str, Any] = {"seed": seed, "size": size, "batch_size": batch_size, "keep_labels": keep_labels}
    options |= {"filters": judges, "attempts": attempts, "verify": verify, "source": _open_source(source, labels)}
    with _open_generators(part, catalog, engine, workers, device) as drawing:
        given = prompts or prompter or ("grammar" if drawing.ask(reads_prompts) else None)
        texts = _find_prompts(given, wanted[Kind.PROMPTER], n, seed, catalog)
        made = generate_set(drawing, part, texts, n=n, out=out, **options, progress=True)
    _finish(made, n=n, prompts=texts, attempts=attempts, shards=shards, as_json=as_json)


def _count_origins(prompts: Sequence[Prompt]) -> dict[str, dict[str, int]]:
    """Prompts by who wrote them, and by the number of questions; empty for prompters that do not tell."""
    origins = [prompt.origin for prompt in prompts if prompt.origin]
    keys = {"written_by": "by", "questions": "questions"}
    counts = {name: Counter(str(origin[key]) for origin in origins if key in origin) for name, key in keys.items()}
    return {name: dict(sorted(found.items())) for name, found in counts.items() if found}


def _list_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _plan_generator(name: str, pictures: str | None, options: Sequence[str], catalog: Catalog) -> Part:
    from clouds.synthesis.engines import plan_component

    places = {"pictures": _find_place(pictures)} if pictures else {}
    return plan_component(Kind.GENERATOR, override({"name": name, **places}, options), catalog)


def _open_generators(
    part: Part, catalog: Catalog, engine: str, count: int | None, device: str
) -> AbstractContextManager[Workers[Generator]]:
    """Workers that build the generator."""
    from clouds.synthesis.engines import build_component, open_workers, to_document

    here = catalog if engine == "local" else None  # a worker elsewhere has its own plugins
    build: Callable[[], Generator] = partial(build_component, Kind.GENERATOR.value, to_document(part), device, here)
    return open_workers(engine, build, count=count, device=device)


def _by_part(assignments: Sequence[str]) -> dict[Kind, list[str]]:
    """Options of generator and prompter; those without a prefix are the generator's."""
    found: dict[Kind, list[str]] = {Kind.GENERATOR: [], Kind.PROMPTER: []}
    for text in assignments:
        prefix, _, rest = text.partition(".")
        kind = next((kind for kind in found if kind == prefix), None)
        found[kind or Kind.GENERATOR].append(rest if kind else text)
    return found


def _find_prompts(
    given: Path | str | None, options: Sequence[str], n: int, seed: int, catalog: Catalog
) -> Sequence[str | Prompt]:
    """Prompts of a file, of a prompter, or none for a generator that reads none."""
    from clouds.synthesis.generate import NO_PROMPTS, PROMPTS

    if isinstance(given, str):
        return _write_prompts(override({"name": given}, options), min(n, PROMPTS), seed, catalog)
    if options:
        reason = f"the prompts are those of {given}" if given else "the generator reads no prompts"
        raise UsageError(f"--set prompter.{options[0]}: {reason}, and no prompter is used; omit it")
    return NO_PROMPTS if given is None else _read_prompts(given, n, catalog)


def _open_source(spec: str | None, labels: str) -> LabelledSource | None:
    from clouds.synthesis.labelled_source import LabelledSource

    if labels and not spec:
        raise UsageError("--labels is the label space of --source, which is missing; give it, or omit --labels")
    return LabelledSource.open(spec, _label_space(labels, spec, None)) if spec else None


def _find_place(pictures: str) -> str:
    """The glob pattern of a SPEC; other texts stay."""
    from clouds.data.folder import image_pattern
    from clouds.data.spec import is_spec

    return image_pattern(pictures) if is_spec(pictures) and not Path(pictures).exists() else pictures


def _finish(
    made: GeneratedSet, *, n: int, prompts: Sequence[str | Prompt], attempts: int, shards: bool, as_json: bool
) -> None:
    from clouds.synthesis.shards import write_shards

    if not made.images:
        raise DataError(
            f"{made.folder}: none of {n} images was kept, each was rejected {attempts} times; lower the minimum of "
            "--filter, raise --attempts, or look at rejected.jsonl"
        )
    if shards:
        write_shards(made, progress=True)
    left_out = n - sum(row.index < n for row in made.rows)
    labelled = made.labels is not None
    regions = Counter[str]()
    for row in made.rows:
        regions.update(row.regions or {})
    if as_json:
        counts = {"images": len(made.images), "left_out": left_out, "prompts": len(prompts)}
        origins = _count_origins([prompt for prompt in prompts if not isinstance(prompt, str)])
        dropped = {"regions": regions} if regions else {}
        write_json({"folder": made.folder, **counts, **origins, "labels": labelled, **dropped})
    else:
        less = f"; {left_out} left out, rejected {attempts} times each" if left_out else ""
        less += f"; {regions['dropped']} of {regions['labelled']} labelled regions dropped" if regions else ""
        write(f"{len(made.images)} images{' with labels' if labelled else ''} in {made.folder}{less}")


def check(
    spec: str,
    /,
    *,
    index: Path | None = None,
    labels: Labels = "",
    dataset_config: DatasetConfig = None,
    as_json: AsJson = False,
) -> int:
    """Read every file of a dataset, count the pixels per class, and report all faults at once.

    Args:
        spec: KIND:PATH[:SPLIT], for example folder:photos:train or cityscapes:/data/cityscapes:val.
        index: file to write the pixels per image and class to, for the sampler `rare-classes`; not with faults.
        labels: label space; default: Cityscapes, or the classes of the dataset's mapping.
    """
    from clouds.data.check import check_dataset
    from clouds.data.folder import open_dataset

    space = _label_space(labels, spec, dataset_config)
    dataset = open_dataset(spec, space, config=dataset_config, require_labels=False)
    report = check_dataset(dataset, progress=True)
    if index and report.class_index:
        report.class_index.write(index)
    if as_json:
        write(report.to_json())
    else:
        total = max(1, sum(report.pixels.values()))
        rows = [(name, f"{count}", f"{100 * count / total:.2f}") for name, count in report.pixels.items()]
        write_table(("class", "pixels", "per cent"), rows)
        for note in report.notes:
            write(f"note: {note}")
        for fault in report.faults[:_SHOWN_FAULTS]:
            write(f"fault: {fault.message}")
        if len(report.faults) > _SHOWN_FAULTS:
            write(f"... and {len(report.faults) - _SHOWN_FAULTS} more faults; --json lists all")
        written = f"; class index in {index}" if index and report.class_index else ""
        write(f"{report.name}: {report.images} images, {len(report.faults)} faults{written}")
    return 0 if report.ok else 1


def convert(
    spec: str,
    out: Path,
    /,
    *,
    images: Literal["link", "copy"] = "link",
    labels: Labels = "",
    dataset_config: DatasetConfig = None,
    as_json: AsJson = False,
) -> None:
    """Convert a dataset to folders with labels as PNGs of train ids; repeat the command to add missing files.

    Training and evaluation read datasets as downloaded; this is for other programs.

    Args:
        spec: KIND:PATH[:SPLIT], for example gta5:/data/gta5.
        out: folder of the new dataset folder:OUT:SPLIT. Several splits may share it.
        images: write symbolic links to the original images, or copies.
        labels: label space; default: Cityscapes, or the classes of the dataset's mapping.
    """
    from clouds.data.convert import convert_dataset
    from clouds.data.folder import open_dataset

    dataset = open_dataset(spec, _label_space(labels, spec, dataset_config), config=dataset_config)
    made = convert_dataset(dataset, out, images=images, progress=True)
    if as_json:
        write_json({"spec": made.spec, "images": made.images, "written": made.written})
    else:
        write(f"{made.written} label maps written, {made.images - made.written} existed: {made.spec}")


def _label_space(asked: str, spec: str, dataset_config: Path | None) -> LabelSpace:
    """The label space of --labels; default: Cityscapes, unless the dataset's mapping has only other classes."""
    from clouds.core.contract.label_table import read_labels
    from clouds.data.config import FILE_NAME, mapped_classes
    from clouds.data.spec import parse_spec

    if asked:
        return read_labels(parse_assignment(f"labels={asked}")[1])
    path = dataset_config or parse_spec(spec).path / FILE_NAME
    names = mapped_classes(path) if path.is_file() else ()
    if not names or set(names) & set(CITYSCAPES.names):
        return CITYSCAPES
    write_notes([f"using the classes of {path}: {', '.join(names)}; a recipe needs them as labels"])
    return LabelSpace.from_names(names)


def _build_filters(
    asked: tuple[str, ...], clip: str, segmenter: Path | None, agreement: float, device: str
) -> list[Filter]:
    """Build the filters of `--filter NAME[=LEAST]`."""
    from clouds.core.pipeline.build import pick_device
    from clouds.synthesis.clip_filter import ClipFilter
    from clouds.synthesis.filters import BlankFilter, DuplicateFilter

    def build_clip(**options: float) -> Filter:
        return ClipFilter.load(clip, device=str(pick_device(device)), **options)

    def build_consistency(**options: float) -> Filter:
        from clouds.synthesis.consistency import load_consistency_filter

        if segmenter is None:
            raise UsageError("--filter consistency needs a trained pipeline; also give --segmenter CHECKPOINT")
        return load_consistency_filter(segmenter, agreement=agreement, device=device, **options)

    known: dict[str, Callable[..., Filter]] = {
        "blank": BlankFilter,
        "duplicate": DuplicateFilter,
        "clip": build_clip,
        "consistency": build_consistency,
    }
    built: list[Filter] = []
    if segmenter is not None and not any(text.partition("=")[0] == "consistency" for text in asked):
        raise UsageError("--segmenter is read by the filter consistency alone; also give --filter consistency")
    for text in asked:
        name, equals, least = text.partition("=")
        if name not in known:
            raise UsageError(f"--filter {text}: unknown filter {name!r}{did_you_mean(name, known)}")
        try:
            options = {"least": float(least)} if equals else {}
        except ValueError:
            raise UsageError(f"--filter {text}: {least!r} is not a number; write {name} or {name}=NUMBER") from None
        built.append(known[name](**options))
    return built


def _write_prompts(prompter: str | dict[str, Any], n: int, seed: int, catalog: Catalog) -> list[Prompt]:
    from clouds.core.pipeline.build import build_part

    return build_part(Kind.PROMPTER, prompter, catalog=catalog).write(n, seed=seed)


def _read_prompts(path: Path, n: int, catalog: Catalog) -> list[str]:
    """Up to n prompts of a file; a shorter file is not repeated."""
    return list(dict.fromkeys(one.text for one in _write_prompts({"name": "file", "path": str(path)}, n, 0, catalog)))
