"""What may import what: the core is usable with torch alone, and dependencies point down only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lib_amdm"
LABORATORY = ROOT / "amdm_lab"
FILES = [*sorted(PACKAGE.rglob("*.py")), *sorted(LABORATORY.rglob("*.py"))]

# each part and the parts it may import, itself aside
WORDS = ("errors", "layout", "families", "command_line")
BELOW = {
    "errors": set(),
    "families": set(),
    "command_line": {"errors"},
    "layout": {"errors"},
    "core": set(),
    "files": {"errors", "families", "command_line"},
    "settings": {"errors", "layout"},
    "adapters": {"core", "files", "settings", *WORDS},
    "comodels": {"adapters", "core", "files", "settings", *WORDS},
    "hosts": {"comodels", "adapters", "core", "files", "settings", *WORDS},
    "webui": {"hosts", "comodels", "adapters", "core", "files", "settings", *WORDS},
    "amdm_lab": {"hosts", "comodels", "adapters", "core", "files", "settings", *WORDS},
}
DEMO_PAGE = "amdm_lab.demo.page"
"""A page with the WebUI's own panel: the one part of the laboratory that stands above `webui`."""
STUDIO_PAGE = "amdm_lab.studio.page"
"""The controls that a WebUI's page has and the demo's has not."""
HOSTS = {file.parent.name for file in (PACKAGE / "hosts").glob("*/__init__.py")}
COMMON = "common"
"""What the WebUIs share; it is no host of its own, imports none, and imports only what all of them have."""

COMMON_MODULES = {"modules"}
FINDER = "lib_amdm.hosts.detect"
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
    """`core` of lib_amdm.core.sampling.amdm, `amdm_lab` of all that is in it; empty for the package itself."""
    root, part = [*name.split("."), ""][:2]
    return root if root == LABORATORY.name else part


def hosts_of(name: str) -> set[str]:
    """The host whose folder a module lies in: a1111 for lib_amdm.hosts.a1111 and lib_amdm.hosts.a1111.checkpoints."""
    levels = name.split(".")
    return {levels[2]} & HOSTS if levels[:2] == ["lib_amdm", "hosts"] and len(levels) > 2 else set()


def test_the_core_loads_torch_and_nothing_of_a_webui() -> None:
    modules = [name_of(file) for file in FILES if part_of(name_of(file)) in ("core", "adapters")]
    watched = {"gradio", "torch", "torchsde", *WEBUI_MODULES, *LIBRARIES}
    assert "lib_amdm.core.sampling" in modules
    assert loaded_by(", ".join(modules), watched) == {"torch"}


def test_the_settings_load_neither_torch_nor_a_page() -> None:
    watched = {"gradio", "torch", "numpy", "PIL", *WEBUI_MODULES, *LIBRARIES}
    assert loaded_by("lib_amdm.settings", watched) == set()


def offenders(wrong: Callable[[str, list[str]], set[str]]) -> dict[str, set[str]]:
    """The modules of which `wrong` (its name, what it imports) finds imports that it must not have."""
    found = {name_of(file): wrong(name_of(file), imports(file)) for file in FILES}
    return {module: bad for module, bad in found.items() if bad}


