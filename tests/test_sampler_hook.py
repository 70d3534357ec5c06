"""The sampler hook: it stands in for a sampler's function, and leaves nothing behind."""

from __future__ import annotations

import functools
import gc
import inspect
import itertools
import json
import re
import traceback
import weakref
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lib_amdm import CoRun, Pass
from lib_amdm.adapters.base import AdapterInfo
from lib_amdm.core.sampling import NothingMixedError
from lib_amdm.errors import AdapterError, AmdmError
from lib_amdm.hosts.protocol import PassOptions, Ran
from lib_amdm.settings import AUTO, AdapterSettings, CoModel, Settings, SettingsError
from lib_amdm.webui import infotext, sampler_hook

SETTINGS = Settings(enabled=True, co_models=(CoModel(checkpoint="other"),))
ADAPTED = AdapterSettings(adapter="ip.safetensors")


def sample_plain(
    model: Any, x: torch.Tensor, sigmas: torch.Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None
) -> Any:
    """A sampler that says what it was called with."""
    return model, x, sigmas


class Note:
    """A stand-in that notes that it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def sample(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        self.asked += 1
        return func(*args, **kwargs)


@pytest.fixture
def sampler() -> Any:
    return SimpleNamespace(func=sample_plain)


def test_the_stand_in_has_the_signature_that_the_host_reads(sampler: Any) -> None:
    sampler_hook.attach(sampler, Note())
    assert inspect.signature(sampler.func) == inspect.signature(sample_plain)
    assert sampler.func("m", "x", sigmas="s", callback=None) == ("m", "x", "s")


def test_nothing_to_run_leaves_the_sampler_as_it_was(sampler: Any) -> None:
    before = dict(vars(sampler))
    sampler_hook.attach(sampler, None)
    assert vars(sampler) == before


def test_a_sampler_that_lives_on_is_pointed_at_the_next_run_and_never_wrapped_twice(sampler: Any) -> None:
    first, second = Note(), Note()
    sampler_hook.attach(sampler, first)
    wrapped = sampler.func
    sampler_hook.attach(sampler, second)
    assert sampler.func is wrapped
    sampler.func("m", "x", sigmas="s")
    assert (first.asked, second.asked) == (0, 1)
    assert sampler_hook.original(sampler) is sample_plain
    sampler_hook.attach(sampler, None)
    assert vars(sampler) == {"func": sample_plain}


def test_another_extensions_wrapper_around_ours_stays_and_ours_falls_silent(sampler: Any) -> None:
    note = Note()
    sampler_hook.attach(sampler, note)

    @functools.wraps(sampler.func)
    def theirs(*args: Any, __inner: Any = sampler.func, **kwargs: Any) -> Any:
        return ("theirs", *__inner(*args, **kwargs))

    sampler.func = theirs
    sampler_hook.attach(sampler, None)
    assert sampler.func("m", "x", sigmas="s") == ("theirs", "m", "x", "s")
    assert note.asked == 0


class FakeRun:
    """A host's run whose one co-model predicts zero."""

    stopped = False

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.finished, self.evaluations = error, 0, 0
        self.adapted: AdapterSettings | None = None
        self.slots: list[tuple[int, CoModel]] = []
        self.steps = 0

    def adapt_main(self, adapted: Any) -> None:
        self.adapted = adapted

    def load_co_models(self, slots: Any) -> Any:
        self.slots = slots
        if self.error:
            raise self.error

        def denoise(x: torch.Tensor, sigma: torch.Tensor) -> Any:
            self.evaluations += 1
            return torch.zeros_like(x)

        return [CoRun(denoise, gamma=slot.gamma, gamma_end=slot.gamma_end, eta=slot.eta) for _, slot in slots]

    def worded(self, error: Any) -> Any:
        return AmdmError("AMDM: no memory is left.") if isinstance(error, MemoryError) else error

    def sampled_pass(self) -> Any:
        def note(done: Any, steps: int) -> None:
            self.steps = done

        return Pass(on_mixed=note, survives=lambda error: isinstance(error, NothingMixedError))

    def start(self) -> None:
        pass

    def titles(self) -> Any:
        return {1: "other.safetensors [abc]"}

    def finish(self, pool_limit: Any) -> Any:
        self.finished += 1
        ran = Ran(self.steps, 4, [("other.safetensors [abc]", self.evaluations)], 0.25, 1.5)
        return ran if self.evaluations or self.adapted else None


