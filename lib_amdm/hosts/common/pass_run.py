"""One pass of one batch on A1111 and its relatives: its co-models, what the sampler is told of them, its end."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from modules import scripts, shared

from ...comodels.mixing import co_run
from ...errors import AmdmError
from ...sampling import CoRun
from ...settings import MAIN_CHECKPOINT, AdapterSettings, CoModel
from .adapters import AtWorkOnMain
from .host import WebUIHost
from .slot import SlotModel


class WebUIRun:
    """One pass of one batch: the co-models of its slots, their texts, and how the main model's rules apply to them."""

    def __init__(
        self, host: WebUIHost, p: Any, continue_on_error: bool, hook: Mapping[str, Any], sampler: Callable[..., Any]
    ) -> None:
        self.host, self.p, self.continue_on_error, self.hook = host, p, continue_on_error, hook
        self.sampler = p.sampler
        parameters = inspect.signature(sampler).parameters
        self.on_timesteps = "timesteps" in parameters
        # UniPC has times of its own, between the timesteps
        self.on_whole_timesteps = self.on_timesteps and "is_img2img" not in parameters
        self.main = shared.sd_model
        self.main_file = self.main.sd_checkpoint_info.filename
        self.stopped = False
        self.models: list[SlotModel] = []
        self.main_model: SlotModel | None = None
        self.main_adapter: AtWorkOnMain | None = None

    def refuse_main(self) -> None:
        """AmdmError where the method is not made for the main model."""
        raise NotImplementedError

    def sigma_max_of(self, model: Any) -> float:
        """The highest noise level that a model knows, the main one or a slot's."""
        raise NotImplementedError

    def slot_model(self, number: int, slot: CoModel) -> SlotModel:
        """A slot's model, loaded and with its texts encoded."""
        raise NotImplementedError

    def adapt_main(self, settings: AdapterSettings) -> None:
        try:
            self.main_model = self.slot_model(0, CoModel(checkpoint=MAIN_CHECKPOINT, **vars(settings)))
        finally:
            shared.state.textinfo = None

    @property
    def denoiser(self) -> Any:
        return self.sampler.model_wrap_cfg

    def load_co_models(self, slots: Sequence[tuple[int, CoModel]]) -> list[CoRun]:
        self.refuse_main()
        try:
            for number, slot in slots:
                self.models.append(self.slot_model(number, slot))
        finally:
            shared.state.textinfo = None
        size, highest = self.hook["noise"].shape[-2:], self.sigma_max_of(self.main)
        own = {model.number: self.sigma_max_of(model.model) for model in self.models}
        return [
            co_run(
                model.number,
                model.slot,
                model.denoise,
                self.seeds,
                size,
                # above what the main model knows itself, both are shown what neither does
                sigma_max=own[model.number] if own[model.number] < highest else None,
                state_key=model.state_key,
                on_nan=None if shared.cmd_opts.disable_nan_check else model.gave_nan,
            )
            for model in self.models
        ]

    @property
    def seeds(self) -> list[int]:
        """Those of the batch's images."""
        return self.p.seeds[: len(self.hook["noise"])]

    def sampler_options(self) -> dict[str, Any]:
        x, noise = self.hook["x"], self.hook["noise"]
        return {
            "init": None if x is noise else x,
            "within": self.within,
            "nominal_steps": self.pass_steps,
            "still_mixing": self.still_mixing,
        }

    @property
    def within(self) -> torch.Tensor | None:
        """Where an inpainting may change the picture at all; None: everywhere."""
        return None if self.denoiser.mask is None else self.denoiser.nmask > 0

    def start(self) -> None:
        """The pass begins."""
        if self.main_model is not None:
            self.main_adapter = self.adapter_on_main(self.main_model)

    def adapter_on_main(self, model: SlotModel) -> AtWorkOnMain:
        """Set the main model's adapter to work."""
        raise NotImplementedError

    @property
    def pass_steps(self) -> int:
        p = self.p
        return (p.hr_second_pass_steps or p.steps) if p.is_hr_pass else p.steps

    @property
    def cond_scale(self) -> float:
        """The main model's guidance scale in this pass."""
        return self.sampler.sampler_extra_args["cond_scale"]

    def titles(self) -> dict[int, str]:
        return {model.number: model.title for model in self.models}

    def still_mixing(self) -> bool:
        """False once the models must not be mixed any more: the refiner took over, or a co-model failed."""
        if not self.stopped and shared.sd_model.sd_checkpoint_info.filename != self.main_file:
            self.stop("AMDM: the refiner took over in the early steps, so the models were run together only before it.")
        return not self.stopped

    def stop(self, why: str) -> None:
        self.stopped = True
        self.p.comment(why)

    def failed(self, error: AmdmError) -> None:
        """Raise, which ends the picture; or note it and let the main model go on alone, where the user wants that."""
        if not self.continue_on_error:
            raise error
        self.stop(str(error))

    def finish(self, pool_limit: int) -> bool:
        shared.state.textinfo = None
        if self.main_adapter is not None:
            self.main_adapter.remove()
            self.main_adapter = None
            if shared.sd_model.sd_checkpoint_info.filename != self.main_file:
                self.p.comment("AMDM: the refiner took over, so the main model's adapter worked only before it.")
        models = [*self.models, *([self.main_model] if self.main_model else [])]
        ran = any(model.evaluations for model in models)
        used = {model.adapter.name for model in models if model.adapter}
        for model in models:
            model.park()
            model.let_go()
        self.models, self.main_model = [], None
        self.host.trim(pool_limit, len(used))
        return ran

    def skips_uncond(self, step: int, sigma: torch.Tensor) -> bool:
        """The host's rules for leaving out the negative prompt: "skip early CFG" and NGMS. sigma: (batch,), read from
        the GPU only where a rule goes by it."""
        opts, denoiser = shared.opts, self.denoiser
        if opts.skip_early_cond != 0 and step / denoiser.total_steps <= opts.skip_early_cond:
            return True
        least = self.sampler.sampler_extra_args["s_min_uncond"]
        return bool((step % 2 or opts.s_min_uncond_all) and least > 0 and sigma[0] < least)

    def masked(self, latent: torch.Tensor, sigma: torch.Tensor, known: torch.Tensor | None = None) -> torch.Tensor:
        """Outside the mask of an inpainting the picture is known to every model: `known`, or the picture itself."""
        d = self.denoiser
        if d.mask is None:
            return latent
        blended = latent * d.nmask + (d.init_latent if known is None else known) * d.mask
        if self.p.scripts is None:
            return blended
        told = scripts.MaskBlendArgs(latent, d.nmask, d.init_latent, d.mask, blended, denoiser=d, sigma=sigma)
        self.p.scripts.on_mask_blend(self.p, told)
        return told.blended_latent
