"""k-diffusion's samplers and denoisers alone: its files, loaded as modules of this package.

`import k_diffusion` also imports its models, its augmentation and its evaluation, and the libraries that these need.
None of that is used here, so k-diffusion's folder is this package's search path, and only what is named below is loaded
from it. `k_diffusion` itself is never imported, and stays for others what it is.
"""

import importlib.util
from importlib import import_module
from typing import Any

_spec = importlib.util.find_spec("k_diffusion")
if _spec is None or _spec.submodule_search_locations is None:
    raise ModuleNotFoundError("k-diffusion is not installed.", name="k_diffusion")
__path__ = list(_spec.submodule_search_locations)

sampling: Any = import_module(f"{__name__}.sampling")
external: Any = import_module(f"{__name__}.external")
