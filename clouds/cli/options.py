"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token
from cyclopts.validators import Number

from clouds.core.contract.component import Kind
from clouds.core.contract.offers import OfferKind, singular
from clouds.core.system.config import parse_assignment
from clouds.core.system.errors import ConfigError


class UsageError(ConfigError):
    """An invalid command line, regardless of the content of files."""


def _check_assignments(_: Any, texts: tuple[str, ...]) -> None:
    for text in texts:
        try:
            parse_assignment(text)
        except ConfigError as error:
            raise ValueError(str(error)) from error


def _to_kind(_: Any, tokens: Sequence[Token]) -> Kind:
    """Accept `backbone` and `backbones`, as keywords are singular, and folders and hooks plural."""
    word = tokens[0].value.removesuffix("s")
    if word not in list(Kind):
        raise ValueError(f"unknown kind {tokens[0].value!r}; expected one of {', '.join(Kind)}")
    return Kind(word)


def _to_listing(_: Any, tokens: Sequence[Token]) -> str:
    """Accept what `_to_kind` accepts, and `LISTS`, singular and plural."""
    word = singular(tokens[0].value)
    if word not in (*Kind, *LISTS):
        raise ValueError(f"unknown kind {tokens[0].value!r}; expected one of {', '.join((*Kind, *LISTS))}")
    return word


LISTS = (*(kind.word for kind in OfferKind), "protocol", "benchmark")  # what `clouds list` shows besides components
AnyListing = Annotated[str, Parameter(converter=_to_listing)]
AnyKind = Annotated[Kind, Parameter(converter=_to_kind, show_choices=False)]
AsJson = Annotated[bool, Parameter(name="--json", help="Print only JSON.", show_default=False)]
Assignments = Annotated[
    tuple[str, ...],
    Parameter(
        name="--set",
        show_default=False,
        validator=_check_assignments,
        help="a.b=value; repeatable. The value is parsed as TOML, else taken as text.",
    ),
]
BatchSize = Annotated[
    int, Parameter(validator=Number(gte=1), help="Images per forward pass; they must have the same size.")
]
Labels = Annotated[
    str,
    Parameter(
        show_default=False,
        help="A label space's name, a TOML file or table of classes (names; synonyms, palette, ids, things), a list of "
        "names, or their number.",
    ),
]
MaxPixels = Annotated[
    int | None,
    Parameter(
        validator=Number(gte=1),
        help="Refuse images with more pixels before decoding them; default: 134 million.",
    ),
]
Device = Annotated[str, Parameter(help="auto, cpu, cuda, cuda:N or mps.")]
Trust = Annotated[
    tuple[Kind, ...],
    Parameter(help="A part of the saved pipeline that may use files outside its folder; repeatable."),
]
DatasetConfig = Annotated[
    Path | None,
    Parameter(name="--dataset-config", help="A dataset.toml that replaces the dataset's own."),
]
Engine = Annotated[
    Literal["local", "ray"],
    Parameter(
        help="Run in this process, or on the Ray cluster at RAY_ADDRESS (default: on this machine). Weights and "
        "checkpoints must have the same absolute path on each machine."
    ),
]
WorkerCount = Annotated[
    int | None,
    Parameter(name="--workers", help="Number of Ray workers; default: one per GPU of the cluster."),
]
