"""The kind of a file by its keys; every container that users have, and one sentence for each that is refused."""

from __future__ import annotations

import pickle
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_adapters import nested
from safetensors.torch import save_file
from torch import Tensor

from lib_amdm.adapters.attach import blocks_of
from lib_amdm.adapters.base import Adapter
from lib_amdm.adapters.convert import convert, main
from lib_amdm.adapters.gligen import SLOTS
from lib_amdm.adapters.ip_adapter import IPAdapter
from lib_amdm.adapters.kinds import adapter_file, adapter_of, describe, read_adapter
from lib_amdm.errors import AdapterError
from tests.adapter_files import (
    fuser_shapes,
    gligen_shapes,
    interactdiffusion_shapes,
    ip_shapes,
    migc_shapes,
    random_tensors,
    sd1_unet,
    sdxl_unet,
    widths_of,
)
from tests.unets import diffusers_unet, shared_unet_of

SMALL = widths_of(shared_unet_of("a1111", 48)[0])
IP = random_tensors(ip_shapes(SMALL, 48))
GLIGEN = random_tensors(gligen_shapes(SMALL, 48, 16))
INTERACT = random_tensors(interactdiffusion_shapes(SMALL, 48, 16))
MIGC = random_tensors(migc_shapes(SMALL, 48))
MIGC_PLUS = random_tensors(migc_shapes(SMALL, 48, plus=True))


