from collections.abc import Callable

import pytest
import timm
import torch
from open_clip.transformer import TextTransformer as OpenClipText
from torch import nn

import clouds
from clouds.backbones.convnext import ConvNeXt
from clouds.backbones.text_transformer import TextTransformer
from clouds.core.pipeline.build import build_part
from clouds.core.system.errors import ConfigError, DataError

SMALL = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}


def test_frozen_means_eval_mode_for_ever_and_no_gradient() -> None:
    backbone = build_part("backbone", SMALL)
    assert backbone.train() is backbone
    assert not any(module.training for module in backbone.modules())
    features = backbone(torch.rand(1, 3, 64, 64) * 255)
    assert not features.res2.requires_grad


def test_trainable_trains_the_trunk_and_never_the_text_tower() -> None:
    backbone = build_part("backbone", {**SMALL, "trainable": True}).train()
    backbone(torch.rand(1, 3, 64, 64) * 255).res5.sum().backward()
    trained = {name.split(".")[0] for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert trained == {"trunk"}
    assert not backbone.text.training
    assert backbone.trunk.training


def test_pooling_is_the_mean_under_the_mask() -> None:
    backbone = build_part("backbone", SMALL)
    dense = torch.randn(1, 32, 4, 6)
    masks = torch.full((1, 2, 4, 6), -1.0)
    masks[0, 0, 1, 2:4] = 1.0
    pooled = backbone.pool(dense, masks)
    expected = backbone.projection(dense[0, :, 1, 2:4].mean(1))
    torch.testing.assert_close(pooled[0, 0], expected)
    torch.testing.assert_close(pooled[0, 1], backbone.projection.bias)  # an empty mask pools nothing


def test_texts_are_embedded_one_by_one_and_order_matters() -> None:
    backbone = build_part("backbone", SMALL).double()
    both = backbone.embed_text(["a red car", "car red a"])
    # Another batch size adds up to 128 terms in another order: some hundred float64 roundings of values near 1.
    torch.testing.assert_close(both[:1], backbone.embed_text(["a red car"]), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(both[0], both[1], atol=1e-3)


def test_the_trunk_is_no_part_of_what_texts_depend_on() -> None:
    backbone = build_part("backbone", SMALL)
    assert {key.split(".")[0] for key in backbone.text_weights()} == {"text"}


def test_other_sizes_are_refused() -> None:
    with pytest.raises(DataError, match="images are 32 x 31 pixels"):
        build_part("backbone", SMALL)(torch.zeros(1, 3, 32, 31))


def test_strides_are_part_of_the_contract() -> None:
    from clouds.core.contract.interfaces import Backbone

    class Wrong(Backbone):
        def forward(self, images: torch.Tensor) -> clouds.Features: ...

    with pytest.raises(ConfigError, match=r"Wrong: feature strides are \{'res2': 8\}; expected"):
        Wrong(features={"res2": clouds.FeatureSpec(channels=1, stride=8)}, mean=(0, 0, 0), std=(1, 1, 1))


def build_both(ours: Callable[[], nn.Module], theirs: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    """Two modules from the same seed; as many numbers are drawn for each."""
    built = []
    for build in (ours, theirs):
        torch.manual_seed(3)
        built.append((build().eval(), torch.rand(1)))
    assert torch.equal(built[0][1], built[1][1])
    return built[0][0], built[1][0]


def assert_same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for (name, mine), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(mine, other), name


def test_the_trunk_is_timms() -> None:
    """Names, initial weights and maps: seeds and saved pipelines mean what they meant."""
    dims, depths = (8, 16, 24, 32), (1, 2, 1, 1)
    ours, theirs = build_both(
        lambda: ConvNeXt(dims, depths),
        lambda: timm.create_model(
            "convnext_atto", features_only=True, out_indices=[0, 1, 2, 3], dims=dims, depths=depths
        ),
    )
    assert_same_weights(ours, theirs)
    images = torch.randn(2, 3, 64, 96)
    for mine, other in zip(ours(images), theirs(images), strict=True):
        assert torch.equal(mine, other)
        assert mine.stride() == other.stride()


def test_the_text_tower_is_open_clips() -> None:
    ours, theirs = build_both(
        lambda: TextTransformer(context=8, vocabulary=50, width=16, heads=2, layers=2, outputs=12),
        lambda: OpenClipText(context_length=8, vocab_size=50, width=16, heads=2, layers=2, output_dim=12),
    )
    assert_same_weights(ours, theirs)
    tokens = torch.randint(50, (5, 8))
    assert torch.equal(ours(tokens), theirs(tokens))
