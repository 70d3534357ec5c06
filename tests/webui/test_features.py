"""Everything the WebUI can do with a prompt, a picture or a model, with co-models.

The core are the mirrors: a co-model that is the main checkpoint, mixed in half and without correction, must give what
the main model gives alone. It does so only where the co-model is treated exactly as the WebUI treats its own model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lib_amdm.webui.recipes import RECIPES

from . import checkpoints
from .probed import OPTIONS, STEPS, Drawn, Probed, distance, mirrored, settings, slot
from .webui_server import STYLE, WebUI

CLOSE = 1e-4
# hires fix with an upscaler of pictures rounds to bytes in between
ROUNDED = 0.05
VISIBLE = 1e-3
LONG = ", ".join(f"a {colour} {shape}" for colour in ("red", "blue", "green", "grey") for shape in "abcdefghijklm")
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}


def off(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The distance as a share of the latent's size, where that is above 1: as good as float32 can be."""
    return distance(ours, theirs) / max(1.0, float(np.abs(theirs).max()))


def ramp(width: int = 64, height: int = 64) -> np.ndarray:
    """A picture to start from."""
    x: np.ndarray
    y: np.ndarray
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)


def right_half(width: int = 64, height: int = 64) -> np.ndarray:
    mask: np.ndarray = np.zeros((height, width), dtype=np.uint8)
    mask[:, width // 2 :] = 255
    return mask


def patch() -> np.ndarray:
    mask: np.ndarray = np.zeros((64, 64), dtype=np.uint8)
    mask[16:40, 16:40] = 255
    return mask


INPAINT: dict[str, Any] = {
    "init": ramp(),
    "mask": right_half(),
    "mask_blur": 0,
    "inpainting_fill": 1,
    "inpaint_full_res": False,
    "denoising_strength": 0.9,
}


def options(**changed: Any) -> dict[str, Any]:
    return {"override_settings": changed}


# ---- mirrors ----

# what is drawn, and what the same request is without the feature: the two must differ, or the mirror would show nothing
MIRRORS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "negative prompt": ({"negative_prompt": "a blue circle"}, {}),
    "emphasis": ({"prompt": "a (red:1.6) [square]"}, {}),
    "emphasis ignored": ({"prompt": "a (red:1.6) b", **options(emphasis="Ignore")}, {"prompt": "a (red:1.6) b"}),
    "emphasis without norm": ({"prompt": "a (red:1.6) b", **options(emphasis="No norm")}, {"prompt": "a (red:1.6) b"}),
    "AND": ({"prompt": "a red square AND a blue circle :0.7 AND green :-0.3"}, {}),
    "AND in a batch": ({"prompt": "a red square AND a blue circle :0.7", "batch_size": 2}, {"batch_size": 2}),
    "BREAK": ({"prompt": "a red BREAK square"}, {"prompt": "a red square"}),
    "schedule": ({"prompt": "[a red square:a blue circle:0.5]"}, {}),
    "schedule by step": ({"prompt": "a [red:blue:2] square"}, {}),
    "old schedule": (
        {"prompt": "[a red square:a blue circle:1.5]", **options(use_old_scheduling=True)},
        {"prompt": "[a red square:a blue circle:1.5]"},
    ),
    "alternating": ({"prompt": "a [red|blue] square"}, {}),
    "schedule of AND": ({"prompt": "[a red:a blue:0.5] square AND [round:flat:2] :0.6"}, {}),
    "long prompt": ({"prompt": LONG}, {}),
    "long negative": ({"negative_prompt": LONG}, {}),
    "long in a batch": ({"prompt": LONG, "batch_size": 2}, {"batch_size": 2}),
    "long AND": ({"prompt": f"{LONG} AND a blue circle :0.5"}, {}),
    "padded": (
        {"prompt": LONG, "negative_prompt": "b", **options(pad_cond_uncond=True)},
        {"prompt": LONG, "negative_prompt": "b"},
    ),
    "padded, long negative": ({"negative_prompt": LONG, **options(pad_cond_uncond=True)}, {"negative_prompt": LONG}),
    "padded as of old": ({"prompt": LONG, **options(pad_cond_uncond_v0=True)}, {"prompt": LONG}),
    "clip skip": (options(CLIP_stop_at_last_layers=2), {}),
    "CFG 1": ({"cfg_scale": 1}, {}),
    "CFG 5": ({"cfg_scale": 5}, {}),
    "skip early CFG": (options(skip_early_cond=0.5), {}),
    "skip early CFG of AND": (
        {"prompt": "a red AND a blue :0.4", **options(skip_early_cond=0.5)},
        {"prompt": "a red AND a blue :0.4"},
    ),
    "NGMS": (options(s_min_uncond=5.0), {}),
    "NGMS on all steps": (options(s_min_uncond=5.0, s_min_uncond_all=True), options(s_min_uncond=5.0)),
    "tiling": ({"tiling": True}, {}),
    "variation seed": ({"subseed": 9, "subseed_strength": 0.5}, {}),
    "seed resize": ({"seed_resize_from_w": 128, "seed_resize_from_h": 64}, {}),
    "wide": ({"width": 96}, {}),
    "high": ({"height": 96}, {}),
    "batch": ({"batch_size": 2}, {}),
    "quantized sigmas": (options(enable_quantization=True), {}),
    "noise of sgm": (options(sgm_noise_multiplier=True), {}),
    "penultimate sigma": (options(always_discard_next_to_last_sigma=True), {}),
    "zero terminal SNR": (options(sd_noise_schedule="Zero Terminal SNR"), {}),
    "epsilon scaling": (options(scaling_factor=1.05), {}),
    "token merging": (options(token_merging_ratio=0.5), {}),
    "v-prediction": ({"checkpoint": "vpred"}, {}),
    "SD2": ({"checkpoint": "sd2-alpha"}, {}),
    "SD2, long and weighted": ({"checkpoint": "sd2-alpha", "prompt": f"({LONG}:1.2)"}, {"checkpoint": "sd2-alpha"}),
    "SDXL": ({"checkpoint": "xl-alpha"}, {}),
    "SDXL, AND, schedule": (
        {"checkpoint": "xl-alpha", "prompt": "a red AND a [blue:green:0.5] :0.7", "negative_prompt": "b"},
        {"checkpoint": "xl-alpha"},
    ),
    "SDXL, long": ({"checkpoint": "xl-alpha", "prompt": LONG}, {"checkpoint": "xl-alpha"}),
    "SDXL, wide": ({"checkpoint": "xl-alpha", "width": 96}, {"checkpoint": "xl-alpha"}),
    "img2img": ({"init": ramp(), "denoising_strength": 0.7}, {}),
    "img2img, extra noise": (
        {"init": ramp(), "denoising_strength": 0.7, **options(img2img_extra_noise=0.1)},
        {"init": ramp(), "denoising_strength": 0.7},
    ),
    "inpainting": (INPAINT, {key: value for key, value in INPAINT.items() if "mask" not in key}),
    "inpainting, only masked": (
        {**INPAINT, "mask": patch(), "inpaint_full_res": True, "inpaint_full_res_padding": 4},
        {**INPAINT, "mask": patch()},
    ),
    "inpainting, filled with noise": ({**INPAINT, "inpainting_fill": 2}, INPAINT),
    "inpainting checkpoint": ({"checkpoint": "inpaint-alpha"}, {}),
    "inpainting with its checkpoint": ({**INPAINT, "checkpoint": "inpaint-alpha"}, {"checkpoint": "inpaint-alpha"}),
    "inpainting mask weight": (
        {**INPAINT, "checkpoint": "inpaint-alpha", **options(inpainting_mask_weight=0.3)},
        {**INPAINT, "checkpoint": "inpaint-alpha"},
    ),
    "soft inpainting": (
        {**INPAINT, "mask_blur": 8, "alwayson_scripts": {"soft inpainting": {"args": [True, 1, 0.5, 4, 0, 0.5, 2]}}},
        {**INPAINT, "mask_blur": 8},
    ),
}