def roots(names: list[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_arrows_point_down() -> None:
    def upwards(module: str, names: list[str]) -> set[str]:
        own = part_of(module)
        if not own:
            # the package itself names the library's functions, and loads them once they are used
            return set()
        below = {own, "", "__version__", *BELOW.get(own, set()), *({"webui"} if module == DEMO_PAGE else ())}
        ours = {part_of(name) for name in names if name.split(".")[0] in (PACKAGE.name, LABORATORY.name)}
        return (ours - below) | (roots(names) & {"scripts"})

    assert offenders(upwards) == {}


def test_only_hosts_import_a_webui_and_only_the_page_imports_gradio() -> None:
    def foreign(module: str, names: list[str]) -> set[str]:
        forbidden: set[str] = set() if hosts_of(module) else set(WEBUI_MODULES)
        if part_of(module) not in ("webui", "hosts") and module not in (DEMO_PAGE, STUDIO_PAGE):
            forbidden.add("gradio")
        if part_of(module) in ("core", "files", "adapters", "comodels"):
            forbidden |= LIBRARIES
        return roots(names) & forbidden

    assert offenders(foreign) == {}


def test_no_host_imports_another() -> None:
    def others(module: str, names: list[str]) -> set[str]:
        own = hosts_of(module)
        return set().union(*(hosts_of(name) for name in names)) - own - {COMMON} if own else set()

    assert offenders(others) == {}


def test_what_the_webuis_share_is_in_all_of_them() -> None:
    def missing(module: str, names: list[str]) -> set[str]:
        return (roots(names) & WEBUI_MODULES) - COMMON_MODULES if hosts_of(module) == {COMMON} else set()

    assert offenders(missing) == {}


def arrows_of(names: Callable[[Path], list[str]]) -> dict[str, set[str]]:
    """For each module of the package those of its modules that it imports. names: what a file imports."""
    modules = {name_of(file) for file in FILES}
    packages = {name_of(file) for file in FILES if file.name == "__init__.py"}
    arrows: dict[str, set[str]] = {}
    for file in FILES:
        own, found = name_of(file), set(names(file))
        # `from . import x` is x's module, and no import of the package's own names
        parts = found & modules
        arrows[own] = (parts | ({name.rpartition(".")[0] for name in found - parts} & (modules - packages))) - {own}
    return arrows


def at_once(file: Path) -> list[str]:
    """What a module imports as soon as it is imported itself."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    source = "\n".join(ast.unparse(node) for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)))
    return list(imported(source, name_of(file), file.name == "__init__.py"))


def test_a_start_imports_nothing_that_only_a_picture_needs() -> None:
    """The script's modules of the page and of a host, and all that they import at once."""
    arrows = arrows_of(at_once)
    waiting = [name for name in arrows if name.startswith("lib_amdm.webui.")]
    waiting += [f"lib_amdm.hosts.{host}" for host in HOSTS]
    started: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module not in started:
            started.add(module)
            waiting += arrows[module]
    assert {"lib_amdm.hosts.common.host", "lib_amdm.comodels.file_list"} <= started
    of_a_picture = {"lib_amdm.core.sampling", "lib_amdm.core.aggregation", "lib_amdm.hosts.common.pass_run"}
    assert not started & of_a_picture


def test_no_modules_import_each_other() -> None:
    """In whatever way, for type checkers alone too."""
    arrows = arrows_of(imports)
    circles: list[str] = []
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> None:
        if module in way:
            circles.append(" -> ".join([*way[way.index(module) :], module]))
        elif module not in done:
            for other in sorted(arrows[module]):
                walk(other, [*way, module])
            done.add(module)

    for module in sorted(arrows):
        walk(module, [])
    assert circles == []


def test_the_finder_of_the_host_imports_none() -> None:
    assert not set().union(*(hosts_of(name) for name in imports(PACKAGE / "hosts" / "detect.py")))
    assert loaded_by(FINDER, {"modules", "backend", "torch", "gradio"}) == set()


def test_every_part_has_its_place() -> None:
    """A new part of the package must be given its place among the arrows."""
    parts = {part_of(name_of(file)) for file in FILES} - {""}
    assert parts <= set(BELOW)
    alone = {file.stem for file in FILES if file.parent == PACKAGE / "hosts"}
    assert alone == {"__init__", "protocol", "detect"}


def test_the_reader_of_imports_sees_all_forms() -> None:
    source = "import a.b\nfrom c import d\ndef f():\n    from . import e\n    from ..sampling import g\n"
    assert set(imported(source, "lib_amdm.hosts.forge")) == {"a.b", "c.d", "lib_amdm.hosts.e", "lib_amdm.sampling.g"}
    assert set(imported("from .forge import x", "lib_amdm.hosts", True)) == {"lib_amdm.hosts.forge.x"}
    assert hosts_of("lib_amdm.hosts.forge.x") == {"forge"}
    assert hosts_of("lib_amdm.hosts.a1111.checkpoints") == {"a1111"}
    assert hosts_of("lib_amdm.hosts.common.pass_run") == {COMMON}
