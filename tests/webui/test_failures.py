"""Faults: the answer's words, and a WebUI that is afterwards as if nothing had been."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from lib_amdm.files.checkpoint_family import family_in

from . import checkpoints
from .probed import STEPS, Drawn, Failed, Probed, distance, mirrored, settings, slot
from .webui_server import WebUI

GO_ON = "go on without AMDM"
AMDM = settings(slot("beta"), steps=3)
BROKEN = ("truncated", "corrupt", "malicious", "holes")
REMEDY = (
    r"(choose|download|refresh|use fewer|switch|lower|set|change|start|empty|raise|send|remove|must be|at most"
    r"|the settings here are|get it as|make a)"
)


def is_a_sentence(message: str) -> bool:
    """One line that starts with AMDM, says what to do, and is not what Python prints."""
    return (
        message.startswith("AMDM")
        and message.endswith(".")
        and "\n" not in message
        and "Traceback" not in message
        and re.search(REMEDY, message) is not None
    )


@pytest.fixture(scope="module")
def broken(probed: Probed, checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Bad files in the WebUI's list; the folder that the malicious one creates where it is run."""
    folder, beta = probed.server.checkpoint_folder, checkpoint_dir / "beta.safetensors"
    marker = tmp_path_factory.mktemp("marker") / "executed"
    checkpoints.write_truncated(beta, folder / "truncated.safetensors")
    checkpoints.write_corrupt(beta, folder / "corrupt.safetensors")
    checkpoints.write_malicious(folder / "malicious.ckpt", marker)
    checkpoints.write_without(beta, folder / "holes.safetensors", "model.diffusion_model.out.2.weight")
    probed.server.refresh_checkpoints()
    yield marker
    for name in BROKEN:
        for file in folder.glob(f"{name}.*"):
            file.unlink()
    probed.server.refresh_checkpoints()


class Untouched:
    """Everything that must stay the same: the WebUI's own picture, AMDM's, and the state of the process."""

    def __init__(self, probed: Probed, bare: np.ndarray, mixed: Drawn) -> None:
        self.probed, self.bare, self.mixed = probed, bare, mixed
        self.snapshot = probed.snapshot()

    def check(self) -> None:
        assert np.array_equal(self.probed.draw().picture, self.bare)
        assert differences(self.probed.snapshot(), self.snapshot) == {}
        again = self.probed.draw(AMDM)
        assert distance(again.latent, self.mixed.latent) == 0
        assert again.untimed == self.mixed.untimed


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {key: (one[key], other[key]) for key in one if one[key] != other[key]}


@pytest.fixture(scope="module")
def expected(probed: Probed, bare_webui: WebUI) -> tuple[np.ndarray, Drawn]:
    """The bare WebUI's picture, and AMDM's from before anything went wrong."""
    mixed = probed.draw(AMDM)
    probed.draw()
    return bare_webui.pixels(bare_webui.txt2img(steps=STEPS))[0], mixed


@pytest.fixture
def untouched(probed: Probed, expected: tuple[np.ndarray, Drawn], broken: Path) -> Iterator[Untouched]:
    """Checks after the test that it has left nothing behind."""
    untouched = Untouched(probed, *expected)
    yield untouched
    # Forge gives a file that cannot be read another name, and would leave it out of its list from the next refresh on
    for file in probed.server.checkpoint_folder.glob("*.corrupted"):
        file.rename(file.with_suffix(""))
    untouched.check()


def test_a_good_picture_leaves_nothing_behind(untouched: Untouched) -> None:
    untouched.probed.draw(settings(slot("gamma"), slot("main", prompt="x (y:1.3)"), slot("vpred", noise="independent")))


@pytest.mark.parametrize("call", [1, 3])
@pytest.mark.parametrize("fault", ["exception", "nan", "oom"])
def test_a_fault_of_a_co_model(untouched: Untouched, fault: str, call: int) -> None:
    failed = untouched.probed.fail(AMDM, fault={"fault": fault, "at": "co", "call": call})
    assert failed.status == 500
    assert is_a_sentence(failed.message), failed.message
    assert "co-model 1" in failed.message and '"beta.safetensors"' in failed.message
    told = {"exception": "the probe broke this call", "nan": "NaN", "oom": "memory"}[fault]
    assert told in failed.message
    # nothing waits for a card: NaN is seen an evaluation later
    assert failed.report["denoiser"] == call + (fault == "nan" and untouched.probed.server.card is not None)


