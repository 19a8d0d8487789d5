"""Engines that run the workers: `local` in this process, `ray` on a cluster."""

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
    """Yield the workers of an engine, and stop them after the block.

    Args:
        engine: "local", or "ray": see `clouds.synthesis.ray_engine.open_ray`.
        build: builds the model of each worker. For a cluster it must be picklable: a module-level function, or a
            `functools.partial` of one with plain values.
        count: number of workers on a cluster; None means one per GPU, or one without GPUs.
        device: device of the model; each worker on a cluster gets its own GPU, unless this is "cpu" or "mps".

    Raises:
        ConfigError: the engine is unknown, does not support this count, or needs a package that is not installed.
    """
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}{did_you_mean(engine, ENGINES)}")
    if engine == "local":
        if count is not None:
            raise ConfigError(f"workers={count}: the local engine uses only this process; also give engine='ray'")
        yield Here(build())
        return
    from clouds.synthesis.ray_engine import open_ray

    with open_ray(build, count=count, device=device) as workers:
        yield workers


def plan_component(kind: Kind, value: object, catalog: Catalog) -> Part:
    """Check a component, a name or `{"name": ..., **options}`, without building it.

    Raises:
        PlanError: lists all faults.
    """
    part, problems = plan_part(kind, value, pretrained=True, catalog=catalog)
    if part is None or problems:
        raise PlanError(problems)
    return part


def to_document(part: Part) -> str:
    """A part of a plan as JSON, its name and options, for `build_component`."""
    return json.dumps(part.request)


def build_component(kind: str, document: str, device: str, catalog: Catalog | None = None) -> Any:
    """Build one component on its device.

    Args:
        kind: kind of the component.
        document: output of `to_document`.
        device: "auto", or a torch device.
        catalog: the catalog of the plan; None means built-ins and installed plugins, as on another machine.

    Raises:
        PlanError: this machine cannot build it.
    """
    from torch import nn

    from clouds.core.pipeline.build import build_part, pick_device

    built = build_part(Kind(kind), json.loads(document), catalog=catalog)
    if isinstance(built, nn.Module):
        built.to(pick_device(device))
    return built
