"""`clouds evaluate`. Heavy imports are inside functions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from clouds.cli.options import BatchSize, DatasetConfig, Device, Trust, UsageError
from clouds.cli.output import write
from clouds.core.system.errors import ConfigError, DataError
from clouds.evaluation.protocols import CLASS_SETS, PROTOCOLS, find_benchmark, find_protocol

if TYPE_CHECKING:
    from clouds.core.contract.component import Kind
    from clouds.data.folder import Dataset
    from clouds.evaluation.evaluate import Settings
    from clouds.evaluation.pipeline_comparison import PipelineComparison
    from clouds.evaluation.protocol_reports import ProtocolReports
    from clouds.evaluation.report import Report
    from clouds.evaluation.segment_report import SegmentReport

_ALL = "all"


def _check_protocols(_: Any, names: Sequence[str]) -> None:
    if _ALL in names and len(names) > 1:
        raise ValueError(f"{_ALL!r} stands for every protocol; name it alone")
    for name in names:
        if name != _ALL:
            _as_value_error(find_protocol, name)


def _check_benchmark(_: Any, name: str | None) -> None:
    if name is not None:
        _as_value_error(find_benchmark, name)


def _check_report(_: Any, folder: Path | None) -> None:
    if folder is not None and folder.exists() and not folder.is_dir():
        raise ValueError("A file is no folder; give a new one, or that of an earlier report")


ReportFolder = Annotated[Path | None, Parameter(validator=_check_report)]


def _as_value_error(find: Any, name: str) -> None:
    try:
        find(name)
    except ConfigError as error:
        raise ValueError(str(error)) from error


def evaluate(
    checkpoint: Path,
    /,
    *,
    data: Annotated[tuple[str, ...], Parameter(consume_multiple=True, show_default=False)] = (),
    protocol: Annotated[
        tuple[str, ...], Parameter(consume_multiple=True, show_default=False, validator=_check_protocols)
    ] = (),
    benchmark: Annotated[str | None, Parameter(validator=_check_benchmark)] = None,
    data_root: Path = Path(),
    classes: Annotated[str | None, Parameter(help=f"Class set of the means: {', '.join(CLASS_SETS)}.")] = None,
    scales: Annotated[tuple[float, ...], Parameter(consume_multiple=True)] = (1.0,),
    flip: bool = False,
    window: int | None = None,
    batch_size: BatchSize = 1,
    dataset_config: DatasetConfig = None,
    as_json: Annotated[Path | None, Parameter(name="--json")] = None,
    report: ReportFolder = None,
    calibration: bool = False,
    against: Annotated[tuple[Path, ...], Parameter(consume_multiple=True, show_default=False)] = (),
    device: Device = "auto",
    trust: Trust = (),
) -> None:
    """Evaluate a saved pipeline on labelled datasets, one per domain.

    Args:
        checkpoint: folder of a saved pipeline; or owner/name[@revision] of the hub.
        data: KIND:PATH[:SPLIT], one or more.
        protocol: names of `clouds list protocols`, or all; several give one table. Default: the benchmark's, or native.
        benchmark: a name of `clouds list benchmarks` in place of --data; it also sets protocol and classes.
        data_root: folder with the datasets of a benchmark.
        scales: average the scores of each image at these scales of the protocol's size, for example 0.75 1 1.25.
        flip: also average with the scores of the mirror image.
        window: images of more than window x window pixels are segmented in overlapping windows of that side, 2048 by
            default; refused for protocols that have their own windows.
        as_json: file for all metrics.
        report: folder for report.html and report.json. The page has pictures, confusions, and accuracy by size of
            region and distance from boundaries.
        calibration: also compare confidence with accuracy; this computes scores, which takes longer.
        against: other checkpoints to compare with, per class and image; differences are to CHECKPOINT.
    """
    from clouds.core.system.processes import join
    from clouds.evaluation.evaluate import Settings, chosen_specs

    if not (data or benchmark):
        raise UsageError("evaluate needs datasets: --data KIND:PATH[:SPLIT] ..., or --benchmark NAME")
    names = tuple(PROTOCOLS) if protocol == (_ALL,) else tuple(dict.fromkeys(protocol)) or (None,)
    if against and (len(names) > 1 or calibration):
        raise UsageError("--against compares under one --protocol, and without --calibration; omit the others")
    views = {"classes": classes, "scales": scales, "flip": flip, "window": window, "batch_size": batch_size}
    views |= {"analysis": report is not None and not against and len(names) == 1, "calibration": calibration}
    settings = [Settings.make(name, benchmark=benchmark, **views) for name in names]
    processes = join(device)
    measure = partial(_compare, against) if against else _evaluate
    result = measure(checkpoint, settings, chosen_specs(data, benchmark, data_root), dataset_config, device, trust)
    if processes.main:
        _write_report(result, as_json, report)


def evaluate_segments(
    checkpoint: Path,
    data: list[str],
    /,
    *,
    short_side: int | None = None,
    object_mask_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
    batch_size: BatchSize = 1,
    dataset_config: DatasetConfig = None,
    as_json: Annotated[Path | None, Parameter(name="--json")] = None,
    report: ReportFolder = None,
    device: Device = "auto",
    trust: Trust = (),
) -> None:
    """Panoptic quality and average precision of a saved pipeline on sets with instances, one per domain.

    Args:
        checkpoint: folder of a saved pipeline; or owner/name[@revision] of the hub.
        data: KIND:PATH[:SPLIT] of a kind that ends in -panoptic, one or more.
        short_side: first resize the short side to this many pixels; scores are at the image's own size.
        object_mask_threshold: masks need a class probability above this to become panoptic segments.
        overlap_threshold: they need at least this share of their pixels not covered by other masks.
        as_json: file for all metrics.
        report: folder for report.html and report.json.
    """
    from clouds.core.pipeline.checkpoint import read_checkpoint
    from clouds.core.pipeline.composer import load
    from clouds.core.pipeline.hub import find_checkpoint
    from clouds.core.system.processes import join
    from clouds.evaluation.evaluate_segments import evaluate_segments, open_segment_datasets

    processes = join(device)
    checkpoint = find_checkpoint(checkpoint)
    datasets = open_segment_datasets(data, read_checkpoint(checkpoint).plan.labels, dataset_config)
    result = evaluate_segments(
        load(checkpoint, device=device, trust=trust),
        list(datasets.values()),
        short_side=short_side,
        object_mask_threshold=object_mask_threshold,
        overlap_threshold=overlap_threshold,
        batch_size=batch_size,
        progress=True,
    )
    if processes.main:
        _write_files(result, as_json, report)


def _evaluate(
    checkpoint: Path,
    settings: Sequence[Settings],
    specs: Sequence[str | Dataset],
    dataset_config: Path | None,
    device: str,
    trust: tuple[Kind, ...],
) -> Report | ProtocolReports:
    """A report under each of the settings. All checks come before the pipeline is built."""
    from clouds.core.pipeline.checkpoint import read_checkpoint
    from clouds.core.pipeline.composer import load
    from clouds.core.pipeline.hub import find_checkpoint
    from clouds.evaluation.evaluate import open_datasets
    from clouds.evaluation.protocol_reports import ProtocolReports

    checkpoint = find_checkpoint(checkpoint)
    label_space = read_checkpoint(checkpoint).plan.labels
    datasets = open_datasets(specs, label_space, dataset_config)
    for one in settings:
        one.check(datasets, label_space)
    pipeline = load(checkpoint, device=device, trust=trust)
    reports = [one.evaluate(pipeline, datasets, progress=True) for one in settings]
    return reports[0] if len(reports) == 1 else ProtocolReports(reports)


def _compare(
    others: Sequence[Path],
    checkpoint: Path,
    settings: Sequence[Settings],
    specs: Sequence[str | Dataset],
    dataset_config: Path | None,
    device: str,
    trust: tuple[Kind, ...],
) -> PipelineComparison:
    """Compare other checkpoints with one, under the first of the settings. All checks come before one is built."""
    from clouds.core.pipeline.checkpoint import read_checkpoint
    from clouds.core.pipeline.composer import load
    from clouds.core.pipeline.hub import find_checkpoint
    from clouds.evaluation.evaluate import open_datasets
    from clouds.evaluation.pipeline_comparison import check_pipelines, compare_on

    checkpoints = [checkpoint, *others]
    names = [str(one) for one in checkpoints]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{name}: is listed twice; compare different checkpoints")
    folders = dict(zip(names, map(find_checkpoint, checkpoints), strict=True))
    label_spaces = {name: read_checkpoint(folder).plan.labels for name, folder in folders.items()}
    check_pipelines({name: labels.names for name, labels in label_spaces.items()})
    datasets = open_datasets(specs, label_spaces[names[0]], dataset_config)
    settings[0].check(datasets, label_spaces[names[0]])
    pipelines = {name: load(folder, device=device, trust=trust) for name, folder in folders.items()}
    return compare_on(settings[0], pipelines, datasets, progress=True)


def _write_report(
    result: Report | ProtocolReports | PipelineComparison, as_json: Path | None, folder: Path | None
) -> None:
    """Write the results. Raises `DataError` when a dataset has no labelled pixel."""
    _write_files(result, as_json, folder)
    if result.unmeasured:
        raise DataError(
            f"{', '.join(result.unmeasured)}: no labelled pixel, so nothing was measured; "
            "`clouds datasets check` counts the values of the label files"
        )


def _write_files(
    result: Report | ProtocolReports | PipelineComparison | SegmentReport, as_json: Path | None, folder: Path | None
) -> None:
    from clouds.core.system.files import write_text

    write(result.to_text())
    if as_json:
        write_text(as_json, result.to_json() + "\n")
    if folder:
        write_text(folder / "report.json", result.to_json() + "\n")
        write_text(folder / "report.html", result.to_html())
