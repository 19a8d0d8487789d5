"""Plans: what would be composed, checked in full before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any, Literal

from attrs import field, frozen

from clouds.core.contract.component import BUILT_IN, Kind
from clouds.core.contract.labels import LabelSpace
from clouds.core.contract.plan_format import FORMAT, current_plan
from clouds.core.system.config import structure, to_json
from clouds.core.system.errors import CloudsError, ConfigError, WeightsError

_ORDER = (Kind.BACKBONE, Kind.GENERATOR, Kind.REFINER, Kind.HEAD, Kind.PROMPTER)
_DTYPES = ("float32", "bfloat16", "float16")


@frozen
class Problem:
    """One fault of a plan.

    Attributes:
        part: which argument of `compose` it is about.
        message: what is wrong, with expected and actual.
        remedy: what to type or change, when there is one.
    """

    part: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.part}: {self.message}" + (f" -> {self.remedy}" if self.remedy else "")


class PlanError(CloudsError):
    """All faults of one plan at once.

    `problems` holds them in the order: backbone, generator, refiner, head, prompter, then how the parts fit together.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        count = len(self.problems)
        lines = [f"the plan has {count} problem{'s' if count != 1 else ''}:"]
        lines += [f"  {number}. {problem}" for number, problem in enumerate(self.problems, start=1)]
        super().__init__("\n".join(lines))

    def __str__(self) -> str:
        return Exception.__str__(self)  # a line for each problem

    def __reduce__(self) -> tuple[type[PlanError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)  # as it travels between processes


def _to_strings(value: Any) -> tuple[str, ...]:
    return tuple(sorted(str(item) for item in value))


@frozen(kw_only=True)
class Part:
    """One component of a plan with all its options, defaults included, as plain JSON values.

    `ready` names the class of a module that the user built; such a part has no name, and a plan with it can only be
    carried out by passing the module again. `credentials` are options that say where a secret is: they are neither
    shown nor saved.
    """

    kind: Kind = field(converter=Kind)
    name: str = ""
    options: dict[str, Any] = field(factory=dict[str, Any])
    distribution: str = ""
    version: str = ""
    provides: tuple[str, ...] = field(default=(), converter=_to_strings)
    needs: tuple[str, ...] = field(default=(), converter=_to_strings)
    ready: str = ""
    credentials: dict[str, Any] = field(factory=dict[str, Any], repr=False)

    def __str__(self) -> str:
        if self.ready:
            return f"{self.kind}: ready module {self.ready}"
        options = ", ".join(f"{key}={value!r}" for key, value in self.options.items())
        return f"{self.kind}: {self.name}({options})  [{self.distribution} {self.version}".rstrip() + "]"

    @property
    def qualified_name(self) -> str:
        """`dist::name`, so that a saved plan finds the same component again."""
        return f"{self.distribution}::{self.name}"

    @property
    def request(self) -> dict[str, Any]:
        """What `compose` takes to make the same part again."""
        return {"name": self.qualified_name, **self.options, **self.credentials}


@frozen(kw_only=True)
class Plan:
    """A checked composition. A plan that exists can be built: faults are raised when it is made.

    Attributes:
        parts: `Part` by kind (`plan.parts["head"]`); kinds that are not used are absent.
        labels: the label space to predict.
        trained_labels: the label space that the head is for, when it predicts another one (open vocabulary).
        pretrained: whether parts load published weights unless their options say otherwise.
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`.
        dtype: None (float32) or the name of the autocast type.
    """

    parts: dict[Kind, Part]
    labels: LabelSpace
    pretrained: bool = True
    device: str = "auto"
    dtype: str | None = None
    trained_labels: LabelSpace | None = None

    def __str__(self) -> str:
        lines = [f"labels: {self.labels.name} ({len(self.labels)} classes)"]
        lines += [str(part) for part in self.parts.values()]
        lines.append(f"pretrained: {self.pretrained}, device: {self.device}, dtype: {self.dtype or 'float32'}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """The plan as JSON text; `Plan.from_json` is the way back."""
        parts = [
            {
                "kind": part.kind.value,
                "name": part.name,
                "options": part.options,
                "distribution": part.distribution,
                "version": part.version,
                "provides": list(part.provides),
                "needs": list(part.needs),
                "ready": part.ready,
            }
            for part in self.parts.values()
        ]
        document = {
            "format": FORMAT,
            "clouds": version(BUILT_IN),
            "labels": self.labels.to_dict(),
            "pretrained": self.pretrained,
            "device": self.device,
            "dtype": self.dtype,
            "trained_labels": self.trained_labels.to_dict() if self.trained_labels else None,
            "parts": parts,
        }
        return to_json(document, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan that this or an earlier version's `to_json` wrote.

        Raises:
            WeightsError: the text is something else, or of a version that is not known; it names key and versions.
        """
        document = current_plan(text)
        try:
            read = structure(document, _Document, source=f"this is not a plan that clouds {version(BUILT_IN)} reads")
        except ConfigError as error:
            written = document.get("clouds") or "an earlier version"
            raise WeightsError(f"{error} (it was written by clouds {written})") from error
        if len({part.kind for part in read.parts}) < len(read.parts) or any(part.credentials for part in read.parts):
            raise WeightsError("this is not a plan: a part is there twice, or says where a secret is")
        return cls(
            parts={part.kind: part for part in read.parts},
            labels=read.labels,
            pretrained=read.pretrained,
            device=read.device,
            dtype=read.dtype,
            trained_labels=read.trained_labels,
        )


@frozen(kw_only=True)
class _Document:
    """A plan as its file has it; `Plan` says what the fields mean."""

    format: int
    clouds: str
    labels: LabelSpace
    pretrained: bool
    device: str
    dtype: Literal["bfloat16", "float16"] | None
    trained_labels: LabelSpace | None
    parts: tuple[Part, ...]
    recipe: dict[str, Any] = field(factory=dict[str, Any])  # beside the plan in what `clouds plan --json` prints
