from __future__ import annotations

from types import ModuleType

import pytest

from clouds.core.contract.catalog import Catalog
from clouds.core.contract.component import Kind
from clouds.core.contract.hookspecs import hookimpl
from clouds.core.contract.plan import PlanError
from clouds.core.contract.planner import make_plan


def test_only_their_own_components_are_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDS_PLUGINS", "")  # built-ins alone
    ask = Catalog.from_environment().install_command
    assert ask(Kind.REFINER, "clouds-sam2::sam2") == "pip install plugins/clouds-sam2"
    assert ask(Kind.REFINER, "mobile-sam") == "pip install plugins/clouds-mobile-sam"
    assert ask(Kind.BACKBONE, "torchvision:resnet50") == "pip install plugins/clouds-torchvision"
    assert ask(Kind.BACKBONE, "efficientnet-lite2") == "pip install plugins/clouds-efficientnet-lite"
    assert ask(Kind.BACKBONE, "mobile-sam") == ""
    assert ask(Kind.REFINER, "mobil-sam") == ""


def test_a_plan_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDS_PLUGINS", "")
    with pytest.raises(PlanError, match="unknown refiner 'mobile-sam'") as raised:
        make_plan(backbone=None, head=None, refiner="mobile-sam")
    remedies = {problem.part: problem.remedy for problem in raised.value.problems}
    assert remedies["refiner"] == "pip install plugins/clouds-mobile-sam"
    with pytest.raises(PlanError) as raised:
        make_plan(backbone=None, head=None, refiner="mobile-sma")
    assert {problem.part: problem.remedy for problem in raised.value.problems}["refiner"] == ""


def test_a_plugin_may_name_what_it_does_not_bring() -> None:
    wrong, right = ModuleType("wrong"), ModuleType("right")
    wrong.clouds_install_command = hookimpl(lambda kind, name: 7, specname="clouds_install_command")
    right.clouds_install_command = hookimpl(lambda kind, name: "pip install more", specname="clouds_install_command")
    catalog = Catalog({"a": wrong, "b": right})
    assert catalog.install_command(Kind.HEAD, "mine") == "pip install more"
    assert "clouds_install_command returned 7; expected a command or None" in catalog.broken[0].error
