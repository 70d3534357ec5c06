"""AMDM on a card, as the rehearsal of `card/` has one: pictures, where models are and end, moves, waits, memory.

Each WebUI is started in its several ways to use a card; a copy of it on the CPU draws the pictures to compare with.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import random_adapters as adapter_files
from random_adapters import GLIGEN, KINDS

from .hosts import HOSTS, Host
from .probed import OPTIONS, STEPS, Drawn, Failed, Probed, distance, settings, slot
from .rehearsal import PLENTY, Card, Model, Rehearsal
from .test_adapters import adapter, with_main
from .test_features import right_half
from .test_networks import lora  # noqa: F401 -- a fixture
from .webui_server import WebUI

NAMED = [host for host in HOSTS.values() if host.directory() is not None] or list(HOSTS.values())
WAYS = tuple(dict.fromkeys(way for host in NAMED for way in host.card_ways))
SAMPLERS = ("Euler", "Euler a", "DPM++ 2M", "DDIM", "UniPC", "PLMS")
TEXTS = (f"a blue circle, {number}" for number in itertools.count())
"""Texts that no picture has had, which must be encoded."""

K = 3
BOTH = settings(slot("beta", prompt="a blue circle"), slot("gamma"), steps=K)
NEAR = 0.02
"""The distance to which such a part takes latents of size 10."""

OF_ROUNDING = 1e-5

FEW = 4
"""A pass may read the highest noise level of each model, and where its text encoder is."""

MEMORY_ERRORS = ("OutOfMemoryError", "AcceleratorError", "RuntimeError", "cuBLAS")


@pytest.fixture(scope="module")
def on_cpu(webui_host: Host, start_webui: Callable[..., WebUI]) -> Probed:
    """The same WebUI without a card."""
    server = start_webui(probe=True, options=OPTIONS, card=None, arguments=webui_host.cpu_as_card)
    write_adapters(server)
    return Probed(server)


@pytest.fixture(scope="module", params=WAYS)
def probed(request: pytest.FixtureRequest, webui_host: Host, start_webui: Callable[..., WebUI]) -> Iterator[Probed]:
    """A WebUI with a card that has memory enough."""
    if request.param not in webui_host.card_ways:
        pytest.skip(f"{webui_host.name} has no such way")
    server = start_webui(probe=True, options=OPTIONS, card=webui_host.card_ways[request.param])
    write_adapters(server)
    yield Probed(server)
    server.stop()


@pytest.fixture(scope="module")
def plain(probed: Probed) -> np.ndarray:
    """The latents that it draws without AMDM."""
    return probed.draw().latent


@pytest.fixture
def card(probed: Probed) -> Iterator[Card]:
    """Its card, with a script that is put back; nothing is loaded, and afterwards nothing has been mixed."""
    probed.unload()
    card = Card(probed.server)
    yield card
    mixed = card.report()["mixed"]
    card.reset()
    probed.unload()
    assert mixed == []


def write_adapters(server: WebUI) -> None:
    shape = adapter_files.Shape.of(server.checkpoint_folder / "alpha.safetensors")
    adapter_files.write(server.data / "models" / "amdm", shape)


def rehearsal(probed: Probed) -> Rehearsal:
    """The rehearsal that the WebUI runs on."""
    assert probed.server.card is not None
    return probed.server.card


def travels(probed: Probed) -> bool:
    """Return True if the WebUI has one model at a time on the card."""
    return bool({"--medvram", "--lowvram"} & set(rehearsal(probed).flags))


def own_waits(report: dict[str, Any]) -> dict[str, int]:
    """The waits of AMDM's own lines; the host's, and the counted moves of models, have their own tests."""
    return {
        place: count
        for place, count in report["waits"].items()
        if " through " not in place and not place.startswith("moving")
    }


# ---- pictures ----


@dataclass
class Pictures:
    """Pictures of a server with a card, beside those of another on the CPU."""

    probed: Probed
    on_cpu: Probed
    plain: np.ndarray

    def check(self, amdm: Any, rounded: bool = False, **request: Any) -> Drawn:
        """A picture that is the CPU's, and the next one without AMDM the same as ever.

        In the numbers that a card alone computes in, it is drawn twice instead. rounded: a part of it, LoRAs or the
        image encoder, has 16 bits on a card in Forge and its kin.
        """
        server = self.probed.server
        drawn, other = self.probed.draw(amdm, **request), self.probed if rehearsal(self.probed).native else self.on_cpu
        off = distance(drawn.latent, other.draw(amdm, **request).latent)
        assert off <= (NEAR if rounded and "medvram" in server.host.lacks else 0)
        assert distance(self.probed.draw().latent, self.plain) == 0
        return drawn


@pytest.fixture
def pictures(card: Card, probed: Probed, on_cpu: Probed, plain: np.ndarray) -> Pictures:
    return Pictures(probed, on_cpu, plain)


def test_a_picture_without_amdm_is_the_cpus(pictures: Pictures) -> None:
    pictures.check(None)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_picture_is_the_cpus(pictures: Pictures, sampler: str) -> None:
    drawn = pictures.check(BOTH, sampler_name=sampler)
    assert drawn.report["co_models"] == [K, K]


def test_a_new_text_of_a_kept_co_model(pictures: Pictures) -> None:
    for _ in range(2):
        pictures.check(settings(slot("beta", prompt=next(TEXTS))))


def test_hires_fix_and_a_picture_to_start_from(pictures: Pictures) -> None:
    hires: dict[str, Any] = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}
    drawn = pictures.check(BOTH, **hires)
    pictures.check(BOTH, init=drawn.picture, denoising_strength=0.7)


@pytest.mark.parametrize("first", [[], [slot("beta")]], ids=["alone", "after a co-model"])
def test_a_lora_on_the_main_model_of_a_slot(
    lora: None,  # noqa: F811
    lora_of_cpu: None,
    pictures: Pictures,
    first: list[dict[str, Any]],
) -> None:
    amdm = settings(*first, slot("main", prompt="a blue circle <lora:strong:1>"))
    for sampler in ("Euler", "DDIM"):
        pictures.check(amdm, rounded=True, sampler_name=sampler)
    # a prompt that is new to the main model
    pictures.check(None, prompt=next(TEXTS))


@pytest.fixture(scope="module")
def lora_of_cpu(lora: None, probed: Probed, on_cpu: Probed) -> None:  # noqa: F811
    """The same files on the CPU's server."""
    for file in (probed.server.data / "models" / "Lora").iterdir():
        target = on_cpu.server.data / "models" / "Lora" / file.name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
    on_cpu.server.call("/sdapi/v1/refresh-loras", {})