def host_with(host_run: FakeRun, hires: bool = False) -> SimpleNamespace:
    host = SimpleNamespace(comments=[])
    host.run = lambda *_: host_run
    host.adapter_info = lambda name: AdapterInfo("ip-adapter", "SD1", "plain", name) if "ip" in name else None
    host.is_hires_pass = lambda p: hires
    host.comment = lambda p, text: host.comments.append(text)
    return host


def prepared(
    host: Any, sampler: Any, settings: Any = SETTINGS, continue_on_error: Any = False, enable_hr: Any = False
) -> Any:
    p = SimpleNamespace(sampler=sampler, extra_generation_params={"Model": "main"}, enable_hr=enable_hr)
    return p, sampler_hook.prepare(host, p, lambda: settings, PassOptions(continue_on_error), 2, {})


def picture(settings: Any = SETTINGS, run: Any = None, func: Any = None, hires: Any = False, **more: Any) -> Any:
    """A pass that is prepared and hooked: its host, run, sampler, picture, and what was chosen."""
    host_run = run or FakeRun()
    host, sampler = host_with(host_run, hires), SimpleNamespace(func=func or euler)
    p, chosen = prepared(host, sampler, settings, **more)
    sampler_hook.attach(sampler, chosen)
    return SimpleNamespace(host=host, run=host_run, sampler=sampler, p=p, chosen=chosen)


def euler(
    model: Any, x: torch.Tensor, sigmas: torch.Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None
) -> Any:
    for sigma, sigma_next in itertools.pairwise(sigmas):
        x = x + (x - model(x, sigma * x.new_ones(len(x)))) / sigma * (sigma_next - sigma)
    return x


def draw(sampler: Any, model: Any = lambda x, sigma: x / (1 + sigma**2).view(-1, 1, 1, 1)) -> Any:
    return sampler.func(model, torch.ones(1, 1, 2, 2), sigmas=torch.tensor([3.0, 2.0, 1.0, 0.5, 0.0]))


@pytest.mark.parametrize(
    ("steps", "evaluations", "ran"), [(3, AUTO, 3), (3, 0, 3), (4, 2, 2), (2, 150, 2), (AUTO, 1, 1), (AUTO, 0, 3)]
)
def test_what_ran_is_written_after_it_ran(steps: int, evaluations: Any, ran: Any) -> None:
    it = picture(replace(SETTINGS, steps=steps, evaluations=evaluations))
    assert "AMDM" not in it.p.extra_generation_params
    draw(it.sampler)
    assert (it.run.evaluations, it.run.finished) == (ran, 1)
    entries = {"AMDM steps": "auto" if steps == AUTO else str(steps), "AMDM 1 checkpoint": "other.safetensors [abc]"}
    mixed = 3 if steps == AUTO else min(steps, 4)
    counted = "1 evaluation" if ran == 1 else f"{ran} evaluations"
    entries["AMDM ran"] = f"2 models, {mixed} of 4 steps, {counted} of other, +0.2 s of 1.5 s"
    assert entries.items() <= it.p.extra_generation_params.items()
    data = json.loads(json.dumps(it.p.extra_generation_params))["AMDM passes"]
    evaluations = [{"checkpoint": "other.safetensors [abc]", "evaluations": ran}]
    counts = {"steps": mixed, "pass_steps": 4, "evaluations": evaluations, "vae_calls": 0}
    assert data == {"first": {**counts, "seconds": 0.25, "pass_seconds": 1.5, "vae_seconds": None}}
    assert it.p.extra_generation_params["AMDM passes"](index=0) is None, "it is no part of the infotext"


