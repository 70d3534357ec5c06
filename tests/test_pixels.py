"""A co-model that sees the main model's estimate: with separate noise, in another latent space, through pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from denoisers import SAMPLERS, STEPS, Denoiser, Sampler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lib_amdm.comodels.mixing import SlotRun, co_run
from lib_amdm.comodels.pixels import BLOCK, PATCH, co_size, crossing, resized
from lib_amdm.core.arguments import CoRun, Crossing
from lib_amdm.core.co_model import separate_noise
from lib_amdm.core.levels import as_flow, flow
from lib_amdm.core.readings import Stopwatch
from lib_amdm.core.sampling import amdm
from lib_amdm.errors import AmdmError
from lib_amdm.hosts.common.autoencoders import PassAutoencoder
from lib_amdm.settings import CoModel

CPU = torch.device("cpu")
KINDS = [pytest.param(SAMPLERS[name], id=name) for name in ("euler", "dpmpp_2m", "euler_ancestral", "heun", "ddim")]


class Shown:
    """A co-model that remembers what it was shown, and predicts something of it."""

    def __init__(self) -> None:
        self.shown: list[tuple[Tensor, float]] = []

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.shown.append((x, sigma[0].item()))
        return 0.5 * torch.tanh(x / (1 + sigma.view(-1, 1, 1, 1))) + 0.2


class Half:
    """The autoencoder of latents with half the height and twice the channels of the main model's; it counts."""

    def __init__(self, scale: float) -> None:
        self.scale, self.decoded, self.encoded = scale, 0, 0

    def decode(self, latents: Tensor) -> Tensor:
        self.decoded += 1
        return latents.unflatten(1, (-1, 2)).transpose(2, 3).flatten(2, 3) / self.scale

    def encode(self, pictures: Tensor) -> Tensor:
        self.encoded += 1
        return pictures.unflatten(2, (-1, 2)).transpose(2, 3).flatten(1, 2) * self.scale


class Plain(Half):
    """An autoencoder whose latents are the pictures."""

    def decode(self, latents: Tensor) -> Tensor:
        self.decoded += 1
        return latents / self.scale

    def encode(self, pictures: Tensor) -> Tensor:
        self.encoded += 1
        return pictures * self.scale


def same_size(height: int, width: int) -> tuple[int, int]:
    return height, width


def run(sampler: Sampler, co_models: list[CoRun], steps: int = 3, **more: Any) -> Tensor:
    return sampler.run(sampler.model(Denoiser()), sampler.noise(), lambda f: amdm(f, co_models, steps=steps, **more))


def test_it_is_shown_the_main_models_prediction_with_the_same_noise_in_each_evaluation() -> None:
    main, co, euler = Denoiser(), Shown(), SAMPLERS["euler"]
    predictions: list[Tensor] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        predictions.append(main(x, sigma))
        return predictions[-1]

    run_of = amdm(euler.func, [CoRun(co, 0.6, noise="estimate", seed=[5, 6])], steps=3)
    run_of(denoise, euler.noise(), **euler.grid())
    noise = separate_noise(predictions[0], [5, 6])
    for (shown, sigma), prediction in zip(co.shown, predictions):
        torch.testing.assert_close(shown, prediction + sigma * noise)
    assert len(co.shown) == 3


def test_a_flow_model_is_shown_it_in_its_own_form() -> None:
    co, euler = Shown(), SAMPLERS["euler"]
    main = torch.full(euler.noise().shape, 2.0)
    func = amdm(euler.func, [CoRun(co, noise="estimate", seed=3, form=as_flow)], steps=2)
    func(lambda x, sigma: main, euler.noise(), **euler.grid())
    for shown, t in co.shown:
        torch.testing.assert_close(shown, (1 - t) * main + t * separate_noise(main, 3))