def test_a_lora_on_a_co_model(lora: None, lora_of_cpu: None, pictures: Pictures) -> None:  # noqa: F811
    pictures.check(rounded=True, amdm=settings(slot("beta", prompt="a blue circle <lora:strong:1>"), slot("gamma")))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpoint", ["main", "beta"])
def test_an_adapter_of_a_slot(pictures: Pictures, kind: str, checkpoint: str) -> None:
    pictures.check(rounded=True, amdm=settings(slot(checkpoint, prompt=next(TEXTS), **adapter(kind))))


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_the_main_model(pictures: Pictures, kind: str) -> None:
    pictures.check(with_main(kind), rounded=True)
    # with the text encoder where its last picture's new prompt has left it
    pictures.check(with_main(kind), rounded=True, prompt=next(TEXTS))


# ---- on the CPU ----


@pytest.fixture
def memory_enough(probed: Probed) -> None:
    """Skip the ways with little memory, which what is on the CPU does not take."""
    if rehearsal(probed).megabytes < PLENTY:
        pytest.skip("the same as with memory enough")


def check_on_cpu(probed: Probed, plain: np.ndarray, changes: dict[str, Any], **request: Any) -> None:
    """A picture with a co-model on the CPU is the one with it on the card, and the next one without AMDM as ever."""
    drawn, other = (
        probed.draw(settings(slot("beta", **changes, **device), slot("gamma"), steps=K, eta=0), **request)
        for device in ({"device": "cpu"}, {})
    )
    assert drawn.report["co_models"] == [K, K] and "AMDM 1 device: cpu" in drawn.infotext
    near = NEAR if rehearsal(probed).native else OF_ROUNDING
    assert distance(drawn.latent, other.latent) <= near
    assert distance(probed.draw().latent, plain) == 0


