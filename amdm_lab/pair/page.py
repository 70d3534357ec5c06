"""The page of a pair: one HTML file that asks no network for anything; its pictures lie in a folder beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from .figures import Figure, Row, efficient
from .memory import MEANINGS
from .subjects import Subject
from .ways import Pair, names_of

STYLE = Path(__file__).with_name("page.css")
MEGABYTE = 1e6
ITEM = "- "
"""The beginning of a line that is one of a list."""


@dataclass(frozen=True)
class Found:
    """Everything that a page shows. figures: of each subject, one for each row. place: where it was drawn."""

    pair: Pair
    place: str
    subjects: Sequence[Subject]
    rows: Sequence[Row]
    figures: Sequence[Sequence[Figure]]

    @property
    def with_clip(self) -> bool:
        return self.rows[0].to_main is not None

    @property
    def tells_apart(self) -> bool:
        """True where the two models are told different things."""
        return any(subject.prompt_for_co != subject.prompt for subject in self.subjects)


def page(found: Found) -> str:
    """Write the whole page."""
    pair = found.pair
    title = " and ".join(names_of(pair.main, pair.co))
    common = ", ".join(
        f"{name.replace('_', ' ')} {_shown(value)}" for name, value in pair.common.items() if value != ""
    )
    sections = [_section(found, number) for number in range(len(found.subjects))]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE.read_text(encoding='utf-8')}</style></head>",
            "<body><main>",
            f"<h1>{escape(title)}</h1>",
            f'<p class="quiet">Main model {escape(pair.main)}, co-model {escape(pair.co)}. {escape(common)}. '
            f"Drawn by {escape(found.place)}.</p>",
            _verdict(found),
            _table(found),
            *_notes(found),
            *sections,
            "</main></body></html>",
            "",
        ]
    )


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def verdict(found: Found) -> list[str]:
    """Say in a few lines which settings moved the picture most, and which for the least time."""
    mixed = [row for row in found.rows if not row.way.alone]
    most = max(mixed, key=lambda row: row.distance)
    main = found.rows[0].way.caption
    path = efficient(mixed)
    sentences = [
        f"Farthest from {main}: {most.way.caption}, {_distance(most)} for {_for_time(most)}.",
        "Farthest for its time, from the quickest on; no other moved as far in less:",
        *(f"{ITEM}{row.way.caption}: {_distance(row)} for {_for_time(row)}" for row in path),
    ]
    if found.with_clip and found.tells_apart:
        gained = max(mixed, key=lambda row: (row.to_main or 0) + (row.to_co or 0))
        sentences.append(
            f"Nearest to both prompts together, as CLIP sees it: {gained.way.caption}, {_two(gained.to_main)} to the "
            f"main model's and {_two(gained.to_co)} to the co-model's."
        )
    return [*sentences, "How far a picture moved does not say whether it is a better one: look at them."]


def _verdict(found: Found) -> str:
    lines = (
        f'<p class="item">{escape(line.removeprefix(ITEM))}</p>' if line.startswith(ITEM) else f"<p>{escape(line)}</p>"
        for line in verdict(found)
    )
    return f'<div class="found">{"".join(lines)}</div>'


def _distance(row: Row) -> str:
    if row.features_moved is None:
        return f"{row.moved:.1f} grey levels"
    return f"{row.features_moved:.3f} of CLIP's features ({row.moved:.1f} grey levels)"


def _extra(row: Row) -> str:
    return f"{row.extra:+.1f} s"


def _for_time(row: Row) -> str:
    return f"{_extra(row)} a picture" if row.cost else "no more time"


def _two(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _table(found: Found) -> str:
    heads = [
        "",
        "seconds",
        "beyond the main model's",
        "evaluations",
        "co-model, MB",
        "memory, MB",
        "moved, grey levels",
    ]
    if found.with_clip:
        heads += ["moved, CLIP", *_similarity_heads(found)]
    best = {row.way.caption for row in efficient([row for row in found.rows if not row.way.alone])}
    lines = []
    for row in found.rows:
        cells = [f"{row.seconds:.1f}", _extra(row) if row is not found.rows[0] else "", row.evaluations]
        cells += [_megabytes(row.memory.co_models), _megabytes(row.memory.total), f"{row.moved:.1f}"]
        if found.with_clip:
            cells += [_two(row.features_moved), *_similarities(found, row.to_main, row.to_co)]
        mark = ' class="best"' if row.way.caption in best else ""
        body = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr{mark}><th scope="row">{escape(row.way.caption)}</th>{body}</tr>')
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "\n".join(lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _similarity_heads(found: Found) -> list[str]:
    return ["to the main prompt", "to the co-model's"] if found.tells_apart else ["to the prompt"]


def _similarities(found: Found, to_main: float | None, to_co: float | None) -> list[str]:
    return [_two(to_main), _two(to_co)] if found.tells_apart else [_two(to_main)]


def _megabytes(count: int) -> str:
    return f"{count / MEGABYTE:.0f}" if count else ""


def _notes(found: Found) -> list[str]:
    kinds = sorted({row.memory.kind for row in found.rows})
    memory = " or ".join(MEANINGS[kind] for kind in kinds)
    notes = [
        f"Medians of {len(found.subjects)} pictures each. Seconds are from the request to the picture; loading for the "
        "first picture of a way is not in them, but a refiner's change of checkpoints is. "
        f"Memory: {memory}. Moved: the mean difference from the main model's own picture of the same seed. "
        "A dot marks what moved the picture farthest for its time."
    ]
    if found.with_clip:
        notes.append("CLIP's similarity is the cosine of the picture and the prompt, its distance 1 minus that of two.")
    return [f'<p class="quiet">{escape(note)}</p>' for note in notes]


def _section(found: Found, number: int) -> str:
    subject = found.subjects[number]
    prompt = f'<p class="quiet">The co-model is told: {escape(subject.co_prompt)}</p>' if subject.co_prompt else ""
    cards = [_card(found, row, figure, subject) for row, figure in zip(found.rows, found.figures[number])]
    return (
        f'<section><h2>{escape(subject.prompt)}</h2>{prompt}<p class="quiet">Seed {subject.seed}</p>\n'
        f'<div class="grid">\n{"".join(cards)}</div></section>'
    )


def _card(found: Found, row: Row, figure: Figure, subject: Subject) -> str:
    file = figure.kept.file
    source = escape(f"{file.parent.name}/{file.name}")
    width, height = figure.kept.picture().size
    facts = [f"{figure.kept.seconds:.1f} s"]
    if row is not found.rows[0]:
        facts.append(f"moved {figure.moved:.1f}")
    similarities = _similarities(found, figure.to_main, figure.to_co) if found.with_clip else []
    facts += [f"{value} {head}" for value, head in zip(similarities, _similarity_heads(found))]
    words = escape(f"{row.way.caption}: {subject.prompt}")
    image = f'<img src="{source}" width="{width}" height="{height}" loading="lazy" alt="{words}">'
    caption = f"<strong>{escape(row.way.caption)}</strong><span>{escape(', '.join(facts))}</span>"
    return f'<figure><a href="{source}">{image}</a><figcaption>{caption}</figcaption></figure>\n'
