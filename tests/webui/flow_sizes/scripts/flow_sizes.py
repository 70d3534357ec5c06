"""A test-only extension for Forge Neo and Forge: models are as large as their files.

The hosts take the sizes of text encoders and VAEs, and some of a transformer, from the published models: the smallest
that they would load has some gigabytes. Here every component is built with the depths and widths that its weights have,
so that small files can be loaded. A file of the published size gives the published sizes.

A text encoder with a small vocabulary gets a token modulo the vocabulary; the tokenizers stay what they are. Klein's
texts, whose padding would take most of a small picture's time, are padded to fewer tokens.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from backend import loader
from diffusers.configuration_utils import ConfigMixin

try:
    from backend.nn.llm import llama, qwen_vl
    from backend.text_processing.klein_engine import KleinTextProcessingEngine
except ImportError:
    # Forge has none of the families that need these
    llama = qwen_vl = KleinTextProcessingEngine = None

Weights = Mapping[str, torch.Tensor]

LLM_CONFIGS = (
    *("Qwen3_06BConfig", "Qwen3_4BConfig", "Qwen3_8BConfig", "Qwen3VL_4BConfig", "Qwen25_7BVLI_Config"),
    "Ministral3_3BConfig",
)
HEAD = {"Gemma2_2B_Config": 256, **dict.fromkeys(LLM_CONFIGS, 128)}
EMBEDDINGS = ("embed_tokens", "shared", "token_embedding")
KLEIN_TOKENS = 64


def shape(weights: Weights, end: str) -> tuple[int, ...]:
    """The shape of the one weight whose name ends so."""
    # the numbers of a GGUF file are numpy's
    return next(tuple(map(int, weights[name].shape)) for name in weights if name.endswith(end))


def has(weights: Weights, end: str) -> bool:
    """Return True if a weight's name ends so."""
    return any(name.endswith(end) for name in weights)


def count(names: Iterable[str], blocks: str) -> int:
    """The number of blocks of this name: ``layers`` for ``model.layers.0.norm.weight``."""
    found = (re.search(rf"(?:^|\.){re.escape(blocks)}\.(\d+)\.", name) for name in names)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


# ---------------------------------------------------------------------------------------------------------------------
# text encoders
# ---------------------------------------------------------------------------------------------------------------------


def t5_sizes(weights: Weights) -> dict[str, int]:
    vocabulary, width = shape(weights, "shared.weight")
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_ff": shape(weights, "block.0.layer.1.DenseReluDense.wi_0.weight")[0],
        "num_layers": count(weights, "block"),
        "num_heads": shape(weights, "block.0.layer.0.SelfAttention.relative_attention_bias.weight")[1],
    }


def clip_sizes(weights: Weights) -> dict[str, int]:
    vocabulary, width = shape(weights, "token_embedding.weight")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shape(weights, "layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": count(weights, "layers"),
    }


def llm_sizes(weights: Weights, head: int) -> dict[str, int]:
    vocabulary, width = shape(weights, "embed_tokens.weight")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shape(weights, "layers.0.mlp.up_proj.weight")[0],
        "num_hidden_layers": count(weights, "layers"),
        "num_attention_heads": shape(weights, "layers.0.self_attn.q_proj.weight")[0] // head,
        "num_key_value_heads": shape(weights, "layers.0.self_attn.k_proj.weight")[0] // head,
    }


class NoVision(torch.nn.Identity):
    """In the place of a part that sees pictures, where the file has none."""


def of_t5(weights: Weights) -> Iterator[Any]:
    read = loader.read_arbitrary_config
    yield mock.patch.object(loader, "read_arbitrary_config", lambda folder: {**read(folder), **t5_sizes(weights)})


def of_clip(weights: Weights) -> Iterator[Any]:
    read = transformers.CLIPTextConfig.from_pretrained
    told = clip_sizes(weights)
    yield mock.patch.object(transformers.CLIPTextConfig, "from_pretrained", lambda folder: read(folder, **told))


