"""A co-model on another device: the same picture, and the order in which devices get their work.

No machine of these tests has two accelerators: the pretended device is one beside the CPU.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from denoisers import sample_ddim, sample_plms, sample_unipc, sd_alphas_cumprod, timesteps
from pretend_device import DEVICE, pretended
from torch import Tensor

from amdm_lab.studio import k_diffusion_parts as k_diffusion
from lib_amdm import CoRun, amdm
from lib_amdm.comodels.placing import device_choices, device_of, one_device
from lib_amdm.core.arguments import Crossing, Pass
from lib_amdm.errors import AmdmError
from lib_amdm.hosts.common.elsewhere import Elsewhere
from lib_amdm.settings import MAIN_CHECKPOINT, CoModel, Settings, SettingsError

STEPS, K = 8, 4
CPU = torch.device("cpu")
SAMPLERS = [
    *("euler", "euler_ancestral", "heun", "dpm_2", "dpmpp_2m", "dpmpp_sde", "lms", "dpmpp_2s_ancestral"),
    *("dpm_fast", "dpm_adaptive"),
]


def analytic(number: int, log: list[str] | None = None, name: str = "") -> Callable[..., Tensor]:
    """A denoiser of nothing but arithmetic, another one for each number, which logs its calls."""

    def denoise(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        if log is not None:
            log.append(f"{name} on {'device' if x.device == DEVICE else x.device}")
        level = sigma.view(-1, 1, 1, 1)
        return (x + number * level) / (1 + level**2)

    return denoise


def latent() -> tuple[Tensor, Tensor]:
    sigmas = k_diffusion.sampling.get_sigmas_karras(STEPS, 0.03, 14.6)
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * sigmas[0], sigmas


def drawn(main: torch.device, co_device: torch.device | None, log: list[str], **co: Any) -> Tensor:
    """The latent that Euler draws, with the co-model on its device and the main model on another."""
    x, sigmas = latent()
    with pretended():
        co_run = CoRun(analytic(2, log, "co"), 0.5, device=co_device, **co)
        sampler = amdm(k_diffusion.sampling.sample_euler, [co_run], steps=K, evaluations=2)
        return sampler(analytic(1, log, "main"), x.to(main), sigmas.to(main), disable=True).to("cpu")


@pytest.mark.parametrize("noise", ["shared", "independent"])
@pytest.mark.parametrize(("main", "other"), [(CPU, DEVICE), (DEVICE, CPU)])
def test_the_picture_is_the_one_of_one_device(main: torch.device, other: torch.device, noise: str) -> None:
    assert torch.equal(drawn(main, other, [], noise=noise, seed=1), drawn(CPU, None, [], noise=noise, seed=1))


def test_an_accelerator_gets_its_work_before_the_main_model() -> None:
    log: list[str] = []
    drawn(CPU, DEVICE, log)
    begins = ["co on device", "main on cpu"]
    assert log[:2] == begins and log.count("co on device") == 2
    assert all(log[place : place + 2] == begins for place, entry in enumerate(log) if entry.startswith("co"))


def test_the_cpu_works_while_the_main_model_does() -> None:
    """Its work would keep the main model's from being submitted; its input comes before that."""
    log: list[str] = []
    drawn(DEVICE, CPU, log)
    assert log[:2] == ["main on device", "co on cpu"] and log.count("co on cpu") == 2


