"""The contract of a declaration, which `clouds list`, `info` and `plan` read without importing torch."""

from __future__ import annotations

import os
import subprocess
import sys
from inspect import Parameter

from clouds.core.contract.component import Component, Kind
from clouds.core.contract.schema import Schema, read_schema
from clouds.core.system.errors import ComponentError
from clouds.core.system.values import accepts, to_json_value
from clouds.testing.contract import ContractError, require, violation

_PYRAMID = {"res2", "res3", "res4", "res5"}
_IMPORT = "import importlib, sys; importlib.import_module(sys.argv[1]); sys.exit(3 if 'torch' in sys.modules else 0)"


def check_component(component: Component) -> None:
    """Check a plugin's declaration without building the component.

    - The summary is one line.
    - A backbone provides all levels of the pyramid. Only backbones provide capabilities, but for
      `queries`, which adapters make and heads take, and `instances`, which heads separate. Only heads and adapters
      need them.
    - The factory's module imports in a fresh interpreter without torch.
    - Every option is a keyword with a type. Its default is a plain value of that type, because plans are JSON.

    Raises:
        ContractError: a clause is broken.
    """
    who = f"{component.kind} {component.name!r}"
    summary = component.summary
    require(
        bool(summary.strip()) and "\n" not in summary,
        who,
        "the summary must be one line of text",
        got=repr(summary),
        remedy="describe the component in `summary=`; `clouds list` shows it",
    )
    _check_capabilities(component, who)
    _check_import(component, who)
    try:
        schema = read_schema(component)
    except ComponentError as error:
        raise ContractError(str(error)) from error
    for name, parameter in schema.options.items():
        _check_option(schema, name, parameter, who)


def _check_capabilities(component: Component, who: str) -> None:
    lacking = sorted(_PYRAMID - component.provides) if component.kind == Kind.BACKBONE else []
    require(
        not lacking,
        who,
        "a backbone provides res2, res3, res4 and res5",
        got=f"provides without {lacking}",
        remedy="list them in `provides=`; heads that need them refuse the backbone otherwise",
    )
    own: dict[Kind, set[str]] = {Kind.HEAD: {"queries", "instances"}, Kind.ADAPTER: {"queries"}}
    provided = (
        frozenset[str]() if component.kind == Kind.BACKBONE else component.provides - own.get(component.kind, set())
    )
    needed = frozenset[str]() if component.kind in (Kind.HEAD, Kind.ADAPTER) else component.needs
    require(
        not provided | needed,
        who,
        "only backbones provide capabilities (but for queries and instances), and only heads and adapters need them",
        got=sorted(provided | needed),
        remedy="remove `provides=` or `needs=`",
    )


def _check_import(component: Component, who: str) -> None:
    module = component.factory.partition(":")[0]
    child = subprocess.run(
        [sys.executable, "-P", "-c", _IMPORT, module],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    require(
        child.returncode in (0, 3),
        who,
        f"module {module!r} must import in a fresh interpreter",
        got=child.stderr.strip().rpartition("\n")[2],
        remedy=f"try: python -c 'import {module}'",
    )
    require(
        child.returncode == 0,
        who,
        f"importing {module!r} must not import torch, or `clouds list` takes seconds",
        got="torch in sys.modules",
        remedy="move the factory to its own module, and import heavy libraries inside the function",
    )


def _check_option(schema: Schema, name: str, parameter: Parameter, who: str) -> None:
    require(
        name in schema.types,
        who,
        f"option {name!r} must have a type annotation, which plans are checked against",
        got=str(parameter),
        remedy=f"write `{name}: int = ...`",
    )
    if parameter.default is Parameter.empty:
        return
    require(
        accepts(schema.types[name], parameter.default),
        who,
        f"the default of option {name!r} must be of its type",
        got=str(parameter),
        remedy="correct the annotation or the default",
    )
    try:
        to_json_value(parameter.default)
    except TypeError as error:
        raise violation(
            who,
            f"the default of option {name!r} must be a plain value, because a plan is JSON",
            got=error,
            remedy="take a name or None, and build the object inside the factory",
        ) from error
