"""`clouds weights`: published weights on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import asdict
from cyclopts import App

from clouds.cli.options import AsJson, UsageError
from clouds.cli.output import write, write_json, write_table
from clouds.core.contract.weight_records import FileWeights, HubWeights, Weights
from clouds.core.system.errors import WeightsError
from clouds.core.weights.catalog import find_weights, published_weights
from clouds.core.weights.store import fetch, judge, locate

_MIB = 2**20


def weights_app() -> App:
    """`clouds weights list`, `fetch` and `verify`."""
    app = App(name="weights", help="List, fetch and verify published weights.")
    app.command(list_weights, name="list")
    app.command(fetch_weights, name="fetch")
    app.command(verify_weights, name="verify")
    return app


def list_weights(*, as_json: AsJson = False) -> None:
    """List published weights, their licences, and their location on this machine (CLOUDS_WEIGHTS, or the caches)."""
    documents = [_describe(name, weights) for name, weights in published_weights().items()]
    if as_json:
        write_json(documents)
        return
    rows = [(d["name"], _mib(d["size"]), d["licence"], str(d["folder"] or "-"), d["source"]) for d in documents]
    write_table(("name", "MiB", "licence", "on this machine", "published at"), rows)
    for document in documents:
        if document["note"]:
            write(f"{document['name']}: {document['note']}")


def fetch_weights(*names: str, out: Path | None = None, as_json: AsJson = False) -> None:
    """Download weights and verify them; a partial download is resumed.

    Args:
        names: names from `clouds weights list`.
        out: folder to copy to a machine without a network, where CLOUDS_WEIGHTS=FOLDER uses it.
    """
    if not names:
        raise UsageError(f"no weights are named; give one or more of {', '.join(published_weights())}")
    fetched = {name: fetch(weights, out) for name, weights in _find(names).items()}
    if as_json:
        write_json(fetched)
        return
    for name, paths in fetched.items():
        for path in paths:
            write(f"{name}: {path}")


def verify_weights(*names: str, as_json: AsJson = False) -> int:
    """Compare files on this machine with their published hashes. The exit code is 1 if one differs or is missing.

    Args:
        names: names from `clouds weights list`; default: all on this machine.
    """
    asked = _find(names) if names else published_weights()
    files = {name: locate(weights) for name, weights in asked.items()}
    missing = [name for name, paths in files.items() if names and not paths]
    verdicts = [(name, judge(asked[name], path)) for name, paths in files.items() for path in paths]
    failed = any(verdict.damaged for _, verdict in verdicts) or bool(missing)
    if as_json:
        judged = [{"name": name, **asdict(verdict), "damaged": verdict.damaged} for name, verdict in verdicts]
        write_json({"files": judged, "missing": missing})
        return int(failed)
    for name, verdict in verdicts:
        state = "intact" if verdict.expected else "no published hash is known"
        if verdict.damaged:
            state = f"DAMAGED: hash is {verdict.found}, expected {verdict.expected}; remove it and fetch it again"
        write(f"{name}: {verdict.path}: {state}")
    for name in missing:
        write(f"{name}: not on this machine; clouds weights fetch {name}")
    if not (verdicts or missing):
        write("no published weights are on this machine")
    return int(failed)


def _find(names: Sequence[str]) -> dict[str, Weights]:
    try:
        return {name: find_weights(name) for name in names}
    except WeightsError as error:
        raise UsageError(str(error)) from None


def _describe(name: str, weights: Weights) -> dict[str, Any]:
    paths = locate(weights)
    published = weights.size if isinstance(weights, FileWeights) else None
    if isinstance(weights, HubWeights):
        published = sum(pinned.size for pinned in weights.pinned.values()) or None
    return {
        "name": name,
        "licence": weights.licence,
        "source": f"hub: {weights.repo}" if isinstance(weights, HubWeights) else weights.url,
        "size": sum(path.stat().st_size for path in paths) or published,
        "note": weights.note if isinstance(weights, HubWeights) else "",
        "folder": paths[0].parent if paths else None,
        "files": paths,
    }


def _mib(size: int | None) -> str:
    return "?" if size is None else f"{size / _MIB:.0f}"
