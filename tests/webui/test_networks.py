"""LoRAs stay where they are named: the main prompt's with the main model, a slot's own with its co-model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import random_adapters as adapter_files

from .probed import STEPS, Probed, distance, mirrored, settings, slot
from .test_features import options, refined

WITH_LORA = "a red square <lora:strong:1>"
WITHOUT = "a red square"
ALONE = settings(slot("beta", gamma=1, eta=0), eta=0, steps=STEPS)


SPREAD = 0.3
LINEAR, CONVOLUTION = (".to_q.weight", ".to_v.weight", ".fc1.weight"), ".in_layers.2.weight"
Parts = dict[str, np.ndarray]


def plain_parts(random: np.random.Generator, rows: int, columns: int) -> Parts:
    down, up = random.normal(0, SPREAD, (2, columns)), random.normal(0, SPREAD, (rows, 2))
    return {"lora_down.weight": down, "lora_up.weight": up, "alpha": np.array(2)}


def hada_parts(random: np.random.Generator, rows: int, columns: int) -> Parts:
    halves = {f"hada_w{n}_a": random.normal(0, 0.7, (rows, 2)) for n in (1, 2)}
    return halves | {f"hada_w{n}_b": random.normal(0, 0.7, (2, columns)) for n in (1, 2)} | {"alpha": np.array(2)}


def lokr_parts(random: np.random.Generator, rows: int, columns: int) -> Parts:
    return {"lokr_w1": random.normal(0, 0.7, (2, 2)), "lokr_w2": random.normal(0, SPREAD, (rows // 2, columns // 2))}


def ia3_parts(random: np.random.Generator, rows: int, columns: int) -> Parts:
    return {"weight": random.normal(0, 1, (rows,)), "on_input": np.array(0)}


def full_parts(random: np.random.Generator, rows: int, columns: int) -> Parts:
    return {"diff": random.normal(0, 0.1, (rows, columns)), "diff_b": random.normal(0, 0.1, (rows,))}


def dora_parts(random: np.random.Generator, rows: int, columns: int) -> Parts:
    return plain_parts(random, rows, columns) | {"dora_scale": random.uniform(1, 2, (1, columns))}


def conv_parts(random: np.random.Generator, rows: int, columns: int, *kernel: int) -> Parts:
    """LoCon: of a convolution with a kernel, `lora_up` is one of 1x1."""
    down, up = random.normal(0, SPREAD, (2, columns, *kernel)), random.normal(0, SPREAD, (rows, 2, 1, 1))
    return {"lora_down.weight": down, "lora_up.weight": up, "alpha": np.array(2)}


KINDS = {
    "strong": plain_parts,
    "hada": hada_parts,
    "lokr": lokr_parts,
    "ia3": ia3_parts,
    "full": full_parts,
    "dora": dora_parts,
    "locon": conv_parts,
}
EACH = [pytest.param(kind, marks=pytest.mark.needs("IA3") if kind == "ia3" else ()) for kind in KINDS]


@pytest.fixture(scope="module")
def lora(probed: Probed) -> Iterator[None]:
    """The files of LoRAs on the shared server."""
    with loras(probed):
        yield


@contextmanager
def loras(probed: Probed) -> Iterator[None]:
    """Have LoRAs on every attention of the UNet and every layer of the text encoder, which change a picture."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    layers: dict[str, tuple[int, ...]] = {}
    with safe_open(probed.server.checkpoint_folder / "alpha.safetensors", "np") as weights:
        for key in weights.keys():  # noqa: SIM118 -- this is no dictionary
            # the names that training scripts give, which all WebUIs read
            prefix = {"model.diffusion_model.": "lora_unet.", "cond_stage_model.transformer.": "lora_te."}
            found = next((start for start in prefix if key.startswith(start)), None)
            if found is None or not key.endswith((*LINEAR, CONVOLUTION)):
                continue
            name = (prefix[found] + key.removeprefix(found)).removesuffix(".weight").replace(".", "_")
            layers[name] = tuple(weights.get_slice(key).get_shape())
    folder = Path(probed.server.data) / "models" / "Lora"
    folder.mkdir(exist_ok=True)
    for kind, parts in KINDS.items():
        random = np.random.default_rng(1)
        tensors: dict[str, np.ndarray] = {
            f"{layer}.{part}": tensor.astype(np.float32)
            for layer, shape in layers.items()
            if (len(shape) == 4) == (kind == "locon")
            for part, tensor in parts(random, *shape).items()
            # the host fails where a LoRA has a bias for a layer that has none
            if part != "diff_b" or layer.endswith("fc1")
        }
        save_file(tensors, folder / f"{kind}.safetensors")
    save_file({"lora_unet_nowhere.lora_up.weight": np.zeros((2, 2), np.float32)}, folder / "stranger.safetensors")
    linear = next(layer for layer, shape in layers.items() if len(shape) == 2)
    odd: dict[str, np.ndarray] = {
        f"{linear}.{part}": t.astype(np.float32) for part, t in KINDS["strong"](random, 7, 5).items()
    }
    save_file(odd, folder / "odd.safetensors")
    probed.server.call("/sdapi/v1/refresh-loras", {})
    yield
    for file in folder.glob("*.safetensors"):
        file.unlink()
    probed.server.call("/sdapi/v1/refresh-loras", {})


