"""Traffic with a device in a mixed step: every number that is read from it, or moved to it, makes it wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from adapter_files import migc_shapes, random_tensors
from denoisers import sample_ddim, sample_plms, sample_unipc, sd_alphas_cumprod, timesteps
from pretend_device import DEVICE, Arrival, pretended
from torch import Tensor, nn

from amdm_lab.studio import k_diffusion_parts as k_diffusion
from lib_amdm import CoRun, amdm
from lib_amdm.adapters.base import Block, Call, Rows
from lib_amdm.adapters.inputs import GivenInputs
from lib_amdm.adapters.kinds import adapter_file, adapter_of
from lib_amdm.adapters.migc import Migc
from lib_amdm.comodels.guidance import guided
from lib_amdm.core import accelerator
from lib_amdm.layout import Layout

STEPS = 8
WIDTH, HEADS = 48, 2
SAMPLERS = ("euler", "euler_ancestral", "heun", "dpmpp_2m", "lms")


def analytic(number: int) -> Callable[..., Tensor]:
    """A denoiser of nothing but arithmetic, another one for each number."""

    def denoise(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        level = sigma.view(-1, 1, 1, 1)
        return (x + number * level) / (1 + level**2)

    return denoise


def run(
    func: Callable[..., Any], counts: list[int] | None = None, late: int | None = 0, monkeypatch: Any = None
) -> tuple[Tensor, Counter[str]]:
    """A sampler's latent on the pretended device, and the traffic.

    late: see `Arrival`; its copies can be followed if `monkeypatch` is given.
    """
    sigmas = k_diffusion.sampling.get_sigmas_karras(STEPS, 0.03, 14.6)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * sigmas[0]
    with pretended() as traffic:
        own = analytic(1)
        if monkeypatch is not None:
            monkeypatch.setitem(accelerator.EVENTS, DEVICE.type, lambda device, timed: Arrival(traffic, late))

        def model(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
            if counts is not None:
                counts.append(1)
            return own(x, sigma)

        torch.manual_seed(0)
        there = func(model, x.to(DEVICE), sigmas.to(DEVICE), disable=True)
        counted = Counter(traffic)
        return there.to("cpu"), counted


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("eta", [0.0, 0.2])
def test_a_step_waits_for_nothing_and_moves_nothing(name: str, eta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    func = getattr(k_diffusion.sampling, f"sample_{name}")
    evaluations: list[int] = []
    _, plain = run(func, evaluations)
    heard: list[int] = []
    co_runs = [
        CoRun(analytic(2), 0.5, eta, on_nan=lambda: heard.append(2)),
        CoRun(analytic(3), 0.3, eta, gamma_end=0.1, on_nan=lambda: heard.append(3)),
    ]
    mixing = amdm(func, co_runs, steps=3, eta=eta, evaluations=2)
    _, mixed = run(mixing, late=0, monkeypatch=monkeypatch)
    # the schedule is read once; a level for each evaluation, and a flag for each one of a co-model, are sent off
    assert mixed["read"] == plain["read"] and mixed["wait"] == 0
    assert mixed["move"] - plain["move"] == 1
    assert mixed["sent"] == len(evaluations) + 2 * len(co_runs)
    assert not heard


@pytest.mark.parametrize("eta", [0.0, 0.2])
def test_a_region_goes_to_the_device_once(eta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    func, region = k_diffusion.sampling.sample_euler, torch.zeros(1, 1, 8, 8)
    region[..., :3] = 1.0
    _, plain = run(func)
    co_runs = [CoRun(analytic(2), 0.5, eta, region=region), CoRun(analytic(3), 0.5, eta, gamma_end=0.1, region=region)]
    _, mixed = run(amdm(func, co_runs, steps=6, eta=eta, evaluations=2), late=0, monkeypatch=monkeypatch)
    # and the schedule's last level as ever
    assert mixed["move"] - plain["move"] == 1 + len(co_runs)
    assert mixed["read"] == plain["read"] and mixed["wait"] == 0


def test_where_copies_cannot_be_followed_numbers_are_read_as_they_are_needed() -> None:
    func = k_diffusion.sampling.sample_euler
    evaluations: list[int] = []
    _, plain = run(func, evaluations)
    _, mixed = run(amdm(func, [CoRun(analytic(2), 0.5, on_nan=lambda: None)], steps=3, evaluations=2))
    assert mixed["read"] - plain["read"] == len(evaluations) + 2


@pytest.mark.parametrize("late", [0, 1, 4, None])
def test_an_answer_of_nan_is_heard_of_and_has_no_part_in_the_picture(
    late: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    func = k_diffusion.sampling.sample_euler
    own, _ = run(func)
    heard: list[int] = []

    def broken(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        return x * float("nan")

    mixing = amdm(func, [CoRun(broken, 0.5, on_nan=lambda: heard.append(1))], steps=3, evaluations=2)
    drawn, _ = run(mixing, late=late, monkeypatch=monkeypatch)
    assert len(heard) == 2
    assert (drawn - own).abs().max() < 1e-5


@pytest.mark.parametrize("evaluations", [STEPS, 1])
def test_the_very_last_answer_of_nan_is_heard_of(evaluations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It arrives after the sampler has ended, so nobody has waited for it by then."""
    calls: list[int] = []
    heard: list[int] = []

    def broken_at_last(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(1)
        return x * (float("nan") if len(calls) == evaluations else 0.5)

    co = CoRun(broken_at_last, 0.5, on_nan=lambda: heard.append(1))
    mixing = amdm(k_diffusion.sampling.sample_euler, [co], steps=STEPS, evaluations=evaluations)
    run(mixing, late=None, monkeypatch=monkeypatch)
    assert len(calls) == evaluations and heard == [1]


class Eps:
    """A model of the WebUI's timestep samplers, of nothing but arithmetic, with its schedule on the device."""

    def __init__(self, device: torch.device) -> None:
        alphas = sd_alphas_cumprod().float().to(device)
        self.inner_model = SimpleNamespace(inner_model=SimpleNamespace(alphas_cumprod=alphas))

    def __call__(self, x: Tensor, timesteps: Tensor) -> Tensor:
        alpha = self.inner_model.inner_model.alphas_cumprod[timesteps.long()].view(-1, 1, 1, 1)
        self.last_noise_uncond = (x * 0.5 - alpha.sqrt()) / (1 - alpha).sqrt()
        return (x - alpha.sqrt()) / (1 - alpha).sqrt()


def sample_ddim_cfgpp(model: Any, x: Tensor, timesteps: Tensor, eta: float = 0.0) -> Tensor:
    """CFG++'s form of DDIM: the noise that is put back is that of the negative prompt."""
    alphas = model.inner_model.inner_model.alphas_cumprod[timesteps].tolist()
    model.cond_scale_miltiplier = 1 / 12.5
    for i in reversed(range(1, len(timesteps))):
        a, a_next = alphas[i], alphas[i - 1]
        eps = model(x, timesteps[i] * x.new_ones(len(x)))
        denoised = (x - (1 - a) ** 0.5 * eps) / a**0.5
        x = a_next**0.5 * denoised + (1 - a_next) ** 0.5 * model.last_noise_uncond
    return x


@pytest.mark.parametrize("func", [sample_ddim, sample_ddim_cfgpp, sample_plms, sample_unipc])
@pytest.mark.parametrize("more", [{}, {"eta": 0.2, "noise": "independent", "seed": 4}], ids=["plain", "corrected"])
def test_timestep_samplers_draw_the_same_on_a_device_without_float64(func: Callable, more: dict[str, Any]) -> None:
    x = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    mixing = amdm(func, [CoRun(analytic(2), **more)], steps=4, eta=more.get("eta", 0.0), evaluations=2)
    with pretended():
        there = mixing(Eps(DEVICE), x.to(DEVICE), timesteps=timesteps(8).to(DEVICE)).to("cpu")
    here = mixing(Eps(torch.device("cpu")), x, timesteps=timesteps(8))
    torch.testing.assert_close(there, here, rtol=0, atol=1e-5)
    alone = func(Eps(torch.device("cpu")), x, timesteps=timesteps(8))
    assert (here - alone).abs().max() > 1e-4


def test_the_pretended_device_has_no_float64() -> None:
    with pretended():
        there = torch.ones(2).to(DEVICE)
        for wide in (
            lambda: there.double(),
            lambda: torch.ones(2).double().to(DEVICE),
            lambda: there.to("cpu", torch.float64),
        ):
            with pytest.raises(TypeError, match="float64"):
                wide()
        assert there.cpu().double().sum() == 2


@pytest.mark.parametrize("plus", [False, True])
def test_migc_brings_nothing_to_the_device_once_it_is_prepared(plus: bool) -> None:
    name = "middle_block.1.transformer_blocks.0"
    shapes = migc_shapes({name: WIDTH}, WIDTH, plus=plus, blocks=("middle_block.1",))
    adapter = adapter_of(adapter_file(random_tensors(shapes), "migc"))
    assert isinstance(adapter, Migc)
    layout = Layout.of_rows([{"phrase": "a", "box": [0, 0, 0.5, 0.6]}, {"phrase": "b", "box": [0.3, 0.4, 1, 1]}])
    draw = torch.Generator().manual_seed(0)
    phrases, contexts = ({word: torch.randn(*size, generator=draw) for word in "ab"} for size in ((WIDTH,), (9, WIDTH)))
    h, out, attended = (torch.randn(*size, generator=draw) for size in ((2, 64, WIDTH), (2, 64, WIDTH), (2, 64, WIDTH)))
    block = Block(name, nn.Module(), WIDTH, WIDTH, HEADS)

    def drawn(device: torch.device) -> tuple[Any, int]:
        """The block's output in a second step, and the moves that this took."""
        own, there = adapter.to(device), [each.to(device) for each in (h, out, attended)]
        words, sentences = ({word: each.to(device) for word, each in texts.items()} for texts in (phrases, contexts))
        prepared = own.prepare(GivenInputs([layout], words, sentences))
        layer = own.layers([block])[name]
        for progress in (0.0, 0.25):
            before = traffic["move"]
            call = Call(Rows((0, 0), (True, False), progress), (8, 8))
            with torch.no_grad():
                result = prepared.replaced(layer, block, there[0], there[1], call, lambda row, texts: there[2])
        return result, traffic["move"] - before

    with pretended() as traffic:
        here, _ = drawn(torch.device("cpu"))
        elsewhere, moves = drawn(DEVICE)
        assert moves == 0
        assert (elsewhere.to("cpu") - here).abs().max() < 1e-4


@pytest.mark.parametrize("skip_uncond", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_guidance_moves_nothing(together: bool, skip_uncond: bool) -> None:
    with pretended() as traffic:
        x, sigma, cond, uncond = (torch.ones(size).to(DEVICE) for size in ((2, 4, 2, 2), (2,), (3, 5, 4), (2, 5, 4)))
        before = Counter(traffic)
        parts = [[(0, 1.0), (1, 0.5)], [(2, 1.0)]]

        def predict(x: Tensor, sigma: Tensor, cond: Any, rows: list[int]) -> Tensor:
            return x * sigma.view(-1, 1, 1, 1) + cond.mean((1, 2)).view(-1, 1, 1, 1)

        guided(predict, x, sigma, parts, cond, uncond, 7.0, skip_uncond=skip_uncond, together=together)
        assert traffic == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("eta", [0.0, 0.2])
def test_a_gpu_waits_for_nothing_from_the_first_evaluation_on(eta: float) -> None:
    """torch itself ends the run where anything waits for the device."""
    own = analytic(1)

    def model(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        torch.cuda.set_sync_debug_mode("error")
        return own(x, sigma)

    def sample(model: Callable[..., Tensor], x: Tensor, sigmas: Tensor) -> Tensor:
        """Euler's steps without a look at any number."""
        for sigma, sigma_next in pairwise(sigmas):
            x = x + (x - model(x, sigma * x.new_ones(len(x)))) / sigma * (sigma_next - sigma)
        return x

    co_runs = [CoRun(analytic(2), 0.5, eta, on_nan=lambda: None), CoRun(analytic(3), 0.3, eta, gamma_end=0.1)]
    sigmas = k_diffusion.sampling.get_sigmas_karras(STEPS, 0.03, 14.6)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * sigmas[0]
    mixing = amdm(sample, co_runs, steps=3, eta=eta, evaluations=2)
    wanted = mixing(own, x, sigmas)
    try:
        found = mixing(model, x.cuda(), sigmas.cuda())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (found.cpu() - wanted).abs().max() < 1e-4
