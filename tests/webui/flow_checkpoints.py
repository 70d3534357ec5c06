"""Small random checkpoints of the flow families that Forge Neo knows, for the tests on a real WebUI.

Run with Forge Neo's own Python, from its directory:

    cd <webui> && <webui python> <this file> --out DIR [--only NAME ...] [WebUI's flags]

DIR gets the folders ``Stable-diffusion``, ``text_encoder`` and ``VAE``, as they lie in the WebUI's ``models``. As users
have them, the checkpoints hold the transformer alone (those in SDXL's names: all), in the published names of weights;
`FAMILIES` says which files of the other two folders belong to which. The widths are those by which Forge Neo tells the
families apart, all else is as small as can be: it loads with the extension in ``flow_sizes`` alone, which goes by the
files' sizes.

The transformers and VAEs are made by the WebUI's own classes. The weights are drawn, not trained; they are shaped so
that a prediction is of order 1 and depends visibly on the latent, the time, the prompt and the checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TOKENS = 2048
"""Size of every vocabulary."""

VAE_SEED = 1000
TEXT_SEED = 1001
T5_WIDTH, GEMMA_WIDTH, QWEN25_WIDTH, QWEN3VL_WIDTH = 512, 512, 512, 128
QWEN3_WIDTH, QWEN3_SMALL_WIDTH, CLIP_WIDTH, CLIP_G_WIDTH = 2560, 1024, 768, 1280
MINISTRAL_WIDTH, UMT5_WIDTH = 3072, 128
UMT5_TOKENS = 256384
"""The size of vocabulary by which Forge Neo knows a UMT5 from a T5."""

Weights = dict[str, "torch.Tensor"]
Shapes = dict[str, tuple[int, ...]]


# ---------------------------------------------------------------------------------------------------------------------
# what is made
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """A family of checkpoints: the files that belong to each, and what Forge Neo makes of them."""

    text_encoders: tuple[str, ...]
    vae: str
    engine: str
    channels: int = 16
    frames: bool = False
    """True if latents have a dimension of time."""

    prefix: str = "model.diffusion_model."
    context: tuple[int, ...] = (24, 512)
    """Tokens and width of what the text encoder says, for the samples by which predictions are scaled."""

    pooled: int = 0
    guidance: bool = False
    multiplier: float = 1.0
    """The factor of a sigma before the model gets it."""

    config: dict[str, Any] = field(default_factory=dict)

    @property
    def modules(self) -> tuple[str, ...]:
        """The user's choice of "VAE / Text Encoder": paths in the WebUI's folder of models."""
        texts = tuple(f"text_encoder/{name}.safetensors" for name in self.text_encoders)
        return (*texts, f"VAE/{self.vae}.safetensors") if self.vae else texts


# what each is told about itself, in the words of the class; the rest is in the WebUI's own detection
FLUX = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": CLIP_WIDTH,
    "context_in_dim": T5_WIDTH,
    "hidden_size": 256,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
}
CHROMA = {
    **{key: value for key, value in FLUX.items() if key != "vec_in_dim"},
    "vec_in_dim": None,
    "txt_ids_dims": [],
    "in_channels": 64,
    "out_channels": 64,
    "in_dim": 64,
    "out_dim": 256,
    "hidden_dim": 256,
    "n_layers": 2,
}
KLEIN = {
    "in_channels": 128,
    "out_channels": 128,
    "vec_in_dim": None,
    "context_in_dim": 3 * QWEN3_WIDTH,
    "hidden_size": 3072,
    "mlp_ratio": (128 + 0.001) / 3072,
    "num_heads": 24,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [32, 32, 32, 32],
    "theta": 2000,
    "patch_size": 1,
    "qkv_bias": False,
    "guidance_embed": False,
    "txt_ids_dims": [3],
    "global_modulation": True,
    "mlp_silu_act": True,
    "ops_bias": False,
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
}
NEXT_DIT = {"patch_size": 2, "in_channels": 16, "n_layers": 1, "n_refiner_layers": 1, "qk_norm": True}
LUMINA = {
    **NEXT_DIT,
    "dim": 2304,
    "cap_feat_dim": GEMMA_WIDTH,
    "n_heads": 24,
    "n_kv_heads": 8,
    "axes_dims": [32, 32, 32],
    "axes_lens": [300, 512, 512],
    "rope_theta": 10000.0,
    "ffn_dim_multiplier": 255.5 / 2304,
}
ZIMAGE = {
    **NEXT_DIT,
    "dim": 3840,
    "cap_feat_dim": QWEN3_WIDTH,
    "n_heads": 30,
    "n_kv_heads": 30,
    "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512],
    "rope_theta": 256.0,
    "ffn_dim_multiplier": 255.5 / 3840,
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}
QWEN = {"in_channels": 64, "num_layers": 1, "num_attention_heads": 2, "joint_attention_dim": QWEN25_WIDTH}
KREA = {
    "features": 256,
    "heads": 2,
    "kvheads": 1,
    "layers": 1,
    "txtdim": QWEN3VL_WIDTH,
    "txtlayers": 12,
    "txtheads": 1,
    "txtkvheads": 1,
}
ANIMA = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 2048,
    "num_blocks": 1,
    "num_heads": 16,
    "mlp_ratio": 256 / 2048,
    "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0,
}
ERNIE = {
    "hidden_size": 256,
    "num_attention_heads": 2,
    "num_layers": 1,
    "ffn_hidden_size": 256,
    "text_in_dim": MINISTRAL_WIDTH,
}
WAN = {"in_dim": 16, "out_dim": 16, "dim": 256, "ffn_dim": 256, "num_heads": 2, "num_layers": 1, "text_dim": UMT5_WIDTH}
FLUX_FILES = (("flow-clip-l", "flow-t5"), "flow-flux-vae")
FLUX_CONTEXT = {"context": (256, T5_WIDTH), "pooled": CLIP_WIDTH}
SDXL_CONTEXT = {"context": (77, CLIP_WIDTH + CLIP_G_WIDTH), "pooled": 2816, "multiplier": 1000.0}
WAN_VAE = "flow-wan-vae"

FAMILIES = {
    "flux": Family(*FLUX_FILES, engine="Flux", guidance=True, **FLUX_CONTEXT, config={**FLUX, "guidance_embed": True}),
    "schnell": Family(*FLUX_FILES, engine="Flux", **FLUX_CONTEXT, config={**FLUX, "guidance_embed": False}),
    "chroma": Family(("flow-t5",), "flow-flux-vae", engine="Chroma", context=(8, T5_WIDTH), config=CHROMA),
    "zimage": Family(("flow-qwen3-4b",), "flow-flux-vae", engine="ZImage", context=(24, QWEN3_WIDTH), config=ZIMAGE),
    "lumina": Family(("flow-gemma2",), "flow-flux-vae", engine="Lumina2", context=(24, GEMMA_WIDTH), config=LUMINA),
    "anima": Family(
        ("flow-qwen3-06b",),
        WAN_VAE,
        engine="Anima",
        frames=True,
        prefix="net.",
        context=(512, QWEN3_SMALL_WIDTH),
        config=ANIMA,
    ),
    "qwen": Family(("flow-qwen25",), WAN_VAE, engine="QwenImage", frames=True, context=(16, QWEN25_WIDTH), config=QWEN),
    "klein": Family(
        ("flow-qwen3-klein",),
        "flow-flux2-vae",
        engine="Flux2",
        channels=128,
        context=(64, 3 * QWEN3_WIDTH),
        config=KLEIN,
    ),
    "krea": Family(
        ("flow-qwen3vl",), WAN_VAE, engine="Krea2", frames=True, context=(16, 12 * QWEN3VL_WIDTH), config=KREA
    ),
    "mugen": Family((), "", engine="Mugen", channels=32, **SDXL_CONTEXT),
    # the word in the file's path makes it rectified
    "rectified": Family((), "", engine="StableDiffusionXL", channels=4, **SDXL_CONTEXT),
    "ernie": Family(
        ("flow-ministral3",),
        "flow-flux2-vae",
        engine="ErnieImage",
        channels=128,
        context=(16, MINISTRAL_WIDTH),
        multiplier=1000.0,
        config=ERNIE,
    ),
    # as the larger sizes of Anima: as wide, and deeper
    "animadeep": Family(
        ("flow-qwen3-06b",),
        WAN_VAE,
        engine="Anima",
        frames=True,
        prefix="net.",
        context=(512, QWEN3_SMALL_WIDTH),
        config={**ANIMA, "num_blocks": 2},
    ),
    "wan": Family(
        ("flow-umt5",),
        WAN_VAE,
        engine="Wan",
        frames=True,
        context=(512, UMT5_WIDTH),
        multiplier=1000.0,
        config=WAN,
    ),
}
LETTERS = ("a", "b")
NAMES = tuple(f"{family}-{letter}" for family in FAMILIES for letter in LETTERS)


# ---------------------------------------------------------------------------------------------------------------------
# weights
# ---------------------------------------------------------------------------------------------------------------------

GAINS = (
    # sharp attention: a near-uniform one averages the words away, and prompts would look alike
    *((f"{name}.weight", 2.0) for name in ("query_norm", "key_norm", "q_norm", "k_norm", "norm_q", "norm_k")),
    *((f"{name}.weight", 2.0) for name in ("norm_added_q", "norm_added_k")),
    # a visible time: what comes out of the embedding of a time is small
    *((f"{name}.out_layer.weight", 2.0) for name in ("time_in", "guidance_in", "vector_in")),
    *((f"{name}.weight", 2.0) for name in ("t_embedder.mlp.2", "timestep_embedder.linear_2", "tmlp.2")),
    *((f"{name}.weight", 4.0) for name in ("t_embedder.mlp.0", "t_embedder.1.linear_1")),
    ("lin.weight", 2.0),
    # a visible prompt
    *((f"attn.{name}.weight", 3.0) for name in ("wv", "wo")),
    *((f"cross_attn.{name}.weight", 4.0) for name in ("v_proj", "output_proj")),
    *((f"{name}.weight", 3.0) for name in ("img_attn.proj", "txt_attn.qkv")),
    *((f"{name}.weight", 2.0) for name in ("adaLN_modulation.0", "adaLN_modulation.1", "img_mod.1", "txt_mod.1")),
)
EMBEDDINGS = ("embed_tokens.weight", "shared.weight", "token_embedding.weight", "llm_adapter.embed.weight")
AROUND_ZERO = ("prenorm.scale", "postnorm.scale", "last.norm.scale", "txtmlp.0.scale")
"""Norms that add 1 by themselves; so do "qnorm" and "knorm", whose 1 makes 2."""


def draw(name: str, shape: Sequence[int], seed: int) -> torch.Tensor:
    """Values of one weight; they depend on its name and the seed alone, so files can share parts."""
    import torch

    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    values = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")))
    gain = next((gain for end, gain in GAINS if name.endswith(end)), 1.0)
    if name.endswith(EMBEDDINGS):
        # a mean of zero makes the WebUI's emphasis divide zero by zero
        return 0.2 + values
    if name.endswith("position_embedding.weight") or "positional_embedding" in name or "pad_token" in name:
        return 0.3 * values
    if name.endswith("relative_attention_bias.weight"):
        return values
    if name.endswith(AROUND_ZERO):
        return 0.2 * values
    if name.endswith(("gamma", ".scale")) or (len(shape) == 1 and name.endswith("weight")):
        return (1 + 0.2 * values) * gain
    if len(shape) < 2:
        return (0.3 if name.endswith(".lin") else 0.1) * values
    if name.endswith("modulation.lin"):
        return 0.3 * values
    return values * gain / (values[0].numel()) ** 0.5


def draw_all(module: torch.nn.Module, prefix: str, seed: int) -> None:
    """Draw every weight of a module in place."""
    for name, parameter in module.named_parameters():
        parameter.data = draw(prefix + name, parameter.shape, seed)
        parameter.requires_grad_(False)
    module.eval()


@contextmanager
def empty_modules() -> Iterator[None]:
    """Modules of the WebUI's own layers, in float32, their weights not set."""
    import torch
    from backend.args import dynamic_args
    from backend.operations import using_forge_operations
    from transformers.modeling_utils import no_init_weights

    dynamic_args.ops = None
    with no_init_weights(), using_forge_operations(device=torch.device("cpu"), dtype=torch.float32):
        yield


