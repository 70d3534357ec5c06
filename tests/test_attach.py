"""Adapters on a UNet: which blocks they find, what they leave alone, and what must hold whatever the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lib_amdm.adapters.attach import attached, blocks_of
from lib_amdm.adapters.base import Adapter, Prepared, Rows
from lib_amdm.adapters.inputs import Features, GivenInputs
from lib_amdm.adapters.kinds import adapter_file, adapter_of
from lib_amdm.adapters.migc import Migc
from lib_amdm.errors import AdapterError
from lib_amdm.layout import Layout
from tests.adapter_files import (
    gligen_shapes,
    interactdiffusion_shapes,
    ip_shapes,
    migc_shapes,
    random_tensors,
    sd1_unet,
    sdxl_unet,
    widths_of,
)
from tests.seeded import uniform
from tests.unets import LAYOUTS, unet_of

WIDTH = 48
SMALL = widths_of(unet_of("a1111", WIDTH)[0])
KINDS = ("ip-adapter", "gligen", "interactdiffusion", "migc", "migc++")
SHAPES = {
    "ip-adapter": ip_shapes(SMALL, WIDTH, features=40),
    "gligen": gligen_shapes(SMALL, WIDTH, 16),
    "interactdiffusion": interactdiffusion_shapes(SMALL, WIDTH, 16),
    "migc": migc_shapes(SMALL, WIDTH),
    "migc++": migc_shapes(SMALL, WIDTH, plus=True),
}
ROWS = (
    [{"phrase": "a", "box": [0, 0, 0.5, 0.6]}, {"phrase": "b", "box": [0.3, 0.4, 1, 1]}],
    [{"phrase": "c", "box": [0.1, 0.5, 0.7, 0.9]}, {"phrase": "a", "box": [0.5, 0.1, 0.9, 0.4]}],
    [{"phrase": "b", "box": [0, 0, 1, 1]}, {"phrase": "c", "box": [0.6, 0.6, 0.9, 0.9]}],
)
ACTION = {"subject": 0, "action": "does", "object": 1}
TIME = 321
EXACT = 5e-5
"""The UNet itself rounds one row otherwise alone than in a batch, and one layout otherwise than another."""


@cache
def tensors(kind: str) -> dict[str, Tensor]:
    return random_tensors(SHAPES[kind])


def adapter(kind: str) -> Adapter:
    return adapter_of(adapter_file(tensors(kind), f"my-{kind}.safetensors"))


def layouts(images: Sequence[int], actions: bool) -> list[Layout]:
    return [Layout.of_rows([*ROWS[image], *([ACTION] if actions else [])]) for image in images]


def phrases() -> dict[str, Tensor]:
    return {word: 2 * uniform(f"phrase {word}", (WIDTH,)) for word in ("a", "b", "c", "does")}


def contexts() -> dict[str, Tensor]:
    return {word: 2 * uniform(f"context {word}", (9, WIDTH)) for word in ("a", "b", "c")}


def inputs(images: Sequence[int] = (0,), **how: Any) -> GivenInputs:
    """Everything that any kind of adapter may ask for; MIGC has no eye for the action."""
    pictures = Features(torch.cat([uniform(f"picture {image}", (1, 40)) for image in images]))
    seeds = [100 + image for image in images]
    return GivenInputs(layouts(images, True), phrases(), contexts(), pictures, **{"seeds": seeds, **how})


def laid_out(*layouts: Layout, **how: Any) -> GivenInputs:
    """Inputs of these layouts with the phrases that they may have."""
    return GivenInputs(layouts, **{"pooled": phrases(), "contexts": contexts(), **how})


def migc() -> Migc:
    own = adapter("migc")
    assert isinstance(own, Migc)
    return own


def prepared_for(kind: str, images: Sequence[int] = (0,), dtype: torch.dtype = torch.float32, **how: float) -> Prepared:
    """An adapter prepared for these images."""
    own, given = adapter(kind).to(dtype), inputs(images, **how)
    return own.prepare(given, naive_until=given.until) if isinstance(own, Migc) else own.prepare(given)


def latents(images: Sequence[int], size: tuple[int, int] = (16, 16)) -> Tensor:
    return torch.stack([uniform(f"latent {image}", (4, *size)) for image in images])


def texts(rows: Rows) -> Tensor:
    return torch.stack(
        [uniform(f"text {image} {prompt}", (7, WIDTH)) for image, prompt in zip(rows.images, rows.prompts)]
    )


def predicted(
    layout: str,
    adapters: Sequence[Prepared],
    rows: Rows,
    announced: Rows | None = None,
    size: tuple[int, int] = (16, 16),
) -> Tensor:
    unet, predict = UNETS[layout]
    with acting(unet, *adapters, rows=lambda: announced or rows):
        return predict(latents(rows.images, size), torch.full((len(rows.images),), TIME), texts(rows))


UNETS = {layout: unet_of(layout, WIDTH) for layout in LAYOUTS}
ONE = Rows((0, 0), (True, False))
ASKED = latents(ONE.images), torch.full((2,), TIME), texts(ONE)


@contextmanager
def acting(unet: nn.Module, *adapters: Prepared, rows: Callable[[], Any] = lambda: ONE) -> Iterator[None]:
    with torch.no_grad(), attached(unet, adapters, rows):
        yield


def hooks(unet: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in unet.modules())


def difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


SD1_ORDER = [
    *(f"input_blocks.{n}" for n in (1, 2, 4, 5, 7, 8)),
    *(f"output_blocks.{n}" for n in range(3, 12)),
    "middle_block",
]
SDXL_ORDER = {
    **{f"input_blocks.{n}": 2 if n < 6 else 10 for n in (4, 5, 7, 8)},
    **{f"output_blocks.{n}": 10 if n < 3 else 2 for n in range(6)},
    "middle_block": 10,
}


def ip_order(unet: nn.Module, context: int) -> list[str]:
    """The blocks in the order of an IP-Adapter's layers."""
    with torch.device("meta"):
        shapes = {name: torch.empty(shape) for name, shape in ip_shapes(widths_of(unet), context).items()}
    own = adapter_of(adapter_file(shapes, "ip"))
    numbers = {id(own[f"ip_adapter.{n}"]): n for n in range(1, 2 * len(widths_of(unet)), 2)}
    layers = own.layers(blocks_of(unet))
    return sorted(layers, key=lambda block: numbers[id(layers[block])])