@pytest.mark.parametrize("feature", MIRRORS)
def test_a_co_model_is_treated_as_the_main_one(probed: Probed, feature: str) -> None:
    request, without = MIRRORS[feature]
    # this one first: the WebUI makes the sampler of img2img with the noise schedule of the picture before
    other = probed.draw(**without)
    plain = probed.draw(**request)
    assert distance(plain.latent, other.latent) > VISIBLE, "the feature itself changes nothing"
    mirror = probed.draw(mirrored(request.get("checkpoint", "alpha")), **request)
    assert mirror.report["unet"]["co"] > 0
    assert off(mirror.latent, plain.latent) < max(CLOSE, 2 * mixing_alone(probed, feature, plain))
    assert len(mirror.pixels) == len(plain.pixels)


def mixing_alone(probed: Probed, feature: str, plain: Drawn) -> float:
    """The size to which the last bit of a mix has grown, if the main model is mixed with itself.

    The deep SDXL of random weights makes much of it with long texts, whoever runs it.
    """
    if feature != "SDXL, long":
        return 0.0
    return off(probed.draw(mirrored("main"), **MIRRORS[feature][0]).latent, plain.latent)


@pytest.mark.needs("uncond and cond apart")
@pytest.mark.parametrize("sampler", ["DDIM", "Euler"])
def test_the_mirror_with_uncond_and_cond_apart(probed: Probed, sampler: str) -> None:
    request = {"sampler_name": sampler, "negative_prompt": "blue", "prompt": "a red AND a green :0.5"}
    apart = options(batch_cond_uncond=False)
    plain, mirror = (probed.draw(amdm, **request, **apart) for amdm in (None, mirrored()))
    assert distance(mirror.latent, plain.latent) < CLOSE
    # the two parts of the prompt may be together, the negative prompt is not
    assert {shape[0] for shape in mirror.report["inputs"]["co"]} <= {1, 2}