# ---------------------------------------------------------------------------------------------------------------------
# transformers
# ---------------------------------------------------------------------------------------------------------------------


def _transformer(family: Family) -> tuple[torch.nn.Module, str]:
    """The WebUI's own class for a family, and the name of the last layer."""
    engine = family.engine
    if engine in ("Flux", "Flux2"):
        from backend.nn.flux import IntegratedFluxTransformer2DModel

        return IntegratedFluxTransformer2DModel(**family.config), "final_layer.linear"
    if engine == "Chroma":
        from backend.nn.chroma import IntegratedChromaTransformer2DModel

        return IntegratedChromaTransformer2DModel(**family.config), "final_layer.linear"
    if engine in ("Lumina2", "ZImage"):
        from backend.nn.lumina import NextDiT

        return NextDiT(**family.config), "final_layer.linear"
    if engine == "QwenImage":
        from backend.nn.qwen import QwenImageTransformer2DModel

        return QwenImageTransformer2DModel(**family.config), "proj_out"
    if engine == "Krea2":
        from backend.nn.krea import SingleStreamDiT

        return SingleStreamDiT(**family.config), "last.linear"
    if engine == "Anima":
        from backend.nn.anima import Anima

        return Anima(**family.config), "final_layer.linear"
    if engine == "ErnieImage":
        from backend.nn.ernie import ErnieImageModel

        return ErnieImageModel(**family.config), "final_linear"
    if engine == "Wan":
        from backend.nn.wan import WanModel

        return WanModel(**family.config), "head.head"
    raise ValueError(engine)


