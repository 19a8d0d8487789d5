"""EoMT: queries in the last blocks of a plain ViT."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("backbones", "training")]
from backbone_helpers import published  # noqa: F401  (a fixture)
from training_helpers import recipe, write_generated, write_source

import clouds
from clouds.core.contract.interfaces import ImageGenerators
from clouds.core.contract.plan import PlanError
from clouds.core.contract.records import HeadOutput, Targets
from clouds.core.pipeline.segmenter import Segmenter
from clouds.core.system.errors import ConfigError
from clouds.training.optimizer import build_optimizer, build_schedule
from clouds.training.optimizer_config import OptimizerConfig
from clouds.training.recipe import TeacherConfig
from clouds.training.samples import Sample
from clouds.training.steps import State, train_step
from clouds.training.train import train

pytestmark = pytest.mark.usefixtures("published")
VITS = ("timm:test_vit", "timm:test_vit2", "timm:eva_clouds", "clip:test-vit/none", "clip:test-siglip/none")
SMALL = {"name": "eomt", "queries": 6, "layers": 2, "points": 40}
SIZE = (64, 96)


def compose(name: str = "timm:test_vit", adapter: str | None = None, **options: Any) -> clouds.Pipeline:
    """A pipeline whose queries differ and whose masks are neither empty nor full."""
    trained = {name: options.pop(name) for name in ("trainable", "grad_checkpointing", "pyramid") if name in options}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = {"name": name, "pretrained": False, **trained}
        head = {**SMALL, **options}
        return clouds.compose(
            backbone=backbone, head=head, adapter=adapter, refiner="regions", pretrained=False, device="cpu"
        )


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(1)) * 255


def targets(count: int = 2) -> list[Targets]:
    maps = torch.full((count, *SIZE), 255, dtype=torch.uint8)
    maps[0, :, :40], maps[0, :, 40:] = 3, 5
    maps[1:, :32], maps[1:, 32:] = 2, 3
    return [Targets.from_label_map(one) for one in maps]


def reference(pipeline: clouds.Pipeline, batch: Tensor, *, masked: bool) -> list[tuple[Tensor, Tensor]]:
    """Section 3 of the paper: queries in front of all tokens; class and mask logits of each layer, in order."""
    backbone, head = pipeline.backbone, pipeline.head
    vit = backbone.vit if hasattr(backbone, "vit") else backbone.trunk.vit
    count, prefix, grid = head.predictions[0], vit.num_prefix_tokens, (SIZE[0] // 16, SIZE[1] // 16)
    rotary = hasattr(vit, "rope")

    def predict(x: Tensor) -> tuple[Tensor, Tensor]:
        x = vit.norm(x)
        queries, patches = x[:, :count], x[:, count + prefix :].transpose(1, 2).reshape(len(x), -1, *grid)
        for up in head.upscale:
            patches = functional.gelu(functional.conv_transpose2d(patches, up.up.weight, up.up.bias, stride=2))
            patches = functional.conv2d(patches, up.depthwise.weight, padding=1, groups=patches.shape[1])
            mean, variance = patches.mean(1, keepdim=True), patches.var(1, keepdim=True, correction=0)
            patches = (patches - mean) / (variance + up.norm.eps).sqrt()
            patches = patches * up.norm.weight[:, None, None] + up.norm.bias[:, None, None]
        return head.class_embed(queries), torch.einsum("bqc,bchw->bqhw", head.mask_embed(queries), patches)

    x, rope = vit.patch_embed(backbone.normalize(batch)), None
    x = vit._pos_embed(x)
    x, rope = x if rotary else (x, None)
    x = vit.norm_pre(x)
    found = []
    for index, block in enumerate(vit.blocks):
        place, mask = index - (len(vit.blocks) - head.layers), None
        if place == 0:
            x = torch.cat([head.query_embed.weight.expand(len(x), -1, -1), x], 1)
        if place >= 0 and masked:
            found.append(predict(x))
            inside = functional.interpolate(found[-1][1], size=grid, mode="bilinear").flatten(2) > 0
            mask = torch.ones(len(x), 1, x.shape[1], x.shape[1], dtype=torch.bool)
            mask[:, 0, :count, count + prefix :] = inside
        if rotary:
            block.attn.num_prefix_tokens = prefix + (count if place >= 0 else 0)
            x = block(x, rope=rope, attn_mask=mask)
            block.attn.num_prefix_tokens = prefix
        else:
            x = block(x, attn_mask=mask)
    return [*found, predict(x)]


def assert_same(output: HeadOutput, expected: list[tuple[Tensor, Tensor]]) -> None:
    layers = [*output.auxiliary, output]
    assert len(layers) == len(expected)
    for one, (classes, masks) in zip(layers, expected, strict=True):
        # float32 sums over at most some hundred terms of order 1, in another order of the tokens
        torch.testing.assert_close(one.class_logits, classes, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(one.mask_logits, masks, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", VITS)
@torch.no_grad()
def test_evaluation_is_that_of_the_paper(name: str) -> None:
    pipeline = compose(name)
    pipeline.segmenter.eval()
    assert_same(pipeline.segmenter(images()), reference(pipeline, images(), masked=False))


@pytest.mark.parametrize("name", VITS)
@torch.no_grad()
def test_training_with_masks_is_that_of_the_paper(name: str) -> None:
    pipeline = compose(name, annealing=1000, trainable=True)
    pipeline.segmenter.train()
    output = pipeline.segmenter(images(), rngs=ImageGenerators([1, 2]))
    assert_same(output, reference(pipeline, images(), masked=True))
    inside = output.auxiliary[0].mask_logits > 0
    assert 0 < inside.float().mean() < 1  # otherwise masks would not matter
    pipeline.head.annealing = 0
    assert not torch.equal(pipeline.segmenter(images(), rngs=ImageGenerators([1, 2])).class_logits, output.class_logits)


@torch.no_grad()
def test_the_pyramid_of_the_backbone_does_not_matter() -> None:
    layered, last = (compose(pyramid=pyramid).segmenter.eval()(images()) for pyramid in ("layers", "last"))
    assert torch.equal(layered.mask_logits, last.mask_logits)


@torch.no_grad()
def test_features_are_those_without_queries() -> None:
    pipeline = compose()
    seen: list[Any] = []

    def features_of(batch: Tensor) -> Any:
        seen.append(pipeline.backbone(batch))
        return seen[-1]

    pipeline.head.forward_images(images(), pipeline.backbone, features_of)
    levels = seen[0].levels()
    assert {name: level.shape for name, level in levels.items()} == {
        name: level.shape for name, level in pipeline.backbone(images()).levels().items()
    }
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in pipeline.backbone.modules()]
    assert sum(hooks) == 0


@torch.no_grad()
def test_an_image_does_not_depend_on_the_batch() -> None:
    pipeline = compose(annealing=20, trainable=True)
    pipeline.head.steps += 10  # between masks and none
    pipeline.segmenter.train()
    both = pipeline.segmenter(images(), rngs=ImageGenerators([3, 4]))
    alone = pipeline.segmenter(images()[1:], rngs=ImageGenerators([4]))
    # float32 sums over at most some hundred terms of order 1, in another order
    torch.testing.assert_close(both.class_logits[1:], alone.class_logits, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(both.mask_logits[1:], alone.mask_logits, rtol=1e-3, atol=1e-3)


class TestAnnealing:
    def test_masks_fade_out_block_by_block(self) -> None:
        head = compose(layers=4, annealing=1600).head
        starts, ends = ([200, 500, 800, 1100], [400, 700, 1000, 1300])
        for layer, (start, end) in enumerate(zip(starts, ends, strict=True)):
            found = [head.mask_share(layer, step) for step in (0, start, (start + end) // 2, end, 1600)]
            assert found == pytest.approx([1, 1, 0.5**0.9, 0, 0])

    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_a_step_counts_once_whatever_its_parts(self, accumulate: int) -> None:
        pipeline = compose(annealing=10, trainable=True)
        pipeline.segmenter.train()
        label_map = torch.zeros(64, 96, dtype=torch.uint8)
        samples = [
            Sample(position=index, name=str(index), image=image.to(torch.uint8), label_map=label_map, clean=None)
            for index, image in enumerate(images())
        ]
        config = OptimizerConfig()
        optimizer = build_optimizer(pipeline.segmenter.parts, config)
        state = State(
            pipeline=pipeline,
            optimizer=optimizer,
            schedule=build_schedule(optimizer, config, steps=2),
            config=config,
            seed=0,
            teacher_config=TeacherConfig(),
            accumulate=accumulate,
        )
        for step in range(2):
            assert int(pipeline.head.steps) == step
            train_step(state, samples)
        pipeline.segmenter(images(), rngs=ImageGenerators([1, 2]))
        assert int(pipeline.head.steps) == 2  # a pass is no step

    def test_the_share_of_masked_queries_is_the_probability(self) -> None:
        from clouds.heads.eomt import _unmasked

        queries = torch.zeros(2, 5000, 1)
        drawn = _unmasked(queries, 0.3, ImageGenerators([1, 2]))
        # standard deviation sqrt(0.21 / 5000) = 0.0065; four of them
        assert drawn.float().mean((1, 2)).tolist() == pytest.approx([0.7, 0.7], abs=0.026)
        assert torch.equal(drawn, _unmasked(queries, 0.3, ImageGenerators([1, 2])))


@torch.no_grad()
def test_parts_of_a_batch_are_joined() -> None:
    pipeline = compose(trainable=True)
    pipeline.segmenter.train()
    output = pipeline.segmenter(images(), rngs=ImageGenerators([1, 2]))
    head = pipeline.head
    whole = head.loss(output, targets(), generator=ImageGenerators([1, 2]))
    counts = head.loss_counts(targets())
    assert counts.keys() == whole.keys()
    joined = dict.fromkeys(whole, 0.0)
    for index in range(2):
        terms = head.loss(output.images([index]), targets()[index : index + 1], generator=ImageGenerators([index + 1]))
        share = head.loss_counts(targets()[index : index + 1])
        joined = {name: joined[name] + float(terms[name]) * share[name] / counts[name] for name in joined}
    # sums of some thousand float32 numbers in another order
    assert joined == pytest.approx({name: float(value) for name, value in whole.items()}, rel=1e-5)


def gradients(segmenter: Segmenter) -> dict[str, Tensor]:
    segmenter.zero_grad()
    segmenter.train()
    rngs = ImageGenerators([1, 2])
    output = segmenter(images(), rngs=rngs)
    torch.stack(list(segmenter.head.loss(output, targets(), generator=rngs).values())).sum().backward()
    return {name: one.grad for name, one in segmenter.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("more", [{"trainable": True}, {"adapter": "lora"}, {"adapter": "rein"}])
def test_checkpointing_leaves_gradients_as_they_are(more: dict[str, Any]) -> None:
    wanted, found = (gradients(compose(annealing=100, grad_checkpointing=on, **more).segmenter) for on in (False, True))
    assert wanted.keys() == found.keys()
    assert any(name.startswith(("backbone", "adapter")) for name in wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)  # the same operations, a second time
    assert wanted["head.query_embed.weight"].any()


@torch.no_grad()
def test_tokens_of_an_adapter_refine_the_image_alone() -> None:
    pipeline = compose(adapter="rein")
    lengths: list[int] = []
    (stage,) = pipeline.adapter.stages.values()
    stage.register_forward_pre_hook(lambda module, inputs: lengths.append(inputs[0].shape[1]))
    pipeline.segmenter(images())
    assert set(lengths) == {SIZE[0] // 16 * SIZE[1] // 16}


class TestPipelines:
    def test_a_saved_pipeline_predicts_the_same(self, tmp_path: Path) -> None:
        pipeline = compose(annealing=10)
        pipeline.head.steps += 3
        pipeline.trained = True
        pipeline.save(tmp_path / "saved")
        loaded = clouds.load(tmp_path / "saved", device="cpu")
        image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
        assert (pipeline.predict(image).scores() == loaded.predict(image).scores()).all()
        assert int(loaded.head.steps) == 3

    @pytest.mark.parametrize("name", ["timm:test_vit", "timm:eva_clouds"])
    @torch.no_grad()
    def test_the_network_is_exported(self, name: str) -> None:
        network = compose(name).as_module()
        expected = network(images())
        captured = torch.export.export(network, (images(),)).module()(images())
        for one, other in zip(captured, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)  # fused float32 operations

    def test_training_resumes_bitwise(self, tmp_path: Path) -> None:
        def stop(phase: str, step: int, steps: int, numbers: dict[str, float]) -> None:
            if (phase, step) == ("joint", 3):
                raise RuntimeError("stopped")

        options = {"trainable": True, "grad_checkpointing": True, "annealing": 8}
        source, generated = write_source(tmp_path / "source"), write_generated(tmp_path / "generated")
        whole = compose(**options)
        before = whole.backbone.trunk.vit.blocks[0].mlp.fc1.weight.clone()
        train(whole, source=source, generated=generated, recipe=recipe(), out=tmp_path / "run")
        assert int(whole.head.steps) == 8
        assert not torch.equal(whole.backbone.trunk.vit.blocks[0].mlp.fc1.weight, before)
        cut = {"source": source, "generated": generated, "recipe": recipe(), "out": tmp_path / "cut"}
        with pytest.raises(clouds.CloudsError, match="stopped"):
            train(compose(**options), **cut, on_step=stop)
        resumed = clouds.load(tmp_path / "cut" / "start", device="cpu", trust=("refiner",))
        train(resumed, resume=tmp_path / "cut")
        one, other = resumed.segmenter.state_dict(), whole.segmenter.state_dict()
        assert [name for name in one if not torch.equal(one[name], other[name])] == []


class TestFaults:
    @pytest.mark.parametrize("name", ["clip-rn50", "clip-convnext-base", "tiny", "timm:resnet18", "timm:convnext_tiny"])
    def test_it_needs_a_plain_vit(self, name: str) -> None:
        with pytest.raises(PlanError, match=r"head: eomt needs .*tokens from the backbone, but .* provides"):
            clouds.plan(backbone=name, head="eomt")

    @pytest.mark.parametrize("name", ["dinov2-large", "dinov3-large", "clip-vit-l-14", "eva02-clip-l-14"])
    def test_every_plain_vit_will_do(self, name: str) -> None:
        clouds.plan(backbone=name, head="eomt")

    def test_a_ready_head_on_another_backbone(self) -> None:
        other = clouds.compose(backbone="tiny", head="linear", pretrained=False, device="cpu").backbone
        with pytest.raises(ConfigError, match="eomt needs a plain ViT, whose blocks map tokens; got TinyBackbone"):
            compose().head.forward_images(images(), other, other)

    def test_more_layers_than_blocks(self) -> None:
        pipeline = compose(layers=99)
        with pytest.raises(ConfigError, match=r"eomt: layers=99, but the backbone has \d+ blocks; set layers lower"):
            pipeline.segmenter(images())

    @pytest.mark.parametrize("options", [{"queries": 0}, {"layers": 0}, {"annealing": -1}])
    def test_numbers_out_of_range(self, options: dict[str, int]) -> None:
        with pytest.raises(ConfigError, match="expected at least 1, 1 and 0"):
            compose(**options)
