"""The pages of the site that are made of the code, whenever it is built: `hooks` of mkdocs.yml names this file.

Public names and hooks are rendered by mkdocstrings from their docstrings; commands by cyclopts from their signatures;
recipe keys from the typed records; components from the catalog. Some files of the repository are pages as they are.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import clouds
from clouds import Kind
from clouds.cli.app import build_app
from clouds.core.contract.schema import read_schema
from clouds.training import recipe as recipes

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTION = "clouds-dgss"
COPIED = {
    "reference/released-recipes.md": "clouds/recipes/README.md",
    "architecture/measurements.md": "benchmarks/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
}
# The order of the page of public names: what a user calls first, then what the author of a plugin derives from.
TOPICS = {
    "Functions": lambda value: inspect.isfunction(value),
    "Errors and warnings": lambda value: inspect.isclass(value) and issubclass(value, Exception),
    "Interfaces": lambda value: inspect.isclass(value) and inspect.isabstract(value),
    "Classes and records": lambda value: inspect.isclass(value),
    "Values": lambda value: True,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages. MkDocs calls this once it has found the others."""
    pages = {
        "reference/python.md": python_page(),
        "reference/hooks.md": hooks_page(),
        "reference/commands.md": commands_page(),
        "reference/components.md": components_page(),
        "reference/recipe-keys.md": recipe_page(),
        **{page: copied_page(page, ROOT / source) for page, source in COPIED.items()},
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def copied_page(page: str, source: Path) -> str:
    """A file of the repository as `page` of the site: its links to other pages start from its new place."""

    def moved(link: re.Match[str]) -> str:
        return f"]({os.path.relpath(source.parent / link[1], (ROOT / 'docs' / page).parent)}"

    return re.sub(r"\]\((?!https?:)([^)#]+)", moved, source.read_text(encoding="utf-8"))


def python_page() -> str:
    """Every name of `clouds.__all__`, each under its topic."""
    left = sorted(clouds.__all__, key=str.lower)
    lines = ["# Python", "", "Everything that `import clouds` offers. All else may change without notice.", ""]
    for topic, belongs in TOPICS.items():
        names = [name for name in left if belongs(getattr(clouds, name))]
        left = [name for name in left if name not in names]
        lines += [f"## {topic}", ""]
        lines += [part for name in names for part in (f"::: clouds.{name}", "")]
    return "\n".join(lines)


def hooks_page() -> str:
    """Every hook, from the module that declares them."""
    module = clouds._HOME_OF["hookimpl"]
    lines = ["# Hooks", "", f"::: {module}", "    options:", "      show_root_heading: false", "      members: false"]
    for name in hook_names():
        lines += ["", f"::: {module}.{name}", "    options:", "      show_root_full_path: false"]
    return "\n".join([*lines, ""])


def hook_names() -> list[str]:
    """The names of all hooks, as they are declared."""
    module = __import__(clouds._HOME_OF["hookimpl"], fromlist=["hookspec"])
    return [name for name, value in vars(module).items() if hasattr(value, "clouds_spec")]


def commands_page() -> str:
    """Every command, as its --help has it."""
    text = build_app().generate_docs(output_format="markdown", heading_level=1)
    text = text.replace("# clouds\n", "# Commands\n", 1)
    # The table of contents stands beside the page already.
    text = re.sub(r"^## Table of Contents\n.*?(?=^\*\*Commands)", "", text, flags=re.DOTALL | re.MULTILINE)
    return text.replace('[default: ""]', "[optional]")


def components_page() -> str:
    """Every built-in component with its options."""
    catalog = clouds.catalog()
    lines = [
        "# Components",
        "",
        "What comes with the library. `clouds info NAME` prints the same, also of plugins.",
        "",
    ]
    for kind in Kind:
        lines += [f"## {kind.value.capitalize()}s", "", f"`{kind}=` of `clouds.compose`, `clouds list {kind}s`.", ""]
        for entry in catalog.entries(kind):
            if entry.distribution == DISTRIBUTION:
                lines += [*_component(entry.component), ""]
    return "\n".join(lines)


def _component(component: clouds.Component) -> Iterator[str]:
    yield f"### {component.name} {{ #{component.kind}-{component.name} }}"
    yield ""
    yield f"{component.summary}. {component.source}".strip()
    yield ""
    yield f"```text\n{read_schema(component)}\n```"
    if component.licence:
        yield f"\nLicence of the weights: {component.licence}."


def recipe_page() -> str:
    """Every key of a recipe: its type, range and default, and what its record's docstring says of it."""
    lines = [
        "# Recipe keys",
        "",
        "A recipe is a TOML file with these tables. `clouds plan NAME` prints one with every value; `--set a.b=value`",
        'and `set={"a.b": value}` change one. A value out of its range, or of another type, is refused before anything',
        "is built. `model` holds the arguments of [`clouds.compose`](python.md#clouds.compose).",
        "",
        "| key | type | range | default |",
        "|---|---|---|---|",
    ]
    notes = ["", "## What they mean", ""]
    for field in attrs.fields(attrs.resolve_types(recipes.Recipe)):
        if attrs.has(field.type):
            rows, meaning = _table(field.name, field.type)
            lines, notes = [*lines, *rows], [*notes, *meaning]
        else:
            lines.append(_row(field.name, field))
    return "\n".join([*lines, *notes])


def _table(key: str, record: type) -> tuple[list[str], list[str]]:
    """Rows and meaning of a table of the recipe, and of the tables in it."""
    rows, notes = list[str](), [f"**`{key}`**", "", *_meaning(record)]
    for field in attrs.fields(attrs.resolve_types(record)):
        if attrs.has(field.type):
            below, meaning = _table(f"{key}.{field.name}", field.type)
            rows, notes = [*rows, *below], [*notes, *meaning]
        else:
            rows.append(_row(f"{key}.{field.name}", field))
    return rows, notes


def _row(key: str, field: attrs.Attribute[Any]) -> str:
    default = "" if field.default is attrs.NOTHING else field.default
    default = default.factory() if isinstance(default, attrs.Factory) else default  # pyright: ignore[reportArgumentType]
    shown = "required" if field.default is attrs.NOTHING else f"`{default!r}`"
    kind = inspect.formatannotation(field.type).replace("typing.", "").replace("|", "\\|")
    return f"| `{key}` | `{kind}` | {_range(field)} | {shown} |"


def _range(field: attrs.Attribute[Any]) -> str:
    """The range that a field's validator, `within(low, high, above=...)`, checks."""
    if field.validator is None:
        return ""
    return inspect.getclosurevars(inspect.unwrap(field.validator)).nonlocals["wanted"]


def _meaning(record: type) -> Iterator[str]:
    """A record's docstring as Markdown: its text, and its attributes as a list."""
    text, _, attributes = inspect.cleandoc(record.__doc__ or "").partition("Attributes:")
    yield from (text.strip(), "")
    for line in inspect.cleandoc("\n" + attributes).splitlines():
        name, colon, rest = line.partition(": ")
        yield f"- `{name}`: {rest}" if colon and not line.startswith(" ") else f"  {line.strip()}"
    yield ""
