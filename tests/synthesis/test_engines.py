"""Engines without a cluster: order, back-pressure, and what is refused. The real Ray is in `end_to_end/test_ray.py`."""

import copy
import sys
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds.core.contract.catalog import Catalog
from clouds.core.contract.component import Kind
from clouds.core.contract.labels import CITYSCAPES
from clouds.core.contract.plan import PlanError, Problem
from clouds.core.system.errors import ConfigError, DataError, WorkerError
from clouds.core.system.images import write_png
from clouds.core.weights.tensor_cache import CacheWarning
from clouds.synthesis import ray_engine
from clouds.synthesis.engines import build_component, open_workers, plan_component, to_document
from clouds.synthesis.ray_engine import BusyClusterWarning, RayWorkers, _Worker
from clouds.synthesis.refine import refine_set
from clouds.synthesis.workers import Here


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class FakeRay:
    """A cluster in one process, whose tasks end in an order that `choose` draws.

    Attributes:
        running: tasks by reference, of whom each actor has at most two.
        most: the largest number of tasks that were asked for and not handed out.
    """

    def __init__(self, choose: Any = min, gpus: int = 0) -> None:
        self.choose, self.gpus = choose, gpus
        self.running: dict[int, int] = {}
        self.results: dict[int, Any] = {}
        self.most = self.count = 0

    def actor(self, number: int) -> Any:
        worker = _Worker(lambda: "model")

        def submit(function: Any, item: Any) -> int:
            reference, self.count = self.count, self.count + 1
            self.running[reference] = number
            assert list(self.running.values()).count(number) <= 2
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # Ray keeps what workers print in its logs
                    self.results[reference] = worker.apply(function, item)
            except Exception as error:  # noqa: BLE001 - as Ray does
                self.results[reference] = error if isinstance(error, RayError) else RayTaskError(error)
            self.most = max(self.most, len(self.results))
            return reference

        return SimpleNamespace(apply=SimpleNamespace(remote=submit))

    def wait(self, references: list[int], num_returns: int) -> tuple[list[int], list[int]]:
        assert num_returns == 1
        assert sorted(references) == sorted(self.running)
        done = self.choose(references)
        del self.running[done]
        return [done], [one for one in references if one != done]

    def get(self, reference: int) -> Any:
        assert reference not in self.running
        result = self.results.pop(reference)
        if isinstance(result, Exception):
            raise result
        return result

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 8.0, "GPU": float(self.gpus)} if self.gpus else {"CPU": 8.0}

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 3.0}  # all GPUs are in use

    def remote(self, **options: object) -> Any:
        return lambda cls: SimpleNamespace(remote=cls)

    def kill(self, actor: object) -> None:
        pass


def pretend(patch: pytest.MonkeyPatch, ray: object) -> None:
    patch.setitem(sys.modules, "ray", ray)
    patch.setitem(sys.modules, "ray.exceptions", SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError))


def square(model: str, item: int) -> tuple[str, int]:
    return model, item**2


@given(st.integers(0, 40), st.integers(1, 4), st.data())
def test_results_come_once_each_in_order_however_tasks_end(count: int, workers: int, data: st.DataObject) -> None:
    ray = FakeRay(lambda references: data.draw(st.sampled_from(references)))
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch, ray)
        crew = RayWorkers([ray.actor(number) for number in range(workers)])
        given_out = list(crew.map(square, range(count)))
    assert given_out == list(Here("model").map(square, range(count)))
    assert given_out == [(item, ("model", item**2)) for item in range(count)]
    assert ray.count == count
    assert ray.most <= 4 * workers


