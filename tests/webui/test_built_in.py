"""The WebUIs' own extensions beside AMDM: the models that each acts on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from .conftest import REPOSITORY
from .hosts import EVERY, HOSTS, MAIN, NOTHING, SAMPLER, Effect, Host
from .probed import OPTIONS, Probed, mirrored, settings, slot
from .test_features import CLOSE, VISIBLE, off, ramp
from .webui_server import WebUI

STEPS = 3
EFFECTS = sorted({name for host in HOSTS.values() for name in host.effects})


def acts_as_said(probed: Probed, effect: Effect, mixed: int = STEPS) -> None:
    """Compare the main model's pictures, and those of a co-model alone in the `mixed` steps, with an extension."""
    request: dict[str, Any] = {"steps": STEPS, **effect.request}
    if effect.from_picture:
        request["init"] = ramp(request.get("width", 64), request.get("height", 64))
    with_it = {**request, **effect.more}
    if effect.title:
        with_it["alwayson_scripts"] = {effect.title: {"args": [*effect.arguments]}}
    bare, alone = probed.draw(**request).latent, probed.draw(**with_it).latent
    assert (off(bare, alone) > VISIBLE) == (effect.acts_on != NOTHING)
    # of the main model, unless its evaluations are those that the sampler does not call
    own = {} if "prompt" in request else {"prompt": "a blue circle"}
    quiet = slot("beta" if effect.acts_on == SAMPLER else "main", gamma=1e-6, eta=0, **own)
    assert off(probed.draw(settings(quiet, eta=0, steps=STEPS), **with_it).latent, alone) < CLOSE
    for main, reached in ((True, effect.acts_on in (MAIN, EVERY)), (False, effect.acts_on == EVERY)):
        whole = slot("main" if main else request.get("checkpoint", "alpha"), gamma=1, eta=0)
        drawn = probed.draw(settings(whole, eta=0, steps=mixed), **with_it).latent
        assert off(drawn, alone if reached else bare) < CLOSE, "main" if main else "its file"
    assert off(probed.draw(**request).latent, bare) == 0


@contextmanager
def having(probed: Probed, checkpoint: Path, name: str) -> Iterator[None]:
    """Have a checkpoint in the WebUI's list, under this name."""
    files = [probed.server.checkpoint_folder / f"{name}{end}" for end in (".safetensors", ".yaml")]
    for file in files:
        file.symlink_to(checkpoint.with_suffix(file.suffix))
    probed.server.refresh_checkpoints()
    try:
        yield
    finally:
        probed.draw()
        for file in files:
            file.unlink()
        probed.server.refresh_checkpoints()


@pytest.mark.parametrize("effect", EFFECTS)
def test_an_extension_acts_on_what_the_table_says(probed: Probed, webui_host: Host, effect: str) -> None:
    if effect not in webui_host.effects:
        pytest.skip(f"{webui_host.name} has no {effect}")
    acts_as_said(probed, webui_host.effects[effect])


def test_every_built_in_extension_is_in_the_table(webui_host: Host) -> None:
    directory = webui_host.directory()
    assert directory is not None
    page = (REPOSITORY / "docs" / "neighbours.md").read_text(encoding="utf-8")
    patterns = re.sub(r"[`|,()]", " ", page).split()
    built_in = [each.name for each in (directory / "extensions-builtin").iterdir() if each.is_dir()]
    assert built_in
    assert [name for name in built_in if not any(fnmatch(name, pattern) for pattern in patterns)] == []


def test_freeu_acts_on_the_main_model(probed: Probed, webui_host: Host, deeper: Path) -> None:
    free_u = webui_host.free_u
    if free_u is None:
        pytest.skip(f"FreeU is not built into {webui_host.name}")
    assert free_u is not None
    with having(probed, deeper, "deeper"):
        acts_as_said(probed, free_u._replace(request={"checkpoint": "deeper"}))


def test_another_attention_of_the_webui_is_every_models(
    probed: Probed, start_webui: Callable[..., WebUI], webui_host: Host
) -> None:
    other = Probed(start_webui(probe=True, options=OPTIONS, arguments=webui_host.cpu_as_card))
    alone = other.draw().latent
    assert 0 < off(alone, probed.draw().latent) < CLOSE
    assert off(other.draw(mirrored()).latent, alone) < CLOSE
    with_beta = settings(slot("beta"))
    assert off(other.draw(with_beta).latent, probed.draw(with_beta).latent) < CLOSE


def test_a_random_size_is_every_models(probed: Probed) -> None:
    title = "Random Resolution"
    if title.lower() not in probed.server.call("/sdapi/v1/scripts")["txt2img"]:
        pytest.skip("no such extension is built in")
    of_one = {title: {"args": [True, "SD 1.5", "128,64", "Equal Weights", 64, 128]}}
    with_beta = settings(slot("beta"))
    drawn = probed.draw(with_beta, alwayson_scripts=of_one)
    assert off(drawn.latent, probed.draw(with_beta, width=128, height=64).latent) == 0