def rounding(probed: Probed, co_model: dict) -> float:
    """The part that a main model has in the latent of a co-model that alone is mixed in, negative prompts being equal.

    Its prediction is the main model's own and a difference, which rounds it, and a network makes more of that.
    """
    texts = ("a red square", "a green circle", "nothing at all")
    one, *others = (probed.draw(co_model, prompt=text).latent for text in texts)
    return max(1e-6, *(distance(one, other) for other in others))


def test_the_lora_of_this_test_changes_the_main_model(probed: Probed, lora: None) -> None:
    assert distance(probed.draw(prompt=WITH_LORA).latent, probed.draw(prompt=WITHOUT).latent) > 0.1


def test_it_never_reaches_a_co_model_with_its_own_checkpoint(probed: Probed, lora: None) -> None:
    without = probed.draw(ALONE, prompt=WITHOUT).latent
    probed.unload()
    loaded_beside_it = probed.draw(ALONE, prompt=WITH_LORA).latent
    kept = probed.draw(ALONE, prompt=WITH_LORA).latent
    assert distance(kept, loaded_beside_it) == 0
    assert distance(kept, without) < 4 * rounding(probed, ALONE)


def test_the_main_model_keeps_it_beside_co_models_and_loses_it_afterwards(probed: Probed, lora: None) -> None:
    plain, with_lora = probed.draw(prompt=WITHOUT).latent, probed.draw(prompt=WITH_LORA).latent
    probed.draw(settings(), prompt=WITH_LORA)
    assert distance(probed.draw(prompt=WITH_LORA).latent, with_lora) == 0
    # the host adds and takes away in floating point, by itself too
    assert distance(probed.draw(prompt=WITHOUT).latent, plain) < 1e-4


def test_main_as_a_co_model_is_the_main_model_with_it(probed: Probed, lora: None) -> None:
    assert distance(probed.draw(mirrored("main"), prompt=WITH_LORA).latent, probed.draw(prompt=WITH_LORA).latent) < 1e-4


def test_main_with_a_prompt_of_its_own_is_encoded_with_it(probed: Probed, lora: None) -> None:
    co = settings(slot("main", gamma=1, eta=0, prompt="a blue circle"), eta=0, steps=STEPS)
    first = probed.draw(co, prompt=WITHOUT).latent
    assert (
        distance(probed.draw(co, prompt=WITH_LORA).latent, probed.draw(prompt="a blue circle <lora:strong:1>").latent)
        < 1e-4
    )
    assert distance(probed.draw(co, prompt=WITHOUT).latent, first) < 1e-4, "what was encoded with it must not be kept"