def test_items_are_taken_as_workers_become_free(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, taken = FakeRay(), []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    pretend(monkeypatch, ray)
    done = RayWorkers([ray.actor(0), ray.actor(1)]).map(square, items())
    assert taken == []
    next(done)
    assert len(taken) <= 8
    taken.clear()
    next(Here("model").map(square, items()))
    assert taken == [0]


def warn(model: str, item: int) -> int:
    warnings.warn(f"item {item} is black", CacheWarning, stacklevel=1)
    return item


def test_warnings_of_workers_are_warned_here(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay()
    pretend(monkeypatch, ray)
    with pytest.warns(CacheWarning) as caught:
        assert list(RayWorkers([ray.actor(0)]).map(warn, [1, 1, 2])) == [(1, 1), (1, 1), (2, 2)]
    assert [str(one.message) for one in caught] == [f"item {item} is black" for item in (1, 1, 2)]
    assert {one.category for one in caught} == {CacheWarning}


@pytest.mark.parametrize(
    ("count", "device", "free"),
    [(4, "cpu", "CPU each, but 3 of the Ray cluster's 8"), (2, "cuda", "GPU each, but 0 of the Ray cluster's 2")],
)
def test_waiting_for_other_jobs_is_said(monkeypatch: pytest.MonkeyPatch, count: int, device: str, free: str) -> None:
    monkeypatch.setattr(ray_engine, "_GRACE", 0.0)
    pretend(monkeypatch, FakeRay(gpus=2))
    with (
        pytest.warns(BusyClusterWarning, match=f"workers={count} need a {free} are free: others wait"),
        open_workers("ray", dict, count=count, device=device),
    ):
        pass


def test_what_other_runs_are_giving_back_is_not_taken_for_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, free = FakeRay(), iter([3.0, 8.0])
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": next(free)})
    monkeypatch.setattr(ray_engine, "_GRACE", 10.0)
    pretend(monkeypatch, ray)
    with open_workers("ray", dict, count=4, device="cpu"):  # a warning would be an error
        pass
    assert next(free, None) is None


def fail(model: str, error: Exception) -> None:
    raise error


def test_errors_of_workers_are_what_they_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay()
    pretend(monkeypatch, ray)
    crew = RayWorkers([ray.actor(0)])
    with pytest.raises(DataError, match=r"^im_3\.png: torn$"):
        list(crew.map(fail, [DataError("im_3.png: torn")]))
    with pytest.raises(RayTaskError):  # with its traceback from there, which Ray adds
        list(crew.map(fail, [ZeroDivisionError()]))
    with pytest.raises(WorkerError, match=r"workers died 4 times on one batch.*: the actor is dead; .*memory"):
        list(crew.map(fail, [RayError("the actor is dead")]))


def test_every_fault_of_a_plan_survives_the_way_from_another_process() -> None:
    error = PlanError([Problem("generator", "unknown"), Problem("generator", "wrong option")])
    again = copy.copy(error)
    assert again.problems == error.problems
    assert str(again) == str(error)


def test_what_no_engine_can_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(engine: str, message: str, **options: Any) -> None:
        with pytest.raises(ConfigError, match=message), open_workers(engine, dict, **options):
            pass

    refused("rey", r"unknown engine 'rey'; did you mean 'ray'\?")
    refused("local", r"workers=2: the local engine uses only this process; also give engine='ray'", count=2)
    refused("ray", r"workers=0: expected at least 1", count=0)
    pretend(monkeypatch, FakeRay(gpus=1))
    refused("ray", r"workers=2 need a GPU each, but the Ray cluster has 1; give fewer, or device='cpu'", count=2)
    refused("ray", r"workers=9 need a CPU each, but the Ray cluster has 8; give fewer$", count=9, device="cpu")
    monkeypatch.setitem(sys.modules, "ray", None)
    refused("ray", r"needs Ray, which is not installed: pip install 'clouds-dgss\[ray\]'")


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(address: str, **options: Any) -> None:
        assert "num_cpus" not in options  # which Ray takes for its own cluster alone
        raise ConnectionError("no route")

    pretend(monkeypatch, SimpleNamespace(is_initialized=lambda: False, init=init))
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(ConfigError, match=r"Ray at head:6379: no route; RAY_ADDRESS names"), open_workers("ray", dict):
        pass


def test_a_component_is_built_from_a_document() -> None:
    part = plan_component(Kind.REFINER, {"name": "regions", "cell": 4}, Catalog.from_environment())
    built = build_component("refiner", to_document(part), "cpu")
    assert type(built).__name__ == "RegionRefiner"
    assert build_component("generator", '{"name": "clouds-dgss::procedural"}', "cpu")
    with pytest.raises(PlanError, match="did you mean 'regions'"):
        plan_component(Kind.REFINER, "region", Catalog.from_environment())
    with pytest.raises(PlanError, match="unknown option"):
        build_component("refiner", '{"name": "regions", "cells": 4}', "cpu")


def test_label_maps_come_from_somewhere(tmp_path: Any) -> None:
    write_png(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    identity = build_component("refiner", '{"name": "identity"}', "cpu")
    with pytest.raises(ConfigError, match="neither label maps nor a pipeline to predict them are given"):
        refine_set(identity, [tmp_path / "a.png"], None, out=tmp_path / "b", label_space=CITYSCAPES, made_with={})
