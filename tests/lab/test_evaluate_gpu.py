"""The measurements of a GPU, on the CPU and on a pretended device: what they count is what is there."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import pretend_device
import torch
from diffusers import UNet2DConditionModel
from pretend_device import DEVICE, Arrival, pretended
from torch import Tensor, nn

from amdm_lab.cli import main
from amdm_lab.gpu import loop, on_standalone, random_checkpoints
from amdm_lab.gpu.loop import Rig
from amdm_lab.gpu.random_unets import UNETS, Guided
from amdm_lab.gpu.table import Measurement, table
from amdm_lab.gpu.waits import MESSAGE, MODELS, PROJECT, SAMPLER, Waits
from amdm_lab.gpu.watching import opened_files, placed, watched
from amdm_lab.studio import k_diffusion_parts as k_diffusion
from amdm_lab.studio.host import Standalone
from lib_amdm import CoRun, amdm
from lib_amdm.core import accelerator
from lib_amdm.errors import AmdmError

CPU = torch.device("cpu")
NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> str:
    """Fewer steps; what the evaluations of a picture with one co-model are then."""
    for module in (loop, on_standalone):
        for name, count in (("STEPS", 6), ("MIXED", 4), ("EVALUATIONS", 2)):
            monkeypatch.setattr(module, name, count)
    return "6 + 2"


# the sampler alone


def test_the_sampler_alone_has_a_row_for_each_number_of_co_models(short: str) -> None:
    alone, both = loop.rows("sd15", 1, CPU, torch.float32, tiny=True)
    assert (alone.co_models, alone.evaluations, alone.placed) == (0, "6", "cpu float32")
    assert (both.co_models, both.evaluations, both.placed) == (1, short, "cpu float32")
    assert both.outside is not None and both.seconds > both.outside * 4
    assert both.leaving == "after step 4: the same picture"
    # of CUDA alone
    assert both.waits is None and both.peak is None


def test_a_co_model_that_leaves_before_the_last_mixed_step_is_missed() -> None:
    rig = Rig("sd15", CPU, torch.float32, tiny=True)
    rig.add()
    rig.models[1].unet.to("meta")
    with torch.no_grad(), pytest.raises(Exception, match="meta"):
        rig.draw(True, Waits(CPU))


@pytest.mark.parametrize(("kind", "parameters"), [("sd15", 859_520_964), ("sdxl", 2_567_463_684)])
def test_the_unets_are_of_the_published_sizes(kind: str, parameters: int) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[kind])
    assert sum(each.numel() for each in unet.parameters()) == parameters


def test_a_unet_is_made_in_its_precision_and_the_usual_one_stays() -> None:
    model = Guided("sdxl", 0, CPU, torch.float16, tiny=True)
    assert {each.dtype for each in model.unet.parameters()} == {torch.float16}
    assert torch.get_default_dtype() is torch.float32
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad(), watched([model.unet], CPU) as seen:
        found = model(x, torch.ones(1))
    assert found.dtype is torch.float32 and torch.isfinite(found).all()
    assert seen.evaluations == [1] and seen.inputs == {("cpu", "float16")}
    assert 0 < seen.inside <= seen.seconds


def test_weights_in_two_places_are_told() -> None:
    mixed = [nn.Linear(1, 1), nn.Linear(1, 1).half()]
    assert placed(mixed, {("cpu", "float32")}) == "cpu float16 and cpu float32"
    assert placed(mixed[:1], {("cuda:0", "float32")}) == "cpu float32, but shown latents on cuda:0"


# whole pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    random_checkpoints.write(folder, 2, CPU, True, lambda text: None)
    return folder


def test_whole_pictures_have_a_row_and_a_second_picture_opens_no_file(folder: Path, short: str) -> None:
    names = random_checkpoints.names(2, True)
    alone, both = on_standalone.rows(folder, names, CPU, torch.float32, tiny=True)
    assert (alone.evaluations, both.evaluations) == ("6", short)
    for row in (alone, both):
        assert row.placed == "cpu float32"
        first, _, second = row.second.partition(" files opened, then ")
        assert int(first) >= 1 and second == "0"
    assert both.leaving.startswith("unloading: 2 checkpoints of ")


def test_checkpoints_that_are_there_stay(folder: Path) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in sorted(folder.glob("*.safetensors"))}
    files = random_checkpoints.write(folder, 2, CPU, True, lambda text: pytest.fail(text))
    assert [file.name for file in files] == list(before) == random_checkpoints.names(2, True)
    assert before == {file.name: file.stat().st_mtime_ns for file in files}
    one, other = (Standalone(folder).model(file.name).unet.conv_in.weight for file in files)
    assert not torch.equal(one, other)


def test_a_folder_without_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**9))
    with pytest.raises(AmdmError, match="has room for 1 GB, but 4 checkpoints"):
        random_checkpoints.write(tmp_path, 4, CPU, False, lambda text: None)


def test_files_of_the_folder_that_are_opened_meanwhile_are_seen(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    for file in (inside / "a", outside):
        file.write_text("")
    with opened_files(inside) as names:
        (inside / "a").read_text()
        outside.read_text()
    (inside / "a").read_text()
    assert names == ["a"]


# synchronisations


class Loud(Counter[str]):
    """Traffic that is heard of as torch says it on a GPU."""

    def __setitem__(self, kind: str, count: int) -> None:
        if kind in ("read", "move") and count > self[kind]:
            warnings.warn(f"called a {MESSAGE}", stacklevel=2)
        super().__setitem__(kind, count)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    """As on a GPU, with what torch is told collected in `modes`."""
    counted = Waits(CPU)
    counted.reports = True
    counted.modes = []  # type: ignore[attr-defined]
    monkeypatch.setattr("torch.cuda.set_sync_debug_mode", counted.modes.append)  # type: ignore[attr-defined]
    monkeypatch.setattr(pretend_device, "Counter", Loud)
    return counted


def mixed_on_the_device(waits: Waits, follow: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Two models of arithmetic, on a sampler that looks at its schedule in each step."""

    def denoise(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        return x / (1 + sigma.view(-1, 1, 1, 1) ** 2)

    sigmas = k_diffusion.sampling.get_sigmas_karras(8, 0.03, 14.6)
    x = torch.randn(1, 4, 8, 8) * sigmas[0]
    with pretended() as traffic, waits.counting():
        if follow:
            monkeypatch.setitem(accelerator.EVENTS, DEVICE.type, lambda device, timed: Arrival(traffic))
        mixing = amdm(
            k_diffusion.sampling.sample_heun, [CoRun(denoise, 0.5, on_nan=lambda: None)], steps=4, evaluations=2
        )
        here, levels = x.to(DEVICE), sigmas.to(DEVICE)
        waits.counts.clear()
        waits.start()
        mixing(denoise, here, levels, disable=True)
    each = waits.by_step(4)
    assert each is not None
    return each


def test_the_projects_own_waits_are_told_from_the_samplers(waits: Waits, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = mixed_on_the_device(waits, True, monkeypatch)
    # of the whole run: the schedule is read once, before the first step
    assert quiet[PROJECT] == 1 / 4 and quiet[SAMPLER] > 1
    assert waits.modes == ["warn", "default"]  # type: ignore[attr-defined]
    monkeypatch.delitem(accelerator.EVENTS, DEVICE.type)
    loud = mixed_on_the_device(waits, False, monkeypatch)
    assert loud[PROJECT] > 2 and loud[SAMPLER] == quiet[SAMPLER]


def test_a_models_own_waits_are_its_own(waits: Waits) -> None:
    model = Guided("sd15", 0, CPU, torch.float32, tiny=True)
    model.unet.register_forward_pre_hook(lambda *told: warnings.warn(f"called a {MESSAGE}", stacklevel=2))
    mixing = amdm(k_diffusion.sampling.sample_euler, [CoRun(model, 0.5)], steps=1)
    with waits.counting():
        mixing(model, torch.randn(1, 4, 8, 8), torch.tensor([1.0, 0.5, 0.0]), disable=True)
    assert waits.counts == {MODELS: 3}


def test_other_warnings_are_shown_as_ever(waits: Waits) -> None:
    with warnings.catch_warnings(record=True) as shown, waits.counting():
        warnings.warn("something else", stacklevel=1)
    assert [str(each.message) for each in shown] == ["something else"] and not waits.counts


# the command


@NO_CUDA
def test_without_cuda_it_says_so(capsys: pytest.CaptureFixture) -> None:
    assert main(["gpu"]) == 1
    told = capsys.readouterr()
    assert told.out == "" and "There is no CUDA device here" in told.err and told.err.count(". ") == 0


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (["--device", "toaster"], '--device "toaster" is not a device'),
        (["--device", "meta"], '--device "meta" cannot be measured'),
        (["--co-models", "4"], "--co-models must be from 1 to 3, not 4"),
        (["--parts", "webui"], "needs a running WebUI"),
        (["--url", "http://127.0.0.1:1"], "A WebUI needs checkpoints"),
        (["--url", "http://127.0.0.1:1", "--main", "a"], "--main and --co belong together"),
        (["--parts", "webui", "--url", "http://127.0.0.1:1", "--main", "a", "--co", "b"], "does not answer as a WebUI"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(
    capsys: pytest.CaptureFixture, told: list[str], said: str
) -> None:
    assert main(["gpu", "--device", "cpu", "--size", "tiny", *told]) == 1
    assert said in capsys.readouterr().err


def test_what_was_measured_before_the_memory_was_full_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def rows(*told: object) -> Any:
        yield Measurement("here", "sd15", 0, "20", 1.0, waits={PROJECT: 0, SAMPLER: 1.5, MODELS: 2}, peak=3 * 10**9)
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(loop, "rows", rows)
    assert main(["gpu", "--device", "cpu", "--size", "tiny", "--parts", "loop"]) == 1
    told = capsys.readouterr()
    assert "| here | sd15 | 0 | 20 | 1.00 | – | 0, 1.5, 2 | 3000 |" in told.out and "memory is full" in told.err


def test_the_table_is_whole_in_markdown() -> None:
    lines = table([Measurement("a | b", "sd15", 1, "20 + 4", 1.0)]).splitlines()
    assert len(lines) == 3 and {line.count("|") for line in lines} == {12}