def raw_training(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As an IP-Adapter's training leaves them, beside the UNet."""
    renamed = {
        name.replace("image_proj.", "image_proj_model.").replace("ip_adapter.", "adapter_modules."): tensor
        for name, tensor in tensors.items()
    }
    return {"unet.conv_in.weight": torch.zeros(4, 4, 3, 3), **renamed}


def in_diffusers_names(tensors: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """GLIGEN-likes in diffusers' layout, as SD1's diffusers UNet names its blocks."""
    unet = diffusers_unet(48)
    theirs = [name for name, _ in unet.named_modules() if re.search(r"transformer_blocks\.0$", name)]
    modules = {id(unet.get_submodule(name)): name for name in theirs}
    names = {block.name: modules[id(block.module)] for block in blocks_of(unet)}
    renamed = {}
    for name, tensor in tensors.items():
        block, fuser, rest = name.partition(".fuser.")
        renamed[prefix + (names[block] + fuser + rest if fuser else name)] = tensor
    return {f"{prefix}conv_in.weight": torch.zeros(32, 4, 3, 3), **renamed}


def full_checkpoint(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """As GLIGEN's trainer saves: the whole UNet under `model`, beside other networks."""
    unet = {"input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3), "out.0.weight": torch.ones(32), **tensors}
    return {"model": OrderedDict(unet), "autoencoder": {"encoder.conv_in.weight": torch.zeros(1, 3)}, "iters": 5}


def prefixed(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {f"{start}{name}": tensor for name, tensor in tensors.items()}


def write(path: Path, value: Any) -> Path:
    if path.suffix == ".safetensors":
        save_file(value, path)
    else:
        torch.save(value, path)
    return path


CONTAINERS = {
    "ip-adapter.bin": (nested(IP), IP, ("ip-adapter", "base")),
    "ip-adapter.safetensors": ({name: IP[name] for name in sorted(IP)}, IP, ("ip-adapter", "base")),
    "pytorch_model.bin": (raw_training(IP), IP, ("ip-adapter", "base")),
    "on several GPUs.bin": (prefixed(raw_training(IP), "module."), IP, ("ip-adapter", "base")),
    "gligen_gpus.pth": (prefixed(GLIGEN, "module."), GLIGEN, ("gligen", "text")),
    "migc_gpus.ckpt": (prefixed(MIGC, "module."), MIGC, ("migc", "migc")),
    "gligen.safetensors": (GLIGEN, GLIGEN, ("gligen", "text")),
    "gligen_prefixed.safetensors": (prefixed(GLIGEN, "model.diffusion_model."), GLIGEN, ("gligen", "text")),
    "gligen_wide.safetensors": (
        {name: tensor.reshape(1) if "alpha" in name else tensor for name, tensor in GLIGEN.items()},
        GLIGEN,
        ("gligen", "text"),
    ),
    "gligen_delta.pth": (GLIGEN, GLIGEN, ("gligen", "text")),
    "gligen_full.pth": (full_checkpoint(GLIGEN), GLIGEN, ("gligen", "text")),
    "gligen_diffusers.bin": (in_diffusers_names(GLIGEN), GLIGEN, ("gligen", "text")),
    "gligen_unet.safetensors": (in_diffusers_names(GLIGEN, "unet."), GLIGEN, ("gligen", "text")),
    "ext_interactdiff_v1.2.pth": (INTERACT, INTERACT, ("interactdiffusion", "1.2")),
    "interact-diffusion-v1-1.pth": (full_checkpoint(INTERACT), INTERACT, ("interactdiffusion", "1.1")),
    "interact-diffusion-v1.pth": (full_checkpoint(INTERACT), INTERACT, ("interactdiffusion", "1.0")),
    "interact.safetensors": (INTERACT, INTERACT, ("interactdiffusion", "")),
    "MIGC_SD14.ckpt": ({"state_dict": MIGC}, MIGC, ("migc", "migc")),
    "migc.safetensors": (MIGC, MIGC, ("migc", "migc")),
    "MIGC++_SD14.ckpt": (MIGC_PLUS, MIGC_PLUS, ("migc", "migc++")),
}


def ours(name: str) -> str:
    """The name that we give a tensor of the files above."""
    block, inner, rest = name.removeprefix("model.diffusion_model.").rpartition(".migc.")
    if not inner:
        return name
    block = re.sub(r"^mid_block\.attentions\.0", "middle_block.1", block)
    block = re.sub(r"^up_blocks\.1\.attentions\.(\d)", lambda match: f"output_blocks.{3 + int(match[1])}.1", block)
    return f"{block.split('.attn2')[0]}.migc.{rest}"


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container(name: str, tmp_path: Path) -> None:
    contents, tensors, (kind, variant) = CONTAINERS[name]
    path = write(tmp_path / name, contents)
    info, file = describe(path), read_adapter(path)
    assert (info.kind, info.variant, info.family, info.name) == (kind, variant, "SD1", name)
    assert (file.kind, file.variant) == (kind, variant)
    assert set(file.tensors) == {ours(key) for key in tensors}
    assert all(torch.equal(file.tensors[ours(key)], tensors[key]) for key in tensors)
    adapter = adapter_of(file)
    assert adapter.size_in_bytes() == sum(4 * tensor.numel() for tensor in tensors.values())
    assert adapter.layers(blocks_of(shared_unet_of("a1111", 48)[0]))


def test_what_we_save_we_read(tmp_path: Path) -> None:
    for tensors in (IP, GLIGEN, INTERACT, MIGC):
        adapter = adapter_of(adapter_file(tensors, "first"))
        again = read_adapter(write(tmp_path / "again.safetensors", adapter.state_dict()))
        assert again.kind == adapter.kind
        assert all(torch.equal(again.tensors[name], tensor) for name, tensor in adapter.state_dict().items())


def test_published_sizes() -> None:
    """The counts that the published files' sizes tell of."""
    widths = widths_of(sd1_unet())

    def count(shapes: dict[str, tuple[int, ...]]) -> int:
        return sum(torch.Size(shape).numel() for shape in shapes.values())

    assert count(gligen_shapes(widths)) == 209_102_240
    assert len(interactdiffusion_shapes(widths)) == 289
    assert count(migc_shapes(widths)) == 4 * 14_341_977
    assert len([name for name in ip_shapes(widths) if name.startswith("ip_adapter.")]) == 32
    xl = ip_shapes(widths_of(sdxl_unet()), 2048)
    assert len([name for name in xl if name.startswith("ip_adapter.")]) == 140


ENCODERS = [
    ("base", 768, 1024, "ViT-H", "image_embeds"),
    ("base", 768, 1280, "ViT-bigG", "image_embeds"),
    ("plus", 768, 1280, "ViT-H", "hidden_states"),
    ("full", 768, 1280, "ViT-H", "hidden_states"),
    ("base", 2048, 1280, "ViT-bigG", "image_embeds"),
    ("base", 2048, 1024, "ViT-H", "image_embeds"),
    ("plus", 2048, 1280, "ViT-H", "hidden_states"),
]


def on_meta(shapes: dict[str, tuple[int, ...]], name: str = "published.safetensors") -> Adapter:
    """An adapter without memory for its weights."""
    tensors = {key: torch.empty(shape, device="meta", dtype=torch.float16) for key, shape in shapes.items()}
    return adapter_of(adapter_file(tensors, name))


@pytest.mark.parametrize(("variant", "context", "features", "encoder", "output"), ENCODERS)
def test_published_ip_adapters_fit_their_family_and_name_their_encoder(
    variant: str, context: int, features: int, encoder: str, output: str
) -> None:
    unets = {768: sd1_unet(), 2048: sdxl_unet()}
    unet, other = unets[context], unets[2048 + 768 - context]
    adapter = on_meta(ip_shapes(widths_of(unet), context, variant, features))
    assert isinstance(adapter, IPAdapter)
    assert adapter.family == {768: "SD1", 2048: "SDXL"}[context]
    assert (adapter.needs_encoder.name, adapter.needs_encoder.output) == (encoder, output)
    assert len(adapter.layers(blocks_of(unet))) == {768: 16, 2048: 70}[context]
    with pytest.raises(AdapterError, match=r'^"published\.safetensors" does not fit the checkpoint'):
        adapter.layers(blocks_of(other))


@pytest.mark.parametrize(
    "shapes", [gligen_shapes, interactdiffusion_shapes, migc_shapes, lambda widths: migc_shapes(widths, plus=True)]
)
def test_published_layout_adapters_fit_sd1_alone(shapes: Callable) -> None:
    unet = sd1_unet()
    adapter = on_meta(shapes(widths_of(unet)))
    assert len(adapter.layers(blocks_of(unet))) in (4, 16)
    room = adapter.room(adapter.variant)
    assert (room.boxes or room.actions) == getattr(adapter, "slots", SLOTS), "what a page says before a picture"
    with pytest.raises(AdapterError, match="does not fit the checkpoint"):
        adapter.layers(blocks_of(sdxl_unet()))


def without(tensors: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def sized(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


INSTANT_ID = {
    **{name: tensor for name, tensor in IP.items() if name.startswith("ip_adapter.")},
    "image_proj.latents": torch.zeros(1, 16, 64),
    "image_proj.proj_in.weight": torch.zeros(64, 512),
}
NULL = "position_net.null_positive_feature"
REFUSED = {
    "faceid": ({**IP, "ip_adapter.0.to_q_lora.down.weight": torch.zeros(4, 4)}, "FaceID"),
    "portrait": (
        {**without(IP, "image_proj.proj.weight"), "image_proj.proj.2.weight": torch.zeros(4, 4)},
        "FaceID, Portrait",
    ),
    "instantid": (INSTANT_ID, "InstantID"),
    "sd2 ip": (sized(ip_shapes({"middle_block.1.transformer_blocks.0": 8}, 1024)), "for SD2"),
    "ip of another kind": (
        {name.replace("image_proj.proj.", "image_proj.layers."): tensor for name, tensor in IP.items()},
        "of a kind that AMDM does not know",
    ),
    "half an ip": ({name: tensor for name, tensor in IP.items() if "image_proj" not in name}, "without all its parts"),
    "ip without a value": (without(IP, "ip_adapter.7.to_v_ip.weight"), r"lacks 1 .* ip_adapter\.7\.to_v_ip\.weight"),
    "inpainting": ({**GLIGEN, "input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)}, "inpainting"),
    "inpainting in diffusers": (
        {**in_diffusers_names(GLIGEN), "conv_in.weight": torch.zeros(32, 9, 3, 3)},
        "inpainting",
    ),
    "text and pictures": ({**GLIGEN, "position_net.linears_text.0.weight": torch.zeros(4, 4)}, "text and pictures"),
    "keypoints": ({**without(GLIGEN, NULL), "position_net.person_embeddings": torch.zeros(4)}, "keypoints"),
    "fusers alone": (sized(fuser_shapes(SMALL, 48)), "no position net"),
    "no fusers": ({name: tensor for name, tensor in GLIGEN.items() if "fuser" not in name}, "no fusers"),
    "a fuser's hole": (without(GLIGEN, "middle_block.1.transformer_blocks.0.fuser.norm1.bias"), "lacks 1"),
    "interactions without the empty one": (without(INTERACT, NULL), rf"lacks 1 .* {re.escape(NULL)}"),
    "sdxl gligen": ({**GLIGEN, NULL: torch.zeros(2048)}, "for SDXL"),
    "migc's hole": (without(MIGC, next(name for name in MIGC if "sac.conv1.weight" in name)), "lacks 1"),
    "lora": ({"lora_unet_down_blocks_0_attentions_0.lora_up.weight": torch.zeros(4, 4)}, "LoRA.*<lora:name:weight>"),
    "peft": ({"unet.down_blocks.0.attn2.to_k.lora_A.weight": torch.zeros(4, 4)}, "LoRA"),
    "checkpoint": ({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3)}, "is a checkpoint"),
    "something else": ({"weight": torch.zeros(4)}, "no adapter that AMDM knows"),
    "nothing": ({}, "no tensors"),
}


def test_tensors_of_no_size_that_an_adapter_has_are_a_sentence(tmp_path: Path) -> None:
    scalar = torch.zeros(())
    for tensors in ({**GLIGEN, NULL: scalar}, {**GLIGEN, "conv_in.weight": scalar}, dict.fromkeys(IP, scalar)):
        path = write(tmp_path / "odd.safetensors", {name: tensor.clone() for name, tensor in tensors.items()})
        with pytest.raises(AdapterError, match=r'^"odd\.safetensors" .*\.$'):
            adapter_of(read_adapter(path))


@pytest.mark.parametrize("what", REFUSED)
def test_refusals_name_the_file_in_one_sentence(what: str, tmp_path: Path) -> None:
    tensors, words = REFUSED[what]
    path = write(tmp_path / "mine.safetensors", tensors)
    with pytest.raises(AdapterError, match=rf'^"mine\.safetensors" .*{words}') as error:
        read_adapter(path)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r'"none\.safetensors" is not there'):
        describe(tmp_path / "none.safetensors")
    whole = write(tmp_path / "whole.safetensors", IP)
    for suffix in (".safetensors", ".bin"):
        damaged = tmp_path / f"damaged{suffix}"
        damaged.write_bytes(whole.read_bytes()[:1000])
        with pytest.raises(AdapterError, match=rf'"damaged\{suffix}"'):
            read_adapter(damaged)


def test_what_was_read_does_not_change_with_the_file(tmp_path: Path) -> None:
    for name in ("ip.bin", "ip.safetensors"):
        path = write(tmp_path / name, nested(IP) if name.endswith("bin") else IP)
        read = read_adapter(path)
        path.write_bytes(bytes(path.stat().st_size))
        assert all(torch.equal(read.tensors[key], IP[key]) for key in IP)


class Config:
    """Stands for the trainer's settings, of a class that nobody has."""

    def __init__(self) -> None:
        self.inner = {"lr": 0.1, "list": [1, 2]}


@pytest.mark.parametrize("legacy", [False, True])
def test_the_converter_trims_full_files_and_runs_nothing(
    legacy: bool, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (exec, ("raise SystemExit('harm')",))

    source, target = tmp_path / "interact-diffusion-v1-2.pth", tmp_path / "interact_v1.2.safetensors"
    contents = {**full_checkpoint(INTERACT), "config_dict": {"_content": Config(), "evil": Evil()}}
    torch.save(contents, source, _use_new_zipfile_serialization=not legacy)
    # as if the trainer's library were not installed
    monkeypatch.delattr(sys.modules[__name__], "Config")
    with pytest.raises(AdapterError, match=rf'"{source.name}" holds more than weights.*lib_amdm\.adapters\.convert'):
        read_adapter(source)
    assert main([str(source), str(target)]) == 0
    assert "interactdiffusion 1.2, 289 tensors" in capsys.readouterr().out
    file = read_adapter(target)
    assert (file.kind, file.variant) == ("interactdiffusion", "1.2")
    assert set(file.tensors) == set(INTERACT)
    assert all(torch.equal(file.tensors[name], INTERACT[name]) for name in INTERACT)


def test_the_converter_halves_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, target = write(tmp_path / "ip.bin", nested(IP)), tmp_path / "ip.safetensors"
    convert(source, target, half=True)
    assert {tensor.dtype for tensor in read_adapter(target).tensors.values()} == {torch.float16}
    assert main([str(source), str(target)]) == 1
    assert "already there" in capsys.readouterr().err
    assert main([str(source), str(tmp_path / "ip.bin2")]) == 1
    other = tmp_path / "other.pth"
    other.write_bytes(pickle.dumps({"a": 1}))
    assert main([str(other), str(tmp_path / "new.safetensors")]) == 1
    assert '"other.pth"' in capsys.readouterr().err
    assert not (tmp_path / "new.safetensors").exists()
    assert main([str(source), str(tmp_path / "nowhere" / "new.safetensors")]) == 1
    assert 'nowhere" is not a folder; make it' in capsys.readouterr().err
    assert main([str(source), str(tmp_path / "NEW.SAFETENSORS")]) == 0
