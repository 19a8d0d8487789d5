"""Engines: where the work of making a dataset is done. The local one is this process, `ray` a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from clouds.core.contract.catalog import Catalog
from clouds.core.contract.component import Kind
from clouds.core.contract.plan import Part, PlanError
from clouds.core.contract.planner import plan_part
from clouds.core.system.errors import ConfigError, did_you_mean
from clouds.synthesis.workers import Here, Model, Workers

ENGINES = ("local", "ray")


@contextmanager
def open_workers(
    engine: str, build: Callable[[], Model], *, count: int | None = None, device: str = "auto"
) -> Generator[Workers[Model]]:
    """Yield the workers of an engine, and dismiss them after the block.

    Args:
        engine: "local", or "ray": see `clouds.synthesis.ray_engine.open_ray`.
        build: makes a worker's model, once for each worker. On a cluster it is sent there: a function of a module, or
            a `functools.partial` of one with plain values.
        count: how many workers of a cluster; None takes one for each of its GPUs, and one where there is none.
        device: what the model works on; a worker on a cluster gets a GPU of its own, unless this is "cpu" or "mps".

    Raises:
        ConfigError: an unknown engine, a count that it cannot have, or a package that is missing.
    """
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}{did_you_mean(engine, ENGINES)}")
    if engine == "local":
        if count is not None:
            raise ConfigError(f"workers={count}: the local engine is this process alone; give engine='ray', too")
        yield Here(build())
        return
    from clouds.synthesis.ray_engine import open_ray

    with open_ray(build, count=count, device=device) as workers:
        yield workers


def plan_component(kind: Kind, value: object, catalog: Catalog) -> Part:
    """Check a name, or `{"name": ..., **options}`, without building it.

    Raises:
        PlanError: with every fault.
    """
    part, problems = plan_part(kind, value, pretrained=True, catalog=catalog)
    if part is None or problems:
        raise PlanError(problems)
    return part


def to_document(part: Part) -> str:
    """A part of a plan as JSON: its name and its options. `build_component` is the way back."""
    return json.dumps(part.request)


def build_component(kind: str, document: str, device: str) -> Any:
    """Build one component on its device.

    Args:
        kind: of the component.
        document: what `to_document` wrote.
        device: "auto", or any that torch knows.

    Raises:
        PlanError: this machine cannot build it.
    """
    from torch import nn

    from clouds.core.pipeline.build import build_part, pick_device

    built = build_part(Kind(kind), json.loads(document))
    if isinstance(built, nn.Module):
        built.to(pick_device(device))
    return built
