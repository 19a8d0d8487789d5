"""Recipes with adapters: every value is printed, and two steps run with a tiny ViT."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from training_helpers import write_generated, write_source

import clouds
from clouds.cli.app import main
from clouds.training.recipe import load_recipe
from clouds.training.train import train


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "rein-dinov2-l",
            ["# adapter: rein(tokens=100, rank=16, scale=0.001, link=True)"],
        ),
        ("soma-dinov2-l", ["# adapter: soma(rank=16, targets=[], first=8)", "result = true"]),
        ("clouds-dinov2-l-rein", ["# adapter: rein(tokens=100", "# refiner: sam-vit-h(", 'generated = "generated"']),
    ],
)
def test_plans_print_every_value(name: str, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", name]) == 0
    printed = capsys.readouterr().out
    shared = ["lr = 0.0001", "weight_decay = 0.05", "clip_norm = 0", 'schedule = "poly"', "steps = 40000"]
    assert [line for line in (*shared, "crop = [512, 512]", "batch_size = 4", *lines) if line not in printed] == []


def test_two_steps_of_clouds_with_rein_and_a_tiny_vit(tmp_path: Path) -> None:
    changes = [
        *('backbone.name="timm:test_vit"', "model.pretrained=false", "device=cpu", 'refiner={name="regions"}'),
        *("head.width=64", "head.layers=2", "head.encoder_layers=1", "head.points=64", "data.workers=0"),
        *("data.crop=[32,64]", "data.scale=[0.5,1.0]", "data.evaluation=[]", "loop.evaluate_every=0"),
        *("warmup.steps=2", "joint.steps=2", "teacher.every=1"),
    ]
    recipe = load_recipe("clouds-dinov2-l-rein", changes)
    model = {key: value for key, value in recipe.model.items() if key not in ("generator", "prompter", "refiner")}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = clouds.compose(**model, refiner="regions")
    before = {key: value.clone() for key, value in pipeline.backbone.state_dict().items()}
    generated = write_generated(tmp_path / "generated")
    run = train(
        pipeline, source=write_source(tmp_path / "source"), generated=generated, recipe=recipe, out=tmp_path / "run"
    )
    assert run.steps == 4
    assert all(torch.equal(value, before[key]) for key, value in pipeline.backbone.state_dict().items())
    assert clouds.load(run.checkpoint, device="cpu").adapter is not None
