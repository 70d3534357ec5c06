"""Guidance and adapters at work: whose each row of a call is, and where a picture's features are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pretend_device import DEVICE, pretended
from random_adapters import IP_ADAPTER, IP_PLUS, Shape, write
from torch import Tensor

from lib_amdm.adapters.attach import blocks_of
from lib_amdm.comodels.adapter_use import Adapters, AtWork, MainRows, Place, pooled_at_end
from lib_amdm.comodels.file_list import Folder, lists
from lib_amdm.comodels.guidance import guided
from lib_amdm.errors import AdapterError
from lib_amdm.families import Family
from lib_amdm.files.pictures import as_text
from lib_amdm.settings import AdapterSettings
from tests.unets import shared_unet_of

parts = st.lists(st.integers(1, 3), min_size=1, max_size=4)


@given(parts, st.data())
def test_the_rows_are_the_same_in_however_many_calls_they_come(counts: list[int], data: st.DataObject) -> None:
    total = sum(counts) + len(counts)
    owners = [image for image, count in enumerate(counts) for _ in range(count)]
    images, prompts, rows = [], [], MainRows(counts)
    while len(images) < total:
        some = data.draw(st.integers(1, total - len(images)))
        taken = rows.take(some)
        assert len(taken[0]) == len(taken[1]) == some
        images += taken[0]
        prompts += taken[1]
    assert images == [*owners, *range(len(counts))]
    assert prompts == [True] * len(owners) + [False] * len(counts)


def test_more_rows_than_there_are_is_another_extensions_doing() -> None:
    rows = MainRows([1, 2])
    rows.take(5)
    with pytest.raises(AdapterError, match="another extension changes the batch"):
        rows.take(1)


@given(parts, st.booleans(), st.booleans(), st.booleans())
def test_guidance_announces_every_row_of_every_call(
    counts: list[int], together: bool, same_length: bool, skip: bool
) -> None:
    """Each row of a condition carries its image and whether it is a prompt's; what is announced must say the same."""
    rows = iter(range(sum(counts)))
    of_images = [[(next(rows), 1.0) for _ in range(count)] for count in counts]
    owners = [image for image, count in enumerate(counts) for _ in range(count)]
    cond = torch.tensor([[[float(image), 1.0]] for image in owners])
    uncond = torch.tensor([[[float(image), 0.0]] * (1 if same_length else 2) for image in range(len(counts))])
    announced: list[tuple[list[int], list[bool]]] = []

    def predict(x: Tensor, sigma: Tensor, cond: Tensor, rows: list[int]) -> Tensor:
        images, prompts = announced[-1]
        assert images == cond[:, 0, 0].int().tolist() == list(rows)
        assert prompts == (cond[:, 0, 1] == 1).tolist()
        return x

    x = torch.zeros(len(counts), 1)
    guided(
        predict,
        x,
        torch.ones(len(counts)),
        of_images,
        cond,
        uncond,
        2.0,
        skip,
        together,
        lambda images, prompts: announced.append((list(images), list(prompts))),
    )
    assert sum(len(images) for images, _ in announced) == sum(counts) + (0 if skip else len(counts))


def test_the_pooled_embedding_is_the_first_end_tokens_even_beside_higher_numbers() -> None:
    tokens = torch.tensor([[9, 99, 5, 7, 7], [9, 7, 7, 7, 7]])  # 99 is a textual inversion, 7 the end
    hidden = torch.arange(10.0).reshape(2, 5, 1)
    assert pooled_at_end(hidden, tokens, 7).flatten().tolist() == [3.0, 6.0]


CONTEXT = 40
CPU = torch.device("cpu")
PICTURE = as_text(Image.effect_mandelbrot((40, 30), (-2, -1.5, 1, 1.5), 20))


@pytest.fixture
def adapters(tmp_path: Path) -> Adapters:
    """Adapters of random weights for the tests' UNet, and their image encoder."""
    unet, _ = shared_unet_of("a1111", CONTEXT)
    write(tmp_path, Shape({block.name: block.width for block in blocks_of(unet)}, CONTEXT))
    folder = [Folder(tmp_path, own=True)]
    return Adapters(*lists(lambda: folder, lambda: folder))


def prepared(adapters: Adapters, kind: str, device: torch.device) -> AtWork:
    unet, _ = shared_unet_of("a1111", CONTEXT)
    place = Place(unet, Family("SD1"), None, [1], device, torch.float32, "AMDM", "co-model 1")
    return adapters.prepare(AdapterSettings(adapter=kind, image=PICTURE), place)


