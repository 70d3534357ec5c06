"""Attaching adapters to a UNet: torch forward hooks on the `norm2` and `attn2` of its transformer blocks.

A block computes x + attn1(norm1(x)), then x + attn2(norm2(x), context), then its feed-forward part, in ldm's, Forge's
and diffusers' UNets alike. So, whatever else is patched there:

- a fuser (GLIGEN, InteractDiffusion) adds d to x before `norm2`, and the same d to the output of `attn2`, because the
  block adds that output to its own x;
- a second attention (IP-Adapter) is added to the output of `attn2`, through its own output layer without the bias;
- MIGC replaces the output of `attn2`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import AdapterError
from .base import Block, Call, Places, Prepared, Rows
from .weights import Weights

_BLOCK = re.compile(
    r"(?:(input|output)_blocks\.(\d+)\.1|middle_block\.1"
    r"|(down|up)_blocks\.(\d+)\.attentions\.(\d+)|mid_block\.attentions\.0)\.transformer_blocks\.(\d+)"
)
_SIDES = {"input": 0, "middle": 1, "output": 2}


def blocks_of(unet: nn.Module) -> list[Block]:
    """Return the transformer blocks of a UNet in the order it runs them, by ldm's names.

    A name is `input_blocks.4.1.transformer_blocks.0`, `middle_block.1.transformer_blocks.0` or
    `output_blocks.3.1.transformer_blocks.0`, for diffusers' UNets too, whatever their depth.
    """
    # torch.compile returns a module around the UNet
    unet = getattr(unet, "_orig_mod", unet)
    blocks = []
    for name, module in unet.named_modules():
        match = _BLOCK.fullmatch(name)
        if match and getattr(module, "attn2", None) is not None:
            blocks.append(_block(_place(unet, match), int(match[6]), module))
    return [block for _, block in sorted(blocks, key=lambda pair: pair[0])]


def _place(unet: nn.Module, match: re.Match[str]) -> tuple[str, int]:
    """Return side and number of an ldm block: ("input", 4), ("middle", 0), ("output", 3)."""
    side, number, level_side, level, index = match.groups()[:5]
    if side:
        return side, int(number)
    if not level_side:
        return "middle", 0
    levels = getattr(unet, f"{level_side}_blocks")[: int(level)]
    if level_side == "down":
        # the first block is the first convolution, and a level ends in a downsampler
        return "input", 1 + sum(len(stage.resnets) + 1 for stage in levels) + int(index)
    return "output", sum(len(stage.resnets) for stage in levels) + int(index)


def _block(place: tuple[str, int], depth: int, module: Any) -> tuple[tuple[int, int, int], Block]:
    """Return the block with its rank in the order in which a UNet runs its blocks."""
    side, number = place
    parent = "middle_block" if side == "middle" else f"{side}_blocks.{number}"
    block = Block(
        name=f"{parent}.1.transformer_blocks.{depth}",
        module=module,
        width=module.norm2.normalized_shape[0],
        context=_inputs(module.attn2.to_k),
        heads=module.attn2.heads,
    )
    return (_SIDES[side], number, depth), block


def _inputs(layer: Any) -> int:
    """Return the width of a linear layer's input, also of Forge's layers for packed weights (GGUF, 4 bits)."""
    if hasattr(layer, "in_features"):
        return int(layer.in_features)
    unpacked = getattr(layer.weight, "quant_state", layer.weight)
    return int(unpacked.shape[1])


@contextmanager
def attached(
    unet: nn.Module,
    adapters: Sequence[Prepared],
    rows_of_call: Callable[[], Rows | None],
    places: Places | None = None,
) -> Iterator[None]:
    """Attach the adapters to every call of `unet` while the context lasts.

    rows_of_call: called once at the beginning of each call, after torch forward pre-hooks that were registered on the
        UNet before. It returns the rows of the call's batch, or None for a call of another model, in which no adapter
        acts.
    places: index tensors that earlier attachments of these adapters moved to the device.

    Adapters of strength 0, and those past their `until`, do nothing. A compiled UNet runs uncompiled.

    Raises AdapterError at once if a file does not fit the UNet, and during the call if something else keeps an adapter
    from acting.
    """
    working = [adapter for adapter in adapters if adapter.works]
    if not working:
        yield
        return
    blocks = blocks_of(unet)
    layers = [adapter.adapter.layers(blocks) for adapter in working]
    attachment = _Attachment(working, layers, rows_of_call, {} if places is None else places)
    handles: list[RemovableHandle] = []
    try:
        handles.append(unet.register_forward_pre_hook(attachment.begin, with_kwargs=True))
        handles.append(unet.register_forward_hook(attachment.end))
        for block in blocks:
            at_block = _AtBlock(attachment, block)
            norm2, attn2 = block.module.get_submodule("norm2"), block.module.get_submodule("attn2")
            handles.append(norm2.register_forward_pre_hook(at_block.before_norm2))
            handles.append(attn2.register_forward_hook(at_block.after_attn2, with_kwargs=True))
        with _uncompiled():
            yield
    finally:
        for handle in handles:
            handle.remove()


def _uncompiled() -> AbstractContextManager[object]:
    """Return a context in which compiled modules run as they were written: compiled code has no later hooks."""
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


class _Attachment:
    """The state of one `attached`: the current UNet call, and the additions that its blocks still have to make."""

    def __init__(
        self,
        adapters: Sequence[Prepared],
        layers: Sequence[Mapping[str, Weights]],
        rows_of_call: Callable[[], Rows | None],
        places: Places,
    ) -> None:
        self.rows_of_call, self.places = rows_of_call, places
        self.all = list(zip(adapters, layers))
        self.acting: list[tuple[Prepared, Mapping[str, Weights]]] = []
        self.call: Call | None = None
        self.pending: dict[str, Tensor | None] = {}
        """The blocks with pending cross-attention, each with a fuser's addition to it."""
        self.within = False
        """True while an adapter itself runs the cross-attention, which calls the hooks again."""

    def begin(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Choose the adapters that act in the call, whose latents are (rows, channels, height, width)."""
        self.pending.clear()
        self.acting, self.call = [], None
        rows = self.rows_of_call()
        if rows is None:
            return
        self.acting = [pair for pair in self.all if pair[0].acts(rows)]
        latents: Tensor = args[0] if args else kwargs["sample" if "sample" in kwargs else "x"]
        if self.acting and len(latents) != len(rows.images):
            raise AdapterError(
                f"The UNet was called with {len(latents)} rows, but {len(rows.images)} were announced; "
                "another extension changes the batch: switch it off, or the adapters."
            )
        self.call = Call(rows, (latents.shape[-2], latents.shape[-1]), self.places)

    def layers_of(self, block: Block) -> Iterator[tuple[Prepared, Weights | None]]:
        """Yield the adapters that act in the call, each with its layer for the block."""
        return ((adapter, layers.get(block.name)) for adapter, layers in self.acting)

    def end(self, unet: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forget the call; AdapterError if a block did not call its cross-attention."""
        left = list(self.pending)
        self.pending.clear()
        self.acting, self.call = [], None
        if left:
            raise AdapterError(
                f"Something else replaced the cross-attention of {left[0]}, so the adapter could not act there; "
                "switch off what does (torch.compile or another IP-Adapter, for example)."
            )


class _AtBlock:
    """The hooks of one block."""

    def __init__(self, attachment: _Attachment, block: Block) -> None:
        self.attachment = attachment
        self.block = block

    def before_norm2(self, norm2: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Return the arguments of `norm2` with fusers' additions to its input (rows, tokens, width), or None."""
        state = self.attachment
        if state.within or state.call is None:
            return None
        added: Tensor | None = None
        for adapter, layer in state.layers_of(self.block):
            if layer is None:
                continue
            state.pending[self.block.name] = None
            x = args[0] if added is None else args[0] + added
            addition = adapter.fused(layer, self.block, x, state.call)
            if addition is not None:
                addition = addition.to(x.dtype)
                added = addition if added is None else added + addition
        if added is None:
            return None
        state.pending[self.block.name] = added
        # a new tensor, because the block may add in place to its own x
        return args[0] + added, *args[1:]

    def after_attn2(
        self, attn2: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        """Return the output of `attn2` (rows, tokens, width) as the adapters change it; None to leave it.

        Its input is (rows, tokens, width) too. First comes a second attention, then a replacement, then what fusers
        added before `norm2`.
        """
        state = self.attachment
        if state.within or state.call is None or not state.acting:
            return None
        h: Tensor = args[0] if args else kwargs["hidden_states" if "hidden_states" in kwargs else "x"]
        second = self._second_attention(attn2, h, state.call)
        out = output if second is None else output + second

        def attend(row: int, contexts: Tensor) -> Tensor:
            attended = self._attend(attn2, args, kwargs, h[row : row + 1], contexts)
            return attended if second is None else attended + second[row : row + 1]

        for adapter, layer in state.layers_of(self.block):
            new = adapter.replaced(layer, self.block, h, out, state.call, attend)
            if new is not None:
                out = new.to(out.dtype)
        added = state.pending.pop(self.block.name, None)
        if added is not None:
            out = out + added.to(out.dtype)
        return None if out is output else out

    def _second_attention(self, attn2: Any, h: Tensor, call: Call) -> Tensor | None:
        """Return the sum of the second attentions, (rows, tokens, width) like the input `h` of `attn2`, or None."""
        q: Tensor | None = None
        attended: Tensor | None = None
        for adapter, layer in self.attachment.layers_of(self.block):
            if layer is None or not adapter.attends:
                continue
            q = attn2.to_q(h) if q is None else q
            addition = adapter.attended(layer, self.block, q, call)
            if addition is not None:
                attended = addition if attended is None else attended + addition
        if attended is None:
            return None
        # the output layer is called instead of using its weight: a LoRA may act in the call; zeros give its bias
        return _output(attn2, attended) - _output(attn2, torch.zeros_like(attended[:1, :1]))

    def _attend(
        self, attn2: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], h: Tensor, contexts: Tensor
    ) -> Tensor:
        """Call `attn2` as the block did, for one row with other contexts: (n, tokens, width).

        h: the row (1, tokens, width).
        contexts: (n, length, context width).
        """
        h = h.expand(len(contexts), -1, -1)
        kwargs = dict(kwargs)
        if args:
            args = (h, *(contexts.to(context) for context in args[1:2]), *args[2:])
        else:
            kwargs["hidden_states" if "hidden_states" in kwargs else "x"] = h
        for name in ("context", "encoder_hidden_states", "value"):
            if kwargs.get(name) is not None:
                kwargs[name] = contexts.to(kwargs[name])
        self.attachment.within = True
        try:
            return cast(Tensor, attn2(*args, **kwargs))
        finally:
            self.attachment.within = False


def _output(attn2: Any, x: Tensor) -> Tensor:
    """Return x (rows, tokens, width) through the output layer of `attn2`."""
    for layer in attn2.to_out:
        x = layer(x)
    return x