def test_at_flows_first_level_an_exploding_model_is_shown_its_own_highest() -> None:
    co, euler = Shown(), SAMPLERS["euler"]
    x = torch.randn(2, 4, 4, 4)
    co_run = CoRun(co, noise="estimate", seed=3, sigma_max=14.6)
    amdm(euler.func, [co_run], steps=1, level_of=flow)(lambda x, t: 0 * x, x, torch.tensor([1.0, 0.5, 0.0]))
    ((shown, sigma),) = co.shown
    assert sigma == pytest.approx(14.6)
    torch.testing.assert_close(shown, 14.6 * separate_noise(x, 3), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", KINDS)
@pytest.mark.parametrize("evaluations", [1, 2, 0])
def test_an_evaluation_is_two_decodings_and_two_encodings(sampler: Sampler, evaluations: int) -> None:
    co, main_coder, coder = Shown(), Plain(2.0), Half(0.5)
    way = crossing(main_coder, coder, same_size)
    got = run(sampler, [CoRun(co, 0.6, noise="estimate", seed=1, crossing=way)], evaluations=evaluations)
    count = evaluations or 3
    assert len(co.shown) == count
    assert (main_coder.decoded, main_coder.encoded, coder.decoded, coder.encoded) == (count,) * 4
    assert got.isfinite().all() and co.shown[0][0].shape[1] == 2 * sampler.noise().shape[1]


@pytest.mark.parametrize("sampler", KINDS)
def test_the_mixed_prediction_does_not_depend_on_the_latent_space(sampler: Sampler) -> None:
    """A model that acts on every number alone says the same of a picture in either space, but for its noise."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.full_like(x, 0.25)

    plain = run(sampler, [CoRun(denoise, 0.6, noise="estimate", seed=1)])
    way = crossing(Plain(1), Half(1), same_size)
    there = run(sampler, [CoRun(denoise, 0.6, noise="estimate", seed=1, crossing=way)])
    torch.testing.assert_close(there, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("noise", ["estimate", "shared"])
@pytest.mark.parametrize("sampler", [pytest.param(SAMPLERS[name], id=name) for name in ("euler", "dpmpp_2m", "ddim")])
def test_a_kept_prediction_holds_whatever_the_main_model_does_meanwhile(sampler: Sampler, noise: str) -> None:
    wanted = torch.full_like(sampler.noise(), 0.25)

    def drawn(main: Denoiser) -> Tensor:
        co = CoRun(lambda x, sigma: wanted.to(x), 1.0, noise=noise, seed=1, keeps_prediction=True)
        return sampler.run(sampler.model(main), sampler.noise(), lambda f: amdm(f, [co], steps=STEPS, evaluations=1))

    torch.testing.assert_close(drawn(Denoiser()), drawn(Denoiser(1)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("keeps_prediction", [True, False])
def test_an_answer_that_is_not_finite_counts_as_the_main_models(keeps_prediction: bool) -> None:
    seen: list[bool] = []
    euler = SAMPLERS["euler"]
    co = CoRun(
        lambda x, sigma: x * float("nan"),
        noise="estimate",
        seed=1,
        on_nan=lambda: seen.append(True),
        keeps_prediction=keeps_prediction,
    )
    drawn = run(euler, [co], evaluations=0)
    torch.testing.assert_close(drawn, euler.run(euler.model(Denoiser()), euler.noise()))
    assert seen


def test_without_a_share_nothing_is_decoded() -> None:
    coder, euler = Plain(1), SAMPLERS["euler"]
    co = CoRun(Shown(), 0.0, noise="estimate", crossing=crossing(coder, coder, same_size))
    assert torch.equal(run(euler, [co]), euler.run(euler.model(Denoiser()), euler.noise()))
    assert coder.decoded == coder.encoded == 0


def test_a_co_model_that_always_agrees_changes_nothing() -> None:
    """Its prediction is the main model's own, through lossless autoencoders."""
    euler, noise = SAMPLERS["euler"], separate_noise(SAMPLERS["euler"].noise(), 1)
    co = CoRun(lambda x, sigma: x - sigma.view(-1, 1, 1, 1) * noise, 0.7, noise="estimate", seed=1)
    plain = euler.run(euler.model(Denoiser()), euler.noise())
    torch.testing.assert_close(run(euler, [co], steps=STEPS), plain, rtol=0, atol=1e-4)


def test_a_batch_is_its_single_pictures() -> None:
    euler, x = SAMPLERS["euler"], SAMPLERS["euler"].noise()

    def sampled(x: Tensor, seeds: list[int]) -> Tensor:
        co = CoRun(Shown(), 0.6, noise="estimate", seed=seeds, crossing=crossing(Plain(2), Half(3), same_size))
        return amdm(euler.func, [co], steps=3)(euler.model(Denoiser()), x, **euler.grid())

    whole = sampled(x, [7, 8])
    torch.testing.assert_close(whole, torch.cat([sampled(x[:1], [7]), sampled(x[1:], [8])]), rtol=0, atol=1e-5)


def test_no_other_random_numbers_move() -> None:
    euler = SAMPLERS["euler"]
    x, model, states = euler.noise(), euler.model(Denoiser()), []
    for co_models in ([], [CoRun(Shown(), noise="estimate", seed=1)]):
        torch.manual_seed(3)
        amdm(euler.func, co_models, steps=3)(model, x, **euler.grid())
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_beside_a_model_with_its_own_latent_each_has_its_own_offset() -> None:
    euler, own = SAMPLERS["euler"], Denoiser(100)
    both = [CoRun(own, 0.5, eta=0.4), CoRun(Shown(), 0.5, noise="estimate", seed=1)]
    got = run(euler, both, eta=0.3)
    assert got.isfinite().all() and own.evaluations == 3


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"noise": "estimate", "eta": 0.2}, "no latent to pull back; set eta to 0, not 0.2"),
        ({"crossing": Crossing(abs, abs)}, 'needs noise "estimate", not "shared"'),
    ],
)
def test_what_cannot_be_is_one_sentence(more: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        CoRun(Shown(), **more)


@pytest.mark.parametrize("noise", ["estimate", "pixels", "shared"])
def test_a_slot_through_pixels_has_no_pull_and_a_larger_share(noise: str) -> None:
    way = crossing(Plain(1), Plain(1), same_size)
    slot = CoModel(gamma=0.5, gamma_end=0.25, eta=0.3, noise=noise)
    made = co_run(1, slot, SlotRun(Shown(), crossing=way), [1], (8, 8))
    assert (made.gamma, made.gamma_end) == (pytest.approx(0.7941, abs=1e-4), pytest.approx(0.4810, abs=1e-4))
    assert (made.eta, made.noise, made.crossing) == (0.0, "estimate", way)


def test_through_pixels_without_autoencoders_is_refused() -> None:
    with pytest.raises(AmdmError, match=r'^AMDM co-model 2: noise "pixels" needs autoencoders'):
        co_run(2, CoModel(noise="pixels"), SlotRun(Shown()), [1], (8, 8))
    assert co_run(2, CoModel(noise="estimate"), SlotRun(Shown()), [1], (8, 8)).noise == "estimate"


# ---- sizes ----

sides = st.integers(4, 256).map(lambda n: 8 * n)


@given(st.just("auto") | st.floats(0, 4096), st.none() | st.sampled_from([512, 768, 1024]), sides, sides)
def test_every_network_takes_the_size(size: float | str, native: int | None, height: int, width: int) -> None:
    own = co_size(size, native, height, width)
    assert all(side > 0 and side % PATCH == 0 for side in own)
    if own != tuple(round(side / PATCH) * PATCH for side in (height, width)):
        assert all(side % BLOCK == 0 for side in own)


@pytest.mark.parametrize(
    ("size", "native", "picture", "own"),
    [
        ("auto", 512, (1024, 1024), (512, 512)),
        ("auto", 512, (832, 1216), (448, 640)),
        ("auto", 512, (768, 512), (768, 512)),
        ("auto", 1024, (512, 512), (1024, 1024)),
        ("auto", None, (128, 128), (128, 128)),
        (0.0, 512, (1024, 1024), (1024, 1024)),
        (0.5, 1024, (1024, 768), (512, 384)),
        (768.0, None, (1024, 1024), (768, 768)),
        (1.0, None, (1000, 8), (992, 16)),
    ],
)
def test_sizes(size: float | str, native: int | None, picture: tuple[int, int], own: tuple[int, int]) -> None:
    assert co_size(size, native, *picture) == own


def test_a_picture_is_resized_in_between_and_back() -> None:
    flat = torch.full((2, 3, 32, 48), 0.3)
    assert resized(flat, (32, 48)) is flat
    torch.testing.assert_close(resized(flat, (64, 16)), torch.full((2, 3, 64, 16), 0.3))
    main, own = Plain(1), Plain(1)
    way = crossing(main, own, lambda height, width: (2 * height, 2 * width))
    assert way.to_own(flat).shape[-2:] == (64, 96)
    assert way.to_main(way.to_own(flat)).shape == flat.shape


def test_pictures_are_not_clamped_in_between() -> None:
    bright = torch.full((1, 3, 8, 8), 1.7)
    way = crossing(Plain(1), Plain(1), same_size)
    torch.testing.assert_close(way.to_main(way.to_own(bright)), bright)


# ---- the autoencoder of a host ----


class Network(nn.Module):
    """An autoencoder as the hosts have it: it draws its latents from a distribution."""

    def __init__(self, dtype: torch.dtype = torch.float32, has_quant: bool = True) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 8, 1)
        self.quant_conv = nn.Conv2d(8, 8, 1) if has_quant else None
        self.decoder = nn.Conv2d(4, 3, 1)
        self.to(dtype)
        self.batches: list[int] = []
        self.most = 10

    def moments(self, x: Tensor) -> Tensor:
        made: Tensor = self.encoder(x)
        return made if self.quant_conv is None else self.quant_conv(made)

    def encode(self, x: Tensor) -> Tensor:
        mean, log_variance = self.moments(x).chunk(2, 1)
        return mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * torch.randn_like(mean)

    def decode(self, z: Tensor) -> Tensor:
        self.batches.append(len(z))
        if len(z) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        made: Tensor = self.decoder(z)
        return made


