"""Events of gradio's controls: quick to set up, and told once a choice is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_QUIET: dict[str, Any] = {"queue": False, "show_progress": False}


def quick(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function without its annotations, which gradio resolves anew for each event: most of an event's cost
    in the WebUI's start."""

    def called(*values: Any) -> Any:
        return function(*values)

    called.__annotations__.clear()
    called.__name__ = getattr(function, "__name__", "called")
    return called


def after_choice(dropdown: Any, **call: Any) -> None:
    """Call a function, with what a gradio event takes, once a choice is made in a dropdown in which one can type.

    Its changes alone do not do: a name that is typed to find it changes with each letter, and a change is lost while
    another is under way. A dropdown is left before or after it has what was chosen, by gradio's version; hence the way
    to the server and back.
    """
    dropdown.blur(fn=_nothing, inputs=[], outputs=[], **_QUIET).then(**call, **_QUIET)


def after_change(control: Any, **call: Any) -> None:
    """Call a function, with what a gradio event takes, for each change of a control, and once more.

    A number that is typed fast changes while its earlier change is under way, and gradio 3 loses such a change.
    """
    control.change(**call, **_QUIET).then(**call, **_QUIET)


@quick
def _nothing() -> None:
    """Go to the server and back."""
