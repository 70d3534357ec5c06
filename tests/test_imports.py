"""What may import what: the core is usable with torch alone, and dependencies point down only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lib_amdm"
FILES = sorted(PACKAGE.rglob("*.py"))

# each part and the parts it may import, itself aside
SAMPLING = ("sampling", "sampler_call", "aggregation", "levels")
WORDS = ("settings", "layout", "errors")
BELOW = {
    "errors": set(),
    "layout": {"errors"},
    "settings": {"errors", "layout"},
    "levels": set(),
    "aggregation": set(),
    "sampler_call": {"levels"},
    "sampling": {"aggregation", "levels", "sampler_call"},
    "adapters": {"aggregation", *WORDS},
    "comodels": {"adapters", *SAMPLING, *WORDS},
    "hosts": {"comodels", "adapters", *SAMPLING, *WORDS},
    "webui": {"hosts", "comodels", "adapters", *SAMPLING, *WORDS},
    "shapes": {"hosts", "comodels", "adapters", *SAMPLING, *WORDS},
}
DEMO_PAGE = "lib_amdm.shapes.page"
"""A page with the WebUI's own panel: the one part of `shapes` that stands above `webui`."""
HOSTS = ("a1111", "forge", "reforge", "standalone", "webui")
COMMON = "webui"
"""What the WebUIs share; it is no host of its own, imports none, and imports only what all of them have."""

COMMON_MODULES = {"modules"}
FINDER = "lib_amdm.hosts.here"
"""Finds out which host this is, and imports that one alone."""

WEBUI_MODULES = {
    "backend",
    "extensions_builtin",
    "ldm",
    "ldm_patched",
    "modules",
    "modules_forge",
    "repositories",
    "sgm",
    "webui",
}
LIBRARIES = {"k_diffusion", "diffusers", "transformers", "fastapi"}


def loaded_by(module: str, watched: set[str]) -> set[str]:
    """Which of `watched` a fresh interpreter has loaded once it has imported `module`."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {module}; "
        f"print(*({watched!r} & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(source: str, module: str, package: bool = False) -> Iterator[str]:
    """The full names that a module's source imports, wherever in it."""
    home = module if package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                levels = home.split(".")
                base = ".".join([*levels[: len(levels) - node.level + 1], *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports(file: Path) -> list[str]:
    return list(imported(file.read_text(encoding="utf-8"), name_of(file), file.name == "__init__.py"))


def part_of(name: str) -> str:
    """`sampling` of lib_amdm.sampling.amdm; empty for the package itself."""
    return [*name.split("."), ""][1]


def hosts_of(name: str) -> set[str]:
    """The host that a module name belongs to: a1111 for lib_amdm.hosts.a1111 and lib_amdm.hosts.a1111_models."""
    levels = name.split(".")
    if levels[:2] != ["lib_amdm", "hosts"] or len(levels) < 3:
        return set()
    return {host for host in HOSTS if levels[2] == host or levels[2].startswith(f"{host}_")}


def test_the_core_loads_torch_and_nothing_of_a_webui() -> None:
    modules = [name_of(file) for file in FILES if part_of(name_of(file)) in (*SAMPLING, "adapters")]
    watched = {"gradio", "torch", "torchsde", *WEBUI_MODULES, *LIBRARIES}
    assert "lib_amdm.sampling" in modules
    assert loaded_by(", ".join(modules), watched) == {"torch"}


def test_the_settings_load_neither_torch_nor_a_page() -> None:
    watched = {"gradio", "torch", "numpy", "PIL", *WEBUI_MODULES, *LIBRARIES}
    assert loaded_by("lib_amdm.settings", watched) == set()


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_arrows_point_down(file: Path) -> None:
    own = part_of(name_of(file))
    ours = {part_of(name) for name in imports(file) if name.split(".")[0] == "lib_amdm"} - {own, "", "__version__"}
    assert not any(name.split(".")[0] == "scripts" for name in imports(file))
    below = BELOW.get(own, set()) | ({"webui"} if name_of(file) == DEMO_PAGE else set())
    assert ours <= below, f"{name_of(file)} imports {ours - below}"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_only_hosts_import_a_webui_and_only_the_page_imports_gradio(file: Path) -> None:
    own, roots = name_of(file), {name.split(".")[0] for name in imports(file)}
    if not hosts_of(own):
        assert not roots & WEBUI_MODULES, f"{own} imports {roots & WEBUI_MODULES}; that belongs into a host"
    if part_of(own) not in ("webui", "hosts") and own != DEMO_PAGE:
        assert "gradio" not in roots
    if part_of(own) in (*SAMPLING, "adapters", "comodels"):
        assert not roots & LIBRARIES, f"{own} imports {roots & LIBRARIES}"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_host_imports_another(file: Path) -> None:
    own = hosts_of(name_of(file))
    if own:
        others = set().union(*(hosts_of(name) for name in imports(file))) - own
        shared = {COMMON} if own != {"standalone"} else set()
        assert not others - shared, f"{name_of(file)} imports {others}"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_what_the_webuis_share_is_in_all_of_them(file: Path) -> None:
    if hosts_of(name_of(file)) == {COMMON}:
        roots = {name.split(".")[0] for name in imports(file)} & WEBUI_MODULES
        assert roots <= COMMON_MODULES, f"{name_of(file)} imports {roots}"


def test_the_finder_of_the_host_imports_none() -> None:
    assert not set().union(*(hosts_of(name) for name in imports(PACKAGE / "hosts" / "here.py")))
    assert loaded_by(FINDER, {"modules", "backend", "torch", "gradio"}) == set()


def test_every_part_has_its_place() -> None:
    """A new part of the package must be given its place among the arrows."""
    parts = {part_of(name_of(file)) for file in FILES} - {""}
    assert parts <= set(BELOW)
    apart = ("__init__", "base", "here")
    hosts = {file for file in FILES if file.parent == PACKAGE / "hosts" and file.stem not in apart}
    assert [name_of(file) for file in hosts if not hosts_of(name_of(file))] == []


def test_the_reader_of_imports_sees_all_forms() -> None:
    source = "import a.b\nfrom c import d\ndef f():\n    from . import e\n    from ..sampling import g\n"
    assert set(imported(source, "lib_amdm.hosts.forge")) == {
        "a.b",
        "c.d",
        "lib_amdm.hosts.e",
        "lib_amdm.sampling.g",
    }
    assert set(imported("from .forge import x", "lib_amdm.hosts", True)) == {"lib_amdm.hosts.forge.x"}
    assert hosts_of("lib_amdm.hosts.forge.x") == {"forge"}
    assert hosts_of("lib_amdm.hosts.a1111_models") == {"a1111"}
    assert hosts_of("lib_amdm.hosts.webui_run") == {COMMON}
