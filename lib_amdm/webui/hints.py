"""The panel's preview of a run: a line below the controls, and marks in the lists of checkpoints.

Both follow the controls and the main checkpoint, before Generate is pressed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from ..hosts.protocol import Lists
from ..settings import CheckpointSpec, Settings, flat
from . import fitting, listen, plan_line

RAN_PLACE = '<p class="amdm-ran" data-tab="{tab}"></p>'
"""The class of the element in which javascript/run_line.js shows what the last picture ran."""
LINE = "amdm-line"
"""The class of a line that takes no space while it is empty."""
_OF_THE_LINE = (
    *("enabled", "steps", "evaluations", "start", "compare", "checkpoint", "gamma", "gamma_end", "eta", "prompt"),
    *("noise", "adapter", "strength", "until"),
)
"""The settings that the line depends on."""


class Hints:
    """The line and the marks of one tab."""

    inputs: Sequence[Any] = ()

    def __init__(self, host: Lists, slots: int, tabname: str, start: Settings) -> None:
        """Build them on the page that is being built. start: what the controls show."""
        self.host, self.keys = host, list(flat(slots))
        self.line = gr.HTML(value=_shown(plan_line.say(start, self.host)), elem_classes=[LINE])
        gr.HTML(value=RAN_PLACE.format(tab=tabname), elem_classes=[LINE])
        self.marks = gr.HTML(value="", elem_classes=["amdm-unseen"])

    def connect(self, controls: Mapping[tuple[int, str], Any]) -> None:
        """Let them follow the panel's controls, which are under slot and name."""
        self.inputs = [controls[slot, spec.name] for slot, spec in self.keys if spec.name in _OF_THE_LINE]
        switch = self.inputs[0]

        def mark_if_on(is_on: bool) -> Any:
            return self._mark() if is_on else gr.update()

        quiet: dict[str, Any] = {"queue": False, "show_progress": False}
        say, mark = listen.quick(self._say), listen.quick(self._mark)
        # separately: with hundreds of files it takes seconds the first time
        switch.change(fn=listen.quick(mark_if_on), inputs=[switch], outputs=[self.marks], **quiet)
        for control in self.inputs:
            call: dict[str, Any] = {"fn": say, "inputs": self.inputs, "outputs": [self.line]}
            # gradio 3 loses a change while one is under way, so what is typed is looked at again
            if isinstance(control, gr.Dropdown):
                listen.after_choice(control, **call)
            elif isinstance(control, gr.Textbox):
                control.blur(**call, **quiet)
            else:
                listen.after_change(control, **call)
                continue
            # a prompt is long
            if not (isinstance(control, gr.Textbox) and control.lines > 1):
                control.change(**call, **quiet)
        for control in (controls[slot, spec.name] for slot, spec in self.keys if isinstance(spec, CheckpointSpec)):
            # the list may have been refreshed since
            control.focus(fn=mark, inputs=[], outputs=[self.marks], **quiet)

    def follow(self, main: Any) -> None:
        """Follow the page's control of the main checkpoint, too."""

        def chose_main(name: str | None, is_on: bool, *values: Any) -> list[Any]:
            if not is_on:
                return [gr.update(), gr.update()]
            return [self._say(is_on, *values, main=name or None), self._mark(name or None)]

        main.change(
            fn=listen.quick(chose_main),
            inputs=[main, *self.inputs],
            outputs=[self.line, self.marks],
            queue=False,
            show_progress=False,
        )

    def _say(self, *values: Any, main: str | None = None) -> str:
        remaining = iter(values)
        whole = [next(remaining) if spec.name in _OF_THE_LINE else spec.shown(spec.default) for _, spec in self.keys]
        return _shown(plan_line.of_controls(whole, self.host, main))

    def _mark(self, main: str | None = None) -> str:
        return fitting.marks(
            self.host, self.host.main_checkpoint() if main is None else main, self.host.checkpoint_titles()
        )


def _shown(line: str) -> str:
    return f'<p class="amdm-said">{line}</p>' if line else ""
