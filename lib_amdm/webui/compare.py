"""Comparison: the same seeds drawn by each model alone, and all side by side in one labelled grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from ..errors import AdapterError, AmdmError, cause
from ..hosts.protocol import Drawing, ModelAlone
from ..hosts.webui_types import Processed, Processing
from ..settings import MAIN_CHECKPOINT, AdapterSettings, Settings, SettingsError
from . import infotext

SETTINGS = "amdm_settings"
"""The attribute of a WebUI's processing object that marks a picture drawn for comparison, and has its settings."""
_PLAN = "amdm_compare"
TOGETHER = "together"
INTERRUPTED = "interrupted"


class Alone(NamedTuple):
    """One model alone: its caption, its settings, and what its slot says otherwise."""

    caption: str
    settings: Settings
    model: ModelAlone = ModelAlone()


class _Plan(NamedTuple):
    before: Any
    alone: tuple[Alone, ...]


def models(settings: Settings, title: Callable[[str], str | None]) -> tuple[Alone, ...]:
    """Each model of the settings alone: the main one first, with its adapter; a slot's adapter is on its own model."""

    def settings_alone(adapter: AdapterSettings) -> Settings:
        return replace(settings, enabled=adapter.used, main_adapter=adapter, co_models=(), compare=False)

    runs = [Alone("main model alone", settings_alone(settings.main_adapter))]
    for number, slot in settings.active:
        is_main = slot.checkpoint == MAIN_CHECKPOINT
        runs.append(
            Alone(
                f"co-model {number} alone: {infotext.short_title(slot.checkpoint)}",
                settings_alone(slot.adapter_settings),
                ModelAlone(
                    "" if is_main else title(slot.checkpoint) or slot.checkpoint,
                    slot.prompt,
                    slot.negative_prompt,
                    slot.cfg_scale,
                    () if is_main else slot.module_names,
                ),
            )
        )
    return tuple(runs)


def plan(host: Drawing, p: Processing, read_settings: Callable[[], Settings]) -> None:
    """Record what to draw after a picture; invalid settings are reported by the sampler hook."""
    vars(p).pop(_PLAN, None)
    if hasattr(p, SETTINGS) or host.is_inner(p):
        return
    try:
        settings = read_settings()
    except (SettingsError, AmdmError, AdapterError):
        return
    if not settings.compare or not settings.mixes or host.runs_a_script(p):
        return
    alone = models(settings, host.checkpoint_title)
    setattr(p, _PLAN, _Plan(host.snapshot(p), alone))
    host.expect_rounds(p, 1 + len(alone))


def finish(host: Drawing, p: Processing, processed: Processed) -> None:
    """Draw what was planned, and append it to the picture's own result: the grid, then the single pictures.

    If that ends early, the grid has the models drawn by then.
    """
    planned = vars(p).pop(_PLAN, None)
    # ADetailer announces the end of a picture early, without pictures
    if planned is None or not processed.images:
        return
    together = host.pictures_of(processed)
    drawn: dict[str, Any] = {}
    halved = ""
    # the main one last, so that it stays loaded
    for alone in (*planned.alone[1:], planned.alone[0]):
        if host.is_interrupted():
            break
        job = host.redraw_job(planned.before, p, alone.model)
        setattr(job, SETTINGS, alone.settings)
        try:
            drawn[alone.caption] = host.draw(job)
        except Exception as error:
            reason = str(error) if isinstance(error, (AmdmError, SettingsError)) else cause(error)
            processed.comments += f"AMDM: comparing ended at {alone.caption} ({reason}).\n"
            break
        halved = alone.caption if host.is_interrupted() else ""
    shown = [alone.caption for alone in planned.alone if drawn.get(alone.caption)]
    singles = [pair for caption in shown for pair in drawn[caption]]
    if singles and together:
        captions = [f"{caption} ({INTERRUPTED})" if caption == halved else caption for caption in shown]
        columns = [
            (words, [picture for picture, _ in drawn[caption]]) for words, caption in zip(captions, shown, strict=True)
        ]
        columns.append((TOGETHER, [picture for picture, _ in together]))
        text = together[0][1]
        singles.insert(0, (host.grid(p, columns, text), text))
    for picture, text in singles:
        processed.images.append(picture)
        processed.infotexts.append(text)
