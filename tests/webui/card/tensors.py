"""Tensors on the card: the CPU's own with a mark, and the mode that sees every operation on them.

A mark and not a class: a parameter that moves stays the object that it was, as on a card, and its type as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, handle_torch_function

from .memory import BASE, allocation
from .record import RECORD, SCRIPT, caller, fail_by_script, waited

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)
MARK = "_on_card"
PINNED = "_pinned"
TO_CARD, TO_CPU = "copy to the card", "copy to the CPU"

METADATA = frozenset(
    {
        *("size", "dim", "ndimension", "stride", "numel", "nelement", "element_size", "data_ptr", "is_contiguous"),
        *(
            "is_floating_point",
            "is_complex",
            "untyped_storage",
            "storage",
            "_typed_storage",
            "storage_offset",
            "__len__",
        ),
        *(
            "__hash__",
            "has_names",
            "is_inference",
            "is_same_size",
            "_has_compatible_shallow_copy_type",
            "register_hook",
        ),
        *("promote_types", "result_type", "can_cast", "is_tensor", "is_storage", "broadcast_shapes", "_is_view"),
        *("requires_grad_", "is_signed", "is_conj", "is_neg", "type_promotion", "get_default_dtype", "retain_grad"),
    }
)
READS = frozenset(
    {
        *("item", "tolist", "__bool__", "__int__", "__float__", "__complex__", "__index__", "__contains__", "__repr__"),
        *("__format__", "nonzero", "argwhere", "masked_select", "equal", "allclose", "unique", "unique_consecutive"),
        *("is_nonzero", "bincount", "__str__"),
    }
)
"""Operations that need the numbers themselves, or a size that depends on them."""

MAKERS = frozenset(
    {
        *("rand", "randn", "randint", "randperm", "zeros", "ones", "empty", "full", "arange", "linspace", "logspace"),
        *("eye", "empty_strided", "empty_permuted", "tril_indices", "triu_indices", "from_numpy", "scalar_tensor"),
        *("range", "hann_window", "hamming_window", "frombuffer", "fft_fftfreq", "fft_rfftfreq", "from_file"),
    }
)
CONVERTERS = frozenset({"tensor", "as_tensor", "asarray"})
RANDOM = frozenset(
    {
        *("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "normal_", "uniform_"),
        *("bernoulli_", "random_", "exponential_", "log_normal_", "cauchy_", "geometric_", "poisson"),
    }
)
RANDOM_LIKE = {"rand_like": torch.rand, "randn_like": torch.randn}
ACROSS = frozenset({"_make_subclass", "set_", "swap_tensors", "_make_wrapper_subclass"})
"""Operations that put one tensor's numbers into another's place."""

IN_HALF = frozenset(
    {
        *("linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "baddbmm", "addmm", "addbmm", "addmv", "mv"),
        *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "einsum"),
        *("scaled_dot_product_attention", "prelu", "chain_matmul", "multi_dot"),
    }
)
LOW = (torch.float16, torch.bfloat16)
IN_FLOAT = frozenset(
    {
        *("layer_norm", "group_norm", "softmax", "log_softmax", "exp", "log", "log1p", "expm1", "pow", "__pow__"),
        *("cumsum", "cumprod", "sum", "prod", "norm", "cosine_similarity", "mse_loss", "rsqrt", "reciprocal", "sinh"),
        *("cosh", "tan", "acos", "asin", "softplus", "softmin", "cdist", "dist", "renorm", "logsumexp", "__rpow__"),
    }
)
"""Operations that torch.autocast("cuda") computes in 16 and in 32 bits."""


class MixedError(RuntimeError):
    """One operation was given tensors of both devices."""


def on_card(tensor: Tensor) -> bool:
    return MARK in tensor.__dict__


def put(tensor: Tensor) -> Tensor:
    """Mark a tensor as one on the card, where memory and kind of number allow it."""
    if not SCRIPT.float64 and tensor.dtype in (torch.float64, torch.complex128):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
    tensor.__dict__[MARK] = allocation(tensor)
    tensor.__dict__.pop(PINNED, None)
    return tensor


def take(tensor: Tensor) -> Tensor:
    """Make a tensor one of the CPU's."""
    tensor.__dict__.pop(MARK, None)
    return tensor


def is_card(device: Any) -> bool:
    if isinstance(device, int) and not isinstance(device, bool):
        return True
    return torch.device(device).type == "cuda"


