"""Records of plans: checked compositions that are not built yet."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any, Literal

from attrs import evolve, field, frozen

from clouds.core.contract.component import BUILT_IN, Kind
from clouds.core.contract.labels import LabelSpace
from clouds.core.contract.plan_format import FORMAT, current_plan
from clouds.core.system.config import structure, to_json
from clouds.core.system.errors import CloudsError, ConfigError, WeightsError


@frozen
class Problem:
    """One fault of a plan.

    Attributes:
        part: the argument of `compose` that is wrong.
        message: the fault, with expected and actual value.
        remedy: a command or change that mends it, or "".
    """

    part: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.part}: {self.message}" + (f" -> {self.remedy}" if self.remedy else "")


class PlanError(CloudsError):
    """All faults of one plan.

    `problems` lists those of backbone, adapter, generator, refiner, head and prompter, then those between parts.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        count = len(self.problems)
        lines = [f"the plan has {count} problem{'s' if count != 1 else ''}:"]
        lines += [f"  {number}. {problem}" for number, problem in enumerate(self.problems, start=1)]
        super().__init__("\n".join(lines))

    def __str__(self) -> str:
        return Exception.__str__(self)  # one line per problem

    def __reduce__(self) -> tuple[type[PlanError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)  # for pickling between processes


def _to_strings(value: Any) -> tuple[str, ...]:
    return tuple(sorted(str(item) for item in value))


@frozen(kw_only=True)
class Part:
    """One component of a plan with all its options, defaults included, as plain JSON values.

    `ready` names the class of a module that the user built. Such a part has no name; building the plan again requires
    the module. `credentials` are options that locate a secret; they are neither shown nor saved.
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
    def title(self) -> str:
        """Name of the component, or class of the ready module."""
        return self.name or self.ready

    @property
    def qualified_name(self) -> str:
        """`dist::name`, by which a saved plan finds the same component again."""
        return f"{self.distribution}::{self.name}"

    @property
    def request(self) -> dict[str, Any]:
        """The argument of `compose` that gives the same part again."""
        return {"name": self.qualified_name, **self.options, **self.credentials}


@frozen(kw_only=True)
class Plan:
    """A checked composition. `make_plan` raises all faults, so every plan can be built.

    Attributes:
        parts: `Part` by kind (`plan.parts["head"]`); kinds that are not used are absent.
        labels: the label space to predict.
        trained_labels: the label space that the head was trained for, if it predicts another one (open vocabulary).
        pretrained: whether parts load published weights by default.
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
        lines += [f"note: {note}" for note in self.notes]
        lines.append(f"pretrained: {self.pretrained}, device: {self.device}, dtype: {self.dtype or 'float32'}")
        return "\n".join(lines)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is no fault, but may surprise: results of a part that another part ignores."""
        adapter, head = self.parts.get(Kind.ADAPTER), self.parts.get(Kind.HEAD)
        if adapter is None or head is None or "queries" not in adapter.provides or "queries" in head.provides:
            return ()
        return (f"{adapter.title} makes queries, which {head.title} ignores",)

    def without_adapter(self) -> Plan:
        """The plan after its adapter was merged. Nothing of the backbone is trained, so nothing is checkpointed."""
        parts = {kind: part for kind, part in self.parts.items() if kind != Kind.ADAPTER}
        backbone = parts[Kind.BACKBONE]
        if backbone.options.get("grad_checkpointing"):
            parts[Kind.BACKBONE] = evolve(backbone, options={**backbone.options, "grad_checkpointing": False})
        return evolve(self, parts=parts)

    def to_json(self) -> str:
        """Convert to JSON text; `Plan.from_json` reads it."""
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
        """Read a plan written by `to_json` of this or an earlier version.

        Raises:
            WeightsError: the text is not a plan of a known version; the message names key and versions.
        """
        document = current_plan(text)
        try:
            read = structure(document, _Document, source=f"this is not a plan that clouds {version(BUILT_IN)} reads")
        except ConfigError as error:
            written = document.get("clouds") or "an earlier version"
            raise WeightsError(f"{error} (it was written by clouds {written})") from error
        if len({part.kind for part in read.parts}) < len(read.parts) or any(part.credentials for part in read.parts):
            raise WeightsError("this is not a plan: it has two parts of one kind, or a part with credentials")
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
    """A plan in file form; `Plan` describes the fields."""

    format: int
    clouds: str
    labels: LabelSpace
    pretrained: bool
    device: str
    dtype: Literal["bfloat16", "float16"] | None
    trained_labels: LabelSpace | None
    parts: tuple[Part, ...]
    recipe: dict[str, Any] = field(factory=dict[str, Any])  # added by `clouds plan --json`