@pytest.mark.parametrize("at", ["main", "co"])
@pytest.mark.parametrize("fault", ["interrupt", "skip"])
@pytest.mark.parametrize("sampler", ["Euler", "Heun", "DDIM", "UniPC", "DPM adaptive"])
def test_interrupt_and_skip_in_the_early_steps(untouched: Untouched, sampler: str, fault: str, at: str) -> None:
    drawn = untouched.probed.draw(AMDM, sampler_name=sampler, fault={"fault": fault, "at": at, "call": 2})
    if sampler == "DPM adaptive" and at == "co":
        # the co-model's second evaluation comes as late as the sampler's own steps are small
        assert drawn.report["denoiser"] < untouched.probed.draw(AMDM, sampler_name=sampler).report["denoiser"]
    else:
        assert drawn.report["denoiser"] <= 3
    assert np.isfinite(drawn.latent).all()
    assert drawn.picture.shape == (64, 64, 3)


@pytest.mark.parametrize("fault", ["interrupt", "skip"])
def test_a_skip_ends_one_picture_and_an_interrupt_all(untouched: Untouched, fault: str) -> None:
    drawn = untouched.probed.draw(AMDM, n_iter=2, fault={"fault": fault, "at": "co", "call": 2})
    assert len(drawn.latents) == (2 if fault == "skip" else 1)
    if fault == "skip":
        assert distance(drawn.latents[1], untouched.probed.draw(AMDM, seed=2).latent) == 0


def test_a_fault_of_the_main_model_is_the_webuis(untouched: Untouched) -> None:
    failed = untouched.probed.fail(AMDM, fault={"fault": "exception", "at": "main", "call": 2})
    assert failed.message == "the probe broke this call"


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_file(untouched: Untouched, broken: Path, name: str) -> None:
    file = "malicious.ckpt" if name == "malicious" else f"{name}.safetensors"
    failed = untouched.probed.fail(settings(slot("gamma"), slot(file)))
    assert is_a_sentence(failed.message), failed.message
    assert "co-model 2" in failed.message and f'"{file}"' in failed.message
    assert failed.report["denoiser"] == 0
    assert not broken.exists()


def test_a_name_that_is_not_in_the_list(untouched: Untouched) -> None:
    for name in ("delta.safetensors", str(untouched.probed.server.checkpoint_folder / "beta.safetensors"), "../beta"):
        failed = untouched.probed.fail(settings(slot("gamma"), {"checkpoint": name}))
        assert is_a_sentence(failed.message), failed.message
        assert "co-model 2" in failed.message and name in failed.message
        assert failed.report["opened"] == [], name


def test_a_file_that_is_gone(untouched: Untouched, checkpoint_dir: Path) -> None:
    path = untouched.probed.server.checkpoint_folder / "gone.safetensors"
    path.symlink_to(checkpoint_dir / "beta.safetensors")
    untouched.probed.server.refresh_checkpoints()
    path.unlink()
    try:
        failed = untouched.probed.fail(settings(slot("gone")))
        assert is_a_sentence(failed.message), failed.message
        assert "co-model 1" in failed.message and '"gone.safetensors"' in failed.message
    finally:
        untouched.probed.server.refresh_checkpoints()


def test_a_file_of_a_network_alone_draws_with_the_main_texts_or_says_what_is_missing(
    untouched: Untouched, checkpoint_dir: Path
) -> None:
    """It has the main model's network, so beside that it must draw the main model's own picture."""
    probed = untouched.probed
    path = probed.server.checkpoint_folder / "network.safetensors"
    described = path.with_suffix(".yaml")
    if (checkpoint_dir / "alpha.yaml").is_file():
        described.symlink_to(checkpoint_dir / "alpha.yaml")
    whole = load_file(checkpoint_dir / "alpha.safetensors")
    save_file({key: value for key, value in whole.items() if key.startswith("model.")}, path)
    probed.server.refresh_checkpoints()
    try:
        answer = probed.try_to_draw(mirrored("network"))
        if isinstance(answer, Failed):
            assert is_a_sentence(answer.message), answer.message
            assert '"network.safetensors"' in answer.message and "has no text encoder" in answer.message
            assert answer.report["denoiser"] == 0
        else:
            assert distance(answer.latent, probed.draw().latent) < 1e-4
    finally:
        probed.unload()
        path.unlink()
        described.unlink(missing_ok=True)
        probed.server.refresh_checkpoints()


