"""Identities: what must not change a picture, for each of ComfyUI's samplers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .graphs import Drawing
from .server import ComfyUI

ONCE = (
    "euler",
    "euler_ancestral",
    "lms",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun",
    "dpmpp_3m_sde",
    "ddpm",
    "lcm",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_ancestral",
    "gradient_estimation",
    "er_sde",
    "sa_solver",
    "ddim",
    "uni_pc",
    "uni_pc_bh2",
)
"""Samplers that evaluate the model once in a step."""
CFG_PP = (
    "euler_cfg_pp",
    "euler_ancestral_cfg_pp",
    "dpmpp_2m_cfg_pp",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation_cfg_pp",
)
"""Samplers that read the unconditional prediction too."""
OFTEN = (
    "heun",
    "heunpp2",
    "dpm_2",
    "dpm_2_ancestral",
    "dpm_fast",
    "dpm_adaptive",
    "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde",
    "seeds_2",
    "seeds_3",
    "sa_solver_pece",
)
"""Samplers with further evaluations in a step, which are changed as much as the first."""
NOISY = {"euler_ancestral", "dpmpp_2m_sde", "ddpm", "lcm", "er_sde", "res_multistep_ancestral", "sa_solver"}
NOISY |= {"dpmpp_2m_sde_heun", "dpmpp_3m_sde", "euler_ancestral_cfg_pp", "res_multistep_ancestral_cfg_pp"}
AT_THE_NEXT_STEP = {"dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_2s_ancestral_cfg_pp"}
"""Samplers whose second evaluation is at the next step's noise level, except for its rounding."""
STEPS = 4


def sampled(comfyui: ComfyUI, sampler: str, of: Any, **values: Any) -> torch.Tensor:
    """The latents of the model that `of` adds to a drawing."""
    drawing = Drawing()
    given = {"sampler_name": sampler, "steps": STEPS, **values}
    return comfyui.latents(drawing.saved(drawing.sample(of(drawing), **given)))


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference of two latents, in units of their spread."""
    return float((one - other).abs().max() / one.std())


def alone(name: str) -> Any:
    return lambda drawing: drawing.checkpoint(name)


def beside(name: str, **values: Any) -> Any:
    return lambda drawing: drawing.amdm(drawing.checkpoint("alpha"), drawing.checkpoint(name), **values)


def instead(name: str) -> Any:
    return lambda drawing: drawing.alone(drawing.checkpoint("alpha"), drawing.checkpoint(name))


def test_the_samplers_are_those_of_comfyui(comfyui: ComfyUI) -> None:
    names = comfyui.get("/object_info/KSampler")["KSampler"]["input"]["required"]["sampler_name"][0]
    assert {name for name in names if not name.endswith("_gpu")} == {*ONCE, *CFG_PP, *OFTEN}


@pytest.mark.parametrize("sampler", [*ONCE, *CFG_PP, *OFTEN])
def test_a_share_of_nothing_and_the_same_model_change_nothing(comfyui: ComfyUI, sampler: str) -> None:
    def drawn(of: Any) -> torch.Tensor:
        # in "normal" a level can be halfway between two of the model's, and rounding chooses one; here dpm_adaptive
        # has three times the evaluations
        return sampled(comfyui, sampler, of, scheduler="normal" if sampler == "dpm_adaptive" else "karras")

    plain, same = drawn(alone("alpha")), drawn(beside("alpha-copy"))
    assert torch.equal(drawn(beside("beta", gamma=0.0)), plain)
    assert torch.equal(same, plain) or (sampler in AT_THE_NEXT_STEP and apart(same, plain) < 1e-4)
    assert apart(drawn(beside("beta")), plain) > 0.05


@pytest.mark.parametrize("sampler", [*ONCE, *CFG_PP])
def test_the_whole_share_draws_the_co_models_own_picture(comfyui: ComfyUI, sampler: str) -> None:
    own = sampled(comfyui, sampler, alone("beta"))
    assert apart(sampled(comfyui, sampler, instead("beta")), own) < 1e-4


@pytest.mark.parametrize("sampler", [*ONCE, *CFG_PP])
def test_a_co_model_is_evaluated_four_times_or_seven_for_samplers_that_add_noise(
    comfyui: ComfyUI, sampler: str
) -> None:
    def counted(drawing: Drawing) -> Any:
        main, other = (drawing.counted(drawing.checkpoint(name), name) for name in ("alpha", "beta"))
        return drawing.settings(drawing.amdm(main, other), steps=9)

    comfyui.counts()
    sampled(comfyui, sampler, counted, steps=9)
    assert comfyui.counts() == {"alpha": 9, "beta": 7 if sampler in NOISY else 4}


@pytest.mark.parametrize(("values", "expected"), [({"steps": 0}, 0), ({"steps": 5, "evaluations": 2}, 2)])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2s_ancestral", "heun"])
def test_the_settings_limit_the_evaluations(
    comfyui: ComfyUI, sampler: str, values: dict[str, int], expected: int
) -> None:
    def counted(drawing: Drawing) -> Any:
        other = drawing.counted(drawing.checkpoint("beta"), "beta")
        return drawing.settings(drawing.amdm(drawing.checkpoint("alpha"), other), **values)

    comfyui.counts()
    sampled(comfyui, sampler, counted, steps=6)
    assert comfyui.counts().get("beta", 0) == expected


@pytest.mark.parametrize("scheduler", ["karras", "exponential", "sgm_uniform", "simple", "ddim_uniform", "beta"])
def test_schedules(comfyui: ComfyUI, scheduler: str) -> None:
    own = sampled(comfyui, "euler", alone("beta"), scheduler=scheduler)
    assert apart(sampled(comfyui, "euler", instead("beta"), scheduler=scheduler), own) < 1e-4
