"""Forge Neo's answers about its models in one pass, by the rules that it has for its own (`common.backend.Backend`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from backend import memory_management
from backend.args import args, dynamic_args
from backend.sampling.sampling_function import sampling_function
from modules import devices, sd_samplers_common, shared
from torch.utils.hooks import RemovableHandle

from ...errors import AmdmError
from ..common.engine_backend import EngineBackend
from ..common.memory_managers import give_way
from ..common.pass_run import PassRun
from . import checkpoints, lora


class NeoBackend(EngineBackend):
    """Models are Forge Neo's engines."""

    memory = memory_management
    nan_remedy = "start the WebUI with --force-fp32"
    loader = checkpoints.LOADER
    lora_functions = lora.NeoLoras()
    guided = staticmethod(sampling_function)

    def __init__(self, run: PassRun) -> None:
        super().__init__(run)
        # the file that the main model was of when a refiner's weights were put into it; None: they were not
        self.replaced = sd_samplers_common.ORIGINAL_CHECKPOINT
        self.order: RemovableHandle | None = None

    @property
    def memory_remedy(self) -> str:
        for flag in ("gpu_only", "highvram"):
            if getattr(args, flag):
                return f"start the WebUI without --{flag.replace('_', '-')}"
        return 'lower "GPU Weights" in the settings'

    # a checkpoint

    def refuse_main(self, others: str) -> None:
        super().refuse_main(others)
        if dynamic_args.ref_latents:
            raise AmdmError(
                f'AMDM: the main checkpoint "{self.run.main.sd_checkpoint_info.name}" draws by reference pictures, '
                f"which a co-model ({others}) does not know; switch AMDM off or draw without them."
            )

    def main_has_other_weights(self) -> bool:
        return bool(self.replaced != sd_samplers_common.ORIGINAL_CHECKPOINT)

    # its texts

    @contextmanager
    def encoding(self, model: Any) -> Iterator[None]:
        with checkpoints.globals_kept(), torch.inference_mode(), devices.autocast(), self.text_encoder_of(model):
            yield

    def parser_options(self) -> tuple[Any, ...]:
        return ()

    def host_text_options(self) -> tuple[Any, ...]:
        opts = shared.opts
        return (
            opts.emphasis,
            opts.CLIP_stop_at_last_layers,
            opts.sdxl_crop_left,
            opts.sdxl_crop_top,
            opts.sdxl_refiner_low_aesthetic_score,
            opts.sdxl_refiner_high_aesthetic_score,
            opts.sdxl_zero_neg,
        )

    # the pass

    def memory_for_pass(self, sampling: float, further: float) -> dict[str, float]:
        return {"memory_required": sampling + further, "minimum_memory_required": sampling // 2 + further}

    def start(self) -> None:
        super().start()
        give_way(self.memory, self.run.main.forge_objects.unet, self.own_unets)
        self.order = self.run.denoiser.register_forward_pre_hook(self._main_first)

    def finish(self) -> None:
        if self.order is not None:
            self.order.remove()
            self.order = None
        self._main_first()
        super().finish()

    def _main_first(self, *_: Any) -> None:
        """List the co-models' UNets behind all others: where the refiner is switched to by its weights alone, and back,
        the host takes the first UNet in its list for the main one."""
        listed = self.memory.current_loaded_models
        ours = {id(unet) for unet in self.own_unets}
        # a stable order: False comes before True
        listed.sort(key=lambda entry: id(entry.model) in ours)

    def skips_uncond(self, step: int, sigma: torch.Tensor) -> bool:
        """True where the host's rules leave out the negative prompt; unlike Forge's, never in the first step."""
        return step > 0 and self.run.skips_uncond(step, sigma)
