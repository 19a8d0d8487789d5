"""`clouds compare`: runs beside each other. Heavy imports are inside functions."""

from __future__ import annotations

from pathlib import Path

from clouds.cli.options import AsJson
from clouds.cli.output import write


def compare(runs: list[Path], /, *, report: Path | None = None, as_json: AsJson = False) -> None:
    """Compare training runs: scores per domain, their spread over seeds, and what differs in the recipes.

    Runs whose recipes differ only in their seed are one arm, with mean and standard deviation. Settings that change no
    step, such as data.workers, may differ as well.

    Args:
        runs: folders of runs that were evaluated while they trained (loop.evaluate_every).
        report: folder for comparison.html, with curves and IoU per class, and comparison.json.
    """
    from clouds.core.system.files import write_text
    from clouds.training.run_folder import compare as compare_runs

    comparison = compare_runs(runs)
    if report:
        write_text(report / "comparison.json", comparison.to_json() + "\n")
        write_text(report / "comparison.html", comparison.to_html())
    write(comparison.to_json() if as_json else str(comparison))
