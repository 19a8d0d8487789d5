"""The file format of plans: its version, and migrations from earlier formats."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any, cast

from clouds.core.system.config import parse_json
from clouds.core.system.errors import WeightsError

FORMAT = 3


def current_plan(text: str) -> dict[str, Any]:
    """Parse a plan of any known format and convert it to the current format.

    Raises:
        WeightsError: the text is not a JSON object with a format number, or the format is unknown.
    """
    try:
        document = parse_json(text)
    except ValueError as error:
        raise WeightsError(f"this is not a plan: {error}") from error
    if not isinstance(document, dict) or type(cast("dict[str, Any]", document).get("format")) is not int:
        raise WeightsError("this is not a plan: expected a JSON object with a whole number as 'format'")
    plan = cast("dict[str, Any]", document)
    while plan["format"] in _MIGRATIONS:
        plan = _MIGRATIONS[plan["format"]](plan)
    if plan["format"] != FORMAT:
        raise WeightsError(
            f"the plan has format {plan['format']!r} of clouds {plan.get('clouds') or '(unknown version)'}; "
            f"clouds {version('clouds-dgss')} reads formats {min(_MIGRATIONS)} to {FORMAT}: install the newer version"
        )
    return plan


def _from_1(plan: dict[str, Any]) -> dict[str, Any]:
    """Format 1 did not record the version of clouds that wrote it."""
    return {"clouds": "", **plan, "format": 2}


def _from_2(plan: dict[str, Any]) -> dict[str, Any]:
    """In format 2, all levels of a plain ViT came from its last block; other models ignore `pyramid`."""
    parts = plan.get("parts")
    if isinstance(parts, list):
        plan = {**plan, "parts": [_last_block(part) for part in cast("list[Any]", parts)]}
    return {**plan, "format": 3}


def _last_block(part: Any) -> Any:
    """A part with `pyramid="last"` if it may be a plain ViT. A fault of the part is left to the reader of plans."""
    if not isinstance(part, dict):
        return cast("object", part)
    document = cast("dict[str, Any]", part)
    kind, distribution, name, options = (document.get(key) for key in ("kind", "distribution", "name", "options"))
    built_in = (kind, distribution) == ("backbone", "clouds-dgss") and isinstance(name, str)
    if not (built_in and isinstance(options, dict)) or not cast("str", name).startswith(_VITS_OF_2):
        return document
    return {**document, "options": {**cast("dict[str, Any]", options), "pyramid": "last"}}


_VITS_OF_2 = ("clip-vit-l-14", "eva02-clip-l-14", "siglip2-so400m", "dinov2-large", "dinov3-large", "timm:", "clip:")
_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1, 2: _from_2}  # each to the next format
