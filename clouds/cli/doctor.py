"""`clouds doctor`: checks the environment, all components and all plugins."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from attrs import asdict

from clouds import __version__
from clouds.cli.bundle import environment_report
from clouds.cli.options import AsJson
from clouds.cli.output import write, write_json, write_notes, write_table
from clouds.core.contract.catalog import Catalog, Entry
from clouds.core.contract.component import BUILT_IN, Kind
from clouds.core.contract.offers import OfferKind
from clouds.core.contract.plan import PlanError
from clouds.core.contract.planner import make_plan
from clouds.core.system.config import to_json
from clouds.core.system.errors import CloudsError, ComponentError
from clouds.core.system.files import write_text

_NEEDED = ("torch", "torchvision")
_REMEDIES = {
    "torch": "pip install torch torchvision",
    "torchvision": "install torch and torchvision of one release together",
    "triton": "only for GPU kernels; comes with torch on Linux",
    "xformers": "only for faster attention on CUDA; pip install 'clouds-dgss[gpu]'",
    "gradio": "only for clouds serve; pip install 'clouds-dgss[serve]'",
}
_GIB = 2**30


def doctor(*, bundle: Path | None = None, as_json: AsJson = False) -> int:
    """Find broken libraries, components and plugins. The exit code is 1 if there are any.

    Args:
        bundle: JSON file to write for a bug report: what is found, all installed distributions, and settings. It has no
            secrets, and "~" in place of the home folder.
    """
    catalog = Catalog.from_environment()
    libraries = {name: _library(name) for name in _REMEDIES}
    components = [_component(entry) for kind in Kind for entry in catalog.entries(kind)]
    _call_other_hooks(catalog)
    troubles = [f"{name}: {state['error']}" for name, state in libraries.items() if state["error"]]
    troubles += [f"{c['distribution']} {c['version']}: {c['error']}" for c in components if c["error"]]
    troubles += [f"plugin of {broken}" for broken in catalog.broken]
    troubles += [text for kind in Kind for text in _duplicates(catalog.entries(kind))]
    count = len(troubles)
    verdict = f"{count} thing{'s' if count > 1 else ''} broken, the rest works" if count else "nothing is broken"
    document = {
        "healthy": not troubles,
        "verdict": verdict,
        "machine": _machine(),
        "libraries": libraries,
        "components": components,
        "broken": [asdict(broken) for broken in catalog.broken],
        "troubles": troubles,
    }
    if bundle:
        write_text(bundle, to_json(environment_report(document), indent=1) + "\n")
    if as_json:
        write_json(document)
    else:
        _print(document)
        write_notes([f"wrote {bundle}; read it before you attach it to a report"] if bundle else [])
    return 1 if troubles else 0


def _print(document: dict[str, Any]) -> None:
    rows = list(document["machine"].items())
    for name, state in document["libraries"].items():
        rows.append((name, state["version"] or state["absent"] or f"broken: {state['error']}"))
    write_table(("environment", ""), rows)
    write("")
    components = document["components"]
    states = [
        (c["kind"], c["name"], f"{c['distribution']} {c['version']}", "broken" if c["error"] else "ok")
        for c in components
    ]
    write_table(("kind", "name", "distribution", "state"), states)
    write("")
    for trouble in document["troubles"]:
        write(f"broken: {trouble}")
    write(f"verdict: {document['verdict']}")


def _library(name: str) -> dict[str, str | None]:
    """Version of a library, or the reason why it is absent or cannot be imported."""
    try:
        found = version(name)
    except PackageNotFoundError:
        absent = f"not installed ({_REMEDIES[name]})"
        return {"version": None, "absent": absent, "error": absent if name in _NEEDED else None}
    try:
        import_module(name)
    except Exception as error:  # noqa: BLE001 - incompatible libraries may raise anything at import
        reason = f"{found} cannot be imported: {type(error).__name__}: {error} ({_REMEDIES[name]})"
        return {"version": None, "absent": None, "error": reason}
    return {"version": found, "absent": None, "error": None}


def _component(entry: Entry) -> dict[str, str | None]:
    """Check that the factory of a component can be imported and has a valid signature."""
    component = entry.component
    row = {
        "kind": component.kind,
        "name": component.name,
        "distribution": entry.distribution,
        "version": entry.version,
    }
    try:
        _ = entry.schema
    except ComponentError as error:
        return {**row, "error": str(error)}
    return {**row, "error": None}


def _call_other_hooks(catalog: Catalog) -> None:
    """Call the hooks that discovery does not call, so that the catalog records failing plugins."""
    for kind in OfferKind:
        catalog.offers(kind)
    catalog.weights()
    with suppress(CloudsError):  # the model does not exist
        catalog.find(Kind.BACKBONE, "doctor:no-such-model")
    with suppress(PlanError):  # a plugin may reject the plan; only failures are recorded
        make_plan(backbone=f"{BUILT_IN}::tiny", head=f"{BUILT_IN}::linear", pretrained=False, catalog=catalog)


def _duplicates(entries: Sequence[Entry]) -> list[str]:
    """One sentence per name that several components of a kind share."""
    owners: dict[str, list[Entry]] = {}
    for entry in entries:
        for name in {entry.component.name, *entry.component.aliases}:
            owners.setdefault(name, []).append(entry)
    return [
        f"{found[0].component.kind} {name!r} is defined twice: "
        + " and ".join(f"{entry.distribution} {entry.version} ({entry.qualified_name})" for entry in found)
        for name, found in sorted(owners.items())
        if len(found) > 1
    ]


def _machine() -> dict[str, str]:
    found = {"clouds": __version__, "python": platform.python_version(), "platform": platform.platform()}
    found["processors"] = str(os.cpu_count())
    found["memory"] = _memory()
    found["cuda"] = _cuda()
    disk = shutil.disk_usage(Path.cwd())
    found["disk"] = f"{disk.free / _GIB:.1f} GiB free of {disk.total / _GIB:.1f} GiB at {Path.cwd()}"
    return found


def _memory() -> str:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():  # macOS does not report available memory
        return f"{total:.1f} GiB"
    fields = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024 / _GIB
    return f"{available:.1f} GiB available of {total:.1f} GiB"


def _cuda() -> str:
    try:
        import torch
    except (ImportError, OSError):  # reported with the libraries
        return "unknown without torch"
    built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
    if not torch.cuda.is_available():
        return f"no device ({built})"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{', '.join(names)} ({built})"