def test_on_the_cpu_an_input_does_not_wait_for_the_main_models_work() -> None:
    x, sigmas = latent()
    with pretended() as traffic:
        moves: list[int] = []
        own = analytic(1)

        def main(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
            moves.append(traffic["move"])
            return own(x, sigma)

        before: list[int] = []

        def co(x: Tensor, sigma: Tensor) -> Tensor:
            before.append(traffic["move"])
            return analytic(2)(x, sigma)

        sampler = amdm(k_diffusion.sampling.sample_euler, [CoRun(co, 0.5, device=CPU)], steps=1)
        sampler(main, x.to(DEVICE), sigmas.to(DEVICE), disable=True)
    assert before == moves[:1]


def test_the_main_models_device_has_its_work_before_the_cpu_begins() -> None:
    """Whatever the slots' order: the CPU's work and the waiting for it come last in a step."""
    x, sigmas = latent()
    log: list[str] = []
    with pretended():
        co_runs = [
            CoRun(analytic(2, log, "first"), 0.5, device=CPU),
            CoRun(analytic(3, log, "second"), 0.3, device=CPU, noise="estimate", seed=1),
            CoRun(analytic(4, log, "third"), 0.3),
        ]
        sampler = amdm(k_diffusion.sampling.sample_euler, co_runs, steps=1)
        sampler(analytic(1, log, "main"), x.to(DEVICE), sigmas.to(DEVICE), disable=True)
    assert log[:4] == ["main on device", "third on device", "first on cpu", "second on cpu"]


def test_without_a_device_the_main_model_is_first() -> None:
    log: list[str] = []
    drawn(CPU, None, log)
    assert log[:2] == ["main on cpu", "co on cpu"]


@pytest.mark.parametrize(("main", "other"), [(CPU, DEVICE), (DEVICE, CPU)])
def test_a_model_that_sees_the_estimate_is_shown_it_on_its_device(main: torch.device, other: torch.device) -> None:
    crossed: list[torch.device] = []

    def noted(clean: Tensor) -> Tensor:
        crossed.append(clean.device)
        return clean

    log: list[str] = []
    way = Crossing(noted, noted)
    picture = drawn(main, other, log, noise="estimate", seed=1, crossing=way)
    assert log[0].startswith("main") and log[1].startswith("co")
    assert crossed == [main] * 4
    assert torch.equal(picture, drawn(CPU, None, [], noise="estimate", seed=1, crossing=way))


@pytest.mark.parametrize("evaluations", [0, 2])
@pytest.mark.parametrize("name", SAMPLERS)
def test_only_the_order_differs(name: str, evaluations: int) -> None:
    func = getattr(k_diffusion.sampling, f"sample_{name}")
    x, sigmas = latent()
    takes = inspect.signature(func).parameters
    levels: dict[str, Any] = {"sigmas": sigmas} if "sigmas" in takes else {"sigma_min": 0.03, "sigma_max": 14.6}
    levels |= {"n": STEPS} if "n" in takes else {}
    pictures = []
    for device in (None, CPU):
        torch.manual_seed(0)
        co_runs = [
            CoRun(analytic(2), 0.5, 0.2, device=device),
            CoRun(analytic(3), 0.3, noise="estimate", seed=2),
            CoRun(analytic(4), 0.3, noise="estimate", seed=3, device=device, keeps_prediction=True),
        ]
        sampler = amdm(func, co_runs, steps=K, eta=0.2, evaluations=evaluations)
        pictures.append(sampler(analytic(1), x, disable=True, **levels))
    assert torch.equal(*pictures)


@pytest.mark.parametrize("func", [sample_ddim, sample_plms, sample_unipc])
def test_only_the_order_differs_on_timesteps(func: Callable[..., Any]) -> None:
    alphas = sd_alphas_cumprod()
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    class Noise:
        """A model that returns eps, as those samplers take it."""

        inner_model = SimpleNamespace(inner_model=SimpleNamespace(alphas_cumprod=alphas))

        def __call__(self, x: Tensor, timestep: Tensor, **_: Any) -> Tensor:
            return x * 0.9 + 0.01

    pictures = []
    for device in (None, CPU):
        sampler = amdm(func, [CoRun(analytic(2), 0.5, device=device)], steps=K)
        pictures.append(sampler(Noise(), x, timesteps(STEPS), extra_args={}))
    assert torch.equal(*pictures)


def test_a_new_part_of_a_prompt_is_evaluated_at_once() -> None:
    """The key is read before and after the main model's evaluation, in a step that the host counts in between."""
    counts = [0]
    ahead = [False]
    log: list[str] = []

    @contextmanager
    def is_ahead() -> Iterator[None]:
        ahead[0] = True
        yield
        ahead[0] = False

    def main(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        counts[0] += 1
        return analytic(1, log, "main")(x, sigma)

    def step() -> int:
        return counts[0] if ahead[0] else counts[0] - 1

    x, sigmas = latent()
    co = CoRun(analytic(2, log, "co"), 0.5, device=CPU, state_key=lambda ratio: step() >= 2)
    sampler = amdm(k_diffusion.sampling.sample_euler, [co], steps=K, evaluations=1, ahead=is_ahead)
    sampler(main, x, sigmas, disable=True)
    assert [entry.split()[0] for entry in log[:6]] == ["main", "co", "main", "main", "co", "main"]


@pytest.mark.parametrize("device", [CPU, DEVICE])
def test_after_an_error_the_main_model_goes_on_alone_if_it_may(device: torch.device) -> None:
    def broken(x: Tensor, sigma: Tensor) -> Tensor:
        raise ValueError("broken")

    x, sigmas = latent()
    heard: list[str] = []

    def survives(error: Exception) -> bool:
        heard.append(str(error))
        return True

    with pretended():
        sampler = k_diffusion.sampling.sample_euler
        alone = sampler(analytic(1), x, sigmas, disable=True)
        mixing = amdm(sampler, [CoRun(broken, 0.5, device=device)], steps=K, in_pass=Pass(survives=survives))
        assert torch.equal(mixing(analytic(1), x, sigmas, disable=True), alone)
        assert heard == ["broken"]
        with pytest.raises(ValueError, match="broken"):
            amdm(sampler, [CoRun(broken, 0.5, device=device)], steps=K)(analytic(1), x, sigmas, disable=True)


# ---- in the memory managers of Forge's kin ----


def attention_pytorch() -> None: ...


def attention_xformers() -> None: ...


class Layer(torch.nn.Linear):
    """A layer of theirs."""

    casts = False


class Managed:
    """A patcher of theirs, as the manager loads it."""

    def __init__(self) -> None:
        self.load_device, self.offload_device = torch.device("cuda"), torch.device("cuda")
        self.model = torch.nn.Sequential(Layer(1, 1), torch.nn.ReLU()).half()
        self.unloaded_to: list[torch.device] = []

    @property
    def entry(self) -> Any:
        return SimpleNamespace(model=self, model_unload=lambda: self.unloaded_to.append(self.offload_device))


def elsewhere(attention: Callable[..., Any] = attention_pytorch, *loaded: Any) -> Elsewhere:
    manager: Any = SimpleNamespace(current_loaded_models=[*loaded])
    return Elsewhere(manager, attention, "computed_in", "casts")


def test_attention_that_the_cpu_lacks_is_named() -> None:
    assert '"xformers", works on GPUs alone' in elsewhere(attention_xformers).reason_against(CPU)
    assert elsewhere(attention_xformers).reason_against(torch.device("cuda:1")) == ""
    assert elsewhere(attention_pytorch).reason_against(CPU) == ""


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_manager_brings_a_unet_to_its_device(device: str) -> None:
    unet: Any = Managed()
    other = Managed()
    host = elsewhere(attention_pytorch, other.entry, unet.entry)
    host.put(unet, torch.device(device), 1, "a")
    assert (unet.load_device, unet.offload_device) == (torch.device(device), CPU)
    # only the CPU computes in another precision, and the weights stay as they are
    assert (getattr(unet.model, "computed_in", None), unet.model[0].casts) == (
        (torch.float32, True) if device == "cpu" else (None, False)
    )
    assert unet.model[0].weight.dtype == torch.float16
    # the loader had it on the main model's device
    assert unet.unloaded_to == [CPU] and other.unloaded_to == []
    assert [entry.model for entry in host.memory.current_loaded_models] == [other]


def test_quantized_weights_are_refused_on_the_cpu_alone() -> None:
    unet: Any = Managed()
    unet.model[0].weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.uint8), requires_grad=False)
    elsewhere().put(unet, torch.device("cuda:1"), 1, "a")
    with pytest.raises(AmdmError, match='co-model 1: "a" is quantized'):
        elsewhere().put(unet, CPU, 1, "a")