ON_TIMESTEPS = (
    "img2img",
    "inpainting",
    "v-prediction",
    "SDXL",
    "NGMS",
    "skip early CFG",
    "schedule",
    "AND",
    "long prompt",
)


@pytest.mark.parametrize("feature", ON_TIMESTEPS)
def test_the_mirror_on_timesteps(probed: Probed, feature: str) -> None:
    request = {**MIRRORS[feature][0], "sampler_name": "DDIM"}
    plain = probed.draw(**request)
    mirror = probed.draw(mirrored(request.get("checkpoint", "alpha")), **request)
    assert off(mirror.latent, plain.latent) < CLOSE


# ---- a slot's own texts and scale ----

OWN: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": "a blue circle"},
    "negative prompt": {"negative_prompt": "a blue circle"},
    "CFG": {"cfg_scale": 6.0},
    "emphasis": {"prompt": "a (blue:1.3) circle"},
    "AND": {"prompt": "a blue circle AND a red one :0.4"},
    "BREAK": {"prompt": "a blue BREAK circle"},
    "schedule": {"prompt": "[a blue circle:a green square:0.5]"},
    "alternating": {"prompt": "a [blue|green] square"},
    "long": {"prompt": LONG},
    "all": {"prompt": f"({LONG}:1.2) AND [a:b:0.3]", "negative_prompt": "[c:d:3]", "cfg_scale": 2.0},
}


@pytest.mark.parametrize("feature", OWN)
def test_a_slot_alone_draws_what_its_checkpoint_does(probed: Probed, feature: str) -> None:
    own = OWN[feature]
    alone = probed.draw(checkpoint="beta", **own)
    drawn = probed.draw(settings(slot(gamma=1, eta=0, **own), eta=0, steps=STEPS))
    assert distance(drawn.latent, alone.latent) < CLOSE
    ignored = probed.draw(settings(slot(gamma=1, eta=0), eta=0, steps=STEPS))
    assert distance(drawn.latent, ignored.latent) > VISIBLE


INCLUDED = {
    "text": "{prompt}, a blue circle",
    "emphasis": "({prompt}:1.3) a blue circle",
    "AND": "{prompt} AND a blue circle :0.4",
    "schedule": "[{prompt}:a blue circle:2]",
    "twice": "{prompt} BREAK {prompt}",
}


@pytest.mark.parametrize("form", INCLUDED)
def test_a_slots_own_text_can_include_the_main_prompt_with_its_styles(probed: Probed, form: str) -> None:
    name, *style = STYLE
    texts = {"prompt": INCLUDED[form], "negative_prompt": "{prompt}, grey"}
    main = {"prompt": "a [red:green:3] square", "negative_prompt": "a dog"}
    styled = [text.replace("{prompt}", given) for text, given in zip(style, main.values())]
    own = {key: text.replace("{prompt}", given) for (key, text), given in zip(texts.items(), styled)}
    alone = probed.draw(checkpoint="beta", **own)
    drawn = probed.draw(settings(slot(gamma=1, **texts), eta=0, steps=STEPS), styles=[name], **main)
    assert off(drawn.latent, alone.latent) < CLOSE
    unstyled = probed.draw(settings(slot(gamma=1, **texts), eta=0, steps=STEPS), **main)
    assert distance(drawn.latent, unstyled.latent) > VISIBLE