def samples(model: torch.nn.Module, family: Family) -> dict[str, torch.Tensor]:
    """The predictions of a model, also with another latent, time and prompt."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    latents, contexts, pooled = [], [], []
    for _ in range(2):
        latents.append(normal(1, family.channels, *((1,) if family.frames else ()), 8, 8))
        contexts.append(normal(1, *((1,) if family.engine == "Krea2" else ()), *family.context))
        pooled.append(normal(1, family.pooled) if family.pooled else None)

    def predicted(latent: int = 0, time: float = 0.8, text: int = 0, guidance: float = 3.5) -> torch.Tensor:
        extra: dict[str, Any] = {"y": pooled[text]} if family.pooled else {}
        if family.guidance:
            extra["guidance"] = torch.tensor([guidance])
        # some compute in place
        x, context = latents[latent].clone(), contexts[text].clone()
        with torch.inference_mode():
            return model(x, torch.tensor([time * family.multiplier]), context=context, **extra)

    found = {"": predicted(), "latent": predicted(1), "time": predicted(time=0.5), "text": predicted(text=1)}
    return {**found, "guidance": predicted(guidance=1.5)} if family.guidance else found


def transformer_weights(family: Family, seed: int) -> Weights:
    """The transformer's weights in their published names."""
    import torch

    with empty_modules():
        model, last = _transformer(family)
    draw_all(model, family.prefix, seed)
    slow_down(model, family)
    scale = 0.8 / samples(model, family)[""].std()
    layer = model.get_submodule(last)
    layer.weight *= scale
    if layer.bias is not None:
        layer.bias *= scale
    report(model, family)
    weights = {family.prefix + published(name): value for name, value in model.state_dict().items()}
    if family.engine == "Anima":
        weights |= {
            name: draw(name, shape, seed) for name, shape in adapter_shapes(f"{family.prefix}llm_adapter.").items()
        }
    return {name: value.to(torch.bfloat16) for name, value in weights.items()}


