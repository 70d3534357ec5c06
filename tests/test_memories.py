"""Other extensions' functions remember each model apart: small ones of every kind, with real memories."""

from __future__ import annotations

import functools
import random
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib_amdm.hosts.common.memories import Memories, Memory
from lib_amdm.hosts.common.reach import MOST_OBJECTS, Reach
from lib_amdm.hosts.common.strangers import formulas, functions_in, functions_of_classes, functions_on

Remembering = Callable[[Tensor], Tensor]
MAIN = [torch.full((2,), float(n)) for n in (1, 5, 2, 8)]
OTHER = [torch.full((2,), float(n)) for n in (100, 300, 700, 200)]
KINDS: dict[str, Callable[[], Remembering]] = {}


def kind(make: Callable[[], Remembering]) -> Callable[[], Remembering]:
    KINDS[make.__name__.replace("_", " ")] = make
    return make


def added(history: list[Tensor] | deque[Tensor], x: Tensor) -> Tensor:
    history.append(x)
    return torch.stack([*history]).sum(0)


@kind
def a_variable_of_its_closure() -> Remembering:
    average = torch.zeros(2)

    def step(x: Tensor) -> Tensor:
        nonlocal average
        average = 0.5 * average + x
        return average

    return step


@kind
def a_variable_that_has_no_value_at_first() -> Remembering:
    def step(x: Tensor) -> Tensor:
        nonlocal last  # type: ignore[misc]
        try:
            before = last  # type: ignore[has-type]
        except NameError:
            before = torch.zeros(2)
        last = x
        return x - before

    if False:
        last = torch.zeros(2)
    return step


@kind
def an_attribute_of_the_function() -> Remembering:
    def step(x: Tensor) -> Tensor:
        step.calls += 1  # type: ignore[attr-defined]
        return x * step.calls  # type: ignore[attr-defined]

    step.calls = 0  # type: ignore[attr-defined]
    return step


class Momentum:
    """A buffer that is replaced."""

    def __init__(self) -> None:
        self.average: Any = 0

    def update(self, x: Tensor) -> Tensor:
        self.average = x + 0.5 * self.average
        return self.average

    __call__ = update


@dataclass(slots=True)
class Slotted:
    """State without a dictionary."""

    calls: int = 0
    history: list[Tensor] = field(default_factory=list)

    def step(self, x: Tensor) -> Tensor:
        self.calls += 1
        return added(self.history, x) * self.calls


class Fading:
    """A script that keeps its scale in its class."""

    scale = 3.0

    @classmethod
    def faded(cls, x: Tensor) -> Tensor:
        cls.scale -= 0.5
        return x * cls.scale


@kind
def an_attribute_of_a_class() -> Remembering:
    Fading.scale = 3.0

    def step(x: Tensor) -> Tensor:
        Fading.scale -= 0.5
        Fading.last = x  # type: ignore[attr-defined]
        return x * Fading.scale

    return step


calls = 0
history: list[Tensor] = []
state = Momentum()


@kind
def a_number_of_the_module() -> Remembering:
    global calls
    calls = 0

    def step(x: Tensor) -> Tensor:
        global calls
        calls += 1
        return x * calls

    return step


@kind
def a_name_that_the_module_has_later() -> Remembering:
    globals().pop("later", None)

    def step(x: Tensor) -> Tensor:
        global later
        later = globals().get("later", torch.zeros(2)) + x  # type: ignore[name-defined]
        return later  # type: ignore[name-defined]

    return step


def helper(x: Tensor) -> Tensor:
    history.append(x)
    return state.update(x) + len(history)


@kind
def what_a_function_of_the_module_names() -> Remembering:
    history.clear()
    state.average = 0
    return lambda x: helper(x)


@kind
def a_module_of_its_own() -> Remembering:
    class Buffered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("average", torch.zeros(2))
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            average: Any = self.average
            average += x
            return average * self.calls

    return Buffered()


@kind
def a_function_in_a_decorator() -> Remembering:
    average = torch.zeros(2)

    @torch.inference_mode()
    def step(x: Tensor) -> Tensor:
        nonlocal average
        average = average + x
        return average

    return step


def in_place(average: Tensor) -> Remembering:
    return lambda x: average.mul_(0.5).add_(x).clone()


def keeping(state: Any, step: Callable[[Any, Tensor], Tensor]) -> Remembering:
    return lambda x: step(state, x)


def first_of_two(kept: OrderedDict[float, Tensor], x: Tensor) -> Tensor:
    kept[float(x[0])] = x
    if len(kept) > 2:
        kept.popitem(last=False)
    return next(iter(kept.values()))


def sometimes_new(extras: list[Any], x: Tensor) -> Tensor:
    if x[0] in (2, 700):
        extras[0] = Momentum()
    return extras[0].update(x)


def a_default_argument() -> Remembering:
    def step(x: Tensor, history: list[Tensor] = []) -> Tensor:  # noqa: B006 - what it remembers
        return added(history, x)

    return step