@pytest.mark.parametrize("kind", [IP_ADAPTER, IP_PLUS])
def test_a_pictures_features_wait_on_the_cpu_and_are_used_wherever_the_adapter_is(
    adapters: Adapters, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    get = adapters.images.recent.get
    monkeypatch.setattr(adapters.images.recent, "get", lambda *asked: kept.append(get(*asked)) or kept[-1])
    with pretended():
        first = prepared(adapters, kind, DEVICE)
        there = first.prepared.tokens
        first.park()
        assert first.prepared.adapter.device == CPU
        again = prepared(adapters, kind, DEVICE).prepared.tokens
        here = prepared(adapters, kind, CPU).prepared.tokens
    assert (there.device, again.device, here.device) == (DEVICE, DEVICE, CPU)
    assert {each.device for features in kept for each in (features.pictures, features.blank)} == {CPU}
    assert all(features is kept[0] for features in kept), "encoded again"
    for tokens in (there, again):
        torch.testing.assert_close(tokens.cpu(), here)


def test_prepared_pictures_work_on_a_model_of_another_precision_and_on_another_device(adapters: Adapters) -> None:
    blocks = blocks_of(shared_unet_of("a1111", CONTEXT)[0])
    rows, queries = torch.tensor([0, 1]), torch.randn(2, 6, blocks[0].width)

    def attended(at_work: AtWork, queries: Tensor) -> Tensor:
        prepared = at_work.prepared
        layer = prepared.adapter.layers(blocks)[blocks[0].name]
        call = SimpleNamespace(index=lambda *_: rows.to(queries.device))
        return prepared.attended(layer, blocks[0], queries, call)

    used = prepared(adapters, IP_ADAPTER, CPU)
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        fresh = prepared(adapters, IP_ADAPTER, CPU)
        found = attended(used, queries.to(dtype))
        assert found.dtype == dtype and torch.equal(found, attended(fresh, queries.to(dtype)))
    with pretended():
        there = attended(used, queries.to(DEVICE))
        assert there.device == DEVICE
        torch.testing.assert_close(there.cpu(), found)


class Model:
    """Predicts x * sigma + the mean of its condition, and remembers how many rows each call had."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, x: Tensor, sigma: Tensor, cond: Tensor | dict[str, Tensor], rows: list[int]) -> Tensor:
        self.calls.append(len(x))
        texts = cond["crossattn"] if isinstance(cond, dict) else cond
        assert len(x) == len(sigma) == len(texts) == len(rows)
        return (
            x * sigma.view(-1, 1, 1, 1)
            + texts.mean((1, 2)).view(-1, 1, 1, 1)
            + 10 * torch.tensor(rows).view(-1, 1, 1, 1)
        )


def case(length_of_uncond: int = 3, as_dict: bool = False) -> dict:
    generator = torch.Generator().manual_seed(1)
    cond, uncond = (torch.randn(rows, n, 4, generator=generator) for rows, n in ((3, 3), (2, length_of_uncond)))
    if as_dict:
        cond, uncond = ({"crossattn": part, "vector": part[:, 0]} for part in (cond, uncond))
    return {
        "x": torch.randn(2, 1, 2, 2, generator=generator),
        "sigma": torch.tensor([0.5, 2.0]),
        "parts": [[(0, 1.0), (1, -0.5)], [(2, 1.0)]],
        "cond": cond,
        "uncond": uncond,
        "cond_scale": 7.0,
    }


def by_hand(x, sigma, parts, cond, uncond, cond_scale):
    cond, uncond = (part["crossattn"] if isinstance(part, dict) else part for part in (cond, uncond))
    out = []
    for image, of_image in enumerate(parts):
        plain = x[image] * sigma[image] + 10 * image
        base = plain + uncond[image].mean()
        out.append(base + sum(w * cond_scale * (plain + cond[row].mean() - base) for row, w in of_image))
    return torch.stack(out)


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("length", [3, 6])
@pytest.mark.parametrize("together", [False, True])
def test_formula_holds_for_every_way_to_call_the_model(length, together, as_dict):
    given = case(length, as_dict)
    assert torch.allclose(guided(Model(), **given, together=together), by_hand(**given), atol=1e-5)


@pytest.mark.parametrize(
    ("length", "together", "calls"), [(3, True, [5]), (6, True, [3, 2]), (3, False, [2, 1, 2]), (6, False, [2, 1, 2])]
)
def test_rows_in_a_call(length, together, calls):
    model = Model()
    guided(model, **case(length), together=together)
    assert model.calls == calls


def test_without_the_negative_prompt_the_first_part_is_the_base_and_the_scale_is_one():
    given = case()
    model = Model()
    out = guided(model, **given, skip_uncond=True)
    given["uncond"] = torch.stack([given["cond"][0], given["cond"][2]])
    assert torch.allclose(out, by_hand(**{**given, "cond_scale": 1.0}), atol=1e-5)
    assert model.calls == [3]


def test_nothing_given_is_changed():
    given = case()
    before = {key: value.clone() for key, value in given.items() if isinstance(value, Tensor)}
    guided(Model(), **given)
    assert all(torch.equal(given[key], value) for key, value in before.items())