def tensors_in(values: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_in(value)
        elif isinstance(value, dict):
            found += tensors_in(value.values())
    return found


# ---- copies that are on their way ----


class Copy:
    """A copy to the CPU that nobody has waited for: its target holds garbage until then."""

    def __init__(self, target: Tensor, numbers: Tensor) -> None:
        self.target, self.numbers = target, numbers
        spoil(target)


on_the_way: list[Copy] = []
_lock = threading.RLock()


def spoil(target: Tensor) -> None:
    if target.is_floating_point() and target.element_size() > 1:
        target.fill_(float("nan"))
    elif target.dtype == torch.bool:
        target.logical_not_()
    elif target.numel():
        BASE.untyped_storage(target).fill_(0x5A)


class Queue:
    """Events by number: how many were recorded, and up to which they have happened."""

    recorded = happened = 0


def finish() -> None:
    """Wait for the card: copies have arrived and events happened."""
    Queue.happened = Queue.recorded
    arrive()


def arrive(copies: Sequence[Copy] | None = None) -> None:
    """Let copies come to their end: those given, or all."""
    with _lock:
        due = [each for each in on_the_way if copies is None or each in copies]
        on_the_way[:] = [each for each in on_the_way if each not in due]
        with torch.inference_mode(), torch._C.DisableTorchFunction():
            for each in due:
                each.target.copy_(each.numbers)


# ---- the mode ----


class Card(TorchFunctionMode):
    """Sees every call of torch in its thread."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        special = SPECIAL.get(name)
        if special is not None:
            return special(self, func, name, args, kwargs)
        return func(*args, **kwargs) if name in METADATA else self.compute(func, name, args, kwargs)

    def compute(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """An operation: where its tensors are, and where the answer goes."""
        given = tensors_in((args, kwargs))
        there = [on_card(each) for each in given]
        device = kwargs.get("device")
        if device is not None:
            target = is_card(device)
            kwargs["device"] = CPU if target else device
        elif name in MAKERS:
            target = any(there) and "out" in kwargs
        elif name in CONVERTERS or name.startswith("new_") or name.endswith("_like"):
            target = bool(there) and there[0]
        else:
            target = any(there)
        pinned = bool(kwargs.pop("pin_memory", False)) and not target
        if any(there):
            self.refuse_mixed(name, args, given, there, device)
            if name in READS:
                waited(name)
                finish()
        if target or any(there):
            fail_by_script(name)
        if target and name in CONVERTERS and not any(there):
            waited(f"{name} of the CPU's numbers")
        if name in {*CONVERTERS, "new_tensor"}:
            args = _with_numbers(name, args, kwargs)
        if name in RANDOM:
            self.choose_generator(kwargs, target)
        found = self.run(func, name, args, kwargs, target)
        known = {id(each) for each in given}
        if device is not None or name in CONVERTERS:
            # an answer that is the tensor that was given, on another device
            found = _apart(found, given, target)
        for each in tensors_in((found,)):
            if target and id(each) not in known:
                put(each)
            elif pinned:
                each.__dict__[PINNED] = True
        return found

    def refuse_mixed(self, name: str, args: Any, given: list[Tensor], there: list[bool], device: Any) -> None:
        if all(there) or name in ACROSS or name in MAKERS or name in CONVERTERS or name.startswith("new_"):
            return
        if name.endswith("_like") or (device is not None and len(given) == 1):
            return
        # a card takes single numbers from the CPU
        if any(each.ndim for each, card in zip(given, there) if not card):
            RECORD.mixed.append(f"{name} at {caller()}")
            raise MixedError(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
                f"({name})"
            )

    def choose_generator(self, kwargs: dict[str, Any], target: bool) -> None:
        own = kwargs.get("generator")
        if own is None:
            if target:
                kwargs["generator"] = self.generator
        elif (own.device.type == "cuda") != target:
            kinds = ("cuda", "cpu") if target else ("cpu", "cuda")
            raise RuntimeError(f"Expected a '{kinds[0]}' device type for generator but found '{kinds[1]}'")

    def run(self, func: Any, name: str, args: Any, kwargs: dict[str, Any], target: bool) -> Any:
        if not target:
            return func(*args, **kwargs)
        if name in RANDOM_LIKE:
            like = args[0]
            kwargs = {"dtype": like.dtype, **{k: v for k, v in kwargs.items() if k != "memory_format"}}
            return RANDOM_LIKE[name](like.shape, generator=self.generator, **kwargs)
        if _autocasts() and (name in IN_HALF or name in IN_FLOAT):
            kind = _autocast_dtype() if name in IN_HALF else torch.float32
            args, kwargs = _cast((args, kwargs), kind)
        if name in IN_HALF and any(each.dtype in LOW for each in tensors_in((args, kwargs))):
            # as a card does it, and many times faster than a CPU's 16 bits
            return _in_float(func, name, args, kwargs)
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if "not implemented for 'Half'" not in str(error):
                raise
            return _in_float(func, name, args, kwargs)

    # what is not an operation on numbers that are there

    def attribute(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """A property: what it gives is where its tensor is; data that is put in brings its device."""
        found = func(*args, **kwargs)
        if name == "__get__":
            if isinstance(found, Tensor) and found is not args[0] and on_card(args[0]):
                put(found)
        elif len(args) > 1 and isinstance(args[1], Tensor) and func.__self__.__name__ == "data":
            put(args[0]) if on_card(args[1]) else take(args[0])
        return found

    def move(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        tensor, rest = args[0], list(args[1:])
        target, dtype, waits = on_card(tensor), tensor.dtype, not kwargs.pop("non_blocking", False)
        device: Any = kwargs.pop("device", None)
        other = kwargs.pop("other", None)
        if name in ("cuda", "cpu"):
            if name == "cuda" and rest[1:]:
                waits = not rest[1]
            device, rest = name, []
        elif name == "type_as":
            other, rest = rest[0], []
        elif rest:
            first = rest.pop(0)
            if isinstance(first, Tensor):
                other = first
            elif isinstance(first, torch.dtype):
                dtype = first
            else:
                device = first if first is not None else device
                if rest and (rest[0] is None or isinstance(rest[0], torch.dtype)):
                    dtype = rest.pop(0) or dtype
            if rest:
                waits = not rest.pop(0)
            if rest:
                kwargs["copy"] = rest.pop(0)
        dtype = kwargs.pop("dtype", None) or dtype
        if other is not None:
            device, dtype = ("cuda" if on_card(other) else other.device), other.dtype
        if device is not None:
            target = is_card(device)
            if not target and torch.device(device).type != "cpu":
                return Tensor.to(tensor, device, dtype, **kwargs)
        if target == on_card(tensor):
            if target and dtype != tensor.dtype:
                fail_by_script(name)
            found = self.run(Tensor.to, name, (tensor,), {"dtype": dtype, **kwargs}, False)
            return put(found) if target and found is not tensor else found
        if tensor.is_meta:
            raise NotImplementedError("Cannot copy out of meta tensor; no data!")
        return self.across(tensor, target, waits, dtype=dtype, **{**kwargs, "copy": True})

    def across(self, tensor: Tensor, target: bool, waits: bool, **kwargs: Any) -> Tensor:
        """A copy of a tensor on the other device."""
        if target:
            fail_by_script(TO_CARD)
        found = take(Tensor.to(tensor, **kwargs))
        self.crossed(found, target, waits)
        if target:
            return put(found)
        if not waits:
            found.__dict__[PINNED] = True
            with _lock:
                on_the_way.append(Copy(found, found.clone()))
        return found

    def crossed(self, tensor: Tensor, up: bool, waits: bool) -> None:
        RECORD.copied["up" if up else "down"] += tensor.numel() * tensor.element_size()
        if waits:
            waited(TO_CARD if up else TO_CPU)
            finish()
        elif up:
            # the queue brings what it has in order
            arrive()

    def copy(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        into, source = args[0], args[1] if len(args) > 1 else kwargs["src"]
        up, down = on_card(into) and not on_card(source), on_card(source) and not on_card(into)
        waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        if up:
            fail_by_script(TO_CARD)
        late = down and not waits and PINNED in into.__dict__
        found = func(into, source)
        if up or down:
            self.crossed(into, up, waits)
        if late:
            with _lock:
                on_the_way.append(Copy(into, into.clone()))
        return found

    def pin(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        if on_card(args[0]):
            raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
        found = args[0].clone()
        found.__dict__[PINNED] = True
        return found

    def as_array(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        if on_card(args[0]):
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory "
                "first."
            )
        return func(*args, **kwargs)

    def item_of(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """Indexing, read or write: the CPU's indexes are copied to the card, the card's are none for the CPU."""
        tensor, index = args[0], args[1]
        parts = index if isinstance(index, tuple) else (index,)
        indexes = [each for each in parts if isinstance(each, (Tensor, list)) or type(each).__name__ == "ndarray"]
        if on_card(tensor):
            for each in indexes:
                if isinstance(each, Tensor) and each.dtype in (torch.bool, torch.uint8):
                    waited("index by a mask")
                elif not isinstance(each, Tensor) or not on_card(each):
                    waited("index by the CPU's numbers")
            fail_by_script(name)
        elif any(isinstance(each, Tensor) and on_card(each) and each.ndim for each in indexes):
            RECORD.mixed.append(f"{name} at {caller()}")
            raise MixedError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        if name == "__setitem__":
            value = args[2]
            if isinstance(value, Tensor) and on_card(value) != on_card(tensor):
                self.crossed(value, on_card(tensor), True)
            return func(*args, **kwargs)
        found = func(*args, **kwargs)
        return put(found) if on_card(tensor) else found

    def parts_of(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        found = list(func(*args, **kwargs))
        return iter([put(each) for each in found] if on_card(args[0]) else found)

    def one_where(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        if len(args) == 1 and not kwargs and on_card(args[0]):
            waited(name)
        return self.compute(func, name, args, kwargs)

    def on_which(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        return 0 if on_card(args[0]) else func(*args, **kwargs)

    def is_pinned(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        return PINNED in args[0].__dict__


SPECIAL: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("__get__", "__set__", "__delete__"), Card.attribute),
    **dict.fromkeys(("to", "cuda", "cpu", "type_as"), Card.move),
    **dict.fromkeys(("numpy", "__array__", "__dlpack__"), Card.as_array),
    **dict.fromkeys(("__getitem__", "__setitem__"), Card.item_of),
    "copy_": Card.copy,
    "pin_memory": Card.pin,
    "is_pinned": Card.is_pinned,
    "__iter__": Card.parts_of,
    "where": Card.one_where,
    "get_device": Card.on_which,
}


def _apart(found: Any, given: list[Tensor], target: bool) -> Any:
    """The answer of a maker; where it is one of the tensors given, on the other device, a copy of that."""
    if isinstance(found, Tensor) and any(found is each for each in given) and on_card(found) != target:
        return take(found.clone())
    return found


def _with_numbers(name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """The arguments of a maker with numbers in the place of a list's tensors, which it would read one by one."""
    place = int(name == "new_tensor")
    if len(args) <= place or not isinstance(args[place], (list, tuple)):
        return args
    within = tensors_in(args[place])
    if within and all(each.ndim == 0 for each in within):
        kwargs.setdefault("dtype", within[0].dtype)
        return (*args[:place], _mapped(list(args[place]), Tensor.item), *args[place + 1 :])
    return args


def _autocasts() -> bool:
    return torch.is_autocast_enabled()


def _autocast_dtype() -> torch.dtype:
    # torch 2.1 has the other alone
    return torch.get_autocast_dtype("cuda") if hasattr(torch, "get_autocast_dtype") else torch.get_autocast_gpu_dtype()


def _mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(_mapped(each, change) for each in value)
    return {name: _mapped(each, change) for name, each in value.items()} if type(value) is dict else value


def _cast(value: Any, dtype: torch.dtype) -> Any:
    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor

    return _mapped(value, cast)


def _in_float(func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute in 32 bits, and round, what a CPU computes in 16 bits slowly or not at all."""
    low: list[Tensor] = []

    def widened(tensor: Tensor) -> Tensor:
        if tensor.dtype not in LOW:
            return tensor
        low.append(tensor)
        return tensor.float()

    wide_args, wide_kwargs = _mapped((args, kwargs), widened)
    if len({each.dtype for each in tensors_in((args, kwargs)) if each.is_floating_point()}) > 1 and name in IN_HALF:
        # the refusal of different numbers is the operation's own
        return func(*args, **kwargs)
    found = func(*wide_args, **wide_kwargs)
    if name.endswith("_") and not name.endswith("__"):
        return args[0].copy_(found)
    return _mapped(found, lambda each: each.to(low[0].dtype) if each.dtype == torch.float32 else each)


# ---- where it holds ----


class _Seen(TorchFunctionMode):
    """The names of the calls that a mode is given."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def unseen_indexing() -> Callable[..., Tensor] | None:
    """A `Tensor.__getitem__` that gives the mode its calls; None where this torch does so by itself, as from 2.2 on."""
    with _Seen() as seen:
        torch.zeros(1)[0]
    if "__getitem__" in seen.names:
        return None
    plain = Tensor.__getitem__

    def indexed(tensor: Tensor, index: Any) -> Tensor:
        if torch._C._is_torch_function_mode_enabled():
            return handle_torch_function(plain, (tensor,), tensor, index)
        return plain(tensor, index)

    return indexed


_THREAD: Any = threading.Thread


class Everywhere:
    """The mode in this thread and in all that start while it is on."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.mode = Card(generator)

    def __enter__(self) -> None:
        generator, self.bootstrap = self.generator, _THREAD._bootstrap_inner

        def bootstrap(thread: threading.Thread) -> None:
            with Card(generator):
                original(thread)

        original = self.bootstrap
        _THREAD._bootstrap_inner = bootstrap
        self.mode.__enter__()

    def __exit__(self, *told: Any) -> None:
        self.mode.__exit__(*told)
        _THREAD._bootstrap_inner = self.bootstrap
