"""AMDM around pipelines of diffusers: what must hold exactly holds for each family and scheduler."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import diffusers
import tiny_pipelines
import torch
from PIL import Image
from torch import Tensor
from webui.card import present

from lib_amdm.core.co_model import private_seeds
from lib_amdm.errors import AmdmError
from lib_amdm.hosts.diffusers import CoPipeline, amdm_pipeline
from lib_amdm.hosts.diffusers.latents import unpacked
from lib_amdm.hosts.diffusers.pipelines import _OneStep
from lib_amdm.hosts.diffusers.schedules import levels_of
from lib_amdm.settings import SettingsError

STEPS = 4
HEIGHT, WIDTH = 32, 16
SD1, SDXL, FLUX, Z_IMAGE, QWEN = tiny_pipelines.MADE
ARGUMENTS: dict[str, dict[str, Any]] = {QWEN: {"true_cfg_scale": 3.0}, FLUX: {"true_cfg_scale": 2.0}}
"""The arguments without which a kind of pipeline ignores the negative prompt."""


class Pair:
    """Two pipelines of a kind with different weights, and their pictures."""

    def __init__(self, kind: str, dtype: torch.dtype = torch.float32) -> None:
        if not hasattr(diffusers, kind):
            pytest.skip(f"diffusers {diffusers.__version__} has no {kind}")
        self.main, self.other = (tiny_pipelines.made(kind, seed, dtype) for seed in (1, 2))
        self.own, self.further = self.main.scheduler, ARGUMENTS.get(kind, {})
        self.alone: dict[Any, tuple[Tensor, Tensor]] = {}

    def scheduled(self, name: str, **config: Any) -> Pair:
        """The same pair with schedulers of a class."""
        self.scheduler = name, *config.items()
        for pipe in (self.main, self.other):
            pipe.scheduler = getattr(diffusers, name).from_config(self.own.config, **config)
        return self

    def draw(self, pipe: Callable[..., Any], prompt: Any = "a cat", seed: int = 3, **further: Any) -> Tensor:
        """Latents, from the noise of a seed."""
        call = {
            "negative_prompt": ["a dog"] * len(prompt) if isinstance(prompt, list) else "a dog",
            "num_inference_steps": STEPS,
            "height": HEIGHT,
            "width": WIDTH,
            "output_type": "latent",
            "generator": torch.Generator().manual_seed(seed),
        }
        # not every pipeline hands its generator on to the scheduler
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return pipe(prompt, **{**call, **self.further, **further}).images

    def each_alone(self) -> tuple[Tensor, Tensor]:
        """The picture of each pipeline."""
        if self.scheduler not in self.alone:
            self.alone[self.scheduler] = self.draw(self.main), self.draw(self.other)
        return self.alone[self.scheduler]

    def together(self, *co_models: CoPipeline, **mixing: Any) -> Callable[..., Any]:
        return amdm_pipeline(self.main, co_models, **mixing)


@pytest.fixture(scope="module")
def pairs() -> Callable[[str], Pair]:
    return functools.cache(Pair)


@pytest.fixture
def sd1(pairs: Callable[[str], Pair]) -> Pair:
    return pairs(SD1).scheduled("EulerDiscreteScheduler")


@pytest.fixture
def flux(pairs: Callable[[str], Pair]) -> Pair:
    return pairs(FLUX).scheduled("FlowMatchEulerDiscreteScheduler")


def far(a: Tensor, b: Tensor) -> float:
    """The largest difference, in units of the second's size."""
    return float((a - b).abs().max() / b.abs().max())