@contextmanager
def in_place(x: Tensor, decodes: bool) -> Iterator[torch.device]:
    yield CPU


def autoencoder(network: nn.Module, **more: Any) -> PassAutoencoder:
    return PassAutoencoder(network, lambda z: z / 0.5, lambda z: z * 0.5, in_place, Stopwatch(CPU), **more)


@pytest.mark.parametrize("has_quant", [True, False])
def test_a_picture_has_the_mean_of_its_latents_and_no_random_number_moves(has_quant: bool) -> None:
    network, pictures = Network(has_quant=has_quant), torch.rand(2, 3, 4, 4)
    state = torch.get_rng_state()
    got = autoencoder(network).encode(pictures)
    assert torch.equal(torch.get_rng_state(), state)
    mean = network.moments(pictures).chunk(2, 1)[0]
    torch.testing.assert_close(got, 0.5 * mean, rtol=0, atol=1e-5)
    assert network.quant_conv is network._modules.get("quant_conv"), "the host's own is as it was"


def test_a_hosts_own_replacement_of_the_method_is_not_drawn_from() -> None:
    """A1111 replaces `encode` of the instance with --medvram, by one that draws from the distribution."""
    network, pictures = Network(), torch.rand(1, 3, 4, 4)
    vars(network)["encode"] = network.encode
    one, other = (autoencoder(network).encode(pictures) for _ in range(2))
    assert torch.equal(one, other)


