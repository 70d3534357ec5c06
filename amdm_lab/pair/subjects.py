"""The subjects that are drawn in every way: a prompt for each model, and a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lib_amdm.comodels.prompts import prompt_of
from lib_amdm.errors import AmdmError, cause


@dataclass(frozen=True)
class Subject:
    """One picture, drawn in every way. co_prompt: the co-model's own, as its setting."""

    prompt: str
    seed: int
    co_prompt: str = ""

    @property
    def prompt_for_co(self) -> str:
        """The prompt that the co-model has."""
        return prompt_of(self.co_prompt, self.prompt)


def read_subjects(prompts: Path, co_prompts: Path | None, seed: int) -> list[Subject]:
    """Read a prompt from each line. The co-model's is after a tab, or in the same line of the file `co_prompts`.

    Lines that are empty in both files are left out. The seeds count up from `seed`.
    """
    lines = _lines(prompts)
    others = _lines(co_prompts) if co_prompts else [""] * len(lines)
    if co_prompts and len(others) != len(lines):
        raise AmdmError(
            f'"{co_prompts.name}" has {len(others)} lines, but "{prompts.name}" has {len(lines)}; '
            "give the co-model a line for each prompt, an empty one if it gets the same."
        )
    pairs: list[tuple[str, str]] = []
    for number, (line, other) in enumerate(zip(lines, others), 1):
        prompt, _, behind = (part.strip() for part in line.partition("\t"))
        if behind and other.strip():
            raise AmdmError(
                f'Line {number} of "{prompts.name}" has a prompt for the co-model behind a tab, and '
                f'"{co_prompts.name if co_prompts else ""}" has one too; leave one of them out.'
            )
        if prompt:
            pairs.append((prompt, behind or other.strip()))
        elif behind or other.strip():
            raise AmdmError(f'Line {number} of "{prompts.name}" has no prompt for the main model; write one.')
    if not pairs:
        raise AmdmError(f'"{prompts.name}" has no prompt in it; write one on each line.')
    return [Subject(prompt, seed + number, other) for number, (prompt, other) in enumerate(pairs)]


def _lines(file: Path) -> Sequence[str]:
    try:
        return file.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeError) as error:
        raise AmdmError(f'"{file.name}" cannot be read ({cause(error)}); name a text file of prompts.') from error
