"""What the WebUI runs at its start, and `python install.py test`, which sets up and runs the tests on a bare machine.

The WebUI brings everything that the extension needs, so without a command there is nothing to do.
"""

import sys

if __name__ == "__main__" and len(sys.argv) > 1:
    import subprocess
    import venv
    from pathlib import Path

    HERE = Path(__file__).resolve().parent
    VENV = HERE / ".venv"
    PYTHON = VENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")

    def set_up(extra: str) -> None:
        """The virtual environment with what `extra` of pyproject.toml names."""
        if not PYTHON.exists():
            venv.create(VENV, with_pip=True)
        subprocess.check_call([PYTHON, "-m", "pip", "install", "--quiet", "--editable", f"{HERE}[{extra}]"])

    def test(arguments: list[str]) -> int:
        """Run the tests; further arguments are pytest's."""
        set_up("test")
        return subprocess.call([PYTHON, "-m", "pytest", *arguments], cwd=HERE)

    COMMANDS = {"test": test}
    command = COMMANDS.get(sys.argv[1])
    if command is None:
        sys.exit(f'install.py has no command "{sys.argv[1]}"; use one of: {", ".join(COMMANDS)}.')
    sys.exit(command(sys.argv[2:]))