TIMES = {
    **dict.fromkeys(("Flux", "Flux2"), "time_in.in_layer"),
    "Chroma": "distilled_guidance_layer.in_proj",
    "ZImage": "t_embedder.mlp.0",
    "QwenImage": "time_text_embed.timestep_embedder.linear_1",
    "Krea2": "tmlp.0",
    "ErnieImage": "time_embedding.linear_1",
    "Wan": "time_embedding.0",
    **dict.fromkeys(("Mugen", "StableDiffusionXL"), "time_embed.0"),
}
"""The first layer after the waves of a time that is counted in thousands."""


def slow_down(model: torch.nn.Module, family: Family) -> None:
    """Let a model see of the time's waves the slow ones: a trained one does not change all with every thousandth."""
    import torch

    if family.engine not in TIMES:
        return
    weight = model.get_submodule(TIMES[family.engine]).weight
    half = 8 if family.engine == "Chroma" else weight.shape[1] // 2
    share = 1 / (1 + (100 * 10000 ** (-torch.arange(half) / half)) ** 2)
    weight[:, : 2 * half] *= (share / share.square().mean().sqrt()).repeat(2)


def published(name: str) -> str:
    """A weight's name in a file, by its name in the WebUI's classes: Flux calls the weights of its norms scales."""
    for norm in ("query_norm", "key_norm"):
        name = name.replace(f"{norm}.weight", f"{norm}.scale")
    if name.startswith("distilled_guidance_layer.norms."):
        name = name.replace(".weight", ".scale")
    return name


