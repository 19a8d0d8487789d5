"""The doors through which what others wrote comes in: inputs that are right, and what reads them."""

from __future__ import annotations

import io
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from attrs import evolve, frozen
from mutations import (
    Mutation,
    mutate_json,
    mutate_lines,
    mutate_png,
    mutate_safetensors,
    mutate_text,
    mutate_zip,
)
from PIL import Image

import clouds
from clouds.core.contract.labels import CITYSCAPES
from clouds.core.contract.plan import Plan
from clouds.core.published.checkpoint import from_reference_checkpoint
from clouds.core.system.images import read_image
from clouds.core.weights.loading import read_safetensors
from clouds.data.config import read_dataset_config
from clouds.data.encodings import label_encoding
from clouds.data.folder import open_dataset
from clouds.data.label_files import read_label_pixels
from clouds.data.segment_files import open_segment_files
from clouds.inference.folder import ROWS
from clouds.inference.folder import read_rows as predicted_rows
from clouds.prompters.llm_text import parse_captions
from clouds.synthesis.generated_set import open_generated
from clouds.training.checkpoint import FILE_NAME as CHECKPOINT
from clouds.training.checkpoint import Progress, read_checkpoint
from clouds.training.recipe import load_recipe
from clouds.training.run_folder import LOG, RECIPE