def test_a_slots_own_text_takes_the_styles_that_it_names(probed: Probed) -> None:
    name, *style = STYLE
    own = {"prompt": "a blue circle", "negative_prompt": "grey"}
    named = {key: f"{text}, {{style:{name}}}" for key, text in own.items()}
    written = {key: of_style.replace("{prompt}", text) for of_style, (key, text) in zip(style, own.items())}
    styled, equal, plain = (probed.draw(settings(slot(cfg_scale=6, **texts))).latent for texts in (named, written, own))
    assert distance(styled, equal) == 0 and distance(styled, plain) > VISIBLE


def test_styles_alone_are_the_main_prompt_with_them(probed: Probed) -> None:
    name, *style = STYLE
    main = {"prompt": "a red square", "negative_prompt": "a dog"}
    written = dict(zip(main, style))
    alone, included, twice = (
        probed.draw(settings(slot(cfg_scale=6, **texts)), styles=styles, **main).latent
        for texts, styles in (
            (dict.fromkeys(main, f"{{style:{name}}}"), []),
            (written, []),
            (dict.fromkeys(main, f"{{style:{name}}}"), [name]),
        )
    )
    assert distance(alone, included) == 0
    assert distance(alone, twice) > VISIBLE, "the page's styles are in the main prompt already"


@pytest.mark.parametrize("box", ["prompt", "negative_prompt"])
def test_a_style_that_the_webui_does_not_have_is_named(probed: Probed, box: str) -> None:
    failed = probed.fail(settings(slot(**{box: "a cat, {style:nowhere}"})))
    words = f'AMDM co-model 1: its {box.replace("_", " ")} names the style "nowhere"'
    assert words in failed.message


def test_a_slots_own_text_includes_the_prompt_of_its_pass(probed: Probed) -> None:
    included, written = (
        probed.draw(settings(slot(prompt=text), **{"pass": "hires"}), prompt="red", hr_prompt="green", **HIRES)
        for text in ("{prompt}, blue", "green, blue")
    )
    assert distance(included.latent, written.latent) == 0


@pytest.mark.parametrize("checkpoint", ["main", "beta"])
def test_the_main_prompt_alone_is_an_empty_prompt(probed: Probed, checkpoint: str) -> None:
    request = {"prompt": "[a red:a blue:2] square", "negative_prompt": "dog"}
    both = {"prompt": "{prompt}", "negative_prompt": " {prompt}"}
    included, empty = (
        probed.draw(settings(slot(checkpoint, cfg_scale=6, **texts)), **request).latent for texts in (both, {})
    )
    assert distance(included, empty) == 0


def test_a_slots_schedule_switches_at_its_step(probed: Probed) -> None:
    def draw(prompt: str, steps: int) -> np.ndarray:
        return probed.draw(settings(slot(gamma=1, eta=0, prompt=prompt), eta=0, steps=steps)).latent

    assert distance(draw("[a:b:0.5]", 4), draw("a", 4)) == 0
    assert distance(draw("[a:b:0.5]", 5), draw("a", 5)) > VISIBLE


SD2 = pytest.param("sd2-alpha", "sd2-beta", marks=pytest.mark.needs("SD2"))


@pytest.mark.parametrize(("main", "co"), [("alpha", "vpred"), ("vpred", "alpha"), SD2, ("xl-alpha", "xl-beta")])
def test_two_checkpoints_of_one_family(probed: Probed, main: str, co: str) -> None:
    alone = [probed.draw(checkpoint=name) for name in (main, co)]
    only_co = probed.draw(settings(slot(co, gamma=1, eta=0), eta=0, steps=STEPS), checkpoint=main)
    assert off(only_co.latent, alone[1].latent) < CLOSE
    mixed = probed.draw(settings(slot(co)), checkpoint=main)
    assert min(distance(mixed.latent, each.latent) for each in alone) > VISIBLE


def test_a_pickled_co_model_is_its_safetensors_twin(probed: Probed) -> None:
    pickled, twin = (probed.draw(settings(slot(name))) for name in (f"{checkpoints.PICKLED}.ckpt", "beta.safetensors"))
    assert distance(pickled.latent, twin.latent) == 0


# ---- AMDM's own settings ----


