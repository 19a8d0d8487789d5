"""Docstrings that show examples are true."""

import re
import subprocess
import sys
from pathlib import Path

import pluggy

import clouds
from clouds.core.contract import hookspecs
from clouds.core.contract.component import Kind

FOLDER = Path(clouds.__file__).parent
CHECK = """
import doctest, importlib, sys
for name in sys.argv[1:]:
    failed, tried = doctest.testmod(importlib.import_module(name))
    print(name, failed, tried)
"""


def test_there_is_one_hook_per_kind() -> None:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    hooks = {name for name in vars(manager.hook) if not name.startswith("_")}
    assert hooks == {kind.hook for kind in Kind} | {
        "clouds_resolve",
        "clouds_install_command",
        "clouds_check_plan",
        "clouds_losses",
        "clouds_samplers",
        "clouds_augmentations",
        "clouds_trackers",
        "clouds_label_spaces",
        "clouds_datasets",
        "clouds_recipes",
        "clouds_weights",
    }
    assert all(getattr(hookspecs, hook).__doc__.count(">>>") for hook in hooks)


def test_examples_in_docstrings_run() -> None:
    """In a process of its own, because the shape checks of the test run hide functions from doctest."""
    files = [path for path in sorted(FOLDER.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
    modules = [".".join(("clouds", *path.relative_to(FOLDER).with_suffix("").parts)) for path in files]
    assert "clouds.core.contract.hookspecs" in modules
    run = subprocess.run([sys.executable, "-c", CHECK, *modules], capture_output=True, text=True, check=True)
    results = [line.split() for line in run.stdout.splitlines() if line.startswith("clouds.")]
    assert [row[0] for row in results] == modules, run.stdout
    assert [row[0] for row in results if row[1] != "0"] == [], run.stdout
    assert [row[0] for row in results if row[2] == "0"] == [], "examples that doctest does not see"


def test_the_readme_names_every_hook() -> None:
    text = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    table = "".join(line for line in text.splitlines() if line.startswith("| `clouds_"))
    named = set(re.findall(r"`(clouds_\w+)`", table))
    assert named == {name for name in vars(hookspecs) if name.startswith("clouds_")}, "see `Extend it` in README.md"