def test_the_layers_of_sd1() -> None:
    unet = sd1_unet()
    assert ip_order(unet, 768) == [f"{name}.1.transformer_blocks.0" for name in SD1_ORDER]
    ordered = [block.name for block in blocks_of(unet)]
    assert ordered.index("middle_block.1.transformer_blocks.0") == 6
    modules = {block.name: block.module for block in blocks_of(unet)}
    assert modules["output_blocks.7.1.transformer_blocks.0"] is unet.up_blocks[2].attentions[1].transformer_blocks[0]
    assert modules["input_blocks.8.1.transformer_blocks.0"] is unet.down_blocks[2].attentions[1].transformer_blocks[0]
    assert {block.heads for block in blocks_of(unet)} == {8}


def test_the_layers_of_sdxl() -> None:
    names = [f"{name}.1.transformer_blocks.{j}" for name, depth in SDXL_ORDER.items() for j in range(depth)]
    assert ip_order(sdxl_unet(), 2048) == names
    assert len(names) == 70


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_layouts_name_the_same_blocks(layers: int) -> None:
    """Both name their blocks alike, and the blocks of one name have the same weights."""
    theirs, ours = (unet_of(layout, WIDTH, layers)[0] for layout in ("diffusers", "a1111"))
    pairs = list(zip(blocks_of(theirs), blocks_of(ours)))
    assert len(pairs) == 3 * layers + 1 + 3 * (layers + 1)
    for a, b in pairs:
        assert (a.name, a.width, a.context, a.heads) == (b.name, b.width, b.context, b.heads)
        ones: Any = a.module
        others: Any = b.module
        assert torch.equal(ones.attn2.to_q.weight, others.attn2.to_q.weight)


class Bytes(nn.Parameter):
    """A weight in bytes with one scale, that says the shape which the numbers have (as Forge's GGUF weights do)."""

    unpacked: torch.Size

    def __new__(cls, weight: Tensor) -> Bytes:
        made: Any = super().__new__(cls, (weight / SCALE).round().to(torch.int8).reshape(-1), requires_grad=False)
        made.unpacked = weight.shape
        return made

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        return self.unpacked


