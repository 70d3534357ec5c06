"""The code's form: ruff's rules and layout, the types by mypy, each as pyproject.toml pins it, and docstrings."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("tool", ["ruff check", "ruff format --check", "mypy"])
def test_the_code_has_nothing_to_complain_of(tool: str) -> None:
    done = subprocess.run([sys.executable, "-m", *tool.split()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_docstrings_begin_with_a_noun_phrase_or_a_verb() -> None:
    question = re.compile(r'"""(Who|What|Whether|When|Where|Which|Why|How|If|That)\b.*')
    files = [
        ROOT / "install.py",
        *ROOT.glob("scripts/*.py"),
        *ROOT.glob("lib_amdm/**/*.py"),
        *ROOT.glob("amdm_lab/**/*.py"),
    ]
    found = {file.relative_to(ROOT): question.findall(file.read_text(encoding="utf-8")) for file in files}
    assert {file: words for file, words in found.items() if words} == {}


def test_every_class_name_means_one_thing() -> None:
    names = Counter(
        name
        for file in (*ROOT.glob("lib_amdm/**/*.py"), *ROOT.glob("amdm_lab/**/*.py"))
        for name in re.findall(r"^\s*class (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert [name for name, count in names.items() if count > 1] == []
