"""Our adapters give what the published implementations give (tests/golden), in every layout, and a wrong order or a
missing rule would show."""

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
from lib_amdm.adapters.files import adapter_file
from lib_amdm.adapters.gligen import Gligen
from lib_amdm.adapters.interactdiffusion import InteractDiffusion
from lib_amdm.adapters.ip_adapter import IPAdapter
from lib_amdm.adapters.make import adapter_of
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


# ----------------------------------------------------------------------------------------------------- IP-Adapter


def ip_result(
    layout: str, variant: str, rows: Rows = UNCOND_FIRST, uncond: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Ours and the published one's. uncond: what the negative prompt is told, if not the right thing."""
    told, meta = golden("ip_adapter")
    adapter = seeded_adapter({**meta["layers"], **meta["image_proj"][variant]})
    assert isinstance(adapter, IPAdapter)
    cond = told["features"] if variant == "base" else told["hidden"]
    if uncond is None and variant != "base":
        uncond = told["hidden_uncond"]
    prepared = adapter.told(cond, uncond, meta["scale"])
    ours = run(layout, [prepared], told["x"], told["text"], timesteps(meta), rows)
    return ours, told[f"out_{variant}"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", ["base", "plus", "full"])
def test_ip_adapter(layout: str, variant: str) -> None:
    ours, theirs = ip_result(layout, variant)
    assert difference(ours, theirs) < EXACT


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ip_adapter_for_sdxl(layout: str) -> None:
    told, meta = golden("ip_adapter")
    adapter = seeded_adapter({**meta["layers_xl"], **meta["image_proj"]["base"]})
    prepared = adapter.told(told["features"], strength=meta["scale"])
    ours = run(layout, [prepared], told["x"], told["text"], timesteps(meta), UNCOND_FIRST, xl=True)
    assert difference(ours, told["out_xl"]) < EXACT


def test_ip_adapter_shows_a_wrong_order_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A UNet runs its blocks in another order than files number them: the middle between down and up."""
    monkeypatch.setattr(ip_adapter, "sorted", lambda blocks, key: list(blocks), raising=False)
    ours, theirs = ip_result("a1111", "base")
    assert difference(ours, theirs) > SEEN


@pytest.mark.parametrize("variant", ["base", "plus", "full"])
def test_ip_adapter_shows_a_wrong_negative(variant: str) -> None:
    swapped, theirs = ip_result("a1111", variant, Rows((0, 0), (True, False)))
    assert difference(swapped[:1], theirs[:1]) > SEEN
    told, _ = golden("ip_adapter")
    cond = told["features"] if variant == "base" else told["hidden"]
    same, _ = ip_result("a1111", variant, uncond=cond)
    assert difference(same[:1], theirs[:1]) > SEEN
    assert difference(same[1:], theirs[1:]) < EXACT


# --------------------------------------------------------------------------------------------------------- GLIGEN


def regions(told: dict[str, Tensor]) -> tuple[Region, ...]:
    return tuple(Region(word, tuple(box)) for word, box in zip(PHRASES, told["boxes"].tolist()))


def words(told: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(zip(PHRASES, told["phrases"]))


def gligen_result(layout: str, strength: float = 1.0) -> Tensor:
    told, meta = golden("gligen")
    adapter = seeded_adapter(meta["shapes"])
    assert isinstance(adapter, Gligen)
    prepared = adapter.told([Layout(regions(told))], words(told), strength)
    return run(layout, [prepared], told["x"], told["text"], timesteps(meta), UNCOND_FIRST)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gligen(layout: str) -> None:
    told, meta = golden("gligen")
    assert difference(gligen_result(layout), told["out"]) < EXACT
    assert difference(gligen_result(layout, meta["weak"]), told["out_weak"]) < EXACT


def test_gligen_tokens() -> None:
    told, meta = golden("gligen")
    adapter = seeded_adapter(meta["shapes"])
    ours = torch.stack([adapter.tokens(Layout(), {}), adapter.tokens(Layout(regions(told)), words(told))])
    assert difference(ours, told["tokens"]) < EXACT


def test_gligen_shows_when_the_negative_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_prompts_alone(self, layer, block, x, call):
        prompts = torch.tensor(call.rows.prompts)[:, None, None]
        return whole(self, layer, block, x, call) * prompts

    whole = gligen.ToldGrounding.fused
    monkeypatch.setattr(gligen.ToldGrounding, "fused", on_prompts_alone)
    told, _ = golden("gligen")
    ours = gligen_result("a1111")
    assert difference(ours[:1], told["out"][:1]) > SEEN
    assert difference(ours[1:], told["out"][1:]) < EXACT


# ---------------------------------------------------------------------------------------------- InteractDiffusion


def interaction_layout(told: dict[str, Tensor], meta: dict[str, Any]) -> Layout:
    pairs = [Interaction(a, f"does {n}", b) for n, (a, b) in enumerate(meta["pairs"])]
    return Layout(regions(told), tuple(pairs))


def interaction_words(told: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**words(told), **{f"does {n}": action for n, action in enumerate(told["actions"])}}


def interaction_result(layout: str) -> Tensor:
    told, meta = golden("interactdiffusion")
    adapter = seeded_adapter(meta["shapes"])
    assert isinstance(adapter, InteractDiffusion)
    prepared = adapter.told([interaction_layout(told, meta)], interaction_words(told))
    return run(layout, [prepared], told["x"], told["text"], timesteps(meta), UNCOND_FIRST)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_interactdiffusion(layout: str) -> None:
    told, _ = golden("interactdiffusion")
    assert difference(interaction_result(layout), told["out"]) < EXACT


def test_interactdiffusion_tokens() -> None:
    told, meta = golden("interactdiffusion")
    adapter = seeded_adapter(meta["shapes"])
    ours = [
        adapter.tokens(Layout(), {}),
        adapter.tokens(interaction_layout(told, meta), interaction_words(told)),
    ]
    assert difference(torch.stack(ours), told["tokens"]) < EXACT


@pytest.mark.parametrize("mistake", [{"SUBJECT": 1, "OBJECT": 0}, {"ACTION": 1, "OBJECT": 2}])
def test_interactdiffusion_shows_wrong_roles(mistake: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    for role, row in mistake.items():
        monkeypatch.setattr(interactdiffusion, role, row)
    told, _ = golden("interactdiffusion")
    assert difference(interaction_result("a1111"), told["out"]) > SEEN


def test_interactdiffusion_shows_a_wrong_box_of_the_action(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interactdiffusion, "between", lambda a, b: (a[0], a[1], b[2], b[3]))
    told, _ = golden("interactdiffusion")
    assert difference(interaction_result("a1111"), told["out"]) > SEEN


# ----------------------------------------------------------------------------------------------------------- MIGC

MIGC_CASES = {
    "migc": ("shapes", "128x128", 0, 26 / 50, 0.0),
    "migc_naive": ("shapes", "256x128", 25, 26 / 50, 26 / 50),
    "naive": ("shapes", "128x128", 26, 26 / 50, 31 / 50),
    "plain": ("shapes", "128x128", 26, 26 / 50, 26 / 50),
    "plus": ("shapes_plus", "128x128", 0, 26 / 50, 1.0),
    "plus_alone": ("shapes_plus", "128x128", 0, 26 / 50, 0.0),
}
"""Which weights, which picture, the step of 50, and the shares of steps of MIGC and of NaiveFuser."""
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
    told, meta = golden("migc")
    shapes, size, step, until, naive_until = MIGC_CASES[case]
    adapter = migc_adapter(meta[shapes], shapes == "shapes_plus")
    orders = dict(zip(MIGC_BLOCKS, told.get(f"orders_{case}", torch.zeros(4, 28)).long().tolist()))
    monkeypatch.setattr(migc, "slot_order", lambda seed, progress, block, slots: orders[block.split(".trans")[0]])
    things = Layout(tuple(Region(word, tuple(box)) for word, box in zip(PHRASES, meta["boxes"])))
    prepared = adapter.told(
        [things],
        dict(zip(PHRASES, told["pooled"][1:])),
        dict(zip(PHRASES, told["text"][2:])),
        until=until,
        naive_until=naive_until,
    )
    rows = Rows((0, 0), prompts, step / 50)
    ours = run(layout, [prepared], told[f"x_{size}"], told["text"][:2], timesteps(meta), rows)
    return ours, told[f"out_{case}"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", MIGC_CASES)
def test_migc(layout: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = migc_result(layout, case, monkeypatch)
    assert difference(ours, theirs) < EXACT


def test_migc_shows_a_wrong_order_of_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    right = migc.box_embedding
    monkeypatch.setattr(migc, "box_embedding", lambda boxes: right(boxes[:, [0, 2, 1, 3]]))
    ours, theirs = migc_result("a1111", "migc", monkeypatch)
    assert difference(ours[1:], theirs[1:]) > SEEN


def test_migc_shows_a_wrong_order_of_the_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    told, _ = golden("migc")
    order = told["orders_migc"][0].long().flip(0).tolist()
    monkeypatch.setattr(migc, "_aggregated", _with_order(migc._aggregated, order))
    ours, theirs = migc_result("a1111", "migc", monkeypatch)
    assert difference(ours[1:], theirs[1:]) > SEEN


def _with_order(aggregated, order: list[int]):
    return lambda layer, phases, guides, grid, _: aggregated(layer, phases, guides, grid, order)


def test_migc_leaves_negative_prompts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told, meta = golden("migc")
    _, predict = shared_unet_of("a1111", 768)
    with torch.no_grad():
        plain = predict(told["x_128x128"], timesteps(meta), told["text"][:2])
    ours, theirs = migc_result("a1111", "migc", monkeypatch)
    assert torch.equal(ours[:1], plain[:1])
    swapped, _ = migc_result("a1111", "migc", monkeypatch, (True, False))
    assert difference(swapped[:1], theirs[:1]) > SEEN