def test_seconds_that_no_one_knows_are_not_written() -> None:
    ran = Ran(2, 4, [("other.safetensors", 3)], None, None)
    assert infotext.ran_line(ran) == "2 models, 2 of 4 steps, 3 evaluations of other"
    assert (
        infotext.ran_line(ran._replace(vae_calls=12)) == "2 models, 2 of 4 steps, 3 evaluations of other, 12 VAE calls"
    )


def test_the_seconds_of_the_vaes_are_written_apart() -> None:
    ran = Ran(2, 4, [("other.safetensors", 3)], 2.5, 9.0, 12, 1.25)
    assert infotext.ran_line(ran).endswith("3 evaluations of other, +2.5 s of 9.0 s, 1.2 s of them in 12 VAE calls")


def test_nothing_is_written_where_no_co_model_ran_and_the_run_is_finished_all_the_same() -> None:
    it = picture()

    def breaks(x: torch.Tensor, sigma: torch.Tensor) -> None:
        raise RuntimeError("main model")

    with pytest.raises(RuntimeError, match="main model"):
        draw(it.sampler, breaks)
    assert it.run.finished == 1
    assert it.p.extra_generation_params == {"Model": "main"}


@pytest.mark.parametrize("continue_on_error", [False, True])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AmdmError("AMDM co-model 1: broken"), "AMDM co-model 1: broken"),
        (SettingsError("AMDM: wrong"), "AMDM: wrong"),
        (MemoryError(), "AMDM: no memory is left."),
        (KeyError("unet"), "AMDM: preparing the co-models failed (KeyError: 'unet')"),
    ],
)
def test_what_is_wrong_before_a_pass_is_raised_from_the_sampler_or_said_with_the_main_models_picture(
    error: Any, said: Any, continue_on_error: Any
) -> None:
    it, evaluated = picture(run=FakeRun(error), continue_on_error=continue_on_error), []
    assert it.run.finished == 1, "what was loaded before the failure is kept beyond the user's limit"
    if continue_on_error:
        [comment] = it.host.comments
        assert comment.startswith(said) and it.sampler.func is euler
        return
    with pytest.raises((AmdmError, SettingsError)) as caught:
        draw(it.sampler, lambda x, sigma: evaluated.append(sigma))
    assert str(caught.value).startswith(said) and error in (caught.value, caught.value.__cause__)
    assert evaluated == []


@pytest.mark.parametrize("which", ["first", "hires", "both", "detailer", "all"])
@pytest.mark.parametrize("hires", [False, True])
def test_the_slots_run_in_their_pass_and_the_main_adapter_in_every_one(which: Any, hires: Any) -> None:
    runs = which in ("both", "all", "hires" if hires else "first")
    settings = replace(SETTINGS, which_pass=which)
    it = picture(settings, hires=hires, enable_hr=True)
    assert (it.chosen is not None) == runs
    assert it.host.comments == []
    it = picture(replace(settings, main_adapter=ADAPTED), hires=hires, enable_hr=True)
    assert it.run.adapted == ADAPTED
    assert len(it.run.slots) == len(it.chosen.co_models) == runs


@pytest.mark.parametrize("which", ["first", "hires", "both", "detailer", "all"])
def test_details_run_if_the_pass_includes_them_and_are_written_for_their_picture(which: Any) -> None:
    settings = replace(SETTINGS, which_pass=which, main_adapter=ADAPTED)
    written: dict[str, Any] = {}
    for _ in range(2):
        run = FakeRun()
        p = SimpleNamespace(sampler=SimpleNamespace(func=euler), extra_generation_params={"AMDM ran": "2 models"})
        options = PassOptions()
        chosen = sampler_hook.prepare(host_with(run), p, lambda: settings, options, 2, {}, written)
        assert (chosen is not None) == (which in ("detailer", "all"))
        if chosen is None:
            assert run.adapted is None
            continue
        sampler_hook.attach(p.sampler, chosen)
        draw(p.sampler)
        assert run.adapted == ADAPTED
        assert p.extra_generation_params == {"AMDM ran": "2 models"}
    if not written:
        return
    assert list(written["AMDM passes"]) == ["detail 1", "detail 2"]
    assert re.fullmatch("detail 1: 2 models, 3 of 4 steps, .*; detail 2: 2 models, .*", written["AMDM ran"])
    assert written["AMDM pass"] == which