def of_llm(weights: Weights) -> Iterator[Any]:
    width = shape(weights, "embed_tokens.weight")[1]
    # what else the folder says is compared with the sizes here
    yield mock.patch.object(loader, "read_arbitrary_config", lambda _: {"hidden_size": width})
    for name, head in HEAD.items():
        sized = functools.partial(getattr(llama, name), **llm_sizes(weights, head))
        yield mock.patch.object(llama, name, sized)
    if not has(weights, "visual.patch_embed.proj.weight"):
        yield mock.patch.object(qwen_vl, "Qwen2VLVisionTransformer", lambda **_: NoVision())
        yield mock.patch.object(llama, "Qwen3VLVisionModel", lambda _: NoVision())
    if has(weights, "llm_adapter.embed.weight"):
        layers = count([name for name in weights if name.startswith("llm_adapter.")], "blocks")
        yield mock.patch.object(llama, "LLMAdapter", functools.partial(llama.LLMAdapter, num_layers=layers))


def fold(model: torch.nn.Module) -> None:
    """Let the embedding of a small vocabulary take every token."""

    def folded(embedding: Any, tokens: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tokens[0] % embedding.num_embeddings, *tokens[1:]

    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Embedding) and name.rpartition(".")[2] in EMBEDDINGS:
            layer.register_forward_pre_hook(folded)


# ---------------------------------------------------------------------------------------------------------------------
# VAEs
# ---------------------------------------------------------------------------------------------------------------------


def kl_sizes(weights: Weights) -> dict[str, Any]:
    levels = count([name for name in weights if name.startswith("encoder.")], "down")
    widths = [shape(weights, f"encoder.down.{level}.block.0.conv1.weight")[0] for level in range(levels)]
    return {"block_out_channels": widths, "layers_per_block": count(weights, "down.0.block")}


def wan_sizes(weights: Weights) -> dict[str, Any]:
    return {"base_dim": shape(weights, "encoder.conv1.weight")[0]}


def of_vae(sizes: Callable[[Weights], dict[str, Any]], weights: Weights) -> Iterator[Any]:
    read = ConfigMixin.load_config.__func__
    told = sizes(weights)
    sized = classmethod(lambda cls, *args, **kwargs: {**read(cls, *args, **kwargs), **told})
    yield mock.patch.object(ConfigMixin, "load_config", sized)


# ---------------------------------------------------------------------------------------------------------------------
# transformers: what Forge Neo does not read from the file by itself
# ---------------------------------------------------------------------------------------------------------------------


def chroma(weights: Weights) -> dict[str, Any]:
    own = "distilled_guidance_layer."
    return {
        "hidden_dim": shape(weights, f"{own}in_proj.weight")[0],
        "out_dim": shape(weights, f"{own}out_proj.weight")[0],
        "n_layers": count([name for name in weights if name.startswith(own)], "layers"),
    }


def flux_of_forge(weights: Weights) -> dict[str, Any]:
    width = shape(weights, "img_in.weight")[0]
    return {
        "hidden_size": width,
        "num_heads": width // 128,
        "depth": count(weights, "double_blocks"),
        "depth_single_blocks": count(weights, "single_blocks"),
        "context_in_dim": shape(weights, "txt_in.weight")[1],
    }


def chroma_of_forge(weights: Weights) -> dict[str, Any]:
    found = chroma(weights)
    names = {"hidden_dim": "guidance_hidden_dim", "out_dim": "guidance_out_dim", "n_layers": "guidance_n_layers"}
    return {**flux_of_forge(weights), **{names[name]: size for name, size in found.items()}}


def next_dit(weights: Weights) -> dict[str, Any]:
    inner, width = shape(weights, "layers.0.feed_forward.w1.weight")
    # the product is rounded up to a multiple of 256
    return {"n_refiner_layers": count(weights, "noise_refiner"), "ffn_dim_multiplier": (inner - 0.5) / width}


def flux2(weights: Weights) -> dict[str, Any]:
    width, inner = shape(weights, "double_blocks.0.img_mlp.2.weight")
    return {"mlp_ratio": (inner + 0.001) / width}