def test_every_setting_changes_the_picture(probed: Probed) -> None:
    changes: dict[str, dict[str, Any]] = {
        "base": settings(),
        "K": settings(steps=3),
        "eta": settings(eta=0.2),
        "slot eta": settings(slot(eta=0.7)),
        "gamma": settings(slot(gamma=0.7)),
        "start": settings(start=1),
        "paper": settings(slot(eta=45), eta=45, correction="paper"),
        "paper, other eta": settings(slot(eta=45), eta=55, correction="paper"),
        "noise": settings(slot(noise="independent")),
        "checkpoint": settings(slot("gamma")),
        "second slot": settings(slot(), slot("gamma")),
        "slots exchanged": settings(slot("gamma"), slot()),
        "third slot": settings(slot(), slot("gamma"), slot("vpred")),
    }
    latents = {name: probed.draw(amdm).latent for name, amdm in changes.items()}
    assert all(np.isfinite(latent).all() for latent in latents.values())
    names = list(latents)
    alike = [
        (one, other)
        for index, one in enumerate(names)
        for other in names[index + 1 :]
        if distance(latents[one], latents[other]) < VISIBLE
    ]
    assert alike == []


def test_a_start_after_the_early_steps_is_the_main_model(probed: Probed) -> None:
    assert distance(probed.draw(settings(start=2)).latent, probed.draw().latent) == 0


def test_independent_noise_belongs_to_the_image_and_the_slot(probed: Probed) -> None:
    def draw(seed: int, place: int, batch: int = 1) -> np.ndarray:
        empty = [slot("gamma", gamma=0)] * (place - 1)
        own = slot(gamma=1, eta=0, noise="independent")
        return probed.draw(settings(*empty, own, eta=0, steps=STEPS), seed=seed, batch_size=batch).latent

    assert distance(draw(1, 1), draw(1, 1)) == 0
    assert distance(draw(1, 1), draw(2, 1)) > 0.1
    assert distance(draw(1, 1), draw(1, 2)) > 0.1
    assert distance(draw(1, 1, batch=2), np.concatenate([draw(1, 1), draw(2, 1)])) < CLOSE


def test_independent_noise_starts_from_the_picture(probed: Probed) -> None:
    # with so little noise the picture is still there: other noise gives what another seed gives, no noise no picture
    own = settings(slot("main", gamma=1, eta=0, noise="independent"), eta=0, steps=20)
    request = {"init": ramp(), "denoising_strength": 0.05, "steps": 20}
    plain, drawn, seed = probed.draw(**request), probed.draw(own, **request), probed.draw(seed=2, **request)
    ours, another = (np.abs(each.latent - plain.latent).mean() for each in (drawn, seed))
    assert another / 1.5 < ours < 1.5 * another


# ---- passes and batches ----


@pytest.mark.parametrize(("which", "sizes"), [("first", [8, 8]), ("hires", [16, 16]), ("both", [8, 8, 16, 16])])
def test_hires_fix_runs_the_pass_that_was_asked_for(probed: Probed, which: str, sizes: list[int]) -> None:
    report = probed.draw(settings(**{"pass": which}), **HIRES).report
    assert [shape[-1] for shape in report["inputs"]["co"]] == sizes


HIRES_REQUESTS: dict[str, dict[str, Any]] = {
    "latent": {},
    "wide": {"hr_scale": 0, "hr_resize_x": 128, "hr_resize_y": 64},
    "other steps": {"hr_second_pass_steps": 4},
    "other prompt": {"hr_prompt": "a [blue:green:0.5] circle", "hr_negative_prompt": "red"},
    "picture": {"hr_upscaler": "Lanczos"},
    "other scheduler": {"hr_scheduler": "Karras"},
    "schedule over both": {"prompt": "[a red square:a blue circle:1.5]"},
    "batch": {"batch_size": 2, "n_iter": 2},
    "tiling": {"tiling": True},
    "CFG of its own": {"hr_cfg": 5},
    "CFG 1 of its own": {"hr_cfg": 1},
    "CFG 1 in the first pass alone": {"cfg_scale": 1},
}


def second_pass(probed: Probed) -> float:
    """The distance of a second pass from another after first passes that differ in the last bits."""
    return ROUNDED if probed.server.host.upscalers else 10 * CLOSE


