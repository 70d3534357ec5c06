"""The rehearsed card that tests/webui starts WebUIs behind: it refuses what a card does, and counts what it costs."""

from __future__ import annotations

import copy
import gc
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from webui.card import MEMORY, RECORD, SCRIPT, present

MB = 1 << 20


@pytest.fixture(autouse=True)
def card() -> Iterator[None]:
    gc.collect()
    with present(total=64 * MB), torch.no_grad():
        yield


def there(*shape: int) -> Tensor:
    return torch.ones(shape, device="cuda")


def attention(t: Tensor) -> Tensor:
    return nn.functional.scaled_dot_product_attention(t, t, t)


MADE: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros": lambda t: torch.zeros(2, device="cuda"),
    "tensor": lambda t: torch.tensor([1.0], device="cuda"),
    "as_tensor": lambda t: torch.as_tensor([1.0], device=t.device),
    "tensor of tensors": lambda t: torch.tensor([t[0, 0], t[0, 1]], device="cuda"),
    "randn": lambda t: torch.randn(2, device="cuda"),
    "randn_like": torch.randn_like,
    "zeros_like": torch.zeros_like,
    "new_zeros": lambda t: t.new_zeros(2),
    "new_tensor": lambda t: t.new_tensor([1.0]),
    "to": lambda t: torch.zeros(2).to(t),
    "cuda": lambda t: torch.zeros(2).cuda(),
    "cpu's like": lambda t: torch.zeros_like(torch.zeros(2), device="cuda"),
    "sum": lambda t: t.sum(),
    "view": lambda t: t.view(-1),
    "index": lambda t: t[0],
    "index by a tensor": lambda t: t[torch.zeros(1, dtype=torch.long, device="cuda")],
    "split": lambda t: t.split(1)[0],
    "max with indexes": lambda t: t.max(0)[1],
    "iteration": lambda t: next(iter(t)),
    "transposed": lambda t: t.T,
    "single number of the CPU": lambda t: t * torch.tensor(2.0),
    "parameter": nn.Parameter,
    "data": lambda t: nn.Parameter(t).data,
    "copy": copy.deepcopy,
    "half": lambda t: t.half(),
    "linear": lambda t: nn.functional.linear(t, t),
    "normalized": lambda t: nn.functional.layer_norm(t, t.shape),
    "in 16 bits": lambda t: nn.functional.group_norm(t.half()[None], 2),
    "product in 16 bits": lambda t: nn.functional.linear(t.half(), t.half()),
    "attention in 16 bits": lambda t: attention(t.bfloat16()[None]),
}
NOT_THERE: dict[str, Callable[[Tensor], Tensor]] = {
    "cpu": lambda t: t.cpu(),
    "to": lambda t: t.to("cpu"),
    "zeros": lambda t: torch.zeros(2),
    "like": lambda t: torch.zeros_like(t, device="cpu"),
    "as_tensor": lambda t: torch.as_tensor(t, device="cpu"),
    "size": lambda t: torch.ones(t.shape),
}


@pytest.mark.parametrize("name", MADE)
def test_what_is_made_there_is_there(name: str) -> None:
    made = MADE[name](there(2, 2))
    assert made.device == torch.device("cuda", 0)
    assert made.is_cuda and made.get_device() == 0


@pytest.mark.parametrize("name", NOT_THERE)
def test_what_is_made_here_is_here(name: str) -> None:
    made = NOT_THERE[name](there(2, 2))
    assert made.device == torch.device("cpu")
    assert not made.is_cuda


MIXED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum": lambda t, c: t + c,
    "sum the other way": lambda t, c: c + t,
    "in place": lambda t, c: t.add_(c),
    "cat": lambda t, c: torch.cat([t, c]),
    "matmul": lambda t, c: t @ c,
    "where": lambda t, c: torch.where(t > 0, t, c),
    "linear": lambda t, c: nn.functional.linear(t, c),
    "module": lambda t, c: nn.Linear(2, 2)(t),
    "attention": lambda t, c: nn.functional.scaled_dot_product_attention(t[None], c[None], c[None]),
    "embedding": lambda t, c: nn.functional.embedding(c.long(), t),
    "the card's single number": lambda t, c: c * t.sum(),
    "the CPU's rows by the card's indexes": lambda t, c: c[t[0].long()],
    "generator": lambda t, c: torch.randn(2, device="cuda", generator=torch.Generator("cpu")),
    "the card's generator": lambda t, c: torch.randn(2, generator=torch.Generator("cuda")),
}


