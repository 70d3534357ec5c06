"""The lists of adapter files and image encoders: what is in them, and by which names it is found."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from lib_amdm.comodels import file_list
from lib_amdm.comodels.file_list import FileList, files_in, find_title, lists, model_folders, without_hash
from lib_amdm.files import container

IP = {"ip_adapter.1.to_k_ip.weight": torch.zeros(2, 768), "image_proj.proj.weight": torch.zeros(2, 2)}
GLIGEN = {"position_net.null_positive_feature": torch.zeros(768), "input_blocks.1.1.fuser.alpha_attn": torch.zeros(1)}
MIGC = {"middle_block.1.migc.norm.weight": torch.zeros(1)}
VISION = {"vision_model.embeddings.class_embedding": torch.zeros(8)}
CONTROL = {"control_model.input_blocks.0.0.weight": torch.zeros(2, 4, 3, 3)}
LORA = {"lora_unet_down_blocks_0_attentions_0.lora_up.weight": torch.zeros(2, 2)}

ADAPTERS: dict[str, Any] = {
    "models/amdm/anything.ckpt": MIGC,
    "models/amdm/a_lora.safetensors": LORA,
    "models/amdm/damaged.safetensors": None,
    "models/amdm/sub/ip-adapter_sd15.safetensors": IP,
    "models/ControlNet/ip-adapter_sd15.safetensors": IP,
    "models/ControlNet/ip_plus_composition_sd15.safetensors": IP,
    "models/ControlNet/noobIPAMARK1_mark1.SAFETENSORS": IP,
    "models/ControlNet/plus.bin": {
        "ip_adapter": {"1.to_k_ip.weight": torch.zeros(2, 768)},
        "image_proj": {"proj.weight": torch.zeros(2, 2)},
    },
    "models/IpAdapter/mine.safetensors": IP,
    "models/gligen/textbox.pth": {"model": GLIGEN, "autoencoder": {}, "config_dict": {}},
    "extensions/sd-webui-controlnet/models/full-face.pth": IP,
    "extensions/sd-webui-interactdiffusion/models/ext.pth": GLIGEN,
}
ENCODERS: dict[str, Any] = {
    "models/amdm/ViT-H-14.safetensors": VISION,
    "models/clip_vision/bigG.safetensors": VISION,
    "models/ControlNetPreprocessor/ViT-H-14.safetensors": VISION,
    "extensions/sd-webui-controlnet/annotator/downloads/clip_vision/clip_h.pth": VISION,
}
NEITHER: dict[str, Any] = {
    "models/ControlNet/control_v11p_sd15_canny.safetensors": CONTROL,
    "models/ControlNet/ip-adapter_but_not.safetensors": CONTROL,
    "models/ControlNet/damaged-ip-adapter.pth": None,
    "models/ControlNet/ip-adapter_notes.txt": None,
    "models/clip_vision/something.safetensors": CONTROL,
    "models/Stable-diffusion/ip-adapter.safetensors": IP,
    "extensions/other/models/ip-adapter.bin": IP,
}


def write(path: Path, contents: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if contents is None:
        path.write_bytes(b"")
    elif path.suffix.lower() == ".safetensors":
        path.write_bytes(save(contents))
    else:
        torch.save(contents, path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, contents in {**ADAPTERS, **ENCODERS, **NEITHER}.items():
        write(tmp_path / name, contents)
    return tmp_path


def lists_of(root: Path) -> tuple[FileList, FileList]:
    def folders(which: int) -> Any:
        return lambda: model_folders(root / "models", sorted((root / "extensions").glob("*")))[which]

    return lists(folders(0), folders(1))


def paths(found: FileList, root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in found.files.values()}


def test_files_are_known_by_their_contents_where_users_have_them(root: Path) -> None:
    adapters, encoders = lists_of(root)
    assert paths(adapters, root) == set(ADAPTERS)
    # the one in models/amdm goes before one of the same name elsewhere
    assert paths(encoders, root) == set(ENCODERS) - {"models/ControlNetPreprocessor/ViT-H-14.safetensors"}


def test_a_file_is_looked_into_once_until_it_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def counted(path: Path, inert: bool = False) -> container.File:
        looked.append(path.name)
        return container.open_tensor_file(path, inert)

    monkeypatch.setattr(file_list, "open_tensor_file", counted)
    adapters, encoders = lists_of(root)
    before = adapters.titles(), encoders.titles()
    first = list(looked)
    adapters.refresh()
    encoders.refresh()
    assert (adapters.titles(), encoders.titles()) == before and looked == first
    changed = root / "models/ControlNet/control_v11p_sd15_canny.safetensors"
    save_file({**IP, "one.more": torch.zeros(9)}, changed)
    adapters.refresh()
    assert looked == [*first, changed.name] and changed.name in adapters.titles()


def test_names_are_looked_up_in_the_list_alone(root: Path) -> None:
    adapters, _ = lists_of(root)
    assert adapters.title("anything") == adapters.title("anything.ckpt") == "anything.ckpt"
    assert adapters.title("ip-adapter_sd15") == "ip-adapter_sd15.safetensors"
    assert adapters.path("sub/ip-adapter_sd15") == root / "models/amdm/sub/ip-adapter_sd15.safetensors"
    secret = root / "models/ControlNet/control_v11p_sd15_canny.safetensors"
    for path in (str(secret), "../amdm/anything.ckpt", "control_v11p_sd15_canny", "", " ", "/etc/passwd"):
        assert adapters.title(path) is None and adapters.path(path) is None


FOUND: dict[str | None, list[str]] = {
    "sd15/ip.safetensors": ["ip"],
    "SDXL/IP.safetensors": [
        "SDXL/IP.safetensors",
        "SDXL\\IP.safetensors",
        "sdxl/ip",
        "IP",
        "IP.safetensors [0123abcdef]",
    ],
    "ip [v1].safetensors": ["ip [v1].safetensors", "ip [v1].safetensors [ab12]", "IP [v1]"],
    "café.ckpt": [unicodedata.normalize("NFD", "café"), "CAFÉ"],
    None: ["caf", "", "[6ce0161689]", "6ce01616", " [6ce0161689]"],
    "v1-5.safetensors [6ce0161689]": [
        *("v1-5.safetensors", "v1-5", "V1-5.SafeTensors", "v1-5.safetensors [6CE0161689]", "v1-5 [6ce0161689]"),
        *("v1-5.safetensors [0123456789]", "6ce0161689", "6CE0161689"),
    ],
    "old/style.ckpt [1111111111]": ["style"],
    "new/style.ckpt [2222222222]": ["style.ckpt [2222222222]", "Style [2222222222]"],
    "SDXL\\Bare.safetensors [abcdef0123]": ["SDXL/Bare.safetensors", "sdxl/bare [ABCDEF0123]", "bare"],
    "take [2].safetensors": ["take [2]"],
    "take.safetensors [3333333333]": ["take"],
    "3333333333.safetensors": ["3333333333"],
}
"""Ways to write a name, by the title that it finds: with and without the hash that WebUIs put behind some."""


@pytest.mark.parametrize(("wanted", "name"), [(title, name) for title, names in FOUND.items() for name in names])
def test_a_name_is_found_as_users_write_it(wanted: str | None, name: str) -> None:
    assert find_title(name, [title for title in FOUND if title]) == wanted


def test_a_title_without_its_hash_is_the_files_name() -> None:
    names = ["v1-5.safetensors", "new/style.ckpt", "take [2].safetensors", "ip [v1]", ""]
    assert [without_hash(f"{name} [6ce0161689]") for name in names] == names
    assert [without_hash(name) for name in names] == names


def test_links_are_followed_and_a_circle_ends(tmp_path: Path) -> None:
    real = write(tmp_path / "elsewhere/deep/ip.safetensors", IP)
    folder = tmp_path / "models/amdm"
    folder.mkdir(parents=True)
    (folder / "shared").symlink_to(real.parent.parent, target_is_directory=True)
    (real.parent / "back").symlink_to(real.parent.parent, target_is_directory=True)
    (folder / "gone.safetensors").symlink_to(tmp_path / "nothing")
    assert list(files_in(folder, {".safetensors"})) == [folder / "shared/deep/ip.safetensors"]
    assert lists_of(tmp_path)[0].titles() == ["shared/deep/ip.safetensors"]


def test_a_folder_and_a_link_to_it_are_both_listed(tmp_path: Path) -> None:
    write(tmp_path / "b/ip.safetensors", IP)
    for link in ("a", "c"):
        (tmp_path / link).symlink_to(tmp_path / "b", target_is_directory=True)
    assert [file.parent.name for file in files_in(tmp_path, {".safetensors"})] == ["a", "b", "c"]


def test_a_name_of_any_half_characters_can_be_sent() -> None:
    assert file_list.readable("a\udce9b\ud800c") == "a\ufffdb\ufffdc"


def test_a_name_that_is_no_utf_8_can_be_sent_and_found(tmp_path: Path) -> None:
    folder = tmp_path / "models/amdm"
    folder.mkdir(parents=True)
    name = os.fsencode(folder) + b"/ip-adapter_\xe9.safetensors"
    try:
        Path(os.fsdecode(name)).write_bytes(save(IP))
    except OSError:
        pytest.skip("this file system has no such names")
    (title,) = lists_of(tmp_path)[0].titles()
    assert json.dumps(title).encode() and title.encode()
    assert os.fsencode(lists_of(tmp_path)[0].path(title) or "") == name


def test_a_new_file_is_listed_after_a_refresh(root: Path) -> None:
    adapters, _ = lists_of(root)
    before = adapters.titles()
    write(root / "models/amdm/new.safetensors", IP)
    assert adapters.titles() == before
    adapters.refresh()
    assert set(adapters.titles()) == {*before, "new.safetensors"}


def test_no_folder_is_no_error(tmp_path: Path) -> None:
    adapters, encoders = lists_of(tmp_path)
    assert adapters.titles() == encoders.titles() == []
