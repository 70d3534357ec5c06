"""The commands as a user types them: usage, help with every default, what is refused, consoles, files in use."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

import torch
from test_evaluate_drawing import served
from test_evaluate_pair import written

from amdm_lab import cli as listing
from amdm_lab import devices
from amdm_lab.bundled import WEIGHTS
from amdm_lab.cli import main
from amdm_lab.drawers import drawer_at
from amdm_lab.records import write_whole
from lib_amdm import command_line
from lib_amdm.command_line import TYPED, put
from lib_amdm.errors import AmdmError

ROOT = Path(__file__).resolve().parents[2]
INSTALL = ROOT / "install.py"
COMMANDS = [f"amdm_lab {name}" for name in listing.COMMANDS]


def ran(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**{name: value for name, value in os.environ.items() if name != TYPED}, **environment}
    page = environment.get("PYTHONIOENCODING", "utf-8")
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, encoding=page, env=given)


def parser_of(command: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """The parser that a command reads its arguments with."""
    if command.startswith("amdm_lab "):
        return listing.parser_of(command.partition(" ")[2])

    class CaughtError(Exception):
        pass

    def parse(self: argparse.ArgumentParser, *_: Any) -> None:
        raise CaughtError(self)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    with pytest.raises(CaughtError) as caught:
        importlib.import_module(command).main([])
    return caught.value.args[0]


# --- help ---


@pytest.mark.parametrize("command", [*COMMANDS, "lib_amdm.adapters.convert"])
def test_help_names_what_was_typed_and_every_default(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TYPED, raising=False)
    parser = parser_of(command, monkeypatch)
    assert parser.prog == f"python -m {command}"
    for action in parser._actions:
        said = " ".join(parser._get_formatter()._expand_help(action).split())
        assert said, f"{action.option_strings or action.dest} says nothing"
        if action.option_strings and action.default not in (None, False, "", [], argparse.SUPPRESS):
            assert f"({action.default})" in said, action.option_strings
    assert parser.format_help().isascii()


def test_help_of_what_install_runs_names_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TYPED, "python install.py evaluate")
    for name in ("coco-mig", "pair", "gpu", "demo"):
        assert listing.parser_of(name).format_usage().startswith(f"usage: python install.py evaluate {name} ")
    monkeypatch.setenv(TYPED, "python install.py demo")
    assert listing.parser_of("demo").format_usage().startswith("usage: python install.py demo [")


def test_what_a_pair_takes_without_being_told_is_in_its_help() -> None:
    parser = listing.parser_of("pair")
    said = {action.dest: action.help or "" for action in parser._actions}
    defaults = {"steps": "20", "cfg_scale": "7", "width": "512", "height": "512", "refiner": "0.5", "sampler": "Euler"}
    defaults |= {"schedule": "automatic", "device": "cuda if there is one", "dtype": "float16 on a GPU, float32"}
    for name, default in defaults.items():
        assert f"({default}" in said[name], name


@pytest.mark.parametrize("arguments", [("-h",), ("--help",)])
def test_the_laboratory_lists_its_commands(arguments: tuple[str, ...]) -> None:
    done = ran("-m", "amdm_lab", *arguments)
    assert done.returncode == 0 and done.stderr == "" and "usage: python -m amdm_lab COMMAND" in done.stdout
    assert re.findall(r"^  (\S+)", done.stdout, re.M) == list(listing.COMMANDS)


def test_a_word_that_is_no_command_is_named() -> None:
    done = ran("-m", "amdm_lab", "foo")
    assert done.returncode == 2 and f'unknown command "foo"; choose from {", ".join(listing.COMMANDS)}.' in done.stderr


def test_a_command_runs_by_its_name() -> None:
    done = ran("-m", "amdm_lab", "export", "--help")
    assert done.returncode == 0 and "usage: python -m amdm_lab export " in done.stdout


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_install_lists_its_commands(word: str) -> None:
    done = ran(INSTALL, word)
    assert done.returncode == 0 and done.stderr == ""
    for name in ("demo", "evaluate", "test"):
        assert re.search(rf"^  {name} +[A-Z].+\.$", done.stdout, re.M)


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--serve", "--port", "99999"], "--port must be from 1 to 65535, not 99999"),
        (["--serve", "--port", "-1"], "--port must be from 1 to 65535, not -1"),
        (["--out", "x.foo"], '"x.foo", but the picture is a PNG; name a file that ends in .png'),
        (["--out", "x"], '"x", but the picture is a PNG'),
    ],
)
def test_the_demo_refuses_in_a_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *arguments]) == 1
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
    assert not list(tmp_path.iterdir())


# --- devices ---


def drawn_on(monkeypatch: pytest.MonkeyPatch, *told: str) -> SimpleNamespace:
    """The arguments with which `pair --models` makes the standalone host."""
    made: list[SimpleNamespace] = []

    class Host:
        def __init__(self, models: Path, device: Any, dtype: torch.dtype, adapter_folders: Any) -> None:
            made.append(SimpleNamespace(device=torch.device(device).type, dtype=dtype))

        def checkpoint_titles(self) -> list[str]:
            return []

    monkeypatch.setattr("amdm_lab.studio.host.Standalone", Host)
    prompts = str(WEIGHTS / "README.md")
    assert main(["pair", "--models", str(WEIGHTS), "--main", "a", "--co", "b", "--prompts", prompts, *told]) == 1
    return made[0]


def test_a_pair_without_a_webui_is_drawn_where_and_as_exactly_as_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn_on(monkeypatch, "--device", "cpu") == SimpleNamespace(device="cpu", dtype=torch.float32)
    told = drawn_on(monkeypatch, "--device", "cpu", "--dtype", "bfloat16")
    assert told == SimpleNamespace(device="cpu", dtype=torch.bfloat16)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert drawn_on(monkeypatch) == SimpleNamespace(device="cuda", dtype=torch.float16)
    assert drawn_on(monkeypatch, "--dtype", "float32") == SimpleNamespace(device="cuda", dtype=torch.float32)


@pytest.fixture
def cpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyPI's torch for Windows is, on a machine with an NVIDIA card."""
    monkeypatch.setattr("torch.version.cuda", None)
    monkeypatch.setattr("torch.version.hip", None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(devices.shutil, "which", lambda name: name)


@pytest.mark.parametrize(
    "told",
    [
        ["gpu"],
        ["gpu", "--device", "cuda:1"],
        ["pair", "--models", str(WEIGHTS), "--device", "cuda"],
        ["coco-mig", "--models", str(WEIGHTS), "--device", "cuda"],
    ],
)
def test_a_torch_for_the_cpu_alone_is_named_with_what_to_install(
    cpu_build: None, told: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = ROOT / "tests"
    if told[0] == "coco-mig":
        from coco_stand_ins import entries

        from amdm_lab.coco_mig import benchmark

        bench = tmp_path / "bench.json"
        benchmark.write(entries(), bench)
        told = [*told, "--bench", str(bench), "--out", str(tmp_path / "out")]
    assert main(told) == 1
    said = capsys.readouterr().err
    assert "There is no CUDA device here" in said and said.count(". ") == 0
    assert "built for the CPU alone" in said and "pytorch.org/get-started" in said


def test_a_card_that_is_not_used_is_said(cpu_build: None, capsys: pytest.CaptureFixture[str]) -> None:
    drawer_at("", "", WEIGHTS)
    assert "there is an NVIDIA card" in capsys.readouterr().err
    drawer_at("", "", WEIGHTS, device="cpu")
    assert capsys.readouterr().err == ""


def test_a_device_that_is_none_is_named() -> None:
    with pytest.raises(AmdmError, match='--device "toaster" is not a device'):
        drawer_at("", "", WEIGHTS, device="toaster")


# --- consoles ---


@pytest.mark.parametrize("page", ["cp932", "cp1252"])
def test_a_console_that_lacks_a_letter_ends_no_run(page: str, tmp_path: Path) -> None:
    names = ["größe.safetensors", "数据é.safetensors", "x–y.safetensors"]
    for server in served():
        server.answers["/amdm/v1/models"]["checkpoints"] = names
        server.answers["/amdm/v1/version"]["host"] = "数据 – é"
        prompts = written(tmp_path, "p.txt", "a 数据 – é\n")
        told = ["--main", names[1], "--co", names[2], "--prompts", str(prompts), "--try", "steps=0", "--refiner", "0"]
        server.answers["/sdapi/v1/memory"] = {"ram": {"used": 1}}
        server.infotext = 'a\nSteps: 4, AMDM: True, AMDM ran: "2 models, 1 of 4 steps, 1 evaluations of é, +0 s of 1 s"'
        place = ["--url", server.url, "--out", str(tmp_path / "out")]
        done = ran("-m", "amdm_lab", "pair", *place, *told, PYTHONIOENCODING=page, PYTHONUTF8="0")
        assert done.returncode == 0, done.stderr
        assert "Farthest from" in done.stdout and "Traceback" not in done.stderr


def test_install_speaks_on_every_console() -> None:
    done = ran(INSTALL, "數據é", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 1 and "has no command" in done.stderr and "Traceback" not in done.stderr


# --- files that another program has open ---


def busy(monkeypatch: pytest.MonkeyPatch, times: int) -> list[Path]:
    """As on Windows: a file that is open cannot be replaced, for so many tries."""
    tries: list[Path] = []
    replace = Path.replace

    def refused(self: Path, target: Path) -> Path:
        tries.append(self)
        if len(tries) <= times:
            raise PermissionError(13, "Access is denied", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refused)
    monkeypatch.setattr(command_line.time, "sleep", lambda seconds: None)
    return tries


def test_a_file_that_is_open_elsewhere_is_replaced_a_little_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.json"
    write_whole(file, 1)
    busy(monkeypatch, 4)
    write_whole(file, 2)
    assert file.read_text() == "2" and [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_a_file_that_stays_open_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new").write_text("2")
    (tmp_path / "old").write_text("1")
    tries = busy(monkeypatch, 99)
    with pytest.raises(AmdmError, match=r'old" cannot be replaced .*close the program that has it open'):
        put(tmp_path / "new", tmp_path / "old")
    assert len(tries) < 20 and (tmp_path / "old").read_text() == "1"


def test_every_file_that_is_replaced_is_tried_again() -> None:
    sources = {
        file: file.read_text(encoding="utf-8")
        for root in ("lib_amdm", "amdm_lab")
        for file in (ROOT / root).rglob("*.py")
    }
    bare = [file.name for file, source in sources.items() if re.search(r"unfinished\.replace\(|os\.replace\(", source)]
    assert bare == ["command_line.py"]


# --- install.py's environment ---


def copied(folder: Path) -> Path:
    for name in ("install.py", "pyproject.toml"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder / "install.py"


def test_the_environments_python_is_the_link_that_venv_makes(tmp_path: Path) -> None:
    """A copy of a Mac's Python (Homebrew, Xcode, mise) does not find its own library."""
    # without pip, which takes long and is not what this is about
    code = (
        "import runpy, sys, venv\n"
        "create, sys.argv = venv.create, sys.argv[1:]\n"
        "venv.create = lambda *told, **more: create(*told, **{**more, 'with_pip': False})\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = ran("-c", code, copied(tmp_path), "demo")
    assert done.returncode == 1 and "pip could not install what `demo` needs" in done.stderr
    assert (tmp_path / ".venv" / "bin" / "python").is_symlink() == (os.name != "nt")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("foo",)])
def test_the_list_of_commands_is_shown_without_setting_up_an_environment(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    for name in ("lib_amdm", "amdm_lab"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors"))
    done = ran(copied(tmp_path), "evaluate", *arguments)
    said = done.stdout + done.stderr
    assert "usage: python " in said and "install.py evaluate COMMAND ..." in said
    assert all(f"  {name} " in said for name in listing.COMMANDS)
    assert ('unknown command "foo"' in said) == ("foo" in arguments)
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    ("platform", "debian"), [("linux", True), ("linux", False), ("darwin", False), ("win32", False)]
)
def test_what_to_do_without_venv_is_said_for_this_system(tmp_path: Path, platform: str, debian: bool) -> None:
    code = (
        "import pathlib, runpy, subprocess, sys, venv\n"
        "def create(*told, **more): raise subprocess.CalledProcessError(1, 'ensurepip')\n"
        f"venv.create, sys.platform, sys.argv = create, {platform!r}, sys.argv[1:]\n"
        "there = pathlib.Path.is_file\n"
        f"pathlib.Path.is_file = lambda self: {debian} if self.name == 'debian_version' else there(self)\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = ran("-c", code, copied(tmp_path), "demo")
    assert done.returncode == 1 and "cannot make a virtual environment" in done.stderr
    assert ("python3-venv" in done.stderr) == debian and "Traceback" not in done.stderr
