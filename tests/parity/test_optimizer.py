"""Set 10: which parameters the published optimizer decays."""

import golden
import torch
from attrs import evolve

from clouds.core.contract.component import FeatureSpec
from clouds.core.pipeline.build import build_part
from clouds.training.optimizer import build_optimizer
from clouds.training.recipe import load_recipe

RN50 = {f"res{i + 2}": FeatureSpec(channels=256 << i, stride=4 << i) for i in range(4)}


def test_groups_of_the_rn50_warm_up() -> None:
    """The published code has one group per parameter, ours one per weight decay. `void_embedding` gets no gradient."""
    table = golden.read_json("10_param_groups_rn50_warmup")
    with torch.device("meta"):
        head = build_part("head", "mask2former", features=RN50)
    names = {parameter: f"sem_seg_head.{name}" for name, parameter in head.named_parameters()}
    optimizer = build_optimizer({"head": head}, evolve(load_recipe("gta-r50").optimizer, lr=table["base_lr"]))
    found = {
        names[parameter]: [group["lr"], group["weight_decay"], list(parameter.shape)]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found == {name: facts for name, *facts in table["rows"] if name != "void_embedding.weight"}
