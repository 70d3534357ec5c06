"""The repository's own files: the pages of measurements, and those that a code host or its tools read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lib_amdm import __version__

ROOT = Path(__file__).resolve().parents[1]
MEASUREMENTS = ROOT / "docs" / "measurements"


@pytest.mark.parametrize("page", sorted(MEASUREMENTS.glob("*.md")), ids=lambda page: page.stem)
def test_a_measurement_is_a_question_with_its_command_conditions_figures_and_answer(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    [question] = re.findall(r"^# (.*)$", text, re.M)
    assert question.endswith("?")
    assert re.findall(r"^## (.*)$", text, re.M) == ["Command", "Conditions", "Results", "Answer"]
    command, results = (text.split(f"\n## {part}\n")[1].split("\n## ")[0] for part in ("Command", "Results"))
    assert "```" in command
    assert "\n|" in results
    index = MEASUREMENTS.with_suffix(".md").read_text(encoding="utf-8")
    assert f"[{question}](measurements/{page.name})" in index


def test_the_file_for_comfyui_imports_nothing_without_it() -> None:
    """Other tools find it too: at the top of the repository, in a folder of any name."""
    code = (
        f"import runpy; names = runpy.run_path({str(ROOT / '__init__.py')!r}); assert 'comfy_entrypoint' not in names"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_comfyuis_registry_finds_the_version() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    [path] = re.findall(r'^\[tool.comfy.version\]\npath = "(.*)"$', text, re.M)
    # as comfy-cli reads it
    assert re.findall(r'^__version__ = "(\d+\.\d+\.\d+)"$', (ROOT / path).read_text(encoding="utf-8"), re.M) == [
        __version__
    ]


def yaml_of(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_workflow_calls_the_readmes_test_command_on_every_python_and_system() -> None:
    job = yaml_of(".github/workflows/test.yml")["jobs"]["test"]
    assert job["strategy"]["matrix"] == {"os": ["ubuntu-latest", "windows-latest"], "python": ["3.10", "3.12", "3.14"]}
    assert job["runs-on"] == "${{ matrix.os }}"
    *_, setup, test = job["steps"]
    assert setup["with"] == {"python-version": "${{ matrix.python }}"}
    assert test == {"run": "python install.py test"}
    assert "`python install.py test`" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_oldest_python_of_the_workflow_is_the_one_required() -> None:
    oldest, *_ = yaml_of(".github/workflows/test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert f'requires-python = ">={oldest}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_pre_commit_runs_the_ruff_that_the_tests_run() -> None:
    [pinned] = re.findall(r'"ruff==([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [repository] = yaml_of(".pre-commit-config.yaml")["repos"]
    assert repository["rev"] == f"v{pinned}"
    assert [hook["id"] for hook in repository["hooks"]] == ["ruff-check", "ruff-format"]


FIELDS = {"bug": {"what", "console", "webui", "versions", "card", "flags"}, "idea": {"goal"}}


@pytest.mark.parametrize("name", FIELDS)
def test_an_issue_form_wants_what_an_answer_needs(name: str) -> None:
    form = yaml_of(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert {"name", "description", "body"} <= set(form)
    for field in form["body"]:
        assert field["type"] in {"textarea", "input", "dropdown"}
        assert field["attributes"]["label"]
    assert {field["id"] for field in form["body"] if field.get("validations", {}).get("required")} == FIELDS[name]
    assert len({field["id"] for field in form["body"]}) == len(form["body"])


def test_the_bug_form_asks_for_an_infotext_only_of_programs_that_write_one() -> None:
    fields = {field["id"]: field for field in yaml_of(".github/ISSUE_TEMPLATE/bug.yml")["body"]}
    assert "ComfyUI: attach the workflow" in fields["infotext"]["attributes"]["description"]
    assert {"ComfyUI", "diffusers"} <= set(fields["webui"]["attributes"]["options"])
