"""SAM of segment-anything's own classes, small or without memory for its weights."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from segment_anything import SamPredictor, sam_model_registry

from clouds.core.contract.plan import PlanError
from clouds.core.pipeline.build import build_part
from clouds.core.system.errors import WeightsError
from clouds.core.weights.catalog import SAM
from clouds.core.weights.tensor_cache import TensorCache
from clouds.refiners.presets import sam as preset
from clouds.refiners.prompted import PromptRefiner
from clouds.refiners.sam import SamModel, SamSegmenter, build_sam
from clouds.refiners.sam_decoder import predict_masks
from clouds.testing.refiner import check_refiner
from clouds.testing.tiny_sam import tiny_sam

SIDE = 64  # of the small network's input


@pytest.fixture(scope="module")
def segmenter() -> SamSegmenter:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SamSegmenter(tiny_sam(image_size=SIDE))


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=drawn)


def stripes(height: int, width: int, count: int) -> torch.Tensor:
    """`count` components of as many classes, 19 at most, side by side."""
    return (torch.arange(width) * count // width).to(torch.uint8).expand(height, width).contiguous()


@pytest.mark.parametrize("refinement", [False, True])
def test_the_contract(segmenter: SamSegmenter, refinement: bool) -> None:
    check_refiner(PromptRefiner(segmenter, size_threshold=20, refinement=refinement))


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (100, 37), (1, 200)])
def test_masks_are_those_of_the_predictor(segmenter: SamSegmenter, size: tuple[int, int]) -> None:
    """segment-anything's own predictor, prompt by prompt, and with its mask as a part of the next prompt."""
    image = picture(*size)
    points = torch.rand(4, 3, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor(size[::-1])
    predictor, given = SamPredictor(segmenter.sam), torch.zeros(4, 1, SIDE // 4, SIDE // 4)
    with torch.no_grad():
        embedding = segmenter.encode(image)
        first = segmenter.decode(embedding, points, size)
        second = segmenter.decode(embedding, points, size, given)
        if min(size) == 1:  # there its own resizing fails
            assert segmenter.upscale(first[0][:, :1], size).shape == (4, 1, *size)
            return
        predictor.set_image(image.permute(1, 2, 0).numpy())
        for index, prompt in enumerate(points.numpy()):
            for (logits, quality), mask in ((first, None), (second, given[index].numpy())):
                masks, iou, low = predictor.predict(prompt, np.ones(3), mask_input=mask)
                torch.testing.assert_close(logits[index], torch.from_numpy(low), rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(quality[index], torch.from_numpy(iou), rtol=1e-4, atol=1e-5)
                ours = torch.cat([segmenter.upscale(one, size) for one in logits[index : index + 1].split(1, 1)], 1)
                assert ((ours[0] > 0).numpy() == masks).mean() > 0.999  # a logit of nearly 0 may fall on either side


@pytest.mark.parametrize("shared", [True, False])
def test_the_decoder_answers_as_segment_anything(segmenter: SamSegmenter, shared: bool) -> None:
    """Sums are made in another order; about 1e-6 of the largest value was seen."""
    generator = torch.Generator().manual_seed(0)
    image, prompts = (torch.randn(shape, generator=generator) for shape in ((1, 32, 4, 4), (5, 4, 32)))
    dense = torch.randn(1 if shared else 5, 32, 4, 4, generator=generator)
    decoder, position = segmenter.sam.mask_decoder, segmenter.sam.prompt_encoder.get_dense_pe()
    with torch.no_grad():
        expected = decoder(image, position, prompts, dense.expand(5, -1, -1, -1), multimask_output=True)
        masks, quality = predict_masks(decoder, image + dense, position, prompts)
    torch.testing.assert_close(masks, expected[0], rtol=0, atol=1e-5 * float(expected[0].abs().max()))
    torch.testing.assert_close(quality, expected[1], rtol=0, atol=1e-5 * float(expected[1].abs().max()))


@pytest.mark.parametrize("batch_size", [1, 7, 19])
def test_batches_give_the_same_masks(segmenter: SamSegmenter, batch_size: int) -> None:
    label_map = stripes(48, 64, 19)
    whole, parts = (
        PromptRefiner(segmenter, size_threshold=0, batch_size=size, overlaps="keep").refine(
            [picture(48, 64)], [label_map], rngs=[np.random.default_rng(0)]
        )[0]
        for size in (64, batch_size)
    )
    assert whole.labels.equal(parts.labels)
    assert (whole.masks == parts.masks).float().mean() > 0.999  # a logit of nearly 0 may fall on either side


def test_the_second_epoch_costs_the_mask_decoder_alone(segmenter: SamSegmenter, tmp_path: Path) -> None:
    """Two images with 20 prompts each, all in one batch."""
    images = [picture(48, 64, seed) for seed in (0, 1)]
    label_map = stripes(48, 64, 10)
    label_map[24] = 255
    counts = {"encoder": 0, "decoder": 0}
    hooks = [
        segmenter.sam.image_encoder.register_forward_hook(lambda *_: counts.update(encoder=counts["encoder"] + 1)),
        segmenter.sam.prompt_encoder.register_forward_hook(lambda *_: counts.update(decoder=counts["decoder"] + 1)),
    ]
    refiner = PromptRefiner(
        segmenter, size_threshold=0, batch_size=20, cache=TensorCache(tmp_path, max_bytes=10**6), overlaps="keep"
    )
    epochs = []
    for wanted in (2, 2):
        rngs = [np.random.default_rng(number) for number in range(2)]
        epochs.append(refiner.refine(images, [label_map] * 2, rngs=rngs))
        assert counts["encoder"] == wanted
    assert counts["decoder"] == 4
    for first, second in zip(*epochs, strict=True):
        assert first.masks.equal(second.masks)
    for hook in hooks:
        hook.remove()


def test_kept_embeddings_change_few_pixels(segmenter: SamSegmenter, tmp_path: Path) -> None:
    """float16 has 11 bits, so that embeddings move by 5e-4 of their size, and so do logits; few are that near to 0."""
    refined = [
        PromptRefiner(segmenter, size_threshold=0, overlaps="keep", cache=cache).refine(
            [picture(48, 64)], [stripes(48, 64, 6)], rngs=[np.random.default_rng(0)]
        )[0]
        for cache in (None, TensorCache(tmp_path, max_bytes=10**6))
    ]
    assert (refined[0].masks == refined[1].masks).float().mean() > 0.98


@pytest.mark.parametrize("model", get_args(SamModel))
def test_published_sizes_are_built(model: SamModel) -> None:
    """Parameters in millions, as published: 91, 308, 636 (ViT encoders) and 4 more."""
    with torch.device("meta"):
        refiner: Any = build_part("refiner", f"sam-vit-{model[-1]}", pretrained=False)
    count = sum(parameter.numel() for parameter in refiner.parameters())
    assert round(count / 1e6) == {"vit_b": 94, "vit_l": 312, "vit_h": 641}[model]


def test_options_reach_the_refiner(tmp_path: Path) -> None:
    options = {"points": 7, "selection": "center", "erosion": 3, "overlaps": "any", "cache": str(tmp_path)}
    with torch.device("meta"):
        refiner: Any = build_part("refiner", {"name": "sam-vit-b", **options, "cache_bytes": 5}, pretrained=False)
    chosen = refiner.options
    assert (chosen.points, chosen.selection, chosen.erosion, chosen.overlaps) == (7, "center", 3, "any")
    assert (refiner.cache.folder, refiner.cache.max_bytes) == (tmp_path, 5)
    with pytest.raises(PlanError, match="option selection='middle' is not of type"):
        build_part("refiner", {"name": "sam-vit-b", "selection": "middle"}, pretrained=False)


def test_weights_come_from_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sam_model_registry, "vit_b", lambda: tiny_sam(image_size=SIDE))
    state = tiny_sam(image_size=SIDE).state_dict()
    torch.save(state, tmp_path / "own.pth")
    save_file(state, tmp_path / "own.safetensors")
    for name in ("own.pth", "own.safetensors"):
        loaded = build_sam("vit_b", pretrained=tmp_path / name).sam.state_dict()
        assert all(torch.equal(loaded[key], state[key]) for key in state)
    state.pop("mask_decoder.iou_token.weight")
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(WeightsError, match=r"less.pth does not fit Sam: 1 missing keys: mask_decoder.iou_token"):
        build_sam("vit_b", pretrained=tmp_path / "less.pth")


def test_a_file_with_a_published_name_must_have_its_hash(tmp_path: Path) -> None:
    damaged = tmp_path / SAM["vit_h"].file
    damaged.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"sam_vit_h_4b8939.pth: sha256 is \w{64}, expected a7bf3b02f3ebf"):
        preset(model="vit_h", pretrained=damaged)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pth: no such weight file"):
        build_sam("vit_b", pretrained=tmp_path / "none.pth")


def test_published_weights_come_from_the_folder_for_machines_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / SAM["vit_b"].file).write_bytes(b"damaged")
    monkeypatch.setenv("CLOUDS_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match=rf"{tmp_path}/sam_vit_b_01ec64.pth: sha256 is .*the file is not used"):
        build_sam("vit_b", pretrained=True)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_bfloat16_changes_few_pixels(segmenter: SamSegmenter, device: str) -> None:
    """bfloat16 has 8 bits: logits move by some per cent of their size, and the masks of random weights are noisy."""
    images, label_maps = [picture(48, 64).to(device)], [stripes(48, 64, 6).to(device)]
    refined = [
        PromptRefiner(segmenter.to(device), size_threshold=0, overlaps="keep", dtype=dtype).refine(
            images, label_maps, rngs=[np.random.default_rng(0)]
        )[0]
        for dtype in (None, "bfloat16")
    ]
    segmenter.to("cpu")
    assert refined[1].masks.device.type == device
    assert (refined[0].masks == refined[1].masks).float().mean() > 0.9