def test_the_main_checkpoints_file_may_go_elsewhere_once_it_is_loaded(untouched: Untouched) -> None:
    """The WebUI draws on with what it has loaded; so does `main` with its own prompt."""
    probed = untouched.probed
    amdm = [settings(slot("main", prompt=f"a {word} square")) for word in ("blue", "green")]
    there = [probed.draw(each).latent for each in amdm]
    path = probed.server.checkpoint_folder / "alpha.safetensors"
    elsewhere = path.with_suffix(".elsewhere")
    path.rename(elsewhere)
    try:
        gone = [probed.draw(each).latent for each in (*amdm, amdm[0])]
    finally:
        elsewhere.rename(path)
    assert [distance(one, other) for one, other in zip(gone, (*there, there[0]))] == [0, 0, 0]


SD2 = pytest.mark.needs("SD2")
STRANGERS = (
    ("alpha", "inpaint-alpha", "SD1 inpainting"),
    ("inpaint-alpha", "alpha", "SD1"),
    ("inpaint-alpha", "xl-alpha", "SDXL"),
    pytest.param("inpaint-alpha", "sd2-alpha", "SD2", marks=SD2),
    ("xl-alpha", "inpaint-alpha", "SD1 inpainting"),
)


@pytest.mark.parametrize(("main", "co", "kind"), STRANGERS)
def test_another_family(untouched: Untouched, checkpoint_dir: Path, main: str, co: str, kind: str) -> None:
    assert str(family_in(checkpoint_dir / f"{co}.safetensors")) == kind, "the lists would say otherwise"
    probed = untouched.probed
    # once where it is not loaded, and once where it may be from another main model
    for _ in range(2):
        failed = probed.fail(settings(slot(co)), checkpoint=None if main == "alpha" else main)
        assert is_a_sentence(failed.message), failed.message
        assert "co-model 1" in failed.message and f"{co}.safetensors" in failed.message and f"{main}." in failed.message
        assert f" is {kind}," in failed.message
        assert ": inpainting models are also shown the mask" in failed.message
        assert failed.report["denoiser"] == 0
    if main != "alpha":
        probed.draw()
        untouched.snapshot.update({key: value for key, value in probed.snapshot().items() if key in LOADED_ANEW})


@pytest.mark.needs("rectified flow")
def test_a_flow_model_beside_another_family_is_run_through_pixels(probed: Probed, checkpoint_dir: Path) -> None:
    """The host knows it by nothing but its name."""
    path, simple = probed.server.checkpoint_folder / "rectified-xl.safetensors", {"scheduler": "Simple"}
    path.symlink_to(checkpoint_dir / "xl-alpha.safetensors")
    probed.server.refresh_checkpoints()
    try:
        for main, co in (("alpha", "rectified-xl"), ("rectified-xl", "alpha")):
            plain = probed.draw(checkpoint=main, **simple)
            drawn = probed.draw(settings(slot(co, size=0), eta=0), checkpoint=main, **simple)
            assert np.isfinite(plain.latent).all() and np.isfinite(drawn.latent).all()
            assert drawn.report["co_models"] == [2] and distance(drawn.latent, plain.latent) > 0
            assert distance(probed.draw(checkpoint=main, **simple).latent, plain.latent) == 0
    finally:
        path.unlink()
        probed.server.refresh_checkpoints()
        probed.draw()


LOADED_ANEW = ("model", "hijack", "loaded", "vae", "unet", "lowvram", "patchers", "loading")
"""Identities that the WebUI itself changes when a request names another main checkpoint."""


def test_a_loaded_co_model_of_another_family(probed: Probed) -> None:
    # as in a run that has used it beside a main model of its own kind
    probed.draw(settings(slot("beta")))
    assert "beta.safetensors" in probed.models()
    failed = probed.fail(settings(slot("beta")), checkpoint="inpaint-alpha")
    assert " is SD1," in failed.message and "co-model 1" in failed.message
    probed.draw()
    probed.unload()


