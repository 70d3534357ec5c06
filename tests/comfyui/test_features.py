"""A co-model in ComfyUI: its LoRAs and hooks, conditioning, masks, batches, inpainting, other sampler nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from .graphs import SIZE, Drawing, Link
from .server import ComfyUI

Make = Callable[[Drawing], Link]


@pytest.fixture
def drawn(comfyui: ComfyUI) -> Callable[[Make], torch.Tensor]:
    """The latents that a drawing's last node gives."""

    def draw(make: Make) -> torch.Tensor:
        drawing = Drawing()
        return comfyui.latents(drawing.saved(make(drawing)))

    return draw


def close(one: torch.Tensor, other: torch.Tensor, limit: float = 1e-4) -> bool:
    return float((one - other).abs().max() / one.std()) < limit


# ---- weights that clones share ----


def hooked(drawing: Drawing) -> dict[str, Link]:
    """Both conditionings with the LoRA as a hook."""
    hook = drawing.node("CreateHookLoraModelOnly", lora_name="lora.safetensors", strength_model=1.0)
    return {
        name: drawing.node("ConditioningSetProperties", cond_NEW=drawing.words(seed), strength=1.0,
                           set_cond_area="default", hooks=hook)
        for name, seed in (("positive", 1), ("negative", 2))
    }  # fmt: skip


def test_a_lora_on_the_co_model_alone(drawn: Any) -> None:
    def with_lora(drawing: Drawing) -> Link:
        main = drawing.checkpoint("alpha")
        return drawing.sample(drawing.alone(main, drawing.lora(main)))

    plain = drawn(lambda drawing: drawing.sample(drawing.checkpoint("alpha")))
    own = drawn(lambda drawing: drawing.sample(drawing.lora(drawing.checkpoint("alpha"))))
    assert not close(own, plain, 0.1)
    assert close(drawn(with_lora), own)
    assert torch.equal(drawn(lambda drawing: drawing.sample(drawing.checkpoint("alpha"))), plain)


@pytest.mark.parametrize("kind", ["lora", "hook", "schedule"])
def test_a_clone_as_co_model_equals_another_file_of_the_same_weights(drawn: Any, kind: str) -> None:
    """Each model has its own weights in its own evaluations."""

    def of(name: str) -> Make:
        def make(drawing: Drawing) -> Link:
            main, co_model, conds = drawing.checkpoint("alpha"), drawing.checkpoint(name), {}
            if kind == "lora":
                co_model = drawing.lora(co_model)
            elif kind == "hook":
                conds = hooked(drawing)
            else:
                co_model = drawing.node("ModelSamplingDiscrete", model=co_model, sampling="v_prediction", zsnr=False)
            return drawing.sample(drawing.settings(drawing.amdm(main, co_model, **conds), evaluations=2))

        return make

    plain = drawn(lambda drawing: drawing.sample(drawing.checkpoint("alpha")))
    apart, shared = drawn(of("alpha-copy")), drawn(of("alpha"))
    assert not close(apart, plain, 0.05)
    assert close(shared, apart)


def test_two_clones_as_co_models(drawn: Any) -> None:
    def of(name: str) -> Make:
        def make(drawing: Drawing) -> Link:
            first = drawing.amdm(drawing.checkpoint("beta"), drawing.checkpoint("alpha"), gamma=0.3)
            return drawing.sample(drawing.amdm(first, drawing.lora(drawing.checkpoint(name)), gamma=0.4))

        return make

    assert close(drawn(of("alpha")), drawn(of("alpha-copy")))


def test_a_lora_after_the_node_is_the_main_models(drawn: Any) -> None:
    def after(drawing: Drawing) -> Link:
        return drawing.sample(drawing.lora(drawing.alone(drawing.checkpoint("alpha"), drawing.checkpoint("beta"))))

    own = drawn(lambda drawing: drawing.sample(drawing.checkpoint("beta")))
    assert close(drawn(after), own)