class FourBits(nn.Parameter):
    """A weight in bytes, with its shape beside it (as bitsandbytes' weights have it)."""

    def __new__(cls, weight: Tensor) -> FourBits:
        made: Any = super().__new__(cls, (weight / SCALE).round().to(torch.int8).reshape(-1, 1), requires_grad=False)
        made.quant_state = SimpleNamespace(shape=weight.shape)
        return made


SCALE = 1 / 64


class Packed(nn.Module):
    """A linear layer that makes its weight from bytes in every call, and knows no widths."""

    def __init__(self, layer: nn.Linear, weight: type[Bytes | FourBits]) -> None:
        super().__init__()
        self.bias, self.weight = layer.bias, weight(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        shape = getattr(self.weight, "quant_state", self.weight).shape
        return F.linear(x, self.weight.data.view(shape) * SCALE, self.bias)


@pytest.mark.parametrize("weight", [Bytes, FourBits])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_may_be_packed(kind: str, weight: type[Bytes | FourBits]) -> None:
    """With the numbers that the bytes stand for, the same prediction to the last bit."""
    unet, predict = unet_of("forge", WIDTH)
    modules: list[Any] = [each.module for each in blocks_of(unet)]
    for block in modules:
        for layer in (*(getattr(block.attn2, f"to_{each}") for each in "qkv"), block.attn2.to_out[0]):
            layer.weight.data = (layer.weight.data / SCALE).round().clamp(-127, 127) * SCALE
    with acting(unet, prepared_for(kind)):
        plain = predict(*ASKED)
    for block in modules:
        for name in ("to_q", "to_k", "to_v"):
            setattr(block.attn2, name, Packed(getattr(block.attn2, name), weight))
        block.attn2.to_out[0] = Packed(block.attn2.to_out[0], weight)
    with acting(unet, prepared_for(kind)):
        assert torch.equal(predict(*ASKED), plain)


def compiled_around(unet: nn.Module) -> Any:
    return torch.compile(unet, backend="eager")


def compiled_in_place(unet: nn.Module) -> Any:
    unet.compile(backend="eager")
    return unet


def compiled_by_blocks(unet: nn.Module) -> Any:
    for block in blocks_of(unet):
        block.module.compile(backend="eager")
    return unet


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch 2.6 has it first")
@pytest.mark.parametrize("compiled", [compiled_around, compiled_in_place, compiled_by_blocks])
def test_a_compiled_unet_runs_uncompiled_with_an_adapter(compiled: Callable[[nn.Module], Any]) -> None:
    kinds = ["ip-adapter", "gligen"]
    unet, plain = unet_of("a1111", WIDTH)
    wanted = {}
    for kind in kinds:
        with acting(unet, prepared_for(kind)):
            wanted[kind] = plain(*ASKED)
    torch.compiler.reset()
    made = compiled(unet)
    with torch.no_grad():
        before = made(*ASKED)
    for kind in kinds:
        with acting(made, prepared_for(kind)):
            drawn = made(*ASKED)
        assert torch.equal(drawn, wanted[kind]), kind
        with torch.no_grad():
            assert torch.equal(made(*ASKED), before), kind
        assert difference(drawn, before) > 1e-3, kind


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_that_is_off_changes_no_bit(kind: str, layout: str) -> None:
    plain = predicted(layout, [], ONE)
    assert difference(predicted(layout, [prepared_for(kind)], ONE), plain) > 1e-3
    assert torch.equal(predicted(layout, [prepared_for(kind, strength=0.0)], ONE), plain)
    assert torch.equal(predicted(layout, [], ONE), plain)
    late = Rows(ONE.images, ONE.prompts, 0.5)
    assert torch.equal(predicted(layout, [prepared_for(kind, until=0.0)], ONE), plain)
    assert torch.equal(predicted(layout, [prepared_for(kind, until=0.5)], late), plain)
    assert not torch.equal(predicted(layout, [prepared_for(kind, until=0.6)], late), plain)


@given(st.integers(1, 150), st.integers(0, 100))
def test_an_adapter_works_in_the_steps_that_begin_within_its_share(steps: int, percent: int) -> None:
    working = [step for step in range(steps) if Prepared.before(step / steps, percent / 100)]
    assert working == [step for step in range(steps) if 100 * step < percent * steps]


def test_migc_and_naive_fuser_have_shares_of_their_own() -> None:
    own: Any = adapter("migc")
    late, plain = Rows(ONE.images, ONE.prompts, 0.5), predicted("a1111", [], ONE)

    def at(until: float, naive_until: float) -> Tensor:
        prepared = own.prepare(laid_out(*layouts([0], False), until=until), naive_until)
        return predicted("a1111", [prepared], late)

    assert torch.equal(at(0.5, 0.5), plain) and torch.equal(at(0.0, 0.0), plain)
    naive, migc_alone, both = at(0.5, 0.6), at(0.6, 0.5), at(0.6, 0.6)
    assert len({round(each.abs().sum().item(), 3) for each in (plain, naive, migc_alone, both)}) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_is_anothers_is_left_alone(kind: str) -> None:
    unet, predict = UNETS["a1111"]
    with acting(unet, prepared_for(kind), rows=lambda: None):
        assert torch.equal(predict(*ASKED), predicted("a1111", [], ONE))
        # an inner attachment, such as a co-model's on the main model's own weights, acts alone
        with acting(unet, prepared_for("ip-adapter")):
            inner = predict(*ASKED)
    assert torch.equal(inner, predicted("a1111", [prepared_for("ip-adapter")], ONE))


def test_negative_rows_of_migc_and_images_without_boxes_change_no_bit() -> None:
    own = migc()
    rows = Rows((0, 1, 0, 1), (True, True, False, False))
    plain = predicted("a1111", [], rows)
    empty = own.prepare(laid_out(*layouts([0], False), Layout()), naive_until=1.0)
    got = predicted("a1111", [empty], rows)
    assert torch.equal(got[1:], plain[1:]) and not torch.equal(got[:1], plain[:1])


def test_a_box_of_no_pixel_is_as_if_it_were_not_there() -> None:
    own, thin = migc(), {"phrase": "c", "box": [0.5, 0.2, 0.5001, 0.9]}
    whole, nothing = layouts([0], False)[0], predicted("a1111", [], ONE)
    with_thin = Layout.of_rows([ROWS[0][0], thin, ROWS[0][1]])

    def of(layout: Layout) -> Tensor:
        return predicted("a1111", [own.prepare(laid_out(layout), naive_until=1.0)], ONE)

    assert torch.equal(of(with_thin), of(whole)) and not torch.equal(of(whole), nothing)
    assert torch.equal(of(Layout.of_rows([thin])), nothing)


def test_hooks_are_gone_however_it_ends() -> None:
    unet, predict = UNETS["forge"]
    assert hooks(unet) == 0
    everything = [prepared_for(kind) for kind in KINDS]
    with attached(unet, everything, lambda: ONE):
        assert hooks(unet) == 2 + 2 * len(SMALL)
    assert hooks(unet) == 0

    def fails() -> Rows:
        raise RuntimeError("no rows")

    with pytest.raises(RuntimeError, match="no rows"), acting(unet, *everything, rows=fails):
        predict(*ASKED)
    assert hooks(unet) == 0
    with acting(unet, *everything):
        whole = predict(*ASKED)
        with pytest.raises(RuntimeError):
            predict(*ASKED[:2], ASKED[2][..., :5])
        assert torch.equal(predict(*ASKED), whole), "a call that failed leaves nothing for the next"
    with pytest.raises(RuntimeError), acting(unet, *everything):
        predict(*ASKED[:2], ASKED[2][..., :5])
    assert hooks(unet) == 0
    wide = adapter_of(adapter_file(random_tensors(ip_shapes(SMALL, 24, features=40)), "wide.safetensors"))
    another = wide.prepare(GivenInputs(features=Features(torch.zeros(1, 40))))
    with pytest.raises(AdapterError), attached(unet, [*everything, another], lambda: ONE):
        pass
    assert hooks(unet) == 0
    assert torch.equal(predicted("forge", [], ONE), predicted("a1111", [], ONE))


@pytest.mark.parametrize("kind", KINDS)
def test_torchs_own_randomness_is_not_consumed(kind: str) -> None:
    torch.manual_seed(5)
    wanted = torch.randn(4)
    torch.manual_seed(5)
    first = predicted("a1111", [prepared_for(kind)], ONE)
    assert torch.equal(torch.randn(4), wanted)
    assert torch.equal(predicted("a1111", [prepared_for(kind)], ONE), first)


def test_the_image_seed_decides_migcs_order() -> None:
    own = migc()

    def with_seed(seed: int, progress: float = 0.0) -> Tensor:
        prepared = own.prepare(laid_out(*layouts([0], False), seeds=[seed]))
        return predicted("a1111", [prepared], Rows((0, 0), (True, False), progress))

    assert torch.equal(with_seed(1), with_seed(1))
    assert not torch.equal(with_seed(1), with_seed(2))
    assert not torch.equal(with_seed(1), with_seed(1, 0.1))


rows_of_batches = st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=5).map(
    lambda pairs: Rows(tuple(image for image, _ in pairs), tuple(prompt for _, prompt in pairs))
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6)
@given(rows=rows_of_batches)
def test_every_row_is_what_it_is_alone(kind: str, rows: Rows) -> None:
    """Whatever the order of images, prompts and negatives in a batch, and however the host splits it."""
    together = predicted("a1111", [prepared_for(kind, (0, 1, 2))], rows)
    for row, (image, prompt) in enumerate(zip(rows.images, rows.prompts)):
        alone = predicted("a1111", [prepared_for(kind, (image,))], Rows((image,), (prompt,)), Rows((0,), (prompt,)))
        assert difference(together[row], alone[0]) < EXACT


