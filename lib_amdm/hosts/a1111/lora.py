"""A1111: the LoRAs of a slot's own prompt, read and computed by the host's Lora extension for one co-model.

The extension applies its loaded networks to the main model's layers by itself. Nothing is added to those:
its classes compute the weights' differences, and the co-model's layers use the sums while it is evaluated.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from modules import devices, sd_models, shared

from ...comodels.cache import Recent
from ...comodels.weight_swap import Change, added
from ...files.container import in_memory
from ...files.state import FileState
from ..common.lora import Named, NamedLoras
from .pickled import state_dict_of

_ATTENTION_PARTS = ("_q_proj", "_k_proj", "_v_proj", "_out_proj")


class Loras(NamedLoras):
    """The LoRAs of a slot's prompt, on its model; see `common.backend.SlotLoras`."""

    size_in_pass = 0

    def __init__(self, model: Any, named: Sequence[Any], error_prefix: str, files: Recent, is_main: bool) -> None:
        """Read the files; AmdmError names one that cannot be used."""
        super().__init__(named, error_prefix)
        self.model, self.files, self.is_main = model, files, is_main

    def of_texts(self) -> list[Change]:
        return self._changes(self._text_layers)

    def of_unet(self) -> list[Change]:
        return self._changes(self._unet_layers)

    @cached_property
    def _unet_layers(self) -> dict[str, torch.nn.Module]:
        return {name.replace(".", "_"): layer for name, layer in self.model.model.named_modules()}

    @cached_property
    def _text_layers(self) -> dict[str, torch.nn.Module]:
        if self.model.is_sdxl:
            layers = {}
            for number, embedder in enumerate(self.model.conditioner.embedders):
                inner = getattr(embedder, "wrapped", None)
                for name, layer in inner.named_modules() if inner is not None else ():
                    layers[f"{number}_{name.replace('.', '_')}"] = layer
            return layers
        encoder = self.model.cond_stage_model
        named = getattr(encoder, "wrapped", encoder).named_modules()
        return {name.replace(".", "_"): layer for name, layer in named}

    @cached_property
    def _networks(self) -> list[dict[str, Any]]:
        """For each LoRA, the host's own modules for this model's layers, by the layers' names."""
        return [self._network(lora, entry) for lora, entry in zip(self.named, self.on_disk)]

    def _network(self, lora: Named, on_disk: Any) -> dict[str, Any]:
        state = FileState.of(on_disk.filename)
        weights = self.files.get(state, lambda: self._read(on_disk))
        network = sys.modules[type(on_disk).__module__]
        net = network.Network(lora.name, on_disk)
        net.te_multiplier, net.unet_multiplier, net.dyn_dim = lora.te, lora.unet, lora.dyn
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for key, weight in weights.items():
            name, _, part = key.partition(".")
            parts.setdefault(name, {})[part] = weight
        layers = {**self._unet_layers, **self._text_layers}
        modules = {}
        for name, tensors in parts.items():
            sd_key, layer = self._layer(name, layers)
            if layer is not None:
                modules[sd_key] = self._module(network.NetworkWeights(name, sd_key, tensors, layer), net)
        if not modules:
            raise self.wrong_family(lora.name)
        return modules

    def _read(self, on_disk: Any) -> Mapping[str, torch.Tensor]:
        try:
            return in_memory(state_dict_of(on_disk.filename, lambda: sd_models.read_state_dict(on_disk.filename)))
        except Exception as error:
            raise self.unreadable(on_disk.name, error) from error

    def _layer(self, name: str, layers: Mapping[str, torch.nn.Module]) -> tuple[str, torch.nn.Module | None]:
        """Return the layer of a name in the file, in any form that the host knows, and the host's key for it."""
        is_sd2 = "model_transformer_resblocks" in layers
        first = self.host.convert_diffusers_name_to_compvis(name, is_sd2)
        for key in (
            first,
            name.replace("lora_unet", "diffusion_model"),
            name.replace("lora_te1_text_model", "0_transformer_text_model"),
            name.replace("lora_te1_text_model", "transformer_text_model"),
            name.replace("oft_unet", "diffusion_model"),
        ):
            match = self.host.re_x_proj.match(key)
            layer = layers.get(key) or (layers.get(match[1]) if match else None)
            if layer is not None:
                return key, layer
        return first, None

    def _module(self, weights: Any, net: Any) -> Any:
        for kind in self.host.module_types:
            made = kind.create_module(net, weights)
            if made is not None:
                return made
        raise self.error(net.name, f"has {weights.network_key} in a form that the WebUI does not know")

    @torch.no_grad()
    def _changes(self, layers: Mapping[str, torch.nn.Module]) -> list[Change]:
        all_changes: list[Change] = []
        for name, layer in layers.items():
            packed = layer if isinstance(layer, torch.nn.MultiheadAttention) else None
            if not any(name in net or (packed and f"{name}_q_proj" in net) for net in self._networks):
                continue
            # with --medvram it is on the CPU, which does not compute in half precision
            with _on_device(layer) as home:
                self._bring_up_to_date(layer)
                changes = self._plain(name, layer) if packed is None else self._packed(name, packed)
                all_changes += [change._replace(value=change.value.to(home)) for change in changes]
        return all_changes

    def _bring_up_to_date(self, layer: torch.nn.Module) -> None:
        """Apply the main prompt's LoRAs to a layer of the main model before ours are swapped in."""
        if not self.is_main:
            return
        if shared.opts.lora_functional:
            self.host.network_restore_weights_from_backup(layer)
            self.host.network_reset_cached_weight(layer)
        else:
            self.host.network_apply_weights(layer)

    def _plain(self, name: str, layer: Any) -> Iterator[Change]:
        weight, bias = _base(layer)
        for net in self._networks:
            if name in net:
                delta, of_bias = self._difference(net[name], weight)
                weight = self._sum(net[name], weight, delta)
                if of_bias is not None:
                    bias = of_bias.to(weight) if bias is None else self._sum(net[name], bias, of_bias)
        for parameter, value in (("weight", weight), ("bias", bias)):
            present = getattr(layer, parameter, None)
            if value is not None and value is not present:
                yield Change(layer, parameter, value.detach() if present is None else value.detach().to(present.dtype))

    def _packed(self, name: str, layer: torch.nn.MultiheadAttention) -> Iterator[Change]:
        """Join the weights of q, k and v, which Open CLIP's attention has in one tensor."""
        assert layer.in_proj_weight is not None  # q, k and v have the same width
        inner: torch.Tensor = layer.in_proj_weight
        outer: torch.Tensor = layer.out_proj.weight
        for net in self._networks:
            modules = [net.get(f"{name}{part}") for part in _ATTENTION_PARTS]
            if None in modules:
                continue
            deltas = [self._difference(module, part)[0] for module, part in zip(modules, inner.chunk(3, 0))]
            inner = self._sum(modules[0], inner, torch.cat(deltas))
            outer = self._sum(modules[3], outer, self._difference(modules[3], outer)[0])
        yield Change(layer, "in_proj_weight", inner.detach())
        yield Change(layer.out_proj, "weight", outer.detach())

    def _difference(self, module: Any, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        if weight.element_size() == 1:
            # 8-bit dtypes are storage only: no matmul
            weight = weight.to(torch.float32)
        try:
            return module.calc_updown(weight)
        except RuntimeError as error:
            raise self.mismatch(module.network.name, module.sd_key, error) from error

    def _sum(self, module: Any, weight: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        try:
            return added(weight, delta)
        except RuntimeError as error:
            raise self.mismatch(module.network.name, module.sd_key, error) from error


@contextmanager
def _on_device(layer: torch.nn.Module) -> Iterator[torch.device]:
    """Have a layer on the GPU during the context; yields its former device."""
    home = next(layer.parameters()).device
    try:
        layer.to(devices.device)
        yield home
    finally:
        layer.to(home)


def _base(layer: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the weights to add a difference to: packed ones (the host's "FP8 weight") may have a finer copy.

    The copy is not used if the main prompt's LoRAs are in the packed weights, since it lacks them.
    """
    weight, bias = layer.weight, getattr(layer, "bias", None)
    finer = getattr(layer, "fp16_weight", None)
    if finer is None or getattr(layer, "network_current_names", None):
        return weight, bias
    if bias is not None:
        bias = layer.fp16_bias.to(bias.device, torch.float32)
    return finer.to(weight.device, torch.float32), bias
