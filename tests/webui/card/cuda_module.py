"""torch.cuda over the rehearsed card: the driver's calls are stood in for, torch's own functions around them remain.

What these refuse is so what this version of torch refuses: with 2.1 `mem_get_info("cuda")` needs an index.
"""

from __future__ import annotations

import sys
import time
from abc import ABCMeta
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.cuda._utils import _get_device_index

from . import tensors
from .memory import BASE, MEMORY
from .record import MOVING, RECORD, SCRIPT, caller, waited

try:
    from torch import _streambase
except ImportError:
    _streambase = None  # type: ignore[assignment]

NAME = "NVIDIA Rehearsal"
SUCCESS = 0


class Patches:
    """Attributes set for as long as the card is there."""

    _absent = object()

    def __init__(self) -> None:
        self.before: list[tuple[Any, str, Any]] = []

    def set(self, place: Any, **values: Any) -> None:
        for name, value in values.items():
            self.before.append((place, name, vars(place).get(name, self._absent)))
            setattr(place, name, value)

    def undo(self) -> None:
        for place, name, value in reversed(self.before):
            if value is self._absent:
                delattr(place, name)
            else:
                setattr(place, name, value)


class Generator(torch._C.Generator):
    """A generator of random numbers; that of the card gives the CPU's numbers for the same seed."""

    there: bool

    def __new__(cls, device: Any = "cpu") -> Generator:
        made: Any = torch._C.Generator.__new__(cls, device="cpu")  # type: ignore[call-arg]
        made.there = tensors.is_card(device)
        return made

    def __init__(self, device: Any = "cpu") -> None:
        """Do nothing: what is to be done is done."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return tensors.CARD if self.there else tensors.CPU


class Stream:
    """A queue of the card's work; all work is done at once, but for copies."""

    def __init__(self, device: Any = None, priority: int = 0, **_: Any) -> None:
        _get_device_index(device, optional=True)
        self.device, self.device_index, self.priority = tensors.CARD, 0, priority
        self.cuda_stream = self.stream_id = id(self)
        self.before: Stream | None = None

    def synchronize(self) -> None:
        waited("Stream.synchronize")
        tensors.finish()

    def wait_stream(self, other: Any) -> None:
        assert isinstance(other, Stream)

    def wait_event(self, event: Any) -> None:
        assert isinstance(event, Event)

    def record_event(self, event: Any = None) -> Any:
        event = event or Event()
        event.record(self)
        return event

    def query(self) -> bool:
        tensors.finish()
        return True

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: Any) -> None:
        return None