@pytest.mark.parametrize("kind", KINDS)
def test_one_condition_serves_all_images(kind: str) -> None:
    rows = Rows((0, 1, 0, 1), (True, True, False, False))
    got = predicted("a1111", [prepared_for(kind, (0,))], rows)
    for row, image in enumerate(rows.images):
        own = Rows((image,), (rows.prompts[row],))
        assert difference(got[row], predicted("a1111", [prepared_for(kind, (0,))], own)[0]) < EXACT


@pytest.mark.parametrize("size", [(9, 13), (17, 24), (10, 14)])
@pytest.mark.parametrize("kind", KINDS)
def test_any_size_of_latents(kind: str, size: tuple[int, int]) -> None:
    """diffusers' UNet and ldm's halve odd sizes alike; up again, diffusers' alone fits odd ones to the skips."""
    plain = predicted("diffusers", [], ONE, size=size)
    assert difference(predicted("diffusers", [prepared_for(kind)], ONE, size=size), plain) > 1e-3


PAIRS = [("ip-adapter", "gligen"), ("interactdiffusion", "ip-adapter"), ("migc", "ip-adapter"), ("gligen", "migc")]


@pytest.mark.parametrize("pair", PAIRS)
def test_two_adapters_act_together_in_any_order_and_layout(pair: tuple[str, str]) -> None:
    first, second = (prepared_for(kind) for kind in pair)
    both = predicted("a1111", [first, second], ONE)
    assert difference(predicted("a1111", [second, first], ONE), both) < EXACT
    assert difference(predicted("diffusers", [first, second], ONE), both) < EXACT
    assert difference(predicted("forge", [first, second], ONE), both) < EXACT
    for alone in (first, second):
        assert difference(predicted("a1111", [alone], ONE), both) > 1e-3


