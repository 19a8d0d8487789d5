"""Parameter groups by name, layer-wise decay, and schedules against torch's."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.optim import lr_scheduler
from training_helpers import compose

from clouds.backbones.vit import VitPyramid
from clouds.core.system.errors import ConfigError
from clouds.training.optimizer import build_optimizer, build_schedule, lr_factor
from clouds.training.optimizer_config import GroupConfig, OptimizerConfig

STEPS, BLOCKS = 20, 3


def tiny_vit() -> VitPyramid:
    return VitPyramid(VisionTransformer(img_size=32, embed_dim=8, depth=BLOCKS, num_heads=2, reg_tokens=1), layers=None)


def modules(backbone: nn.Module | None = None) -> dict[str, nn.Module]:
    pipeline = compose()
    return {"backbone": backbone or pipeline.backbone, "head": pipeline.head}


def factors(trained: dict[str, nn.Module], **settings: object) -> dict[str, tuple[float, float]]:
    """(learning rate, weight decay) by full parameter name, with both bases 1."""
    optimizer = build_optimizer(trained, OptimizerConfig(lr=1, weight_decay=1, **settings))
    names = {p: f"{name}.{key}" for name, module in trained.items() for key, p in module.named_parameters()}
    return {names[p]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}


def test_the_first_pattern_that_matches_decides() -> None:
    groups = (
        GroupConfig(match="backbone.trunk.*.bias", decay=0),
        GroupConfig(match="backbone.*", lr=0.1),
        GroupConfig(match="*.bias", lr=2, decay=0.5),
    )
    plain, found = factors(modules()), factors(modules(), groups=groups)
    assert plain.keys() == found.keys()
    for name, (lr, decay) in plain.items():
        if name.startswith("backbone."):
            expected = (lr, 0.0) if name.endswith(".bias") else (0.1 * lr, decay)
        else:
            expected = (2 * lr, 0.5 * decay) if name.endswith(".bias") else (lr, decay)
        assert found[name] == expected, name


def test_without_groups_there_are_the_decayed_parameters_then_the_others() -> None:
    """Checkpoints hold the optimizer's state by position."""
    trained = modules()
    optimizer = build_optimizer(trained, OptimizerConfig())
    positions = [p for group in optimizer.param_groups for p in group["params"]]
    order = {p: index for index, p in enumerate(p for module in trained.values() for p in module.parameters())}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0]
    for group in optimizer.param_groups:
        assert [order[p] for p in group["params"]] == sorted(order[p] for p in group["params"])
    assert len(positions) == len({id(p) for p in positions})


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["bakbone.*"], r"'bakbone\.\*' matches no trained parameter; did you mean 'backbone\.\*'\?"),
        (["head.clasify.weight"], r"matches no trained parameter; did you mean 'head\.classify\.weight'\?"),
        (
            ["head.*", "head.classify.*"],
            r"'head\.classify\.\*' decides nothing, because patterns before it match all .* list it earlier",
        ),
    ],
)
def test_a_pattern_that_decides_nothing_is_an_error(patterns: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^optimizer\.groups: .*{message}"):
        factors(modules(), groups=tuple(GroupConfig(match=pattern) for pattern in patterns))


class Table(nn.Module):
    """Names as in Swin, and in adapters that learn tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.learnable_tokens = nn.Parameter(torch.zeros(4, 8))
        self.linear = nn.Linear(8, 8)


def test_tokens_positions_and_tables_are_not_decayed_when_asked() -> None:
    trained = {"backbone": tiny_vit(), "adapter": Table()}
    tokens = {"backbone.vit.cls_token", "backbone.vit.reg_token", "backbone.vit.pos_embed"}
    tokens |= {"adapter.relative_position_bias_table", "adapter.learnable_tokens"}
    norms = {f"backbone.vit.{name}.{kind}" for name in ["norm"] for kind in ("weight", "bias")}
    norms |= {
        f"backbone.vit.blocks.{block}.norm{index}.{kind}"
        for block in range(BLOCKS)
        for index in (1, 2)
        for kind in ("weight", "bias")
    }

    def plain(**settings: object) -> set[str]:
        return {name for name, (_, decay) in factors(trained, **settings).items() if not decay}

    assert plain(decay_tokens=False) == tokens | norms
    assert plain() == norms


def test_layer_decay_has_the_factors_of_beit() -> None:
    """Bao et al., ICLR 2022, as their `get_num_layer_for_vit`: 0 for embeddings, i + 1 for block i, N + 1 for the
    rest, and a factor of `layer_decay ** (N + 1 - layer)`."""
    found = factors(modules(tiny_vit()), layer_decay=0.5)
    lr = {name: factor for name, (factor, _) in found.items()}
    for name, factor in lr.items():
        layer = BLOCKS + 1
        if "blocks." in name:
            layer = int(name.split("blocks.")[1].split(".")[0]) + 1
        elif any(word in name for word in ("cls_token", "reg_token", "pos_embed", "patch_embed")):
            layer = 0
        assert factor == 0.5 ** (BLOCKS + 1 - layer), name
    assert sorted(set(lr.values())) == [0.5**4, 0.5**3, 0.5**2, 0.5, 1]
    assert lr["backbone.vit.norm.weight"] == 1


def test_layer_decay_counts_frozen_blocks_too_and_is_multiplied_with_groups() -> None:
    vit = tiny_vit()
    vit.requires_grad_(False)
    vit.vit.blocks[-1].requires_grad_(True)
    found = factors(modules(vit), layer_decay=0.5, groups=(GroupConfig(match="backbone.*", lr=0.1),))
    assert {lr for name, (lr, _) in found.items() if name.startswith("backbone.")} == {0.5 * 0.1}


def test_layer_decay_needs_trained_blocks() -> None:
    with pytest.raises(
        ConfigError, match=r"layer_decay is 0\.9, but TinyBackbone has 4 lists of blocks; .*set it to 1"
    ):
        factors(modules(), layer_decay=0.9)
    with pytest.raises(ConfigError, match=r"layer_decay is 0\.9, but no block of the backbone is trained"):
        factors(modules(tiny_vit().requires_grad_(False)), layer_decay=0.9)


def rates(optimizer: torch.optim.Optimizer, schedule: lr_scheduler.LRScheduler) -> list[float]:
    found = []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[-1]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("lr_warmup", [0, 6])
@pytest.mark.parametrize(
    ("settings", "peer"),
    [
        ({"schedule": "constant"}, lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
        ({"schedule": "poly"}, lambda o: lr_scheduler.PolynomialLR(o, total_iters=STEPS, power=0.9)),
        ({"schedule": "poly", "power": 1.0}, lambda o: lr_scheduler.PolynomialLR(o, total_iters=STEPS, power=1.0)),
        ({"schedule": "cosine"}, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=STEPS)),
        (
            {"schedule": "step", "milestones": (0.5, 0.75), "gamma": 0.1},
            lambda o: lr_scheduler.MultiStepLR(o, milestones=[10, 15], gamma=0.1),
        ),
    ],
)
def test_schedules_are_those_of_torch(settings: dict, peer, lr_warmup: int) -> None:
    config = OptimizerConfig(lr=0.2, lr_warmup=lr_warmup, groups=(GroupConfig(match="m.weight", lr=0.5),), **settings)
    ours = build_optimizer({"m": nn.Linear(2, 2)}, config)
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    chain = [peer(theirs)]
    if lr_warmup:
        chain.append(lr_scheduler.LinearLR(theirs, start_factor=1e-6, total_iters=lr_warmup))
    expected = rates(theirs, lr_scheduler.ChainedScheduler(chain))
    # torch multiplies the rate of the step before: two roundings a step, near 0 relative to the first rate
    assert rates(ours, build_schedule(ours, config, steps=STEPS)) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_the_default_steps_are_those_of_mask2former() -> None:
    """Released COCO configuration: 368,750 steps, a tenth from 327,778 and from 355,092; a share has three digits."""
    config = OptimizerConfig(schedule="step")
    first = next(step for step in range(368_750) if lr_factor(step, config, steps=368_750) < 0.5)
    assert first == pytest.approx(327_778, abs=0.001 * 368_750)
    assert lr_factor(355_500, config, steps=368_750) == pytest.approx(0.01)


def test_sgd_is_torchs_with_momentum() -> None:
    optimizer = build_optimizer(modules(), OptimizerConfig(name="sgd", lr=0.1, momentum=0.8))
    assert isinstance(optimizer, torch.optim.SGD)
    assert {(group["lr"], group["momentum"], group["nesterov"]) for group in optimizer.param_groups} == {
        (0.1, 0.8, False)
    }
