"""The nodes of ComfyUI. Their fields are the settings, except for those that a graph connects."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import ComfyExtension, io

from ...errors import AmdmError
from ...settings import MAIN_CHECKPOINT, THROUGH_PIXELS, CoModel, Part, Settings, Spec, SwitchSpec, WordSpec, specs
from ...settings.schema import read
from . import attached
from .attached import KEY, Attached, Connected
from .sampling import sample_with_co_models

CONNECTED = {
    "co_model": (io.Model, "The model to run alongside the main one, with its LoRAs; nothing = the main model."),
    "positive": (io.Conditioning, "Prompt for this model, encoded by its own CLIP; nothing = the main prompt."),
    "negative": (io.Conditioning, "Negative prompt for this model; nothing = the main negative prompt."),
    "mask": (io.Mask, "Where this model applies; nothing = everywhere."),
}
BY_GRAPH = ("checkpoint", "prompt", "negative_prompt", "mask", "size", "modules", "device")
"""The settings replaced by graph inputs, and those that ComfyUI has no use for."""


def fields_of(owner: type) -> list[Any]:
    """Return the inputs for a dataclass of settings."""
    return [
        _field(spec)
        for spec in specs(owner)
        if spec.shapes_picture and spec.name not in BY_GRAPH
        if not (isinstance(spec, SwitchSpec) or spec.hires_fix or spec.part is Part.ADAPTER)
    ]


def _field(spec: Spec) -> Any:
    common = {"display_name": spec.label, "tooltip": spec.help, "default": spec.shown(spec.default)}
    if spec.choices:
        # a graph has no autoencoders for a model to be run through pixels
        return io.Combo.Input(
            spec.name, options=[choice for choice in spec.choices if choice != THROUGH_PIXELS], **common
        )
    number = io.Int if spec.type is int else io.Float
    if isinstance(spec, WordSpec):
        return io.MultiType.Input(io.String.Input(spec.name, **common), [number])
    if spec.type is str:
        return io.String.Input(spec.name, multiline=spec.lines > 1, **common)
    return number.Input(spec.name, min=spec.minimum, max=spec.maximum, step=spec.step, **common)


def _attach(model: ModelPatcher, settings: Settings, inputs: tuple[Connected, ...]) -> io.NodeOutput:
    """Return a clone of a model with these co-models; SettingsError if two settings contradict each other."""
    clone = attached.bare(model)
    clone.set_attachments(KEY, Attached(settings.checked(), inputs))
    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, sample_with_co_models)
    patchers = (inputs[number - 1].patcher for number, _ in settings.active)
    # they are loaded together with the main model; of one network, only one clone can be
    networks = {patcher.model: patcher for patcher in patchers if patcher and patcher.model is not model.model}
    clone.set_additional_models(KEY, [*networks.values()])
    return io.NodeOutput(clone)


class AmdmNode(io.ComfyNode):
    """A node that adds a co-model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        sockets = [kind.Input(name, optional=True, tooltip=text) for name, (kind, text) in CONNECTED.items()]
        return io.Schema(
            node_id="AMDM",
            display_name="AMDM",
            category="sampling/AMDM",
            description="Runs another model alongside this one in a sampler's first steps. Further nodes add models.",
            inputs=[io.Model.Input("model", tooltip="The main model."), *sockets, *fields_of(CoModel)],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, **fields: Any) -> io.NodeOutput:
        settings, inputs = attached.of(model)
        number = len(inputs) + 1
        patcher, positive, negative, mask = (fields.pop(name, None) for name in CONNECTED)
        slot = read(CoModel, {"checkpoint": MAIN_CHECKPOINT, **fields}, f"co-model {number}")
        if patcher:
            latents, main_latents = patcher.model.latent_format, model.model.latent_format
            if type(latents) is not type(main_latents) or latents.scale_factor != main_latents.scale_factor:
                raise AmdmError(
                    f"AMDM: co-model {number} is {attached.family(patcher)} with latents {type(latents).__name__}, but "
                    f"the main model is {attached.family(model)} with {type(main_latents).__name__}; connect one with "
                    "the same."
                )
            patcher = attached.bare(patcher)
        these = Connected(patcher, positive, negative, mask if mask is None else mask.reshape(-1, *mask.shape[-2:]))
        return _attach(model, replace(settings, co_models=(*settings.co_models, slot)), (*inputs, these))


class AmdmSettingsNode(io.ComfyNode):
    """A node with the settings that all co-models share."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AMDMSettings",
            display_name="AMDM settings",
            category="sampling/AMDM",
            description="Settings that all co-models of a model share, before or after the AMDM nodes.",
            inputs=[io.Model.Input("model", tooltip="A model with co-models."), *fields_of(Settings)],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, **fields: Any) -> io.NodeOutput:
        before, inputs = attached.of(model)
        settings = read(Settings, {"enabled": True, **fields})
        return _attach(model, replace(settings, co_models=before.co_models), inputs)


class AmdmExtension(ComfyExtension):
    """The nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [AmdmNode, AmdmSettingsNode]


async def comfy_entrypoint() -> AmdmExtension:
    """Return the nodes to ComfyUI."""
    return AmdmExtension()
