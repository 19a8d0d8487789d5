"""Files that one call passes through, and changes of file on the way: how far a reader has to jump.

Counts calls of functions of `clouds` in the main thread, with the smallest parts, in a fresh process. Processes start
in an empty folder: `PYTHONPATH=OTHER_WORKTREE python -m benchmarks walks` counts another tree, and rows name it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.rows import row
from benchmarks.start import imported_tree

_WALK = '''
import json, sys
from pathlib import Path
import numpy as np
import clouds

root = str(Path(clouds.__file__).parent)
image = np.zeros((64, 64, 3), np.uint8)


def compose():
    return clouds.compose(
        backbone="tiny",
        head="mask2former",
        generator="procedural",
        refiner="identity",
        prompter="grammar",
        device="cpu",
    )


def walk(call):
    """Files of the functions that are called, in order."""
    files = []

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(root):
            files.append(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return files


def joint():
    clouds.train(pipeline, source="folder:source", generated="made", recipe=recipe, out="run", phase="joint")


from PIL import Image
for kind in ("images", "labels"):
    Path("source", kind, "train").mkdir(parents=True)
Image.fromarray(image).save("source/images/train/a.png")
Image.fromarray(image[..., 0]).save("source/labels/train/a.png")
pipeline = compose()
pipeline.trained = True
clouds.generate(pipeline, 1, out="made", size=(64, 64))
from clouds.training.recipe import load_recipe
recipe = load_recipe(
    "folder",
    ["joint.steps=1", "joint.batch_size=2", "data.crop=[64,64]", "loop.evaluate_every=0", "data.workers=0"],
)
walks = {
    "an image to labels": lambda: pipeline.predict(image),
    "a joint step": joint,
    "a prompt to a manifest row": lambda: clouds.generate(pipeline, 1, out="again", size=(64, 64)),
    "an entry point to a module": compose,
}
print(json.dumps({name: walk(call) for name, call in walks.items()}))
'''


def run() -> list[dict[str, Any]]:
    """Two rows a walk."""
    with tempfile.TemporaryDirectory() as folder:
        tree = imported_tree(Path(folder))
        done = subprocess.run([sys.executable, "-c", _WALK], cwd=folder, capture_output=True, text=True, check=True)
    rows: list[dict[str, Any]] = []
    for name, files in json.loads(done.stdout.splitlines()[-1]).items():
        changes = sum(one != other for one, other in pairwise(files))
        rows.append(row("walks", tree, "files", "files", [len(set(files))], walk=name))
        rows.append(row("walks", tree, "changes of file", "changes", [changes], walk=name))
    return rows
