"""The rows of the walks: the four that the architecture pages describe."""

from __future__ import annotations

from benchmarks import walks


def test_a_walk_passes_through_files() -> None:
    found = {(row["walk"], row["metric"]): row["p50"] for row in walks.run()}
    assert {name for name, _ in found} == {
        "an image to labels",
        "a joint step",
        "a prompt to a manifest row",
        "an entry point to a module",
    }
    assert all(found[name, "changes of file"] >= found[name, "files"] - 1 > 0 for name, _ in found)
