"""The code's form: ruff's rules and layout, the types by mypy, each as pyproject.toml pins it, and docstrings."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCT_AND_LABORATORY = [
    ROOT / "install.py",
    *ROOT.glob("scripts/*.py"),
    *ROOT.glob("lib_amdm/**/*.py"),
    *ROOT.glob("amdm_lab/**/*.py"),
]
SAYING_NOTHING = ("each", "found", "given", "kept", "own", "told")
"""Words that are no names of variables: they do not say what the thing is."""


@pytest.mark.parametrize("tool", ["ruff check", "ruff format --check", "mypy"])
def test_the_code_has_nothing_to_complain_of(tool: str) -> None:
    done = subprocess.run([sys.executable, "-m", *tool.split()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_docstrings_begin_with_a_noun_phrase_or_a_verb() -> None:
    question = re.compile(r'"""(Who|What|Whether|When|Where|Which|Why|How|If|That)\b.*')
    files = [*PRODUCT_AND_LABORATORY, *ROOT.glob("tests/**/*.py")]
    questions = {file.relative_to(ROOT): question.findall(file.read_text(encoding="utf-8")) for file in files}
    assert {file: words for file, words in questions.items() if words} == {}


def variables(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The names of functions, parameters and assigned variables, with their lines, without the fields of classes."""
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    fields = {id(line.target) for body in bodies for line in body if isinstance(line, ast.AnnAssign)}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in fields:
            yield node.id, node.lineno


def test_names_say_of_what() -> None:
    for file in PRODUCT_AND_LABORATORY:
        names = variables(ast.parse(file.read_text(encoding="utf-8")))
        assert [(name, line) for name, line in names if name.strip("_") in SAYING_NOTHING] == [], file.name
    declared = re.compile(
        rf"\b(?:const|let|function)\s+(?:{'|'.join(SAYING_NOTHING)})\b|\b(?:{'|'.join(SAYING_NOTHING)}) =>"
    )
    for script in ROOT.glob("javascript/*.js"):
        assert declared.findall(script.read_text(encoding="utf-8")) == [], script.name


def parameters(tree: ast.AST) -> Iterator[tuple[str, list[str], str]]:
    """The functions' names, parameters and docstrings; a class has those of its __init__."""
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        made = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        for function in [node] if isinstance(node, ast.FunctionDef) else made:
            taken = function.args
            names = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, *filter(None, (taken.vararg, taken.kwarg))]
            yield node.name, [name.arg for name in names if name.arg != "self"], ast.get_docstring(node) or ""


def test_several_parameters_are_described_on_a_line_each() -> None:
    for file in PRODUCT_AND_LABORATORY:
        for name, names, text in parameters(ast.parse(file.read_text(encoding="utf-8"))):
            if len(names) <= 3:
                continue
            entry = rf"(?:{'|'.join(names)})(?:\([\w, ]*\))?(?:, \w+)*: "
            if len(re.findall(rf"(?:^|(?<=[.;] )){entry}", text, re.MULTILINE)) > 1:
                assert re.findall(rf"(?<=[.;] ){entry}", text) == [], f"{file.name}, {name}"


def test_every_class_name_means_one_thing() -> None:
    names = Counter(
        name
        for file in (*ROOT.glob("lib_amdm/**/*.py"), *ROOT.glob("amdm_lab/**/*.py"))
        for name in re.findall(r"^\s*class (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert [name for name, count in names.items() if count > 1] == []