TERMINAL = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 2.0}
DPM, UNIPC, FLOW_EULER = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler"
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "SD1, DDIM": (SD1, "DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "SD1, DDIM, v, from nothing but noise": (SD1, "DDIMScheduler", {"clip_sample": False, **TERMINAL}),
    "SD1, Euler": (SD1, "EulerDiscreteScheduler", {}),
    "SD1, Euler, v": (
        SD1,
        "EulerDiscreteScheduler",
        {"prediction_type": "v_prediction", "timestep_spacing": "leading"},
    ),
    "SD1, Euler, Karras": (SD1, "EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "SD1, Euler a": (SD1, "EulerAncestralDiscreteScheduler", {}),
    "SD1, DPM++ 2M": (SD1, DPM, {"use_karras_sigmas": True}),
    "SD1, DPM++ 2M, v": (SD1, DPM, {"prediction_type": "v_prediction"}),
    "SD1, DPM++ 2M SDE": (SD1, DPM, {"algorithm_type": "sde-dpmsolver++"}),
    "SD1, UniPC": (SD1, UNIPC, {}),
    "SD1, UniPC, x0": (SD1, UNIPC, {"prediction_type": "sample"}),
    "SD1, LMS": (SD1, "LMSDiscreteScheduler", {}),
    "SD1, DEIS": (SD1, "DEISMultistepScheduler", {}),
    "SDXL, Euler": (SDXL, "EulerDiscreteScheduler", {}),
    "Flux, Euler": (FLUX, FLOW_EULER, {}),
    "Flux, DPM++ 2M": (FLUX, DPM, {**FLOW, "use_dynamic_shifting": True}),
    "Flux, UniPC": (FLUX, UNIPC, {**FLOW, "use_dynamic_shifting": True}),
    "Z-Image, Euler": (Z_IMAGE, FLOW_EULER, {}),
    "Z-Image, Euler, stochastic": (Z_IMAGE, FLOW_EULER, {"stochastic_sampling": True}),
    "Qwen-Image, Euler": (QWEN, FLOW_EULER, {}),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def pair(request: pytest.FixtureRequest, pairs: Callable[[str], Pair]) -> Pair:
    kind, scheduler, config = request.param
    return pairs(kind).scheduled(scheduler, **config)


def test_a_co_model_that_is_the_main_one_changes_nothing(pair: Pair) -> None:
    both = pair.together(CoPipeline(pair.main, gamma=0.7), evaluations=2)
    assert far(pair.draw(both), pair.each_alone()[0]) < 1e-4


def test_gamma_1_in_all_steps_is_the_co_models_own_picture(pair: Pair) -> None:
    both = pair.together(CoPipeline(pair.other, gamma=1), steps=STEPS, evaluations=0)
    main, other = pair.each_alone()
    assert far(pair.draw(both), other) < 1e-4
    assert far(main, other) > 1e-2


def test_without_a_share_the_picture_is_the_same_byte_for_byte(pair: Pair) -> None:
    assert torch.equal(pair.draw(pair.together(CoPipeline(pair.other, gamma=0))), pair.each_alone()[0])
    assert not {"step", "add_noise", "scale_noise"} & set(vars(pair.main.scheduler))


class Calls:
    """The number of calls of a network."""

    def __init__(self, pipe: Any) -> None:
        self.network = getattr(pipe, "unet", None) or pipe.transformer
        self.count = 0

    def __enter__(self) -> Calls:
        self.hook = self.network.register_forward_hook(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()

    def _count(self, *_: object) -> None:
        self.count += 1


@pytest.mark.parametrize(("evaluations", "count"), [(1, 1), (2, 2), (0, 3)])
def test_a_co_model_is_evaluated_as_often_as_ordered_and_its_texts_are_encoded_once(
    sd1: Pair, evaluations: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, encode = list[Any](), sd1.other.encode_prompt

    def counted(*args: Any, **named: Any) -> Any:
        encoded.append(args)
        return encode(*args, **named)

    monkeypatch.setattr(sd1.other, "encode_prompt", counted)
    with Calls(sd1.main) as main, Calls(sd1.other) as other:
        sd1.draw(sd1.together(CoPipeline(sd1.other), steps=3, evaluations=evaluations))
    assert (main.count, other.count, len(encoded)) == (STEPS, count, 1)


@pytest.mark.parametrize(
    ("scheduler", "count"), [("EulerDiscreteScheduler", 4), ("EulerAncestralDiscreteScheduler", 7)]
)
def test_by_default_a_co_model_is_evaluated_more_often_where_noise_is_added(
    pairs: Callable[[str], Pair], scheduler: str, count: int
) -> None:
    sd1 = pairs(SD1).scheduled(scheduler)
    with Calls(sd1.main) as main, Calls(sd1.other) as other:
        sd1.draw(sd1.together(CoPipeline(sd1.other)), num_inference_steps=12)
    assert (main.count, other.count) == (12, count)


def test_the_way_a_ddim_scheduler_is_called_says_whether_it_adds_noise(pairs: Callable[[str], Pair]) -> None:
    sd1 = pairs(SD1).scheduled("DDIMScheduler", clip_sample=False)
    with Calls(sd1.other) as other:
        sd1.draw(sd1.together(CoPipeline(sd1.other)), num_inference_steps=12, eta=1.0)
    assert other.count == 7


@pytest.mark.parametrize("kind", [SD1, FLUX])
def test_the_main_pipeline_is_its_own_co_model_with_another_prompt_and_guidance(
    kind: str, pairs: Callable[[str], Pair]
) -> None:
    pair = pairs(kind)
    pair.main.scheduler = pair.own
    twin = tiny_pipelines.made(kind, 1)
    drawn = [
        pair.draw(pair.together(CoPipeline(pipe, "a bird", negative_prompt="a stone", guidance_scale=2.0)))
        for pipe in (pair.main, twin)
    ]
    assert torch.equal(*drawn)
    assert far(drawn[0], pair.draw(pair.main)) > 1e-3


@pytest.mark.parametrize(
    ("kind", "scale"), [(SD1, "guidance_scale"), (Z_IMAGE, "guidance_scale"), (QWEN, "true_cfg_scale")]
)
def test_a_co_model_may_have_other_guidance_than_the_main_one(
    kind: str, scale: str, pairs: Callable[[str], Pair]
) -> None:
    pair = pairs(kind)
    for pipe in (pair.main, pair.other):
        pipe.scheduler = pair.own
    own: dict[str, Any] = {scale: 1.5}
    both = pair.together(
        CoPipeline(pair.other, "a bird", negative_prompt="a bee", gamma=1, **own), steps=STEPS, evaluations=0
    )
    other = pair.draw(pair.other, "a bird", negative_prompt="a bee", **own)
    assert far(pair.draw(both), other) < 1e-4


@pytest.mark.parametrize("of_slot", [True, False])
@pytest.mark.parametrize(("scale", "counts_alone"), [(3.9, False), (4.0, True)])
def test_with_strong_guidance_the_last_prediction_counts_whatever_the_main_model_makes_of_it(
    sd1: Pair, scale: float, counts_alone: bool, of_slot: bool
) -> None:
    """The guidance scale is the co-model's, or the main call's. Both runs begin at one level."""
    slot_scale, main_scale = (scale, 9.0 - scale) if of_slot else (None, scale)
    co_model = CoPipeline(sd1.other, gamma=1, noise="estimate", guidance_scale=slot_scale)
    few, more = (
        sd1.draw(
            sd1.together(co_model, steps=steps, evaluations=1), num_inference_steps=steps, guidance_scale=main_scale
        )
        for steps in (STEPS, STEPS + 2)
    )
    assert (far(few, more) < 1e-4) is counts_alone


@pytest.mark.parametrize("kind", [SD1, SDXL, FLUX, Z_IMAGE, QWEN])
def test_a_batch_is_its_pictures_one_by_one(kind: str, pairs: Callable[[str], Pair]) -> None:
    pair = pairs(kind)
    pair.main.scheduler = pair.own
    seeds = [5, 6, 7, 8]
    co_model = CoPipeline(pair.other, ["a bird", "a bell"], noise="independent")
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    batch = pair.draw(
        pair.together(co_model),
        ["a cat", "a cup"],
        generator=generators,
        num_images_per_prompt=2,
        num_inference_steps=2,
    )
    for number, (seed, texts) in enumerate(zip(seeds, [("a cat", "a bird")] * 2 + [("a cup", "a bell")] * 2)):
        single = pair.together(CoPipeline(pair.other, texts[1], noise="independent"))
        alone = pair.draw(single, texts[0], generator=[torch.Generator().manual_seed(seed)], num_inference_steps=2)
        assert far(batch[number : number + 1], alone) < 1e-4


def test_independent_noise_is_from_the_generators_seed_and_takes_nothing_from_it(sd1: Pair) -> None:
    both = sd1.together(CoPipeline(sd1.other, noise="independent"))
    first, again, plain = (torch.Generator().manual_seed(seed) for seed in (3, 3, 3))
    state = torch.random.get_rng_state()
    drawn = sd1.draw(both, generator=first)
    assert torch.equal(sd1.draw(both, generator=again), drawn)
    assert far(sd1.draw(sd1.together(CoPipeline(sd1.other))), drawn) > 1e-2
    sd1.draw(sd1.main, generator=plain)
    assert torch.equal(first.get_state(), plain.get_state())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("kind", [SD1, SDXL, FLUX, Z_IMAGE, QWEN])
def test_a_region_is_where_the_co_model_acts(kind: str, pairs: Callable[[str], Pair]) -> None:
    """One step shows it: in the next one the network itself spreads what changed."""
    pair = pairs(kind)
    pair.main.scheduler = pair.own
    both = pair.together(CoPipeline(pair.other, region="0 0 1 0.25\n0 0.25 0.5 0.5"), steps=1)
    drawn, alone = (pair.draw(pipe, num_inference_steps=1) for pipe in (both, pair.main))
    if drawn.ndim == 3:
        drawn, alone = (pair.main._unpack_latents(latents, HEIGHT, WIDTH, 2).squeeze(2) for latents in (drawn, alone))
    changed = (drawn - alone).abs().amax((0, 1)) > 1e-6
    expected = torch.zeros(16, 8, dtype=torch.bool)
    expected[:4] = expected[4:8, :4] = True
    assert torch.equal(changed, expected)


def test_a_mask_is_a_region(sd1: Pair) -> None:
    mask = Image.new("L", (WIDTH, HEIGHT), 0)
    mask.paste(255, (0, 0, WIDTH, HEIGHT // 2))
    drawn = [
        sd1.draw(sd1.together(CoPipeline(sd1.other, **region))) for region in ({"mask": mask}, {"region": "0 0 1 0.5"})
    ]
    assert far(*drawn) < 1e-6


PICTURE = Image.effect_noise((WIDTH, HEIGHT), 90).convert("RGB")


@pytest.mark.parametrize("kind", [SD1, SDXL, FLUX, Z_IMAGE, QWEN])
def test_img2img_with_co_models_from_text(kind: str, pairs: Callable[[str], Pair]) -> None:
    pair = pairs(kind)
    pair.main.scheduler = pair.other.scheduler = pair.own
    main = diffusers.AutoPipelineForImage2Image.from_pipe(pair.main)
    other = diffusers.AutoPipelineForImage2Image.from_pipe(pair.other, vae=pair.main.vae)
    main.set_progress_bar_config(disable=True)
    other.set_progress_bar_config(disable=True)

    def drawn(pipe: Callable[..., Any], strength: float = 0.5) -> Tensor:
        return pair.draw(functools.partial(pipe, image=PICTURE, strength=strength))

    alone, of_other = drawn(main), drawn(other)
    assert far(drawn(amdm_pipeline(main, [CoPipeline(pair.main)], steps=2)), alone) < 1e-4
    assert far(drawn(amdm_pipeline(main, [CoPipeline(pair.other, gamma=1)], steps=2, evaluations=0)), of_other) < 1e-4


@pytest.mark.parametrize("kind", [SD1, FLUX, Z_IMAGE, QWEN])
def test_independent_noise_of_img2img_is_on_the_same_picture(
    kind: str, pairs: Callable[[str], Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, cleans, shown = pairs(kind), list[Tensor](), list[Tensor]()
    pair.main.scheduler = pair.own
    main = diffusers.AutoPipelineForImage2Image.from_pipe(pair.main)
    noised = "scale_noise" if hasattr(pair.own, "scale_noise") else "add_noise"
    noise, step = getattr(pair.own, noised), _OneStep.step

    def noising(clean: Tensor, *further: Any) -> Tensor:
        cleans.append(clean)
        return noise(clean, *further)

    def stepping(self: _OneStep, output: Tensor, timestep: Any, sample: Tensor, **named: Any) -> tuple[Tensor]:
        shown.append(sample)
        return step(self, output, timestep, sample, **named)

    # its user may have replaced a function of the scheduler
    monkeypatch.setattr(pair.own, noised, noising)
    monkeypatch.setattr(_OneStep, "step", stepping)
    both = amdm_pipeline(main, [CoPipeline(pair.main, gamma=1, noise="independent")], steps=1)
    pair.draw(functools.partial(both, image=PICTURE, strength=0.5))
    level = levels_of(pair.own)[STEPS - STEPS // 2]
    own = torch.randn(4, HEIGHT // 2, WIDTH // 2, generator=torch.Generator().manual_seed(private_seeds([3], 1)[0]))
    expected = (level.alpha * cleans[0].flatten() + level.sigma * own.flatten()).reshape(1, 4, HEIGHT // 2, WIDTH // 2)
    if shown[0].ndim == 3:
        expected = main._pack_latents(expected, 1, 4, HEIGHT // 2, WIDTH // 2)
    else:
        expected = expected / (level.scale if level.alpha == 1 else 1)
    assert far(shown[0], expected) < 1e-5


@pytest.mark.parametrize("kind", [SD1, FLUX])
def test_inpainting_with_co_models_from_text(kind: str, pairs: Callable[[str], Pair]) -> None:
    pair = pairs(kind)
    pair.main.scheduler = pair.own
    main = diffusers.AutoPipelineForInpainting.from_pipe(pair.main)
    main.set_progress_bar_config(disable=True)
    mask = Image.new("L", PICTURE.size, 0)
    mask.paste(255, (0, 0, WIDTH, HEIGHT // 2))

    def drawn(pipe: Callable[..., Any]) -> Tensor:
        latents = pair.draw(functools.partial(pipe, image=PICTURE, mask_image=mask, strength=0.99))
        return main._unpack_latents(latents, HEIGHT, WIDTH, 2) if latents.ndim == 3 else latents

    alone, both = drawn(main), drawn(amdm_pipeline(main, [CoPipeline(pair.other)]))
    assert far(drawn(amdm_pipeline(main, [CoPipeline(pair.main)])), alone) < 1e-4
    assert torch.equal(both[..., 8:, :], alone[..., 8:, :])
    assert far(both, alone) > 1e-2


def test_a_co_model_with_a_control_net(sd1: Pair) -> None:
    net = tiny_pipelines.lively(
        diffusers.ControlNetModel.from_unet(sd1.other.unet, conditioning_embedding_out_channels=(8, 8))
    )
    controlled = diffusers.StableDiffusionControlNetPipeline(
        **sd1.other.components, controlnet=net, requires_safety_checker=False
    )
    controlled.set_progress_bar_config(disable=True)
    both = sd1.together(CoPipeline(controlled, gamma=1, image=PICTURE), steps=STEPS, evaluations=0)
    alone = sd1.draw(functools.partial(controlled, image=PICTURE))
    assert far(sd1.draw(both), alone) < 1e-4
    assert far(alone, sd1.each_alone()[1]) > 1e-2


@pytest.mark.parametrize(
    ("scheduler", "config"),
    [("EulerDiscreteScheduler", {}), ("DDIMScheduler", {"clip_sample": False, **TERMINAL}), (DPM, FLOW)],
    ids=["eps", "from nothing but noise", "flow"],
)
def test_a_co_model_of_another_training_gets_the_same_share_of_noise_at_its_own_timestep(
    pairs: Callable[[str], Pair], scheduler: str, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no more noise than it was trained on."""
    sd1 = pairs(SD1).scheduled(scheduler, **config)
    sd1.other.scheduler = diffusers.DDIMScheduler(beta_schedule="linear", beta_end=0.015)
    shown, step = list[tuple[Any, Tensor]](), _OneStep.step

    def stepping(self: _OneStep, output: Tensor, timestep: Any, sample: Tensor, **named: Any) -> tuple[Tensor]:
        shown.append((timestep, sample))
        return step(self, output, timestep, sample, **named)

    monkeypatch.setattr(_OneStep, "step", stepping)
    latents = torch.randn(1, 4, HEIGHT // 2, WIDTH // 2, generator=torch.Generator().manual_seed(3))
    sd1.draw(sd1.together(CoPipeline(sd1.other), steps=STEPS, evaluations=0), latents=latents)
    levels, shares = levels_of(sd1.main.scheduler), sd1.other.scheduler.alphas_cumprod
    ratios = ((1 - shares) / shares).sqrt()
    for (timestep, _), level in zip(shown, levels):
        below, above = ratios[int(timestep)], ratios[min(int(timestep) + 1, 999)]
        assert 0.999 * float(below) <= min(level.ratio, float(ratios[-1])) <= 1.001 * float(above)
    # nothing but noise at the first step, to the rounding of a schedule that ends elsewhere
    assert far(shown[0][1], latents * levels[0].sigma / levels[0].scale) < 0.01


def test_a_co_model_may_have_its_latents_packed_and_the_main_one_not(pairs: Callable[[str], Pair]) -> None:
    flux, z_image = pairs(FLUX), pairs(Z_IMAGE)
    for pipe in (flux.main, z_image.other):
        pipe.scheduler = flux.own
    noise = torch.randn(1, 4, HEIGHT // 2, WIDTH // 2, generator=torch.Generator().manual_seed(3))
    packed = flux.main._pack_latents(noise, 1, 4, HEIGHT // 2, WIDTH // 2)
    co_model = CoPipeline(z_image.other, gamma=1, guidance_scale=5.0)
    for main, latents, of_main in ((flux, packed, True), (z_image, noise, False)):
        other = CoPipeline(flux.other, gamma=1, guidance_scale=3.5) if not of_main else co_model
        pipe = amdm_pipeline(main.main, [other], steps=STEPS, evaluations=0)
        drawn = main.draw(pipe, latents=latents)
        if of_main:
            alone = z_image.draw(z_image.other, latents=noise)
            alone = flux.main._pack_latents(alone, 1, 4, HEIGHT // 2, WIDTH // 2)
            assert far(drawn, alone) < 1e-4
        assert drawn.isfinite().all()


def test_callbacks_see_every_step_and_may_end_the_picture(sd1: Pair) -> None:
    steps = []

    def seen(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append((step, tensors["latents"].shape))
        pipe._interrupt = step == 1
        return tensors

    with Calls(sd1.main) as main:
        sd1.draw(sd1.together(CoPipeline(sd1.other), steps=3), callback_on_step_end=seen)
    assert [step for step, _ in steps] == [0, 1]
    assert main.count == 2


def test_an_error_leaves_the_pipeline_as_it_was(sd1: Pair) -> None:
    def fail(*_: Any) -> dict[str, Any]:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        sd1.draw(sd1.together(CoPipeline(sd1.other)), callback_on_step_end=fail)
    assert torch.equal(sd1.draw(sd1.main), sd1.each_alone()[0])
    assert torch.equal(sd1.draw(sd1.other), sd1.each_alone()[1])


@pytest.mark.parametrize("kind", [SD1, FLUX, Z_IMAGE])
def test_models_in_half_the_precision(kind: str) -> None:
    pair = Pair(kind, torch.bfloat16)
    alone = pair.draw(pair.main)
    same = pair.draw(pair.together(CoPipeline(pair.main)))
    assert same.dtype == alone.dtype
    assert far(same, alone) < 0.02
    both = pair.together(CoPipeline(pair.other, gamma=1), steps=STEPS, evaluations=0)
    assert far(pair.draw(both), pair.draw(pair.other)) < 0.05


@pytest.mark.parametrize("kind", [SD1, QWEN])
def test_weights_that_accelerate_keeps_elsewhere(kind: str) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    pair = Pair(kind)
    at_hand = pair.draw(pair.together(CoPipeline(pair.other), steps=2))
    for pipe in (pair.main, pair.other):
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                accelerate.cpu_offload(part, torch.device("cpu"))
    assert {parameter.device.type for parameter in pair.other.text_encoder.parameters()} == {"meta"}
    assert torch.equal(pair.draw(pair.together(CoPipeline(pair.other), steps=2)), at_hand)


@pytest.fixture
def card() -> Iterator[None]:
    with present(total=1 << 30):
        yield


@pytest.mark.parametrize("offloads", [False, True], ids=["all on it", "offloaded"])
@pytest.mark.parametrize("kind", [SD1, FLUX, QWEN])
def test_behind_a_rehearsed_card(kind: str, offloads: bool, pairs: Callable[[str], Pair], card: None) -> None:
    if offloads:
        pytest.importorskip("accelerate", reason="accelerate is not installed")
    pair = pairs(kind)
    pair.main.scheduler = pair.other.scheduler = pair.own
    both = pair.together(CoPipeline(pair.other, "a bird", region="0 0 0.5 1", noise="independent"))
    at_hand = pair.draw(both)
    for pipe in (pair.main, pair.other):
        pipe.enable_model_cpu_offload(device="cuda") if offloads else pipe.to("cuda")
    drawn = pair.draw(both)
    assert drawn.device.type == "cuda"
    assert torch.equal(drawn.cpu(), at_hand)
    weights = Calls(pair.other).network.parameters()
    assert {weight.device.type for weight in weights} == {"cpu" if offloads else "cuda"}
    for pipe in (pair.main, pair.other):
        pipe.remove_all_hooks()
        pipe.to("cpu")


def test_the_function_has_the_signature_of_the_pipeline(sd1: Pair) -> None:
    both = sd1.together(CoPipeline(sd1.other))
    assert inspect.signature(both) == inspect.signature(sd1.main.__call__)


def sentence(error: pytest.ExceptionInfo[AmdmError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("AMDM")
    assert text.endswith(".")
    return text


@pytest.mark.parametrize("scheduler", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "PNDMScheduler"])
def test_a_scheduler_that_evaluates_twice_in_a_step_is_refused(sd1: Pair, scheduler: str) -> None:
    sd1.main.scheduler = getattr(diffusers, scheduler).from_config(sd1.own.config)
    with pytest.raises(AmdmError) as error:
        sd1.draw(sd1.together(CoPipeline(sd1.other)))
    assert f"cannot follow {scheduler}; set the pipeline's scheduler to one of DDIMScheduler" in sentence(error)


def test_a_pipeline_with_other_latents_is_refused(pairs: Callable[[str], Pair]) -> None:
    for main, other in ((SD1, SDXL), (FLUX, QWEN), (SDXL, FLUX)):
        with pytest.raises(AmdmError) as error:
            pairs(main).together(CoPipeline(pairs(main).other), CoPipeline(pairs(other).other))
        assert f"co-model 2: {other} has other latents than the main {main}" in sentence(error)


def test_a_pipeline_that_draws_from_pictures_is_refused_as_a_co_model(sd1: Pair) -> None:
    img2img = diffusers.AutoPipelineForImage2Image.from_pipe(sd1.other)
    inpainting = diffusers.StableDiffusionPipeline(
        **{**sd1.other.components, "unet": tiny_pipelines.unet(tiny_pipelines.WIDTH, in_channels=9)},
        requires_safety_checker=False,
    )
    for pipe in (img2img, inpainting):
        with pytest.raises(AmdmError) as error:
            sd1.together(CoPipeline(pipe))
        assert "does not draw from text alone" in sentence(error)


def test_a_pipeline_without_latents_is_refused(sd1: Pair) -> None:
    with pytest.raises(AmdmError) as error:
        amdm_pipeline(diffusers.DDIMPipeline(sd1.main.unet, sd1.own), [CoPipeline(sd1.other)])
    assert "cannot follow DDIMPipeline" in sentence(error)


def test_packed_latents_of_another_size_than_the_pictures_are_refused(flux: Pair) -> None:
    assert unpacked(flux.main, torch.zeros(1, 32, 16), HEIGHT, WIDTH).shape == (1, 4, 16, 8)
    with pytest.raises(AmdmError) as error:
        unpacked(flux.main, torch.zeros(1, 31, 16), HEIGHT, WIDTH)
    assert "31 places, but not in a picture of 16x32 pixels" in sentence(error)


def test_texts_that_do_not_fit_are_refused(sd1: Pair) -> None:
    with pytest.raises(AmdmError) as error:
        sd1.draw(sd1.together(CoPipeline(sd1.other, ["a bird", "a bee"])))
    assert "needs a prompt for each of the main call's 1, or one for all" in sentence(error)
    embedded = sd1.main.encode_prompt("a cat", "cpu", 1, False)[0]
    call = {"prompt_embeds": embedded, "negative_prompt_embeds": embedded, "negative_prompt": None}
    with pytest.raises(AmdmError) as error:
        sd1.draw(sd1.together(CoPipeline(sd1.other)), None, **call)
    assert "has no prompt" in sentence(error)
    for name in ("guidance", "num_inference_steps"):
        with pytest.raises(AmdmError) as error:
            sd1.together(CoPipeline(sd1.other, **{name: 3}))
        assert f"can do nothing with the argument {name}" in sentence(error)


def test_encoded_texts_may_be_given_instead(sd1: Pair) -> None:
    texts = zip(("prompt_embeds", "negative_prompt_embeds"), sd1.other.encode_prompt("a bee", "cpu", 1, True, "a bird"))
    encoded = CoPipeline(sd1.other, **dict(texts))
    drawn = sd1.draw(sd1.together(encoded))
    assert far(drawn, sd1.draw(sd1.together(CoPipeline(sd1.other, "a bee", negative_prompt="a bird")))) < 1e-6


def test_settings_out_of_range_are_refused(sd1: Pair) -> None:
    with pytest.raises(SettingsError, match="gamma of the co-model StableDiffusionPipeline"):
        CoPipeline(sd1.other, gamma=2)
    with pytest.raises(ValueError, match="eta of co_models"):
        sd1.draw(sd1.together(CoPipeline(sd1.other, eta=3)))


def test_nan_is_an_error(sd1: Pair) -> None:
    broken = tiny_pipelines.made(SD1, 2)
    broken.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(AmdmError) as error:
        sd1.draw(sd1.together(CoPipeline(broken)))
    assert "co-model 1: StableDiffusionPipeline gave NaN" in sentence(error)
