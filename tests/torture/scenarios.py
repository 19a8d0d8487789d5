"""The calls that the kill drill kills: all that write more than one file, or a large one."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drill import Scenario, tree

import clouds
from clouds.core.contract.component import Kind
from clouds.core.contract.labels import CITYSCAPES
from clouds.core.contract.plan import Part
from clouds.core.contract.weight_records import FileWeights
from clouds.core.pipeline.build import build_part
from clouds.core.system.images import write_png
from clouds.core.weights.store import fetch
from clouds.data.convert import convert_dataset
from clouds.data.folder import open_dataset
from clouds.inference.folder import ROWS as PREDICTED
from clouds.inference.folder import read_rows
from clouds.synthesis.filters import BlankFilter, DuplicateFilter
from clouds.synthesis.generate import generate_set
from clouds.synthesis.generated_set import open_generated
from clouds.synthesis.manifest import FILE_NAME as MANIFEST
from clouds.synthesis.refine import refine_set
from clouds.synthesis.rejections import FILE_NAME as REJECTED
from clouds.synthesis.shards import write_shards
from clouds.training.checkpoint import FILE_NAME as CHECKPOINT
from clouds.training.checkpoint import read_checkpoint
from clouds.training.recipe import load_recipe
from clouds.training.run_folder import LOG
from clouds.training.train import train

TINY = {"name": "tiny", "dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "trainable": True}
SIZE = (32, 48)
RECIPE = [
    *("data.crop=[32,32]", "warmup.steps=1", "warmup.batch_size=1", "joint.steps=1", "joint.batch_size=2"),
    *("loop.checkpoint_every=1", "loop.keep=2"),
]


def pipeline(seed: int = 0) -> clouds.Pipeline:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return clouds.compose(backbone=TINY, head={"name": "linear", "width": 8}, refiner="regions", device="cpu")


def labelled(folder: Path, count: int) -> str:
    rng = np.random.default_rng(0)
    for index in range(count):
        write_png(folder / "images" / "train" / f"{index}.png", rng.integers(0, 256, (*SIZE, 3), np.uint8))
        write_png(folder / "labels" / "train" / f"{index}.png", rng.integers(0, 19, SIZE, np.uint8))
    return f"folder:{folder}"


def make_set(folder: Path, n: int = 3) -> None:
    part = Part(kind="generator", name="procedural", distribution="clouds-dgss", version="0")
    filters = [BlankFilter(), DuplicateFilter(25.0)]  # some pictures of one street are nearer, and rejected
    generate_set(
        build_part(Kind.GENERATOR, "procedural"),
        part,
        ["A photo of a street in daylight."],
        n=n,
        out=folder,
        size=SIZE,
        batch_size=2,
        keep_labels=True,
        filters=filters,
    )


@contextmanager
def generate(given: Path) -> Iterator[Scenario]:
    def check(folder: Path) -> None:
        if (folder / MANIFEST).exists():
            open_generated(folder, verify=True)

    yield Scenario(call=make_set, growing=(MANIFEST, REJECTED), check=check)


@contextmanager
def shards(given: Path) -> Iterator[Scenario]:
    make_set(given)

    def call(folder: Path) -> None:
        write_shards(open_generated(folder), images_per_shard=1)

    yield Scenario(call=call, before=lambda folder: shutil.copytree(given, folder, dirs_exist_ok=True))


@contextmanager
def refine(given: Path) -> Iterator[Scenario]:
    labelled(given, 2)
    images = sorted((given / "images" / "train").iterdir())
    label = torch.zeros(SIZE, dtype=torch.uint8).numpy()
    refiner = build_part(Kind.REFINER, "regions")

    def call(folder: Path) -> None:
        refine_set(
            refiner, images, lambda path: label, out=folder, label_space=CITYSCAPES, made_with={"refiner": "regions"}
        )

    yield Scenario(call=call)


def convert(images: str) -> Callable[[Path], AbstractContextManager[Scenario]]:
    @contextmanager
    def scenario(given: Path) -> Iterator[Scenario]:
        spec = labelled(given, 3)

        def call(folder: Path) -> None:
            convert_dataset(open_dataset(spec, CITYSCAPES), folder, images=images)

        yield Scenario(call=call)

    return scenario


@contextmanager
def training(given: Path) -> Iterator[Scenario]:
    source = labelled(given / "data", 2)
    make_set(given / "generated")

    def call(folder: Path) -> None:
        if (folder / CHECKPOINT).is_file():
            train(pipeline(), resume=folder)
        else:
            recipe = load_recipe("folder", RECIPE)
            train(pipeline(), source=source, generated=given / "generated", recipe=recipe, out=folder)

    def check(folder: Path) -> None:
        for path in folder.glob("checkpoint*.pt"):
            torch.load(path, weights_only=True)
        for part in ("start", "warmup", "joint"):
            if (folder / part).exists():
                clouds.load(folder / part, device="cpu")

    yield Scenario(call=call, result=trained, growing=(LOG, *checkpoints()), check=check)


def checkpoints() -> tuple[str, ...]:
    """Checkpoints hold the length of a log with times in it; `check` and `trained` read them."""
    return (CHECKPOINT, *(f"checkpoint-{phase}-{step}.pt" for phase in ("warmup", "joint") for step in range(3)))


def trained(folder: Path) -> dict[str, Any]:
    """All of a run but the times in its log, and what follows from their number of digits."""
    found: dict[str, Any] = {**tree(folder)}
    found[LOG] = [
        {key: value for key, value in json.loads(line).items() if key not in ("images_per_second", "memory_gib")}
        for line in (folder / LOG).read_text(encoding="utf-8").splitlines()
    ]
    for path in folder.glob("checkpoint*.pt"):
        document = torch.load(path, weights_only=True)
        del document["progress"]["log_size"]
        found[path.name] = sha256(repr(_bits(document)).encode()).hexdigest()
    assert read_checkpoint(folder)[0].phase == "joint"
    return found


def _bits(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), sha256(value.numpy().tobytes()).hexdigest())
    if isinstance(value, Mapping):
        return {key: _bits(one) for key, one in value.items()}
    return [_bits(one) for one in value] if isinstance(value, list | tuple) else value


@contextmanager
def predict(given: Path) -> Iterator[Scenario]:
    """`clouds predict FOLDER`, with two files an image."""
    from clouds.cli.app import main

    model, pictures = given / "model", given / "images" / "train"
    labelled(given, 3)
    trained = pipeline()
    trained.trained = True
    trained.save(model)

    def call(folder: Path) -> None:
        if main(["predict", str(model), str(pictures), "--out", str(folder), "--batch-size", "2", "--device", "cpu"]):
            raise RuntimeError("clouds predict failed")

    def check(folder: Path) -> None:
        for row in read_rows(folder).values():
            for one in row.files:
                if sha256((folder / one.file).read_bytes()).hexdigest() != one.sha256:
                    raise ValueError(f"{one.file} is not what its row says")

    yield Scenario(call=call, growing=(PREDICTED,), check=check)


@contextmanager
def save(given: Path) -> Iterator[Scenario]:
    """Over another pipeline, so that there is one at every moment."""
    old, new = pipeline(1), pipeline(0)

    def check(folder: Path) -> None:
        clouds.load(folder / "saved", device="cpu")
        both = [tree(given / name) for name in ("old", "new")]
        if tree(folder / "saved") not in both:
            raise ValueError("the saved pipeline is neither the old one nor the new one")

    for name, one in (("old", old), ("new", new)):
        one.save(given / name)
    yield Scenario(
        call=lambda folder: new.save(folder / "saved"),
        before=lambda folder: old.save(folder / "saved"),
        check=check,
    )


@contextmanager
def convert_reference(given: Path) -> Iterator[Scenario]:
    """`clouds convert` to a new folder. The checkpoint is read once, before the kills: that writes nothing."""
    import clouds.core.published.checkpoint as reference
    from clouds.cli.app import main

    read, reference.from_reference_checkpoint = reference.from_reference_checkpoint, lambda *_, **__: pipeline()

    def call(folder: Path) -> None:
        if main(["convert", "model.pth", str(folder / "saved")]):
            raise RuntimeError("clouds convert failed")

    def check(folder: Path) -> None:
        if (folder / "saved").exists():
            clouds.load(folder / "saved", device="cpu")

    try:
        yield Scenario(call=call, check=check)
    finally:
        reference.from_reference_checkpoint = read


@contextmanager
def weights(given: Path) -> Iterator[Scenario]:
    """A download in several blocks from a server in a process of its own."""
    content = np.random.default_rng(0).bytes(5 << 19)
    given.mkdir(parents=True)
    (given / "weights.pth").write_bytes(content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(given))
    child = os.fork()
    if child == 0:
        server.serve_forever()
    url = f"http://127.0.0.1:{server.server_address[1]}/weights.pth"
    entry = FileWeights(name="w", licence="none", url=url, sha256=sha256(content).hexdigest(), size=len(content))
    try:
        yield Scenario(call=lambda folder: fetch(entry, folder), growing=("weights.pth.part",))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        server.server_close()


def _handler(folder: Path) -> Callable[..., SimpleHTTPRequestHandler]:
    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            content = (folder / "weights.pth").read_bytes()
            start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:])

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


SCENARIOS: dict[str, Callable[[Path], AbstractContextManager[Scenario]]] = {
    "generate": generate,
    "shards": shards,
    "refine": refine,
    "datasets-convert-link": convert("link"),
    "datasets-convert-copy": convert("copy"),
    "predict": predict,
    "train": training,
    "save": save,
    "convert": convert_reference,
    "weights-fetch": weights,
}