def test_what_an_adapter_does_not_look_at_is_neither_run_nor_written() -> None:
    adapted: dict[str, Any] = {"adapter": "ip.safetensors", "image": "a picture", "layout": "a boy: 0 0 1 1"}
    it = picture(replace(SETTINGS, co_models=(CoModel(checkpoint="other", **adapted),)))
    draw(it.sampler)
    [(_, ran)] = it.run.slots
    assert (ran.image, ran.layout) == ("a picture", "")
    assert "AMDM 1 adapter" in it.p.extra_generation_params
    assert "AMDM 1 adapter layout" not in it.p.extra_generation_params


def test_a_pass_that_never_comes_is_said() -> None:
    it = picture(replace(SETTINGS, which_pass="hires"))
    assert it.chosen is None
    assert "hires fix is off" in it.host.comments[0]


def test_a_model_that_failed_before_a_pass_is_free_when_the_pass_ends() -> None:
    """The error of its evaluation knows nothing of it, but the calls that it came through did."""

    class FailingRun(FakeRun):
        is_left: bool

        def load_co_models(self, slots: Any) -> None:
            with in_words():
                model = torch.nn.Linear(1, 1)
                self.model = weakref.ref(model)
                raise MemoryError

        def finish(self, pool_limit: Any) -> Any:
            gc.collect()
            self.is_left = self.model() is not None
            return super().finish(pool_limit)

    @contextmanager
    def in_words() -> Any:
        try:
            yield
        except MemoryError as error:
            traceback.clear_frames(error.__traceback__)
            error.__traceback__ = None
            raise AmdmError("AMDM: no memory is left.") from error

    run = FailingRun()
    _, chosen = prepared(host_with(run), SimpleNamespace(func=euler))
    assert not run.is_left
    with pytest.raises(AmdmError, match="no memory"):
        chosen.sample(euler)


@pytest.mark.parametrize("which", ["first", "hires", "both"])
def test_off_is_no_work(which: Any) -> None:
    """The host that is handed over can do nothing at all."""
    host, p = SimpleNamespace(), SimpleNamespace()
    assert sampler_hook.prepare(host, p, lambda: Settings(which_pass=which), PassOptions(), 2, {}) is None


@pytest.mark.parametrize(
    ("idle", "remedy"),
    [
        ({"steps": 0}, "raise steps"),
        ({"steps": 2, "start": 2}, "lower start"),
        ({"co_models": (replace(SETTINGS.co_models[0], gamma=0),)}, "raise gamma"),
        ({"co_models": (replace(SETTINGS.co_models[0], enabled=False),)}, "switch one on"),
        ({"co_models": (CoModel(),)}, "choose a checkpoint"),
        ({"main_adapter": AdapterSettings(adapter="ip.safetensors", strength=0)}, "has strength 0"),
    ],
)
@pytest.mark.parametrize("hires", [False, True])
def test_what_is_meant_to_run_and_does_not_is_said_with_the_picture(idle: Any, remedy: Any, hires: Any) -> None:
    it = picture(replace(SETTINGS, **idle), hires=hires, enable_hr=True)
    [said] = it.host.comments
    assert said.startswith("AMDM: ") and remedy in said
    assert it.p.extra_generation_params == {"Model": "main"}
    assert it.run.adapted is None, "an adapter that does nothing is not prepared"


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(SETTINGS, enabled=False, steps=0),
        replace(SETTINGS, co_models=(replace(SETTINGS.co_models[0], gamma=0, gamma_end=0.8),)),
        replace(SETTINGS, co_models=(*SETTINGS.co_models, CoModel(), replace(SETTINGS.co_models[0], enabled=False))),
        Settings(enabled=True, main_adapter=AdapterSettings(adapter="ip.safetensors")),
    ],
)
def test_what_runs_as_it_is_meant_to_says_nothing(settings: Any) -> None:
    it = picture(settings)
    draw(it.sampler)
    assert it.host.comments == []