def test_latents_are_scaled_on_the_way() -> None:
    network, latents = Network(), torch.randn(2, 4, 4, 4)
    coder = autoencoder(network)
    torch.testing.assert_close(coder.decode(latents), network.decoder(latents / 0.5))
    assert coder.calls == 1 and coder.stopwatch.seconds is not None


WHOLE, BRAIN, HALF = torch.float32, torch.bfloat16, torch.float16


@pytest.mark.parametrize(
    ("given", "repeats"), [({}, [WHOLE]), ({"after_overflow": BRAIN}, [BRAIN]), ({"after_overflow": None}, [])]
)
def test_what_overflows_in_16_bits_is_decoded_again_in_more(given: dict[str, Any], repeats: list[torch.dtype]) -> None:
    network, latents = Network(HALF), torch.full((1, 4, 4, 4), 3.0)
    network.decoder.weight.data.fill_(3e4)
    seen: list[torch.dtype] = []
    network.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    got = autoencoder(network, **given).decode(latents)
    assert bool(got.isfinite().all()) == bool(repeats) and got.dtype == WHOLE
    assert seen == [HALF, *repeats] and {parameter.dtype for parameter in network.parameters()} == {HALF}


def test_what_overflows_in_the_dtype_of_a_second_call_is_not_called_twice() -> None:
    network, seen = Network(BRAIN), []
    network.decoder.weight.data.fill_(3e38)
    network.decoder.register_forward_pre_hook(lambda *_: seen.append(1))
    assert not autoencoder(network, after_overflow=BRAIN).decode(torch.ones(1, 4, 4, 4)).isfinite().all()
    assert seen == [1]


