"""A layout's phrases, encoded by a slot model's CLIP."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from modules import prompt_parser

from ...comodels.adapter_use import pooled_at_end
from ...comodels.cache import Recent
from ...errors import AmdmError

PHRASE_TOKENS = 75


class SlotPhrases:
    """A slot model's CLIP for a layout's phrases (`comodels.adapter_use.Phrases`)."""

    def __init__(
        self,
        model: Any,
        encoder: tuple[Any, torch.nn.Module],
        cache: tuple[Recent, tuple[Hashable, ...]],
        encoding: Callable[[], AbstractContextManager[None]],
        device: Callable[[], torch.device],
        error_prefix: str,
    ) -> None:
        """Use a model's encoder.

        encoder, device: see `AdapterPlaces`.
        cache: encoded texts, and the part of their keys that says how a text is encoded.
        encoding: a context in which the model encodes.
        """
        self.model, self.encoding, self.device, self.error_prefix = model, encoding, device, error_prefix
        self.engine, self.transformer = encoder
        self.texts, self.text_key = cache

    def pooled(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        return dict(zip(texts, self._cached("pooled", texts, self._pooled)))

    def contexts(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        def encode(texts: list[str]) -> torch.Tensor:
            return self.model.get_learned_conditioning(prompt_parser.SdConditioning(texts))

        return dict(zip(texts, self._cached("contexts", texts, encode)))

    def _cached(self, kind: str, texts: Sequence[str], encode: Callable[[list[str]], torch.Tensor]) -> torch.Tensor:
        def encoded() -> torch.Tensor:
            with self.encoding():
                return encode(list(texts))

        return self.texts.get((kind, tuple(texts), *self.text_key), encoded)

    def _pooled(self, texts: list[str]) -> torch.Tensor:
        """Return CLIP's pooler output, from the transformer: the host's own way adds clip skip, emphasis and more."""
        engine = self.engine
        tokenized = engine.tokenize([_without_emphasis(text) for text in texts])
        long = next((text for text, tokens in zip(texts, tokenized) if len(tokens) > PHRASE_TOKENS), None)
        if long is not None:
            raise AmdmError(
                f'{self.error_prefix}: the phrase "{long[:40]}..." of the layout has more than {PHRASE_TOKENS} '
                "tokens; shorten it."
            )
        end, length = engine.id_end, PHRASE_TOKENS + 2
        tokens = [[engine.id_start, *ids, *[end] * (length - 1 - len(ids))] for ids in tokenized]
        numbers = torch.tensor(tokens, device=self.device())
        return pooled_at_end(self.transformer(numbers)[0], numbers, end)


def _without_emphasis(text: str) -> str:
    return "".join(part for part, _ in prompt_parser.parse_prompt_attention(text))
