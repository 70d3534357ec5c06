"""What the WebUIs have in common where adapters work on their models: phrases, and rows that a UNet's call tells of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from modules import prompt_parser

from ...comodels.adapter_use import AtWork, pooled_at_end
from ...errors import AmdmError
from .slot import SlotModel, progress

PHRASE_TOKENS = 75


class Phrases:
    """A slot model's CLIP, asked for a layout's phrases (`comodels.adapter_use.Phrases`)."""

    def __init__(self, slot_model: SlotModel, engine: Any, transformer: torch.nn.Module) -> None:
        """engine: the host's own wrapping of the text encoder, for its tokens. transformer: the encoder."""
        self.slot, self.engine, self.transformer = slot_model, engine, transformer

    def pooled(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        return dict(zip(texts, self._kept("pooled", texts, self._pooled)))

    def contexts(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        return dict(zip(texts, self._kept("contexts", texts, self._contexts)))

    def _kept(self, what: str, texts: Sequence[str], encode: Callable[[list[str]], torch.Tensor]) -> torch.Tensor:
        slot = self.slot

        def encoded() -> torch.Tensor:
            with slot.encoding():
                return encode(list(texts))

        return slot.texts.get((what, tuple(texts), *slot.text_key()), encoded)

    def _pooled(self, texts: list[str]) -> torch.Tensor:
        """The transformer is asked itself: the host's own way goes by clip skip, emphasis and textual inversions."""
        engine = self.engine
        told = engine.tokenize([_without_emphasis(text) for text in texts])
        long = next((text for text, tokens in zip(texts, told) if len(tokens) > PHRASE_TOKENS), None)
        if long is not None:
            raise AmdmError(
                f'{self.slot.error_prefix}: the phrase "{long[:40]}..." of the layout has more than {PHRASE_TOKENS} '
                "tokens; shorten it."
            )
        end, length = engine.id_end, PHRASE_TOKENS + 2
        tokens = [[engine.id_start, *each, *[end] * (length - 1 - len(each))] for each in told]
        numbers = torch.tensor(tokens, device=next(self.transformer.parameters()).device)
        return pooled_at_end(self.transformer(numbers)[0], numbers, end)

    def _contexts(self, texts: list[str]) -> torch.Tensor:
        return self.slot.model.get_learned_conditioning(prompt_parser.SdConditioning(texts))


def _without_emphasis(text: str) -> str:
    return "".join(part for part, _ in prompt_parser.parse_prompt_attention(text))


class AtWorkOnMain(Protocol):
    """An adapter at work on the main model, from a pass's start to its end."""

    def remove(self) -> None: ...


@contextmanager
def working(at_work: AtWork, unet: torch.nn.Module, done: Callable[[], float | None]) -> Iterator[None]:
    """The adapter works on a UNet whose calls say themselves which of their rows are prompts'.

    The host's `cond_or_uncond` has an entry for each part of the call's batch, 0 for prompts; a part is a row for each
    image. done: the share of the steps that are done, or None for calls that the adapter has no part in.
    """

    def announce(unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        share = done()
        if share is None:
            at_work.end_call()
            return
        parts = kwargs["transformer_options"]["cond_or_uncond"]
        images = len(args[0]) // len(parts)
        at_work.announce([*range(images)] * len(parts), [part == 0 for part in parts for _ in range(images)], share)

    handle = unet.register_forward_pre_hook(announce, with_kwargs=True)
    try:
        with at_work.on(unet):
            yield
    finally:
        handle.remove()


class OnSelfTellingMain:
    """An adapter on a main model whose UNet's calls say what their rows are.

    It has no part in calls outside of the denoiser's own evaluations, such as those of a co-model on the same UNet.
    """

    def __init__(self, denoiser: torch.nn.Module, model: SlotModel, unet: torch.nn.Module) -> None:
        self.model = model
        self.share: float | None = None
        self.stack = ExitStack()
        self.stack.enter_context(working(model.adapter, unet, lambda: self.share))
        self.stack.callback(denoiser.register_forward_pre_hook(self._begin).remove)
        self.stack.callback(denoiser.register_forward_hook(self._end).remove)

    def _begin(self, denoiser: Any, args: tuple[Any, ...]) -> None:
        self.share = progress(denoiser, denoiser.step)
        self.model.evaluations += 1

    def _end(self, denoiser: Any, args: tuple[Any, ...], output: Any) -> None:
        self.share = None

    def remove(self) -> None:
        self.stack.close()
