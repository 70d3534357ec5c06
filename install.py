"""The WebUI's installation step, which does nothing, and a few commands for a machine without a WebUI."""

from __future__ import annotations

import sys

if __name__ == "__main__" and len(sys.argv) > 1:
    import hashlib
    import io
    import os
    import shutil
    import subprocess
    import venv
    from pathlib import Path

    TYPED = f"python {sys.argv[0]}"
    HERE = Path(__file__).resolve().parent
    VENV = HERE / ".venv"
    PYTHON = VENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")

    def set_up(extra: str, name: str) -> None:
        """Create the virtual environment, with an extra of pyproject.toml for a command, unless that is done."""
        if sys.version_info < (3, 10):  # noqa: UP036 - pip's own message would name a package
            sys.exit(f"This needs Python 3.10 or newer, but {sys.executable} is {sys.version.split()[0]}; use another.")
        wanted = hashlib.sha256((HERE / "pyproject.toml").read_bytes()).hexdigest()
        done = VENV / f"installed-{extra}"
        if done.exists() and done.read_text() == wanted:
            return
        print(f"Setting up {VENV} for `{name}`: several GB, mostly PyTorch, and a few minutes; once.", flush=True)
        if not PYTHON.exists():
            make_venv()
        steps = [
            ["--upgrade", "pip"],  # older ones know no groups
            ["--editable", f"{HERE}[{extra}]"],
            ["--no-deps", "--group", f"{HERE / 'pyproject.toml'}:k-diffusion"],
        ]
        if any(subprocess.call([PYTHON, "-m", "pip", "install", "-qq", *step]) for step in steps):
            sys.exit(f"pip could not install what `{name}` needs; fix the error above and run this again.")
        done.write_text(wanted)

    def make_venv() -> None:
        """Create it as `python -m venv` does: a copy of a Mac's Python does not find its library."""
        try:
            venv.create(VENV, with_pip=True, symlinks=os.name != "nt")
        except (OSError, subprocess.CalledProcessError) as error:
            shutil.rmtree(VENV, ignore_errors=True)
            on_debian = sys.platform == "linux" and Path("/etc/debian_version").is_file()
            remedy = "install python3-venv first" if on_debian else "use another Python"
            sys.exit(f"{sys.executable} cannot make a virtual environment in {VENV} ({error}); {remedy}.")

    def test(arguments: list[str]) -> int:
        """Run the tests; further arguments are pytest's."""
        set_up("test", "test")
        # each process loads torch: more of them would cost memory and save no time
        spread = ["-n", "auto", "--maxprocesses", "4", "--dist", "loadgroup"]
        return subprocess.call([PYTHON, "-m", "pytest", *spread, *arguments], cwd=HERE)

    def demo(arguments: list[str]) -> int:
        """Draw with the bundled checkpoints, or open a page with --serve."""
        set_up("demo", "demo")
        return laboratory(PYTHON, "demo", ["demo", *arguments])

    def evaluate(arguments: list[str]) -> int:
        """Measure on your own models: two checkpoints, the paper's Table 1, a GPU."""
        # the list of its commands needs no packages
        if sys.version_info >= (3, 10) and not names_one(arguments):
            return laboratory(Path(sys.executable), "evaluate", arguments)
        set_up("demo", "evaluate")
        return laboratory(PYTHON, "evaluate", arguments)

    def names_one(arguments: list[str]) -> bool:
        """Return True if the first argument is one of the laboratory's commands."""
        from amdm_lab.cli import COMMANDS

        return bool(arguments) and arguments[0] in COMMANDS

    def laboratory(python: Path, name: str, arguments: list[str]) -> int:
        """Run one of the laboratory's commands."""
        # the laboratory is not installed: it is run from this folder
        paths = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": paths, "AMDM_TYPED": f"{TYPED} {name}"}
        try:
            return subprocess.call([python, "-m", "amdm_lab", *arguments], env=environment)
        except KeyboardInterrupt:  # the way to end a page or a long drawing
            return 130

    COMMANDS = {"demo": demo, "evaluate": evaluate, "test": test}
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    command = COMMANDS.get(sys.argv[1])
    if sys.argv[1] in ("-h", "--help"):
        listed = "\n".join(f"  {name:10} {known.__doc__}" for name, known in COMMANDS.items())
        print(f"usage: {TYPED} COMMAND ...\n\n{__doc__}\n\n{listed}\n")
        print("They set up .venv in this folder, once. `demo --help` and `evaluate COMMAND --help` say more.")
        sys.exit(0)
    if command is None:
        sys.exit(f'install.py has no command "{sys.argv[1]}"; use one of: {", ".join(COMMANDS)}; or --help.')
    sys.exit(command(sys.argv[2:]))
