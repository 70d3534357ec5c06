"""Adapters at work: a kind is one class in the registry, its inputs, its rows in a call, and guidance."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pretend_device import DEVICE, pretended
from random_adapters import GLIGEN, INTERACT, IP_ADAPTER, IP_PLUS, LAYOUTS, MIGC, Shape, write
from safetensors.torch import save_file
from torch import Tensor

from lib_amdm.adapters import kinds
from lib_amdm.adapters.attach import blocks_of
from lib_amdm.adapters.base import Adapter, AdapterInfo, Attend, Block, Call, Prepared, Shapes, refused
from lib_amdm.adapters.inputs import Encoder, Features, Inputs
from lib_amdm.adapters.ip_adapter import PreparedPictures
from lib_amdm.adapters.weights import Weights
from lib_amdm.comodels import adapter_use
from lib_amdm.comodels.adapter_use import Adapters, AtWork, MainRows, Phrases, Place, pooled_at_end, within
from lib_amdm.comodels.file_list import Folder, lists, model_folders
from lib_amdm.comodels.guidance import guided
from lib_amdm.errors import AdapterError, AmdmError
from lib_amdm.families import Family
from lib_amdm.files.pictures import as_text
from lib_amdm.layout import Layout
from lib_amdm.settings import AdapterSettings
from tests.adapter_files import widths_of
from tests.unets import shared_unet_of

parts = st.lists(st.integers(1, 3), min_size=1, max_size=4)


@given(parts, st.data())
def test_the_rows_are_the_same_in_however_many_calls_they_come(counts: list[int], data: st.DataObject) -> None:
    total = sum(counts) + len(counts)
    owners = [image for image, count in enumerate(counts) for _ in range(count)]
    images: list[int] = []
    prompts: list[bool] = []
    rows = MainRows(counts)
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

    def predict(x: Tensor, sigma: Tensor, cond: Any, rows: list[int]) -> Tensor:
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
SHAPE = Shape(widths_of(shared_unet_of("a1111", CONTEXT)[0]), CONTEXT)
PICTURE = as_text(Image.effect_mandelbrot((40, 30), (-2, -1.5, 1, 1.5), 20))


def adapters_in(folder: Path) -> Adapters:
    folders = [Folder(folder, takes_all=True)]
    return Adapters(*lists(lambda: folders, lambda: folders))


@pytest.fixture
def adapters(tmp_path: Path) -> Adapters:
    """Adapters of random weights for the tests' UNet, and their image encoder."""
    write(tmp_path, SHAPE)
    return adapters_in(tmp_path)


def prepared(adapters: Adapters, kind: str, device: torch.device) -> AtWork:
    unet, _ = shared_unet_of("a1111", CONTEXT)
    place = Place(unet, Family("SD1"), None, [1], device, torch.float32, "AMDM", "co-model 1")
    return adapters.prepare(AdapterSettings(adapter=kind, image=PICTURE), place)


def tokens_of(at_work: AtWork) -> Tensor:
    assert isinstance(at_work.prepared, PreparedPictures)
    return at_work.prepared.tokens


