"""Pipelines with adapters: plans, saving, merging, training, resuming."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_helpers import TINY

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from training_helpers import recipe, write_generated, write_source

import clouds
from clouds.core.contract.plan import PlanError
from clouds.core.system.errors import ConfigError
from clouds.training.teacher import Teacher
from clouds.training.train import train

M2F = {"name": "mask2former", "queries": 8, "width": 64, "layers": 2, "encoder_layers": 1, "points": 64}


def compose(adapter: object, head: object = M2F, **more: Any) -> clouds.Pipeline:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return clouds.compose(backbone=TINY, head=head, adapter=adapter, refiner="regions", device="cpu", **more)


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def disturb(pipeline: clouds.Pipeline) -> None:
    with torch.no_grad():
        for parameter in pipeline.adapter.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    pipeline.trained = True


def test_misfits_are_problems_of_the_plan() -> None:
    with pytest.raises(PlanError, match="adapter: rein needs blocks from the backbone, but clip-rn50 provides mask-p"):
        clouds.plan(backbone="clip-rn50", head="linear", adapter="rein")
    with pytest.raises(PlanError, match="lora needs a frozen backbone, but tiny has trainable=True -> set"):
        clouds.plan(backbone={**TINY, "trainable": True}, head="linear", adapter="lora")
    with pytest.raises(PlanError, match="unknown adapter 'lore'; did you mean 'lora'"):
        clouds.plan(backbone="tiny", head="linear", adapter="lore")


def test_the_plan_says_that_a_head_ignores_queries() -> None:
    assert "note: rein makes queries, which linear ignores" in str(
        clouds.plan(backbone="tiny", head="linear", adapter="rein")
    )
    assert "note" not in str(clouds.plan(backbone="tiny", head="mask2former", adapter="rein"))
    unlinked = {"name": "rein", "link": False}
    assert "note" not in str(clouds.plan(backbone="tiny", head="linear", adapter=unlinked))


def test_a_ready_backbone_must_be_frozen() -> None:
    backbone = compose(None).backbone
    made = compose("lora").adapter
    backbone.requires_grad_(True)
    with pytest.raises(ConfigError, match=r"LowRankAdapter needs a frozen backbone, but TinyBackbone is trainable"):
        clouds.compose(backbone=backbone, head="linear", adapter=made, device="cpu")


def test_linked_queries_reach_the_head() -> None:
    pipeline = compose("rein")
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    before = pipeline.forward([image]).mask_logits
    with torch.no_grad():
        pipeline.head.predictor.query_feat.weight.add_(1)  # the head's own are not used
    assert torch.equal(pipeline.forward([image]).mask_logits, before)
    with torch.no_grad():
        pipeline.adapter.query_content.bias.add_(1)
    assert not torch.equal(pipeline.forward([image]).mask_logits, before)


@pytest.mark.parametrize("name", ["rein", "lora", "soma", "none"])
def test_saved_pipelines_predict_the_same(name: str, tmp_path: Path) -> None:
    pipeline = compose(name)
    disturb(pipeline)
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    pipeline.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "adapter.safetensors").is_file() == (name != "none")
    loaded = clouds.load(tmp_path / "saved", device="cpu")
    assert same(state(pipeline.adapter), state(loaded.adapter))
    assert (pipeline.predict(image).scores() == loaded.predict(image).scores()).all()


@pytest.mark.parametrize("name", ["lora", "soma"])
def test_a_merged_pipeline_predicts_the_same_without_an_adapter(name: str, tmp_path: Path) -> None:
    pipeline = compose(name)
    disturb(pipeline)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        before = pipeline.forward([image]).mask_logits
        pipeline.merge_adapter()
        torch.testing.assert_close(pipeline.forward([image]).mask_logits, before, rtol=1e-3, atol=1e-3)
    assert pipeline.adapter is None
    assert "adapter" not in pipeline.plan.parts
    pipeline.save(tmp_path / "merged")
    assert clouds.load(tmp_path / "merged", device="cpu").adapter is None
    with pytest.raises(ConfigError, match="the pipeline has no adapter"):
        pipeline.merge_adapter()


def test_rein_cannot_be_merged() -> None:
    with pytest.raises(ConfigError, match=r"the adapter Rein cannot be merged: .*\(lora and soma can be merged\)"):
        compose("rein").merge_adapter()


def test_the_teacher_shares_the_trunk_and_averages_what_is_trained() -> None:
    pipeline = compose("lora")
    teacher = Teacher(pipeline, decay=0.5)
    assert teacher.backbone is pipeline.backbone
    assert list(teacher.averaged) == ["head", "adapter"]
    start, image = state(pipeline.adapter), torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    disturb(pipeline)
    with torch.no_grad():
        student = pipeline.forward([image]).mask_logits
        own = teacher.segmenter(teacher.segmenter.pad([image])).mask_logits
        assert not torch.equal(student, own)
        assert torch.equal(pipeline.forward([image]).mask_logits, student)
    teacher.update()
    for key, value in state(teacher.segmenter.adapter).items():
        torch.testing.assert_close(value, (start[key] + pipeline.adapter.state_dict()[key]) / 2)
    hooks = sum(len(part._forward_hooks) for part in pipeline.backbone.modules())
    del teacher
    assert sum(len(part._forward_hooks) for part in pipeline.backbone.modules()) == hooks / 2


@pytest.mark.parametrize("name", ["rein", "lora", "soma"])
def test_training_changes_adapter_and_head_alone_and_resumes_bitwise(name: str, tmp_path: Path) -> None:
    source, generated = write_source(tmp_path / "source"), write_generated(tmp_path / "generated")
    pipeline = compose(name)
    frozen, start = state(pipeline.backbone), state(pipeline.adapter)
    train(pipeline, source=source, generated=generated, recipe=recipe(), out=tmp_path / "run")
    assert same(frozen, state(pipeline.backbone))
    assert not same(start, state(pipeline.adapter))

    def stop(phase: str, step: int, steps: int, numbers: dict[str, float]) -> None:
        if (phase, step) == ("joint", 3):
            raise RuntimeError("stopped")

    with pytest.raises(clouds.CloudsError, match="stopped"):
        train(compose(name), source=source, generated=generated, recipe=recipe(), out=tmp_path / "cut", on_step=stop)
    resumed = clouds.load(tmp_path / "cut" / "start", device="cpu", trust=("refiner",))
    train(resumed, resume=tmp_path / "cut")
    assert same(state(resumed.adapter), state(pipeline.adapter))
    assert same(state(resumed.head), state(pipeline.head))
    assert (
        json.loads((tmp_path / "run" / "joint" / "plan.json").read_text(encoding="utf-8"))["parts"][1]["name"] == name
    )


def test_an_adapted_network_is_captured() -> None:
    pipeline = compose("lora")
    disturb(pipeline)
    network, images = pipeline.as_module(), torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        expected = network(images)
        exported = torch.export.export(network, (images,)).module()(images)
    torch.testing.assert_close(exported[1], expected[1], rtol=1e-4, atol=1e-4)
