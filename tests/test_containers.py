"""Files of tensors: no code of any file runs, however it is packed and called; and what is packed honestly is read."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hostile_files import HOSTILE, PKL, Boom, archive, evil, old_format

from lib_amdm.adapters.clip_vision import read_clip_vision
from lib_amdm.adapters.convert import main
from lib_amdm.adapters.kinds import describe, read_adapter
from lib_amdm.errors import AdapterError
from lib_amdm.files.container import in_memory, open_tensor_file, refuse_code
from lib_amdm.files.pickles import Refused, inspect_pickle, load_inert

NAMES = ("x.ckpt", "x.PT", "x.bin", "x.pth", "x.sft", "x.safetensors.ckpt", "x")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_let_through_runs_nothing_in_a_reader_that_is_free(
    kind: str, name: str, tmp_path: Path, marker: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(HOSTILE[kind](evil(marker)))
    try:
        refuse_code(path)
    except Refused:
        assert not marker.exists()
        return
    with contextlib.suppress(Exception):
        torch.serialization.load(path, map_location="cpu", weights_only=False)
    assert not marker.exists()


def test_the_hostile_files_are_hostile(tmp_path: Path, marker: Path) -> None:
    ran = set()
    for kind, packed in HOSTILE.items():
        path = tmp_path / "x.ckpt"
        path.write_bytes(packed(evil(marker)))
        with contextlib.suppress(Exception):
            torch.serialization.load(path, map_location="cpu", weights_only=False)
        if marker.exists():
            marker.rmdir()
            ran.add(kind)
    assert {"one", "evil, good", "capitals alone", "the old format before an archive", "the oldest format"} <= ran


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_reader_runs_anything(kind: str, tmp_path: Path, marker: Path) -> None:
    path = tmp_path / "ip-adapter.ckpt"
    path.write_bytes(HOSTILE[kind](evil(marker)))
    for read in (describe, read_adapter, read_clip_vision):
        with pytest.raises(AdapterError, match=r'^"ip-adapter\.ckpt" .*\.$'):
            read(path)
    assert main([str(path), str(tmp_path / "out.safetensors")]) == 1
    assert not marker.exists()


def test_a_program_is_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    class Program(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.zeros(1)

        @torch.jit.export
        def __getstate__(self) -> tuple[torch.Tensor, bool]:
            return self.weight, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
            self.weight, self.training = state[0], state[1]
            print("CODE OF THE FILE RUNS")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    path = tmp_path / "gligen.pth"
    torch.jit.script(Program()).save(path)
    capsys.readouterr()
    for read in (describe, read_adapter, read_clip_vision):
        with pytest.raises(AdapterError, match=r'"gligen\.pth" is a TorchScript program .*; get it as'):
            read(path)
    assert main([str(path), str(tmp_path / "out.safetensors")]) == 1
    with pytest.raises(Refused, match="TorchScript"):
        refuse_code(path)
    assert "CODE OF THE FILE RUNS" not in capsys.readouterr().out


WEIGHTS: dict[str, Any] = {"a": torch.arange(6.0).reshape(2, 3), "b": {"c": torch.ones(2, dtype=torch.bfloat16)}}


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_is_read_and_its_shapes_are_known_before(zipped: bool, tmp_path: Path) -> None:
    shared = torch.ones(3, 4)
    saved = {**WEIGHTS, "half": shared[1:], "tied": shared, "scalar": torch.tensor(1.0), "empty": torch.zeros(0, 3)}
    saved |= {"turned": torch.ones(2, 3).T, "parameter": torch.nn.Parameter(torch.ones(4))}
    path = tmp_path / "x.bin"
    torch.save({"state_dict": OrderedDict(saved), "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    file = open_tensor_file(path)
    wanted = {"a": (2, 3), "b.c": (2,), "half": (2, 4), "tied": (3, 4), "scalar": (), "empty": (0, 3)}
    assert file.shapes == {**wanted, "turned": (3, 2), "parameter": (4,)}
    assert torch.equal(file.read(["a"])["a"], WEIGHTS["a"])
    refuse_code(path)


def test_what_the_safe_loader_cannot_read_can_be_converted(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt", pickle_protocol=4)
    file = open_tensor_file(tmp_path / "x.pt")
    assert file.shapes == {"a": (2,)}
    with pytest.raises(AdapterError, match=r'^"x\.pt" is packed in a way .*adapters\.convert`\.$'):
        file.read(["a"])
    assert torch.equal(open_tensor_file(tmp_path / "x.pt", inert=True).read(["a"])["a"], torch.ones(2))


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="only Linux says what is mapped")
@pytest.mark.parametrize("reader", ["ours", "safetensors", "torch"])
def test_what_is_kept_of_a_file_does_not_keep_it_mapped(reader: str, tmp_path: Path) -> None:
    """Or nothing could write over it on Windows."""
    file = tmp_path / ("lora.pt" if reader == "torch" else "lora.safetensors")
    tensors = {"a": torch.randn(200, 100), "b": torch.ones(3).half()}
    if reader == "torch":
        torch.save({**tensors, "step": 5}, file)
        kept = in_memory(torch.load(file, mmap=True, weights_only=True))
        assert kept.pop("step") == 5
    else:
        safetensors.torch.save_file(tensors, file)
        kept = open_tensor_file(file).read("ab") if reader == "ours" else in_memory(safetensors.torch.load_file(file))
    assert file.name not in Path("/proc/self/maps").read_text()
    assert kept.keys() == tensors.keys() and all(torch.equal(kept[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pth", ".pt", ".SAFETENSORS"])
def test_safetensors_are_read_whatever_they_are_called(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    safetensors.torch.save_file({"a": WEIGHTS["a"]}, path)
    assert torch.equal(open_tensor_file(path).read(["a"])["a"], WEIGHTS["a"])


def test_a_free_reader_that_trusts_a_suffix_is_warned_of_a_wrong_one(tmp_path: Path) -> None:
    for name in ("x.safetensors", "x.sft", "x.ckpt"):
        safetensors.torch.save_file({"a": WEIGHTS["a"]}, tmp_path / name)
    refuse_code(tmp_path / "x.safetensors")
    refuse_code(tmp_path / "x.sft")
    with pytest.raises(Refused, match="is a safetensors file by another name"):
        refuse_code(tmp_path / "x.ckpt")


@pytest.mark.parametrize("name", ["x.safetensors", "x.SAFETENSORS"])
def test_a_pickle_by_the_name_of_a_safetensors_file_is_never_unpickled(name: str, tmp_path: Path, marker: Path) -> None:
    (tmp_path / name).write_bytes(archive((PKL, evil(marker))))
    for read in (describe, read_adapter, read_clip_vision):
        with pytest.raises(AdapterError, match=rf'^"{name}" cannot be read .*; download it again\.$'):
            read(tmp_path / name)
    assert not marker.exists()


def test_a_name_that_is_no_utf8_is_not_taken_for_damage(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.safetensors")
    path.write_bytes(safetensors.torch.save({"a": WEIGHTS["a"]}))
    with pytest.raises(AdapterError, match=r'^"caf\?\.safetensors" has a name that is no UTF-8, .*; rename it\.$'):
        open_tensor_file(path)


def rebuilt(numel: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """An archive with one tensor that claims this size, on a storage that claims that one."""

    class Tensor:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, (Storage(), 0, size, stride, False, OrderedDict())

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if isinstance(value, Storage) else None

    file = io.BytesIO()
    Pickler(file, 2).dump({"a": Tensor()})
    return archive((PKL, file.getvalue()), ("archive/data/0", bytes(64)))


TOO_MUCH, FAR = r"own size|larger tensors", "declares more memory than its contents need"
FAR_AWAY = [b"\x80\x02}" + put + b"." for put in (b"r" + (2**30).to_bytes(4, "little"), b"p1258647924\n")]
"""Pickles that keep an object far away: Python's own reader would make a table of some 20 GB for it."""
BOMBS = {
    "compressed": (
        archive(("archive/data/0", bytes(10**7)), (PKL, pickle.dumps({}, 2)), kind=zipfile.ZIP_DEFLATED),
        TOO_MUCH,
    ),
    "storage": (rebuilt(10**12, (10**12,), (1,)), TOO_MUCH),
    "expanded": (rebuilt(16, (10**6, 10**6), (0, 0)), TOO_MUCH),
    "beyond": (rebuilt(16, (4, 4), (10**6, 1)), TOO_MUCH),
    "negative": (rebuilt(16, (-4, -4), (1, 1)), TOO_MUCH),
    **{f"far away {n}": (archive((PKL, far)), FAR) for n, far in enumerate(FAR_AWAY)},
    **{f"far away {n}, old": (old_format(far), FAR) for n, far in enumerate(FAR_AWAY)},
}


