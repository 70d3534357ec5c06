"""The sampler hook: it stands in for a sampler's function, and leaves nothing behind."""

from __future__ import annotations

import functools
import inspect
import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lib_amdm import CoRun, Pass
from lib_amdm.adapters.base import AdapterInfo
from lib_amdm.core.sampling import NothingMixedError
from lib_amdm.errors import AdapterError, AmdmError
from lib_amdm.hosts.protocol import Ran
from lib_amdm.settings import AUTO, AdapterSettings, CoModel, Settings, SettingsError
from lib_amdm.webui import infotext, sampler_hook

SETTINGS = Settings(enabled=True, co_models=(CoModel(checkpoint="other"),))


def sample_plain(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """A sampler that says what it was called with."""
    return model, x, sigmas


class Note:
    """A stand-in that notes that it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def sample(self, func, *args, **kwargs):
        self.asked += 1
        return func(*args, **kwargs)


@pytest.fixture
def sampler():
    return SimpleNamespace(func=sample_plain)


def test_the_stand_in_has_the_signature_that_the_host_reads(sampler):
    sampler_hook.attach(sampler, Note())
    assert inspect.signature(sampler.func) == inspect.signature(sample_plain)
    assert sampler.func("m", "x", sigmas="s", callback=None) == ("m", "x", "s")


def test_nothing_to_run_leaves_the_sampler_as_it_was(sampler):
    before = dict(vars(sampler))
    sampler_hook.attach(sampler, None)
    assert vars(sampler) == before


def test_a_sampler_that_lives_on_is_pointed_at_the_next_run_and_never_wrapped_twice(sampler):
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


def test_another_extensions_wrapper_around_ours_stays_and_ours_falls_silent(sampler):
    note = Note()
    sampler_hook.attach(sampler, note)

    @functools.wraps(sampler.func)
    def theirs(*args, __inner=sampler.func, **kwargs):
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
        self.adapted, self.slots, self.steps = None, [], 0

    def adapt_main(self, adapted):
        self.adapted = adapted

    def load_co_models(self, slots):
        self.slots = slots
        if self.error:
            raise self.error

        def denoise(x, sigma):
            self.evaluations += 1
            return torch.zeros_like(x)

        return [CoRun(denoise, gamma=slot.gamma, gamma_end=slot.gamma_end, eta=slot.eta) for _, slot in slots]

    def worded(self, error):
        return AmdmError("AMDM: no memory is left.") if isinstance(error, MemoryError) else error

    def sampled_pass(self):
        def note(done, steps):
            self.steps = done

        return Pass(on_mixed=note, survives=lambda error: isinstance(error, NothingMixedError))

    def start(self):
        pass

    def titles(self):
        return {1: "other.safetensors [abc]"}

    def finish(self, pool_limit):
        self.finished += 1
        ran = Ran(self.steps, 4, [("other.safetensors [abc]", self.evaluations)], 0.25, 1.5)
        return ran if self.evaluations else None


def host_with(host_run: FakeRun, hires: bool = False) -> SimpleNamespace:
    host = SimpleNamespace(comments=[])
    host.run = lambda *_: host_run
    host.adapter_info = lambda name: AdapterInfo("ip-adapter", "SD1", "plain", name) if "ip" in name else None
    host.is_hires_pass = lambda p: hires
    host.comment = lambda p, text: host.comments.append(text)
    return host


def prepared(host, sampler, settings=SETTINGS, continue_on_error=False, enable_hr=False):
    p = SimpleNamespace(sampler=sampler, extra_generation_params={"Model": "main"}, enable_hr=enable_hr)
    return p, sampler_hook.prepare(host, p, lambda: settings, continue_on_error, 2, {})


def euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
    for sigma, sigma_next in itertools.pairwise(sigmas):
        x = x + (x - model(x, sigma * x.new_ones(len(x)))) / sigma * (sigma_next - sigma)
    return x


def draw(sampler, model=lambda x, sigma: x / (1 + sigma**2).view(-1, 1, 1, 1)):
    return sampler.func(model, torch.ones(1, 1, 2, 2), sigmas=torch.tensor([3.0, 2.0, 1.0, 0.5, 0.0]))


@pytest.mark.parametrize(
    ("steps", "evaluations", "ran"), [(3, AUTO, 3), (3, 0, 3), (4, 2, 2), (2, 150, 2), (AUTO, 1, 1), (AUTO, 0, 4)]
)
def test_what_ran_is_written_after_it_ran(steps, evaluations, ran):
    sampler, host_run = SimpleNamespace(func=euler), FakeRun()
    settings = replace(SETTINGS, steps=steps, evaluations=evaluations)
    p, chosen = prepared(host_with(host_run), sampler, settings)
    sampler_hook.attach(sampler, chosen)
    assert "AMDM" not in p.extra_generation_params
    draw(sampler)
    assert (host_run.evaluations, host_run.finished) == (ran, 1)
    told = {"AMDM steps": "auto" if steps == AUTO else str(steps), "AMDM 1 checkpoint": "other.safetensors [abc]"}
    mixed = 4 if steps == AUTO else min(steps, 4)
    counted = "1 evaluation" if ran == 1 else f"{ran} evaluations"
    told["AMDM ran"] = f"2 models, {mixed} of 4 steps, {counted} of other, +0.2 s of 1.5 s"
    assert told.items() <= p.extra_generation_params.items()


def test_seconds_that_no_one_knows_are_not_written():
    ran = Ran(2, 4, [("other.safetensors", 3)], None, None)
    assert infotext.ran_line(ran) == "2 models, 2 of 4 steps, 3 evaluations of other"


def test_nothing_is_written_where_no_co_model_ran_and_the_run_is_finished_all_the_same():
    sampler, host_run = SimpleNamespace(func=euler), FakeRun()
    p, chosen = prepared(host_with(host_run), sampler)
    sampler_hook.attach(sampler, chosen)

    def breaks(x, sigma):
        raise RuntimeError("main model")

    with pytest.raises(RuntimeError, match="main model"):
        draw(sampler, breaks)
    assert host_run.finished == 1
    assert p.extra_generation_params == {"Model": "main"}


@pytest.mark.parametrize(
    "error", [AmdmError("AMDM co-model 1: broken"), SettingsError("AMDM: wrong"), ValueError("surprise")]
)
def test_what_is_wrong_is_raised_from_the_sampler_before_any_evaluation(error):
    sampler, evaluated, host_run = SimpleNamespace(func=euler), [], FakeRun(error)
    _, chosen = prepared(host_with(host_run), sampler)
    assert host_run.finished == 1, "what was loaded before the failure is kept beyond the user's limit"
    sampler_hook.attach(sampler, chosen)
    with pytest.raises((AmdmError, SettingsError), match=str(error)):
        draw(sampler, lambda x, sigma: evaluated.append(sigma))
    assert evaluated == []


def test_going_on_without_amdm_says_why_and_draws_the_main_models_picture():
    sampler = SimpleNamespace(func=euler)
    host = host_with(FakeRun(AmdmError("AMDM co-model 1: broken")))
    _, chosen = prepared(host, sampler, continue_on_error=True)
    sampler_hook.attach(sampler, chosen)
    assert host.comments == ["AMDM co-model 1: broken"]
    assert sampler.func is euler


@pytest.mark.parametrize(
    ("which", "hires", "runs"),
    [
        ("first", False, True),
        ("first", True, False),
        ("hires", False, False),
        ("hires", True, True),
        ("both", False, True),
        ("both", True, True),
    ],
)
def test_only_the_pass_that_was_asked_for_is_run(which, hires, runs):
    host = host_with(FakeRun(), hires)
    settings = Settings(enabled=True, which_pass=which, co_models=SETTINGS.co_models)
    _, chosen = prepared(host, SimpleNamespace(func=euler), settings, enable_hr=True)
    assert (chosen is not None) == runs
    assert host.comments == []


def test_what_an_adapter_does_not_look_at_is_neither_run_nor_written():
    host_run, sampler = FakeRun(), SimpleNamespace(func=euler)
    adapted = {"adapter": "ip.safetensors", "image": "a picture", "layout": "a boy: 0 0 1 1"}
    slot = CoModel(checkpoint="other", **adapted)
    p, chosen = prepared(host_with(host_run), sampler, replace(SETTINGS, co_models=(slot,)))
    sampler_hook.attach(sampler, chosen)
    draw(sampler)
    [(_, ran)] = host_run.slots
    assert (ran.image, ran.layout) == ("a picture", "")
    assert "AMDM 1 adapter" in p.extra_generation_params
    assert "AMDM 1 adapter layout" not in p.extra_generation_params


def test_a_pass_that_never_comes_is_told():
    host = host_with(FakeRun())
    settings = Settings(enabled=True, which_pass="hires", co_models=SETTINGS.co_models)
    _, chosen = prepared(host, SimpleNamespace(func=euler), settings)
    assert chosen is None
    assert "hires fix is off" in host.comments[0]


@pytest.mark.parametrize("continue_on_error", [False, True])
@pytest.mark.parametrize(
    ("error", "said"),
    [(MemoryError(), "AMDM: no memory is left."), (KeyError("unet"), "AMDM: preparing the co-models failed (KeyError")],
)
def test_what_goes_wrong_before_a_pass_is_said_in_the_hosts_words(error, said, continue_on_error):
    host, sampler = host_with(FakeRun(error)), SimpleNamespace(func=euler)
    _, chosen = prepared(host, sampler, continue_on_error=continue_on_error)
    sampler_hook.attach(sampler, chosen)
    if continue_on_error:
        draw(sampler)
        assert host.comments[0].startswith(said)
    else:
        with pytest.raises(AmdmError) as caught:
            draw(sampler)
        assert str(caught.value).startswith(said) and caught.value.__cause__ is error


@pytest.mark.parametrize("which", ["first", "hires", "both"])
def test_off_is_no_work(which):
    """The host that is handed over can do nothing at all."""
    chosen = sampler_hook.prepare(
        SimpleNamespace(), SimpleNamespace(), lambda: Settings(which_pass=which), False, 2, {}
    )
    assert chosen is None


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
def test_what_is_meant_to_run_and_does_not_is_said_with_the_picture(idle, remedy, hires):
    host = host_with(FakeRun(), hires)
    p, _ = prepared(host, SimpleNamespace(func=euler), replace(SETTINGS, **idle), enable_hr=True)
    [said] = host.comments
    assert said.startswith("AMDM: ") and remedy in said
    assert p.extra_generation_params == {"Model": "main"}


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
def test_what_runs_as_it_is_meant_to_says_nothing(settings):
    host, sampler = host_with(FakeRun()), SimpleNamespace(func=euler)
    _, chosen = prepared(host, sampler, settings)
    sampler_hook.attach(sampler, chosen)
    draw(sampler)
    assert host.comments == []


@pytest.mark.parametrize("steps", [AUTO, 150])
def test_a_start_beyond_the_pictures_own_steps_is_said(steps):
    host, sampler = host_with(FakeRun()), SimpleNamespace(func=euler)
    p, chosen = prepared(host, sampler, replace(SETTINGS, steps=steps, start=4))
    sampler_hook.attach(sampler, chosen)
    reference = draw(SimpleNamespace(func=euler))
    assert torch.equal(draw(sampler), reference)
    assert host.comments == ["AMDM: no step was mixed; start is 4, and fewer steps are mixed: lower it."]
    assert p.extra_generation_params == {"Model": "main"}, "nothing is written of what did nothing"


def test_a_sampler_that_shows_no_step_is_said():
    host, sampler = host_with(FakeRun()), SimpleNamespace(func=lambda model, x, sigmas, **_: x)
    _, chosen = prepared(host, sampler)
    sampler_hook.attach(sampler, chosen)
    draw(sampler)
    [said] = host.comments
    assert said.startswith("AMDM: no step was mixed; ") and "denoising strength" in said


def test_a_run_that_stopped_has_said_why_itself():
    host_run = FakeRun()
    host, sampler = host_with(host_run), SimpleNamespace(func=lambda model, x, sigmas, **_: x)
    host_run.stopped = True
    _, chosen = prepared(host, sampler)
    sampler_hook.attach(sampler, chosen)
    draw(sampler)
    assert host.comments == []


# --- the main model's adapter ---

ADAPTED = AdapterSettings(adapter="ip.safetensors")


@pytest.mark.parametrize(
    ("which", "hires", "together"),
    [("first", False, True), ("first", True, False), ("hires", False, False), ("hires", True, True)],
)
def test_it_works_in_every_pass_and_the_slots_in_theirs(which, hires, together):
    host_run = FakeRun()
    settings = replace(SETTINGS, which_pass=which, main_adapter=ADAPTED)
    _, chosen = prepared(host_with(host_run, hires), SimpleNamespace(func=euler), settings, enable_hr=True)
    assert host_run.adapted == ADAPTED
    assert len(host_run.slots) == len(chosen.co_models) == together


@pytest.mark.parametrize("idle", [{"steps": 0}, {"steps": 2, "start": 2}, {"co_models": ()}])
def test_it_needs_no_step_and_no_slot(idle):
    host_run, sampler = FakeRun(), SimpleNamespace(func=euler)
    _, chosen = prepared(host_with(host_run), sampler, replace(SETTINGS, main_adapter=ADAPTED, **idle))
    assert host_run.adapted == ADAPTED and chosen.co_models == []
    reference = draw(SimpleNamespace(func=euler))
    sampler_hook.attach(sampler, chosen)
    assert torch.equal(draw(sampler), reference)
    assert host_run.finished == 1


def test_an_idle_one_is_not_prepared():
    host_run = FakeRun()
    settings = replace(SETTINGS, main_adapter=AdapterSettings(strength=0))
    prepared(host_with(host_run), SimpleNamespace(func=euler), settings)
    assert host_run.adapted is None and len(host_run.slots) == 1


def test_what_an_adapter_complains_of_in_the_middle_is_told_as_ours():
    sampler = SimpleNamespace(func=euler)
    _, chosen = prepared(host_with(FakeRun()), sampler, replace(SETTINGS, main_adapter=ADAPTED))
    sampler_hook.attach(sampler, chosen)

    def breaks(x, sigma):
        raise AdapterError("something replaced the attention; switch it off.")

    with pytest.raises(AmdmError, match="AMDM: something replaced the attention"):
        draw(sampler, breaks)


def test_a_hires_pass_writes_behind_what_the_first_pass_wrote():
    sampler, host_run = SimpleNamespace(func=euler), FakeRun()
    p, chosen = prepared(host_with(host_run), sampler, replace(SETTINGS, which_pass="both"))
    sampler_hook.attach(sampler, chosen)
    draw(sampler)
    first = p.extra_generation_params["AMDM ran"]
    for hires in (True, False):
        again = host_with(FakeRun(), hires=hires)
        chosen = sampler_hook.prepare(again, p, lambda: replace(SETTINGS, which_pass="both"), False, 2, {})
        sampler_hook.attach(sampler, chosen)
        draw(sampler)
        now = p.extra_generation_params["AMDM ran"]
        assert now == (f"{first}; hires fix: {first}" if hires else first)


@pytest.mark.parametrize("error", [MemoryError("raw"), ValueError("raw")])
def test_an_error_of_the_sampling_is_raised_in_the_hosts_words_where_it_has_some(sampler, error):
    run = FakeRun()

    def fails(model, x, sigmas, **kwargs):
        raise error

    stand_in = sampler_hook.MixedSampling(SimpleNamespace(extra_generation_params={}), SETTINGS, 1, run, [], print)
    with pytest.raises(Exception) as raised:
        stand_in.sample(fails, None, None, None)
    if isinstance(error, MemoryError):
        assert str(raised.value) == "AMDM: no memory is left." and raised.value.__cause__ is error
    else:
        assert raised.value is error
    assert run.finished == 1
