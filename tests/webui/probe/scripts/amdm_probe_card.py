"""The probe's answers about models and a rehearsed card.

GET /amdm-probe/census is every UNet and text encoder that is in memory: whose it is, where, and how often it moved.
POST /amdm-probe/card changes the card's script, and clears its record with {"clear": true}; GET reads the record.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from typing import Any

import torch
from fastapi import Body, FastAPI
from modules import script_callbacks, shared

KINDS = {
    "UNetModel": "unet",
    "IntegratedUNet2DConditionModel": "unet",
    "CLIPTextModel": "text",
    "CLIPTextModelWithProjection": "text",
    "AutoencoderKL": "vae",
    "IntegratedAutoencoderKL": "vae",
    "AutoencodingEngine": "vae",
}


def main_modules() -> set[int]:
    """All modules of the main model, by identity."""
    model = shared.sd_model
    if isinstance(model, torch.nn.Module):
        roots = [model]
    elif not hasattr(model, "forge_objects"):
        # Forge loads its main model with the first picture
        return set()
    else:
        objects = model.forge_objects
        roots = [objects.unet.model, objects.clip.cond_stage_model, objects.vae.first_stage_model]
    return {id(module) for root in roots for module in root.modules()}


def census() -> list[dict[str, Any]]:
    """The objects that are there now, whether or not anything refers to them."""
    card = sys.modules.get("card")
    moves = card.RECORD.moves if card else {}
    main, found = main_modules(), []
    for module in gc.get_objects():
        if type(module).__name__ not in KINDS or not isinstance(module, torch.nn.Module):
            continue
        size: Counter[str] = Counter()
        for each in [*module.parameters(), *module.buffers()]:
            size[each.device.type] += each.numel() * each.element_size()
        travelled = [moves.get(each, (0, 0)) for each in module.modules()]
        found.append(
            {
                "kind": KINDS[type(module).__name__],
                "of": "main" if id(module) in main else "co",
                "bytes": dict(size),
                "up": max(up for up, _ in travelled),
                "down": max(down for _, down in travelled),
            }
        )
    return found


def serve(_: Any, app: FastAPI) -> None:
    @app.get("/amdm-probe/census")
    def models(collect: bool = False) -> list[dict[str, Any]]:
        if collect:
            gc.collect()
        return census()

    card = sys.modules.get("card")
    if card is None:
        return

    @app.post("/amdm-probe/card")
    def script(request: dict = Body(default={})) -> dict[str, Any]:  # noqa: B008
        values = dict(request)
        if values.pop("clear", False):
            card.RECORD.clear()
            card.MEMORY.peak = card.MEMORY.live
        card.SCRIPT.change(**values)
        return report()

    @app.get("/amdm-probe/card")
    def report() -> dict[str, Any]:
        memory = card.MEMORY
        told = {"live": memory.live, "reserved": memory.reserved, "peak": memory.peak}
        told |= {"free": memory.free(), "total": card.SCRIPT.total}
        return {**card.RECORD.told(), **told, "models": census()}


script_callbacks.on_app_started(serve)
