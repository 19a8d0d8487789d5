"""HRDA: context and detail crops of the per-pixel heads."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import clouds
from clouds.core.contract.interfaces import ImageGenerators
from clouds.core.contract.records import Targets
from clouds.core.pipeline.build import build_part
from clouds.core.system.errors import ConfigError
from clouds.testing import check_by_name

TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
LINEAR = {"name": "linear", "width": 8, "detail": 64}
SPECS = {f"res{i + 2}": clouds.FeatureSpec(channels=8 << i, stride=4 << i) for i in range(4)}


def composed(head: object = LINEAR) -> clouds.Pipeline:
    pipeline = clouds.compose(backbone=TINY, head=head, device="cpu")
    pipeline.backbone.eval()
    pipeline.head.eval()
    pipeline.trained = True
    return pipeline


def pictures(count: int, height: int, width: int) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0)) * 255


def up(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear")


def coarse(pipeline: clouds.Pipeline, images: Tensor) -> tuple[Tensor, Tensor]:
    features = pipeline.backbone(functional.interpolate(images, scale_factor=0.5, mode="bilinear"))
    return pipeline.head.head.logits(features), pipeline.head.attention.logits(features).sigmoid()


@torch.no_grad()
def test_inference_slides_and_fuses_as_published() -> None:
    pipeline, images = composed(), pictures(2, 128, 192)
    context, attention = coarse(pipeline, images)
    total, count = torch.zeros(2, 19, 32, 48), torch.zeros(32, 48)
    for y in (0, 32, 64):
        for x in (0, 32, 64, 96, 128):
            part = (slice(y // 4, y // 4 + 16), slice(x // 4, x // 4 + 16))
            crop = images[:, :, y : y + 64, x : x + 64]
            total[:, :, *part] += pipeline.head.head.logits(pipeline.backbone(crop))
            count[part] += 1
    expected = up((1 - attention) * context) + up(attention) * total / count
    found = pipeline.segmenter(images).mask_logits
    # logits are known up to a constant per pixel; sums in the same order
    torch.testing.assert_close(found.softmax(1), expected.softmax(1), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_training_sees_one_detail_window_and_the_context_elsewhere() -> None:
    pipeline, images = composed(), pictures(2, 128, 192)
    output = pipeline.segmenter(images, None, ImageGenerators([3, 4]))
    (detail,) = output.auxiliary
    context, attention = coarse(pipeline, images)
    for index, (rows, columns) in enumerate(detail.windows):
        assert rows.start % 8 == columns.start % 8 == 0
        assert (rows.stop - rows.start, columns.stop - columns.start) == (64, 64)
        crop = images[index : index + 1, :, rows, columns]
        logits = pipeline.head.head.logits(pipeline.backbone(crop))[0]
        torch.testing.assert_close(detail.mask_logits[index], logits, rtol=1e-5, atol=1e-6)
        inserted, mask = torch.zeros(19, 32, 48), torch.zeros(1, 16, 24)
        inserted[:, rows.start // 4 : rows.stop // 4, columns.start // 4 : columns.stop // 4] = logits
        mask[:, rows.start // 8 : rows.stop // 8, columns.start // 8 : columns.stop // 8] = 1
        share = attention[index] * mask
        expected = up(((1 - share) * context[index])[None]) + up(share[None]) * inserted
        found = output.mask_logits[index].softmax(0)
        torch.testing.assert_close(found, expected[0].softmax(0), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_windows_belong_to_the_sample_and_reach_every_place() -> None:
    pipeline, images = composed(), pictures(1, 64, 96)
    seen = {seed: pipeline.segmenter(images, None, ImageGenerators([seed])).auxiliary[0].windows for seed in range(60)}
    two = pipeline.segmenter(images.repeat(2, 1, 1, 1), None, ImageGenerators([7, 5])).auxiliary[0].windows
    assert two == (seen[7][0], seen[5][0])
    # 60 draws of 5 places miss one of them with a probability below 5 * 0.8 ** 60 = 8e-6
    assert {places[0][1].start for places in seen.values()} == {0, 8, 16, 24, 32}


def test_the_loss_weighs_fused_and_detail() -> None:
    pipeline, images = composed({**LINEAR, "detail_weight": 0.25}), pictures(2, 96, 128)
    output = pipeline.segmenter(images, None, ImageGenerators([1, 2]))
    maps = torch.randint(0, 19, (2, 96, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    terms = pipeline.head.loss(output, [Targets.from_label_map(one) for one in maps])
    detail = output.auxiliary[0]
    cropped = torch.stack([one[place] for one, place in zip(maps, detail.windows, strict=True)]).long()
    for name, weight, logits, wanted in (
        ("cross_entropy", 0.75, output.mask_logits, maps.long()),
        ("detail", 0.25, detail.mask_logits, cropped),
    ):
        resized = functional.interpolate(logits, size=wanted.shape[1:], mode="bilinear")
        torch.testing.assert_close(terms[name], weight * functional.cross_entropy(resized, wanted))
    torch.stack(list(terms.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in pipeline.head.parameters())


@pytest.mark.parametrize("size", [(1, 1), (40, 70), (96, 160)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    prediction = composed().predict(image)
    assert (prediction.scores().argmax(0) == prediction.labels).all()


@pytest.mark.parametrize("head", ["linear", "fpn"])
def test_the_contract_holds_with_detail(head: str) -> None:
    check_by_name("head", head, options={"detail": 64})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"detail": 0}, r"head: detail is 0; expected a multiple of 32 pixels"),
        ({"detail": 500}, r"head: detail is 500; expected a multiple of 32 pixels"),
        ({"detail": 64, "detail_weight": 1.5}, r"head: detail_weight is 1\.5; expected 0\.\.1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_part("head", {"name": "fpn", **options}, features=SPECS)
