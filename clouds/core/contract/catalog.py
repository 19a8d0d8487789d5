"""The catalog of built-in and plugin components; a broken plugin does not affect the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import Any

import pluggy
from attrs import frozen
from packaging.utils import canonicalize_name

from clouds.core.contract import hookspecs
from clouds.core.contract.component import BUILT_IN, Component, Kind
from clouds.core.contract.offers import Offer, OfferKind
from clouds.core.contract.plan import Plan, Problem
from clouds.core.contract.schema import Schema, read_schema
from clouds.core.contract.weight_records import Weights
from clouds.core.system.errors import DuplicateComponentError, PluginError, UnknownComponentError, did_you_mean

GROUP = "clouds"
_OF_ONE_NAME = ("clouds_resolve", "clouds_install_command")  # hooks that return one thing, not several
_FAMILIES = ("backbones", "adapters", "generators", "prompters", "refiners", "heads")
_BUILT_IN_MODULES = {
    **{name: f"clouds.{name}.components" for name in (*_FAMILIES, "training")},
    "weights": "clouds.core.weights.catalog",
}


@frozen(kw_only=True)
class BrokenPlugin:
    """A plugin (or one of its hooks) that failed, and its error."""

    name: str
    distribution: str
    version: str
    error: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".rstrip() + f", plugin {self.name!r}: {self.error}"


@frozen(kw_only=True)
class Entry:
    """A component and the distribution that offers it."""

    component: Component
    distribution: str
    version: str

    @property
    def qualified_name(self) -> str:
        """`dist::name`, unique even if two distributions offer the same name."""
        return f"{self.distribution}::{self.component.name}"

    @cached_property
    def schema(self) -> Schema:
        """The options of the component, read once. Raises `ComponentError`; see `read_schema`."""
        return read_schema(self.component)


@frozen(kw_only=True)
class _Plugin:
    name: str
    distribution: str
    version: str

    def broken(self, error: BaseException) -> BrokenPlugin:
        text = " ".join(str(error).split())
        return BrokenPlugin(
            name=self.name,
            distribution=self.distribution,
            version=self.version,
            error=f"{type(error).__name__}: {text}" if text else type(error).__name__,
        )


class Catalog:
    """Components by kind and name. There is no global catalog; tests build their own with `Catalog(plugins={...})`.

    Args:
        plugins: plugin objects or modules by `dist` or `dist:name`, registered first.
        installed: entry points of group `clouds` to load, sorted here by distribution and name.
        only: distributions (or `dist:name`) to load from `installed`; None loads all.
        strict: raise `PluginError` for the first broken plugin instead of recording it.
    """

    def __init__(
        self,
        plugins: Mapping[str, object] | None = None,
        *,
        installed: Iterable[EntryPoint] = (),
        only: Iterable[str] | None = None,
        strict: bool = False,
    ) -> None:
        self._strict = strict
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._plugins: list[tuple[_Plugin, object]] = []
        self._broken: list[BrokenPlugin] = []
        for key, plugin in sorted((plugins or {}).items()):
            distribution, _, name = key.partition(":")
            self._register(
                _Plugin(name=name or key, distribution=distribution, version=_version(distribution)), lambda p=plugin: p
            )
        self._load_installed(installed, only)
        self._entries = {kind: self._collect(kind) for kind in Kind}

    @classmethod
    def from_environment(cls) -> Catalog:
        """Built-ins and every installed plugin.

        `CLOUDS_PLUGINS=a,b` loads only these distributions; `CLOUDS_STRICT_PLUGINS=1` raises on a broken one.
        """
        wanted = os.environ.get("CLOUDS_PLUGINS")
        return cls(
            {f"{BUILT_IN}:{name}": import_module(module) for name, module in _BUILT_IN_MODULES.items()},
            installed=tuple(entry_points(group=GROUP)),
            only=None if wanted is None else [part.strip() for part in wanted.split(",") if part.strip()],
            strict=os.environ.get("CLOUDS_STRICT_PLUGINS") == "1",
        )

    @property
    def broken(self) -> tuple[BrokenPlugin, ...]:
        """Plugins that failed so far; hooks such as `clouds_resolve` and `clouds_check_plan` run later."""
        return tuple(self._broken)

    def broken_hint(self) -> str:
        """List the broken plugins for the message about an unknown name; "" if there are none."""
        listed = "; ".join(str(broken) for broken in self._broken)
        return f" (broken plugins that may have had it: {listed})" if listed else ""

    def names(self, kind: Kind | str) -> list[str]:
        """Sorted names of one kind. A name that two distributions offer appears as `dist::name` for each."""
        entries = self._entries[Kind(kind)]
        count = [entry.component.name for entry in entries]
        return sorted(e.qualified_name if count.count(e.component.name) > 1 else e.component.name for e in entries)

    def entries(self, kind: Kind | str) -> list[Entry]:
        """All components of one kind with their owners, sorted by name, then distribution."""
        return list(self._entries[Kind(kind)])

    def find(self, kind: Kind | str, name: str) -> Component:
        """Return the component called `name` (or an alias, a patterned name, or `dist::name`).

        Raises:
            UnknownComponentError: no component has the name; the message suggests the nearest one.
            DuplicateComponentError: two distributions offer the name; the message says how to choose.
        """
        return self.entry(kind, name).component

    def entry(self, kind: Kind | str, name: str) -> Entry:
        """Like `find`, but returns the component with its distribution."""
        kind = Kind(kind)
        distribution, _, plain = name.rpartition("::")
        matches = [entry for entry in self._entries[kind] if _has_name(entry.component, plain)]
        matches = matches or self._resolve(kind, plain)
        if distribution:
            matches = [
                entry for entry in matches if canonicalize_name(entry.distribution) == canonicalize_name(distribution)
            ]
        if len(matches) > 1:
            owners = " and ".join(f"{entry.distribution} {entry.version}".strip() for entry in matches)
            raise DuplicateComponentError(
                f"{kind} {plain!r} is offered by {owners}; choose one: "
                + " or ".join(repr(entry.qualified_name) for entry in matches)
            )
        if not matches:
            raise UnknownComponentError(self._unknown(kind, name))
        return matches[0]

    def install_command(self, kind: Kind, name: str) -> str:
        """The command that brings a component that is not installed, or "" when no plugin knows it."""
        plain = name.rpartition("::")[2]
        for owner, commands in self._call("clouds_install_command", kind=kind, name=plain):
            for command in commands:
                if isinstance(command, str):
                    return command
                text = f"clouds_install_command returned {command!r}; expected a command or None"
                self._fail(owner, PluginError(text))
        return ""

    def check_plan(self, plan: Plan) -> list[Problem]:
        """Collect the problems that plugins find in a plan."""
        found: list[Problem] = []
        for owner, problems in self._call("clouds_check_plan", plan=plan):
            for problem in problems:
                if isinstance(problem, Problem):
                    found.append(problem)
                else:
                    self._fail(owner, PluginError(f"clouds_check_plan returned {problem!r}; expected a clouds.Problem"))
        return found

    def offers(self, kind: OfferKind) -> dict[str, Offer]:
        """Offers of one kind, by `dist::name`."""
        found: dict[str, Offer] = {}
        for owner, offers in self._call(kind):
            for offer in offers:
                match offer:
                    case Offer():
                        found[f"{owner.distribution}::{offer.name}"] = offer
                    case (str(name), str(source)):
                        found[f"{owner.distribution}::{name}"] = Offer(name, source)
                    case _:
                        text = f"{kind} returned {offer!r}; expected a pair of a name and an import path, or an Offer"
                        self._fail(owner, PluginError(text))
        return found

    def weights(self) -> dict[str, Weights]:
        """Published weights by `dist::name`, built-ins first."""
        found: dict[str, Weights] = {}
        for owner, offers in self._call("clouds_weights"):
            for offer in offers:
                if not isinstance(offer, Weights):
                    text = f"clouds_weights returned {offer!r}; expected FileWeights, HubWeights or PageWeights"
                    self._fail(owner, PluginError(text))
                elif found.setdefault(f"{owner.distribution}::{offer.name}", offer) is not offer:
                    text = f"its distribution offers weights {offer.name!r} twice; rename one"
                    self._fail(owner, PluginError(text))
        return found

    # -- discovery ---------------------------------------------------------------------------------------------------

    def _load_installed(self, installed: Iterable[EntryPoint], only: Iterable[str] | None) -> None:
        wanted = None if only is None else {_canonical(part) for part in only}
        found = {canonicalize_name(owner.distribution) for owner, _ in self._plugins}
        for point in sorted(installed, key=_owner):
            distribution, name, version = _owner(point)
            keys = {canonicalize_name(distribution), _canonical(f"{distribution}:{name}")}
            if wanted is not None and not keys & wanted:
                continue
            found |= keys
            self._register(_Plugin(name=name, distribution=distribution, version=version), point.load)
        for missing in sorted((wanted or set()) - found):
            plugin = _Plugin(name=missing, distribution=missing.partition(":")[0], version="")
            self._fail(plugin, PluginError("named in CLOUDS_PLUGINS, but no such plugin is installed"))

    def _register(self, owner: _Plugin, load: Callable[[], object]) -> None:
        try:
            plugin = load()
            self._manager.register(plugin, name=f"{owner.distribution}:{owner.name}")
        except (Exception, SystemExit) as error:  # noqa: BLE001 - importing a plugin may raise anything; it is recorded
            self._fail(owner, error)
            return
        hooks = self._manager.get_hookcallers(plugin) or []
        if not hooks:
            self._fail(owner, PluginError("implements no hook; decorate its functions with @clouds.hookimpl"))
        for hook in hooks:
            if not hook.has_spec():  # it is never called; the plugin's other hooks are
                text = f"unknown hook {hook.name!r}{did_you_mean(hook.name, self._known_hooks())}"
                self._fail(owner, PluginError(f"{text}; known hooks: {', '.join(self._known_hooks())}"))
        self._plugins.append((owner, plugin))

    def _known_hooks(self) -> list[str]:
        return sorted(name for name, hook in vars(self._manager.hook).items() if hook.has_spec())

    def _fail(self, owner: _Plugin, error: BaseException) -> None:
        broken = owner.broken(error)
        if self._strict:
            raise PluginError(f"broken plugin: {broken}") from error
        if broken not in self._broken:
            self._broken.append(broken)

    def _call(self, hook: str, **arguments: Any) -> Iterator[tuple[_Plugin, list[Any]]]:
        """Call a hook for each plugin separately, so that errors of one do not affect the others."""
        for owner, plugin in self._plugins:
            others = [other for _, other in self._plugins if other is not plugin]
            try:
                results = self._manager.subset_hook_caller(hook, others)(**arguments)
                items = [item for result in results for item in ([result] if hook in _OF_ONE_NAME else result)]
            except Exception as error:  # noqa: BLE001 - a hook may raise anything; it is recorded, not hidden
                self._fail(owner, PluginError(f"{hook} failed: {type(error).__name__}: {error}"))
                continue
            yield owner, items

    def _collect(self, kind: Kind) -> list[Entry]:
        entries: dict[str, Entry] = {}
        for owner, components in self._call(kind.hook):
            for component in components:
                if not self._is_component(owner, kind.hook, kind, component):
                    continue
                entry = Entry(component=component, distribution=owner.distribution, version=owner.version)
                if entries.setdefault(entry.qualified_name, entry) is not entry:
                    self._fail(
                        owner, PluginError(f"its distribution offers {kind} {component.name!r} twice; rename one")
                    )
        return sorted(entries.values(), key=lambda entry: (entry.component.name, entry.distribution))

    def _is_component(self, owner: _Plugin, hook: str, kind: Kind, value: object) -> bool:
        if isinstance(value, Component) and value.kind == kind:
            return True
        what = f"a {value.kind}" if isinstance(value, Component) else type(value).__name__
        self._fail(owner, PluginError(f"{hook} returned {value!r} ({what}); expected a Component of kind {kind}"))
        return False

    def _resolve(self, kind: Kind, name: str) -> list[Entry]:
        entries: list[Entry] = []
        for owner, components in self._call("clouds_resolve", kind=kind, name=name):
            for component in components:
                if not self._is_component(owner, "clouds_resolve", kind, component):
                    continue
                if component.name == name:
                    entries.append(Entry(component=component, distribution=owner.distribution, version=owner.version))
                else:
                    message = f"clouds_resolve returned {component.name!r} for the name {name!r}; expected that name"
                    self._fail(owner, PluginError(message))
        return entries

    def _unknown(self, kind: Kind, name: str) -> str:
        return f"unknown {kind} {name!r}{did_you_mean(name, self.names(kind))}{self.broken_hint()}"


def _has_name(component: Component, name: str) -> bool:
    return name == component.name or name in component.aliases


def _owner(point: EntryPoint) -> tuple[str, str, str]:
    """Sort key and identity of an entry point: distribution, name, version."""
    if point.dist is None:
        return "unknown", point.name, ""
    return canonicalize_name(point.dist.name), point.name, point.dist.version


def _canonical(key: str) -> str:
    distribution, colon, name = key.partition(":")
    return f"{canonicalize_name(distribution)}{colon}{name}"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