def test_a_batch_that_does_not_fit_is_decoded_picture_by_picture() -> None:
    network, latents = Network(), torch.randn(3, 4, 4, 4)
    network.most = 1
    got = autoencoder(network).decode(latents)
    torch.testing.assert_close(got, network.decoder(latents / 0.5))
    assert network.batches == [3, 1, 1, 1]
    network.most = 0
    with pytest.raises(torch.cuda.OutOfMemoryError):
        autoencoder(network).decode(latents)


class Doubling(nn.Module):
    """An autoencoder of latents with half the pictures' sides, whose device has memory for `most` of their places."""

    def __init__(self, most: int, reach: int) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 4, 2, stride=2)
        self.decoder = nn.Conv2d(4, 3, 2 * reach + 1, padding=reach, padding_mode="replicate")
        self.most, self.places = most, list[int]()

    def within(self, x: Tensor, places: int) -> None:
        self.places.append(len(x) * places)
        if self.places[-1] > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    def encode(self, x: Tensor) -> Tensor:
        self.within(x, x[0, 0].numel() // 4)
        made: Tensor = self.encoder(x)
        return made

    def decode(self, z: Tensor) -> Tensor:
        self.within(z, z[0, 0].numel())
        made: Tensor = self.decoder(nn.functional.interpolate(z, scale_factor=2))
        return made


ONE_TILE, ANY = 256 * 256, 10**9
"""Places of a latent that has memory: a tile of a picture, and everything."""


@pytest.mark.parametrize("size", [(300, 90), (64, 80), (65, 63), (272, 272)])
def test_what_has_no_room_at_once_is_made_of_tiles_that_join_without_a_seam(size: tuple[int, int]) -> None:
    whole, small = Doubling(ANY, reach=0), Doubling(64 * 64, reach=0)
    small.load_state_dict(whole.state_dict())
    latents = 3 * torch.randn(2, 4, *size)
    pictures = autoencoder(whole).decode(latents)
    assert pictures.abs().max() > 1, "they are not clamped"
    torch.testing.assert_close(autoencoder(small).decode(latents), pictures, rtol=0, atol=1e-5)
    # a tile of a picture has more places than one of latents
    small.most = ONE_TILE
    torch.testing.assert_close(
        autoencoder(small).encode(pictures), autoencoder(whole).encode(pictures), rtol=0, atol=1e-5
    )


def test_where_tiles_overlap_they_fade_into_each_other() -> None:
    """A network that sees beyond a place makes something else at a tile's edge than in a whole picture."""
    whole, small = Doubling(ANY, reach=3), Doubling(64 * 64, reach=3)
    small.load_state_dict(whole.state_dict())
    latents = torch.randn(1, 4, 64, 160)
    off = (autoencoder(small).decode(latents) - autoencoder(whole).decode(latents)).abs().amax((0, 1, 2))
    assert off.max() > 0 and off[: 2 * (48 - 3)].max() < 1e-5, "outside of the overlaps nothing is different"
    jumps = (autoencoder(small).decode(torch.ones(1, 4, 64, 160)).diff(dim=-1)).abs().max()
    assert jumps < 1e-5


@pytest.mark.parametrize("always", [True, False])
def test_tiles_are_for_a_host_that_always_has_them_and_for_too_little_memory(always: bool) -> None:
    network = Doubling(ANY, reach=0)
    coder = autoencoder(network, always_tiled=always)
    coder.encode(coder.decode(torch.randn(2, 4, 272, 96)))
    assert coder.calls == 2
    if always:
        assert max(network.places) < 272 * 96
    else:
        assert network.places == [2 * 272 * 96] * 2
    network.most = 64 * 64 - 1
    with pytest.raises(torch.cuda.OutOfMemoryError):
        coder.decode(torch.randn(1, 4, 96, 96))


def test_one_frame_is_a_picture() -> None:
    class Video(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def encode(self, x: Tensor) -> Tensor:
            return x.repeat(1, 2, 1, 1, 1)

        def decode(self, z: Tensor) -> Tensor:
            return z[:, :3]

    coder = autoencoder(Video(), has_frames=True)
    latents = coder.encode(torch.rand(2, 3, 4, 4))
    assert latents.shape == (2, 6, 1, 4, 4)
    assert coder.decode(latents).shape == (2, 3, 4, 4)
