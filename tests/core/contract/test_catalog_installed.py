"""The catalog, with distributions that are installed in a temporary directory as pip installs them."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import clouds
from clouds.core.contract.plan import PlanError
from clouds.core.contract.schema import read_schema
from clouds.core.system.errors import ComponentError, DuplicateComponentError, PluginError, UnknownComponentError

Install = Callable[..., None]

GOOD = """
import clouds

@clouds.hookimpl
def clouds_prompters():
    return [clouds.Component(name="{name}", kind="prompter", factory="{module}:words", summary="a test")]

def words(*, language: str = "en"):
    from clouds import Prompter

    class Words(Prompter):
        def prompts(self, n, *, seed):
            return [language] * n

    return Words()
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution of one module: `install(name, source, entry="main", version="1.0")`."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name: str, source: str, *, entry: str = "main", version: str = "1.0") -> None:
        module = name.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(source.replace("{module}", module), encoding="utf-8")
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[clouds]\n{entry} = {module}\n", encoding="utf-8")
        (info / "RECORD").write_text(
            f"{module}.py,,\n{info.name}/METADATA,,\n{info.name}/entry_points.txt,,\n", encoding="utf-8"
        )
        (info / "INSTALLER").write_text("pip\n", encoding="utf-8")
        importlib.invalidate_caches()

    yield make
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def good(name: str) -> str:
    return GOOD.replace("{name}", name)


BROKEN = {
    "fails-to-import": ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
    "exits": ("raise SystemExit('goodbye')", "SystemExit: goodbye"),
    "misspelt-hook": (good("x").replace("clouds_prompters", "clouds_promters"), "unknown hook 'clouds_promters'"),
    "wrong-hook-arguments": (
        good("x").replace("clouds_prompters()", "clouds_prompters(n)"),
        "declared in the hookimpl",
    ),
    "forgot-the-decorator": (good("x").replace("@clouds.hookimpl", ""), "implements no hook; decorate its functions"),
    "raises": (
        good("x").replace("return [", "raise OSError('no disk') #["),
        "clouds_prompters failed: OSError: no disk",
    ),
    "returns-garbage": (good("x").replace("return [", "return ['x'] #["), "returned 'x' (str); expected a Component"),
    "returns-none": (good("x").replace("return [", "return None #["), None),
}


def test_broken_distributions_are_recorded_and_all_others_work(install: Install) -> None:
    install("well-made", good("well-made"))
    for name, (source, _) in BROKEN.items():
        install(name, source, version="2.5")
    catalog = clouds.catalog()
    found = {broken.distribution: broken for broken in catalog.broken}
    expected = {name: reason for name, (_, reason) in BROKEN.items() if reason is not None}
    assert expected.keys() <= found.keys()
    for name, reason in expected.items():
        assert reason in found[name].error
        assert found[name].version == "2.5"
        assert str(found[name]).startswith(f"{name} 2.5, plugin 'main': ")
    assert "returns-none" not in found  # pluggy's way of saying "nothing from me"
    assert "well-made" in catalog.names("prompter")
    assert "tiny" in catalog.names("backbone")
    plan = clouds.plan(backbone="tiny", head="linear", prompter="well-made", catalog=catalog)
    assert plan.parts["prompter"].distribution == "well-made"
    with pytest.raises(UnknownComponentError, match=r"unknown prompter 'mine'.*fails-to-import 2.5, plugin 'main'"):
        catalog.find("prompter", "mine")


@pytest.mark.parametrize("name", [name for name, (_, reason) in BROKEN.items() if reason is not None])
def test_a_strict_catalog_raises(install: Install, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    install(name, BROKEN[name][0])
    monkeypatch.setenv("CLOUDS_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match=f"broken plugin: {name} 1.0, plugin 'main': "):
        clouds.catalog()


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        ("def words(**options):", r"has a wrong signature: \*\*options .* hides the options"),
        ("def words(*languages):", r"has a wrong signature: \*languages"),
        ("def words(language, /):", r"has a wrong signature: language \(positional-only\)"),
        ("def words(*, language: Missing = 1):", r"an annotation cannot be read: name 'Missing' is not defined"),
        ("def other():", r"module 'wrong_signature' has no attribute 'words'"),
    ],
)
def test_a_wrong_factory_is_found_without_building(install: Install, signature: str, reason: str) -> None:
    install("well-made", good("well-made"))
    header = "from __future__ import annotations\n"
    install("wrong-signature", header + good("wrong").replace('def words(*, language: str = "en"):', signature))
    catalog = clouds.catalog()
    with pytest.raises(ComponentError, match=reason):
        read_schema(catalog.find("prompter", "wrong"))
    with pytest.raises(PlanError, match=rf"1 problem:\n  1. prompter: prompter 'wrong': .*{reason}"):
        clouds.plan(backbone="tiny", head="linear", prompter="wrong", catalog=catalog)
    read_schema(catalog.find("prompter", "well-made"))


def test_a_name_of_another_plugin_and_of_a_built_in(install: Install) -> None:
    install("one", good("words"))
    install("two", good("words"))
    install("three", good("grammar"))
    catalog = clouds.catalog()
    assert {"one::words", "two::words", "clouds-dgss::grammar", "three::grammar", "file"} <= set(
        catalog.names("prompter")
    )
    with pytest.raises(
        DuplicateComponentError, match=r"'words' is offered by one 1.0 and two 1.0; choose one: 'one::wo"
    ):
        catalog.find("prompter", "words")
    with pytest.raises(PlanError, match=r"offered by clouds-dgss .* and three 1.0; choose one: 'clouds-dgss::grammar'"):
        clouds.plan(backbone="tiny", head="linear", prompter="grammar", catalog=catalog)
    plan = clouds.plan(backbone="tiny", head="linear", prompter="two::words", catalog=catalog)
    assert plan.parts["prompter"].qualified_name == "two::words"


def test_equal_entry_point_names_in_two_distributions_both_load(install: Install) -> None:
    install("one", good("first"), entry="plugin")
    install("two", good("second"), entry="plugin")
    assert {"first", "second"} <= set(clouds.catalog().names("prompter"))


def test_a_subset_can_be_named(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("one", good("first"))
    install("two", good("second"))
    install("fails-to-import", "import nowhere_at_all")
    monkeypatch.setenv("CLOUDS_PLUGINS", "two, clouds-dgss")
    catalog = clouds.catalog()
    assert {entry.distribution for entry in catalog.entries("prompter")} == {"clouds-dgss", "two"}
    assert catalog.broken == ()
    monkeypatch.setenv("CLOUDS_PLUGINS", "")
    assert {entry.distribution for entry in clouds.catalog().entries("prompter")} == {"clouds-dgss"}
    monkeypatch.setenv("CLOUDS_PLUGINS", "three")
    (broken,) = clouds.catalog().broken
    assert str(broken) == (
        "three, plugin 'three': PluginError: named in CLOUDS_PLUGINS, but no such plugin is installed"
    )


def test_a_fresh_interpreter_finds_and_builds_an_installed_component(install: Install) -> None:
    install("one", good("first"))
    program = (
        "import sys, clouds; part = clouds.catalog().find('prompter', 'first'); assert 'torch' not in sys.modules;"
        "from clouds.core.pipeline.build import build_part;"
        "print(*build_part('prompter', {'name': 'first', 'language': 'fr'}).prompts(2, seed=0))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert run.stdout == "fr fr\n"
