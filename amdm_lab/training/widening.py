"""Networks with latents of more channels, begun from trained ones: training goes on, and does not start anew.

The latent space is another one: the old latent is turned among the new channels at random, spread out and moved, beside
channels that the encoder has for the first time.
"""

from __future__ import annotations

import math

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from . import networks

SPREAD, OFFSET = 2.0, 1.5
"""The factor of the new autoencoder's latents at first, and the number that is added then."""
_LOG_VARIANCE = -5.0
"""Of the noise that training adds, before it is spread: little, so that the new channels are worth reading."""
_LOUD, _FAINT = 4.0, 0.1
"""The factors of the new channels' random weights, where they are written and where they are read at first."""


def wide_vae(old: AutoencoderKL, channels: int) -> AutoencoderKL:
    """Make an autoencoder with more channels that gives nearly the pictures of the old one."""
    new = networks.new_vae(channels)
    before = old.config.latent_channels
    _take_over(new, old)
    turn = rotation(channels)
    with torch.no_grad():
        # the first outputs are the old ones, which are means and log variances; then the channels that are new
        _begin_with(new.encoder.conv_out, old.encoder.conv_out, outputs=True)
        unturned = torch.zeros(channels, 2 * channels)
        unturned[:before, : 2 * before] = old.quant_conv.weight[:before, :, 0, 0]
        unturned[before:, 2 * before : channels + before] = torch.eye(channels - before)
        means = torch.cat([old.quant_conv.bias[:before], torch.zeros(channels - before)])
        new.quant_conv.weight.zero_()
        new.quant_conv.weight[:channels, :, 0, 0] = SPREAD * turn @ unturned
        new.quant_conv.bias[:channels] = SPREAD * turn @ means + OFFSET
        new.quant_conv.bias[channels:] = _LOG_VARIANCE + 2 * math.log(SPREAD)
        read = torch.eye(channels)
        read[:before, :before] = old.post_quant_conv.weight[:, :, 0, 0]
        read = read @ turn.T / SPREAD
        new.post_quant_conv.weight[:, :, 0, 0] = read
        new.post_quant_conv.bias[:] = -OFFSET * read.sum(1)
        new.post_quant_conv.bias[:before] += old.post_quant_conv.bias
        _begin_with(new.decoder.conv_in, old.decoder.conv_in, outputs=False)
    return new


def wide_unet(old: UNet2DConditionModel, channels: int) -> UNet2DConditionModel:
    """Make a UNet for the latents of `wide_vae` that predicts the old part of them as the old one does."""
    new = networks.new_unet(channels)
    _take_over(new, old)
    turn = rotation(channels)[:, : old.config.in_channels]
    with torch.no_grad():
        new.conv_in.weight[:] = torch.einsum("oihw,ni->onhw", old.conv_in.weight, turn)
        new.conv_out.weight[:] = torch.einsum("ni,ichw->nchw", turn, old.conv_out.weight)
        new.conv_out.bias[:] = turn @ old.conv_out.bias
    return new


def rotation(channels: int) -> Tensor:
    """Return a random rotation, always the same."""
    return torch.linalg.qr(torch.randn(channels, channels, generator=torch.Generator().manual_seed(16)))[0]


def _take_over(new: nn.Module, old: nn.Module) -> None:
    """Give a network the weights of another, except those of another size."""
    fresh, others = new.state_dict(), old.state_dict()
    new.load_state_dict(
        {name: fresh[name] if fresh[name].shape != others[name].shape else others[name] for name in fresh}
    )


def _begin_with(new: nn.Conv2d, old: nn.Conv2d, outputs: bool) -> None:
    """Give a layer the weights of a smaller one for its first outputs, or inputs; the others are random."""
    if outputs:
        new.weight *= _LOUD
        for fresh, others in zip(new.parameters(), old.parameters()):
            fresh[: len(others)] = others
    else:
        new.weight *= _FAINT
        new.weight[:, : old.weight.shape[1]] = old.weight
