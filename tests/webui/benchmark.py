"""The cost of AMDM in addition to the models' own evaluations, with two UNets of SD1.5's size on the CPU.

Run by the WebUI's Python, in the WebUI's folder (its repositories hold the UNet):

    cd $AMDM_A1111_DIR && $AMDM_A1111_PYTHON <this repository>/tests/webui/benchmark.py --steps 50 --size 256

Prints a table in Markdown: evaluations, seconds, seconds outside the evaluations; one run, the same models.
The reference scheme is the released code's: every model is evaluated in every step.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parents[2]
SD15_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "num_heads": 8,
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "context_dim": 768,
    "use_checkpoint": False,
    "legacy": False,
}


class Clocked:
    """A guided denoiser of one random UNet that counts its evaluations and their seconds."""

    def __init__(self, seed: int, scale: float) -> None:
        from ldm.modules.diffusionmodules.openaimodel import UNetModel

        torch.manual_seed(seed)
        self.unet = UNetModel(**SD15_UNET).eval().requires_grad_(False)
        for parameter in self.unet.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.02)
        self.texts = torch.randn(2, 77, 768)
        self.scale = scale
        self.calls, self.seconds = 0, 0.0

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **_: Any) -> torch.Tensor:
        begin = time.perf_counter()
        column = sigma.view(-1, 1, 1, 1)
        inside = torch.cat([x / (1 + column**2).sqrt()] * 2)
        t = (sigma.log() * 100 + 500).clamp(0, 999).repeat(2)
        cond, uncond = self.unet(inside, t, context=self.texts.repeat_interleave(len(x), 0)).tanh().chunk(2)
        denoised = x - column * (uncond + self.scale * (cond - uncond))
        self.calls += 1
        self.seconds += time.perf_counter() - begin
        return denoised


def measured(name: str, sampler: Callable[..., Any], main: Clocked, other: Clocked, x: Any, sigmas: Any) -> list[Any]:
    """One run of a sampler: name, main and co evaluations, seconds, seconds outside the evaluations."""
    for model in (main, other):
        model.calls, model.seconds = 0, 0.0
    begin = time.perf_counter()
    with torch.no_grad():
        sampler(main, x, sigmas=sigmas, disable=True)
    total = time.perf_counter() - begin
    return [name, main.calls, other.calls, total, total - main.seconds - other.seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--early", type=int, default=3, help="K")
    parser.add_argument("--size", type=int, default=256, help="of the picture in pixels; latents are an eighth of it")
    arguments = parser.parse_args()
    folder = Path.cwd() / "repositories"
    sys.path[:0] = [str(REPOSITORY), str(folder / "stable-diffusion-stability-ai"), str(folder / "k-diffusion")]

    from k_diffusion.sampling import get_sigmas_karras, sample_euler

    from lib_amdm import CoRun, amdm

    model, other = Clocked(1, 7.0), Clocked(2, 7.0)
    sigmas = get_sigmas_karras(arguments.steps, 0.0292, 14.6146)
    side = arguments.size // 8
    x = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(3)) * sigmas[0]
    co = [CoRun(other, gamma=0.5)]
    runs = {
        "main alone": sample_euler,
        f"AMDM, K = {arguments.early}": amdm(sample_euler, co, steps=arguments.early),
        "every model at every step": amdm(sample_euler, co, steps=arguments.steps),
    }
    measured("warm-up", amdm(sample_euler, co, steps=2), model, other, x, sigmas[-3:])
    rows = [measured(name, sampler, model, other, x, sigmas) for name, sampler in runs.items()]

    print(f"{arguments.steps} steps of Euler, {arguments.size}x{arguments.size}, guidance in one batch, {_machine()}\n")
    print("| run | main evaluations | co-model evaluations | seconds | seconds outside evaluations | share outside |")
    print("|---|---|---|---|---|---|")
    for name, mains, others, total, outside in rows:
        print(f"| {name} | {mains} | {others} | {total:.1f} | {outside:.3f} | {outside / total:.2%} |")
    print(f"\nevery model at every step / AMDM: {rows[2][3] / rows[1][3]:.2f}x the time")


def _machine() -> str:
    return f"torch {torch.__version__} on the CPU, {torch.get_num_threads()} threads, float32"


if __name__ == "__main__":
    main()
