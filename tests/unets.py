"""One small UNet of Stable Diffusion 1's shape in each layout, with the same weights: for tests of the adapters."""

from __future__ import annotations

import functools
from collections.abc import Callable

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from amdm_lab.training.ldm_format import UNET_PREFIX, unet_weights
from tests.ldm_unet import LdmUnet
from tests.seeded import fill

WIDTHS = (32, 32, 32, 32)
"""All equal, so that layers in a wrong order fit, and only the numbers can show it."""
XL_WIDTHS = (32, 32, 64)
HEADS = 8
LAYOUTS = ("a1111", "forge", "diffusers")
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]


def unet_of(layout: str, context: int, layers: int = 2) -> tuple[nn.Module, Predict]:
    """The UNet, and a way to call it with latents, timesteps and contexts whatever its layout."""
    if layout == "diffusers":
        unet = diffusers_unet(context, layers)
        return unet, lambda x, t, c: unet(x, t, encoder_hidden_states=c).sample
    return _filled(LdmUnet(WIDTHS, (1, 1, 1, 0), context, (HEADS,) * 4, layers, in_place=layout == "forge"))


def xl_unet_of(layout: str, context: int) -> tuple[nn.Module, Predict]:
    """A UNet of SDXL's shape: no attention at the top, more blocks further down, linear layers about them."""
    depths, heads = (0, 2, 3), (4, 4, 8)
    if layout != "diffusers":
        return _filled(LdmUnet(XL_WIDTHS, depths, context, heads, linear=True, in_place=layout == "forge"))
    unet = diffusers_xl_unet(context, depths, heads)
    return unet, lambda x, t, c: unet(x, t, encoder_hidden_states=c).sample


def _filled(unet: LdmUnet) -> tuple[nn.Module, Predict]:
    fill(unet)
    unet.eval().requires_grad_(False)
    return unet, unet


shared_unet_of = functools.cache(unet_of)
"""The same for tests that change nothing in it."""


def diffusers_unet(context: int, layers: int = 2) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=WIDTHS,
        layers_per_block=layers,
        cross_attention_dim=context,
        attention_head_dim=HEADS,  # diffusers reads this as the number of heads
    )
    fill(unet, ldm_names(unet))
    return unet.eval().requires_grad_(False)


def diffusers_xl_unet(context: int, depths: tuple[int, ...], heads: tuple[int, ...]) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=XL_WIDTHS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=context,
        transformer_layers_per_block=[depth or 1 for depth in depths],
        attention_head_dim=heads,
        use_linear_projection=True,
    )
    fill(unet, ldm_names(unet))
    return unet.eval().requires_grad_(False)


def ldm_names(unet: UNet2DConditionModel) -> dict[str, str]:
    """ldm's names of a diffusers UNet's parameters."""
    return dict(zip(unet.state_dict(), (name.removeprefix(UNET_PREFIX) for name in unet_weights(unet))))