@pytest.mark.parametrize("feature", HIRES_REQUESTS)
def test_the_mirror_of_hires_fix(probed: Probed, feature: str) -> None:
    request = {**HIRES, **HIRES_REQUESTS[feature]}
    plain = probed.draw(**request)
    mirror = probed.draw(mirrored(**{"pass": "both"}), **request)
    assert len(mirror.latents) == len(plain.latents) == 2 * request.get("n_iter", 1)
    limits = (CLOSE, ROUNDED if feature == "picture" else second_pass(probed)) * request.get("n_iter", 1)
    for ours, theirs, limit in zip(mirror.latents, plain.latents, limits):
        assert off(ours, theirs) < limit
    shapes = {tuple(shape[-2:]) for shape in mirror.report["inputs"]["co"]}
    assert shapes == {latent.shape[-2:] for latent in plain.latents}


def test_the_recipe_instead_of_a_refiner_ends_with_the_co_model_in_both_passes(probed: Probed) -> None:
    [recipe] = [recipe for recipe in RECIPES if recipe.settings.which_pass == "both"]
    told = recipe.settings.to_dict()
    told["co_models"][0] |= slot("beta")
    main, mixed = (probed.draw(amdm, **HIRES) for amdm in (None, told))
    assert f"2 models, {STEPS} of {STEPS} steps, " in mixed.infotext
    assert "; hires fix: 2 models, " in mixed.infotext
    assert all(distance(*each) > VISIBLE for each in zip(main.latents, mixed.latents))


def test_the_pass_hires_leaves_the_first_alone(probed: Probed) -> None:
    plain = probed.draw(**HIRES)
    drawn = probed.draw(settings(**{"pass": "hires"}), **HIRES)
    assert distance(drawn.latents[0], plain.latents[0]) == 0
    assert distance(drawn.latents[1], plain.latents[1]) > VISIBLE


def test_the_second_pass_alone_has_its_own_number_of_mixed_steps(probed: Probed) -> None:
    drawn = probed.draw(settings(**{"pass": "hires", "steps": 4}), **HIRES, steps=3, hr_second_pass_steps=5)
    assert 'AMDM ran: "2 models, 4 of 5 steps, 4 evaluations of beta' in drawn.infotext


def test_the_pass_hires_without_hires_fix_says_so(probed: Probed) -> None:
    drawn = probed.draw(settings(**{"pass": "hires"}))
    assert distance(drawn.latent, probed.draw().latent) == 0
    assert "AMDM" in drawn.comments and "hires" in drawn.comments
    assert "AMDM" not in drawn.infotext


def test_the_checkpoint_of_the_hires_pass(probed: Probed) -> None:
    # Forge Neo keeps this pass's texts by the first pass's checkpoint: those of another test would be alpha's
    alone = {**HIRES, "prompt": "a circle of two checkpoints", "negative_prompt": "a square of one"}
    request = {**alone, "hr_checkpoint_name": probed.server.title("beta")}
    plain = probed.draw(**request)
    mirror = probed.draw(mirrored("beta", **{"pass": "hires"}), **request)
    assert distance(mirror.latent, plain.latent) < 10 * CLOSE
    # "main" is whatever is main in the pass
    main = probed.draw(mirrored("main", **{"pass": "both"}), **request)
    for ours, theirs, limit in zip(main.latents, plain.latents, (CLOSE, second_pass(probed))):
        assert distance(ours, theirs) < limit
    assert distance(plain.latent, probed.draw(**alone).latent) > VISIBLE


def test_the_batches_of_a_request_are_single_pictures(probed: Probed) -> None:
    drawn = probed.draw(settings(), batch_size=2, n_iter=2)
    assert [len(latent) for latent in drawn.latents] == [2, 2]
    singles = [probed.draw(settings(), seed=seed).latent for seed in (1, 2, 3, 4)]
    assert distance(np.concatenate(drawn.latents), np.concatenate(singles)) < CLOSE
    assert all("AMDM steps: 2" in text for text in drawn.info["infotexts"])


