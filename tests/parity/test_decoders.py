"""Set 5: the three published transformer decoders, their attention masks and gradients."""

from __future__ import annotations

from importlib import import_module

import golden
import numpy as np
import pytest
import torch
from golden import assert_close, randn
from torch import Tensor, nn

from clouds.core.contract.interfaces import TextClassifier
from clouds.heads.layers import Mlp
from clouds.heads.masked_decoder import MaskedDecoder
from clouds.heads.pixel_decoder import PixelFeatures

masked_attention = import_module("clouds.kernels.masked_attention")

SET_5 = 6.4e-7
WIDTH, TEXT, CLASSES, QUERIES = 64, 48, 19, 12
LEVELS = ((5, 7), (10, 13), (19, 26))


def decoder(name: str, *, project_inputs: bool = False) -> MaskedDecoder:
    linear, text = nn.Linear(WIDTH, CLASSES + 1), Mlp(WIDTH, WIDTH, WIDTH, TEXT)
    made = MaskedDecoder(
        class_embed=text if name == "clouds" else linear,
        queries=QUERIES,
        width=WIDTH,
        layers=4,
        heads=8,
        feedforward=128,
        pooled=name != "original",
        text=name == "clouds",
        project_inputs=project_inputs,
    )
    golden.apply_recipe(made)
    return made.train()


def inputs() -> tuple[PixelFeatures, list[Tensor]]:
    levels = [randn(511 + i, (2, WIDTH, *size)).requires_grad_() for i, size in enumerate(LEVELS)]
    offset = randn(520, (WIDTH,), 2.5)
    mask_features = (randn(521, (2, WIDTH, 37, 51)) + offset[None, :, None, None]).requires_grad_()
    return PixelFeatures(mask_features=mask_features, levels=tuple(levels)), [mask_features, *levels]


def classifier(embeddings: np.ndarray) -> TextClassifier:
    """The stored embeddings end with "no object"; the decoder takes it as one more class."""
    counts = [*golden.read_json("05_decoders")["num_templates"], 1]
    return TextClassifier(
        embeddings=torch.from_numpy(embeddings),
        class_of=torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)),
        seen=torch.ones(len(counts), dtype=torch.bool),
        logit_scale=1.0,
    )


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("name", ["original", "bis", "clouds"])
def test_predictions_of_every_layer(name: str, projected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    data = golden.load(f"05_decoder_{name}{'_inputproj' if projected else ''}")
    seen: list[Tensor] = []
    make = masked_attention.attention_mask
    monkeypatch.setattr(masked_attention, "attention_mask", lambda logits: (seen.append(logits), make(logits))[1])
    made = decoder(name, project_inputs=projected)
    pixels, _ = inputs()
    words = classifier(data["text_classifier"]) if name == "clouds" else None
    output = made(pixels, words)
    for index, layer in enumerate((*output.auxiliary, output)):
        assert_close(layer.class_logits, data[f"pred_logits_{index}"], floor=SET_5, what=f"classes {index}")
        if f"pred_masks_{index}" in data:
            assert_close(layer.mask_logits, data[f"pred_masks_{index}"], floor=SET_5, what=f"masks {index}")
    heads = 8  # the published counts are of rows per head
    empty = [heads * int((logits < 0).all(-1).sum()) for logits in seen]
    assert empty == golden.read_json("05_decoders")[f"fully_masked_rows_{name}_inputproj{int(projected)}"]
    for index, logits in enumerate(seen):
        blocked, expected = logits.detach().numpy() < 0, data[f"attn_mask_{index}"]
        certain = np.abs(logits.detach().numpy()) > 1e-5  # 10 x noise floor x magnitude: such a logit may flip
        assert np.array_equal(blocked[certain], expected[certain])
        assert certain.mean() > 0.999


@pytest.mark.parametrize("name", ["original", "bis", "clouds"])
def test_evaluation_gives_the_last_prediction(name: str) -> None:
    """Evaluation takes the short way: no predictions in between, masks of layers from resized features."""
    data = golden.load(f"05_decoder_{name}")
    words = classifier(data["text_classifier"]) if name == "clouds" else None
    output = decoder(name).eval()(inputs()[0], words)
    assert output.auxiliary == ()
    assert_close(output.class_logits, data["pred_logits_4"], floor=SET_5)
    assert_close(output.mask_logits, data["pred_masks_4"], floor=SET_5)


@pytest.mark.parametrize("name", ["original", "bis", "clouds"])
def test_gradients(name: str) -> None:
    """No floor is given for gradients: 1e-4 of the largest magnitude; norms of all parameters as well."""
    data, norms = golden.load("05_decoder_grads"), golden.read_json("05_decoder_grads")["norms"][name]
    words = classifier(golden.load("05_decoder_clouds")["text_classifier"]) if name == "clouds" else None
    made = decoder(name)
    pixels, leaves = inputs()
    output = made(pixels, words)
    scalar = torch.zeros(())
    for index, layer in enumerate((*output.auxiliary, output)):
        classes, masks = layer.class_logits, layer.mask_logits
        scalar = scalar + (classes * randn(560 + index, tuple(classes.shape))).sum()
        scalar = scalar + (masks * randn(570 + index, tuple(masks.shape))).sum() / masks.numel() ** 0.5
    assert_close(scalar, data[f"{name}_scalar"], floor=1e-5)
    scalar.backward()
    assert_close(leaves[0].grad[:, :, ::2, ::2], data[f"{name}_grad_mask_features_stride2"], floor=1e-5)
    whole = leaves[0].grad
    stats = torch.stack((whole.mean(), whole.std(correction=0), whole.abs().max()))
    assert_close(stats, data[f"{name}_grad_mask_features_stats"], floor=1e-5)
    for index, level in enumerate(leaves[1:]):
        assert_close(level.grad, data[f"{name}_grad_x{index}"], floor=1e-5, what=f"level {index}")
    gradients = {key: parameter.grad for key, parameter in made.named_parameters()}
    assert gradients.keys() == norms.keys()
    for key, gradient in gradients.items():
        assert gradient.norm().item() == pytest.approx(norms[key], rel=1e-4), key
        if f"{name}_grad/{key}" in data:
            assert_close(gradient, data[f"{name}_grad/{key}"], floor=1e-5, what=key)


@pytest.mark.parametrize("name", ["original", "bis", "clouds"])
def test_the_decoders_have_the_published_keys(name: str) -> None:
    published = golden.read_json("05_decoders")[f"state_dict_{name}"]
    assert {key: list(value.shape) for key, value in decoder(name).state_dict().items()} == published