@pytest.mark.parametrize("kind", [IP_ADAPTER, IP_PLUS])
def test_a_pictures_features_wait_on_the_cpu_and_are_used_wherever_the_adapter_is(
    adapters: Adapters, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    get = adapters.images.recent.get

    def watched(*asked: Any) -> Any:
        kept.append(get(*asked))
        return kept[-1]

    monkeypatch.setattr(adapters.images.recent, "get", watched)
    with pretended():
        first = prepared(adapters, kind, DEVICE)
        there = tokens_of(first)
        first.park()
        assert first.prepared.adapter.device == CPU
        again = tokens_of(prepared(adapters, kind, DEVICE))
        here = tokens_of(prepared(adapters, kind, CPU))
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
        call: Any = SimpleNamespace(index=lambda *_: rows.to(queries.device))
        added = prepared.attended(layer, blocks[0], queries, call)
        assert added is not None
        return added

    used = prepared(adapters, IP_ADAPTER, CPU)
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        fresh = prepared(adapters, IP_ADAPTER, CPU)
        found = attended(used, queries.to(dtype))
        assert found.dtype == dtype and torch.equal(found, attended(fresh, queries.to(dtype)))
    with pretended():
        there = attended(used, queries.to(DEVICE))
        assert there.device == DEVICE
        torch.testing.assert_close(there.cpu(), found)


def test_adapters_are_kept_as_many_as_are_wanted_or_as_the_last_picture_used(adapters: Adapters) -> None:
    for kind in (IP_ADAPTER, IP_PLUS):
        at_work = prepared(adapters, kind, CPU)
        assert at_work.name == kind
    assert [entry.name for entry in adapters.listing()] == [IP_ADAPTER, IP_PLUS]
    assert (adapters.trim(1, used=2), adapters.trim(1, used=1)) == (0, 1)
    assert [entry.name for entry in adapters.unload()] == [IP_PLUS] and adapters.listing() == []
    prepared(adapters, IP_ADAPTER, CPU)
    assert adapters.trim(0, used=1) == 1, "the user keeps none"


class Model:
    """Predicts x * sigma + the mean of its condition, and remembers how many rows each call had."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, x: Tensor, sigma: Tensor, cond: Tensor | dict[str, Tensor], rows: list[int]) -> Tensor:
        self.calls.append(len(x))
        texts = cond["crossattn"] if isinstance(cond, dict) else cond
        assert len(x) == len(sigma) == len(texts) == len(rows)
        levels, means, images = (each.view(-1, 1, 1, 1) for each in (sigma, texts.mean((1, 2)), torch.tensor(rows)))
        return x * levels + means + 10 * images


def case(length_of_uncond: int = 3, as_dict: bool = False) -> dict:
    generator = torch.Generator().manual_seed(1)
    sizes = (3, 3, 4), (2, length_of_uncond, 4), (2, 1, 2, 2)
    drawn: list[Any] = [torch.randn(size, generator=generator) for size in sizes]
    cond, uncond, x = drawn
    if as_dict:
        cond, uncond = ({"crossattn": part, "vector": part[:, 0]} for part in (cond, uncond))
    parts = [[(0, 1.0), (1, -0.5)], [(2, 1.0)]]
    conditions = {"parts": parts, "cond": cond, "uncond": uncond, "cond_scale": 7.0}
    return {"x": x, "sigma": torch.tensor([0.5, 2.0]), **conditions}


def by_hand(x: torch.Tensor, sigma: torch.Tensor, parts: Any, cond: Any, uncond: Any, cond_scale: Any) -> Any:
    cond, uncond = (part["crossattn"] if isinstance(part, dict) else part for part in (cond, uncond))
    out = []
    for image, of_image in enumerate(parts):
        plain = x[image] * sigma[image] + 10 * image
        base = plain + uncond[image].mean()
        out.append(base + sum(w * cond_scale * (plain + cond[row].mean() - base) for row, w in of_image))
    return torch.stack(out)


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize(
    ("length", "together", "calls"), [(3, True, [5]), (6, True, [3, 2]), (3, False, [2, 1, 2]), (6, False, [2, 1, 2])]
)
def test_the_formula_holds_for_every_way_to_call_the_model_and_nothing_given_is_changed(
    length: int, together: bool, calls: list[int], as_dict: bool
) -> None:
    given, untouched, model = case(length, as_dict), case(length, as_dict), Model()
    assert torch.allclose(guided(model, **given, together=together).denoised, by_hand(**untouched), atol=1e-5)
    assert model.calls == calls
    torch.testing.assert_close(given, untouched, rtol=0, atol=0)


def test_without_the_negative_prompt_the_first_part_is_the_base_and_the_scale_is_one() -> None:
    given = case()
    model = Model()
    out = guided(model, **given, skip_uncond=True)
    given["uncond"] = torch.stack([given["cond"][0], given["cond"][2]])
    assert out.base is None
    assert torch.allclose(out.denoised, by_hand(**{**given, "cond_scale": 1.0}), atol=1e-5)
    assert model.calls == [3]


class PreparedTint(Prepared):
    def replaced(
        self, layer: Weights | None, block: Block, h: Tensor, out: Tensor, call: Call, attend: Attend
    ) -> Tensor | None:
        return None if layer is None else out + self.strength * layer.weight


class Tint(Adapter):
    """A toy kind: a constant for the output of the middle block's cross-attention."""

    kind, title, folders = "tint", "Tint", "tints?"

    @classmethod
    def recognise(cls, shapes: Shapes, name: str) -> AdapterInfo | None:
        if "tint.weight" not in shapes:
            return None
        if shapes["tint.weight"][0] == 13:
            raise refused(name, "is an unlucky tint; choose another")
        return AdapterInfo(cls.kind, "SD1", "plain", name)

    @classmethod
    def rename(cls, names: Iterable[str]) -> dict[str, str]:
        return {name: name.replace("tint.", "colour.") for name in names if name.startswith("tint.")}

    @classmethod
    def required(cls, variant: str, names: Collection[str]) -> Iterable[str]:
        return ["colour.weight", "colour.name"]

    def layers(self, blocks: Sequence[Block]) -> dict[str, Weights]:
        return {block.name: self["colour"] for block in blocks if block.name.startswith("middle")}

    def prepare(self, inputs: Inputs) -> PreparedTint:
        return PreparedTint(self, inputs.strength, inputs.until)


@pytest.fixture
def with_tint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "KINDS", (*kinds.KINDS, Tint))


