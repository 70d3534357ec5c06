"""An adapter's tensors as a torch module, and the few layers all adapters are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-5


class Weights(nn.Module):
    """Tensors by dotted names as a tree of modules, so that `.to()`, `state_dict()` and training see them as usual.

    `weights["layers.0.to_q"]` is the module that holds `layers.0.to_q.weight`. The parameters require no gradient until
    a trainer sets it.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        inner: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            head, _, rest = name.partition(".")
            if rest:
                inner.setdefault(head, {})[rest] = tensor
            else:
                self.register_parameter(head, nn.Parameter(tensor, requires_grad=False))
        for head, tensors_below in inner.items():
            self.add_module(head, Weights(tensors_below))

    def __getitem__(self, name: str) -> Weights:
        return cast(Weights, self.get_submodule(name))

    def __contains__(self, name: str) -> bool:
        """Return True if there is such a tensor or such a module of tensors."""
        head, _, rest = name.partition(".")
        if rest:
            return head in self._modules and rest in self[head]
        return head in self._modules or head in self._parameters


def linear(layer: Weights, x: Tensor) -> Tensor:
    """Return x W^T + b for x (..., in), (..., out); layers without a bias have none."""
    return F.linear(x, layer.weight, getattr(layer, "bias", None))


def layer_norm(layer: Weights, x: Tensor) -> Tensor:
    """Return x (..., width), normalised over its last dimension."""
    return F.layer_norm(x, list(layer.weight.shape), layer.weight, layer.bias, LAYER_NORM_EPS)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T / sqrt(channels / heads)) v in each head, (batch, n, channels).

    q: (batch, n, channels).
    k, v: (batch, m, channels).
    mask: True where a query may attend to a key, broadcast to (batch, heads, n, m).
    """
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def box_embedding(boxes: Tensor) -> Tensor:
    """Return Fourier features (..., 64) of boxes (..., 4): for f = 100^(k/8), k = 0..7: sin(f box), then cos(f box).

    Always in float32: half precision loses a hundredth here.
    """
    boxes = boxes.float()
    freqs = 100 ** (torch.arange(8, device=boxes.device) / 8)
    angles = freqs[:, None] * boxes.unsqueeze(-2)
    return torch.stack([angles.sin(), angles.cos()], dim=-2).flatten(-3)


def silu_mlp(layers: Weights, x: Tensor) -> Tensor:
    """Return x (..., in) through the linear layers 0, 2, 4, ... of a sequence with SiLU between them, (..., out)."""
    for number in sorted(int(name) for name in layers._modules):
        x = linear(layers[str(number)], F.silu(x) if number else x)
    return x