def a_class_method() -> Remembering:
    Fading.scale = 3.0
    return lambda x: Fading.faded(x)


KINDS |= {
    "a list that grows": lambda: keeping([], added),
    "a queue": lambda: keeping(deque(maxlen=2), added),
    "a default argument": a_default_argument,
    "a tensor that is changed in place": lambda: in_place(torch.zeros(2)),
    "a tensor in nested containers": lambda: keeping(
        {"by block": [(torch.zeros(2), "mean")]}, lambda kept, x: kept["by block"][0][0].add_(x).clone()
    ),
    "a dictionary in an order": lambda: keeping(OrderedDict(), first_of_two),
    "counts by name": lambda: keeping(
        defaultdict(int), lambda calls, x: calls.update(step=calls["step"] + 1) or x * calls["step"]
    ),
    "a bound method": lambda: Momentum().update,
    "an object that is called": Momentum,
    "an object that is replaced": lambda: keeping([Momentum(), 0], sometimes_new),
    "a partial function": lambda: functools.partial(
        lambda buffer, x, *, history: buffer.add_(x) + added(history, x), torch.zeros(2), history=[]
    ),
    "slots of an object": lambda: keeping(Slotted(), Slotted.step),
    "a namespace": lambda: keeping(
        types.SimpleNamespace(calls=0), lambda state, x: vars(state).update(calls=state.calls + 1) or x * state.calls
    ),
    "a class method that is named": a_class_method,
    "generators of random numbers": lambda: keeping(
        (torch.Generator().manual_seed(1), random.Random(1)),
        lambda numbers, x: x * torch.rand(2, generator=numbers[0]) + numbers[1].random(),
    ),
}


def alone(make: Callable[[], Remembering], inputs: list[Tensor]) -> list[list[float]]:
    step = make()
    return [step(x).tolist() for x in inputs]


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_each_model_has_a_memory_of_its_own(make: Callable[[], Remembering]) -> None:
    step = make()
    together = [each for x, y in zip(MAIN, OTHER) for each in (step(x).tolist(), step(y).tolist())]
    assert together[::2] != alone(make, MAIN), "it remembers nothing"

    step = make()
    memories = Memories(lambda: [step], list)
    main: list[Any] = []
    others: dict[int, list[Any]] = {1: [], 2: []}
    for number, (x, y) in enumerate(zip(MAIN, OTHER)):
        main.append(step(x).tolist())
        for model in others:
            # the second is evaluated in half of the steps
            if model == 1 or number % 2 == 0:
                with memories.of(model):
                    others[model].append(step(y).tolist())
    assert main == alone(make, MAIN)
    assert others[1] == alone(make, OTHER)
    assert others[2] == alone(make, OTHER[::2])


def test_a_model_begins_with_what_the_main_one_remembers_at_the_start() -> None:
    step = KINDS["a list that grows"]()
    step(torch.ones(2))
    memories = Memories(lambda: [step], list)
    step(torch.full((2,), 10.0))
    with memories.of(1):
        assert step(torch.zeros(2)).tolist() == [1, 1]
    assert step(torch.zeros(2)).tolist() == [11, 11]


def test_an_evaluation_that_fails_leaves_the_main_models_memory() -> None:
    step = in_place(torch.zeros(2))
    memories = Memories(lambda: [step], list)
    first = step(torch.ones(2))
    with pytest.raises(RuntimeError), memories.of(1):
        step(torch.full((2,), 100.0))
        raise RuntimeError
    assert torch.equal(step(torch.zeros(2)), 0.5 * first)


def note(script: Any, share: float) -> None:
    type(script).is_on = share > 0.3
    script.share = share


@pytest.mark.parametrize("by", ["itself", "a method", "a function"])
def test_what_the_webui_s_callbacks_set_holds_for_all_models(by: str) -> None:
    """Such as whether a step is among those that an effect has."""

    class Script:
        is_on = False
        scale = 4.0

        def __init__(self) -> None:
            self.share = 0.0

        def itself(self, share: float) -> None:
            Script.is_on = share > 0.3
            self.share = share

        def a_method(self, share: float) -> None:
            self.itself(share)

        def a_function(self, share: float) -> None:
            note(self, share)

        def step(self, x: Tensor) -> Tensor:
            if not Script.is_on:
                return x
            Script.scale -= 1
            return x * Script.scale + self.share

    script = Script()
    callback = getattr(script, by.replace(" ", "_"))
    memories, seen = Memories(lambda: [script.step], lambda: [callback]), []
    for share in (0.0, 0.5, 1.0):
        callback(share)
        main = script.step(torch.ones(()))
        with memories.of(1):
            assert torch.equal(script.step(torch.ones(())), main)
        seen.append(float(main))
    assert seen == [1, 3.5, 3]


def test_large_tensors_are_known_by_which_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib_amdm.hosts.common.memories.LARGEST", 100)
    small, large = torch.zeros(4), torch.zeros(400)
    last = [large]

    def step() -> None:
        small.add_(1)
        large.add_(1)
        last[0] = torch.ones(400)

    memory = Memory([step])
    step()
    memory.restore(set())
    assert small.sum() == 0 and large.sum() == 400 and last[0] is large


