"""CFG++ samplers also read the unconditional prediction, by a function that they add to the model's options.

AMDM replaces the model's output, not what that function has read. So it is called again, with the joint prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from comfy.model_patcher import set_model_options_post_cfg_function
from torch import Tensor

from ...core.aggregation import Share, slerp


def with_reader(options: dict[str, Any], read: Callable[[dict[str, Any]], Any], **more: Any) -> dict[str, Any]:
    """Return a model's options with a function that is given the parts of each guided prediction."""

    def unchanged(parts: dict[str, Any]) -> Tensor:
        read(parts)
        return parts["denoised"]

    return set_model_options_post_cfg_function({**options}, unchanged, **more)


def base_in(parts: Mapping[str, Any]) -> Tensor | None:
    """Return the prediction without the prompt among the parts of a guided one; None without guidance."""
    return parts["uncond_denoised"] if parts.get("uncond") is not None else None


class Unconditional:
    """The unconditional prediction during one run of a sampler. options: the main model's, with a reader."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = with_reader(options, lambda parts: self.parts.update(parts))
        self.known = len(self.options["sampler_post_cfg_function"])
        self.parts: dict[str, Any] = {}
        self.output: Tensor | None = None
        self.shares: list[Share] = []
        self.predictions: dict[int, Tensor] = {}
        """Those of the co-models that were evaluated in this step, by their numbers."""
        self.differences: dict[int, Tensor] = {}
        self.moved: Tensor | float = 0.0

    @property
    def readers(self) -> Sequence[Callable[[dict[str, Any]], Any]]:
        """The sampler's own functions; none if it is not a CFG++ sampler."""
        return self.parts["model_options"]["sampler_post_cfg_function"][self.known :] if self.parts else ()

    def mix(self, a: Tensor, b: Tensor, share: Share) -> Tensor:
        """Mix latents, and note the share."""
        self.shares.append(share)
        return slerp(a, b, share)

    def main(self, x: Tensor, sigma: Any, output: Tensor) -> None:
        """Note the main model's own output."""
        self.output = output

    def joint(self, x: Tensor, sigma: Any, output: Tensor) -> None:
        """Give the sampler the joint unconditional prediction, if the output is a joint one."""
        if self.readers and output is not self.output:
            prediction = self.parts["uncond_denoised"]
            self.differences |= {number: theirs - prediction for number, theirs in self.predictions.items()}
            if self.shares:
                self.moved = 0.0
                for share, (_, difference) in zip(self.shares, sorted(self.differences.items())):
                    self.moved = self.moved + share * (difference - self.moved)
            for read in self.readers:
                read({**self.parts, "uncond_denoised": prediction + self.moved})
        self.shares, self.predictions, self.parts = [], {}, {}
