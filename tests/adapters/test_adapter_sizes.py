"""An adapter is a small part of a ViT-L: less than 5 % of the backbone that it adapts."""

import pytest
import timm
import torch
from adapter_helpers import adapter

from clouds.backbones.blocks import vit_blocks


class Trunk:
    """The blocks of a ViT-L without memory for its weights."""

    def __init__(self) -> None:
        with torch.device("meta"):
            self.vit = timm.create_model("vit_large_patch14_dinov2")
        self.blocks = vit_blocks(self.vit)


@pytest.mark.parametrize("name", ["rein", "lora", "soma"])
def test_adapters_of_a_vit_l_are_below_five_percent(name: str) -> None:
    trunk = Trunk()
    with torch.device("meta"):
        made = adapter(name, trunk, queries=(100, 256))
    size, whole = (sum(value.numel() for value in one.state_dict().values()) for one in (made, trunk.vit))
    assert whole > 3e8
    assert 0.005 < size / whole < 0.05
