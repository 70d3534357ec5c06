"""A co-model in ComfyUI: a separate guider prepares, guides and cleans it up, and its sampler hands over.

Clones of a model are one network, into which loading writes the patches of one clone: LoRAs, hooks, changes of its
noise levels. So the weights that the next evaluation needs must be loaded before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any

import torch
from comfy import model_management, sampler_helpers
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import CONST
from comfy.samplers import CFGGuider, Sampler
from torch import Tensor

from ...comodels.mixing import SlotRun
from ...core.arguments import Prediction
from ...core.levels import Form, as_exploding, as_flow, variance_exploding
from ...errors import AmdmError
from ...settings import CoModel
from . import attached
from .attached import KEY, Connected
from .unconditional import Unconditional, base_in, with_reader


def levels_of(sampling: Any) -> tuple[Form, float]:
    """Return the form of a model's noise levels, and the highest noise-to-signal ratio that it knows."""
    return (as_flow, math.inf) if isinstance(sampling, CONST) else (as_exploding, float(sampling.sigma_max))


class Networks:
    """For each network of a run, the guider with the patches that are loaded."""

    def __init__(self, main: CFGGuider, shape: torch.Size) -> None:
        self.shape, self.guiders = shape, {main.model_patcher.model: main}

    def others(self, patcher: ModelPatcher) -> list[ModelPatcher]:
        """List the models of the other networks, which must stay loaded."""
        return [guider.model_patcher for network, guider in self.guiders.items() if network is not patcher.model]

    def use(self, guider: CFGGuider) -> None:
        """Load the patches of a guider's model, if another's are in its network."""
        patcher, before = guider.model_patcher, self.guiders[guider.model_patcher.model].model_patcher
        if before is patcher:
            return
        # a clone does not know of another one's hooks
        before.unpatch_hooks()
        if before.patches_uuid != patcher.patches_uuid or before.object_patches or patcher.object_patches:
            needed, least = sampler_helpers.estimate_memory(patcher, self.shape, guider.conds)
            model_management.load_models_gpu([patcher, *self.others(patcher)], needed, minimum_memory_required=least)
        patcher.pre_run()
        self.guiders[patcher.model] = guider


class CoSampler(Sampler):
    """A co-model during one run of the main model's sampler."""

    def __init__(
        self, number: int, slot: CoModel, inputs: Connected, main: CFGGuider, networks: Networks, shared: Unconditional
    ) -> None:
        self.number, self.slot, self.inputs = number, slot, inputs
        self.main, self.networks, self.shared = main, networks, shared
        self.guider = CFGGuider(attached.bare(inputs.patcher or main.model_patcher))
        self.form, self.highest = levels_of(self.guider.model_patcher.get_model_object("model_sampling"))
        connected = {name: conds for name in ("positive", "negative") if (conds := getattr(inputs, name)) is not None}
        families = [attached.family(guider.model_patcher) for guider in (self.guider, main)]
        if families[0] != families[1] and len(connected) < 2:
            raise self.error(f"is {families[0]}, but the main model {families[1]}; connect its positive and negative")
        self.guider.original_conds |= main.original_conds
        self.guider.inner_set_conds(connected)
        if not slot.cfg_scale and type(main).set_cfg is not CFGGuider.set_cfg:
            raise self.error("cannot use the CFG scales of the main model's guider; set its own CFG scale")
        self.guider.set_cfg(slot.cfg_scale or main.cfg)
        if not self.guider.original_conds.get("negative") and self.guider.cfg != 1:
            raise self.error("has no negative conditioning; connect one, or set its CFG scale to 1")

    def error(self, what: str) -> AmdmError:
        """Return an error of this co-model."""
        return AmdmError(f"AMDM: co-model {self.number} {what}.")

    def check(self, noise: Tensor) -> None:
        """Raise AmdmError if the model cannot begin with this noise, or be limited to the connected masks."""
        masks = 1 if self.inputs.mask is None else len(self.inputs.mask)
        if masks > 1 and (noise.ndim != 4 or masks != len(noise)):
            raise self.error(f"has {masks} masks for {len(noise)} pictures; connect one mask, or one for each")
        if self.slot.noise == "independent" and not noise.count_nonzero():
            raise self.error("has independent noise, but the sampler adds none; set its noise to shared")

    def run(self) -> SlotRun:
        """Return the model as `amdm` runs it."""
        return SlotRun(self._denoise, self.highest, self._active_conds, form=self.form, guidance=self.guider.cfg)

    def around(self, inside: Callable[[], Tensor], noise: Tensor, *positional: Any, **named: Any) -> Tensor:
        """Prepare the model, call `inside`, clean up, and return its result."""
        patcher, self.inside = self.guider.model_patcher, inside
        patcher.set_additional_models(KEY, self.networks.others(patcher))
        try:
            self.guider.sample(noise, positional[0], self, *positional[1:], disable_pbar=True, **named)
            return self.result
        finally:
            # it knows this object: a circle would keep the model in memory
            del self.inside

    def sample(self, model_wrap: Any, sigmas: Any, extra_args: Any, callback: Any, noise: Any, *rest: Any) -> Any:
        """Hand over, once ComfyUI has prepared the model; the latent that is returned is not used."""
        self.arguments, self.networks.guiders[self.guider.model_patcher.model] = extra_args, self.guider
        self.result = self.inside()
        return noise

    def _denoise(self, x: Tensor, sigma: Tensor) -> Prediction:
        parts: dict[str, Any] = {}
        always = {"disable_cfg1_optimization": True} if self.shared.readers else {}
        options = with_reader(self.arguments["model_options"], parts.update, **always)
        self.networks.use(self.guider)
        denoised = self.guider(x, sigma, **{**self.arguments, "model_options": options})
        self.networks.use(self.main)
        if self.shared.readers:
            self.shared.predictions[self.number] = parts["uncond_denoised"]
        return Prediction(denoised, base_in(parts))

    def _active_conds(self, ratio: float) -> Hashable:
        """Return which parts of both models' conditioning are active at a noise-to-signal ratio."""
        level, main = variance_exploding(min(ratio, 1e6)), levels_of(self.main.inner_model.model_sampling)
        return tuple(
            cond.get("timestep_end", 0.0) <= form(level).sigma <= cond.get("timestep_start", math.inf)
            for form, guider in ((self.form, self.guider), (main[0], self.main))
            for conds in guider.conds.values()
            for cond in conds
        )