def test_the_picture_is_seen_by_every_instance() -> None:
    """Instances whose contexts are the prompt's own change nothing but by rounding, IP-Adapter or not."""
    own = migc()
    text = texts(ONE)[0]
    given = laid_out(*layouts([0], False), contexts=dict.fromkeys("ab", text), until=0.0)
    naive = own.prepare(given, naive_until=1.0)
    for others in ([], [prepared_for("ip-adapter")]):
        assert difference(predicted("a1111", [naive, *others], ONE), predicted("a1111", others, ONE)) < EXACT


def test_contexts_of_other_lengths_than_the_prompt_and_as_many_boxes_as_migc_takes() -> None:
    longer = {**contexts(), "b": uniform("longer", (14, WIDTH))}
    many = Layout(layouts([0], False)[0].regions[:1] * 28)
    for prepared in (migc().prepare(laid_out(*layouts([0], False), contexts=longer)), migc().prepare(laid_out(many))):
        assert torch.isfinite(predicted("a1111", [prepared], ONE)).all()


def test_a_change_of_the_output_layer_is_honoured() -> None:
    """A LoRA may act in a layer's call, or in its weight: the picture's attention goes through either."""
    prepared = prepared_for("ip-adapter")
    unet, predict = unet_of("a1111", WIDTH)
    block: Any = blocks_of(unet)[3].module
    layer = block.attn2.to_out[0]
    delta = 0.3 * uniform("delta", layer.weight.shape)
    with acting(unet, prepared):
        plain = predict(*ASKED)
        handle = layer.register_forward_hook(lambda module, args, out: out + args[0] @ delta.T)
        in_call = predict(*ASKED)
        handle.remove()
        layer.weight += delta
        in_weight = predict(*ASKED)
    assert difference(in_call, in_weight) < EXACT
    assert difference(in_call, plain) > 1e-3


