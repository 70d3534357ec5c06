"""What the WebUI runs at its start; and `python install.py demo` and `test`, which set up and run on a bare machine.

The WebUI brings everything that the extension needs, so without a command there is nothing to do.
"""

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
        if not (3, 10) <= sys.version_info[:2] <= (3, 12):
            sys.exit(f"This needs Python 3.10 to 3.12, but {sys.executable} is {sys.version.split()[0]}; use another.")
        wanted = hashlib.sha256((HERE / "pyproject.toml").read_bytes()).hexdigest()
        done = VENV / f"installed-{extra}"
        if done.exists() and done.read_text() == wanted:
            return
        print(f"Setting up {VENV} for `{extra}`; the first time it takes a few minutes.", flush=True)
        if not PYTHON.exists():
            make_venv()
        pip = [PYTHON, "-m", "pip", "install", "-qq"]
        # the pip that Python 3.10 brings gives up on these requirements
        if subprocess.call([*pip, "--upgrade", "pip"]) or subprocess.call([*pip, "--editable", f"{HERE}[{extra}]"]):
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
        set_up("demo")
        try:
            return subprocess.call([PYTHON, "-m", "lib_amdm.shapes.demo", *arguments])
        except KeyboardInterrupt:  # how the page is ended
            return 130

    COMMANDS = {"demo": demo, "test": test}
    command = COMMANDS.get(sys.argv[1])
    if command is None:
        sys.exit(f'install.py has no command "{sys.argv[1]}"; use one of: {", ".join(COMMANDS)}.')
    sys.exit(command(sys.argv[2:]))
