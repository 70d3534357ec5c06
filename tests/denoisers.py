"""Small stand-ins for the tests: denoisers without weights, and samplers of the kinds that k-diffusion lacks."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from amdm_lab.studio import k_diffusion_parts as k_diffusion
from lib_amdm import CoRun

SIGMA_MAX, SIGMA_MIN = 14.6146, 0.0292
STEPS = 7
SHAPE = (2, 4, 6, 5)


class Denoiser(nn.Module):
    """A smooth nonlinear denoiser, another one for each `seed`; it keeps what it is called with.

    Like Stable Diffusion's its prediction is bounded and depends on all of the latent, and it is the same function
    for every sample of a batch.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.weights = [draw.uniform(-1.0, 1.0) for _ in range(6)]
        self.phase = draw.uniform(0.0, 6.0)
        self.latents: list[Tensor] = []
        self.levels: list[Tensor] = []
        self.extras: list[dict[str, Any]] = []

    @property
    def evaluations(self) -> int:
        return len(self.levels)

    def forward(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        self.latents.append(x.clone())
        self.levels.append(sigma.clone())
        self.extras.append(extra)
        wide = torch.promote_types(x.dtype, torch.float32)
        level = sigma.to(wide).view(-1, 1)
        z = x.to(wide).flatten(1) / (1 + level**2).sqrt()
        a, b, c, d, e, f = self.weights
        place = torch.arange(z.shape[1], dtype=wide)
        hidden = torch.tanh(
            a * z + b * z.roll(1, 1) + c * z.mean(1, keepdim=True) + torch.sin(2.3 * place + self.phase)
        )
        kept = z / (1 + level**2).sqrt()
        denoised = torch.tanh(1.5 * kept + d * hidden + e * hidden.roll(-2, 1) + f * torch.log1p(level) / 3)
        return (1.5 * denoised).view_as(x).to(x.dtype)


def denoiser_of(co_model: CoRun) -> Denoiser:
    """Return a co-model's denoiser, which knows what it was called with."""
    assert isinstance(co_model.denoise, Denoiser)
    return co_model.denoise


def sd_alphas_cumprod() -> Tensor:
    """Stable Diffusion's noise schedule: betas linear in their square root."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


class EpsDenoiser(nn.Module):
    """`denoiser` as the WebUI's timestep samplers see a model: variance-preserving latents, timesteps, eps."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.inner_model = SimpleNamespace(inner_model=SimpleNamespace(alphas_cumprod=sd_alphas_cumprod()))

    @property
    def evaluations(self) -> int:
        return self.denoiser.evaluations

    def forward(self, x: Tensor, timesteps: Tensor, **extra: Any) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        alpha = self.inner_model.inner_model.alphas_cumprod[timesteps.long()]
        alpha = alpha.to(wide).view(-1, *[1] * (x.ndim - 1))
        sigma = ((1 - alpha) / alpha).sqrt()
        latent = x.to(wide) / alpha.sqrt()
        return ((latent - self.denoiser(latent, sigma.flatten(), **extra)) / sigma).to(x.dtype)


@torch.no_grad()
def sample_lcm(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    noise_sampler: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """LCM: to the denoised latent, and from there to the next level with new noise."""
    noise_sampler = noise_sampler or (lambda sigma, sigma_next: torch.randn_like(x))
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * x.new_ones([x.shape[0]]), **(extra_args or {}))
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        x = denoised
        if sigmas[i + 1] > 0:
            x = x + sigmas[i + 1] * noise_sampler(sigmas[i], sigmas[i + 1])
    return x


def _alphas(model: Any, timesteps: Tensor) -> list[float]:
    return model.inner_model.inner_model.alphas_cumprod[timesteps].tolist()


@torch.no_grad()
def sample_ddim(
    model: Any,
    x: Tensor,
    timesteps: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    eta: float = 0.0,
) -> Tensor:
    """DDIM, equation 12 of Song et al. (2020), from the last timestep down to the first."""
    alphas = _alphas(model, timesteps)
    for i in range(len(timesteps) - 1):
        t, a, a_next = timesteps[-1 - i], alphas[-1 - i], alphas[-2 - i]
        eps = model(x, t * x.new_ones([x.shape[0]]), **(extra_args or {}))
        denoised = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
        spread = eta * math.sqrt((1 - a_next) / (1 - a)) * math.sqrt(1 - a / a_next)
        x = math.sqrt(a_next) * denoised + math.sqrt(1 - a_next - spread**2) * eps
        if spread:
            x = x + spread * torch.randn_like(x)
        if callback is not None:
            callback({"x": x, "i": i, "sigma": 0, "sigma_hat": 0, "denoised": denoised})
    return x


@torch.no_grad()
def sample_plms(
    model: Any,
    x: Tensor,
    timesteps: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
) -> Tensor:
    """DDIM's transfer with the eps that the Adams-Bashforth formulas give from up to four evaluations."""
    weights = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
    alphas = _alphas(model, timesteps)
    seen: list[Tensor] = []
    for i in range(len(timesteps) - 1):
        t, a, a_next = timesteps[-1 - i], alphas[-1 - i], alphas[-2 - i]
        seen = [model(x, t * x.new_ones([x.shape[0]]), **(extra_args or {})), *seen[:3]]
        eps = sum(weight * past for weight, past in zip(weights[len(seen) - 1], seen))
        denoised = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
        x = math.sqrt(a_next) * denoised + math.sqrt(1 - a_next) * eps
        if callback is not None:
            callback({"x": x, "i": i, "sigma": 0, "sigma_hat": 0, "denoised": denoised})
    return x


@torch.no_grad()
def sample_unipc(
    model: Any,
    x: Tensor,
    timesteps: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    is_img2img: bool = False,
) -> Tensor:
    """A second-order multistep solver in log SNR on its own grid: of the timesteps it takes the number and the top.

    Like the WebUI's UniPC it starts from the very top unless it is img2img, and refuses short lists.
    """
    if len(timesteps) < 3:
        raise ValueError("order must be smaller than the number of steps")
    top = int(timesteps[-1]) if is_img2img else 999
    grid = torch.linspace(top, 0, len(timesteps) + 1).round().long().to(timesteps.device)
    alphas = _alphas(model, grid)
    half_log_snr = [0.5 * math.log(a / (1 - a)) for a in alphas]
    before: Tensor | None = None
    h_before = math.nan
    for i in range(len(timesteps)):
        a, a_next, h = alphas[i], alphas[i + 1], half_log_snr[i + 1] - half_log_snr[i]
        eps = model(x, grid[i] * x.new_ones([x.shape[0]]), **(extra_args or {}))
        denoised = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
        ahead = denoised if before is None else denoised + h / (2 * h_before) * (denoised - before)
        x = math.sqrt((1 - a_next) / (1 - a)) * x - math.sqrt(a_next) * math.expm1(-h) * ahead
        before, h_before = denoised, h
        if callback is not None:
            callback({"x": x, "i": i, "sigma": 0, "sigma_hat": 0, "denoised": denoised})
    return x


@dataclass(frozen=True)
class Sampler:
    """One sampler and what its arguments look like; `kind` is sigmas, range or timesteps."""

    name: str
    func: Callable[..., Any]

    @property
    def parameters(self) -> Any:
        return inspect.signature(self.func).parameters

    @property
    def kind(self) -> str:
        names = self.parameters
        return "sigmas" if "sigmas" in names else "timesteps" if "timesteps" in names else "range"

    def model(self, denoiser: Denoiser) -> nn.Module:
        return EpsDenoiser(denoiser) if self.kind == "timesteps" else denoiser

    def grid(self, steps: int = STEPS, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
        """The arguments that say which levels there are."""
        if self.kind == "sigmas":
            return {"sigmas": sigmas(steps, dtype)}
        if self.kind == "timesteps":
            return {"timesteps": timesteps(steps)}
        return {"sigma_min": SIGMA_MIN, "sigma_max": SIGMA_MAX} | ({"n": steps} if "n" in self.parameters else {})

    def noise(self, shape: Sequence[int] = SHAPE, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
        """The latent that the sampler starts from, at its first level."""
        scale = 1.0 if self.kind == "timesteps" else SIGMA_MAX
        return (scale * randn(shape, seed)).to(dtype)

    def run(
        self,
        model: Any,
        x: Tensor,
        wrap: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda func: func,
        steps: int = STEPS,
        seed: int = 5,
        **more: Any,
    ) -> Tensor:
        """The sampler, or what `wrap` makes of it, with torch's global random stream set to `seed`."""
        torch.manual_seed(seed)
        grid_type = x.dtype if x.dtype == torch.float64 else torch.float32
        return wrap(self.func)(model, x, **{"disable": True, **self.grid(steps, grid_type), **more})

    def __str__(self) -> str:
        return self.name


def randn(shape: Sequence[int], seed: int) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sigmas(steps: int = STEPS, dtype: torch.dtype = torch.float32) -> Tensor:
    """Karras' schedule over Stable Diffusion's range, with the final 0."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1, dtype=torch.float64)
    top, bottom = SIGMA_MAX ** (1 / 7), SIGMA_MIN ** (1 / 7)
    return torch.cat([(top + ramp * (bottom - top)) ** 7, torch.zeros(1, dtype=torch.float64)]).to(dtype)


def timesteps(steps: int = STEPS) -> Tensor:
    """Ascending timesteps for `steps` steps of DDIM."""
    return torch.linspace(1, 981, steps + 1).round().long()


class SampleNoise:
    """A `noise_sampler` whose draws depend on each sample's own seed and the number of the draw, not on the batch."""

    def __init__(self, shape: Sequence[int], seeds: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return torch.stack([torch.randn(self.shape, generator=generator) for generator in self.generators])


_K_DIFFUSION = {
    name.removeprefix("sample_"): getattr(k_diffusion.sampling, name)
    for name in dir(k_diffusion.sampling)
    if name.startswith("sample_")
}
_OWN = {"lcm": sample_lcm, "ddim": sample_ddim, "plms": sample_plms, "unipc": sample_unipc}
SAMPLERS = {name: Sampler(name, func) for name, func in (_K_DIFFUSION | _OWN).items()}

SEVERAL = ("heun", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpm_adaptive")
"""These evaluate more than once in a step."""

# their whole state is the latent, so a run that is taken apart into steps is the same run
STATELESS = (
    "euler",
    "euler_ancestral",
    "heun",
    "dpm_2",
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "lcm",
    "ddim",
)