@pytest.mark.parametrize("kind", BOMBS)
def test_what_unpacks_to_more_than_the_file_is_refused_before_memory_is_taken(kind: str, tmp_path: Path) -> None:
    packed, said = BOMBS[kind]
    path = tmp_path / "x.bin"
    path.write_bytes(packed)
    for read in (open_tensor_file, describe, lambda path: load_inert(path)):
        with pytest.raises((AdapterError, Refused), match=said):
            read(path)


def test_endless_deep_and_odd_pickles_are_sentences(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    deep: dict[str, Any] = {}
    endless: dict[str, Any] = {"a": torch.ones(1)}
    endless["state_dict"] = endless["b"] = endless
    torch.save(endless, path)
    with pytest.raises(AdapterError, match=r'^"x\.bin" has dictionaries without an end in it; get it as'):
        open_tensor_file(path)
    for _ in range(100):
        deep = {"a": deep}
    for odd in (deep, [1, 2], None, {1: torch.ones(1)}, "text", {"state_dict": None}):
        torch.save(odd, path)
        with pytest.raises(AdapterError, match=r'^"x\.bin" '):
            read_adapter(path)
    for packed in (b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x80\x02}", bytes(100), b"\x80\x02." * 9):
        path.write_bytes(packed)
        with pytest.raises(AdapterError, match=r'^"x\.bin" '):
            read_adapter(path)


def test_names_in_a_file_are_echoed_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(archive((PKL, pickle.dumps({}, 2)), ("archive/a\r\nb", b"")))
    with pytest.raises(Refused) as error:
        refuse_code(tmp_path / "x.bin")
    assert "a b" in str(error.value) and len(str(error.value).splitlines()) == 1


def test_a_look_costs_neither_a_tensor_nor_a_call(tmp_path: Path, marker: Path) -> None:
    torch.save({"w": torch.ones(5), "more": Boom(marker)}, tmp_path / "x.bin")
    contents = inspect_pickle(tmp_path / "x.bin")
    assert contents.value["w"].shape == (5,)
    assert contents.foreign == (f"{os.mkdir.__module__}.mkdir",)
    assert not marker.exists()
