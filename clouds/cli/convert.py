"""`clouds convert`: convert a published checkpoint. Heavy imports are inside functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clouds.cli.options import AsJson
from clouds.cli.output import write, write_json
from clouds.core.contract.component import Kind


def convert(reference: Path, out: Path, /, *, geometric_ensemble: bool = False, as_json: AsJson = False) -> None:
    """Convert a checkpoint of the published implementation (.pth) without running code in it.

    Args:
        reference: the checkpoint.
        out: folder for the saved pipeline.
        geometric_ensemble: combine the head's class scores with CLIP's.
    """
    from clouds.core.published.checkpoint import from_reference_checkpoint

    pipeline = from_reference_checkpoint(reference, geometric_ensemble, device="cpu")
    pipeline.save(out)
    backbone, head = (pipeline.plan.parts[kind] for kind in (Kind.BACKBONE, Kind.HEAD))
    found: dict[str, Any] = {
        "backbone": backbone.name,
        "head": head.name,
        "options": head.options,
        "classes": list(pipeline.labels.names),
        "kept": list(pipeline.kept),
        "checkpoint": out,
    }
    if as_json:
        write_json(found)
        return
    write(f"{backbone}\n{head}\nclasses: {', '.join(pipeline.labels.names)}")
    write(f"kept, but unused by any module: {_summary(found['kept']) or 'none'}")
    write(f"saved pipeline in {out}")


def _summary(keys: list[str]) -> str:
    """Tensor names, grouped by their first part with a count.

    >>> _summary(["sam.a", "sam.b", "void_embedding.weight"])
    'sam.* (2), void_embedding.weight'
    """
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(key.partition(".")[0], []).append(key)
    return ", ".join(f"{group}.* ({len(each)})" if len(each) > 1 else each[0] for group, each in groups.items())