def tint(width: int) -> dict[str, Tensor]:
    return {"tint.weight": torch.ones(width), "tint.name": torch.zeros(1), "other": torch.zeros(1)}


def place(phrases: Phrases | None = None) -> Place:
    unet, _ = shared_unet_of("a1111", CONTEXT)
    return Place(unet, Family("SD1"), phrases, [1], CPU, torch.float32, "AMDM co-model 2", "co-model 2")


@pytest.mark.usefixtures("with_tint")
def test_a_fifth_kind_is_read_checked_and_listed(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "my-Tint"
    folder.mkdir(parents=True)
    save_file(tint(8), folder / "red.safetensors")
    save_file({"tint.weight": torch.ones(8)}, folder / "half.safetensors")
    save_file(tint(13), folder / "unlucky.safetensors")
    info, file = kinds.describe(folder / "red.safetensors"), kinds.read_adapter(folder / "red.safetensors")
    assert (info.kind, info.family, info.variant) == (file.kind, file.family, file.variant) == ("tint", "SD1", "plain")
    assert set(file.tensors) == {"colour.weight", "colour.name"}
    assert isinstance(kinds.adapter_of(file), Tint)
    with pytest.raises(AdapterError, match=r'^"half\.safetensors" lacks 1 of its tensors \(first colour\.name\)'):
        kinds.read_adapter(folder / "half.safetensors")
    with pytest.raises(AdapterError, match=r'^"unlucky\.safetensors" is an unlucky tint; choose another\.$'):
        kinds.read_adapter(folder / "unlucky.safetensors")
    adapters, _ = lists(lambda: model_folders(tmp_path / "models")[0], list)
    assert adapters.titles() == ["half.safetensors", "red.safetensors"]


@pytest.mark.usefixtures("with_tint")
def test_a_file_is_described_from_disk_once_until_it_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described: list[Path] = []
    describe = adapter_use.describe

    def counted(path: Path) -> Any:
        described.append(path)
        return describe(path)

    monkeypatch.setattr(adapter_use, "describe", counted)
    save_file(tint(8), tmp_path / "red.safetensors")
    adapters = adapters_in(tmp_path)
    infos = [adapters.info("red.safetensors") for _ in range(2)]
    assert infos[0] == infos[1] is not None and len(described) == 1
    save_file(tint(13), tmp_path / "red.safetensors")
    assert adapters.info("red.safetensors") is None and len(described) == 2
    assert adapters.info("lost.safetensors") is None


@pytest.mark.usefixtures("with_tint")
def test_a_fifth_kind_works_on_a_model(tmp_path: Path) -> None:
    unet, predict = shared_unet_of("a1111", CONTEXT)
    width = next(block.width for block in blocks_of(unet) if block.name.startswith("middle"))
    save_file(tint(width), tmp_path / "red.safetensors")
    adapters = adapters_in(tmp_path)
    x, t, text = torch.ones(2, 4, 16, 16), torch.full((2,), 300), torch.ones(2, 7, CONTEXT)
    at_work = adapters.prepare(AdapterSettings(adapter="red"), place())
    with torch.no_grad(), at_work.on(unet):
        plain = predict(x, t, text)
        at_work.announce((0, 0), (True, False), 0.0)
        assert (predict(x, t, text) - plain).abs().max() > 1e-3


def test_an_unknown_file_is_refused_with_the_kinds_there_are(request: pytest.FixtureRequest) -> None:
    titles = [kind.title for kind in kinds.KINDS]
    assert titles[:4] == ["IP-Adapter", "GLIGEN", "InteractDiffusion", "MIGC"]
    for further in ([], ["Tint"]):
        *others, last = [*titles, *further]
        with pytest.raises(AdapterError) as caught:
            kinds.identify({"weight": (4,)}, "mine")
        assert str(caught.value) == (
            f'"mine" is no adapter that AMDM knows; it takes {", ".join(others)} and {last} files.'
        )
        request.getfixturevalue("with_tint")


def test_each_file_is_of_one_kind_alone(tmp_path: Path) -> None:
    write(tmp_path, SHAPE)
    for name in (IP_ADAPTER, GLIGEN, INTERACT, MIGC):
        shapes = {key: tuple(value.shape) for key, value in kinds.read_adapter(tmp_path / name).tensors.items()}
        assert sum(kind.recognise(shapes, name) is not None for kind in kinds.KINDS) == 1


class Asked:
    """Inputs that note what they are asked for."""

    strength, until, seeds = 1.0, 1.0, (1,)

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.asked: set[str] = set()

    @property
    def layouts(self) -> Sequence[Layout]:
        self.asked.add("layouts")
        return [self.layout]

    def pooled(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        self.asked.add("pooled")
        return {text: torch.zeros(CONTEXT) for text in texts}

    def contexts(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        self.asked.add("contexts")
        return {text: torch.zeros(7, CONTEXT) for text in texts}

    def features(self, encoder: Encoder) -> Features:
        self.asked.add("features")
        return Features(torch.zeros(1, encoder.width))


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        (IP_ADAPTER, {"features"}),
        (GLIGEN, {"layouts", "pooled"}),
        (INTERACT, {"layouts", "pooled"}),
        (MIGC, {"layouts", "pooled", "contexts"}),
    ],
)
def test_an_adapter_asks_for_its_own_inputs_alone(name: str, asked: set[str], tmp_path: Path) -> None:
    write(tmp_path, SHAPE)
    inputs = Asked(Layout.read(LAYOUTS.get(name, "")))
    kinds.adapter_of(kinds.read_adapter(tmp_path / name)).prepare(inputs)
    assert inputs.asked == asked


class Silent:
    """A text encoder that must not be asked."""

    def pooled(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        raise AssertionError("phrases were encoded")

    contexts = pooled


def test_a_slot_makes_no_input_that_its_adapter_does_not_ask_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layout in an IP-Adapter's slot is not even read, nor an image in a layout adapter's."""
    write(tmp_path, SHAPE)
    adapters = adapters_in(tmp_path)
    with pytest.raises(AmdmError, match=r"^AMDM co-model 2: the adapter's image cannot be read"):
        adapters.prepare(
            AdapterSettings(adapter=IP_ADAPTER, image="no picture", layout=LAYOUTS[GLIGEN]), place(Silent())
        )
    monkeypatch.setattr(adapters.images, "of", lambda *_: pytest.fail("a picture was encoded"))
    spoken = Asked(Layout())
    adapters.prepare(AdapterSettings(adapter=MIGC, image="no picture", layout=LAYOUTS[MIGC]), place(spoken))
    assert spoken.asked == {"pooled", "contexts"}
    with pytest.raises(AssertionError, match="phrases were encoded"):
        adapters.prepare(AdapterSettings(adapter=GLIGEN, image="no picture", layout=LAYOUTS[GLIGEN]), place(Silent()))
    with pytest.raises(AmdmError, match=r'^AMDM co-model 2: ".*" needs a layout; .* into the layout of co-model 2\.$'):
        adapters.prepare(AdapterSettings(adapter=GLIGEN, image="no picture"), place(Silent()))


def test_a_crop_has_its_part_of_an_adapters_layout_and_no_adapter_where_that_is_empty() -> None:
    left = AdapterSettings(adapter="gligen", layout="a boy: 0 0 0.5 1")
    assert Layout.read(within(left, (0.25, 0.0, 0.75, 1.0)).layout) == Layout.read("a boy: 0 0 0.5 1")
    assert not within(left, (0.5, 0.0, 1.0, 1.0)).used
    pictured = AdapterSettings(adapter="ip", image="a picture")
    assert within(pictured, (0.5, 0.0, 1.0, 1.0)) == pictured