def test_a_hook_on_the_co_models_conditioning(drawn: Any) -> None:
    own = drawn(lambda drawing: drawing.sample(drawing.lora(drawing.checkpoint("beta"))))

    def with_hook(drawing: Drawing) -> Link:
        return drawing.sample(drawing.alone(drawing.checkpoint("alpha"), drawing.checkpoint("beta"), **hooked(drawing)))

    assert close(drawn(with_hook), own, 1e-3)


def test_a_model_with_co_models_as_co_model_is_that_model_alone(drawn: Any) -> None:
    def nested(drawing: Drawing) -> Link:
        inner = drawing.amdm(drawing.checkpoint("beta"), drawing.checkpoint("alpha"))
        return drawing.sample(drawing.alone(drawing.checkpoint("alpha"), inner))

    assert close(drawn(nested), drawn(lambda drawing: drawing.sample(drawing.checkpoint("beta"))))


# ---- conditioning ----


def test_the_main_model_with_other_words(drawn: Any) -> None:
    def main(drawing: Drawing) -> Link:
        words = {"positive": drawing.words(7), "negative": drawing.words(8)}
        return drawing.sample(drawing.alone(drawing.checkpoint("alpha"), None, cfg_scale=5.0, **words), cfg=1.0)

    own = drawn(
        lambda drawing: drawing.sample(
            drawing.checkpoint("alpha"), positive=drawing.words(7), negative=drawing.words(8), cfg=5.0
        )
    )
    assert close(drawn(main), own)


@pytest.mark.parametrize("of_slot", [True, False])
@pytest.mark.parametrize(("scale", "counts_alone"), [(3.9, False), (4.0, True)])
def test_with_strong_guidance_the_last_prediction_counts_whatever_the_main_model_makes_of_it(
    drawn: Any, scale: float, counts_alone: bool, of_slot: bool
) -> None:
    """The guidance scale is the co-model's, or the sampler's. Both runs begin at one level."""

    def of_steps(drawing: Drawing, steps: int) -> Link:
        slot_scale, main_scale = (scale, 9.0 - scale) if of_slot else (0.0, scale)
        main, other = drawing.checkpoint("alpha"), drawing.checkpoint("beta")
        both = drawing.amdm(main, other, gamma=1.0, noise="estimate", cfg_scale=slot_scale)
        return drawing.sample(drawing.settings(both, steps=steps, evaluations=1), steps=steps, cfg=main_scale)

    few, more = (drawn(lambda drawing, steps=steps: of_steps(drawing, steps)) for steps in (4, 6))
    assert close(few, more) is counts_alone


def test_a_range_of_steps_in_the_co_models_conditioning_has_its_own_evaluation(comfyui: ComfyUI) -> None:
    def ranged(drawing: Drawing) -> Link:
        start = drawing.node("ConditioningSetTimestepRange", conditioning=drawing.words(7), start=0.0, end=0.45)
        end = drawing.node("ConditioningSetTimestepRange", conditioning=drawing.words(8), start=0.45, end=1.0)
        both = drawing.node("ConditioningCombine", conditioning_1=start, conditioning_2=end)
        co_model = drawing.counted(drawing.checkpoint("beta"), "beta")
        mixed = drawing.amdm(drawing.checkpoint("alpha"), co_model, positive=both, negative=drawing.words(2))
        return drawing.sample(drawing.settings(mixed, steps=6, evaluations=1))

    drawing = Drawing()
    comfyui.counts()
    comfyui.latents(drawing.saved(ranged(drawing)))
    assert comfyui.counts() == {"beta": 2}


# ---- places ----