class Event:
    """A mark in a queue: the copies before it have arrived when it has happened."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, **_: Any) -> None:
        self.timing, self.at, self.number, self.late = enable_timing, 0.0, 0, 0
        self.before: list[tensors.Copy] = []

    def record(self, stream: Any = None) -> None:
        assert stream is None or isinstance(stream, Stream)
        tensors.Queue.recorded += 1
        self.number, self.late = tensors.Queue.recorded, SCRIPT.late
        self.at, self.before = time.perf_counter(), list(tensors.on_the_way)

    def wait(self, stream: Any = None) -> None:
        """Do nothing: the queue waits, and not the CPU."""

    @property
    def _pending(self) -> bool:
        """One that was recorded before another that has happened has happened as well."""
        return self.late > 0 and self.number > tensors.Queue.happened

    def query(self) -> bool:
        if self._pending:
            self.late -= 1
            return False
        self._happen()
        return True

    def synchronize(self) -> None:
        if self._pending:
            waited("Event.synchronize")
        self._happen()

    def elapsed_time(self, end: Event) -> float:
        if not (self.timing and end.timing):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if not (self.at and end.at):
            raise ValueError("Both events must be recorded before calculating elapsed time.")
        if self._pending or end._pending:
            raise RuntimeError("CUDA error: device not ready")
        return (end.at - self.at) * 1000

    def _happen(self) -> None:
        tensors.Queue.happened, self.late = max(tensors.Queue.happened, self.number), 0
        tensors.arrive(self.before)
        self.before = []


for _own, _name in ((Stream, "_StreamBase"), (Event, "_EventBase")):
    # torch 2.2 to 2.4 refuse classes of streams and events that are not of these
    _base = getattr(_streambase, _name, None)
    if isinstance(_base, ABCMeta):
        _base.register(_own)


class OnStream:
    """The context torch.cuda.stream()."""

    def __init__(self, stream: Any) -> None:
        assert stream is None or isinstance(stream, Stream)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: Any) -> None:
        return None


class Properties(SimpleNamespace):
    """The properties of a device; its size follows the script."""

    @property
    def total_memory(self) -> int:
        return SCRIPT.total


PROPERTIES = Properties(
    name=NAME,
    major=8,
    minor=6,
    multi_processor_count=28,
    warp_size=32,
    is_integrated=0,
    is_multi_gpu_board=0,
    gcnArchName="sm_86",
    uuid="00000000-0000-0000-0000-000000000000",
    L2_cache_size=3 << 20,
    max_threads_per_multi_processor=1536,
    regs_per_multiprocessor=65536,
    shared_memory_per_block=48 << 10,
)


def _memory_info(device: int) -> tuple[int, int]:
    RECORD.questions[caller()] += 1
    return MEMORY.free(), SCRIPT.total


def _synchronize() -> None:
    waited("synchronize")
    tensors.finish()


def _empty_cache() -> None:
    RECORD.emptied += 1
    MEMORY.empty()


def _index_is_a_device() -> bool:
    """Return True if torch.device(0) is the card: a torch without CUDA refuses it, or takes it for the CPU's."""
    try:
        return torch.device(0).type == "cuda"
    except RuntimeError:
        return False


_MAKE_DEVICES = ("memory_management.py", "model_management.py", "stream.py")
"""Files of hosts that make a device of the current one's index."""


def _current_device() -> Any:
    makes_device = sys._getframe(1).f_code.co_filename.endswith(_MAKE_DEVICES)
    return "cuda:0" if makes_device and not _index_is_a_device() else 0


def _driver() -> dict[str, Callable[..., Any]]:
    """The calls below torch.cuda, as torch._C has them where it was built with CUDA."""
    return {
        "_cuda_init": lambda: None,
        "_cuda_getDevice": lambda: 0,
        "_cuda_setDevice": lambda device: None,
        "_cuda_exchangeDevice": lambda device: 0,
        "_cuda_maybeExchangeDevice": lambda device: 0,
        "_cuda_getDeviceCount": lambda: 1,
        "_cuda_isInBadFork": lambda: False,
        "_cuda_getArchFlags": lambda: "sm_86",
        "_cuda_getCompiledVersion": lambda: 12010,
        "_cuda_synchronize": _synchronize,
        "_cuda_ipc_collect": lambda: None,
        "_cuda_emptyCache": _empty_cache,
        "_cuda_memoryStats": lambda device: {**MEMORY.statistics(), "num_alloc_retries": 0, "num_ooms": 0},
        "_cuda_memoryStatsAsNestedDict": lambda device: MEMORY.statistics(),
        "_cuda_resetPeakMemoryStats": _reset_peak,
        "_cuda_resetAccumulatedMemoryStats": lambda device: None,
        "_cuda_getAllocatorBackend": lambda: "native",
        "_cuda_isCurrentStreamCapturing": lambda: False,
        "_cuda_hasPrimaryContext": lambda device: True,
        "_cuda_canDeviceAccessPeer": lambda device, other: False,
        "_cuda_isHistoryEnabled": lambda: False,
        "_cuda_getCurrentRawStream": lambda device: 0,
    }


def _reset_peak(device: int) -> None:
    MEMORY.peak = MEMORY.live


