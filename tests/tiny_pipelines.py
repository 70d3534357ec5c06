"""Pipelines of diffusers with tiny networks of random weights: SD1, SDXL, Flux, Z-Image and Qwen-Image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import nn

TOKENS = 24
LETTERS = ["<pad>", *map(chr, range(32, 127)), "<end>"]
CHAT = "{% for message in messages %}letters: {{ message['content'] }}{% endfor %}"
WIDTH = 16


def tokenizer() -> Any:
    """A token for each letter."""
    letters = Tokenizer(models.WordLevel({letter: number for number, letter in enumerate(LETTERS)}, unk_token="<pad>"))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=letters, pad_token="<pad>", eos_token="<end>", unk_token="<pad>", model_max_length=TOKENS
    )
    made.chat_template = CHAT
    return made


def lively(network: nn.Module) -> nn.Module:
    """Some networks begin with layers of zeros; these answer to their inputs."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            is_scale = "norm" in name and name.endswith("weight")
            parameter.normal_(float(is_scale), 0.5 / max(parameter[0].numel(), 1) ** 0.5 if parameter.ndim > 1 else 0.1)
    return network.eval().requires_grad_(False)


def kl(channels: int, scale: float, shift: float | None = None) -> Any:
    made = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=2,
        sample_size=32,
        scaling_factor=scale,
        shift_factor=shift,
        use_quant_conv=shift is None,
        use_post_quant_conv=shift is None,
    )
    return made.eval().requires_grad_(False)


def clip(kind: Any = None) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=len(LETTERS),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=len(LETTERS) - 1,
    )
    return lively((kind or transformers.CLIPTextModel)(config))


def noise_schedule() -> Any:
    return EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)


def unet(cross: int, **further: Any) -> Any:
    made = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=cross,
        norm_num_groups=2,
        **further,
    )
    return lively(made)


def sd1() -> Any:
    return diffusers.StableDiffusionPipeline(
        vae=kl(4, 0.18215),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        unet=unet(WIDTH),
        scheduler=noise_schedule(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> Any:
    conditioned = unet(
        2 * WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + WIDTH,
        use_linear_projection=True,
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=kl(4, 0.13025),
        text_encoder=clip(),
        text_encoder_2=clip(transformers.CLIPTextModelWithProjection),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=conditioned,
        scheduler=noise_schedule(),
        add_watermarker=False,
    )


def flux() -> Any:
    network = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    )
    t5 = transformers.T5Config(
        vocab_size=len(LETTERS), d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=2, pad_token_id=0
    )
    return diffusers.FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=kl(4, 0.3611, 0.1159),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        text_encoder_2=lively(transformers.T5EncoderModel(t5)),
        tokenizer_2=tokenizer(),
        transformer=lively(network),
    )


def z_image() -> Any:
    network = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=WIDTH,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[2, 2, 4],
        axes_lens=[64, 64, 64],
    )
    qwen3 = transformers.Qwen3Config(
        vocab_size=len(LETTERS),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    return diffusers.ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl(4, 0.3611, 0.1159),
        text_encoder=lively(transformers.Qwen3Model(qwen3)),
        tokenizer=tokenizer(),
        transformer=lively(network),
    )


def qwen_image() -> Any:
    network = diffusers.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(2, 2, 4),
    )
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    qwen = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(LETTERS),
            "hidden_size": WIDTH,
            "intermediate_size": WIDTH,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
            "rope_theta": 10000.0,
        },
        vision_config={
            "depth": 1,
            "hidden_size": WIDTH,
            "intermediate_size": WIDTH,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
        },
    )
    return diffusers.QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae.eval().requires_grad_(False),
        text_encoder=lively(transformers.Qwen2_5_VLForConditionalGeneration(qwen)),
        tokenizer=tokenizer(),
        transformer=lively(network),
    )


MADE = {
    "StableDiffusionPipeline": sd1,
    "StableDiffusionXLPipeline": sdxl,
    "FluxPipeline": flux,
    "ZImagePipeline": z_image,
    "QwenImagePipeline": qwen_image,
}
"""The makers of each kind of pipeline; an older diffusers lacks some."""


def made(kind: str, seed: int, dtype: torch.dtype = torch.float32) -> Any:
    """A pipeline with the weights of a seed."""
    make: Callable[[], Any] = MADE[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = make()
    pipe.set_progress_bar_config(disable=True)
    return pipe if dtype == torch.float32 else pipe.to(dtype)
