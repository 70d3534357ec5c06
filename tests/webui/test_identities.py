"""Identities that must hold exactly, for every sampler and scheduler the WebUI lists.

AMDM_TABLE=table.md writes what was measured as the tables of docs/measurements/identities.md, table-a1111.md and so on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from .hosts import ALL_SAMPLERS, ALL_SCHEDULERS, Host
from .probed import STEPS, Drawn, Failed, Probed, distance, mirrored, settings, slot
from .webui_server import WebUI

# these evaluate more than once in a step, and only the first evaluation is the co-model's own
SEVERAL = {"DPM++ SDE", "DPM++ 2S a", "Heun", "DPM2", "DPM2 a", "Restart", "PLMS", "HeunPP2", "Kohaku LoNyu Yog"}
# the direction of its steps is the main model's negative prompt's
OF_THE_NEGATIVE_PROMPT = {"DDIM CFG++", "DPM++ 2M CFG++", "Euler a CFG++", "Euler CFG++"}
# chooses its steps by what the models say, to the last bit
BY_THE_PREDICTION = {"DPM adaptive"}
ONCE_A_STEP = [
    sampler for sampler in ALL_SAMPLERS if sampler not in SEVERAL | OF_THE_NEGATIVE_PROMPT | BY_THE_PREDICTION
]
TWO = ("Euler", "DDIM")
CLOSE = 1e-4
# gamma = 0 would not be run at all; this one is, and no float32 mix of two latents can show it
NOTHING = 1e-30
FORCED = settings(slot(gamma=NOTHING, eta=0), eta=0)
MIXED = settings(slot())
OFF = {
    "enabled = false": settings(enabled=False),
    "K = 0": settings(steps=0),
    "every gamma = 0": settings(slot(gamma=0), slot("gamma", gamma=0)),
}
ROWS = (
    "off, K = 0, all gamma 0: picture",
    "gamma -> 0, eta 0: latent",
    "co-model = main: latent",
    "co-model alone: latent",
    "batch of 2: latents (bare host's own)",
    "same seed twice: latent",
    "random stream moved",
)


class Table:
    """The measurements, by sampler and row."""

    def __init__(self) -> None:
        self.cells: dict[str, dict[str, str]] = {}

    def put(self, sampler: str, row: str, value: float | str) -> None:
        text = value if isinstance(value, str) else "0" if value == 0 else f"{value:.1e}"
        self.cells.setdefault(sampler, {})[row] = text

    def markdown(self) -> str:
        lines = ["| sampler | " + " | ".join(ROWS) + " |", "|" + "---|" * (len(ROWS) + 1)]
        for sampler in sorted(self.cells):
            lines.append(f"| {sampler} | " + " | ".join(self.cells[sampler].get(row, "") for row in ROWS) + " |")
        return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def table(webui_host: Host) -> Iterator[Table]:
    table = Table()
    yield table
    if os.environ.get("AMDM_TABLE"):
        path = Path(os.environ["AMDM_TABLE"])
        path.with_stem(f"{path.stem}-{webui_host.name}").write_text(table.markdown())


class Cases:
    """Pictures that more than one test needs, each drawn once."""

    def __init__(self, probed: Probed) -> None:
        self.probed = probed

    @cache  # noqa: B019
    def plain(self, sampler: str, seed: int = 1) -> Drawn:
        return self.probed.draw(sampler_name=sampler, seed=seed)

    @cache  # noqa: B019
    def mixed(self, sampler: str, seed: int = 1) -> Drawn:
        return self.probed.draw(MIXED, sampler_name=sampler, seed=seed)


@pytest.fixture(scope="module")
def cases(probed: Probed) -> Cases:
    return Cases(probed)


def test_all_samplers_and_schedulers_are_tested(probed: Probed) -> None:
    host = probed.server.host
    samplers = {each["name"] for each in probed.server.call("/sdapi/v1/samplers")}
    assert samplers == set(host.samplers) if not host.more_samplers else samplers > set(host.samplers)
    assert {each["name"] for each in probed.server.call("/sdapi/v1/schedulers")} == set(host.schedulers)


@pytest.mark.parametrize("sampler", ALL_SAMPLERS)
def test_off_is_the_bare_webui(probed: Probed, bare_webui: WebUI, cases: Cases, sampler: str, table: Table) -> None:
    bare = bare_webui.pixels(bare_webui.txt2img(sampler_name=sampler, steps=STEPS))[0]
    assert np.array_equal(cases.plain(sampler).picture, bare)
    for name, off in OFF.items():
        drawn = probed.draw(off, sampler_name=sampler)
        assert np.array_equal(drawn.picture, bare), name
        assert "AMDM" not in drawn.infotext, name
        assert drawn.report["unet"]["co"] == 0, name
    table.put(sampler, ROWS[0], 0.0)


@pytest.mark.parametrize("sampler", ALL_SAMPLERS)
def test_a_vanishing_gamma_changes_nothing(probed: Probed, cases: Cases, sampler: str, table: Table) -> None:
    drawn = probed.draw(FORCED, sampler_name=sampler)
    assert drawn.report["unet"]["co"] > 0
    off = distance(drawn.latent, cases.plain(sampler).latent)
    table.put(sampler, ROWS[1], off)
    assert off == 0


@pytest.mark.parametrize("sampler", ALL_SAMPLERS)
def test_the_main_checkpoint_as_its_own_co_model(probed: Probed, cases: Cases, sampler: str, table: Table) -> None:
    drawn = probed.draw(mirrored(), sampler_name=sampler)
    assert drawn.report["unet"]["co"] > 0
    off = distance(drawn.latent, cases.plain(sampler).latent)
    seldom = probed.draw(mirrored(evaluations=2), sampler_name=sampler)
    assert seldom.report["unet"]["co"] == 2
    off = max(off, distance(seldom.latent, cases.plain(sampler).latent))
    table.put(sampler, ROWS[2], off)
    assert off < CLOSE * max(1, np.abs(cases.plain(sampler).latent).max()) or sampler in BY_THE_PREDICTION
    assert np.isfinite(off)


@pytest.mark.parametrize("sampler", TWO)
def test_main_as_a_co_model_needs_no_second_unet(probed: Probed, cases: Cases, sampler: str) -> None:
    drawn = probed.draw(mirrored("main"), sampler_name=sampler)
    assert drawn.report["unet"]["co"] == 0
    assert drawn.report["unet"]["main"] > cases.plain(sampler).report["unet"]["main"]
    assert distance(drawn.latent, cases.plain(sampler).latent) < CLOSE


@pytest.mark.parametrize("sampler", TWO)
def test_main_as_a_co_model_with_a_prompt_of_its_own(probed: Probed, sampler: str) -> None:
    alone = probed.draw(sampler_name=sampler, prompt="a blue circle", negative_prompt="red")
    own = slot("main", gamma=1, eta=0, prompt="a blue circle", negative_prompt="red")
    drawn = probed.draw(settings(own, eta=0, steps=STEPS), sampler_name=sampler)
    assert distance(drawn.latent, alone.latent) < CLOSE


@pytest.mark.parametrize("sampler", ONCE_A_STEP)
def test_gamma_1_is_the_co_model_alone(probed: Probed, cases: Cases, sampler: str, table: Table) -> None:
    drawn = probed.draw(settings(slot(gamma=1, eta=0), eta=0, steps=150), sampler_name=sampler)
    alone = probed.draw(sampler_name=sampler, checkpoint="beta")
    off = distance(drawn.latent, alone.latent)
    table.put(sampler, ROWS[3], off)
    assert off < CLOSE * max(1, np.abs(alone.latent).max())
    assert distance(drawn.latent, cases.plain(sampler).latent) > 0.1


@pytest.mark.parametrize("main", ["alpha", "vpred"])
@pytest.mark.parametrize("co", ["beta", "vpred"])
def test_the_prediction_is_the_hosts_own(probed: Probed, main: str, co: str) -> None:
    """A single step of Euler to noise level 0 gives the prediction itself."""
    own = settings(slot(co, gamma=1, eta=0), eta=0, steps=1)
    drawn = probed.draw(own, checkpoint=main, steps=1, negative_prompt="a blue circle")
    alone = probed.draw(checkpoint=co, steps=1, negative_prompt="a blue circle")
    assert drawn.report["co_models"] == [1]
    assert distance(drawn.latent, alone.latent) < 1e-5


@pytest.mark.parametrize("sampler", ALL_SAMPLERS)
def test_a_batch_equals_single_pictures(probed: Probed, cases: Cases, sampler: str, table: Table) -> None:
    if sampler == "DPM adaptive":
        pytest.skip("its steps depend on all pictures of the batch, without AMDM too")
    if sampler == "DDPM":
        pytest.skip("Forge draws its noise for the whole batch at once, without AMDM too")
    offs = []
    for amdm, single in ((None, cases.plain), (MIXED, cases.mixed)):
        batch = probed.draw(amdm, sampler_name=sampler, batch_size=2).latent
        singles = np.concatenate([single(sampler, seed).latent for seed in (1, 2)])
        offs.append(distance(batch, singles))
    bare, ours = offs
    table.put(sampler, ROWS[4], f"{ours:.1e} ({bare:.1e})")
    # larger matrix products add in another order, and what that changes grows from step to step; a picture that took
    # anything from its neighbour would be as far off as another seed's. DDIM CFG++ divides what the rounding of a mix
    # changes by the first step's small alpha
    assert ours < max(20 * bare, 1e-3)
    assert bare < 5e-4


@pytest.mark.parametrize("sampler", ALL_SAMPLERS)
def test_the_same_seed_is_the_same_picture(probed: Probed, cases: Cases, sampler: str, table: Table) -> None:
    first = cases.mixed(sampler)
    off = distance(probed.draw(MIXED, sampler_name=sampler).latent, first.latent)
    table.put(sampler, ROWS[5], off)
    assert off == 0
    assert distance(first.latent, cases.plain(sampler).latent) > 1e-3
    assert distance(first.latent, cases.mixed(sampler, 2).latent) > 0.1


@pytest.mark.parametrize("sampler", ALL_SAMPLERS)
def test_the_random_stream_is_the_webuis_own(cases: Cases, sampler: str, table: Table) -> None:
    plain, mixed = cases.plain(sampler).report, cases.mixed(sampler).report
    assert not mixed["process random moved"]
    moved = plain["random"] != mixed["random"]
    table.put(sampler, ROWS[6], "it takes other steps" if moved else "no")
    assert not moved or sampler in BY_THE_PREDICTION


def test_further_samplers_draw_with_co_models(probed: Probed) -> None:
    """K evaluations of the co-model, and the same picture twice, for every sampler that can draw here at all."""
    wrong = {}
    host = probed.server.host
    listed = {each["name"] for each in probed.server.call("/sdapi/v1/samplers")}
    for name in listed - set(host.samplers):
        alone = probed.try_to_draw(sampler_name=name)
        if isinstance(alone, Failed) or not np.isfinite(alone.latent).all():
            continue
        first, second = (probed.try_to_draw(MIXED, sampler_name=name) for _ in range(2))
        if isinstance(first, Failed) or isinstance(second, Failed):
            wrong[name] = first.message if isinstance(first, Failed) else "fails the second time"
        elif not _evaluations_of(host, name, first) or distance(first.latent, second.latent) > 0:
            wrong[name] = f"{first.report['unet']['co']} evaluations, {distance(first.latent, second.latent)} apart"
    assert wrong == {}


def _evaluations_of(host: Host, sampler: str, drawn: Drawn) -> bool:
    """Return True if the co-model was evaluated K times, or at least once where steps show a smaller latent alone."""
    evaluations = drawn.report["unet"]["co"]
    return 1 <= evaluations <= MIXED["steps"] if sampler in host.smaller else evaluations == MIXED["steps"]


def test_independent_noise_is_not_the_webuis(probed: Probed, cases: Cases) -> None:
    own = [slot(name, noise="independent") for name in ("beta", "gamma")]
    drawn = probed.draw(settings(*own), sampler_name="Euler a")
    assert drawn.report["random"] == cases.plain("Euler a").report["random"]
    assert not drawn.report["process random moved"]


@pytest.mark.parametrize("scheduler", ALL_SCHEDULERS)
def test_every_scheduler_draws_the_same_twice(probed: Probed, scheduler: str) -> None:
    drawn, again = (probed.draw(MIXED, scheduler=scheduler) for _ in range(2))
    assert distance(drawn.latent, again.latent) == 0
    assert drawn.report["unet"]["co"] == MIXED["steps"]
    plain, mirror = probed.draw(scheduler=scheduler), probed.draw(mirrored(), scheduler=scheduler)
    assert distance(mirror.latent, plain.latent) < CLOSE
    assert distance(drawn.latent, plain.latent) > 1e-3
