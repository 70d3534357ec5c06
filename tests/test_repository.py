"""The repository's own files: the pages of measurements."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