def install() -> Callable[[], None]:
    """Let torch have a card from now on, in this thread and in those that it starts; return what takes it away."""
    patches = Patches()
    cuda, generator = torch.cuda, Generator("cuda")
    generator.manual_seed(torch.initial_seed())
    default = Stream()

    def stream_of(device: Any = None) -> Stream:
        _get_device_index(device, optional=True)
        return default

    patches.set(torch._C, **_driver())
    runtime = SimpleNamespace(
        cudaMemGetInfo=_memory_info,
        cudaHostRegister=lambda pointer, size, flags: SUCCESS,
        cudaHostUnregister=lambda pointer: SUCCESS,
        cudaGetErrorString=str,
    )
    patches.set(
        cuda,
        _initialized=True,
        _cudart=runtime,
        cudart=lambda: runtime,
        is_available=lambda: True,
        device_count=lambda: 1,
        _device_count_nvml=lambda: 1,
        current_device=_current_device,
        default_generators=(generator,),
        _get_device_properties=lambda device: PROPERTIES,
        _exchange_device=lambda device: 0,
        _maybe_exchange_device=lambda device: 0,
        Stream=Stream,
        Event=Event,
        stream=OnStream,
        current_stream=stream_of,
        default_stream=stream_of,
        set_stream=lambda stream: None,
        is_bf16_supported=lambda including_emulation=True: True,
        is_current_stream_capturing=lambda: False,
    )
    patches.set(torch.version, cuda=torch.version.cuda or "12.1")
    patches.set(torch, Generator=Generator)
    make_subclass = Tensor._make_subclass

    # a newer torch compares the signature with that of its own stand-in
    def keeping_place(cls: type[Any], data: Tensor, requires_grad: bool = False, **kwargs: Any) -> Any:
        made = make_subclass(cls, data, requires_grad, **kwargs)
        return tensors.put(made) if tensors.on_card(data) else made

    patches.set(
        Tensor,
        _make_subclass=staticmethod(keeping_place),
        device=property(_device_of),
        is_cuda=property(tensors.on_card),
        is_cpu=property(lambda tensor: _device_of(tensor).type == "cpu"),
    )
    indexed = tensors.unseen_indexing()
    if indexed is not None:
        patches.set(Tensor, __getitem__=indexed)
    patches.set(torch.nn.Module, _apply=_counting(torch.nn.Module._apply))
    everywhere = tensors.Everywhere(generator)
    everywhere.__enter__()

    def uninstall() -> None:
        everywhere.__exit__(None, None, None)
        patches.undo()
        tensors.on_the_way.clear()

    return uninstall


def _device_of(tensor: Tensor) -> torch.device:
    return tensors.CARD if tensors.on_card(tensor) else BASE.device.__get__(tensor)


def _counting(apply: Callable[..., Any]) -> Callable[..., Any]:
    """`Module._apply`, counting how often the module's own parameters go up to the card and down."""

    def place(module: torch.nn.Module) -> bool | None:
        return next((tensors.on_card(each) for each in module._parameters.values() if each is not None), None)

    def counted(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        before, outermost = place(module), MOVING.depth == 0
        copied = RECORD.copied.total() if outermost else 0
        MOVING.depth += 1
        try:
            return apply(module, *args, **kwargs)
        finally:
            MOVING.depth -= 1
            after = place(module)
            if before != after:
                RECORD.moves.setdefault(module, [0, 0])[0 if after else 1] += 1
            if outermost and RECORD.copied.total() != copied:
                waited(f"moving {type(module).__name__}")

    return counted


@contextmanager
def present(**script: Any) -> Iterator[None]:
    """A card that is there for a while, empty and with this script."""
    before = dict(vars(SCRIPT))
    SCRIPT.change(**script)
    RECORD.clear()
    MEMORY.reserved = MEMORY.peak = MEMORY.live
    uninstall = install()
    try:
        yield
    finally:
        uninstall()
        vars(SCRIPT).update(before)
