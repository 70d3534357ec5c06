"""The lists of adapter files and image encoders: what is in them, and by which names it is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_amdm.comodels.adapter_list import FileList, adapter_list, encoder_list, model_folders

ADAPTERS = (
    "models/amdm/anything.ckpt",
    "models/amdm/sub/ip-adapter_sd15.safetensors",
    "models/ControlNet/ip-adapter_sd15.safetensors",
    "models/ControlNet/ip-adapter-plus_sdxl_vit-h.bin",
    "models/IpAdapter/my_IPAdapter.safetensors",
    "models/gligen/gligen_sd14_textbox_pruned.safetensors",
    "extensions/sd-webui-controlnet/models/ip-adapter-full-face_sd15.pth",
    "extensions/sd-webui-interactdiffusion/models/ext_interactdiff_v1.2.pth",
)
ENCODERS = (
    "models/amdm/CLIP-ViT-H-14.safetensors",
    "models/clip_vision/CLIP-ViT-bigG.safetensors",
    "models/ControlNetPreprocessor/CLIP-ViT-H-14.safetensors",
    "extensions/sd-webui-controlnet/annotator/downloads/clip_vision/clip_h.pth",
    "extensions/sd-webui-controlnet/annotator/downloads/clip_vision/clip_g.pth",
)
NEITHER = (
    "models/ControlNet/control_v11p_sd15_canny.safetensors",
    "models/ControlNet/ip-adapter_notes.txt",
    "models/Stable-diffusion/interacting.safetensors",
    "extensions/other/models/ip-adapter.bin",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (*ADAPTERS, *ENCODERS, *NEITHER):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def lists(root: Path) -> tuple[FileList, FileList]:
    def folders(which: int):
        return lambda: model_folders(root / "models", sorted((root / "extensions").glob("*")))[which]

    return adapter_list(folders(0)), encoder_list(folders(1))


def paths(found: FileList, root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in found.files.values()}


def test_files_are_found_where_users_have_them_and_nothing_else_is(root: Path) -> None:
    adapters, encoders = lists(root)
    assert paths(adapters, root) == set(ADAPTERS)
    # the one in models/amdm goes before one of the same name elsewhere
    assert paths(encoders, root) == set(ENCODERS) - {"models/ControlNetPreprocessor/CLIP-ViT-H-14.safetensors"}


def test_names_are_looked_up_in_the_list_alone(root: Path) -> None:
    adapters, _ = lists(root)
    assert adapters.title("anything") == adapters.title("anything.ckpt") == "anything.ckpt"
    assert adapters.title("ip-adapter_sd15") == "ip-adapter_sd15.safetensors"
    assert adapters.path("sub/ip-adapter_sd15") == root / "models/amdm/sub/ip-adapter_sd15.safetensors"
    secret = root / "models/ControlNet/control_v11p_sd15_canny.safetensors"
    for path in (str(secret), "../amdm/anything.ckpt", "control_v11p_sd15_canny", "", "/etc/passwd"):
        assert adapters.title(path) is None and adapters.path(path) is None


def test_a_new_file_is_listed_after_a_refresh(root: Path) -> None:
    adapters, _ = lists(root)
    before = adapters.titles()
    (root / "models/amdm/new.safetensors").write_bytes(b"")
    assert adapters.titles() == before
    adapters.refresh()
    assert set(adapters.titles()) == {*before, "new.safetensors"}


def test_no_folder_is_no_error(tmp_path: Path) -> None:
    adapters, encoders = lists(tmp_path)
    assert adapters.titles() == encoders.titles() == []
