"""The main model's weights in 8 bits: those of co-models are too, and all that goes with a model goes with these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import random_adapters as adapter_files
from random_adapters import KINDS

from .hosts import HOSTS, Host
from .probed import OPTIONS, Probed, settings, slot
from .test_adapters import adapter, with_main
from .test_features import off
from .test_networks import WITHOUT, lora, only  # noqa: F401 -- a fixture
from .webui_server import WebUI

WAYS = tuple(dict.fromkeys(way for host in HOSTS.values() for way in host.low_bits))


@pytest.fixture(scope="module", params=WAYS)
def probed(request: pytest.FixtureRequest, webui_host: Host, start_webui: Callable[..., WebUI]) -> Iterator[Probed]:
    """A server of its own, for this is nothing that can be changed and put back without a trace."""
    if request.param not in webui_host.low_bits:
        pytest.skip(f"{webui_host.name} has no such setting")
    started = webui_host.low_bits[request.param]
    server = start_webui(probe=True, **{**started, "options": {**OPTIONS, **started.get("options", {})}})
    adapter_files.write(
        server.data / "models" / "amdm", adapter_files.Shape.of(server.checkpoint_folder / "alpha.safetensors")
    )
    yield Probed(server)
    server.stop()


@contextmanager
def as_main(probed: Probed, checkpoint: str) -> Iterator[None]:
    """Another main checkpoint, as it is where the WebUI starts with it."""

    def use(name: str) -> None:
        host, server = probed.server.host, probed.server
        server.call("/sdapi/v1/options", dict(host.whole))
        server.use_checkpoint(name)
        server.call("/sdapi/v1/options", {name: server.options[name] for name in host.whole})

    use(checkpoint)
    try:
        yield
    finally:
        use("alpha")


@pytest.fixture(scope="module")
def plain(probed: Probed) -> np.ndarray:
    """The latent of the main model alone."""
    return probed.draw(prompt=WITHOUT).latent


def equal(probed: Probed, ours: np.ndarray, theirs: np.ndarray, without: np.ndarray) -> bool:
    """Return True if two latents are the same within the WebUI's arithmetic, after something changed them."""
    return off(ours, theirs) < (0.02 * off(theirs, without) if probed.server.host.low_bits_in_bfloat16 else 1e-5)


@pytest.mark.parametrize("checkpoint", ["alpha", "main"])
def test_the_main_checkpoint_as_a_co_model_is_the_main_model(
    probed: Probed, plain: np.ndarray, checkpoint: str
) -> None:
    assert off(probed.draw(only(checkpoint), prompt=WITHOUT).latent, plain) < 1e-5


def test_another_is_what_the_webui_draws_with_it(probed: Probed, plain: np.ndarray) -> None:
    drawn = probed.draw(only("beta"), prompt=WITHOUT).latent
    with as_main(probed, "beta"):
        reference = probed.draw(prompt=WITHOUT).latent
    assert off(reference, plain) > 0.01
    assert off(drawn, reference) < 1e-5


def test_the_main_model_stays_as_it_was(probed: Probed, plain: np.ndarray) -> None:
    before = probed.draw(prompt=WITHOUT).latent
    snapshot = probed.snapshot()
    mixed = [probed.draw(settings(slot("beta"), slot("main")), prompt=WITHOUT).latent for _ in range(2)]
    assert off(mixed[0], mixed[1]) == 0 and off(mixed[0], before) > 0.01
    assert off(probed.draw(prompt=WITHOUT).latent, before) == 0
    assert probed.snapshot() == snapshot


@pytest.mark.parametrize("kind", KINDS)
def test_adapters(probed: Probed, plain: np.ndarray, kind: str) -> None:
    told = adapter(kind)
    on_main = probed.draw(with_main(kind), prompt=WITHOUT).latent
    assert off(on_main, plain) > 1e-4
    for checkpoint in ("main", "alpha"):
        drawn = probed.draw(only(checkpoint, **told), prompt=WITHOUT).latent
        assert off(drawn, plain) > 1e-4
        assert equal(probed, drawn, on_main, plain)


@pytest.mark.usefixtures("lora")
@pytest.mark.parametrize("kind", ["strong", "dora", "locon"])
@pytest.mark.parametrize("checkpoint", ["beta", "main"])
def test_loras_of_a_slot(probed: Probed, plain: np.ndarray, kind: str, checkpoint: str) -> None:
    words = f"{WITHOUT} <lora:{kind}:0.8>"
    drawn = probed.draw(only(checkpoint, prompt=words), prompt=WITHOUT).latent
    with nullcontext() if checkpoint == "main" else as_main(probed, checkpoint):
        reference, bare = (probed.draw(prompt=prompt).latent for prompt in (words, WITHOUT))
    assert off(reference, bare) > 0.01
    assert equal(probed, drawn, reference, bare)