def test_a_mask_limits_the_first_step_and_the_rest_is_the_main_models(drawn: Any) -> None:
    """With one step the parts do not see each other."""

    def within(**where: Any) -> Make:
        def make(drawing: Drawing) -> Link:
            given = {name: value(drawing) if callable(value) else value for name, value in where.items()}
            both = drawing.alone(drawing.checkpoint("alpha"), drawing.checkpoint("beta"), **given)
            return drawing.sample(both, steps=1)

        return make

    own, plain = (drawn(lambda drawing, name=name: drawing.sample(drawing.checkpoint(name), steps=1))
                  for name in ("beta", "alpha"))  # fmt: skip
    for where in ({"mask": Drawing.left}, {"region": "0 0 0.5 1"}):
        found = drawn(within(**where))
        half = SIZE // 16
        assert torch.equal(found[..., half:], plain[..., half:])
        assert not torch.equal(found[..., :half], plain[..., :half])
    assert close(drawn(within(mask=lambda drawing: drawing.mask(1.0))), own)
    assert torch.equal(drawn(within(mask=lambda drawing: drawing.mask(0.0))), plain)
    assert not torch.equal(drawn(within(mask=Drawing.left, feather=0.25)), drawn(within(mask=Drawing.left)))


def test_a_batch_equals_its_pictures_and_each_can_have_its_mask(drawn: Any) -> None:
    def batch(masks: bool) -> Make:
        def make(drawing: Drawing) -> Link:
            both = drawing.node("MaskToImage", mask=drawing.mask(1.0))
            none = drawing.node("MaskToImage", mask=drawing.mask(0.0))
            pictures = drawing.node("ImageBatch", image1=both, image2=none)
            mask = drawing.node("ImageToMask", image=pictures, channel="red")
            given = {"mask": mask} if masks else {}
            main = drawing.checkpoint("alpha")
            co_model = drawing.lora(main) if masks else drawing.checkpoint("beta")
            return drawing.sample(drawing.alone(main, co_model, **given), latent_image=drawing.empty(2))

        return make

    plain = drawn(lambda drawing: drawing.sample(drawing.checkpoint("alpha"), latent_image=drawing.empty(2)))
    own = drawn(lambda drawing: drawing.sample(drawing.checkpoint("beta"), latent_image=drawing.empty(2)))
    assert close(drawn(batch(False)), own)
    loraed = drawn(lambda drawing: drawing.sample(drawing.lora(drawing.checkpoint("alpha")),
                                                  latent_image=drawing.empty(2)))  # fmt: skip
    found = drawn(batch(True))
    assert close(found[:1], loraed[:1])
    assert close(found[1:], plain[1:])


def masked(drawing: Drawing) -> Link:
    """A drawn latent with a mask for inpainting, on its left half."""
    first = drawing.sample(drawing.checkpoint("alpha"), seed=9)
    return drawing.node("SetLatentNoiseMask", samples=first, mask=drawing.left())


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m_sde"])
def test_inpainting(drawn: Any, sampler: str) -> None:
    def with_co_model(name: str | None, gamma: float) -> Make:
        def make(drawing: Drawing) -> Link:
            main = drawing.checkpoint("alpha")
            if name:
                co_model = drawing.checkpoint(name)
                main = drawing.settings(drawing.amdm(main, co_model, gamma=gamma), steps=150, evaluations=0)
            return drawing.sample(main, latent_image=masked(drawing), sampler_name=sampler)

        return make

    plain = drawn(with_co_model(None, 0))
    own = drawn(lambda drawing: drawing.sample(drawing.checkpoint("beta"), latent_image=masked(drawing),
                                               sampler_name=sampler))  # fmt: skip
    assert torch.equal(drawn(with_co_model("alpha-copy", 0.5)), plain)
    found, half = drawn(with_co_model("beta", 1.0)), SIZE // 16
    assert close(found, own)
    assert close(found[..., half:], plain[..., half:])


def test_img2img_with_independent_noise(drawn: Any) -> None:
    def with_noise(noise: str) -> Make:
        def make(drawing: Drawing) -> Link:
            given = drawing.sample(drawing.checkpoint("beta"), seed=9, latent_image=drawing.empty(2))
            both = drawing.alone(drawing.checkpoint("alpha"), drawing.checkpoint("alpha-copy"), noise=noise)
            return drawing.sample(both, latent_image=given, denoise=0.5)

        return make

    independent, shared, again = (drawn(with_noise(noise)) for noise in ("independent", "shared", "independent"))
    assert not close(independent, shared, 0.01)
    # half of the noise of an img2img pass is not a new picture
    assert (independent - shared).std() < shared.std()
    assert torch.equal(again, independent)


