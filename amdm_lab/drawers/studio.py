"""The standalone host as a drawer."""

from __future__ import annotations

import time

from PIL import Image

from lib_amdm import __version__
from lib_amdm.errors import AmdmError
from lib_amdm.settings import Settings

from ..drawing import Drawn, Order
from ..studio.host import Job, Standalone

SAMPLER, SCHEDULE = "euler", "automatic"


class StandaloneDrawer:
    """Draws with the checkpoints of a standalone host, which has no refiner."""

    def __init__(self, host: Standalone) -> None:
        self.host = host

    def checkpoints(self) -> list[str]:
        return self.host.checkpoint_titles()

    def adapters(self) -> list[str]:
        return self.host.adapter_titles()

    def description(self) -> str:
        return f"no WebUI (AMDM {__version__}, diffusers) on {self.host.device}, {self.host.dtype}"

    def draw(self, order: Order) -> Drawn:
        if order.refiner:
            raise AmdmError("A refiner needs a WebUI, as the standalone host has none; name one with --url.")
        settings = Settings.from_dict(dict(order.settings)) if order.settings else Settings()
        job = Job(
            order.checkpoint,
            [order.prompt],
            [order.seed],
            order.negative_prompt,
            order.sampler or SAMPLER,
            order.steps,
            order.cfg_scale,
            order.width,
            order.height,
            order.schedule or SCHEDULE,
        )
        began = time.perf_counter()
        result = self.host.generate(job, settings)
        seconds = time.perf_counter() - began
        names = [slot.checkpoint for slot in settings.co_models]
        evaluations = {order.checkpoint: result.evaluations}
        for name, count in zip(names, result.co_evaluations):
            if count:
                key = name if name not in evaluations else f"{name} (co-model)"
                evaluations[key] = evaluations.get(key, 0) + count
        picture = Image.fromarray(result.pictures[0])
        return Drawn(picture, seconds, evaluations=evaluations)