@pytest.mark.parametrize("request_of", [{}, {"sampler_name": "DDIM"}, {"sampler_name": "Euler a", "batch_size": 2}])
def test_a_co_model_on_the_cpu_draws_the_same(
    card: Card, probed: Probed, plain: np.ndarray, request_of: dict[str, Any]
) -> None:
    check_on_cpu(probed, plain, {"prompt": next(TEXTS), "negative_prompt": next(TEXTS)}, **request_of)


def test_nothing_of_a_co_model_on_the_cpu_is_on_the_card(card: Card, probed: Probed, plain: np.ndarray) -> None:
    card.script()
    probed.draw(settings(slot("beta", prompt=next(TEXTS), device="cpu"), steps=K))
    (unet,), (text,) = card.models("unet", "co"), card.models("text", "co")
    # Forge and its kin may make it there, and their memory managers decide where a text encoder stays
    assert (unet.on_card, unet.up) == (0, 0)
    if "medvram" not in probed.server.host.lacks:
        assert (unet.down, text.on_card, text.up, text.down) == (0, 0, 1, 1)
    assert distance(probed.draw().latent, plain) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "a blue circle <lora:strong:1>"},
        adapter(GLIGEN),
        {"noise": "pixels", "size": 0},
        {"noise": "independent"},
    ],
    ids=["LoRA", "adapter", "pixels", "independent"],
)
def test_what_a_co_model_on_the_cpu_reads_is_there_too(
    memory_enough: None,
    lora: None,  # noqa: F811
    card: Card,
    probed: Probed,
    plain: np.ndarray,
    changes: dict[str, Any],
) -> None:
    check_on_cpu(probed, plain, changes)


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_an_inpainting_with_a_co_model_on_the_cpu(
    memory_enough: None, card: Card, probed: Probed, plain: np.ndarray, sampler: str
) -> None:
    """DDIM blends the known picture into the model's input, and Euler into its output."""
    start = probed.draw().picture
    inpainting: dict[str, Any] = {"mask": right_half(), "denoising_strength": 0.8, "sampler_name": sampler}
    check_on_cpu(probed, plain, {}, init=start, **inpainting)


def test_a_device_that_cannot_be_is_refused_in_a_sentence(
    memory_enough: None, card: Card, probed: Probed, plain: np.ndarray
) -> None:
    message = probed.fail(settings(slot("beta", device="cuda:3"))).message
    assert message.startswith('AMDM co-model 1: device "cuda:3" is not one of auto, cpu; ')
    assert distance(probed.draw().latent, plain) == 0


# ---- moves and waits ----


def test_where_models_are_after_a_picture_and_how_often_they_moved(card: Card, probed: Probed) -> None:
    probed.draw(BOTH)
    card.script()
    report = probed.draw(settings(slot("beta", prompt=next(TEXTS)), slot("gamma"), steps=K)).report
    assert report["co_models"] == [K, K]
    unets, texts = card.models("unet", "co"), card.models("text", "co")
    if travels(probed):
        assert [model.on_card for model in unets + texts] == [0] * 4
        assert [(model.up, model.down) for model in unets] == [(K, K)] * 2
        assert sorted((model.up, model.down) for model in texts) == [(0, 0), (1, 1)]
    elif rehearsal(probed).megabytes == PLENTY:
        assert [(model.up, model.down) for model in unets + texts] == [(0, 0)] * 4
    else:
        assert all(model.up <= 1 and model.down <= 1 for model in unets + texts + card.models("unet", "main"))


def test_kept_texts_move_no_text_encoder(card: Card, probed: Probed) -> None:
    for _ in range(2):
        card.script()
        probed.draw(BOTH)
    assert [(model.up, model.down) for model in card.models("text", "co")] == [(0, 0)] * 2


def test_no_wait_for_each_evaluation_but_for_what_is_shown(card: Card, probed: Probed) -> None:
    """A step's shares and seconds are read once it is over; nothing else stops the card's queue."""
    probed.draw(BOTH)
    waits = []
    for evaluations in (2, 4):
        card.script(late=0)
        probed.draw(settings(slot("beta", prompt="a blue circle"), slot("gamma"), steps=evaluations))
        waits.append(own_waits(card.report()))
    few, many = waits
    assert many == few


def test_a_pass_with_what_is_kept_waits_a_few_times(card: Card, probed: Probed) -> None:
    """A schedule or an adapter that is copied tensor by tensor would wait for each."""
    for _ in range(2):
        card.script(late=0)
        probed.draw(settings(slot("beta", prompt="a blue circle", **adapter(GLIGEN))))
    waits = own_waits(card.report())
    print(waits)
    assert max(waits.values(), default=0) <= FEW, waits