BAD_SETTINGS: tuple[tuple[Any, str], ...] = (
    ({"enabled": True, "stepz": 3}, '"stepz"'),
    (settings(slot(gama=0.5)), '"gama of co-model 1"'),
    (settings(slot(), slot(gamma=1.5)), '"gamma of co-model 2"'),
    (settings(slot(gamma="0.5")), '"gamma of co-model 1"'),
    (settings(slot(gamma=True)), '"gamma of co-model 1"'),
    (settings(steps=2.5), '"steps"'),
    (settings(steps=-2), '"steps"'),
    (settings(eta=2), '"eta"'),
    (settings(slot(eta=45)), '"eta of co-model 1"'),
    (settings(slot(noise="own")), '"noise of co-model 1"'),
    (settings(**{"pass": "second"}), '"pass"'),
    (settings(correction="best"), '"correction"'),
    (settings(slot(cfg_scale=31)), '"cfg_scale of co-model 1"'),
    (settings(slot(prompt=["a"])), '"prompt of co-model 1"'),
    ({"enabled": True, "co_models": {"checkpoint": "beta"}}, '"co_models"'),
    ({"enabled": True, "co_models": ["beta.safetensors"]}, '"co-model 1"'),
    (settings(*[slot()] * 11), '"co_models"'),
    ({"enabled": "yes"}, '"enabled"'),
    (["text"], "AMDM"),
    ([True, 3], "AMDM"),
)


@pytest.mark.parametrize(("given", "named"), BAD_SETTINGS, ids=[named for _, named in BAD_SETTINGS])
def test_a_bad_setting_is_named(probed: Probed, given: Any, named: str) -> None:
    answer = probed.try_to_draw(given)
    if isinstance(given, list):
        # the WebUI fills a short list up with the panel's own values, so it may well be a whole one
        assert not isinstance(answer, Failed) or is_a_sentence(answer.message)
        return
    assert isinstance(answer, Failed), "a picture came"
    assert is_a_sentence(answer.message), answer.message
    assert named in answer.message
    assert answer.report["denoiser"] == 0
    assert answer.report["opened"] == []


@pytest.mark.parametrize("network", ["lora", "hypernet"])
def test_a_network_in_a_slots_prompt_that_cannot_be_used(untouched: Untouched, network: str) -> None:
    failed = untouched.probed.fail(settings(slot(prompt=f"a cat <{network}:x:1>")))
    assert is_a_sentence(failed.message), failed.message
    assert "co-model 1" in failed.message and network in failed.message.lower()
    assert failed.report["denoiser"] == 0


class TestGoingOn:
    """With the option to go on without AMDM."""

    def draw(self, probed: Probed, amdm: Any, **parameters: Any) -> Any:
        return probed.with_options({"amdm_on_error": GO_ON}, lambda: probed.draw(amdm, **parameters))

    @pytest.mark.parametrize("co", ["truncated", "delta", "inpaint-alpha"])
    def test_what_fails_before_the_first_step(self, untouched: Untouched, co: str) -> None:
        drawn = self.draw(untouched.probed, settings(slot(co)))
        assert np.array_equal(drawn.picture, untouched.bare)
        assert "AMDM" not in drawn.infotext
        assert is_a_sentence(drawn.comments) and "co-model 1" in drawn.comments and co in drawn.comments

    def test_a_bad_setting(self, untouched: Untouched) -> None:
        drawn = self.draw(untouched.probed, settings(slot(gamma=2)))
        assert np.array_equal(drawn.picture, untouched.bare)
        assert "AMDM" not in drawn.infotext
        assert '"gamma of co-model 1"' in drawn.comments

    @pytest.mark.parametrize("fault", ["exception", "nan", "oom"])
    def test_what_fails_in_the_first_step(self, untouched: Untouched, fault: str) -> None:
        drawn = self.draw(untouched.probed, AMDM, fault={"fault": fault, "call": 1})
        assert is_a_sentence(drawn.comments) and "co-model 1" in drawn.comments
        if fault == "nan" and untouched.probed.server.card is not None:
            # nothing waits for a card: the first step is over when it is seen
            assert np.isfinite(drawn.latent).all()
            return
        assert np.array_equal(drawn.picture, untouched.bare)
        assert "AMDM" not in drawn.infotext

    def test_what_fails_later(self, untouched: Untouched) -> None:
        drawn = self.draw(untouched.probed, AMDM, fault={"fault": "exception", "call": 3})
        two = untouched.probed.draw({**AMDM, "steps": 2})
        assert distance(drawn.latent, two.latent) == 0
        assert "co-model 1" in drawn.comments

    def test_a_comment_is_of_its_own_picture(self, untouched: Untouched) -> None:
        self.draw(untouched.probed, settings(slot("delta")))
        assert untouched.probed.draw(AMDM).comments == ""


def test_the_log_has_no_path_of_a_request(probed: Probed) -> None:
    before = len(probed.server.log)
    probed.fail(settings({"checkpoint": os.devnull}))
    assert not re.search(r"^\*\*\* Error running", probed.server.log[before:], re.M)