# --- a slot's own ---


def only(checkpoint: str = "beta", **told: object) -> dict:
    """The co-model's own latent: nothing of the main model's goes into it."""
    return settings(slot(checkpoint, gamma=1, eta=0, **told), eta=0, steps=STEPS)


@pytest.mark.parametrize("kind", EACH)
@pytest.mark.parametrize("checkpoint", ["beta", "main"])
def test_a_slots_own_is_what_the_webui_makes_of_it(probed: Probed, lora: None, kind: str, checkpoint: str) -> None:
    """The reference is the WebUI itself, with the checkpoint as its main one and the LoRA in its prompt."""
    drawn = probed.draw(only(checkpoint, prompt=f"{WITHOUT} <lora:{kind}:0.8>"), prompt=WITHOUT)
    model = "alpha" if checkpoint == "main" else checkpoint
    reference = probed.draw(prompt=f"{WITHOUT} <lora:{kind}:0.8>", checkpoint=model).latent
    bare = probed.draw(prompt=WITHOUT, checkpoint=model).latent
    assert distance(reference, bare) > 0.01
    assert distance(drawn.latent, reference) < 1e-3
    assert f"<lora:{kind}:0.8>" in drawn.infotext
    probed.draw(prompt=WITHOUT, checkpoint="alpha")


@pytest.mark.parametrize("checkpoint", ["beta", "main"])
def test_a_slots_own_never_reaches_the_main_model_or_another_slot(probed: Probed, lora: None, checkpoint: str) -> None:
    # drawn first: a LoRA of the picture before is in the main model's weights until the next one
    plain, before = probed.draw(prompt=WITHOUT).latent, probed.snapshot()
    own = slot(checkpoint, gamma=0.5, eta=0.2, prompt=f"{WITHOUT} <lora:strong:1>")
    # gamma 1: of the slots before it nothing is left but the main model's own evaluations
    last = slot("beta", gamma=1, eta=0)
    with_it = probed.draw(settings(own, last, eta=0, steps=STEPS), prompt=WITHOUT).latent
    without = probed.draw(settings(last, eta=0, steps=STEPS), prompt=WITHOUT).latent
    assert distance(with_it, without) == 0
    assert distance(probed.draw(prompt=WITHOUT).latent, plain) == 0
    assert probed.snapshot() == before


def test_the_main_prompts_never_reaches_a_slot_with_its_own(probed: Probed, lora: None) -> None:
    own = only(prompt="a blue circle <lora:hada:1>")
    without, with_lora = (probed.draw(own, prompt=prompt).latent for prompt in (WITHOUT, WITH_LORA))
    assert distance(with_lora, without) < 4 * rounding(probed, own)


def test_main_with_its_own_has_the_main_prompts_too(probed: Probed, lora: None) -> None:
    """It draws the WebUI's picture with both in one prompt, and the main model keeps its own alone."""
    both = probed.draw(prompt=f"{WITHOUT} <lora:strong:1> <lora:full:1>").latent
    with_lora = probed.draw(prompt=WITH_LORA).latent
    drawn = probed.draw(only("main", prompt=f"{WITHOUT} <lora:full:1>"), prompt=WITH_LORA)
    # the text encoder may be in half precision, and then two sums are rounded twice
    assert distance(drawn.latent, both) < 0.05 * distance(with_lora, both)
    assert distance(probed.draw(prompt=WITH_LORA).latent, with_lora) == 0


def test_main_with_an_adapter_keeps_the_main_prompts(probed: Probed, lora: None) -> None:
    models = probed.server.data / "models" / "amdm"
    adapter_files.write(models, adapter_files.Shape.of(probed.server.checkpoint_folder / "alpha.safetensors"))
    adapted = only("main", adapter=adapter_files.GLIGEN, layout=adapter_files.BOXES)
    on_main = {"enabled": True, "main_adapter": {"adapter": adapter_files.GLIGEN, "layout": adapter_files.BOXES}}
    co, main = (probed.draw(amdm, prompt=WITH_LORA).latent for amdm in (adapted, on_main))
    assert distance(co, main) < 1e-3
    assert distance(co, probed.draw(adapted, prompt=WITHOUT).latent) > 0.01