# ---- other sampler nodes ----


def test_two_stages_of_the_advanced_sampler(drawn: Any) -> None:
    def staged(of: Make) -> Make:
        def make(drawing: Drawing) -> Link:
            model, latent = of(drawing), drawing.empty()
            for noise, start, end, left in (("enable", 0, 3, "enable"), ("disable", 3, 6, "disable")):
                latent = drawing.node(
                    "KSamplerAdvanced", model=model, add_noise=noise, noise_seed=5, steps=6, cfg=3.0,
                    sampler_name="euler", scheduler="normal", positive=drawing.words(1), negative=drawing.words(2),
                    latent_image=latent, start_at_step=start, end_at_step=end, return_with_leftover_noise=left,
                )  # fmt: skip
            return latent

        return make

    own = drawn(staged(lambda drawing: drawing.checkpoint("beta")))
    plain = drawn(staged(lambda drawing: drawing.checkpoint("alpha")))
    assert close(drawn(staged(lambda d: d.alone(d.checkpoint("alpha"), d.checkpoint("beta")))), own)
    assert torch.equal(drawn(staged(lambda d: d.amdm(d.checkpoint("alpha"), d.checkpoint("alpha-copy")))), plain)


@pytest.mark.parametrize("guider", ["BasicGuider", "CFGGuider"])
def test_the_custom_sampler(drawn: Any, guider: str) -> None:
    def custom(of: Make) -> Make:
        def make(drawing: Drawing) -> Link:
            conds = {"conditioning": drawing.words(1)}
            if guider == "CFGGuider":
                conds = {"positive": drawing.words(1), "negative": drawing.words(2)}
            more = {"cfg": 3.0} if guider == "CFGGuider" else {}
            model = of(drawing)
            return drawing.node(
                "SamplerCustomAdvanced",
                noise=drawing.node("RandomNoise", noise_seed=5),
                guider=drawing.node(guider, model=model, **conds, **more),
                sampler=drawing.node("KSamplerSelect", sampler_name="dpmpp_2m"),
                sigmas=drawing.node("BasicScheduler", model=model, scheduler="normal", steps=5, denoise=1.0),
                latent_image=drawing.empty(),
            )

        return make

    own = drawn(custom(lambda drawing: drawing.checkpoint("beta")))
    assert close(drawn(custom(lambda d: d.alone(d.checkpoint("alpha"), d.checkpoint("beta")))), own)


def flowing(drawing: Drawing, name: str) -> Link:
    return drawing.node("ModelSamplingSD3", model=drawing.checkpoint(name), shift=3.0)


def test_flow_models(drawn: Any) -> None:
    plain = drawn(lambda drawing: drawing.sample(flowing(drawing, "alpha")))
    own = drawn(lambda drawing: drawing.sample(flowing(drawing, "beta")))

    def both(name: str, **values: Any) -> Make:
        return lambda d: d.sample(d.settings(d.amdm(flowing(d, "alpha"), flowing(d, name), **values), steps=150,
                                             evaluations=0))  # fmt: skip

    assert torch.equal(drawn(both("alpha-copy")), plain)
    assert close(drawn(both("beta", gamma=1.0)), own)


@pytest.mark.parametrize("flow_main", [True, False])
def test_a_flow_model_beside_another_kind(drawn: Any, flow_main: bool) -> None:
    def both(drawing: Drawing) -> Link:
        models = [flowing(drawing, "alpha"), drawing.checkpoint("beta")]
        return drawing.sample(drawing.amdm(*(models if flow_main else models[::-1])))

    assert torch.isfinite(drawn(both)).all()