# ---- memory ----


@pytest.mark.needs("medvram")
def test_a_model_makes_room_where_little_is_left(card: Card, probed: Probed, pictures: Pictures) -> None:
    if travels(probed):
        pytest.skip("no co-model is there after its evaluation")
    amdm = settings(slot("beta"), steps=K)
    probed.draw(amdm)
    probed.draw()
    report = card.script()
    room = card.models("unet", "co")[0].on_card * 2 // 3
    card.script(others=report["total"] - report["live"] - room)
    pictures.check(amdm)
    assert card.report()["refused"] == []
    assert card.models("unet", "co")[0].on_card == 0


def test_a_model_that_does_not_fit_is_used_in_parts_or_refused_in_words(
    card: Card, probed: Probed, plain: np.ndarray
) -> None:
    amdm = settings(slot("beta"), steps=K)
    probed.draw(amdm)
    probed.server.call("/amdm-probe/arm", {})
    size = sum(card.models("unet", "co")[0].bytes.values())
    probed.unload()
    probed.draw()
    report = card.script()
    card.script(others=report["total"] - report["live"] - size // 2)
    drawn = probed.try_to_draw(amdm)
    if isinstance(drawn, Failed):
        assert card.report()["refused"] != []
        assert "memory" in drawn.message and drawn.message.startswith("AMDM"), drawn.message
        assert left_by_a_failure(card) == []
    card.reset()
    assert distance(probed.draw().latent, plain) == 0


LITTLE = 4 << 20
"""Bytes; more than a text encoder has beside its transformer, and less than any model or adapter."""
ONE_LAYER = 12 << 20
"""Bytes of the largest layer of a VAE, which Forge keeps for its stream of copies until the next layer is moved."""


def beside_main(card: Card) -> int:
    """Bytes on the card, without the main model's: how much of that is there is its memory manager's affair."""
    report = card.report()
    main = (model["bytes"].get("cuda", 0) for model in report["models"] if model["of"] == "main")
    return report["live"] - sum(main)


def on_card(card: Card, of: str) -> int:
    """Bytes of the main model, or of the co-models, on the card."""
    return sum(model["bytes"].get("cuda", 0) for model in card.report()["models"] if model["of"] == of)


def test_through_pixels_memory_is_the_models_and_what_one_needs_beside_its_weights(card: Card, probed: Probed) -> None:
    if rehearsal(probed).megabytes < PLENTY or travels(probed):
        pytest.skip("models take turns on the card")

    def peak(amdm: Any, checkpoint: str) -> int:
        card.script()
        probed.draw(amdm, checkpoint=checkpoint, width=192, height=192)
        return card.report()["peak"]

    other_alone = peak(None, "xl-alpha")
    beside_weights = other_alone - on_card(card, "main")
    alone = peak(None, "alpha")
    together = peak(settings(slot("xl-alpha", size=0), eta=0), "alpha")
    weights = on_card(card, "co")
    assert weights > 0 and together <= alone + weights + beside_weights


def test_an_adapter_leaves_the_card_with_its_picture(card: Card, probed: Probed) -> None:
    if "medvram" not in probed.server.host.lacks and not travels(probed):
        pytest.skip("it stays where there is room")
    probed.draw()
    before = beside_main(card)
    probed.draw(with_main(GLIGEN))
    probed.draw()
    probed.server.call("/amdm-probe/arm", {})
    assert beside_main(card) - before < LITTLE


def test_what_is_unloaded_is_gone(card: Card, probed: Probed) -> None:
    probed.draw()
    probed.server.call("/amdm-probe/arm", {})
    before = beside_main(card)
    probed.draw(BOTH)
    probed.server.call("/amdm-probe/arm", {})
    assert len(card.models("unet", "co")) == 2
    probed.unload()
    assert card.models("unet", "co") == card.models("text", "co") == []
    streams = "--cuda-stream" in rehearsal(probed).flags
    assert beside_main(card) - before < (ONE_LAYER if streams else LITTLE)


@pytest.mark.parametrize("limit", [0, 1])
def test_what_the_pool_drops_is_gone(card: Card, probed: Probed, limit: int) -> None:
    def draw() -> None:
        for name in ("beta", "gamma", "vpred") * 2:
            probed.draw(settings(slot(name)))
        probed.server.call("/amdm-probe/arm", {})

    probed.with_options({"amdm_pool_limit": limit}, draw)
    assert len(card.models("unet", "co")) == len(card.models("text", "co")) == limit


PLACES: dict[str, dict[str, Any]] = {
    "evaluation": {"operation": "conv2d", "place": "hosts/common/slot.py:denoise", "skip": 3},
    "text": {"operation": "embedding", "place": "hosts/common/slot.py:encode"},
    "loading": {},
    "mixing": {"operation": "mul", "place": "lib_amdm/core/sampling.py:_change"},
}


def left_by_a_failure(card: Card) -> list[Model]:
    """Co-models that are on the card still, or that something refers to."""
    card.server.call("/amdm-probe/arm", {})
    there = [model for kind in ("unet", "text") for model in card.models(kind, "co") if model.on_card]
    return there + [model for kind in ("unet", "text") for model in card.models(kind, "co", collect=True)]


def fault(probed: Probed, place: str, error: str = "OutOfMemoryError") -> dict[str, Any]:
    """The script's fault; it skips where nothing is loaded onto the card."""
    if place == "loading" and travels(probed):
        pytest.skip("it is loaded on the CPU")
    return {"error": error, **(PLACES[place] or probed.server.host.card_loading)}


def must_have_come(card: Card, probed: Probed, place: str) -> None:
    """Skip a fault of texts where the host encodes them on the CPU, and one of loading where there is no room to."""
    come = card.report()["refused"] != []
    if place == "text" and not come and "medvram" in probed.server.host.lacks:
        # as Forge does in 32 bits
        pytest.skip("texts are encoded on the CPU")
    if place == "loading" and not come and rehearsal(probed).megabytes < PLENTY:
        pytest.skip("its weights go to the card with each evaluation")
    assert come, "the fault did not come"


@pytest.mark.parametrize("error", MEMORY_ERRORS)
@pytest.mark.parametrize("place", PLACES)
def test_out_of_memory_leaves_nothing_and_says_what_to_do(
    card: Card, probed: Probed, plain: np.ndarray, place: str, error: str
) -> None:
    card.script(fault=fault(probed, place, error))
    failed = probed.try_to_draw(settings(slot("beta", prompt=next(TEXTS)), steps=K))
    must_have_come(card, probed, place)
    assert isinstance(failed, Failed), "a picture came"
    assert "memory" in failed.message and failed.message.startswith("AMDM"), failed.message
    assert "choose" not in failed.message, failed.message
    assert left_by_a_failure(card) == []
    assert distance(probed.draw().latent, plain) == 0


@pytest.mark.parametrize("place", PLACES)
def test_a_picture_that_goes_on_without_amdm_has_the_card_for_itself(card: Card, probed: Probed, place: str) -> None:
    def draw() -> Drawn:
        card.script(fault=fault(probed, place))
        return probed.draw(settings(slot("beta", prompt=next(TEXTS)), steps=K))

    drawn = probed.with_options({"amdm_on_error": "go on without AMDM"}, draw)
    must_have_come(card, probed, place)
    assert "memory" in drawn.comments
    assert drawn.report["unet"]["main"] == STEPS
    assert left_by_a_failure(card) == []


def test_attempts_that_fail_leave_the_same_memory(card: Card, probed: Probed) -> None:
    left = []
    for _ in range(3):
        card.script(fault=fault(probed, "evaluation"))
        probed.fail(settings(slot("beta"), slot("gamma"), steps=K))
        probed.server.call("/amdm-probe/arm", {})
        left.append(beside_main(card))
    assert max(left) - min(left) < LITTLE


# ---- a layout's phrases ----


def test_phrases_after_pictures_with_kept_texts(probed: Probed, pictures: Pictures) -> None:
    """The host has moved its text encoder off the card, and does not need it for this picture."""
    probed.draw(with_main(GLIGEN))
    probed.draw()
    probed.draw()
    other = {**adapter(GLIGEN), "layout": [{"phrase": next(TEXTS), "box": [0, 0, 0.5, 0.5]}]}
    pictures.check({"enabled": True, "co_models": [], "main_adapter": other})
