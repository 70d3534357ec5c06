"""The WebUI's step of installing; and `python install.py demo`, `evaluate` and `test`, for a bare machine.

The WebUI brings everything that the extension needs, so without a command there is nothing to do.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and len(sys.argv) > 1:
    import hashlib
    import shutil
    import subprocess
    import venv
    from pathlib import Path

    HERE = Path(__file__).resolve().parent
    VENV = HERE / ".venv"
    PYTHON = VENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")

    def set_up(extra: str) -> None:
        """The virtual environment with what `extra` of pyproject.toml names; nothing to do where it has it already."""
        if sys.version_info < (3, 10):  # noqa: UP036 - pip's own words for it are of a package
            sys.exit(f"This needs Python 3.10 or newer, but {sys.executable} is {sys.version.split()[0]}; use another.")
        wanted = hashlib.sha256((HERE / "pyproject.toml").read_bytes()).hexdigest()
        done = VENV / f"installed-{extra}"
        if done.exists() and done.read_text() == wanted:
            return
        print(f"Setting up {VENV} for `{extra}`; the first time it takes a few minutes.", flush=True)
        if not PYTHON.exists():
            make_venv()
        steps = [
            ["--upgrade", "pip"],  # older ones know no groups
            ["--editable", f"{HERE}[{extra}]"],
            ["--no-deps", "--group", f"{HERE / 'pyproject.toml'}:k-diffusion"],
        ]
        if any(subprocess.call([PYTHON, "-m", "pip", "install", "-qq", *step]) for step in steps):
            sys.exit(f"pip could not install what `{extra}` needs and says why above; mend that and run this again.")
        done.write_text(wanted)

    def make_venv() -> None:
        try:
            venv.create(VENV, with_pip=True)
        except subprocess.CalledProcessError:
            shutil.rmtree(VENV)
            sys.exit("This Python cannot make a virtual environment; on Debian and Ubuntu install python3-venv first.")

    def test(arguments: list[str]) -> int:
        """Run the tests; further arguments are pytest's."""
        set_up("test")
        # each process loads torch, so that more of them cost memory rather than save time
        spread = ["-n", "auto", "--maxprocesses", "4", "--dist", "loadgroup"]
        return subprocess.call([PYTHON, "-m", "pytest", *spread, *arguments], cwd=HERE)

    def demo(arguments: list[str]) -> int:
        """Draw with the bundled checkpoints, or open a page with --serve; --help tells of the other arguments."""
        return run("lib_amdm.shapes.demo", arguments)

    def evaluate(arguments: list[str]) -> int:
        """Measure on models of yours; without arguments it lists its commands."""
        return run("lib_amdm.evaluate", arguments)

    def run(module: str, arguments: list[str]) -> int:
        set_up("demo")
        try:
            return subprocess.call([PYTHON, "-m", module, *arguments])
        except KeyboardInterrupt:  # how a page is ended, and a long drawing
            return 130

    COMMANDS = {"demo": demo, "evaluate": evaluate, "test": test}
    command = COMMANDS.get(sys.argv[1])
    if command is None:
        sys.exit(f'install.py has no command "{sys.argv[1]}"; use one of: {", ".join(COMMANDS)}.')
    sys.exit(command(sys.argv[2:]))