def test_a_replaced_cross_attention_is_an_error() -> None:
    """Something that computes a block's attention without calling it keeps adapters from acting: said, not ignored."""
    unet, predict = unet_of("a1111", WIDTH)
    block: Any = blocks_of(unet)[2].module

    def forward(x: Tensor, context: Tensor) -> Tensor:
        x = x + block.attn1(block.norm1(x))
        x = x + block.attn2.to_out(block.attn2.to_q(block.norm2(x)))
        return x + block.ff(block.norm3(x))

    block.forward = forward
    for kind in ("ip-adapter", "gligen"):
        said = r"replaced the cross-attention of input_blocks\.4"
        with pytest.raises(AdapterError, match=said), acting(unet, prepared_for(kind)):
            predict(*ASKED)


def test_rows_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(AdapterError, match="called with 2 rows, but 1"):
        predicted("a1111", [prepared_for("ip-adapter")], ONE, Rows((0,), (True,)))
    for kind in KINDS:
        with pytest.raises(AdapterError, match=r'^"my-.*\.safetensors" was prepared for 2 images, but image 3'):
            predicted("a1111", [prepared_for(kind, (0, 1))], Rows((2,), (True,)))


def test_merged_tokens_are_an_error() -> None:
    own = prepared_for("migc")
    unet, predict = unet_of("a1111", WIDTH)
    block = blocks_of(unet)[0].module
    whole = block.forward
    block.forward = lambda x, context: torch.cat([whole(x[:, ::2], context), whole(x[:, 1::2], context)], dim=1)
    with pytest.raises(AdapterError, match="128 tokens, which is no halving of 16x16"), acting(unet, own):
        predict(*ASKED)


def test_the_rows_are_asked_for_once_in_each_call() -> None:
    asked: list[int] = []
    unet, predict = UNETS["a1111"]

    def rows() -> Rows:
        asked.append(1)
        return ONE

    with acting(unet, prepared_for("gligen"), prepared_for("ip-adapter"), rows=rows):
        predict(*ASKED)
        predict(*ASKED)
    assert len(asked) == 2


@cache
def in_half() -> tuple[nn.Module, Callable[..., Tensor]]:
    """A UNet in half precision, and a call of it."""
    unet, predict = unet_of("a1111", WIDTH)
    unet.to(torch.bfloat16)
    # the hosts' timestep embedding is cast by themselves
    unet.time_embed.float().register_forward_hook(lambda module, args, out: out.bfloat16())
    return unet, predict


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_and_autocast(kind: str, autocast: bool) -> None:
    """An adapter in half precision is no further from float32 than the UNet itself is, and under inference_mode too."""
    unet, predict = UNETS["a1111"] if autocast else in_half()
    x, t, text = ASKED
    if not autocast:
        x, text = x.bfloat16(), text.bfloat16()
    half = prepared_for(kind, dtype=torch.bfloat16)

    def at_half(adapters: Sequence[Prepared], mode: Callable = torch.inference_mode) -> Tensor:
        context = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
        with mode(), context, attached(unet, adapters, lambda: ONE):
            return predict(x, t, text)

    plain, acted = predicted("a1111", [], ONE), predicted("a1111", [prepared_for(kind)], ONE)
    assert at_half([half]).dtype == at_half([]).dtype == torch.bfloat16
    assert torch.equal(at_half([half]), at_half([half], torch.no_grad))
    own_error = (at_half([]).float() - plain).square().mean()
    assert (at_half([half]).float() - acted).square().mean() < 2 * own_error


