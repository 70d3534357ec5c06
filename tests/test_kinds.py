"""A kind of adapter is one class in the registry, and asks for its own inputs alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from random_adapters import GLIGEN, INTERACT, IP_ADAPTER, LAYOUTS, MIGC, Shape, write
from safetensors.torch import save_file
from torch import Tensor

from lib_amdm.adapters import kinds
from lib_amdm.adapters.attach import blocks_of
from lib_amdm.adapters.base import Adapter, AdapterInfo, Attend, Block, Call, Prepared, Shapes, refused
from lib_amdm.adapters.inputs import Encoder, Features, Inputs
from lib_amdm.adapters.weights import Weights
from lib_amdm.comodels.adapter_use import Adapters, Phrases, Place
from lib_amdm.comodels.file_list import Folder, lists, model_folders
from lib_amdm.errors import AdapterError, AmdmError
from lib_amdm.families import Family
from lib_amdm.layout import Layout
from lib_amdm.settings import AdapterSettings
from tests.adapter_files import widths_of
from tests.unets import shared_unet_of

CONTEXT = 40
CPU = torch.device("cpu")
SHAPE = Shape(widths_of(shared_unet_of("a1111", CONTEXT)[0]), CONTEXT)


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


def adapters_in(folder: Path) -> Adapters:
    folders = [Folder(folder, own=True)]
    return Adapters(*lists(lambda: folders, lambda: folders))


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
    for names in ("InteractDiffusion and MIGC", "InteractDiffusion, MIGC and Tint"):
        with pytest.raises(AdapterError) as caught:
            kinds.identify({"weight": (4,)}, "mine")
        assert str(caught.value) == (
            f'"mine" is no adapter that AMDM knows; it takes IP-Adapter, GLIGEN, {names} files.'
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
    with pytest.raises(AssertionError, match="phrases were encoded"):
        adapters.prepare(AdapterSettings(adapter=GLIGEN, image="no picture", layout=LAYOUTS[GLIGEN]), place(Silent()))
    with pytest.raises(AmdmError, match=r'^AMDM co-model 2: ".*" needs a layout; .* into the layout of co-model 2\.$'):
        adapters.prepare(AdapterSettings(adapter=GLIGEN, image="no picture"), place(Silent()))