def qwen_image(weights: Weights) -> dict[str, Any]:
    width, text = shape(weights, "txt_in.weight")
    return {"num_attention_heads": width // 128, "joint_attention_dim": text}


def krea2(weights: Weights) -> dict[str, Any]:
    heads, text = (
        shape(weights, f"txtfusion.layerwise_blocks.0.{name}") for name in ("attn.qknorm.qnorm.scale", "prenorm.scale")
    )
    return {"txtheads": text[0] // heads[0], "txtkvheads": text[0] // heads[0]}


def anima(weights: Weights) -> dict[str, Any]:
    inner, width = shape(weights, "blocks.0.mlp.layer1.weight")
    return {"num_blocks": count(weights, "blocks"), "mlp_ratio": inner / width}


def ernie(weights: Weights) -> dict[str, Any]:
    width, text = shape(weights, "text_proj.weight")
    return {
        "hidden_size": width,
        "num_attention_heads": width // 128,
        "num_layers": count(weights, "layers"),
        "ffn_hidden_size": shape(weights, "layers.0.mlp.linear_fc2.weight")[1],
        "text_in_dim": text,
    }


def wan(weights: Weights) -> dict[str, Any]:
    return {"text_dim": shape(weights, "text_embedding.0.weight")[1]}


TRANSFORMERS = {
    "ChromaTransformer2DModel": chroma,
    "Lumina2Transformer2DModel": next_dit,
    "ZImageTransformer2DModel": next_dit,
    "Flux2Transformer2DModel": flux2,
    "QwenImageTransformer2DModel": qwen_image,
    "Krea2Transformer2DModel": krea2,
    "CosmosTransformer3DModel": anima,
    "ErnieImageTransformer2DModel": ernie,
    "WanTransformer3DModel": wan,
}
if llama is None:
    TRANSFORMERS |= {"FluxTransformer2DModel": flux_of_forge, "ChromaTransformer2DModel": chroma_of_forge}
BUILT: dict[str, Callable[[Weights], Iterator[Any]]] = {
    **dict.fromkeys(("T5EncoderModel", "UMT5EncoderModel"), of_t5),
    **dict.fromkeys(("CLIPTextModel", "CLIPTextModelWithProjection"), of_clip),
    **dict.fromkeys(("Qwen3Model", "Qwen3ForCausalLM", "Qwen3VLModel"), of_llm),
    **dict.fromkeys(("Gemma2Model", "Qwen2_5_VLForConditionalGeneration", "Mistral3Model"), of_llm),
    **dict.fromkeys(("AutoencoderKL", "AutoencoderKLFlux2"), functools.partial(of_vae, kl_sizes)),
    **dict.fromkeys(("AutoencoderKLWan", "AutoencoderKLQwenImage"), functools.partial(of_vae, wan_sizes)),
}


def with_words(component: str, folder: str) -> tuple[str, str]:
    """The folder of a tokenizer of T5: Chroma's folder can lack its words, which are those of Flux."""
    if any(Path(folder, component, name).exists() for name in ("tokenizer.json", "spiece.model")):
        return component, folder
    return "tokenizer_2", str(Path(loader.HF, "black-forest-labs", "FLUX.1-dev"))


def as_large_as_its_file(load: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the function that loads one component."""

    @functools.wraps(load)
    def loaded(
        guess: Any, component_name: str, lib_name: str, cls_name: str, repo_path: str, state_dict: Weights | None
    ) -> Any:
        if cls_name == "T5TokenizerFast":
            component_name, repo_path = with_words(component_name, repo_path)
        if state_dict and cls_name in TRANSFORMERS:
            guess.unet_config.update(TRANSFORMERS[cls_name](state_dict))
        with ExitStack() as patches:
            for patch in BUILT[cls_name](state_dict) if state_dict and cls_name in BUILT else ():
                patches.enter_context(patch)
            component = load(guess, component_name, lib_name, cls_name, repo_path, state_dict)
        if component_name.startswith("text_encoder"):
            fold(component)
        return component

    return loaded


loader.load_huggingface_component = as_large_as_its_file(loader.load_huggingface_component)


def with_less_padding(make: Callable[..., None]) -> Callable[..., None]:
    """Wrap what makes Klein's text engine."""

    @functools.wraps(make)
    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        self.min_length = KLEIN_TOKENS

    return made


if KleinTextProcessingEngine is not None:
    KleinTextProcessingEngine.__init__ = with_less_padding(KleinTextProcessingEngine.__init__)
