"""Gradient checkpointing and stochastic depth of plain ViTs."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("adapters", "training")]
from adapter_helpers import adapter
from backbone_helpers import model_name, published  # noqa: F401  (a fixture)
from training_helpers import recipe, write_generated, write_source

import clouds
from clouds.core.contract.plan import PlanError
from clouds.core.pipeline.segmenter import Segmenter
from clouds.core.system.errors import ConfigError
from clouds.training.teacher import Teacher
from clouds.training.train import train

VITS = ("timm:test_vit", "timm:test_vit2", "timm:eva_clouds", f"clip:{model_name('vit')}/none", "clip:test-siglip/none")
ADAPTERS = ("rein", "lora", "soma")
pytestmark = pytest.mark.usefixtures("published")


def build(name: str, **options: Any) -> clouds.Backbone:
    """A backbone with random weights; options do not change them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        part = {"name": name, "pretrained": False, **options}
        return clouds.compose(backbone=part, head="linear", adapter=None, pretrained=False, device="cpu").backbone


def adapted(name: str, kind: str, **options: Any) -> Segmenter:
    """A backbone with an adapter that changes its features."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        part = {"name": name, "pretrained": False, **options}
        pipeline = clouds.compose(backbone=part, head="linear", adapter=kind, pretrained=False, device="cpu")
        for parameter in pipeline.adapter.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return pipeline.segmenter


def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 255


def gradients(module: nn.Module, features: Any) -> dict[str, torch.Tensor]:
    """Gradients of the trained parameters for a sum over all levels that weights each value differently."""
    module.zero_grad()
    torch.manual_seed(3)
    made = features(images())
    levels = [made.res2, made.res3, made.res4, made.res5]
    sum((level * torch.linspace(0, 1, level.numel()).view_as(level)).sum() for level in levels).backward()
    return {name: one.grad for name, one in module.named_parameters() if one.grad is not None}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bitwise: the same operations run on the same numbers, a second time."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", VITS)
@pytest.mark.parametrize("pyramid", ["layers", "last"])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_checkpointing_leaves_the_gradients_of_a_trained_backbone_as_they_are(
    name: str, pyramid: str, rate: float
) -> None:
    options = {"trainable": True, "pyramid": pyramid, "drop_path_rate": rate}
    plain, recomputed = (build(name, **options, grad_checkpointing=on).train() for on in (False, True))
    wanted = gradients(plain, plain)
    assert wanted
    assert same(gradients(recomputed, recomputed), wanted)


@pytest.mark.parametrize("name", VITS)
@pytest.mark.parametrize("kind", ADAPTERS)
def test_checkpointing_leaves_the_gradients_of_an_adapter_as_they_are(name: str, kind: str) -> None:
    plain, recomputed = (adapted(name, kind, grad_checkpointing=on) for on in (False, True))
    wanted = gradients(plain, plain.features)
    assert {name.partition(".")[0] for name in wanted} == {"adapter"}
    assert same(gradients(recomputed, recomputed.features), wanted)
    assert not recomputed.adapter.active


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters_that_share_a_trunk_are_recomputed_apart(kind: str) -> None:
    trunk = build("timm:test_vit", trainable=True, grad_checkpointing=True).freeze()
    head = clouds.compose(backbone=trunk, head="linear", device="cpu").head
    pair = [adapter(kind, trunk), adapter(kind, trunk)]
    for parameter in pair[1].parameters():
        parameter.data.add_(0.05)
    segmenters = [Segmenter(trunk, head, one) for one in pair]
    alone = [gradients(one.adapter, one.features) for one in segmenters]
    alone = [{name: value.clone() for name, value in one.items()} for one in alone]
    # Both forward passes before both backward passes
    made = [one.features(images()) for one in segmenters]
    for one in pair:
        one.zero_grad()
    for each in made:
        levels = [each.res2, each.res3, each.res4, each.res5]
        sum((level * torch.linspace(0, 1, level.numel()).view_as(level)).sum() for level in levels).backward()
    for one, wanted in zip(pair, alone, strict=True):
        assert same({name: p.grad for name, p in one.named_parameters() if p.grad is not None}, wanted)


def test_blocks_run_again_in_the_backward_pass_and_not_without_gradients() -> None:
    backbone = build("timm:test_vit", trainable=True, grad_checkpointing=True)
    calls: list[int] = []
    for block in backbone.trunk.vit.blocks:
        block.mlp.fc1.register_forward_hook(lambda *_: calls.append(1))
    depth = len(backbone.trunk.vit.blocks)
    features = backbone(images())
    assert len(calls) == depth
    features.res5.sum().backward()
    assert len(calls) == 2 * depth
    with torch.no_grad():
        backbone(images())
    assert len(calls) == 3 * depth


def test_activations_are_not_stored() -> None:
    def stored(backbone: clouds.Backbone) -> int:
        sizes: list[int] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            backbone(images())
        return sum(sizes)

    plain, recomputed = (build("timm:test_vit", trainable=True, grad_checkpointing=on) for on in (False, True))
    assert stored(recomputed) < stored(plain) / 3  # of some ten tensors per block, one is left


def test_the_last_blocks_are_trained_with_checkpointing() -> None:
    plain, recomputed = (
        build("timm:test_vit", trainable="last2", grad_checkpointing=on).train() for on in (False, True)
    )
    wanted = gradients(plain, plain)
    assert len({name.split(".")[3] for name in wanted if ".blocks." in name}) == 2
    assert same(gradients(recomputed, recomputed), wanted)


def test_a_copy_of_a_checkpointed_backbone_is_its_own() -> None:
    backbone = build("timm:test_vit", trainable=True, grad_checkpointing=True)
    twin = copy.deepcopy(backbone)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.zero_()
        assert twin(images()).res5.abs().sum() > 0
    assert gradients(twin, twin)
    assert all(parameter.grad is None for parameter in backbone.parameters())


def rates(backbone: clouds.Backbone) -> list[float]:
    vit = next(
        part
        for part in backbone.modules()
        if hasattr(part, "blocks") and isinstance(part, nn.Module) and hasattr(part, "patch_embed")
    )
    return [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit.blocks]


@pytest.mark.parametrize("name", VITS)
def test_the_rate_grows_linearly_over_the_blocks(name: str) -> None:
    found = rates(build(name, trainable=True, drop_path_rate=0.3))
    expected = torch.linspace(0, 0.3, len(found)).tolist()
    assert found == pytest.approx(expected, abs=1e-6)  # float32 steps


@pytest.mark.parametrize("name", VITS)
def test_paths_are_dropped_in_training_alone(name: str) -> None:
    plain, dropping = (build(name, trainable=True, drop_path_rate=rate) for rate in (0.0, 0.9))
    with torch.no_grad():
        assert torch.equal(dropping.eval()(images()).res5, plain.eval()(images()).res5)
        assert not torch.equal(dropping.train()(images()).res5, plain.train()(images()).res5)


def test_the_teacher_drops_no_paths() -> None:
    part = {"name": "timm:test_vit", "trainable": True, "drop_path_rate": 0.9, "pretrained": False}
    pipeline = clouds.compose(backbone=part, head="linear", device="cpu")
    teacher = Teacher(pipeline, decay=0.5)
    pipeline.segmenter.train()
    assert any(part.training for part in pipeline.backbone.modules())
    assert not any(part.training for part in teacher.backbone.modules())
    with torch.no_grad():
        once, again = (teacher.backbone(images()).res5 for _ in range(2))
    assert torch.equal(once, again)


def test_untrained_blocks_drop_no_paths() -> None:
    backbone = build("timm:test_vit", trainable="last1", drop_path_rate=0.9).train()
    blocks = backbone.trunk.vit.blocks
    assert [block.drop_path1.training for block in blocks[1:]] == [False] * (len(blocks) - 2) + [True]


class TestFaults:
    def test_checkpointing_needs_something_to_train(self) -> None:
        for more in ({}, {"adapter": "none"}):
            with pytest.raises(
                PlanError, match="dinov2-large: grad_checkpointing=True needs something to train in the"
            ):
                clouds.plan(backbone={"name": "dinov2-large", "grad_checkpointing": True}, head="linear", **more)
        for more in ({"adapter": "lora"}, {}):
            part = {"name": "dinov2-large", "grad_checkpointing": True, "trainable": False if more else "last4"}
            clouds.plan(backbone=part, head="linear", **more)

    def test_drop_path_needs_trained_blocks(self) -> None:
        part = {"name": "dinov2-large", "drop_path_rate": 0.1}
        for more in ({}, {"adapter": "lora"}):
            with pytest.raises(
                PlanError, match=r"drop_path_rate=0.1 needs trained blocks, but trainable=False freezes"
            ):
                clouds.plan(backbone=part, head="linear", **more)

    @pytest.mark.parametrize("rate", [-0.1, 1, 1.5])
    def test_a_rate_is_a_probability(self, rate: float) -> None:
        part = {"name": "dinov2-large", "drop_path_rate": rate, "trainable": True}
        with pytest.raises(PlanError, match=r"drop_path_rate is .*; expected at least 0 and below 1"):
            clouds.plan(backbone=part, head="linear")

    @pytest.mark.parametrize(("option", "value"), [("grad_checkpointing", True), ("drop_path_rate", 0.1)])
    def test_other_models_have_no_such_option(self, option: str, value: object) -> None:
        for name in ("clip-convnext-base", "clip-rn50"):
            with pytest.raises(PlanError, match=f"unknown option '{option}'"):
                clouds.plan(backbone={"name": name, option: value, "trainable": True}, head="linear")
        for name in ("timm:resnet18", "clip:RN-test/none"):
            part = {"name": name, "pretrained": False, "trainable": True, option: value}
            with pytest.raises(ConfigError, match=f"{option}={value} needs a plain ViT"):
                clouds.compose(backbone=part, head="linear", device="cpu")


def test_a_merged_pipeline_can_be_loaded(tmp_path: Path) -> None:
    part = {"name": "timm:test_vit", "grad_checkpointing": True, "pretrained": False}
    pipeline = clouds.compose(backbone=part, head="linear", adapter="lora", device="cpu")
    pipeline.save(tmp_path / "adapted")
    assert clouds.load(tmp_path / "adapted", device="cpu").plan.parts["backbone"].options["grad_checkpointing"]
    pipeline.merge_adapter()
    pipeline.save(tmp_path / "merged")
    assert not clouds.load(tmp_path / "merged", device="cpu").plan.parts["backbone"].options["grad_checkpointing"]


@pytest.mark.parametrize("grad", [True, False])
def test_a_checkpointed_network_is_captured(grad: bool) -> None:
    part = {"name": "timm:test_vit", "grad_checkpointing": True, "trainable": True, "pretrained": False}
    network = clouds.compose(backbone=part, head="linear", device="cpu").as_module()
    batch = images()
    with torch.set_grad_enabled(grad):
        expected = network(batch)
        captured = torch.export.export(network, (batch,)).module()(batch)
    torch.testing.assert_close(captured[1], expected[1], rtol=1e-4, atol=1e-4)


def test_training_with_dropped_paths_resumes_bitwise(tmp_path: Path) -> None:
    def compose() -> clouds.Pipeline:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            options = {"trainable": True, "drop_path_rate": 0.5, "grad_checkpointing": True, "pretrained": False}
            part = {"name": "timm:test_vit", **options}
            return clouds.compose(backbone=part, head="linear", refiner="regions", device="cpu")

    def stop(phase: str, step: int, steps: int, numbers: dict[str, float]) -> None:
        if (phase, step) == ("joint", 3):
            raise RuntimeError("stopped")

    source, generated = write_source(tmp_path / "source"), write_generated(tmp_path / "generated")
    whole = compose()
    train(whole, source=source, generated=generated, recipe=recipe(), out=tmp_path / "run")
    with pytest.raises(clouds.CloudsError, match="stopped"):
        train(compose(), source=source, generated=generated, recipe=recipe(), out=tmp_path / "cut", on_step=stop)
    resumed = clouds.load(tmp_path / "cut" / "start", device="cpu", trust=("refiner",))
    train(resumed, resume=tmp_path / "cut")
    pairs = zip(resumed.segmenter.parameters(), whole.segmenter.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