@pytest.mark.parametrize("kind", ["ip-adapter", "gligen"])
def test_adapters_can_be_trained_through_their_hooks(kind: str) -> None:
    unet, predict = UNETS["a1111"]
    own = adapter(kind).requires_grad_(True)
    for _ in range(2):
        with attached(unet, [own.prepare(inputs())], lambda: ONE):
            predict(*ASKED).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in own.parameters())


@pytest.mark.parametrize(
    ("kind", "shapes", "words"),
    [
        ("ip-adapter", ip_shapes(dict(list(SMALL.items())[:-1]), WIDTH), "15 attention layers and the UNet 16"),
        ("ip-adapter", ip_shapes(SMALL, 24), r"layer 1 is 32x24 and the UNet's is 32x48"),
        ("gligen", gligen_shapes(dict(list(SMALL.items())[:-1]), WIDTH, 16), "fusers for 15 blocks"),
        ("gligen", gligen_shapes(dict.fromkeys(SMALL, 64), WIDTH, 16), "is 64 wide and the block 32"),
        ("migc", migc_shapes(dict.fromkeys(SMALL, 64), WIDTH), "is 64 wide and the block 32"),
        (
            "ip-adapter",
            {name.replace(".31.", ".99."): shape for name, shape in ip_shapes(SMALL, WIDTH).items()},
            "it has no attention layer 31",
        ),
    ],
)
def test_files_for_another_unet_are_refused_by_name(kind: str, shapes: dict, words: str) -> None:
    own = adapter_of(adapter_file(random_tensors(shapes), "theirs.safetensors"))
    with pytest.raises(AdapterError, match=rf'^"theirs\.safetensors" does not fit the checkpoint: .*{words}'):
        own.layers(blocks_of(UNETS["a1111"][0]))


def test_limits_and_widths_are_errors_that_name_the_file() -> None:
    many = Layout(layouts([0], False)[0].regions[:1] * 31)
    for kind, most in (("gligen", 30), ("migc", 28), ("migc++", 29)):
        own = adapter(kind)
        with pytest.raises(AdapterError, match=rf'"my-{kind.replace("+", ".")}\.safetensors" takes {most} boxes .* 31'):
            own.prepare(laid_out(many))
        most_regions = Layout(many.regions[:most])
        assert isinstance(own.prepare(laid_out(most_regions)), Prepared)
        with pytest.raises(AdapterError, match="phrases of width 48 and the text encoder gives 12"):
            own.prepare(laid_out(*layouts([0], False), pooled={word: torch.zeros(12) for word in "ab"}))
    own, good = adapter("interactdiffusion"), layouts([0], True)[0]
    with pytest.raises(AdapterError, match="takes 30 interactions and the layout has 31"):
        own.prepare(laid_out(Layout(good.regions, good.interactions * 31)))
    with pytest.raises(AdapterError, match="needs a row with subject, action and object"):
        own.prepare(laid_out(Layout(good.regions)))
    with pytest.raises(AdapterError, match=r'"c" \(phrase 2 of the layout.*takes part in none'):
        own.prepare(laid_out(Layout((*good.regions, layouts([1], False)[0].regions[0]), good.interactions)))
    with pytest.raises(AdapterError, match=r"image_embeds of width 40 and was given \(\d, 12\)"):
        adapter("ip-adapter").prepare(GivenInputs(features=Features(torch.zeros(1, 12))))


def test_inputs_that_do_not_belong_together_are_errors() -> None:
    plus = adapter_of(adapter_file(random_tensors(ip_shapes(SMALL, WIDTH, variant="plus")), "plus.safetensors"))
    with pytest.raises(AdapterError, match=r'^"plus\.safetensors" needs the features of an empty picture'):
        plus.prepare(GivenInputs(features=Features(torch.zeros(1, 3, 8))))
    with pytest.raises(AdapterError, match=r'^"my-migc\.safetensors" does not fit .* the UNet has no middle_block'):
        adapter("migc").layers([block for block in blocks_of(UNETS["a1111"][0]) if "middle" not in block.name])
    with pytest.raises(ValueError, match="2 layouts and 3 seeds"):
        adapter("migc").prepare(GivenInputs(layouts([0, 1], False), seeds=[1, 2, 3]))
    with pytest.raises(ValueError, match="2 images and 1 prompts"):
        Rows((0, 1), (True,))
