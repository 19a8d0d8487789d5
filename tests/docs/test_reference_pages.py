"""Pages of the reference are complete: what the code has, they have."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import attrs
import pytest

import clouds
from clouds.cli.app import build_app
from clouds.training.recipe import Recipe, load_recipe

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = re.compile(r"CLOUDS_[A-Z_]*[A-Z]")


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    """The script that makes the generated pages."""
    pytest.importorskip("mkdocs", reason="the site's generator is not installed")
    spec = spec_from_file_location("generated", ROOT / "docs" / "generated.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_environment_variable_is_in_a_table() -> None:
    table = VARIABLE.findall((ROOT / "docs/reference/environment.md").read_text(encoding="utf-8"))
    folders = ("clouds", "plugins", "tests", "benchmarks")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if path != Path(__file__)]
    read = {name for path in files for name in VARIABLE.findall(path.read_text(encoding="utf-8"))}
    assert set(table) == read


def test_every_public_name_is_in_the_reference(generated: ModuleType) -> None:
    shown = re.findall(r"^::: clouds\.(\w+)$", generated.python_page(), re.MULTILINE)
    assert sorted(shown) == sorted(clouds.__all__)


def test_links_of_a_copied_page_start_from_its_new_place(generated: ModuleType) -> None:
    source = generated.ROOT / "clouds" / "recipes" / "README.md"
    page = generated.copied_page("reference/released-recipes.md", source)
    assert "](../../docs/results.md#real-photographs)" in source.read_text(encoding="utf-8")
    assert "](../results.md#real-photographs)" in page


def test_every_hook_is_in_the_reference(generated: ModuleType) -> None:
    declared = {name for name in vars(sys.modules[clouds._HOME_OF["hookimpl"]]) if name.startswith("clouds_")}
    page = generated.hooks_page()
    assert declared
    assert all(f".{name}\n" in page for name in declared)


def test_every_command_is_in_the_reference(generated: ModuleType) -> None:
    page = generated.commands_page()
    app = build_app()
    commands = [name for name in app if not name.startswith("-")]
    commands += [f"{name} {below}" for name in commands for below in app[name] if not below.startswith("-")]
    assert "datasets check" in commands
    assert all(f"# clouds {name}\n" in page for name in commands)


def keys_of(record: object, prefix: str = "") -> Iterator[str]:
    for name, value in attrs.asdict(record, recurse=False).items():
        yield from keys_of(value, f"{prefix}{name}.") if attrs.has(type(value)) else [prefix + name]


def test_every_recipe_key_has_its_range_and_meaning(generated: ModuleType) -> None:
    page = generated.recipe_page()
    assert [key for key in keys_of(load_recipe("folder")) if f"| `{key}` |" not in page] == []
    assert f"| `{attrs.fields(Recipe).seed.name}` | `int` | at least 0 and at most 4.29497e+09 | `0` |" in page
    assert "| `teacher.decay` | `float` | at least 0 and at most 1 | `0.999` |" in page
    assert "steps between updates" in page


def test_every_component_is_in_the_reference(generated: ModuleType) -> None:
    page = generated.components_page()
    built_in = [
        e.component.name
        for kind in clouds.Kind
        for e in clouds.catalog().entries(kind)
        if e.distribution == "clouds-dgss"
    ]
    assert len(built_in) > 20
    assert all(f"### {name} " in page for name in built_in)