def report(model: torch.nn.Module, family: Family) -> None:
    """Say how much a prediction changes with what it depends on."""
    found = samples(model, family)
    base = found.pop("")
    told = ", ".join(f"{name} {float((other - base).std() / base.std()):.2f}" for name, other in found.items())
    print(f"  predictions: mean {float(base.mean()):.2f}, std {float(base.std()):.2f}; change by another {told}")


def adapter_shapes(prefix: str) -> Shapes:
    """Anima's own part of the text encoder, which lies in the checkpoint."""
    width = QWEN3_SMALL_WIDTH
    shapes: Shapes = {"embed.weight": (32128, width), "norm.weight": (width,), **affine("out_proj", width, width)}
    for attention in ("self_attn", "cross_attn"):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"blocks.0.{attention}.{name}.weight"] = (width, width)
        for name in ("q_norm", "k_norm"):
            shapes[f"blocks.0.{attention}.{name}.weight"] = (width // 16,)
    for name in ("norm_self_attn", "norm_cross_attn", "norm_mlp"):
        shapes[f"blocks.0.{name}.weight"] = (width,)
    shapes |= affine("blocks.0.mlp.0", 4 * width, width) | affine("blocks.0.mlp.2", width, 4 * width)
    return {prefix + name: shape for name, shape in shapes.items()}


def affine(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


# ---------------------------------------------------------------------------------------------------------------------
# whole checkpoints in SDXL's names: Mugen, and SDXL itself
# ---------------------------------------------------------------------------------------------------------------------

SDXL = {
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 1, 1],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "use_linear_in_transformer": True,
    "use_spatial_transformer": True,
    "context_dim": CLIP_WIDTH + CLIP_G_WIDTH,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
    "num_head_channels": 64,
    "use_checkpoint": False,
}
SDXL_GAINS = (
    # its many blocks would let a difference in the last bit grow to another picture
    *((f"{name}.weight", 0.3) for name in ("attn1.to_out.0", "attn2.to_out.0", "ff.net.2", "proj_out", "out_layers.3")),
    *((f"attn2.{name}.weight", 2.0) for name in ("to_q", "to_k", "to_v")),
    *((f"{name}.weight", 2.0) for name in ("time_embed.0", "time_embed.2", "emb_layers.1")),
)


def sdxl_weights(family: Family, seed: int) -> Weights:
    """UNet, text encoders and VAE."""
    import torch
    from backend.nn.unet import IntegratedUNet2DConditionModel

    with empty_modules():
        unet = IntegratedUNet2DConditionModel(in_channels=family.channels, out_channels=family.channels, **SDXL)
    draw_all(unet, family.prefix, seed)
    for name, parameter in unet.named_parameters():
        parameter.data *= next((gain for end, gain in SDXL_GAINS if name.endswith(end)), 1.0)
    slow_down(unet, family)
    unet.out[-1].weight *= 0.8 / samples(unet, family)[""].std()
    report(unet, family)
    weights = {family.prefix + name: value for name, value in unet.state_dict().items()}
    vae = sdxl_vae() if family.engine == "StableDiffusionXL" else flux2_vae()
    weights |= {f"first_stage_model.{name}": value for name, value in vae.items()}
    shapes = clip_shapes("conditioner.embedders.0.transformer.text_model.", CLIP_WIDTH)
    shapes |= open_clip_shapes("conditioner.embedders.1.model.", CLIP_G_WIDTH)
    weights |= {name: draw(name, shape, TEXT_SEED) for name, shape in shapes.items()}
    return {name: value.to(torch.float16) for name, value in weights.items()}


# ---------------------------------------------------------------------------------------------------------------------
# text encoders
# ---------------------------------------------------------------------------------------------------------------------


def clip_shapes(prefix: str, width: int, layers: int = 2, inner: int = 768) -> Shapes:
    shapes: Shapes = {
        "embeddings.token_embedding.weight": (TOKENS, width),
        "embeddings.position_embedding.weight": (77, width),
        **affine("final_layer_norm", width),
    }
    for layer in range(layers):
        own = f"encoder.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= affine(f"{own}self_attn.{name}", width, width)
        shapes |= affine(f"{own}mlp.fc1", inner, width) | affine(f"{own}mlp.fc2", width, inner)
        shapes |= affine(f"{own}layer_norm1", width) | affine(f"{own}layer_norm2", width)
    return {prefix + name: shape for name, shape in shapes.items()}


def open_clip_shapes(prefix: str, width: int, layers: int = 2, inner: int = 768) -> Shapes:
    shapes: Shapes = {
        "token_embedding.weight": (TOKENS, width),
        "positional_embedding": (77, width),
        "text_projection": (width, width),
        **affine("ln_final", width),
    }
    for layer in range(layers):
        own = f"transformer.resblocks.{layer}."
        shapes |= {f"{own}attn.in_proj_weight": (3 * width, width), f"{own}attn.in_proj_bias": (3 * width,)}
        shapes |= affine(f"{own}attn.out_proj", width, width)
        shapes |= affine(f"{own}mlp.c_fc", inner, width) | affine(f"{own}mlp.c_proj", width, inner)
        shapes |= affine(f"{own}ln_1", width) | affine(f"{own}ln_2", width)
    return {prefix + name: shape for name, shape in shapes.items()}


def t5_shapes(
    width: int = T5_WIDTH, layers: int = 2, heads: int = 8, inner: int = 1024, tokens: int = TOKENS, biases: int = 1
) -> Shapes:
    """A T5's weights. biases: how many of its layers have a bias by distance."""
    shapes: Shapes = {"shared.weight": (tokens, width), "encoder.final_layer_norm.weight": (width,)}
    for layer in range(layers):
        own = f"encoder.block.{layer}.layer."
        shapes |= {f"{own}0.SelfAttention.{name}.weight": (width, width) for name in "qkvo"}
        shapes |= {f"{own}{part}.layer_norm.weight": (width,) for part in (0, 1)}
        shapes |= {f"{own}1.DenseReluDense.{name}.weight": (inner, width) for name in ("wi_0", "wi_1")}
        shapes[f"{own}1.DenseReluDense.wo.weight"] = (width, inner)
    for layer in range(biases):
        shapes[f"encoder.block.{layer}.layer.0.SelfAttention.relative_attention_bias.weight"] = (32, heads)
    return shapes


def llm_shapes(
    width: int,
    layers: int,
    *,
    heads: int = 1,
    groups: int = 1,
    head: int = 128,
    inner: int = 128,
    prefix: str = "model.",
    kind: str = "qwen3",
) -> Shapes:
    """A language model's weights; `kind` says which it is."""
    shapes: Shapes = {"embed_tokens.weight": (TOKENS, width), "norm.weight": (width,)}
    norms = ["input_layernorm", "post_attention_layernorm"]
    norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"] if kind == "gemma2" else []
    for layer in range(layers):
        own = f"layers.{layer}."
        widths = {"q_proj": heads * head, "k_proj": groups * head, "v_proj": groups * head}
        shapes |= {f"{own}self_attn.{name}.weight": (out, width) for name, out in widths.items()}
        if kind == "qwen25":
            shapes |= {f"{own}self_attn.{name}.bias": (out,) for name, out in widths.items()}
        if kind == "qwen3":
            shapes |= {f"{own}self_attn.{name}.weight": (head,) for name in ("q_norm", "k_norm")}
        shapes[f"{own}self_attn.o_proj.weight"] = (width, heads * head)
        shapes |= {f"{own}mlp.{name}.weight": (inner, width) for name in ("gate_proj", "up_proj")}
        shapes[f"{own}mlp.down_proj.weight"] = (width, inner)
        shapes |= {f"{own}{name}.weight": (width,) for name in norms}
    return {prefix + name: shape for name, shape in shapes.items()}


def vision_shapes() -> Shapes:
    """The weight by which Forge Neo recognises a Qwen3-VL; the rest of its vision is absent."""
    return {
        "model.visual.deepstack_merger_list.0.norm.weight": (1,),
        "model.visual.merger.linear_fc2.weight": (2560, 1),
    }


TEXT_ENCODERS: dict[str, Callable[[], Shapes]] = {
    "flow-clip-l": lambda: clip_shapes("text_model.", CLIP_WIDTH),
    "flow-t5": t5_shapes,
    # every layer has a bias
    "flow-umt5": lambda: t5_shapes(UMT5_WIDTH, heads=2, inner=256, tokens=UMT5_TOKENS, biases=2),
    # the last layer but one is taken
    "flow-ministral3": lambda: llm_shapes(MINISTRAL_WIDTH, 3, kind="ministral3"),
    # the last layer but one is taken
    "flow-qwen3-4b": lambda: llm_shapes(QWEN3_WIDTH, 3, inner=256),
    "flow-gemma2": lambda: llm_shapes(GEMMA_WIDTH, 3, head=256, kind="gemma2"),
    "flow-qwen3-06b": lambda: llm_shapes(QWEN3_SMALL_WIDTH, 2),
    "flow-qwen25": lambda: llm_shapes(QWEN25_WIDTH, 2, heads=4, groups=4, kind="qwen25"),
    # layers 9, 18 and 27 are taken
    "flow-qwen3-klein": lambda: llm_shapes(QWEN3_WIDTH, 28, inner=64),
    # layers up to 35 are taken
    "flow-qwen3vl": lambda: llm_shapes(QWEN3VL_WIDTH, 36, prefix="model.language_model.") | vision_shapes(),
}


def text_weights(name: str) -> Weights:
    """A text encoder, in half precision."""
    import torch

    weights = {weight: draw(weight, shape, TEXT_SEED) for weight, shape in TEXT_ENCODERS[name]().items()}
    for weight, values in weights.items():
        if name == "flow-gemma2":
            # its norms have 1 added, and its embeddings are multiplied with the root of their width
            if len(values.shape) == 1:
                values -= 1
            if weight.endswith("embed_tokens.weight"):
                values /= GEMMA_WIDTH**0.5
        if weight.endswith(("SelfAttention.q.weight", "SelfAttention.k.weight")):
            # the product is not divided by the root of the width of a head
            values *= 0.5
    return {weight: values.to(torch.float16) for weight, values in weights.items()}


# ---------------------------------------------------------------------------------------------------------------------
# VAEs
# ---------------------------------------------------------------------------------------------------------------------

KL = {"block_out_channels": [32, 32, 64, 64], "layers_per_block": 1}
"""Widths and depth of the levels: they are normalised in 32 groups."""


def _picture() -> torch.Tensor:
    import torch

    small = torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(small, size=(64, 64), mode="bilinear")


def flux_vae() -> Weights:
    from backend.nn.vae import IntegratedAutoencoderKL
    from huggingface_guess.latent import Flux

    with empty_modules():
        vae = IntegratedAutoencoderKL(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False, **KL)
    return kl_weights(vae, Flux().scale_factor)


def sdxl_vae() -> Weights:
    from backend.nn.vae import IntegratedAutoencoderKL
    from huggingface_guess.latent import SDXL

    with empty_modules():
        vae = IntegratedAutoencoderKL(latent_channels=4, **KL)
    return kl_weights(vae, SDXL().scale_factor)


def flux2_vae() -> Weights:
    from backend.nn.vae import AutoencoderKLFlux2

    with empty_modules():
        vae = AutoencoderKLFlux2(latent_channels=32, **KL)
    vae.bn.running_mean.zero_()
    vae.bn.running_var.fill_(1)
    return kl_weights(vae, 1.0)


def kl_weights(vae: torch.nn.Module, latent_scale: float) -> Weights:
    """Draw a VAE with latents of order 1 and almost no spread, and pictures of full contrast."""
    import torch

    draw_all(vae, "vae.", VAE_SEED)
    latents = vae.embed_dim
    before = vae.quant_conv or torch.nn.Identity()
    after = vae.post_quant_conv or torch.nn.Identity()
    last = vae.quant_conv or vae.encoder.conv_out
    with torch.inference_mode():
        last.weight[latents:], last.bias[latents:] = 0, -12
        last.bias[:latents] = 0
        means = before(vae.encoder(_picture()))[:, :latents]
        last.weight[:latents] /= means.std() * latent_scale
        latent = torch.randn((2, latents, 8, 8), generator=torch.Generator().manual_seed(0)) / latent_scale
        vae.decoder.conv_out.bias[:] = 0
        vae.decoder.conv_out.weight *= 0.5 / vae.decoder(after(latent)).std()
    return {name: value.to(torch.float16) for name, value in vae.state_dict().items() if value.is_floating_point()}


def wan_vae() -> Weights:
    """Wan's VAE, for single frames."""
    import torch
    from backend.nn.wan_vae import WanVAE
    from huggingface_guess.latent import Wan21

    with empty_modules():
        vae = WanVAE(base_dim=16, z_dim=16, temporal_downsample=[False, True, True])
    draw_all(vae, "vae.", VAE_SEED)
    space = Wan21()
    with torch.inference_mode():
        means = vae.encode(_picture()[:1, :, None])
        vae.conv1.weight *= space.latents_std.mean() / means.std()
        latent = torch.randn((1, 16, 1, 8, 8), generator=torch.Generator().manual_seed(0))
        vae.decoder.head[-1].bias[:] = 0
        vae.decoder.head[-1].weight *= 0.5 / vae.decode(space.process_out(latent)).std()
    return {name: value.to(torch.float16) for name, value in vae.state_dict().items()}


VAES: dict[str, Callable[[], Weights]] = {
    "flow-flux-vae": flux_vae,
    "flow-flux2-vae": flux2_vae,
    WAN_VAE: wan_vae,
}


# ---------------------------------------------------------------------------------------------------------------------
# files
# ---------------------------------------------------------------------------------------------------------------------


def write(path: Path, weights: Callable[[], Weights]) -> None:
    """Write a file that is not there yet."""
    from safetensors.torch import save_file

    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({name: value.contiguous() for name, value in weights().items()}, part)
    part.rename(path)
    print(f"{path.name}: {path.stat().st_size / 1e6:.0f} MB")


def write_all(out: Path, names: Iterable[str] = NAMES) -> None:
    """Write the checkpoints of these names, and the text encoders and VAEs that belong to them."""
    for name in names:
        family = FAMILIES[name.partition("-")[0]]
        make = transformer_weights if family.config else sdxl_weights
        seed = 1 + NAMES.index(name)
        write(out / "Stable-diffusion" / f"{name}.safetensors", lambda make=make, f=family, s=seed: make(f, s))
        for text in family.text_encoders:
            write(out / "text_encoder" / f"{text}.safetensors", lambda text=text: text_weights(text))
        if family.vae:
            write(out / "VAE" / f"{family.vae}.safetensors", VAES[family.vae])


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="write only these")
    arguments, flags = parser.parse_known_args()
    out = arguments.out.resolve()
    sys.argv[1:] = flags
    sys.path[0] = str(Path.cwd())
    sys.path.append(str(Path.cwd() / "modules_forge" / "packages"))
    import torch

    torch.set_num_threads(1)
    with torch.no_grad():
        write_all(out, arguments.only)


if __name__ == "__main__":
    main()