TINY = {"name": "tiny", "dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}


@frozen
class Door:
    """One way in.

    Attributes:
        name: in the report.
        seeds: inputs that are right.
        mutate: changes one of them.
        enter: reads an input; whatever it returns is right, and so is a `CloudsError` of one line.
        share: how many inputs it gets beside others; less where one takes long.
    """

    name: str
    seeds: list[bytes]
    mutate: Mutation
    enter: Callable[[bytes], object]
    share: int = 10

    def input(self, seed: int, number: int) -> bytes:
        """The same for the same seed and number."""
        rng = Random(f"{seed}/{self.name}/{number}")
        chosen = rng.choice(self.seeds)
        if rng.random() < 0.05:
            return splice(chosen, rng.choice(self.seeds), rng)
        return self.mutate(chosen, rng)


def splice(one: bytes, other: bytes, rng: Random) -> bytes:
    """The beginning of one input and the end of another."""
    return one[: rng.randrange(len(one) + 1)] + other[rng.randrange(len(other) + 1) :]


def open_doors(folder: Path) -> list[Door]:
    """All doors, which read from files in a folder of their own."""
    return [*_pictures(folder), *_settings(folder), *_sets(folder), *_weights(folder), *_texts(folder)]


def _file(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Write the input to a file, and read that."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def enter(content: bytes) -> object:
        path.write_bytes(content)
        return read(path)

    return enter


def _decoded(read: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda content: read(content.decode(errors="replace"))


def _pictures(folder: Path) -> Iterator[Door]:
    rng = np.random.default_rng(0)
    color = Image.fromarray(rng.integers(0, 256, (13, 17, 3), np.uint8))
    grey = Image.fromarray(rng.integers(0, 19, (13, 17), np.uint8))
    seeds = [_encoded(color, kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")]
    seeds += [_encoded(image, "PNG") for image in (grey, color.convert("P"), grey.convert("1"), color.convert("RGBA"))]
    yield Door("images", seeds, mutate_png, _file(folder / "image.png", read_image))
    encodings = [label_encoding(CITYSCAPES, name) for name in ("trainIds", "ids", "color", "synthia")]

    def labels(path: Path) -> None:
        for encoding in encodings:
            try:
                encoding.decode(read_label_pixels(path, encoding), name=str(path))
            except clouds.DataError as error:
                require_one_line(error)

    files = [segments for form in ("cityscapes", "mapillary") if (segments := open_segment_files(form, folder, ()))]

    def instances(path: Path) -> None:
        for segments in files:
            segments.read(path, max_pixels=1000)

    deep = Image.fromarray(rng.integers(0, 19, (13, 17), np.uint16))
    seeds = [_encoded(image, "PNG") for image in (grey, color, deep, grey.convert("P"), grey.convert("1"))]
    yield Door("labels", seeds, mutate_png, _file(folder / "label.png", labels))
    yield Door("instances", seeds, mutate_png, _file(folder / "instances.png", instances))


def _encoded(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def require_one_line(error: Exception) -> None:
    """A plan's faults have a line each; all other errors have one in all."""
    text = str(error)
    if not text.strip() or ("\n" in text and not isinstance(error, clouds.PlanError)):
        raise ValueError(f"the message is not one line: {text!r}") from error


def _settings(folder: Path) -> Iterator[Door]:
    recipe = load_recipe("folder", ["data.source=folder:/x", "data.generated=/y", "model.backbone={name='tiny'}"])
    seeds = [recipe.to_toml().encode(), b'extends = "folder"\n[data]\ncrop = [32, 32]\n[warmup]\nsteps = 2\n']
    yield Door("recipe", seeds, mutate_text, _file(folder / "recipe.toml", load_recipe), share=3)
    seeds = [
        b'[labels]\nencoding = "ids"\n[labels.mapping]\n"0" = "ignore"\n"7" = "road"\n[fold]\nrider = "bicycle"\n',
        b'[labels.mapping]\n"128,64,128" = 0\n"#ff0000" = "car"\n[converted]\ntrain = "gta5:/data/gta5:train"\n',
    ]
    read = _file(folder / "dataset.toml", lambda path: read_dataset_config(path, CITYSCAPES))
    yield Door("dataset.toml", seeds, mutate_text, read)
    (folder / "scored").mkdir()
    (folder / "scored" / RECIPE).write_text(json.dumps(recipe.to_dict()), encoding="utf-8")
    scores = '"scores": {"day": {"images": 2, "miou": 50.0, "iou": {"road": 50.0, "sky": null}}}'
    log = "".join(f'{{"phase": "warmup", "step": {step}, "miou": 50.0, {scores}}}\n' for step in (1, 2))
    files = (
        {"file": "a.png", "bytes": 9, "sha256": "0" * 64},
        {"file": "a_overlay.png", "bytes": 8, "sha256": "1" * 64},
    )
    rows = [
        {"name": name, "image": f"/x/{name}.png", "image_bytes": 7, "image_modified": 5, "files": files}
        for name in "ab"
    ]
    seed = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    yield Door(ROWS, [seed], mutate_lines, _file(folder / "predicted" / ROWS, lambda path: predicted_rows(path.parent)))
    yield Door("log.jsonl", [log.encode()], mutate_lines, _file(folder / "scored" / LOG, _compare), share=3)
    text = clouds.plan(backbone=TINY, head="linear", generator="procedural", refiner="regions").to_json()
    yield Door("plan.json", [text.encode()], mutate_json, _decoded(Plan.from_json))


def _compare(path: Path) -> str:
    return clouds.compare([path.parent]).to_json()


def _sets(folder: Path) -> Iterator[Door]:
    tiny = clouds.compose(backbone=TINY, head="linear", generator="procedural", device="cpu")
    made = clouds.generate(tiny, 3, out=folder / "set", prompts=["A street."], size=(32, 32), keep_labels=True)
    manifest = made.folder / "manifest.jsonl"
    read = _file(manifest, lambda path: open_generated(path.parent))
    yield Door("manifest", [manifest.read_bytes()], mutate_lines, read)
    tiny.save(folder / "saved")
    described = folder / "panoptic" / "a.png"
    described.parent.mkdir()
    Image.fromarray(np.full((3, 4, 3), 1, np.uint8)).save(described)

    def segments(path: Path) -> object:
        found = open_segment_files("coco", path.with_suffix(""), [described])
        return found and found.read(described, max_pixels=1000)

    info = {"id": 65_793, "category_id": 3, "iscrowd": 0}
    document = {"annotations": [{"file_name": "a.png", "segments_info": [info]}], "categories": []}
    read = _file(folder / "panoptic.json", segments)
    yield Door("panoptic.json", [json.dumps(document).encode()], mutate_json, read)
    plan = folder / "saved" / "plan.json"
    load = _file(plan, lambda path: clouds.load(path.parent, device="cpu"))
    yield Door("saved pipeline", [plan.read_bytes()], mutate_json, load, share=1)


def _weights(folder: Path) -> Iterator[Door]:
    weight, array = torch.arange(6.0).reshape(2, 3), np.arange(4, dtype=np.float32)
    state = OrderedDict({"backbone.conv1.weight": weight, "sem_seg_head.bias": weight[0], "n": torch.tensor(3)})
    seeds = [_saved({"model": state, "iteration": 7}), _saved(state), _saved({"model": state}, zipped=False)]
    seeds += [_saved({"model": {"a": array, "b": array[0]}}, zipped=False), array.dumps()]
    yield Door(".pth", seeds, mutate_zip, _file(folder / "model.pth", from_reference_checkpoint))
    yield Door("checkpoint.pt", [_checkpoint()], mutate_zip, _file(folder / "run" / CHECKPOINT, _read_run), share=5)
    from safetensors.torch import save

    seeds = [save({"a": weight, "b": weight[0].half()}, {"trained": "True"}), save({"n": torch.tensor(3)})]
    yield Door("safetensors", seeds, mutate_safetensors, _file(folder / "w.safetensors", read_safetensors))


def _saved(value: Any, *, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def _read_run(path: Path) -> object:
    return read_checkpoint(path.parent)


def _checkpoint() -> bytes:
    from attrs import asdict

    progress = Progress(phases=("warmup", "joint"), phase="warmup", step=2)
    document = {
        "progress": asdict(evolve(progress, log_size=9)),
        "modules": {"head": OrderedDict(weight=torch.ones(2))},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "schedule": {"last_epoch": 2},
        "random": [{"torch": torch.get_rng_state()[:9], "numpy": ("MT19937", torch.ones(3), 1.0)}],
    }
    return _saved(document)


def _texts(folder: Path) -> Iterator[Door]:
    captions = [
        'Sure! Here are two:\n1. "A photo of a **busy** road."\n2) A tram at night\n',
        json.dumps({"captions": ["A photo of a road.", {"text": "A wet street at night"}]}),
        "<think>well</think>\n- **Rain:** A photo of rain on a road,\n  with cars\n* _Snow_ on a long street\n```\n",
    ]
    seeds = [text.encode() for text in captions]
    yield Door("captions", seeds, _mutate_captions, _decoded(parse_captions))
    specs = [f"folder:{folder}/set:train", f"gta5:{folder}:train", "cityscapes:/x", "acdc-fog:~/x:val", "folder:.:a:b"]
    read = _decoded(lambda text: open_dataset(text, CITYSCAPES))
    yield Door("SPEC", [text.encode() for text in specs], mutate_text, read)


def _mutate_captions(content: bytes, rng: Random) -> bytes:
    """Sometimes one piece over and over, which patterns with two ways to match a text take long for."""
    if rng.random() > 0.1:
        return mutate_text(content, rng)
    pieces = (b"* ", b"1. ", b"**", b"_ ", b'"', b"#", b"[", b"{", b"> ", b"a*", b"a_", b"\n", b"```", b"<think>")
    piece = rng.choice(pieces)
    return content[: rng.randrange(len(content))] + piece * rng.choice((10, 1000, 50_000)) + rng.choice((b"", content))
