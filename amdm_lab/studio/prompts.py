"""Prompts, read as the WebUI reads them by default: AND with weights, BREAK, any length.

Brackets are plain text: emphasis, prompt schedules and textual inversions are the WebUI's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import ftfy
import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from lib_amdm.errors import AmdmError

CHUNK = 75
"""Tokens of one piece of a prompt, without its begin and end."""
BACKTRACK = 20
"""The distance from the end of a full piece that a comma may have for the words after it to move to the next piece."""
_WEIGHT = re.compile(r"(.*?)(?:\s*:\s*([-+]?(?:\d+\.?|\d*\.\d+)))?\s*", re.DOTALL)
_EXTRA_NETWORK = re.compile(r"<(\w+):[^>]+>")


def weighted_parts(prompt: str) -> list[tuple[str, float]]:
    """Split a prompt at AND, with the parts' weights: "a AND b :0.5" gives ("a ", 1.0) and (" b", 0.5)."""
    matches = (_WEIGHT.fullmatch(part) for part in re.split(r"\bAND\b", prompt))
    return [(match[1], float(match[2] or 1)) for match in matches if match]


def refuse_extra_networks(text: str, error_prefix: str) -> None:
    """Raise AmdmError if a prompt names something that only the WebUI can load."""
    match = _EXTRA_NETWORK.search(text)
    if match:
        raise AmdmError(
            f'{error_prefix}: the prompt names an extra network ("<{match[1]}:...>"), which cannot be loaded without a '
            "WebUI; remove it from the prompt."
        )


def pieces(text: str, tokenizer: CLIPTokenizer) -> list[list[int]]:
    """Return a text's token numbers in pieces of 77: at most 75 between begin and end, filled up with ends."""
    sections = re.split(r"\s*\bBREAK\b\s*", text)
    cut = [piece for section in sections for piece in _cut(_numbers(section, tokenizer), tokenizer)]
    if len(cut) > 1 and not cut[-1]:
        cut.pop()
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    return [[begin, *piece, *[end] * (CHUNK + 1 - len(piece))] for piece in cut]


def _numbers(text: str, tokenizer: CLIPTokenizer) -> list[int]:
    # CLIP mends its texts first (ligatures, HTML entities); transformers' fast tokenizers leave that out
    return tokenizer(ftfy.fix_text(text), add_special_tokens=False, verbose=False)["input_ids"]


def _cut(tokens: list[int], tokenizer: CLIPTokenizer) -> list[list[int]]:
    if len(tokens) <= CHUNK:
        return [tokens]
    # the whole vocabulary is copied: most texts are short
    comma = tokenizer.get_vocab().get(",</w>")
    full = []
    while len(tokens) > CHUNK:
        at = CHUNK
        if tokens[CHUNK] != comma:
            near = [place + 1 for place in range(CHUNK - BACKTRACK, CHUNK) if tokens[place] == comma]
            at = near[-1] if near else CHUNK
        full.append(tokens[:at])
        tokens = tokens[at:]
    return [*full, tokens]


def phrase_tokens(phrases: Sequence[str], tokenizer: CLIPTokenizer) -> torch.Tensor:
    """Return the token numbers (phrases, 77) of a layout's phrases; AmdmError if one is too long."""
    cut = [pieces(phrase, tokenizer) for phrase in phrases]
    long = next((phrase for phrase, of_phrase in zip(phrases, cut) if len(of_phrase) > 1), None)
    if long is not None:
        raise AmdmError(f'AMDM: the phrase "{long[:40]}..." of the layout has more than {CHUNK} tokens; shorten it.')
    return torch.tensor([of_phrase[0] for of_phrase in cut])


def encode(texts: Sequence[str], tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> list[Tensor]:
    """Encode texts, each as (77 times its pieces, width), by the encoder's last layer and its norm ("clip skip 1")."""
    cut = [pieces(text, tokenizer) for text in texts]
    numbers = torch.tensor([piece for of_text in cut for piece in of_text], device=text_encoder.device)
    encoded = text_encoder(input_ids=numbers).last_hidden_state
    return [part.flatten(0, 1) for part in encoded.split([len(of_text) for of_text in cut])]
