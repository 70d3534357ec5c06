"""The probe: a test-only extension that looks at a running WebUI, breaks it on demand, and answers under /amdm-probe/.

POST /amdm-probe/arm starts a record, with an optional fault: {"fault": "exception", "at": "co", "call": 2}, or with
functions on the main model that remember its outputs: {"remembers": "wrapper"}.
GET /amdm-probe/report is what happened since: evaluations, text encodings, opened checkpoints, every pass's latent.
GET /amdm-probe/unets is how many UNets are in memory, those included that Python has yet to collect.
GET /amdm-probe/snapshot is everything that AMDM must leave as it was.
"""

from __future__ import annotations

import base64
import functools
import gc
import hashlib
import io
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from fastapi import Body, FastAPI
from modules import script_callbacks, scripts, sd_models, shared

TEXT_ENCODERS = ("WithCustomWords", "CLIPTextModel")
UNETS = ("UNetModel", "IntegratedUNet2DConditionModel")
AUTOENCODER_PARTS = ("Encoder", "Decoder")
UNUSED = "transformer.text_projection.weight"
CHECKPOINT_SUFFIXES = (".ckpt", ".safetensors", ".pth", ".bin")


class Record:
    """The events since the probe was armed, and the fault it was armed with."""

    def __init__(self, fault: str | None = None, at: str = "co", call: int = 1, remembers: str | None = None) -> None:
        self.fault, self.at, self.call, self.remembers = fault, at, call, remembers
        self.denoiser = 0
        self.unet: dict[str, int] = {"main": 0, "co": 0}
        self.vae = 0
        self.by_model: dict[int, int] = {}
        self.models: list[torch.nn.Module] = []
        self.inputs: dict[str, list[list[int]]] = {"main": [], "co": []}
        self.texts: dict[str, int] = {"main": 0, "co": 0}
        self.paddings: set[str] = set()
        self.opened: list[str] = []
        self.textinfo: list[str] = []
        self.passes: list[torch.Tensor] = []
        self.comments = ""
        self.random: list[str] = []
        self.process_random_moved = False
        self.handles: list[Any] = []

    def attach(self) -> None:
        module = torch.nn.modules.module
        self.handles = [
            module.register_module_forward_pre_hook(self.before),
            module.register_module_forward_hook(self.after),
        ]

    def detach(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def before(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, torch.nn.Conv2d):
            self.paddings.add(module.padding_mode)
        if is_text_encoder(module):
            mine = any(module is part for root in main_parts().values() for part in root.modules())
            self.texts["main" if mine else "co"] += 1
        if type(module).__name__ in AUTOENCODER_PARTS:
            self.vae += 1
            if self.at == "vae" and self.vae == self.call:
                self.break_down()
        if type(module).__name__ not in UNETS:
            return
        kind = "main" if module is main_unet() else "co"
        self.unet[kind] += 1
        if kind == "co":
            # the module is kept, so that its id is not given to another one
            if id(module) not in self.by_model:
                self.models.append(module)
            self.by_model[id(module)] = self.by_model.get(id(module), 0) + 1
        self.inputs[kind].append(list(args[0].shape))
        if shared.state.textinfo and shared.state.textinfo not in self.textinfo:
            self.textinfo.append(shared.state.textinfo)
        if kind == self.at and self.unet[kind] == self.call:
            self.break_down()

    def break_down(self) -> None:
        if self.fault == "exception":
            raise RuntimeError("the probe broke this call")
        if self.fault == "oom":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory (the probe)")
        if self.fault == "interrupt":
            shared.state.interrupt()
        if self.fault == "skip":
            shared.state.skip()

    def after(self, module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self.fault != "nan" or type(module).__name__ not in UNETS:
            return None
        kind = "main" if module is main_unet() else "co"
        return output * float("nan") if kind == self.at and self.unet[kind] == self.call else None

    def told(self) -> dict[str, Any]:
        return {
            "denoiser": self.denoiser,
            "unet": self.unet,
            "co_models": list(self.by_model.values()),
            "inputs": self.inputs,
            "texts": self.texts,
            "paddings": sorted(self.paddings),
            "opened": self.opened,
            "textinfo": self.textinfo,
            "passes": [encoded(latent) for latent in self.passes],
            "comments": self.comments,
            "random": self.random,
            "process random moved": self.process_random_moved,
        }


record = Record()


class Momentum:
    """An average of a model's outputs."""

    def __init__(self) -> None:
        self.average: torch.Tensor | None = None

    def update(self, output: torch.Tensor) -> torch.Tensor:
        if self.average is None:
            self.average = output.clone()
        return self.average.mul_(0.5).add_(output, alpha=0.5).clone()


class Fading:
    """A guidance that is less with each call, by a number of its class, and one that is not."""

    scale = 1.0

    def __init__(self) -> None:
        Fading.scale = 1.0
        self.momentum = Momentum()

    def __call__(self, args: dict[str, Any]) -> torch.Tensor:
        Fading.scale *= 0.8
        return self.formula({**args, "denoised": self.momentum.update(args["denoised"])}) * Fading.scale

    @staticmethod
    def formula(args: dict[str, Any]) -> torch.Tensor:
        return 0.7 * args["denoised"] + 0.3 * args["cond_denoised"]


def remember(p: Any, kind: str) -> Callable[[], None]:
    """Put functions of this kind on the main model, and return one that takes them off it."""
    unet, momentum = main_unet(), Momentum()
    own, of_class = unet.forward, type(unet).forward
    objects = getattr(p.sd_model, "forge_objects", None)

    def wrapped(apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
        return momentum.update(apply_model(args["input"], args["timestep"], **args["c"]))

    def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
        return momentum.update(own(*args, **kwargs))

    def shared_forward(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        return momentum.update(of_class(self, *args, **kwargs))

    if kind == "hook":
        return unet.register_forward_hook(lambda module, args, output: momentum.update(output)).remove
    if kind == "class":
        type(unet).forward = shared_forward
        return lambda: setattr(type(unet), "forward", of_class)
    if objects is None:
        unet.forward = forward
        return lambda: delattr(unet, "forward")
    objects.unet = patcher = objects.unet.clone()
    if kind == "wrapper":
        patcher.set_model_unet_function_wrapper(wrapped)
    else:
        patcher.set_model_sampler_post_cfg_function(Fading() if kind == "guidance" else Fading.formula)
    return lambda: None


def main_parts() -> dict[str, torch.nn.Module]:
    """The main model: one module, or an engine's three."""
    model = shared.sd_model
    if isinstance(model, torch.nn.Module):
        return {"model": model}
    objects = model.forge_objects
    return {
        "unet": objects.unet.model,
        "text": objects.clip.cond_stage_model,
        "vae": objects.vae.first_stage_model,
    }


def main_unet() -> torch.nn.Module:
    model = shared.sd_model
    if hasattr(model, "forge_objects"):
        return model.forge_objects.unet.model.diffusion_model
    return model.model.diffusion_model


def is_text_encoder(module: torch.nn.Module) -> bool:
    """A1111 and reForge wrap the library's text encoder in one of their own, which is counted in its place."""
    name = TEXT_ENCODERS[0 if isinstance(shared.sd_model, torch.nn.Module) else 1]
    return any(base.__name__.endswith(name) for base in type(module).__mro__)


def encoded(tensor: torch.Tensor) -> str:
    """A tensor as the bytes of a .npy file, for JSON."""
    buffer = io.BytesIO()
    np.save(buffer, tensor.detach().float().cpu().numpy())
    return base64.b64encode(buffer.getvalue()).decode()


def digest(*values: Any) -> str:
    found = hashlib.sha256()
    for value in values:
        found.update(value if isinstance(value, bytes) else repr(value).encode())
    return found.hexdigest()[:16]


def process_random() -> str:
    """The generators of the process, which WebUI and extensions share."""
    state: Any = np.random.get_state()
    return digest(random.getstate(), state[1].tobytes())


def picture_random(p: Any) -> str:
    """The generators that this batch's noise comes from."""
    states = [g.get_state().numpy().tobytes() if hasattr(g, "get_state") else g.offset for g in p.rng.generators]
    return digest(torch.get_rng_state().numpy().tobytes(), *states)


def weights(model: torch.nn.Module) -> str:
    # Forge Neo makes this one for files that have none, uses it for nothing, and never gives it a value
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("clip_l." + UNUSED)}
    return digest(*((key, *checksum(state[key])) for key in sorted(state)))


def checksum(tensor: torch.Tensor) -> tuple[Any, ...]:
    """The bytes of a tensor as one number: models of full size are summed up many times faster than hashed."""
    plain = tensor.detach().cpu().contiguous()
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[plain.element_size()]
    return tuple(plain.shape), str(plain.dtype), int(plain.reshape(-1).view(whole).sum(dtype=torch.int64))


def hooks(model: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def snapshot() -> dict[str, Any]:
    """Everything that AMDM must not change. Identities are numbers that stay the same while the object lives."""
    parts, module = list(main_parts().values()), torch.nn.modules.module
    own = set(map(id, record.handles))
    every = [each for part in parts for each in part.modules()]
    numbers = [number for part in parts for number in part.parameters()]
    return {
        "model": id(shared.sd_model),
        "weights": [weights(part) for part in parts],
        "device": sorted({str(number.device) for number in numbers}),
        "dtype": sorted({str(number.dtype) for number in numbers}),
        "training": [part.training for part in parts],
        "module hooks": [hooks(part) for part in parts],
        "global hooks": len(module._global_forward_hooks) + len(module._global_forward_pre_hooks) - len(own),
        "attributes": digest(sorted(key for each in every for key in vars(each))),
        "padding": sorted({each.padding_mode for each in every if isinstance(each, torch.nn.Conv2d)}),
        "options": json.loads(json.dumps(shared.opts.data, default=repr)),
        # a title has a hash once the file was read
        "checkpoints": sorted(info.name for info in sd_models.checkpoints_list.values()),
        "textinfo": shared.state.textinfo,
        **(engine_snapshot() if hasattr(shared.sd_model, "forge_objects") else {}),
        **(hijack_snapshot() if isinstance(shared.sd_model, torch.nn.Module) else {}),
    }


def engine_snapshot() -> dict[str, Any]:
    """Forge and its relatives: the patchers around the models, and what their loaders go by."""
    model = shared.sd_model
    objects = (model.forge_objects, model.forge_objects_original, model.forge_objects_after_applying_lora)
    unet = model.forge_objects.unet
    told = {
        "patchers": [id(each.clip) for each in objects] + [id(each.unet) for each in objects[1:]],
        "beside the unet": len(unet.extra_model_patchers_during_sampling),
        "unet options": digest(unet.model_options),
        "lora": model.current_lora_hash,
    }
    if "backend.args" not in sys.modules:
        return told
    from backend.args import dynamic_args
    from backend.text_processing import classic_engine

    told["schedule"] = checksum(unet.model.predictor.sigmas)
    # a dictionary, or on Forge Neo a class
    args = dynamic_args if isinstance(dynamic_args, dict) else vars(dynamic_args)
    told["loading"] = [repr(args), repr(sd_models.model_data.forge_loading_parameters)]
    noted = classic_engine if isinstance(dynamic_args, dict) else dynamic_args
    told["noted"] = dict(noted.last_extra_generation_params)
    wan = sys.modules.get("backend.diffusion_engine.wan")
    told["shift for a refiner"] = wan and wan.refiner_shift
    return told


def hijack_snapshot() -> dict[str, Any]:
    """A1111, and reForge which has kept its text encoders' wrapping."""
    from modules import devices, sd_hijack, sd_unet, sd_vae

    model, hijack = shared.sd_model, sd_hijack.model_hijack
    told = {
        "parameterization": getattr(model, "parameterization", None),
        "alphas": checksum(model.alphas_cumprod),
        "vae": [id(sd_vae.base_vae), sd_vae.loaded_vae_file, repr(sd_vae.checkpoint_info)],
        "hijack": [id(getattr(hijack, name, None)) for name in ("clip", "layers", "optimization_method")],
        "circular": getattr(hijack, "circular_enabled", None),
        "hijack texts": [dict(hijack.extra_generation_params), list(hijack.comments)],
        "unet": [id(sd_unet.original_forward), id(sd_unet.current_unet), id(sd_unet.current_unet_option)],
        "loaded": [id(loaded) for loaded in sd_models.model_data.loaded_sd_models],
        "cached files": len(sd_models.checkpoints_loaded),
        "dtypes": [str(devices.dtype), str(devices.dtype_vae), str(devices.dtype_unet), devices.unet_needs_upcast],
    }
    if hasattr(model, "lowvram"):
        from modules import lowvram

        told["lowvram"] = [id(lowvram.module_in_gpu), model.lowvram]
    return told


def opened(path: Any) -> None:
    name = str(path)
    if name.endswith(CHECKPOINT_SUFFIXES):
        # a name may be in another encoding than that of an answer
        record.opened.append(Path(name).name.encode(errors="replace").decode())


def watch_files() -> None:
    """The safetensors reader is not Python, so it is watched by its name; everything else by the interpreter itself.

    The WebUI's reading for a hash, once for each file, is left out.
    """
    from modules import hashes

    hashing: set[str] = set()

    def unwatched(read_hash: Callable[[str], str]) -> Callable[[str], str]:
        def read(filename: str) -> str:
            hashing.add(filename)
            try:
                return read_hash(filename)
            finally:
                hashing.discard(filename)

        return read

    # Forge and Forge Neo call it by another name
    for name in ("calculate_sha256", "calculate_sha256_real"):
        if hasattr(hashes, name):
            setattr(hashes, name, unwatched(getattr(hashes, name)))

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and arguments[0] not in hashing:
            opened(arguments[0])

    sys.addaudithook(audit)
    original = safetensors.safe_open

    @functools.wraps(original)
    def watched(path: Any, *args: Any, **kwargs: Any) -> Any:
        opened(path)
        return original(path, *args, **kwargs)

    for module in (safetensors, safetensors.torch):
        setattr(module, "safe_open", watched)  # noqa: B010 - to a type checker it is a class


class Probe(scripts.Script):
    """Keeps what every pass of the sampler gave."""

    forget: Callable[[], None] = staticmethod(lambda: None)

    def title(self) -> str:
        return "AMDM probe"

    def show(self, is_img2img: bool) -> object:
        return scripts.AlwaysVisible

    def process_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
        self.before = process_random()

    def process_before_every_sampling(self, p: Any, *args: Any, **kwargs: Any) -> None:
        if record.remembers:
            self.forget = remember(p, record.remembers)
        sampler = p.sampler
        if hasattr(sampler, "_amdm_probe"):
            return
        launch = sampler.launch_sampling

        @functools.wraps(launch)
        def launch_sampling(*args: Any, **kwargs: Any) -> Any:
            try:
                latent = launch(*args, **kwargs)
            finally:
                self.forget()
                self.forget = Probe.forget
            record.passes.append(latent.detach().clone())
            record.random.append(picture_random(p))
            record.process_random_moved |= process_random() != self.before
            return latent

        sampler.launch_sampling, sampler._amdm_probe = launch_sampling, True

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        record.comments = "".join(f"{comment}\n" for comment in p.comments)


def count_denoiser(params: script_callbacks.CFGDenoiserParams) -> None:
    record.denoiser += 1


def serve(_: Any, app: FastAPI) -> None:
    @app.post("/amdm-probe/arm")
    def arm(request: dict = Body(default={})) -> dict[str, Any]:  # noqa: B008
        global record
        record.detach()
        # the WebUI encodes a picture to start from with noise that it does not seed
        torch.manual_seed(0)
        record = Record(**request)
        record.attach()
        return {}

    @app.get("/amdm-probe/report")
    def report() -> dict[str, Any]:
        return record.told()

    @app.get("/amdm-probe/unets")
    def unets() -> int:
        return sum(type(each).__name__ in UNETS for each in gc.get_objects())

    @app.get("/amdm-probe/objects")
    def objects() -> dict[str, int]:
        """The objects in the process, once everything is gone that nothing refers to."""
        gc.collect()
        found = gc.get_objects()
        tensors = [each for each in found if isinstance(each, torch.Tensor)]
        return {
            "tensors": len(tensors),
            "bytes of tensors": sum(each.numel() * each.element_size() for each in tensors),
            "modules": sum(isinstance(each, torch.nn.Module) for each in found),
        }

    @app.get("/amdm-probe/snapshot")
    def what_must_not_change() -> dict[str, Any]:
        return snapshot()


watch_files()
script_callbacks.on_cfg_denoiser(count_denoiser)
script_callbacks.on_app_started(serve)