@pytest.mark.parametrize("steps", [AUTO, 150])
def test_a_start_beyond_the_pictures_own_steps_is_said(steps: int) -> None:
    it = picture(replace(SETTINGS, steps=steps, start=4))
    assert torch.equal(draw(it.sampler), draw(SimpleNamespace(func=euler)))
    assert it.host.comments == ["AMDM: no step was mixed; start is 4, and fewer steps are mixed: lower it."]
    assert it.p.extra_generation_params == {"Model": "main"}, "nothing is written of what did nothing"


@pytest.mark.parametrize("stopped", [False, True])
def test_a_sampler_that_shows_no_step_is_said_unless_the_run_was_stopped(stopped: Any) -> None:
    """A run that stopped has said why itself."""
    it = picture(func=lambda model, x, sigmas, **_: x)
    it.run.stopped = stopped
    draw(it.sampler)
    assert len(it.host.comments) == (not stopped)
    for said in it.host.comments:
        assert said.startswith("AMDM: no step was mixed; ") and "denoising strength" in said


@pytest.mark.parametrize("idle", [{"steps": 0}, {"steps": 2, "start": 2}, {"co_models": ()}])
def test_a_main_adapter_needs_no_step_and_no_slot(idle: Any) -> None:
    it = picture(replace(SETTINGS, main_adapter=ADAPTED, **idle))
    assert it.run.adapted == ADAPTED and it.chosen.co_models == []
    assert torch.equal(draw(it.sampler), draw(SimpleNamespace(func=euler)))
    assert it.run.finished == 1
    entries = it.p.extra_generation_params
    assert entries["AMDM main adapter"] == "ip.safetensors" and "AMDM 1 checkpoint" not in entries
    without = picture(replace(SETTINGS, main_adapter=replace(ADAPTED, strength=0)))
    assert without.run.adapted is None and len(without.run.slots) == 1, "one that does nothing is not prepared"


def test_what_an_adapter_complains_of_in_the_middle_is_raised_as_ours() -> None:
    it = picture(replace(SETTINGS, main_adapter=ADAPTED))

    def breaks(x: torch.Tensor, sigma: torch.Tensor) -> None:
        raise AdapterError("something replaced the attention; switch it off.")

    with pytest.raises(AmdmError, match="AMDM: something replaced the attention"):
        draw(it.sampler, breaks)


def test_a_hires_pass_writes_behind_what_the_first_pass_wrote() -> None:
    settings = replace(SETTINGS, which_pass="both")
    it = picture(settings)
    draw(it.sampler)
    first = it.p.extra_generation_params["AMDM ran"]
    for hires in (True, False):
        again = host_with(FakeRun(), hires=hires)
        sampler_hook.attach(it.sampler, sampler_hook.prepare(again, it.p, lambda: settings, PassOptions(), 2, {}))
        draw(it.sampler)
        assert it.p.extra_generation_params["AMDM ran"] == (f"{first}; hires fix: {first}" if hires else first)


@pytest.mark.parametrize("error", [MemoryError("raw"), ValueError("raw")])
def test_an_error_of_the_sampling_is_raised_in_the_hosts_words_where_it_has_some(sampler: Any, error: Any) -> None:
    run = FakeRun()

    def fails(model: Any, x: torch.Tensor, sigmas: torch.Tensor, **kwargs: Any) -> None:
        raise error

    stand_in = sampler_hook.MixedSampling(SimpleNamespace(extra_generation_params={}), SETTINGS, 1, run, [], print)
    with pytest.raises(Exception) as raised:
        stand_in.sample(fails, None, None, None)
    if isinstance(error, MemoryError):
        assert str(raised.value) == "AMDM: no memory is left." and raised.value.__cause__ is error
    else:
        assert raised.value is error
    assert run.finished == 1
