"""Events of gradio's controls, in the order in which the page has them."""

from __future__ import annotations

from typing import Any


def after_choice(dropdown: Any, **call: Any) -> None:
    """Call a function, with what a gradio event takes, once a choice is made in a dropdown in which one can type.

    Its changes alone do not do: a name that is typed to find it changes with each letter, and a change is lost while
    another is under way. A choice is told before or after the control has it, by gradio's version; hence the way to the
    server and back.
    """
    quiet: dict[str, Any] = {"queue": False, "show_progress": False}
    for event in (dropdown.select, dropdown.blur):
        event(fn=_nothing, inputs=[], outputs=[], **quiet).then(**call, **quiet)


def _nothing() -> None:
    """Go to the server and back."""