@pytest.mark.parametrize("sampler", ["Euler", "DDIM", "DPM++ 2M SDE"])
def test_the_batches_of_img2img_share_one_sampler(probed: Probed, sampler: str) -> None:
    request = {"init": ramp(), "denoising_strength": 0.8, "sampler_name": sampler}
    drawn = probed.draw(settings(), n_iter=2, **request)
    singles = [probed.draw(settings(), seed=seed, **request).latent for seed in (1, 2)]
    assert drawn.report["co_models"] == [4]
    assert [distance(ours, single) < CLOSE for ours, single in zip(drawn.latents, singles)] == [True, True]


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ 2M", "DDIM", "UniPC", "PLMS"])
def test_img2img_and_inpainting_run_k_steps(probed: Probed, sampler: str) -> None:
    for request in ({"init": ramp(), "denoising_strength": 0.75}, INPAINT):
        plain, drawn = (probed.draw(amdm, sampler_name=sampler, **request) for amdm in (None, settings()))
        assert drawn.report["co_models"] == [2]
        assert np.isfinite(drawn.latent).all()
        assert distance(drawn.latent, plain.latent) > VISIBLE


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "DDIM", "UniPC"])
def test_the_mask_holds(probed: Probed, sampler: str) -> None:
    request: dict[str, Any] = {**INPAINT, "sampler_name": sampler}
    co_models = settings(slot(noise="independent"), slot("gamma"), steps=4)
    plain, drawn = (probed.draw(amdm, **request).picture for amdm in (None, co_models))
    assert np.array_equal(drawn[:, :32], request["init"][:, :32])
    assert np.array_equal(drawn[:, :32], plain[:, :32])
    assert distance(drawn[:, 32:], plain[:, 32:]) > 5


def refined(probed: Probed, at: float) -> dict[str, Any]:
    """A request for beta as the refiner, from this share of the steps on."""
    return {"refiner_checkpoint": probed.server.title("beta"), "refiner_switch_at": at}


def test_a_refiner_after_the_early_steps(probed: Probed) -> None:
    request, bare = refined(probed, 0.6), probed.draw()
    # Forge Neo gives the refiner other texts in the first picture of a row that it refines
    probed.draw(**request)
    plain = probed.draw(**request)
    assert distance(plain.latent, bare.latent) > VISIBLE
    mirror = probed.draw(mirrored(steps=2), **request)
    assert mirror.report["co_models"] == [2]
    assert distance(mirror.latent, plain.latent) < CLOSE
    assert mirror.comments == ""
    assert distance(probed.draw(settings(), **request).latent, plain.latent) > VISIBLE


def test_a_refiner_within_the_early_steps(probed: Probed) -> None:
    request = refined(probed, 0.4)
    plain = probed.draw(**request)
    mirror = probed.draw(mirrored(), **request)
    assert 0 < sum(mirror.report["co_models"]) < STEPS
    assert distance(mirror.latent, plain.latent) < CLOSE
    assert "refiner" in mirror.comments
    # the next picture has its own main model and its own co-models
    assert distance(probed.draw(mirrored()).latent, probed.draw().latent) < CLOSE


@pytest.mark.needs("refiner's weights alone")
@pytest.mark.parametrize("co", ["alpha", "main"])
def test_a_refiner_whose_weights_are_put_into_the_main_model(probed: Probed, co: str) -> None:
    """The host takes the first UNet in its list for the main one, and the main model keeps its name."""
    bare, own = probed.draw().latent, settings(slot("gamma", gamma=1, eta=0), eta=0, steps=STEPS)
    alone = probed.draw(own).latent
    request = {**refined(probed, 0.4), **options(refiner_fast_sd=True)}
    plain = probed.draw(**request)
    assert distance(plain.latent, bare) > VISIBLE
    mirror = probed.draw(mirrored(co), **request)
    assert distance(mirror.latent, plain.latent) < CLOSE
    assert "refiner" in mirror.comments
    for _ in range(2):
        assert distance(probed.draw().latent, bare) == 0
        assert distance(probed.draw(own).latent, alone) == 0


# ---- other ways in ----


def test_the_infotext_alone_gives_the_same_picture(probed: Probed) -> None:
    amdm = settings(
        slot(gamma=0.6, eta=0.2, prompt='a "blue": circle, (round:1.2)', negative_prompt="red, [blue]", cfg_scale=4),
        slot("main", prompt=" green ", noise="independent"),
        slot("gamma", enabled=False),
        steps=4,
        eta=0.3,
        start=1,
    )
    drawn = probed.draw(amdm)
    assert "AMDM 1 gamma: 0.6" in drawn.infotext
    probed.server.call("/amdm-probe/arm", {})
    answer = probed.from_infotext(drawn.infotext)
    assert np.array_equal(probed.server.pixels(answer)[0], drawn.picture)
    assert distance(drawn.latent, probed.draw().latent) > VISIBLE


def test_an_infotext_without_amdm_switches_it_off(probed: Probed) -> None:
    plain = probed.draw()
    answer = probed.from_infotext(plain.infotext)
    assert np.array_equal(probed.server.pixels(answer)[0], plain.picture)


