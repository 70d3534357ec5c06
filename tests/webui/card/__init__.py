"""A rehearsal of a graphics card: torch says that a CUDA device is there, and its tensors are the CPU's with a mark.

    with present(total=1 << 30):
        there = torch.ones(2, device="cuda")

As on a card, an operation on tensors of both devices is an error; a copy to the CPU that nothing has waited for holds
garbage; an allocation beyond the card's memory is an OutOfMemoryError; torch.cuda's functions take the arguments that
this version of torch takes, for its own code runs down to the driver's calls. :data:`SCRIPT` says how much memory there
is and which call fails, :data:`RECORD` what was waited for, moved and refused. `launch.py` starts a WebUI behind it.

Not there: the speed, kernels' own rounding, several devices, and what C++ makes without Python.
"""

from .cuda_module import install, present
from .memory import MEMORY
from .record import RECORD, SCRIPT

__all__ = ["MEMORY", "RECORD", "SCRIPT", "install", "present"]