@pytest.mark.needs("refiner's weights alone")
def test_a_refiner_whose_weights_are_put_into_a_main_model_with_one(probed: Probed, lora: None) -> None:
    """Its own weights are kept aside while the LoRA is in them; a co-model's must not be taken for them."""
    bare, with_lora = (probed.draw(prompt=prompt).latent for prompt in (WITHOUT, WITH_LORA))
    request = {**refined(probed, 0.4), **options(refiner_fast_sd=True), "prompt": WITH_LORA}
    plain = probed.draw(**request).latent
    mixed = [probed.draw(settings(slot("beta"), slot("gamma")), **request).latent for _ in range(2)]
    assert distance(*mixed) == 0
    assert distance(probed.draw(mirrored("main"), **request).latent, plain) < 1e-4
    assert distance(probed.draw(prompt=WITH_LORA).latent, with_lora) == 0
    assert distance(probed.draw(prompt=WITHOUT).latent, bare) == 0


def test_weights_and_several_in_one_prompt(probed: Probed, lora: None) -> None:
    for words in ("<lora:strong:1:0>", "<lora:strong:te=0:unet=1>", "<lora:strong:0.5> <lora:full:0.5>"):
        reference = probed.draw(prompt=f"{WITHOUT} {words}", checkpoint="beta").latent
        probed.draw(prompt=WITHOUT, checkpoint="alpha")
        drawn = probed.draw(only(prompt=f"{WITHOUT} {words}"), prompt=WITHOUT).latent
        assert distance(drawn, reference) < 1e-3, words


def test_a_prompt_of_a_lora_alone_is_the_main_prompt_with_it(probed: Probed, lora: None) -> None:
    named, alone = (only(prompt=prompt) for prompt in (f"{WITHOUT} <lora:strong:1>", "<lora:strong:1>"))
    assert distance(probed.draw(named, prompt=WITHOUT).latent, probed.draw(alone, prompt=WITHOUT).latent) == 0


def test_the_second_picture_with_one_opens_no_file_and_encodes_no_text(probed: Probed, lora: None) -> None:
    probed.unload()
    own = only(prompt="a green cross <lora:dora:1>")
    first, second = (probed.draw(own, prompt=WITHOUT) for _ in range(2))
    assert "dora.safetensors" in first.report["opened"]
    assert second.report["opened"] == [] and second.report["texts"]["co"] == 0
    assert not probed.server.has_mapped("dora.safetensors"), "a trainer may save over it"
    assert distance(first.latent, second.latent) == 0


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"prompt": "a <lora:nowhere:1>"}, '"nowhere" is not in the WebUI'),
        ({"prompt": "a <lora:stranger:1>"}, '"stranger" fits none of the checkpoint'),
        ({"prompt": "a <lora:odd:1>"}, '"odd" does not fit'),
        ({"prompt": "a <lora:strong:much>"}, "write <lora:name:weight>"),
        ({"prompt": "a <lora:strong:[1@0,0.5@0.5]>"}, "write one weight"),
        ({"prompt": "a <lora:strong:unet=[1@0,0.5@0.5]>"}, "write one weight"),
        ({"prompt": "a <hypernet:x:1>"}, "hypernet"),
        ({"negative_prompt": "a <lora:strong:1>"}, "negative prompt"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_lora_that_cannot_be_used_is_named(probed: Probed, lora: None, told: dict, words: str) -> None:
    for checkpoint in ("beta", "main"):
        failed = probed.fail(settings(slot(checkpoint, **told)), prompt=WITHOUT)
        assert "co-model 1" in failed.message and words in failed.message
