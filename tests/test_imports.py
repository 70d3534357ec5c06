"""Imports: the contracts of pyproject.toml hold, the core needs torch alone, and a start loads little."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lib_amdm"
HEAVY = {"diffusers", "fastapi", "gradio", "k_diffusion", "torchsde", "transformers"}
WEBUI = {"backend", "ldm_patched", "modules", "modules_forge"}


def test_the_contracts_hold() -> None:
    lint = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    ran = subprocess.run([sys.executable, "-c", lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def loaded_by(modules: str, watched: set[str]) -> set[str]:
    """Return those of `watched` that a fresh interpreter has loaded once it has imported `modules`."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {modules}; "
        f"print(*({watched!r} & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


def test_the_core_loads_torch_and_nothing_of_a_webui() -> None:
    modules = [name_of(file) for part in ("core", "adapters") for file in PACKAGE.glob(f"{part}/*.py")]
    assert "lib_amdm.core.sampling" in modules
    assert loaded_by(", ".join(modules), {"torch", *HEAVY, *WEBUI}) == {"torch"}


def test_the_settings_load_neither_torch_nor_a_page() -> None:
    assert loaded_by("lib_amdm.settings", {"torch", "numpy", "PIL", *HEAVY, *WEBUI}) == set()


def test_the_finder_of_the_host_loads_none() -> None:
    assert loaded_by("lib_amdm.hosts.detect", {"torch", *HEAVY, *WEBUI}) == set()


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_at_once(file: Path) -> set[str]:
    """Return the names that a file's own statements import, without those in functions or for type checkers."""
    package = file.parent.relative_to(ROOT).parts
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            home = ".".join([*above, *([node.module] if node.module else [])])
            names |= {home, *(f"{home}.{alias.name}" for alias in node.names)}
    return names


def test_a_start_imports_nothing_that_only_a_picture_needs() -> None:
    """The page's modules and the hosts', and all that they import at once."""
    files = {name_of(file): file for file in PACKAGE.rglob("*.py")}
    waiting = {name for name in files if name.startswith("lib_amdm.webui")}
    # a start is that of a WebUI
    waiting |= {name_of(file) for file in PACKAGE.glob("hosts/*/__init__.py") if file.parent.name != "diffusers"}
    started: set[str] = set()
    while waiting:
        started.add(module := waiting.pop())
        waiting |= (imported_at_once(files[module]) & set(files)) - started
    assert {"lib_amdm.hosts.common.host", "lib_amdm.comodels.file_list"} <= started
    of_a_picture = {"lib_amdm.core.sampling", "lib_amdm.core.aggregation", "lib_amdm.hosts.common.pass_run"}
    assert not started & of_a_picture