@pytest.mark.parametrize("name", MIXED)
def test_both_devices_in_one_operation_are_refused(name: str) -> None:
    with pytest.raises(RuntimeError, match=r"device"):
        MIXED[name](there(2, 2), torch.ones(2, 2))


def test_other_threads_are_as_strict() -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="device"):
        pool.submit(lambda: there(2) + torch.ones(2)).result()


def test_numpy_needs_a_copy_first() -> None:
    with pytest.raises(TypeError, match=r"Tensor\.cpu\(\)"):
        there(2).numpy()
    assert there(2).cpu().numpy().tolist() == [1, 1]


def test_a_module_moves_with_its_parameters_the_same_objects() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    first = module[0]
    assert isinstance(first, nn.Linear)
    shared = first.weight
    other = nn.Linear(2, 2)
    other.weight = shared
    for _ in range(2):
        module.to("cuda")
        module.to("cuda")
        assert module[0].weight is shared and other.weight.is_cuda
        module.cpu()
    assert not other.weight.is_cuda
    assert [RECORD.moves[each] for each in module] == [[2, 2], [2, 2]]
    assert RECORD.copied == {"up": 96, "down": 96}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.bool])
def test_an_unfinished_copy_is_garbage_until_it_is_waited_for(dtype: torch.dtype) -> None:
    held = torch.ones(4, device="cuda").to(dtype)
    for wait in (torch.cuda.synchronize, torch.cuda.current_stream().synchronize, held.cpu, held[0].item):
        copied = held.to("cpu", non_blocking=True)
        assert not torch.equal(copied, torch.ones(4, dtype=dtype))
        wait()
        assert torch.equal(copied, torch.ones(4, dtype=dtype))


def test_an_event_happens_late_or_once_it_is_waited_for_and_only_for_what_was_before_it() -> None:
    for wait in (False, True):
        first = torch.empty(2, pin_memory=True)
        first.copy_(there(2), non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        second = there(2).to("cpu", non_blocking=True)
        assert first.isnan().all()
        if wait:
            event.synchronize()
        else:
            assert not event.query() and first.isnan().all()
            assert event.query()
        assert (first == 1).all() and second.isnan().all()


def test_a_card_within_a_card_leaves_the_outer_one() -> None:
    assert torch.cuda.is_available()
    with present():
        pass
    assert torch.cuda.is_available() and there(1).is_cuda


def test_memory_is_the_bytes_of_what_is_alive() -> None:
    before = torch.cuda.memory_allocated()
    held = there(MB)
    view, same = held[1:], nn.Parameter(held)
    assert torch.cuda.memory_allocated() - before == 4 * MB
    assert torch.cuda.mem_get_info(0) == (SCRIPT.total - MEMORY.reserved, SCRIPT.total)
    del held, same
    assert torch.cuda.memory_allocated() - before == 4 * MB
    del view
    assert torch.cuda.memory_allocated() == before


def test_torch_keeps_what_it_was_given_until_its_cache_is_emptied() -> None:
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(0)
    there(MB)
    assert torch.cuda.mem_get_info(0)[0] == free - 4 * MB
    torch.cuda.empty_cache()
    assert torch.cuda.mem_get_info(0)[0] == free
    assert RECORD.emptied == 2


def test_more_than_there_is_is_refused_and_takes_nothing() -> None:
    held = there(12 * MB)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="out of memory"):
        torch.zeros(6 * MB, device="cuda")
    assert torch.cuda.memory_allocated() >= held.nbytes
    SCRIPT.others = 8 * MB
    with pytest.raises(torch.cuda.OutOfMemoryError, match="out of memory"):
        there(3 * MB)
    del held
    there(6 * MB)
    assert len(RECORD.refused) == 2


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("OutOfMemoryError", "CUDA out of memory"),
        ("AcceleratorError", "CUDA error: out of memory"),
        ("RuntimeError", "CUDA error: out of memory"),
        ("cuBLAS", "CUBLAS_STATUS_ALLOC_FAILED"),
    ],
)
def test_an_error_comes_where_the_script_says(error: str, text: str) -> None:
    def here() -> Tensor:
        return there(2, 2) @ there(2, 2)

    def elsewhere() -> Tensor:
        return there(2, 2) @ there(2, 2)

    SCRIPT.change(fault={"error": error, "operation": "matmul", "place": "test_card_tensors.py:here", "skip": 1})
    elsewhere()
    here()
    with pytest.raises(RuntimeError, match=text):
        here()
    here()
    assert len(RECORD.refused) == 1


