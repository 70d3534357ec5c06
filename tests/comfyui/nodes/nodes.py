"""The nodes, and a page of the server with the counts."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any

import torch
from aiohttp import web
from comfy import model_management
from comfy.model_detection import detect_unet_config
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.supported_models import SD15
from comfy.utils import load_torch_file
from comfy_api.latest import ComfyExtension, io
from server import PromptServer

COUNTS: Counter[str] = Counter()
PREFIX = "model.diffusion_model."


def schema(name: str, output: Any, *inputs: Any) -> io.Schema:
    """The inputs and outputs of a node."""
    return io.Schema(node_id=name, inputs=[*inputs], outputs=[output.Output()])


class Words(io.ComfyNode):
    """A conditioning of random numbers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema("TestWords", io.Conditioning, io.Int.Input("seed"), io.Int.Input("width"))

    @classmethod
    def execute(cls, seed: int, width: int) -> io.NodeOutput:
        return io.NodeOutput([[torch.randn(1, 77, width, generator=torch.Generator().manual_seed(seed)), {}]])


class KeptWords(io.ComfyNode):
    """A conditioning from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema("TestKeptWords", io.Conditioning, io.String.Input("file"), io.String.Input("name"))

    @classmethod
    def execute(cls, file: str, name: str) -> io.NodeOutput:
        return io.NodeOutput([[load_torch_file(file)[name], {}]])


class SmallModel(io.ComfyNode):
    """The UNet of a checkpoint in SD1's form that is smaller than any ComfyUI knows, in 32 bits."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema("TestSmallModel", io.Model, io.String.Input("file"), io.Int.Input("heads"))

    @classmethod
    def execute(cls, file: str, heads: int) -> io.NodeOutput:
        weights = load_torch_file(file)
        config = SD15(detect_unet_config(weights, PREFIX))
        config.unet_config["num_heads"] = heads
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model(weights, PREFIX)
        model.load_model_weights(weights, PREFIX)
        devices = model_management.get_torch_device(), model_management.unet_offload_device()
        return io.NodeOutput(ModelPatcher(model, *devices))


class Counted(io.ComfyNode):
    """A model whose guided evaluations are counted."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema("TestCounted", io.Model, io.Model.Input("model"), io.String.Input("name"))

    @classmethod
    def execute(cls, model: Any, name: str) -> io.NodeOutput:
        def counted(executor: Any, *args: Any) -> Any:
            COUNTS[name] += 1
            return executor(*args)

        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, name, counted)
        return io.NodeOutput(clone)


class TestExtension(ComfyExtension):
    """The tests' nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [Words, KeptWords, SmallModel, Counted]


async def comfy_entrypoint() -> TestExtension:
    """Return the nodes to ComfyUI."""
    return TestExtension()


@PromptServer.instance.routes.get("/tests/counts")
async def counts(request: web.Request) -> web.Response:
    """Return the counts so far, and start anew."""
    found = dict(COUNTS)
    COUNTS.clear()
    return web.json_response(found)


@PromptServer.instance.routes.get("/tests/alive")
async def alive(request: web.Request) -> web.Response:
    """Return the number of models and of tensors' bytes that are alive."""
    gc.collect()
    objects = gc.get_objects()
    patchers = sum(isinstance(each, ModelPatcher) for each in objects)
    size = sum(each.nbytes for each in objects if type(each) is torch.Tensor)
    return web.json_response({"patchers": patchers, "bytes": size})
