"""`torch.export` and `torch.compile(fullgraph=True)` take a composed pipeline, and give what eager execution gives.

In a process of its own: the run-time type checks of the tests are no part of a graph.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import clouds

PROGRAM = """
import json, sys
import torch, clouds
sys.path.insert(0, sys.argv[1])
from backbone_helpers import backbone_of

cases = json.loads(sys.argv[2])


def difference(ours, theirs):
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


def stable_images(network):
    "Images none of whose mask logits is so near to 0 that rounding would open or close attention there."
    while True:
        images = torch.rand(2, 3, 64, 96) * 255
        eager = network(images)
        if all(difference(network(images * factor), eager) < 1e-3 for factor in (1 - 1e-5, 1 + 1e-5)):
            return images, eager


def made(network, images, way):
    if way == "export":
        return torch.export.export(network, (images,)).module()
    return torch.compile(network, fullgraph=True, backend=way)


found = {}
with torch.no_grad():
    for name, (backbone, head), ways in cases:
        module = backbone_of("resnet") if backbone == "resnet" else backbone
        network = clouds.compose(backbone=module, head=head, pretrained=False, device="cpu").as_module()
        images, eager = stable_images(network)
        for way in ways:
            found[f"{name}: {way}"] = difference(made(network, images, way)(images), eager)
print(json.dumps(found))
"""
TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SMALL = {
    "queries": 20,
    "width": 64,
    "layers": 3,
    "heads": 2,
    "feedforward": 32,
    "encoder_layers": 1,
    "encoder_feedforward": 32,
}
PIPELINES = {
    "tiny, fpn": (TINY, {"name": "fpn", "width": 32}),
    "tiny": (TINY, {"name": "mask2former", **SMALL}),
    "resnet": ("resnet", {"name": "mask2former", **SMALL}),
    "resnet, text": ("resnet", {"name": "mask2former-text", **SMALL}),
    "resnet, ensemble": ("resnet", {"name": "mask2former", "geometric_ensemble": True, **SMALL}),
    "resnet, text, ensemble": ("resnet", {"name": "mask2former-text", "geometric_ensemble": True, **SMALL}),
}
COMPILED = ("tiny", "resnet", "resnet, text, ensemble")  # some twenty seconds for each
HELPERS = Path(__file__).parents[1] / "backbones"
TOLERANCE = 2e-5  # compilers fuse and round in another order: some hundred float32 roundings of the largest magnitude


def differences_from_eager(ways: dict[str, tuple[str, ...]]) -> dict[str, float]:
    """Largest difference of any output, relative to its largest magnitude, for pipelines and the ways of each."""
    cases = [(name, PIPELINES[name], one) for name, one in ways.items()]
    command = [sys.executable, "-c", PROGRAM, str(HELPERS), json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == sum(map(len, ways.values()))
    return found


def test_one_graph_gives_what_eager_gives() -> None:
    """`aot_eager` traces like the compiler does and runs the graph without generating code, which takes minutes."""
    found = differences_from_eager(
        {"tiny": ("export", "aot_eager"), "tiny, fpn": ("export",), "resnet, text, ensemble": ("export",)}
    )
    assert {name: value for name, value in found.items() if not value <= TOLERANCE} == {}


@pytest.mark.slow
def test_compiled_code_gives_what_eager_gives() -> None:
    """`inductor` traces as `aot_eager` does, and generates code."""
    ways = dict.fromkeys(PIPELINES, ("export",)) | dict.fromkeys(COMPILED, ("export", "inductor"))
    found = differences_from_eager(ways)
    assert {name: value for name, value in found.items() if not value <= TOLERANCE} == {}


def test_the_module_does_what_the_pipeline_does() -> None:
    import torch

    labels = clouds.LabelSpace.from_names(["road", "sky"])
    head = {"name": "mask2former-text", "geometric_ensemble": True, **SMALL}
    pipeline = clouds.compose(backbone=TINY, head=head, labels=labels, device="cpu")
    pipeline.head.train()
    network = pipeline.as_module()
    assert not pipeline.head.training
    images = [torch.randint(0, 256, (3, 50, 90), dtype=torch.uint8)]
    with torch.inference_mode():
        class_logits, mask_logits = network(pipeline.pad(images))
        output = pipeline.forward(images)
    assert torch.equal(class_logits, output.class_logits)
    assert torch.equal(mask_logits, output.mask_logits)
    assert {"embeddings", "class_of", "seen"} <= {name for name, _ in network.named_buffers()}