def test_the_rules_for_device_arguments_are_those_of_this_torch() -> None:
    plain = inspect.signature(torch.cuda.mem_get_info).parameters
    assert set(plain) == {"device"}
    wants_index = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 5)
    if wants_index:
        with pytest.raises(ValueError, match="index"):
            torch.cuda.mem_get_info("cuda")
    else:
        assert torch.cuda.mem_get_info("cuda") == torch.cuda.mem_get_info(0)
    for ask in (
        torch.cuda.mem_get_info,
        torch.cuda.memory_stats,
        torch.cuda.current_stream,
        torch.cuda.get_device_name,
    ):
        with pytest.raises(ValueError, match="cuda"):
            ask(torch.device("cpu"))


def test_its_random_numbers_follow_the_seed_and_its_state() -> None:
    torch.manual_seed(5)
    first, state = torch.rand(3, device="cuda"), torch.cuda.get_rng_state("cuda")
    second, here = torch.rand(3, device="cuda"), torch.rand(3)
    torch.cuda.set_rng_state(state, "cuda")
    assert torch.equal(torch.rand(3, device="cuda"), second)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3, device="cuda"), first)
    assert torch.equal(torch.rand(3), here)


def test_64_bits_can_be_refused() -> None:
    there(2).double()
    SCRIPT.float64 = False
    for make in (there(2).double, lambda: torch.zeros(2, dtype=torch.float64).to("cuda")):
        with pytest.raises(TypeError, match="float64"):
            make()


def test_autocast_computes_in_16_bits_there_alone() -> None:
    weight, number = there(2, 2), torch.ones(2, 2)
    with torch.autocast("cuda"):
        assert (weight @ weight).dtype == torch.float16
        assert nn.functional.layer_norm(weight.half(), (2,)).dtype == torch.float32
        assert (number @ number).dtype == torch.float32
        assert (weight.half() @ weight.to(torch.float8_e4m3fn)).dtype == torch.float16


def test_waits_are_counted_by_the_line_of_the_extension(tmp_path: object) -> None:
    scope: dict[str, object] = {"torch": torch}
    source = "def ask(t):\n    return t.sum().item() + t.cpu()[0] + t.to('cpu', non_blocking=True).numel()\n"
    exec(compile(source, "/somewhere/lib_amdm/ask.py", "exec"), scope)
    scope["ask"](there(2))  # type: ignore[operator]
    there(2).sum().item()
    assert dict(RECORD.waits) == {"item at lib_amdm/ask.py:ask": 1, "copy to the CPU at lib_amdm/ask.py:ask": 1}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_in_16_bits_are_summed_in_32(dtype: torch.dtype) -> None:
    a, b = (torch.randn(8, 64).to(dtype) for _ in range(2))
    found = a.cuda() @ b.cuda().T
    assert found.dtype == dtype
    assert torch.equal(found.cpu(), (a.float() @ b.float().T).to(dtype))
    with pytest.raises(RuntimeError, match="dtype"):
        a.cuda() @ b.cuda().float().T
