"""`check_backbone` fails on a backbone that breaks one clause, and says which."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn
from torch.nn import functional

from clouds import Backbone, Features, FeatureSpec, MaskPooler, TextEncoder
from clouds.testing import ContractError, check_backbone

SPECS = {f"res{i}": FeatureSpec(channels=i, stride=2**i) for i in range(2, 6)}


class Good(Backbone, TextEncoder, MaskPooler):
    """Average colours, spread over the channels; texts and masks are embedded by their lengths and means."""

    def __init__(self, mean: Sequence[float] = (120, 110, 100), std: Sequence[float] = (60, 60, 60)) -> None:
        super().__init__(features=SPECS, mean=mean, std=std)
        self.weight = nn.Parameter(torch.linspace(1, 2, 5))

    def forward(self, images: Tensor) -> Features:
        grey = self.normalize(images).mean(1, keepdim=True)
        levels = {
            name: functional.avg_pool2d(grey, spec.stride) * self.weight[: spec.channels, None, None]
            for name, spec in SPECS.items()
        }
        return Features(**levels, dense=levels["res3"])

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([[float(len(text))] * 3 for text in texts]).reshape(len(texts), 3) * self.weight[:3]

    def pool(self, dense: Tensor, masks: Tensor) -> Tensor:
        inside = (functional.interpolate(masks, dense.shape[-2:], mode="bilinear") > 0).float()
        area = inside.sum((-2, -1)).clamp(min=1)
        return torch.einsum("bchw,bqhw->bqc", dense, inside) / area[..., None]


class WrongSize(Good):
    def forward(self, images: Tensor) -> Features:
        features = super().forward(images)
        return evolve(features, res4=features.res4[..., :-1, :])


class SwappedAxes(Good):
    def forward(self, images: Tensor) -> Features:
        features = super().forward(images)
        return evolve(features, res2=features.res2.transpose(-1, -2))


class WrongChannels(Good):
    def forward(self, images: Tensor) -> Features:
        features = super().forward(images)
        return evolve(features, res5=features.res5[:, :3])


class WrongType(Good):
    def forward(self, images: Tensor) -> Features:
        features = super().forward(images)
        return evolve(features, res3=features.res3.double())


class NotATensor(Good):
    def forward(self, images: Tensor) -> Features:
        return evolve(super().forward(images), res3=None)


class NotFinite(Good):
    def forward(self, images: Tensor) -> Features:
        features = super().forward(images)
        return evolve(features, res3=features.res3 / 0)


class NotFeatures(Good):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images).levels()


class NoDense(Good):
    def forward(self, images: Tensor) -> Features:
        return evolve(super().forward(images), dense=None)


class BatchNormalised(Good):
    def forward(self, images: Tensor) -> Features:
        return super().forward(images - images.mean(0))


class Noisy(Good):
    def forward(self, images: Tensor) -> Features:
        return super().forward(images + torch.rand_like(images))


class OwnNormalisation(Good):
    def normalize(self, images: Tensor) -> Tensor:
        return images / 127.5 - 1


class Thawing(Good):
    def train(self, mode: bool = True) -> Any:
        return nn.Module.train(self, mode)


class Reawakened(Good):
    def requires_grad_(self, requires_grad: bool = True) -> Any:
        return self


class ForgetfulTrain(Good):
    def train(self, mode: bool = True) -> Any:
        super().train(mode)


class ForgetfulFreeze(Good):
    def freeze(self) -> Any:
        super().freeze()


class LooseTensor(Good):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones(3)


class SharedWeights(Good):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(2, 5)
        self.again.bias = self.weight


class NoEmptyText(Good):
    def embed_text(self, texts: Sequence[str]) -> Tensor:
        return super().embed_text(texts) if texts else torch.zeros(0)


class TextsTogether(Good):
    def embed_text(self, texts: Sequence[str]) -> Tensor:
        return super().embed_text(texts) * len(texts)


class EmptyMaskIsNan(Good):
    def pool(self, dense: Tensor, masks: Tensor) -> Tensor:
        inside = (functional.interpolate(masks, dense.shape[-2:]) > 0).float()
        return torch.einsum("bchw,bqhw->bqc", dense, inside) / inside.sum((-2, -1))[..., None]


class AnotherSpace(Good):
    def pool(self, dense: Tensor, masks: Tensor) -> Tensor:
        return super().pool(dense, masks)[..., :2]


class MasksTogether(Good):
    def pool(self, dense: Tensor, masks: Tensor) -> Tensor:
        return super().pool(dense, masks).cumsum(1)


def test_a_good_backbone_passes_and_stays_as_it_was() -> None:
    backbone = Good().train()
    check_backbone(backbone)
    assert backbone.training
    assert backbone.weight.requires_grad
    assert not backbone.frozen


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            WrongSize,
            r"WrongSize: res4 of a 32 x 32 image must be a torch.float32 tensor of shape \(2, 4, 2, 2\); got .*",
        ),
        (
            SwappedAxes,
            r"res2 of a 64 x 96 image must be .* of shape \(2, 2, 16, 24\); got .* of shape \(2, 2, 24, 16\)",
        ),
        (WrongChannels, r"res5 of a 32 x 32 image must be .* \(2, 5, 1, 1\); got .* \(2, 3, 1, 1\)"),
        (WrongType, r"res3 of .* must be a torch.float32 tensor .*; got torch.float64"),
        (NotATensor, r"res3 of .* must be a torch.float32 tensor .*; got NoneType"),
        (NotFinite, r"res3 of a 32 x 32 image must be finite"),
        (NotFeatures, r"forward must return clouds.Features; got dict"),
        (NoDense, r"a MaskPooler needs Features.dense; got None"),
        (BatchNormalised, r"res2 of an image must not depend on the batch"),
        (Noisy, r"res2 must be the same when computed twice in eval mode"),
        (OwnNormalisation, r"an image of value `mean` must normalise to exactly 0"),
        (lambda: Good(mean=(1, 2, 999)), r"mean must lie in 0..255 and std be positive.*999"),
        (lambda: Good(std=(1, 0, 1)), r"mean must lie in 0..255 and std be positive"),
        (lambda: Good(std=(1, 1, float("nan"))), r"std must be finite"),
        (Thawing, r"a frozen backbone must stay in eval mode when train\(\) is called"),
        (Reawakened, r"a frozen backbone must have no gradients; got requires_grad: \['weight', 'res2'"),
        (ForgetfulTrain, r"train\(mode\) must return the module itself; got None -> return self"),
        (ForgetfulFreeze, r"freeze\(\) must return the backbone; got None"),
        (LooseTensor, r"tensors must be parameters or buffers.*; got plain attributes \['scale'\]"),
        (SharedWeights, r"weights must survive state_dict, safetensors and load_state_dict; got RuntimeError"),
        (NoEmptyText, r"embed_text of no text must be .* of shape \(0, 3\); got .* \(0,\)"),
        (TextsTogether, r"the embedding of a text must not depend on the others"),
        (EmptyMaskIsNan, r"pool of 3 masks, one of them empty, must be finite"),
        (AnotherSpace, r"pool of 3 masks.* must be .* \(2, 3, 3\); got .* \(2, 3, 2\)"),
        (MasksTogether, r"the embedding of a mask must not depend on other masks or images"),
    ],
)
def test_each_clause_is_checked(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_backbone(build())