def test_progress_text_and_previews(probed: Probed) -> None:
    """A longer run is watched while it is drawn; nothing waits for a time, only for what is seen or the run's end."""
    probed.unload()
    seen: set[str] = set()
    previews = 0

    def run() -> Drawn:
        return probed.draw(settings(slot(), steps=40), steps=40, width=128, height=128)

    def watched() -> Drawn:
        nonlocal previews
        drawn: list[Drawn] = []
        thread = threading.Thread(target=lambda: drawn.append(run()))
        thread.start()
        watcher = WebUIWatcher(probed.server)
        while thread.is_alive():
            told = watcher.progress()
            seen.add(told["textinfo"] or "")
            previews += bool(told["current_image"])
            thread.join(0.02)
        return drawn[0]

    drawn = watched()
    assert any(text.startswith("AMDM: evaluation") and "beta" in text for text in seen), seen
    assert previews > 0
    assert any("beta" in text for text in drawn.report["textinfo"])
    assert probed.snapshot()["textinfo"] is None


class WebUIWatcher:
    """Asks for the progress on a connection of its own, for the other one waits for the picture."""

    def __init__(self, server: WebUI) -> None:
        import requests

        self.address = server.url("/sdapi/v1/progress")
        self.session = requests.Session()
        self.session.trust_env = False

    def progress(self) -> dict[str, Any]:
        return self.session.get(self.address, timeout=60).json()


def test_the_public_client_draws_the_same(probed: Probed) -> None:
    webuiapi = pytest.importorskip("webuiapi")
    client = webuiapi.WebUIApi(host="127.0.0.1", port=probed.server.port)
    amdm = settings(slot(prompt="a blue circle"))
    result = client.txt2img(
        prompt="a red square",
        seed=1,
        steps=STEPS,
        width=64,
        height=64,
        cfg_scale=3,
        sampler_name="Euler",
        scheduler="Automatic",
        alwayson_scripts={"AMDM": {"args": [amdm]}},
    )
    assert np.array_equal(np.asarray(result.image), probed.draw(amdm).picture)
    assert "AMDM 1 prompt: a blue circle" in result.info["infotexts"][0]


def test_without_a_card_the_cpu_is_the_main_models_device(probed: Probed) -> None:
    if probed.server.card is not None:
        pytest.skip("the main model is on the card")
    plain = probed.draw().latent
    drawn = probed.draw(settings(slot("beta", device="cpu")))
    assert "AMDM 1 device: cpu" in drawn.infotext
    assert distance(drawn.latent, probed.draw(settings(slot("beta"))).latent) == 0
    assert distance(probed.draw().latent, plain) == 0


def test_the_plain_list_of_the_page(probed: Probed) -> None:
    no_adapter = ["None", 1, 1, "", ""]
    everywhere = ["", "", "", 0]
    slot = [True, "beta.safetensors", 0.5, *everywhere, 0, "", "", 0.0, "shared", "auto", "", "auto", *no_adapter]
    values = [True, "2", "auto", 0.45, "first", 0, "relative", False, *no_adapter, *slot]
    assert distance(probed.draw(values).latent, probed.draw(settings()).latent) == 0


STARTS: dict[str, dict[str, Any]] = {
    "page": {"page": True},
    "medvram": {"arguments": ["--medvram"]},
    "lowvram": {"arguments": ["--lowvram"], "page": True},
}


@pytest.fixture(scope="module")
def reference(probed: Probed) -> dict[str, Drawn]:
    """The drawings of the session's server."""
    return {name: probed.draw(amdm, **request) for name, (amdm, request) in STARTED.items()}


STARTED: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (None, {}),
    "mixed": (settings(slot(prompt="a (blue:1.2) circle"), slot("main", prompt="green")), {}),
    "hires": (settings(**{"pass": "both"}), HIRES),
    "after": (None, {}),
}


@pytest.mark.parametrize("start", STARTS)
def test_another_start_draws_the_same(
    start_webui: Callable[..., WebUI], reference: dict[str, Drawn], start: str
) -> None:
    server = start_webui(probe=True, options=OPTIONS, **STARTS[start])
    try:
        assert server.errors() == []
        other = Probed(server)
        for _ in range(2):
            for name, (amdm, request) in STARTED.items():
                assert distance(other.draw(amdm, **request).latent, reference[name].latent) == 0, name
        assert server.errors() == []
        if start == "page":
            assert "amdm" in server.get("/").text.lower()
    finally:
        server.stop()
