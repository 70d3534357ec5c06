"""A checkpoint for k-diffusion's samplers: a denoiser with classifier-free guidance, and its noise levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from lib_amdm.comodels.adapter_use import AtWork, pooled_at_end
from lib_amdm.comodels.cache import Recent
from lib_amdm.comodels.guidance import guided, taken
from lib_amdm.core.levels import Form, Level, as_exploding, as_flow, flow, variance_exploding

from . import prompts as prompt_syntax
from .checkpoint_file import CheckpointFile
from .k_diffusion_parts import external
from .tokenizer import read_tokenizer

LATENT_SCALE = 8
"""Pixels of a picture for each number of its latent, along either side."""
TIMESTEPS = 1000
"""Of a flow model's training: its network gets 1000 t."""


class _Network(nn.Module):
    """The UNet with the arguments that k-diffusion's wrappers pass on, in its own dtype."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, timestep: Tensor, cond: Tensor) -> Tensor:
        predicted = self.unet(x.to(self.unet.dtype), timestep, encoder_hidden_states=cond, return_dict=False)[0]
        return predicted.to(x.dtype)


class FlowDenoiser(nn.Module):
    """D(x, t) of a rectified flow's network, in the manner of k-diffusion's wrappers.

    A latent is (1 - t) x0 + t noise. Its noise level is t, from 1 (noise) to 0. The network predicts noise - x0.
    sigmas: the levels at the training's timesteps, rising to 1.
    """

    sigmas: Tensor

    def __init__(self, inner_model: nn.Module, shift: float = 1.0, timesteps: int = TIMESTEPS) -> None:
        super().__init__()
        self.inner_model, self.shift, self.timesteps = inner_model, shift, timesteps
        self.register_buffer("sigmas", torch.arange(1, timesteps + 1) / timesteps)

    def forward(self, x: Tensor, sigma: Tensor, **further: Any) -> Tensor:
        velocity = self.inner_model(x, self.sigma_to_t(sigma), **further)
        return x - sigma.view(-1, *[1] * (x.ndim - 1)) * velocity

    def sigma_to_t(self, sigma: Tensor) -> Tensor:
        return self.timesteps * sigma

    def get_sigmas(self, steps: int) -> Tensor:
        """Return `steps` levels from 1 down, evenly spread but for the shift, and 0."""
        even = torch.linspace(1, 0, steps + 1, device=self.sigmas.device)
        return self.shift * even / (1 + (self.shift - 1) * even)


class StandaloneModel(nn.Module):
    """The UNet and the text encoder of one file. `wrap(x, sigma, cond=...)` gives the denoised latent for one text."""

    def __init__(self, file: CheckpointFile, device: torch.device, dtype: torch.dtype) -> None:
        """Read the file; AmdmError if it cannot be used."""
        super().__init__()
        self.title = file.title
        self.is_flow = file.is_flow
        self.wrap = _wrapped(file, dtype)
        self.text_encoder = file.text_encoder(dtype)
        self.tokenizer = read_tokenizer(file.clip_folder)
        self.texts = Recent()
        self.to(device)

    @property
    def unet(self) -> UNet2DConditionModel:
        return self.wrap.inner_model.unet

    @property
    def latent_channels(self) -> int:
        return self.unet.config.in_channels

    @property
    def form(self) -> Form:
        """The form of its latents."""
        return as_flow if self.is_flow else as_exploding

    def level(self, sigma: float) -> Level:
        """Return the level that it calls by this number."""
        return flow(sigma) if self.is_flow else variance_exploding(sigma)

    @property
    def highest(self) -> float:
        """The highest noise-to-signal ratio that it knows."""
        return self.level(self.wrap.sigmas[-1].item()).ratio

    def sigmas(self, steps: int) -> Tensor:
        """Return `steps` noise levels from the highest down, and 0, evenly spread over the training's timesteps.

        A flow model's levels are shifted as its file says.
        """
        return self.wrap.get_sigmas(steps)

    def denoiser(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str],
        cfg_scale: float,
        error_prefix: str = "AMDM",
        adapter: AtWork | None = None,
        progress: Callable[[float], float] = lambda ratio: 0.0,
    ) -> GuidedDenoiser:
        """Encode a prompt and a negative prompt for each image, and return their denoiser.

        prompts, negative_prompts: of each image.
        cfg_scale: the guidance.
        error_prefix: the beginning of an error about the prompts.
        adapter: works on the UNet in this denoiser's calls.
        progress: returns the share of the steps that are done at a noise-to-signal ratio.
        """
        for text in (*prompts, *negative_prompts):
            prompt_syntax.refuse_extra_networks(text, error_prefix)
        parts = [prompt_syntax.weighted_parts(prompt) for prompt in prompts]
        texts = list(dict.fromkeys([*(text for of_image in parts for text, _ in of_image), *negative_prompts]))
        encoded = dict(zip(texts, self._encoded(texts)))
        images = [
            _ImageTexts([encoded[text] for text, _ in of_image], [weight for _, weight in of_image], encoded[negative])
            for of_image, negative in zip(parts, negative_prompts)
        ]
        return GuidedDenoiser(self, images, cfg_scale, adapter, progress)

    @torch.no_grad()
    def _encoded(self, texts: list[str]) -> list[Tensor]:
        encode = prompt_syntax.encode
        return self.texts.get(tuple(texts), lambda: encode(texts, self.tokenizer, self.text_encoder))

    def pooled(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """See `comodels.adapter_use.Phrases`."""
        return {text: phrase[0] for text, phrase in self._phrases(texts).items()}

    def contexts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """See `comodels.adapter_use.Phrases`."""
        return {text: phrase[1] for text, phrase in self._phrases(texts).items()}

    @torch.no_grad()
    def _phrases(self, texts: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
        def encode() -> dict[str, tuple[Tensor, Tensor]]:
            tokens = prompt_syntax.phrase_tokens(texts, self.tokenizer).to(self.text_encoder.device)
            hidden = self.text_encoder(input_ids=tokens).last_hidden_state
            return dict(zip(texts, zip(pooled_at_end(hidden, tokens, self.tokenizer.eos_token_id), hidden)))

        return self.texts.get(("phrases", *texts), encode)


def _wrapped(file: CheckpointFile, dtype: torch.dtype) -> Any:
    network = _Network(file.unet(dtype))
    if file.is_flow:
        return FlowDenoiser(network, file.shift)
    kind = external.DiscreteVDDPMDenoiser if file.predicts_v else external.DiscreteEpsDDPMDenoiser
    return kind(network, file.alphas_cumprod(), quantize=False)


@dataclass
class _ImageTexts:
    """The texts of one image: the encoded parts of its prompt, each (tokens, width), and its negative prompt."""

    parts: list[Tensor]
    weights: list[float]
    negative: Tensor

    @property
    def lengths(self) -> tuple[int, int]:
        return max(len(part) for part in self.parts), len(self.negative)


class _Group:
    """Images of a batch with texts of the same length, so that one call of the network takes them all.

    How an image's texts are filled up depends on that image alone, not on the others in the batch.
    """

    def __init__(self, numbers: list[int], images: list[_ImageTexts]) -> None:
        self.images = numbers
        longest = images[0].lengths[0]
        self.cond = torch.stack([_lengthened(part, longest) for image in images for part in image.parts])
        self.uncond = torch.stack([image.negative for image in images])
        rows = iter(range(len(self.cond)))
        self.parts = [[(next(rows), weight) for weight in image.weights] for image in images]
        # every prompt is the negative prompt itself: there is nothing to guide with
        self.is_unguided = self.cond.shape == self.uncond.shape and torch.equal(self.cond, self.uncond)


def _lengthened(text: Tensor, length: int) -> Tensor:
    """Lengthen a part of a prompt by its last token to the length of the longest part, as the WebUI does."""
    return torch.cat([text, text[-1:].expand(length - len(text), -1)])


class GuidedDenoiser(nn.Module):
    """D(x, sigma): the guided denoised latent (batch, c, h, w) for noise levels (batch,), as k-diffusion calls it."""

    def __init__(
        self,
        model: StandaloneModel,
        images: list[_ImageTexts],
        cfg_scale: float,
        adapter: AtWork | None,
        progress: Callable[[float], float],
    ) -> None:
        super().__init__()
        self.model, self.cfg_scale = model, cfg_scale
        self.adapter, self.progress = adapter, progress
        self.evaluations = 0
        self.base: Tensor | None = None
        """The last prediction without the prompts, if all pictures have one."""
        alike: dict[tuple[int, int], list[int]] = {}
        for number, image in enumerate(images):
            alike.setdefault(image.lengths, []).append(number)
        self.groups = [_Group(numbers, [images[n] for n in numbers]) for numbers in alike.values()]

    def forward(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        progress = self.progress(self.model.level(sigma[0].item()).ratio) if self.adapter else 0.0
        self.evaluations += 1
        denoised: list[Tensor] = [x] * len(x)
        bases: dict[int, Tensor] = {}
        # attached for this evaluation alone: another denoiser may be of the same UNet
        with self.adapter.on(self.model.unet) if self.adapter else nullcontext():
            for group in self.groups:
                of = group.images

                def announce(images: Sequence[int], prompts: Sequence[bool], of: list[int] = of) -> None:
                    if self.adapter:
                        self.adapter.announce([of[image] for image in images], prompts, progress)

                of_group = (group.parts, group.cond, group.uncond, self.cfg_scale)
                guidance = guided(
                    self._predict,
                    taken(x, of),
                    taken(sigma, of),
                    *of_group,
                    # an adapter works on the prompts' rows alone, which makes them others than the negative ones
                    skip_uncond=group.is_unguided and not self.adapter,
                    announce=announce,
                )
                for image, row in zip(of, guidance.denoised):
                    denoised[image] = row
                if guidance.base is not None:
                    bases.update(zip(of, guidance.base))
        self.base = torch.stack([bases[image] for image in sorted(bases)]) if len(bases) == len(x) else None
        return torch.stack(denoised)

    def _predict(self, x: Tensor, sigma: Tensor, cond: Tensor | dict[str, Tensor], rows: list[int]) -> Tensor:
        return self.model.wrap(x, sigma, cond=cond)


class Autoencoder(nn.Module):
    """The VAE of one file. A latent is what the VAE gives, less the offset, times the scale."""

    def __init__(self, vae: AutoencoderKL, scale: float, offset: float = 0.0) -> None:
        super().__init__()
        self.vae, self.scale, self.offset = vae, scale, offset

    @torch.no_grad()
    def decode(self, latents: Tensor, clamp: bool = True) -> Tensor:
        """Turn latents (batch, c, h, w) into pictures (batch, 3, 8 h, 8 w) from 0 to 1.

        clamp: False leaves what lies beyond, which a picture to be encoded again needs.
        """
        decoded = self.vae.decode((latents / self.scale + self.offset).to(self.vae.dtype)).sample
        pictures = (decoded.float() + 1) / 2
        return pictures.clamp(0, 1) if clamp else pictures

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Turn pictures (batch, 3, 8 h, 8 w) from 0 to 1 into the means of their latents (batch, c, h, w)."""
        encoded = self.vae.encode((pictures * 2 - 1).to(self.vae.dtype))
        return (encoded.latent_dist.mean.float() - self.offset) * self.scale