# ---- the setting ----


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


def test_devices_are_offered_that_are_there(two_cards: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_choices()[:4] == ["auto", "cpu", "cuda:0", "cuda:1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert not any(name.startswith("cuda") for name in device_choices())


@pytest.mark.parametrize(
    ("device", "main", "found"),
    [
        ("auto", "cuda", None),
        ("cpu", "cuda", "cpu"),
        ("cpu", "cpu", None),
        ("cpu", "mps", "cpu"),
        ("cpu", "privateuseone:0", "cpu"),
        ("cuda:0", "cuda", None),
        ("cuda:1", "cuda", "cuda:1"),
        ("cuda:1", "cpu", "cuda:1"),
    ],
)
def test_a_device_is_another_than_the_main_models(two_cards: None, device: str, main: str, found: str | None) -> None:
    slot = CoModel(checkpoint="a", device=device)
    expected = None if found is None else torch.device(found)
    assert device_of(1, slot, torch.device(main), lambda other: "") == expected


@pytest.mark.parametrize(
    ("checkpoint", "device", "remedy"),
    [
        ("a", "cuda:7", "auto, cpu, cuda:0, cuda:1; choose one of these"),
        ("a", "cpu", "all models are on one device here; set its device to auto"),
        (MAIN_CHECKPOINT, "cpu", "or choose a checkpoint"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(two_cards: None, checkpoint: str, device: str, remedy: str) -> None:
    with pytest.raises(AmdmError, match=remedy) as error:
        device_of(2, CoModel(checkpoint=checkpoint, device=device), torch.device("cuda"), one_device)
    assert str(error.value).startswith("AMDM co-model 2: ") and f'"{device}"' in str(error.value)


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:", "CUDA:0", "cpu:x", " "])
def test_a_text_that_is_no_device_is_named_with_its_setting(device: str) -> None:
    with pytest.raises(SettingsError, match='"device of co-model 1" must be auto, cpu or a device'):
        Settings.from_dict({"co_models": [{"checkpoint": "a", "device": device}]})
