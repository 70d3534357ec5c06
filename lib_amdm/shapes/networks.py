"""The small networks of the shapes world, made with diffusers and transformers, and the real CLIP tokenizer."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..comodels.base import AmdmError

LATENT = (4, 16, 16)
"""Shape of a picture's latent."""
CONTEXT = 24
"""Width of the text encoder."""
TOKENS = 77
VAE_CHANNELS = (32, 32, 32, 64)
UNET_CHANNELS = (32, 64, 96)
HEADS = 4
VOCABULARY = 49408
BEGIN, END = 49406, 49407
BPE_FILE = "bpe_simple_vocab_16e6.txt.gz"


def new_vae() -> AutoencoderKL:
    """Pictures (batch, 3, h, w) from -1 to 1, to and from latents (batch, 4, h / 8, w / 8)."""
    return AutoencoderKL(
        block_out_channels=VAE_CHANNELS,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=LATENT[0],
    )


def new_unet() -> UNet2DConditionModel:
    """eps of latents (batch, 4, h, w) at timesteps 0 to 999, told texts (batch, 77, CONTEXT)."""
    return UNet2DConditionModel(
        sample_size=LATENT[1],
        block_out_channels=UNET_CHANNELS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=CONTEXT,
        attention_head_dim=HEADS,  # diffusers reads this as the number of heads
    )


def text_config() -> CLIPTextConfig:
    """The text encoder: CLIP's layout and vocabulary, three thin layers."""
    return CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=CONTEXT,
        intermediate_size=4 * CONTEXT,
        projection_dim=CONTEXT,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        max_position_embeddings=TOKENS,
        bos_token_id=BEGIN,
        eos_token_id=END,
        pad_token_id=END,
    )


def new_text_encoder() -> CLIPTextModel:
    return CLIPTextModel(text_config())


def tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer, with its files in `folder`."""
    return CLIPTokenizer.from_pretrained(write_tokenizer(folder / "clip"))


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token numbers (texts, 77), padded with the end token as Stable Diffusion's tokenizer pads."""
    return tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt").input_ids


def write_tokenizer(folder: Path) -> Path:
    """CLIP's tokenizer in `folder`, in transformers' layout, made from the BPE file that the `clip` package carries."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = _merges()
    letters = _letters()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair.split()) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "do_lower_case": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1))
    return folder


def _merges() -> list[str]:
    package = importlib.util.find_spec("clip")
    file = Path(package.origin).with_name(BPE_FILE) if package and package.origin else None
    if file is None or not file.is_file():
        raise AmdmError(f"CLIP's tokenizer needs {BPE_FILE} of the `clip` package; install clip-anytorch.")
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
    # the first line is a heading, and CLIP's vocabulary ends before the file does
    return lines[1 : VOCABULARY - 2 - 2 * 256 + 1]


def _letters() -> list[str]:
    """The 256 bytes as printable characters, in the vocabulary's order: those that print, then the others."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]
