"""Diffusion pipelines of the published classes with small random weights, for tests and `pretrained=False`."""

# pyright: reportPrivateImportUsage=false, reportArgumentType=false
# (diffusers is only partly typed, and exports lazily)

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

_WIDTH = 32  # of text embeddings
_TIME = 8  # width of each of SDXL's six size conditions


def tiny_pipeline(family: str) -> Any:
    """A pipeline of 0.3 million parameters for meaningless images; weights are the same at every call.

    Args:
        family: "stable-diffusion-2" or "sdxl".
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _tiny_xl() if family == "sdxl" else _tiny_sd()


def tiny_control(unet: UNet2DConditionModel) -> Any:
    """A ControlNet with random weights for a tiny denoiser; weights are the same at every call.

    Its outputs are not zero, as those of a fresh ControlNet are, so that the control image has an effect.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 16, 16))
        for part in (control.controlnet_cond_embedding.conv_out, control.controlnet_down_blocks):
            for weights in part.parameters():
                torch.nn.init.normal_(weights, std=0.2)
    return control.eval()


def _tiny_sd() -> StableDiffusionPipeline:
    tokenizer = _tokenizer()
    return StableDiffusionPipeline(
        vae=_autoencoder(),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=_unet(cross_attention_dim=_WIDTH),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _tiny_xl() -> StableDiffusionXLPipeline:
    tokenizer = _tokenizer()
    return StableDiffusionXLPipeline(
        vae=_autoencoder(),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer)),
        tokenizer=tokenizer,
        tokenizer_2=_tokenizer(),
        unet=_unet(
            cross_attention_dim=2 * _WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=_TIME,
            projection_class_embeddings_input_dim=_WIDTH + 6 * _TIME,
        ),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1),
        add_watermarker=False,
    )


def _unet(**options: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **options,
    )


def _autoencoder() -> AutoencoderKL:
    """An autoencoder with stride 8, like the published ones."""
    return AutoencoderKL(
        sample_size=64,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
    )


def _text_config(tokenizer: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        projection_dim=_WIDTH,
        intermediate_size=2 * _WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _tokenizer() -> Any:
    """CLIP's tokenizer with a vocabulary of bytes: a token per byte."""
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)
