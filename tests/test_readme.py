"""The README says what the code does: its settings tables are the settings, and the examples in Python run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lib_amdm import __version__
from lib_amdm.layout import EXAMPLE, Layout
from lib_amdm.settings import CoModel, Settings, WordSpec, specs
from lib_amdm.webui.presets import PRESETS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BETWEEN = "--- the next example ---"
in_one_process = pytest.mark.xdist_group("examples")
PAGES = {file.name: file.read_text(encoding="utf-8") for file in (ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize("spec", [*specs(Settings), *specs(CoModel)], ids=lambda spec: spec.name)
def test_every_setting_is_in_a_table_with_its_default_and_help(spec: Any) -> None:
    words = {bool: {True: "on", False: "off"}}.get(spec.type, {})
    shown = spec.shown(spec.default)
    default = "empty" if shown == "" else words.get(shown, shown)
    values = ", ".join(spec.choices) or (f"{spec.minimum:g} to {spec.maximum:g}" if spec.minimum is not None else None)
    values = values or {bool: "on, off", str: "text"}[spec.type]
    if isinstance(spec, WordSpec):
        values += f" or {spec.word or 'empty'}"
    assert f"| `{spec.name}` | {default} | {values} | {spec.help} |" in README


def test_the_papers_runs_are_the_panels_examples() -> None:
    bodies = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGES["paper.md"], re.S)]
    settings_of = [Settings.from_dict(body) for body in bodies]
    assert [_without_images(settings) for settings in settings_of] == [preset.settings for preset in PRESETS]


def _without_images(settings: Any) -> Any:
    return replace(settings, co_models=tuple(replace(slot, image="") for slot in settings.co_models))


def test_the_layout_of_the_readme_is_the_panels_example() -> None:
    page = PAGES["adapters.md"]
    (text,) = re.findall(r"```\n(a boy: .*?)\n```", page, re.S)
    assert text == EXAMPLE
    (rows,) = re.findall(r"or a list: `(\[.*?\])`", page, re.S)
    assert Layout.read(rows) == Layout.read(EXAMPLE)


def test_tables_have_no_row_beyond_the_settings() -> None:
    section = README.split("## Settings")[1].split("\n## ")[0]
    assert len(re.findall(r"^\| `", section, re.M)) == len(specs(Settings)) + len(specs(CoModel))


def python_of(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGES[page], re.S)


def run_as_a_user(folder: Path, *examples: str) -> list[str]:
    """The output of each example: Python runs it as a file, with everything that it really imports.

    One process runs them in turn, since torch takes longest to load. The tests' own environment is the one that
    `install.py` makes, with the tests' tools beside.
    """
    files = [folder / f"example{number}.py" for number, _ in enumerate(examples)]
    for file, example in zip(files, examples):
        file.write_text(example, encoding="utf-8")
    one = "runpy.run_path(file, run_name='__main__')"
    code = f"import runpy, sys\nfor file in sys.argv[1:]:\n    {one}\n    print({BETWEEN!r})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, files)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *printed, rest = done.stdout.split(f"{BETWEEN}\n")
    assert len(printed) == len(examples) and rest == ""
    return printed


@dataclass(frozen=True)
class Examples:
    """The files and the output of the three examples in Python."""

    folder: Path
    of_k_diffusion: str
    of_diffusers: str
    of_own_rules: str


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    pytest.importorskip("diffusers")
    pytest.importorskip("amdm_lab.studio.k_diffusion_parts")
    folder = tmp_path_factory.mktemp("examples")
    return Examples(folder, *run_as_a_user(folder, *python_of("python.md")))


@in_one_process
def test_the_k_diffusion_example_runs_and_mixes(examples: Examples) -> None:
    alone, together = map(float, re.findall(r"-?\d+\.\d+", examples.of_k_diffusion))
    assert alone < together < -alone


@in_one_process
def test_the_example_of_own_rules_runs_and_mixes_them(examples: Examples) -> None:
    assert examples.of_own_rules.split()[-1] in ("0.00", "-0.00")


@in_one_process
def test_the_diffusers_example_runs_and_mixes(examples: Examples) -> None:
    alone, together = (Image.open(examples.folder / f"{name}.png") for name in ("alone", "together"))
    blue, red = ((32, 28), (93, 96))
    for place, strong, weak in ((blue, 2, 0), (red, 0, 2)):
        assert together.getpixel(place)[strong] > together.getpixel(place)[weak] + 100
        assert alone.getpixel(place)[strong] < alone.getpixel(place)[weak] + 100


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


EVERY_PAGE = sorted(page for page in ROOT.rglob("*.md") if not {".venv", "node_modules"} & set(page.parts))


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_headings_that_are_linked_exist(page: Any) -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, heading = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.M)
            assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_modules_that_are_named_exist(page: Any) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:lib_amdm|amdm_lab|tests|scripts|javascript|docs)/[\w./-]*)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\bpython -m\s+((?:lib_amdm|amdm_lab|tests)[\w.]*\w)", text):
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), name


def test_each_extension_has_a_result_and_the_test_that_ran_it() -> None:
    rows = [line.strip("| ").split(" | ") for line in PAGES["neighbours.md"].splitlines() if line.count(" | ") == 3]
    rows = [row for row in rows if row[0] != "extension"]
    assert len(rows) > 50
    for name, result, _, ran in rows:
        assert result in ("same", "changed", "refused"), name
        files = re.findall(r"`((?:tests/)?test_\w+\.py)`", ran)
        assert files or ran.startswith("not run: "), name
        for file in files:
            assert (ROOT / ("" if "/" in file else "tests/webui") / file).is_file(), name


def test_the_changelog_begins_with_this_version() -> None:
    assert re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[0] == __version__