def test_a_tensor_whose_numbers_share_a_place_is_left() -> None:
    spread = torch.zeros(1).expand(4)
    Memory([lambda: spread]).restore(set())


def test_it_ends_at_models_and_libraries() -> None:
    model = nn.Linear(2, 2)
    model.owner = [model]  # type: ignore[assignment]
    found = Reach([lambda: (model, torch, random, types)]).objects.values()
    assert not any(each is part for each in found for part in (model.owner, torch, *model.parameters()))


def test_it_ends_somewhere() -> None:
    endless = [[number] for number in range(9_000)]
    rows = [list(map(list, endless)) for _ in range(5)]
    assert len(Reach([lambda: rows]).objects) <= MOST_OBJECTS


class Patched(nn.Module):
    """A WebUI's class of models."""

    __module__ = "ldm.tests"

    def forward(self, x: Tensor) -> Tensor:
        return x


def of_webui(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, defined in one of the WebUI's modules."""
    return types.FunctionType(function.__code__, {**function.__globals__, "__name__": "modules.lowvram"})


def test_functions_are_found_at_any_depth_of_the_options() -> None:
    one, two, three = (lambda args: args), Momentum(), Momentum().update
    options = {
        "sampler_post_cfg_function": [one],
        "transformer_options": {"patches": {"input_block_patch": [three]}, "patches_replace": {"attn1": {(1, 2): two}}},
        "disable_cfg1_optimization": True,
        "kind": nn.Linear,
    }
    assert {id(each) for each in functions_in(options)} == {id(one), id(two), id(three)}


def test_functions_on_a_model_are_those_of_other_extensions() -> None:
    model = nn.Sequential(Patched(), Patched())
    assert list(functions_on(model.modules())) == []
    model[0].forward = own = Momentum().update  # type: ignore[method-assign]
    model[1].register_forward_pre_hook(of_webui(lambda module, args: None))
    hook = model[1].register_forward_hook(lambda module, args, output: output)
    found = list(functions_on(model.modules()))
    assert own in found and len(found) == 2
    hook.remove()
    assert list(functions_on(model.modules())) == [own]


def test_a_class_whose_function_is_replaced_by_one_that_remembers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model, original, counted = nn.Sequential(Patched()), Patched.forward, [0]
    assert list(functions_of_classes(model.modules())) == []

    def plain(self: nn.Module, x: Tensor) -> Tensor:
        return original(self, x)  # type: ignore[arg-type]

    @functools.wraps(original)
    def remembering(self: nn.Module, x: Tensor) -> Tensor:
        counted[0] += 1
        return original(self, x)  # type: ignore[arg-type]

    monkeypatch.setattr(Patched, "forward", plain)
    assert list(functions_of_classes(model.modules())) == []
    monkeypatch.setattr(Patched, "forward", remembering)
    assert list(functions_of_classes(model.modules())) == [("Patched.forward", remembering)]


def test_a_formula_is_carried_and_a_part_of_a_changed_unet_is_not() -> None:
    scores = None

    def record(q: Tensor) -> Tensor:
        nonlocal scores
        scores = q
        return q

    def of_the_scores(args: dict[str, Any]) -> Any:
        return args["denoised"] + scores

    unet = Patched()
    rescaled, momentum = (lambda args: args["cond"]), Momentum().update
    options = {
        "sampler_cfg_function": rescaled,
        "sampler_post_cfg_function": [momentum, of_the_scores, lambda args: unet(args["input"])],
        "disable_cfg1_optimization": True,
        "transformer_options": {"patches_replace": {"attn1": {("middle", 0, 0): record}}},
        "model_function_wrapper": lambda apply, args: apply(args),
    }
    assert formulas(options, None) == {
        "sampler_cfg_function": rescaled,
        "sampler_post_cfg_function": [momentum],
        "disable_cfg1_optimization": True,
    }
    assert formulas({"transformer_options": {}, "disable_cfg1_optimization": True}, None) == {}


def test_a_formula_that_reads_its_models_patcher_reads_the_other_models() -> None:
    class Patcher:
        __module__ = "backend.patcher.unet"

        def __init__(self, steps: int) -> None:
            self.model_options: dict[str, Any] = {}
            self.steps = steps

    model, momentum = Patcher(999), Momentum()

    def by_the_steps(args: float, *, factor: float = 2) -> float:
        return float(momentum.update(torch.tensor(args))) * model.steps * factor

    holder = types.SimpleNamespace(model=model)
    options = {"sampler_cfg_function": by_the_steps, "sampler_post_cfg_function": [lambda args: holder.model]}
    given = formulas(options, Patcher(1))
    assert list(given) == ["sampler_cfg_function"]
    assert given["sampler_cfg_function"](1.0) == 2
    # it remembers with the same variables
    assert by_the_steps(1.0) == 1.5 * 999 * 2
