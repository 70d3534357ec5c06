"""The studio as a drawer."""

from __future__ import annotations

import time
from collections.abc import Sequence

from PIL import Image

from lib_amdm import __version__
from lib_amdm.errors import AmdmError
from lib_amdm.settings import Settings

from ..drawing import Drawn, Order
from ..studio.host import UNCHANGED, Job, Latents, Standalone, Variant

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
        job, [settings] = _batch_of([order])
        began = time.perf_counter()
        result = self.host.generate(job, settings)
        seconds = time.perf_counter() - began
        evaluations = {order.checkpoint: result.evaluations}
        for slot, count in zip(settings.co_models, result.co_evaluations):
            if count:
                name = slot.checkpoint
                key = name if name not in evaluations else f"{name} (co-model)"
                evaluations[key] = evaluations.get(key, 0) + count
        return Drawn(Image.fromarray(result.pictures[0]), seconds, evaluations=evaluations)

    def latents(self, orders: Sequence[Order], variant: Variant = UNCHANGED) -> Latents:
        """Draw orders as one batch, without decoding it.

        They differ in prompts, seeds, negative prompts, and the texts and inputs of their settings alone.
        """
        return self.host.latents(*_batch_of(orders), variant)


def _batch_of(orders: Sequence[Order]) -> tuple[Job, list[Settings]]:
    first = orders[0]
    if first.refiner:
        raise AmdmError("A refiner needs a WebUI, as the standalone host has none; name one with --url.")
    job = Job(
        first.checkpoint,
        [order.prompt for order in orders],
        [order.seed for order in orders],
        [order.negative_prompt for order in orders],
        first.sampler or SAMPLER,
        first.steps,
        first.cfg_scale,
        first.width,
        first.height,
        first.schedule or SCHEDULE,
    )
    return job, [Settings.from_dict(order.settings or {}) for order in orders]
