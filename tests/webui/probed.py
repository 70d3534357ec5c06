"""Pictures drawn on a WebUI with the probe: their pixels, their latents, and what the WebUI did to draw them."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib_amdm.comodels.file_list import without_hash

from .rehearsal import PLENTY
from .webui_server import WebUI

STEPS = 6
"""Sampling steps of most pictures: enough for two early steps and a tail that no sampler refuses."""

OPTIONS = {
    "amdm_pool_limit": 2,
    "amdm_on_error": "stop",
    "amdm_small_autoencoders": False,
    "skip_early_cond": 0.0,
    "s_min_uncond": 0.0,
    "s_min_uncond_all": False,
    "pad_cond_uncond": False,
    "pad_cond_uncond_v0": False,
    "batch_cond_uncond": True,
    "emphasis": "Original",
    "inpainting_mask_weight": 1.0,
    "use_old_scheduling": False,
    "enable_quantization": False,
    "token_merging_ratio": 0.0,
    "sd_noise_schedule": "Default",
    "hires_fix_refiner_pass": "second pass",
    "refiner_switch_by_sample_steps": False,
    # by default a preview is decoded with a model that the WebUI would have to download, and seldom
    "show_progress_type": "Approx cheap",
    "show_progress_every_n_steps": 1,
    "tiling": False,
    "sd_vae_encode_method": "Full",
    "auto_vae_precision": True,
    "auto_vae_precision_bfloat16": False,
    "eta_ddim": 0.0,
    "s_churn": 0.0,
    "img2img_extra_noise": 0.0,
    "uni_pc_order": 3,
    "always_discard_next_to_last_sigma": False,
    "sgm_noise_multiplier": False,
}
"""Options that tests change, at the WebUI's own defaults: only what is in its file is put back after a request."""


def slot(checkpoint: str = "beta", **settings: Any) -> dict[str, Any]:
    """One co-model as the API takes it; names without a suffix are those of `.safetensors` files."""
    if "." not in checkpoint and checkpoint != "main":
        checkpoint += ".safetensors"
    return {"checkpoint": checkpoint, **settings}


def settings(*slots: Mapping[str, Any], **main: Any) -> dict[str, Any]:
    """AMDM's settings as the API takes them, with one slot of `beta` where none is given."""
    told = {"enabled": True, "steps": 2, "evaluations": 0, "eta": 0.45, "co_models": list(slots) or [slot()]}
    return {**told, **main}


def mirrored(checkpoint: str = "alpha", **main: Any) -> dict[str, Any]:
    """A co-model that is the main checkpoint, and no correction: every sampler must give what it gives alone.

    This holds for exactly as long as the co-model is treated as the WebUI treats its main model.
    """
    return settings(slot(checkpoint, gamma=0.5, eta=0), **{"eta": 0, "steps": STEPS, **main})


@dataclass
class Drawn:
    """A picture and how it came about."""

    pixels: list[np.ndarray]
    info: dict[str, Any]
    report: dict[str, Any]

    @property
    def picture(self) -> np.ndarray:
        return self.pixels[0]

    @property
    def latents(self) -> list[np.ndarray]:
        """The result of every pass of the sampler: one for each batch, two with hires fix."""
        return [np.load(io.BytesIO(base64.b64decode(each))) for each in self.report["passes"]]

    @property
    def latent(self) -> np.ndarray:
        return self.latents[-1]

    @property
    def infotext(self) -> str:
        return self.info["infotexts"][0]

    @property
    def untimed(self) -> str:
        """The infotext without how long it took."""
        return re.sub(r", \+[\d.]+ s of [\d.]+ s", "", self.infotext)

    @property
    def comments(self) -> str:
        """The text that the page shows below the picture; the WebUI's API leaves it out."""
        return self.report["comments"].strip()


@dataclass
class Failed:
    """An answer without a picture."""

    status: int
    message: str
    report: dict[str, Any]


class Probed:
    """Draws on a server with the probe."""

    def __init__(self, server: WebUI) -> None:
        self.server = server

    def try_to_draw(
        self,
        amdm: Any = None,
        *,
        init: np.ndarray | None = None,
        checkpoint: str | None = None,
        fault: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> Drawn | Failed:
        """One request, with AMDM where `amdm` are its settings, from a picture where there is an `init`."""
        self.server.call("/amdm-probe/arm", dict(fault or {}))
        request = self.server.request(checkpoint, {"steps": STEPS, **parameters}, init)
        if amdm is not None:
            ours = {"AMDM": {"args": amdm if isinstance(amdm, list) else [amdm]}}
            request["alwayson_scripts"] = {**request.get("alwayson_scripts", {}), **ours}
        answer = self.server.post(f"/sdapi/v1/{'txt2img' if init is None else 'img2img'}", request)
        report = self.server.call("/amdm-probe/report")
        if not answer.ok:
            told = answer.json()
            # A1111 says it under the first name, Forge under the second
            said = next((told[name] for name in ("errors", "message", "detail") if told.get(name)), told)
            return Failed(answer.status_code, str(said), report)
        told = answer.json()
        return Drawn(self.server.pixels(told), json.loads(told["info"]), report)

    def draw(self, amdm: Any = None, **parameters: Any) -> Drawn:
        """The same, where a picture must come."""
        drawn = self.try_to_draw(amdm, **parameters)
        assert isinstance(drawn, Drawn), drawn.message
        return drawn

    def fail(self, amdm: Any, **parameters: Any) -> Failed:
        """The same, where no picture may come."""
        failed = self.try_to_draw(amdm, **parameters)
        assert isinstance(failed, Failed), "a picture came"
        return failed

    def from_infotext(self, infotext: str) -> dict[str, Any]:
        """The answer to a request that says no more than an infotext."""
        return self.server.from_infotext(infotext)

    def snapshot(self) -> dict[str, Any]:
        """Everything that AMDM must leave as it was."""
        told = self.server.call("/amdm-probe/snapshot")
        card = self.server.card
        if card is not None and card.megabytes < PLENTY:
            # which parts of a model are on a small card, and its notes about them, are the memory manager's affair
            del told["attributes"], told["device"]
        return told

    def unload(self) -> dict[str, Any]:
        """Let AMDM forget all co-models."""
        return self.server.call("/amdm/v1/unload", {})

    def models(self) -> list[str]:
        """The files of the co-models that AMDM keeps loaded, in the order of its list."""
        return [without_hash(entry["checkpoint"]) for entry in self.server.call("/amdm/v1/models")["loaded"]]

    def with_options(self, options: Mapping[str, Any], draw: Callable[[], Any]) -> Any:
        """The result of `draw` under other options of the WebUI; they are put back.

        The WebUI's own answer cannot say to what: it leaves out the options of extensions.
        """
        self.server.call("/sdapi/v1/options", dict(options))
        try:
            return draw()
        finally:
            self.server.call("/sdapi/v1/options", {name: OPTIONS[name] for name in options})


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of two latents or pictures; infinite where their shapes differ."""
    if one.shape != other.shape:
        return float("inf")
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())
