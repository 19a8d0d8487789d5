"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token
from cyclopts.validators import Number

from clouds.core.contract.component import Kind
from clouds.core.system.config import parse_assignment
from clouds.core.system.errors import ConfigError


class UsageError(ConfigError):
    """A command line that is wrong in itself, whatever the files that it names hold."""


def _check_assignments(_: Any, texts: tuple[str, ...]) -> None:
    for text in texts:
        try:
            parse_assignment(text)
        except ConfigError as error:
            raise ValueError(str(error)) from error


def _to_kind(_: Any, tokens: Sequence[Token]) -> Kind:
    """Read `backbone` or `backbones`; folders and hooks have the "s", keywords have not."""
    word = tokens[0].value.removesuffix("s")
    if word not in list(Kind):
        raise ValueError(f"unknown kind {tokens[0].value!r}; expected one of {', '.join(Kind)}")
    return Kind(word)


AnyKind = Annotated[Kind, Parameter(converter=_to_kind, show_choices=False)]
AsJson = Annotated[bool, Parameter(name="--json", help="Print JSON alone.", show_default=False)]
Assignments = Annotated[
    tuple[str, ...],
    Parameter(
        name="--set",
        show_default=False,
        validator=_check_assignments,
        help="a.b=value, as often as needed; the value is read as TOML, else as plain text.",
    ),
]
BatchSize = Annotated[
    int, Parameter(validator=Number(gte=1), help="Images of one size that go through the network at once.")
]
Labels = Annotated[
    str,
    Parameter(
        show_default=False,
        help="A label space's name, a TOML file or table of classes (names; synonyms, palette, ids, things), or a list "
        "of names.",
    ),
]
MaxPixels = Annotated[
    int | None,
    Parameter(
        validator=Number(gte=1),
        help="Pictures with more pixels are refused before they are decoded; 134 million when left out.",
    ),
]
Device = Annotated[str, Parameter(help="auto, cpu, cuda, cuda:N or mps.")]
Trust = Annotated[
    tuple[Kind, ...],
    Parameter(help="A part of the saved pipeline that may reach out of its folder; as often as needed."),
]
DatasetConfig = Annotated[
    Path | None,
    Parameter(name="--dataset-config", help="A dataset.toml in place of the dataset's own."),
]
Engine = Annotated[
    Literal["local", "ray"],
    Parameter(
        help="This process, or workers of the Ray cluster that RAY_ADDRESS names (else of this machine). Weights and "
        "checkpoints must be at the same absolute path on each machine."
    ),
]
WorkerCount = Annotated[
    int | None,
    Parameter(name="--workers", help="How many on the cluster; one for each of its GPUs when left out."),
]
