"""Our adapters give what the published implementations give (tests/golden), in every layout.

A wrong order or a missing rule would show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lib_amdm.adapters import gligen, interactdiffusion, ip_adapter, migc
from lib_amdm.adapters.attach import attached
from lib_amdm.adapters.base import Prepared, Rows
from lib_amdm.adapters.gligen import Gligen
from lib_amdm.adapters.inputs import Features, GivenInputs
from lib_amdm.adapters.interactdiffusion import InteractDiffusion
from lib_amdm.adapters.ip_adapter import IPAdapter
from lib_amdm.adapters.kinds import adapter_file, adapter_of
from lib_amdm.adapters.migc import Migc
from lib_amdm.layout import Interaction, Layout, Region
from tests.golden import golden, seeded, seeded_adapter, timesteps
from tests.unets import LAYOUTS, shared_unet_of, xl_unet_of

EXACT = 1e-5
SEEN = 10 * EXACT
"""A mistake moves the result by more than this."""
UNCOND_FIRST = Rows((0, 0), (False, True))
PHRASES = ("a", "b", "c")


def difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def run(
    layout: str, adapters: Sequence[Prepared], x: Tensor, text: Tensor, t: Tensor, rows: Rows, xl: bool = False
) -> Tensor:
    unet, predict = xl_unet_of(layout, text.shape[-1]) if xl else shared_unet_of(layout, text.shape[-1])
    with torch.no_grad(), attached(unet, adapters, lambda: rows):
        return predict(x, t, text)


def ip_result(
    layout: str, variant: str, rows: Rows = UNCOND_FIRST, uncond: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Ours and the published one's. uncond: the negative prompt's features, if not the right ones."""
    tensors, meta = golden("ip_adapter")
    adapter = seeded_adapter({**meta["layers"], **meta["image_proj"][variant]})
    assert isinstance(adapter, IPAdapter)
    cond = tensors["features"] if variant == "base" else tensors["hidden"]
    if uncond is None and variant != "base":
        uncond = tensors["hidden_uncond"]
    prepared = adapter.prepare(GivenInputs(features=Features(cond, uncond), strength=meta["scale"]))
    ours = run(layout, [prepared], tensors["x"], tensors["text"], timesteps(meta), rows)
    return ours, tensors[f"out_{variant}"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", ["base", "plus", "full"])
def test_ip_adapter(layout: str, variant: str) -> None:
    ours, theirs = ip_result(layout, variant)
    assert difference(ours, theirs) < EXACT


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ip_adapter_for_sdxl(layout: str) -> None:
    tensors, meta = golden("ip_adapter")
    adapter = seeded_adapter({**meta["layers_xl"], **meta["image_proj"]["base"]})
    prepared = adapter.prepare(GivenInputs(features=Features(tensors["features"]), strength=meta["scale"]))
    ours = run(layout, [prepared], tensors["x"], tensors["text"], timesteps(meta), UNCOND_FIRST, xl=True)
    assert difference(ours, tensors["out_xl"]) < EXACT


@pytest.mark.parametrize("variant", ["base", "plus", "full"])
def test_ip_adapter_shows_a_wrong_negative(variant: str) -> None:
    swapped, theirs = ip_result("a1111", variant, Rows((0, 0), (True, False)))
    assert difference(swapped[:1], theirs[:1]) > SEEN
    tensors, _ = golden("ip_adapter")
    cond = tensors["features"] if variant == "base" else tensors["hidden"]
    same, _ = ip_result("a1111", variant, uncond=cond)
    assert difference(same[:1], theirs[:1]) > SEEN
    assert difference(same[1:], theirs[1:]) < EXACT


def regions(tensors: dict[str, Tensor]) -> tuple[Region, ...]:
    return tuple(Region(word, tuple(box)) for word, box in zip(PHRASES, tensors["boxes"].tolist()))


def words(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(zip(PHRASES, tensors["phrases"]))


def gligen_result(layout: str, strength: float = 1.0) -> Tensor:
    tensors, meta = golden("gligen")
    adapter = seeded_adapter(meta["shapes"])
    assert isinstance(adapter, Gligen)
    prepared = adapter.prepare(GivenInputs([Layout(regions(tensors))], words(tensors), strength=strength))
    return run(layout, [prepared], tensors["x"], tensors["text"], timesteps(meta), UNCOND_FIRST)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gligen(layout: str) -> None:
    tensors, meta = golden("gligen")
    assert difference(gligen_result(layout), tensors["out"]) < EXACT
    assert difference(gligen_result(layout, meta["weak"]), tensors["out_weak"]) < EXACT


def test_tokens_of_gligen_and_interactdiffusion() -> None:
    for kind in ("gligen", "interactdiffusion"):
        tensors, meta = golden(kind)
        adapter = seeded_adapter(meta["shapes"])
        if kind == "gligen":
            layout, texts = Layout(regions(tensors)), words(tensors)
        else:
            layout, texts = interaction_layout(tensors, meta), interaction_words(tensors)
        ours = torch.stack([adapter.tokens(Layout(), {}), adapter.tokens(layout, texts)])
        assert difference(ours, tensors["tokens"]) < EXACT


def test_gligen_shows_when_the_negative_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_prompts_alone(self: Any, layer: Any, block: Any, x: torch.Tensor, call: Any) -> Any:
        prompts = torch.tensor(call.rows.prompts)[:, None, None]
        return whole(self, layer, block, x, call) * prompts

    whole = gligen.PreparedGrounding.fused
    monkeypatch.setattr(gligen.PreparedGrounding, "fused", on_prompts_alone)
    tensors, _ = golden("gligen")
    ours = gligen_result("a1111")
    assert difference(ours[:1], tensors["out"][:1]) > SEEN
    assert difference(ours[1:], tensors["out"][1:]) < EXACT


def interaction_layout(tensors: dict[str, Tensor], meta: dict[str, Any]) -> Layout:
    pairs = [Interaction(a, f"does {n}", b) for n, (a, b) in enumerate(meta["pairs"])]
    return Layout(regions(tensors), tuple(pairs))


def interaction_words(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**words(tensors), **{f"does {n}": action for n, action in enumerate(tensors["actions"])}}


def interaction_result(layout: str) -> Tensor:
    tensors, meta = golden("interactdiffusion")
    adapter = seeded_adapter(meta["shapes"])
    assert isinstance(adapter, InteractDiffusion)
    prepared = adapter.prepare(GivenInputs([interaction_layout(tensors, meta)], interaction_words(tensors)))
    return run(layout, [prepared], tensors["x"], tensors["text"], timesteps(meta), UNCOND_FIRST)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_interactdiffusion(layout: str) -> None:
    tensors, _ = golden("interactdiffusion")
    assert difference(interaction_result(layout), tensors["out"]) < EXACT


MIGC_CASES = {
    "migc": ("shapes", "128x128", 0, 26 / 50, 0.0),
    "migc_naive": ("shapes", "256x128", 25, 26 / 50, 26 / 50),
    "naive": ("shapes", "128x128", 26, 26 / 50, 31 / 50),
    "plain": ("shapes", "128x128", 26, 26 / 50, 26 / 50),
    "plus": ("shapes_plus", "128x128", 0, 26 / 50, 1.0),
    "plus_alone": ("shapes_plus", "128x128", 0, 26 / 50, 0.0),
}
"""The weights, the picture, the step of 50, and the shares of steps of MIGC and of NaiveFuser."""
MIGC_BLOCKS = ["middle_block.1", "output_blocks.3.1", "output_blocks.4.1", "output_blocks.5.1"]


def migc_adapter(shapes: dict[str, list[int]], plus: bool) -> Migc:
    """The files' names differ from those that the weights are drawn by."""
    file = adapter_file(seeded(shapes), "golden.ckpt")
    assert file.variant == ("migc++" if plus else "migc")
    own = {name: list(tensor.shape) for name, tensor in file.tensors.items()}
    adapter = adapter_of(replace(file, tensors=seeded(own)))
    assert isinstance(adapter, Migc)
    return adapter


def migc_result(
    layout: str, case: str, monkeypatch: pytest.MonkeyPatch, prompts: tuple[bool, bool] = (False, True)
) -> tuple[Tensor, Tensor]:
    """Ours and the published one's, with the slots in the order in which that drew them."""
    tensors, meta = golden("migc")
    shapes, size, step, until, naive_until = MIGC_CASES[case]
    adapter = migc_adapter(meta[shapes], shapes == "shapes_plus")
    orders = dict(zip(MIGC_BLOCKS, tensors.get(f"orders_{case}", torch.zeros(4, 28)).long().tolist()))
    monkeypatch.setattr(migc, "slot_order", lambda seed, progress, block, slots: orders[block.split(".trans")[0]])
    things = Layout(tuple(Region(word, tuple(box)) for word, box in zip(PHRASES, meta["boxes"])))
    pooled, contexts = dict(zip(PHRASES, tensors["pooled"][1:])), dict(zip(PHRASES, tensors["text"][2:]))
    prepared = adapter.prepare(GivenInputs([things], pooled, contexts, until=until), naive_until)
    rows = Rows((0, 0), prompts, step / 50)
    ours = run(layout, [prepared], tensors[f"x_{size}"], tensors["text"][:2], timesteps(meta), rows)
    return ours, tensors[f"out_{case}"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", MIGC_CASES)
def test_migc(layout: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = migc_result(layout, case, monkeypatch)
    assert difference(ours, theirs) < EXACT


def test_migc_leaves_negative_prompts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, meta = golden("migc")
    _, predict = shared_unet_of("a1111", 768)
    with torch.no_grad():
        plain = predict(tensors["x_128x128"], timesteps(meta), tensors["text"][:2])
    ours, theirs = migc_result("a1111", "migc", monkeypatch)
    assert torch.equal(ours[:1], plain[:1])
    swapped, _ = migc_result("a1111", "migc", monkeypatch, (True, False))
    assert difference(swapped[:1], theirs[:1]) > SEEN


def of_order(order: list[int]) -> Any:
    right = migc._aggregated
    return lambda layer, phases, guides, grid, _: right(layer, phases, guides, grid, order)


_box_embedding = migc.box_embedding
MISTAKES: dict[str, tuple[str, list[tuple[Any, str, Any]]]] = {
    # a UNet runs its blocks in another order than files number them: the middle between down and up
    "order of IP-Adapter's layers": ("ip", [(ip_adapter, "sorted", lambda blocks, key: list(blocks))]),
    "subject and object": ("interaction", [(interactdiffusion, "SUBJECT", 1), (interactdiffusion, "OBJECT", 0)]),
    "action and object": ("interaction", [(interactdiffusion, "ACTION", 1), (interactdiffusion, "OBJECT", 2)]),
    "box of the action": ("interaction", [(interactdiffusion, "between", lambda a, b: (a[0], a[1], b[2], b[3]))]),
    "order of MIGC's box": ("migc", [(migc, "box_embedding", lambda boxes: _box_embedding(boxes[:, [0, 2, 1, 3]]))]),
    "order of MIGC's slots": ("migc", [(migc, "_aggregated", None)]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_shows(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, changes = MISTAKES[mistake]
    for module, name, value in changes:
        if value is None:
            value = of_order(golden("migc")[0]["orders_migc"][0].long().flip(0).tolist())
        monkeypatch.setattr(module, name, value, raising=False)
    if kind == "interaction":
        ours, theirs = interaction_result("a1111"), golden("interactdiffusion")[0]["out"]
    else:
        ours, theirs = ip_result("a1111", "base") if kind == "ip" else migc_result("a1111", "migc", monkeypatch)
    assert difference(ours[1:], theirs[1:]) > SEEN
