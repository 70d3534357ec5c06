"""The standalone host: files become the right networks, what must hold exactly holds, and refusals are in words."""
# mypy: disable-error-code="operator, union-attr, index, misc, arg-type"
# what a loaded model is made of is, to mypy, a tensor or a module

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from amdm_lab.studio import checkpoint_file, prompts, sampling
from amdm_lab.studio.checkpoint_file import CheckpointFile
from amdm_lab.studio.host import Interrupted, Job, Result, Standalone, noise, sampler_names
from amdm_lab.studio.tokenizer import read_tokenizer, write_tokenizer
from amdm_lab.training import ldm_format, networks
from lib_amdm import CoRun, amdm
from lib_amdm.errors import AmdmError
from lib_amdm.files.pictures import as_text
from lib_amdm.settings import Settings

# torchsde says so of the outermost level's rounding, with k-diffusion's samplers alone as well
pytestmark = pytest.mark.filterwarnings("ignore:Should have t")

STEPS, K = 6, 3
SMALL = {"width": 32, "height": 32}
"""Parameters of tests that hold one property for each sampler, or each file."""
SCALE = 0.3
MEMORYLESS = ("euler", "euler_ancestral", "heun", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde")
UNET_KEY, VAE_KEY = checkpoint_file.UNET, checkpoint_file.VAE
TEXT_KEY = ldm_format.TEXT_PREFIX
LONG = ", ".join(f"a red thing number {number} on the left" for number in range(12))


@pytest.fixture(scope="module")
def made() -> dict[str, SimpleNamespace]:
    """Random networks at the precision that they are written in, by the checkpoint's name; they share the VAE."""
    torch.manual_seed(0)
    vae = _written(networks.new_vae())
    return {
        name: SimpleNamespace(unet=_lively(networks.new_unet()), vae=vae, text=_written(networks.new_text_encoder()))
        for name in ("alpha", "beta")
    }


def _written(network: nn.Module) -> nn.Module:
    return network.half().float().eval().requires_grad_(False)


def _lively(unet: nn.Module) -> nn.Module:
    """A random UNet hardly answers to its latent and its text; this one does, so that differences show."""
    with torch.no_grad():
        unet.conv_out.weight *= 4
        for name, parameter in unet.named_parameters():
            if ".attn2." in name and name.endswith("weight"):
                parameter *= 3
    return _written(unet)


@pytest.fixture(scope="module")
def folder(made: dict[str, SimpleNamespace], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two checkpoints, "alpha" also as a v-prediction model; do not write into it."""
    folder = tmp_path_factory.mktemp("models")
    for name, parts in made.items():
        file = folder / f"{name}.safetensors"
        ldm_format.write_checkpoint(file, parts.unet, parts.vae, parts.text, SCALE, "clip")
    (folder / "clip").mkdir()
    (folder / "clip" / "config.json").write_text(networks.text_config().to_json_string())
    _copied(folder / "alpha.safetensors", folder / "v.safetensors", params={"parameterization": "v"})
    return folder


def _copied(source: Path, target: Path, drop: str = "", params: dict[str, Any] | None = None, **tensors: Any) -> Path:
    """A checkpoint with changes: without the tensors named `drop`..., with other tensors, or another yaml."""
    weights = {key: value for key, value in load_file(source).items() if not drop or not key.startswith(drop)}
    save_file({**weights, **tensors.get("add", {})}, target)
    told = yaml.safe_load(source.with_suffix(".yaml").read_text())
    told["model"]["params"].update(params or {})
    told["model"]["params"]["cond_stage_config"]["params"]["version"] = str(source.parent / "clip")
    target.with_suffix(".yaml").write_text(yaml.safe_dump(told))
    return target


@pytest.fixture(scope="module")
def host(folder: Path) -> Standalone:
    return Standalone(folder)


def job(**changed: Any) -> Job:
    standard = Job(
        "alpha", ["a red cross", "a blue thing"], [11, 12], "bad", steps=STEPS, cfg_scale=3, width=64, height=64
    )
    return replace(standard, **changed)


def settings(*slots: dict[str, Any], **main: Any) -> Settings:
    co_models = [{"checkpoint": "beta", **slot} for slot in slots or ({},)]
    return Settings.from_dict({"enabled": True, "steps": K, **main, "co_models": co_models})


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def same_but_rounding(a: Tensor, b: Tensor) -> None:
    """For runs that add up in another order; these networks' latents reach 40, so the bound goes with their size."""
    close(a, b, 2e-5 * max(1.0, b.abs().max().item()))


def equal(a: Result, b: Result) -> None:
    assert torch.equal(a.latents, b.latents)
    assert (a.pictures == b.pictures).all()


# files


def test_a_written_network_is_read_as_itself(host: Standalone, made: dict[str, SimpleNamespace]) -> None:
    torch.manual_seed(3)
    x, t, picture = torch.randn(2, 4, 8, 8), torch.tensor([3.0, 700.5]), torch.rand(1, 3, 64, 64)
    tokens = torch.randint(0, 49407, (2, 77))
    for name, parts in made.items():
        model, autoencoder = host.load(name).model, host.autoencoder(name)
        text = parts.text(tokens).last_hidden_state
        close(model.text_encoder(tokens).last_hidden_state, text, 1e-6)
        close(model.unet(x, t, text).sample, parts.unet(x, t, text).sample, 1e-6)
        mean = parts.vae.encode(picture * 2 - 1).latent_dist.mean * SCALE
        close(autoencoder.encode(picture), mean, 1e-6)
        close(autoencoder.decode(x), (parts.vae.decode(x / SCALE).sample / 2 + 0.5).clamp(0, 1), 1e-6)
        assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def test_the_networks_answer_to_what_they_are_told(host: Standalone) -> None:
    """The other tests compare runs: this says that different models, texts and latents give different ones."""
    alone = host.generate(job()).latents
    for changed in ({"checkpoint": "beta"}, {"prompts": ["x", "y"]}, {"negative_prompts": ""}, {"seeds": [1, 2]}):
        assert (host.generate(job(**changed)).latents - alone).abs().max() > 0.05


def test_a_full_size_file_is_stable_diffusion_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The counts are of ldm's own classes; a file without a yaml is taken for SD1."""
    weights = _full_size()
    counts = [sum(name.startswith(prefix) for name in weights) for prefix in (UNET_KEY, VAE_KEY, TEXT_KEY)]
    assert counts == [686, 248, 197]
    read = {}

    def from_memory(file: CheckpointFile, prefix: str) -> tuple[dict[str, tuple[int, ...]], dict[str, Tensor]]:
        read[prefix] = {name: value for name, value in weights.items() if name.startswith(prefix)}
        return {name: tuple(value.shape) for name, value in weights.items()}, read[prefix]

    monkeypatch.setattr(CheckpointFile, "_read", from_memory)
    file = CheckpointFile(tmp_path / "full.safetensors", "full")
    autoencoder, scale = file.autoencoder(torch.float16)
    found = [file.unet(torch.float16), autoencoder, file.text_encoder(torch.float16)]
    assert [sum(p.numel() for p in network.parameters()) for network in found] == [859520964, 83653863, 123060480]
    assert [len(network.state_dict()) for network in found] == [686, 248, 196]
    assert {p.dtype for network in found for p in network.parameters()} == {torch.float16}
    assert scale == 0.18215
    unet = found[0].config
    assert (unet.attention_head_dim, unet.cross_attention_dim, unet.use_linear_projection) == (8, 768, False)
    shape = weights[f"{UNET_KEY}output_blocks.3.1.transformer_blocks.0.attn2.to_k.weight"].shape
    assert found[0].up_blocks[1].attentions[0].transformer_blocks[0].attn2.to_k.weight.shape == shape == (1280, 768)


def _full_size() -> dict[str, Tensor]:
    """SD1.5's tensors without their numbers, and some of what its files carry beside them."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
        text = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        )
        extra = {f"{TEXT_KEY}embeddings.position_ids": torch.empty(1, 77), "model_ema.decay": torch.empty(())}
    parts = (ldm_format.unet_weights(unet), ldm_format.vae_weights(vae), ldm_format.text_weights(text))
    return {key: value for part in (*parts, extra) for key, value in part.items()}


def test_a_pickle_of_weights_is_read_as_the_safetensors_file(folder: Path, tmp_path: Path, host: Standalone) -> None:
    weights = load_file(_copied(folder / "alpha.safetensors", tmp_path / "alpha.safetensors"))
    (tmp_path / "alpha.safetensors").unlink()
    (tmp_path / "old.yaml").write_text((tmp_path / "alpha.yaml").read_text())
    # the oldest files name the text encoder's tensors without its inner model
    torch.save(
        {"state_dict": {key.replace(".text_model.", "."): value for key, value in weights.items()}},
        tmp_path / "old.ckpt",
    )
    pickled = Standalone(tmp_path)
    assert pickled.checkpoint_titles() == ["old.ckpt"]
    equal(pickled.generate(job(checkpoint="old")), host.generate(job()))


def test_a_float32_file_keeps_its_precision(folder: Path, tmp_path: Path) -> None:
    name = f"{UNET_KEY}out.2.bias"
    fine = torch.tensor([0.1, 0.2, 0.3, 0.4])
    _copied(folder / "alpha.safetensors", tmp_path / "fine.safetensors", add={name: fine})
    model = Standalone(tmp_path).load("fine").model
    assert torch.equal(model.unet.conv_out.bias, fine)


def test_a_network_in_another_dtype_draws_nearly_the_same(folder: Path, host: Standalone) -> None:
    coarse = Standalone(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in coarse.load("alpha").model.parameters()} == {torch.bfloat16}
    latents = coarse.generate(job()).latents
    assert latents.dtype == torch.float32
    fine = host.generate(job()).latents
    assert 0 < (latents - fine).std() < 0.1 * fine.std()


# denoisers


@pytest.mark.parametrize("part", ["a cross", LONG], ids=["short", "long"])
def test_guidance_is_the_web_uis(host: Standalone, part: str) -> None:
    """uncond + sum of weight * scale * (part - uncond), each from the wrapper told one text alone.

    A short part beside a long one goes on with its last token; the negative prompt keeps its own length.
    """
    model = host.load("alpha").model
    x, sigma = 5 * noise([3], (4, 8, 8)), torch.tensor([5.0])

    def told(text: str, length: int = 77) -> Tensor:
        cond = prompts.encode([text], model.tokenizer, model.text_encoder)[0]
        cond = torch.cat([cond, *[cond[-1:]] * (length - len(cond))])
        assert len(cond) == length
        return model.wrap(x, sigma, cond=cond[None])

    base, longest = told("bad"), 77 if part == "a cross" else 154
    wanted = base + 3 * 1.0 * (told(part, longest) - base) + 3 * 0.5 * (told("red", longest) - base)
    got = model.denoiser([f"{part} AND red :0.5"], ["bad"], 3)(x, sigma)
    same_but_rounding(got, wanted)
    assert (got - model.denoiser([part], ["bad"], 3)(x, sigma)).abs().max() > 1e-3


def test_v_prediction_is_read_as_v(host: Standalone) -> None:
    eps, v = host.load("alpha").model, host.load("v").model
    x, sigma = 5 * noise([3], (4, 8, 8)), torch.tensor([5.0])
    cond = prompts.encode(["a cross"], eps.tokenizer, eps.text_encoder)[0][None]
    scaled, t = x / 26**0.5, eps.wrap.sigma_to_t(sigma)
    output = eps.unet(scaled, t, cond).sample
    close(eps.wrap(x, sigma, cond=cond), x - 5 * output)
    close(v.wrap(x, sigma, cond=cond), x / 26 - 5 / 26**0.5 * output)


def test_what_a_file_is_marked_with_counts_beside_its_yaml(folder: Path, tmp_path: Path, host: Standalone) -> None:
    mark = torch.tensor([])
    _copied(folder / "alpha.safetensors", tmp_path / "marked.safetensors", add={"v_pred": mark})
    terminal = {"v_pred": mark, "ztsnr": mark}
    _copied(folder / "alpha.safetensors", tmp_path / "terminal.safetensors", add=terminal)
    _copied(folder / "v.safetensors", tmp_path / "told.safetensors", params={"parameterization": "v"}, add=terminal)
    marked = Standalone(tmp_path)
    equal(marked.generate(job(checkpoint="marked")), host.generate(job(checkpoint="v")))
    for name in ("terminal", "told"):
        sigmas = marked.load(name).model.wrap.sigmas
        # the lowest level stays, and at the highest there is next to nothing of a picture
        close(sigmas[0], host.load("v").model.wrap.sigmas[0])
        assert 4518 < sigmas[-1] < 4520 and (sigmas.diff() > 0).all()
    result = marked.generate(job(checkpoint="terminal"), settings({"checkpoint": "marked"}))
    assert torch.isfinite(result.latents).all() and result.latents.std() < 100


def test_the_noise_levels_are_stable_diffusions(host: Standalone) -> None:
    model = host.load("alpha").model
    sigmas = model.sigmas(20)
    assert len(sigmas) == 21 and sigmas[-1] == 0 and (sigmas.diff() < 0).all()
    close(sigmas[[0, -2]], torch.tensor([14.6146, 0.0292]))
    levels = {
        (sampler, schedule): sampling.noise_levels(model, sampler, schedule, 20)
        for sampler in sampler_names()
        for schedule in sampling.SCHEDULES
    }
    assert {len(found) for found in levels.values()} == {21}
    assert torch.equal(levels["euler", "automatic"], sigmas)
    assert torch.equal(levels["dpmpp_2m", "automatic"], levels["euler", "karras"])
    assert torch.equal(levels["dpmpp_2m_sde", "automatic"], levels["euler", "exponential"])
    # equal steps of sigma^(1/7), and of log sigma
    for schedule, straight in (("karras", lambda s: s ** (1 / 7)), ("exponential", torch.log)):
        close(straight(levels["euler", schedule][:-1]).diff().diff(), torch.zeros(18), 1e-5)
    # the WebUI plans 21 levels for these and leaves out the last before 0
    assert levels["dpm_2", "automatic"][-2] > levels["dpmpp_2m", "automatic"][-2]


def test_noise_is_what_a_seed_gives_on_the_cpu() -> None:
    torch.manual_seed(12)
    single = torch.randn(4, 8, 8)
    assert torch.equal(noise([11, 12], (4, 8, 8))[1], single)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_sde"])
def test_minus_one_is_a_random_seed_that_is_told(host: Standalone, sampler: str) -> None:
    told = settings({"noise": "independent"})
    drawn = [host.generate(job(sampler=sampler, seeds=[-1, 12]), told) for _ in range(2)]
    seeds = [result.seeds for result in drawn]
    assert [second for _, second in seeds] == [12, 12]
    assert seeds[0] != seeds[1] and all(0 <= first < 2**32 for first, _ in seeds)
    equal(host.generate(job(sampler=sampler, seeds=seeds[0]), told), drawn[0])


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_sde"])
def test_the_largest_seeds_are_drawn_with(host: Standalone, sampler: str) -> None:
    seeds = [0, 2**64 - 1]
    result = host.generate(job(sampler=sampler, seeds=seeds, steps=2), settings({"noise": "independent"}))
    assert result.seeds == seeds and torch.isfinite(result.latents).all()


# texts


def _clips_own_tokenizer() -> Any:
    """The `clip` package's, without the package: the rest of it needs an old setuptools."""
    package = importlib.util.find_spec("clip")
    assert package is not None and package.origin is not None
    file = Path(package.origin).with_name("simple_tokenizer.py")
    spec = importlib.util.spec_from_file_location("simple_tokenizer", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()


def test_the_tokenizer_is_clips() -> None:
    tokenizer, own = read_tokenizer(None), _clips_own_tokenizer()
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    texts = (
        "A  RED circle, at the top-left; it's 3 o'clock!",
        "naïve café — 東京 😀",
        "(x:1.2), [y]",
        "",
        "a\nb",
        LONG,
    )
    for text in (*texts, "the ﬁrst &amp; last"):
        assert prompts._numbers(text, tokenizer) == own.encode(text)


def test_a_folders_tokenizer_is_taken_where_its_files_are(tmp_path: Path) -> None:
    assert read_tokenizer(tmp_path / "none").get_vocab() == read_tokenizer(None).get_vocab()
    file = write_tokenizer(tmp_path) / "vocab.json"
    numbers = json.loads(file.read_text())
    numbers["cat</w>"], numbers["dog</w>"] = numbers["dog</w>"], numbers["cat</w>"]
    file.write_text(json.dumps(numbers))
    assert read_tokenizer(tmp_path)("cat").input_ids == read_tokenizer(None)("dog").input_ids


def test_long_texts_are_cut_where_the_web_ui_cuts_them() -> None:
    tokenizer = read_tokenizer(None)
    word, comma = tokenizer("x", add_special_tokens=False).input_ids[0], tokenizer.get_vocab()[",</w>"]

    def lengths(text: str) -> list[int]:
        found = prompts.pieces(text, tokenizer)
        assert all(len(piece) == 77 and piece[0] == tokenizer.bos_token_id for piece in found)
        return [sum(number in (word, comma) for number in piece) for piece in found]

    assert lengths("") == [0]
    assert lengths("x " * 75) == [75]
    assert lengths("x " * 76) == [75, 1]
    assert lengths("x " * 60 + ", " + "x " * 20) == [61, 20]  # a comma within 20 tokens of the end
    assert lengths("x " * 54 + ", " + "x " * 21) == [75, 1]  # too far from it
    assert lengths("x " * 75 + ", x") == [75, 2]
    assert lengths("x x BREAK x") == [2, 1]
    assert lengths("x BREAK") == [1]


def test_and_splits_a_prompt_into_weighted_parts() -> None:
    assert prompts.weighted_parts("a cat") == [("a cat", 1.0)]
    assert prompts.weighted_parts("a :2 AND b: -0.5 AND SAND") == [("a", 2.0), (" b", -0.5), (" SAND", 1.0)]


# what must hold exactly


@pytest.mark.parametrize(
    "off",
    [
        {"enabled": False},
        {"steps": 0},
        {"start": K},
        {"co_models": [{"checkpoint": "beta", "gamma": 0.0}]},
        {"co_models": [{"checkpoint": "None"}]},
        {"co_models": [{"checkpoint": "beta", "enabled": False}]},
        {"pass": "hires"},
        {"pass": "detailer"},
    ],
    ids=str,
)
def test_off_is_untouched(host: Standalone, off: dict[str, Any]) -> None:
    given = {"enabled": True, "steps": K, "co_models": [{"checkpoint": "beta"}], **off}
    result = host.generate(job(), Settings.from_dict(given))
    equal(result, host.generate(job()))
    assert result.co_evaluations == [0]
    assert [("pass" in comment) for comment in result.comments] == ([True] if "pass" in off else [])


@pytest.mark.parametrize("sampler", MEMORYLESS)
def test_the_forced_way_without_a_share_is_bitwise_the_sampler(host: Standalone, sampler: str) -> None:
    model, other = host.load("alpha").model, host.load("beta").model
    func = sampling.find_sampler(sampler)
    sigmas = sampling.noise_levels(model, sampler, "automatic", STEPS)
    co_denoiser = other.denoiser(["x"], [""], 3)

    def latents(func: Callable[..., Any]) -> Tensor:
        stream = sampling.ImageNoise([5], (4, 8, 8))
        return sampling.sample(func, model.denoiser(["a"], [""], 3), stream, sigmas)

    forced = amdm(func, [CoRun(co_denoiser, gamma=0.0, eta=0.0)], steps=K, eta=0.0, force=True)
    assert torch.equal(latents(forced), latents(func))
    assert co_denoiser.evaluations == K


@pytest.mark.parametrize(("evaluations", "count"), [(0, STEPS), (2, 2), ("auto", 4)])
@pytest.mark.parametrize("slot", [{"checkpoint": "alpha"}, {"checkpoint": "main", "gamma_end": 0.9}], ids=str)
def test_the_main_model_as_its_own_co_model_changes_nothing(
    host: Standalone, slot: dict[str, Any], evaluations: int | str, count: int
) -> None:
    mixed = host.generate(job(), settings(slot, steps=STEPS, evaluations=evaluations))
    assert mixed.co_evaluations == [count]
    close(mixed.latents, host.generate(job()).latents)


def test_the_whole_share_gives_the_co_models_own_latent(host: Standalone) -> None:
    """Its own prompt, negative prompt and scale: each alone would show."""
    told = {"prompt": "a green square", "negative_prompt": "worse", "cfg_scale": 4.5}
    mixed = host.generate(job(), settings({**told, "gamma": 1.0}, steps=STEPS, evaluations=0))
    own = job(checkpoint="beta", prompts=["a green square"] * 2, negative_prompts="worse", cfg_scale=4.5)
    close(mixed.latents, host.generate(own).latents)


def test_an_empty_slot_takes_the_main_prompts_and_scale(host: Standalone) -> None:
    mixed = host.generate(job(), settings({"gamma": 1.0}, steps=STEPS, evaluations=0))
    close(mixed.latents, host.generate(job(checkpoint="beta")).latents)


@pytest.mark.parametrize(
    "form", ["{prompt} on the left", "{prompt} AND a circle:0.5", "{prompt}, {prompt}", " {prompt} "]
)
def test_a_slots_own_text_can_include_each_pictures_main_prompt(host: Standalone, form: str) -> None:
    whole = {"gamma": 1.0, "prompt": form, "negative_prompt": "{prompt}, grey"}
    mixed = host.generate(job(), settings(whole, steps=STEPS, evaluations=0))
    texts = [form.strip().replace("{prompt}", prompt) for prompt in job().prompts]
    close(mixed.latents, host.generate(job(checkpoint="beta", prompts=texts, negative_prompts="bad, grey")).latents)


def test_a_region_of_everything_is_no_region(host: Standalone) -> None:
    plain = host.generate(job(), settings({"gamma": 0.7}))
    for everything in ({"region": "0 0 1 1", "feather": 0.2}, {"mask": _mask("white")}):
        equal(host.generate(job(), settings({"gamma": 0.7, **everything})), plain)
    assert not torch.equal(host.generate(job(), settings({"gamma": 0.7, "region": "0 0 0.5 1"})).latents, plain.latents)


def test_outside_its_region_the_first_step_is_the_main_models_own(host: Standalone) -> None:
    """Later the picture as a whole is drawn around what has changed."""
    right = _mask("black")
    for place in ({"region": "0.5 0 1 1"}, {"mask": right}):
        alone, mixed = (
            host.generate(job(steps=1), settings({"gamma": gamma, **place}, steps=1)).latents for gamma in (0.0, 1.0)
        )
        assert torch.equal(mixed[..., :4], alone[..., :4])
        other = host.generate(job(checkpoint="beta", steps=1)).latents
        same_but_rounding(mixed[..., 4:], other[..., 4:])


def _mask(left: str) -> str:
    """White, with its left half in another colour."""
    picture = Image.new("L", (64, 64), "white")
    picture.paste(left, (0, 0, 32, 64))
    return as_text(picture)


def test_a_share_that_ends_elsewhere_changes_the_picture_and_one_that_ends_where_it_began_does_not(
    host: Standalone,
) -> None:
    stays, same, falls, rises = (
        host.generate(job(), settings({"gamma": gamma, "gamma_end": end}))
        for gamma, end in ((0.5, None), (0.5, 0.5), (0.5, 0.0), (0.0, 0.5))
    )
    equal(stays, same)
    assert rises.co_evaluations == falls.co_evaluations == [K]
    latents = [result.latents for result in (stays, falls, rises, host.generate(job()))]
    assert min((a - b).abs().max() for a, b in itertools.combinations(latents, 2)) > 1e-2


# DPM adaptive chooses its steps by the error of the whole batch
@pytest.mark.parametrize(
    ("sampler", "noise"),
    [*((name, "independent") for name in sampler_names() if name != "dpm_adaptive"), ("euler", "shared")],
)
def test_a_batch_is_its_single_pictures(host: Standalone, sampler: str, noise: str) -> None:
    batch = job(sampler=sampler, prompts=["a AND b:0.5", LONG], seeds=[3, 4], steps=K + 1, **SMALL)
    mixing = settings({"noise": noise}, {"checkpoint": "main", "prompt": "x", "gamma": 0.2})
    together = host.generate(batch, mixing).latents
    for number, (prompt, seed) in enumerate(zip(batch.prompts, batch.seeds)):
        single = host.generate(replace(batch, prompts=[prompt], seeds=[seed]), mixing)
        same_but_rounding(together[number : number + 1], single.latents)


@pytest.mark.parametrize("sampler", sampler_names())
def test_the_same_seed_gives_the_same_picture_and_moves_no_other_stream(host: Standalone, sampler: str) -> None:
    drawing, mixing = job(sampler=sampler, steps=K + 1, **SMALL), settings({"noise": "independent"})
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = host.generate(drawing, mixing)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    equal(host.generate(drawing, mixing), first)
    assert not torch.equal(host.generate(replace(drawing, seeds=[13, 14]), mixing).latents, first.latents)


def test_two_slots_with_noise_of_their_own_begin_apart_and_from_another_than_the_pictures(host: Standalone) -> None:
    begun: list[Tensor] = []

    def look(_: nn.Module, told: tuple[Tensor, ...]) -> None:
        begun.append(told[0][:2].flatten())

    hooks = [host.load(name).model.unet.register_forward_pre_hook(look) for name in ("alpha", "beta")]
    try:
        host.generate(job(steps=1), settings({"noise": "independent"}, {"noise": "independent"}, steps=1))
    finally:
        for hook in hooks:
            hook.remove()
    webuis = noise([11, 12], (4, 8, 8)).flatten()
    alike = torch.corrcoef(torch.stack([*begun, webuis])).abs()
    assert alike.shape == (4, 4) and alike[0, 3] > 0.99
    assert (alike[:3, :3] - torch.eye(3)).max() < 0.2 and alike[1:3, 3].max() < 0.2


# what it costs


def test_the_cost_is_k_more_evaluations_for_each_co_model(host: Standalone) -> None:
    calls = []
    unets = {name: host.load(name).model.unet for name in ("alpha", "beta")}
    hooks = [unet.register_forward_hook(lambda *_, name=name: calls.append(name)) for name, unet in unets.items()]
    try:
        result = host.generate(job(), settings({}, {"gamma": 0.0}, {"checkpoint": "main", "prompt": "x"}))
    finally:
        for hook in hooks:
            hook.remove()
    assert (result.evaluations, result.co_evaluations) == (STEPS, [K, 0, K])
    # guidance asks for both texts in one call
    assert {name: calls.count(name) for name in unets} == {"alpha": STEPS + K, "beta": K}


@pytest.mark.parametrize(
    ("told", "sampler", "count"),
    [
        ({"steps": "auto", "evaluations": 0}, "euler", STEPS - 1),  # the last step begins at hardly any noise
        ({"steps": "auto"}, "euler", 4),
        ({"steps": STEPS, "evaluations": 1}, "euler", 1),
        ({"steps": STEPS, "evaluations": 5}, "euler_ancestral", 5),
        ({"steps": STEPS}, "euler_ancestral", STEPS),  # up to 7, for its noise
        ({"steps": 2, "evaluations": 150}, "euler", 2),
    ],
)
def test_the_cost_is_as_many_evaluations_as_the_settings_say(
    host: Standalone, told: dict[str, Any], sampler: str, count: int
) -> None:
    result = host.generate(job(sampler=sampler), settings({}, {"checkpoint": "main"}, **told))
    assert (result.evaluations, result.co_evaluations) == (STEPS, [count, count])


def test_the_second_picture_reads_no_file_and_encodes_no_text(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, mixing = Standalone(folder), settings({"prompt": "a green square"})
    first = host.generate(job(), mixing)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("called again")

    monkeypatch.setattr(CheckpointFile, "_read", never)
    monkeypatch.setattr(prompts, "encode", never)
    equal(host.generate(job(), mixing), first)
    assert len(host.loaded()) == 2


def test_a_changed_file_or_yaml_is_read_again(folder: Path, tmp_path: Path) -> None:
    file = _copied(folder / "alpha.safetensors", tmp_path / "one.safetensors")
    host = Standalone(tmp_path)
    first = host.load("one")
    assert host.load("one") is first
    described = yaml.safe_load(file.with_suffix(".yaml").read_text())
    described["model"]["params"]["parameterization"] = "v"
    file.with_suffix(".yaml").write_text(yaml.safe_dump(described))
    second = host.load("one")
    assert type(second.model.wrap) is not type(first.model.wrap)
    os.utime(file, ns=(1, 1))
    assert host.load("one") is not second


def test_equal_tensors_are_shared_and_what_is_not_used_is_dropped(folder: Path) -> None:
    host = Standalone(folder, most_loaded=1)
    sizes = {name: [host.load(name), host.loaded()[-1].size][1] for name in ("alpha", "v")}
    assert sizes["v"] < sizes["alpha"] / 100
    host.generate(job(), settings())
    assert {entry.name for entry in host.loaded()} == {"alpha.safetensors", "beta.safetensors"}
    host.generate(job())
    assert [entry.name for entry in host.loaded()] == ["alpha.safetensors"]
    assert len(host.unload()) == 1 and host.loaded() == []


def test_progress_is_told_of_each_step_and_an_interrupt_ends_the_run(host: Standalone) -> None:
    told: list[tuple[int, int]] = []
    host.generate(job(), settings(), lambda *step: told.append(step))
    assert told == [(step, STEPS) for step in range(1, STEPS + 1)]
    with pytest.raises(Interrupted):
        host.generate(job(), settings(), lambda *step: told.append(step), keep_drawing=lambda: len(told) < STEPS + 2)
    assert told[STEPS:] == [(1, STEPS), (2, STEPS)]


def test_forgetting_waits_for_the_picture(folder: Path) -> None:
    host, mixing = Standalone(folder), settings()
    wanted = host.generate(job(), mixing)
    forgets = threading.Thread(target=host.unload)

    def begins(step: int, steps: int) -> None:
        if step == 1:
            forgets.start()
        assert host.loaded() != []

    equal(host.generate(job(), mixing, begins), wanted)
    forgets.join()
    assert host.loaded() == []


# the list


def test_the_list_is_of_names_and_never_of_paths(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "beta.safetensors").touch()
    (tmp_path / "readme.txt").touch()
    host = Standalone([folder, tmp_path])
    titles = ["alpha.safetensors", "beta.safetensors", "v.safetensors", "sub/beta.safetensors"]
    assert host.checkpoint_titles() == titles
    assert host.checkpoint_title("beta") == "beta.safetensors"
    assert host.checkpoint_title("sub/beta") == "sub/beta.safetensors"
    for path in (str(folder / "alpha.safetensors"), "../alpha", "sub/../alpha", "sub", "", "."):
        assert host.checkpoint_title(path) is None
    (tmp_path / "new.ckpt").touch()
    assert host.checkpoint_title("new") is None
    host.refresh_checkpoints()
    assert host.checkpoint_title("new") == "new.ckpt"


def test_the_list_looks_into_linked_folders_and_takes_suffixes_in_capitals(tmp_path: Path) -> None:
    models, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    models.mkdir()
    (elsewhere / "deep" / "one.SAFETENSORS").touch()
    (models / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(models)
    host = Standalone(models)
    assert host.checkpoint_titles() == ["linked/deep/one.SAFETENSORS"]
    for name in ("one", "linked/deep/one", "linked\\deep\\one.safetensors", "linked/deep/one.SAFETENSORS [0123abcdef]"):
        assert host.checkpoint_title(name) == "linked/deep/one.SAFETENSORS"


def test_a_name_that_is_no_text_is_listed_as_text(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.safetensors").touch()
    host = Standalone(tmp_path)
    (title,) = host.checkpoint_titles()
    assert title.encode().startswith(b"caf") and host.checkpoint_title(title) == title
    # it is found by what is listed
    assert refused(host, job(checkpoint=title)).endswith("; rename it.")


# refusals


class _Call:
    """Pickles to a call that makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def _broken(kind: str, source: Path, target: Path) -> None:
    """A file that cannot be used, of one kind or another, in the place of `target`."""
    zeros = torch.zeros(1)
    first = f"{UNET_KEY}input_blocks.0.0.weight"
    if kind == "truncated":
        _copied(source, target)
        target.write_bytes(target.read_bytes()[:-1000])
    elif kind == "no header":
        target.write_bytes(b"\xff" * 100)
    elif kind == "a UNet's hole":
        _copied(source, target, drop=f"{UNET_KEY}time_embed.0.weight")
    elif kind == "an attention's hole":
        _copied(source, target, drop=f"{UNET_KEY}middle_block.1.transformer_blocks.0.attn2")
    elif kind == "a text encoder's hole":
        _copied(source, target, drop=f"{TEXT_KEY}final_layer_norm")
    elif kind == "no UNet":
        _copied(source, target, drop=UNET_KEY)
    elif kind == "no text encoder":
        _copied(source, target, drop=TEXT_KEY)
    elif kind == "SDXL":
        _copied(source, target, add={"conditioner.embedders.0.weight": zeros})
    elif kind == "SD2":
        _copied(source, target, add={"cond_stage_model.model.positional_embedding": zeros})
    elif kind == "scaled FP8":
        _copied(source, target, add={"scaled_fp8": zeros.to(torch.float8_e4m3fn)})
    elif kind == "scales":
        _copied(source, target, add={f"{UNET_KEY}out.2.scale_weight": zeros})
    elif kind == "noise at no level":
        _copied(source, target, add={"ztsnr": torch.tensor([])})
    elif kind == "inpainting":
        _copied(source, target, add={first: torch.zeros(32, 9, 3, 3)})
    elif kind == "another yaml":
        told = yaml.safe_load(source.with_suffix(".yaml").read_text())["model"]["params"]["unet_config"]
        told["params"]["num_res_blocks"] = 2
        _copied(source, target, params={"unet_config": told})
    elif kind == "a bad yaml":
        _copied(source, target).with_suffix(".yaml").write_text("model: [")
    elif kind == "no yaml":
        _copied(source, target).with_suffix(".yaml").unlink()


REFUSED = {
    "truncated": "cannot be read .*; download it again",
    "no header": "cannot be read .*; download it again",
    "a UNet's hole": "lacks 1 tensors that its UNet needs .*time_embedding.*; download it again",
    "an attention's hole": "lacks 5 tensors that its UNet needs .*attn2.*; download it again",
    "a text encoder's hole": "lacks 2 tensors that its text encoder needs .*; download it again",
    "no UNet": "has no UNet in it; choose a whole checkpoint",
    "no text encoder": "has no CLIP text encoder in it; choose a whole",
    "SDXL": "is SDXL, but only SD1 .*; choose",
    "SD2": "is SD2, but only SD1 .*; choose",
    "scaled FP8": "is an FP8-scaled checkpoint, .*; choose the unscaled one",
    "scales": "is an FP8-scaled checkpoint, .*; choose the unscaled one",
    "noise at no level": "is marked as a zero-terminal-SNR model .* but predicts noise.*; choose",
    "inpainting": "is SD1 inpainting, but only SD1 .*; choose",
    "another yaml": 'has a UNet unlike what "broken.yaml" describes .*; correct that file',
    "a bad yaml": 'has a description, "broken.yaml", that cannot be read .*; correct it',
    "no yaml": "has a UNet unlike Stable Diffusion 1's .*; put the yaml .* beside it",
}


def refused(host: Standalone, drawing: Job, mixing: Settings | None = None) -> str:
    """The sentence that a job is refused with."""
    with pytest.raises(AmdmError) as error:
        host.generate(drawing, mixing)
    told = str(error.value)
    assert told.startswith("AMDM") and told.endswith(".") and "\n" not in told
    return told


@pytest.fixture(scope="module")
def untroubled(folder: Path) -> Result:
    """The picture if no file is broken."""
    return Standalone(folder).generate(job(**SMALL), settings())


@pytest.fixture(scope="module")
def troubled(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Standalone, Path]:
    """A host, and its folder for a broken file."""
    broken = tmp_path_factory.mktemp("broken")
    return Standalone([folder, broken]), broken


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_cannot_be_used_is_named_with_its_slot_and_a_remedy(
    folder: Path, troubled: tuple[Standalone, Path], untroubled: Result, kind: str
) -> None:
    host, place = troubled
    for file in place.iterdir():
        file.unlink()
    _broken(kind, folder / "alpha.safetensors", place / "broken.safetensors")
    host.refresh_checkpoints()
    with pytest.raises(AmdmError, match=f'^AMDM: "broken.safetensors" {REFUSED[kind]}'):
        host.generate(job(checkpoint="broken"))
    told = refused(host, job(), settings({}, {"checkpoint": "broken"}))
    assert told.startswith('AMDM co-model 2: "broken.safetensors" ')
    equal(host.generate(job(**SMALL), settings()), untroubled)


def test_a_main_checkpoint_needs_a_vae_and_a_co_model_none(folder: Path, tmp_path: Path) -> None:
    _copied(folder / "beta.safetensors", tmp_path / "bare.safetensors", drop=VAE_KEY)
    host = Standalone([folder, tmp_path])
    assert "has no VAE in it; choose a whole SD1 checkpoint" in refused(host, job(checkpoint="bare"))
    equal(
        host.generate(job(), settings({"checkpoint": "bare"})), host.generate(job(), settings({"checkpoint": "beta"}))
    )


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {"model.diffusion_model.out.2.bias": _Call(tmp_path / "ran")}}, tmp_path / "evil.ckpt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(_Call(tmp_path / "ran"), protocol=2))
    host = Standalone(tmp_path)
    for name in ("evil", "plain"):
        assert "as a .safetensors file" in refused(host, job(checkpoint=name))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changed", "slot", "wanted"),
    [
        ({"checkpoint": "delta"}, {}, 'AMDM: "delta" is not in the list of checkpoints (alpha.safetensors, '),
        (
            {},
            {"checkpoint": "delta"},
            'AMDM co-model 1: "delta" is not in the list of checkpoints (alpha.safetensors, ',
        ),
        ({}, {"mask": "no picture"}, "AMDM co-model 1: the mask cannot be read"),
        ({"prompts": ["a <lora:x:1>", "b"]}, {}, 'AMDM: the prompt names an extra network ("<lora:...>")'),
        ({}, {"prompt": "a <lora:x:1>"}, 'AMDM co-model 1: the prompt names an extra network ("<lora:...>")'),
        ({"sampler": "fast"}, {}, 'AMDM: "fast" is not a sampler of k-diffusion; choose one of dpm_2, '),
        ({"sampler": "log_likelihood"}, {}, 'AMDM: "log_likelihood" is not a sampler of k-diffusion; choose'),
        ({"schedule": "ddim"}, {}, 'AMDM: "ddim" is not a schedule; choose one of automatic, karras, exponential.'),
        ({"seeds": [1]}, {}, "AMDM: a batch needs one prompt and one seed for each picture, but it has 2 prompts, 1 s"),
        ({"seeds": [1, -2]}, {}, "AMDM: a seed must be a whole number from 0 to 18446744073709551615, or -1 for a ran"),
        ({"seeds": [1, 2**64], "sampler": "dpmpp_sde"}, {}, "AMDM: a seed must be a whole number from 0 to"),
        ({"seeds": [1, 1.5]}, {}, "AMDM: a seed must be a whole number from 0 to"),
        ({"negative_prompts": ["a"]}, {}, "AMDM: a batch needs one prompt and one seed for each picture"),
        ({"prompts": [], "seeds": []}, {}, "AMDM: a batch needs one prompt and one seed for each picture"),
        ({"steps": 0}, {}, "AMDM: a picture needs at least one sampling step, not 0."),
        ({"width": 100}, {}, "AMDM: the width must be a multiple of 8, not 100."),
    ],
)
def test_what_a_job_cannot_mean_is_said(
    host: Standalone, changed: dict[str, Any], slot: dict[str, Any], wanted: str
) -> None:
    assert refused(host, job(**changed), settings(slot)).startswith(wanted)


def test_a_file_that_is_gone_and_a_model_that_overflows_are_named(folder: Path, tmp_path: Path) -> None:
    bias = torch.full((4,), torch.nan)
    file = _copied(folder / "beta.safetensors", tmp_path / "nan.safetensors", add={f"{UNET_KEY}out.2.bias": bias})
    host = Standalone([folder, tmp_path])
    mixing = settings({"checkpoint": "nan"})
    assert refused(host, job(), mixing).startswith('AMDM co-model 1: "nan.safetensors" gave NaN; choose another')
    file.unlink()
    assert refused(host, job(), mixing).startswith('AMDM co-model 1: "nan.safetensors" is not in its folder any more;')


# the page


def test_the_panel_takes_its_controls_from_the_host(folder: Path, tmp_path: Path) -> None:
    gradio = pytest.importorskip("gradio")
    from lib_amdm.webui import api, options, panel

    host = Standalone([folder, tmp_path])
    with gradio.Blocks() as page:
        built = panel.build_panel(host, options.slots(host), "txt2img", lambda name: f"amdm_{name}")
    told = api.read_args([component.value for component in built.components])
    assert (told.enabled, len(told.co_models)) == (False, options.DEFAULT_SLOTS)
    switch, checkpoint = (
        built.components[0],
        next(c for c in built.components if f"{c.label}" == "Checkpoint of co-model 1"),
    )
    folds = {event: fn for fn in page.fns.values() for _, event in fn.targets if fn.outputs == [switch]}
    assert {event: fn.fn() for event, fn in folds.items()} == {"expand": True, "collapse": False}
    (tmp_path / "new.safetensors").touch()
    refresh = next(fn for fn in page.fns.values() if fn.outputs == [checkpoint] and not fn.inputs)
    assert refresh.fn()["choices"] == ["None", "main", *host.checkpoint_titles()]
    assert "new.safetensors" in host.checkpoint_titles()
