"""Event helpers for gradio: cheap to register, and fired once per completed choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_QUIET: dict[str, Any] = {"queue": False, "show_progress": False}


def quick(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function without its annotations.

    gradio resolves them anew for each event, which is most of an event's cost in the WebUI's start.
    """

    def called(*values: Any) -> Any:
        return function(*values)

    called.__annotations__.clear()
    called.__name__ = getattr(function, "__name__", "called")
    return called


def after_choice(dropdown: Any, **call: Any) -> None:
    """Call a function, with the arguments of a gradio event, once a choice is made in a dropdown that can be typed in.

    Its change events are not enough: a typed name changes with each letter, and gradio drops a change while
    another is being handled. Depending on gradio's version a dropdown loses focus before or after it has the choice;
    hence the round trip to the server.
    """
    dropdown.blur(fn=_nothing, inputs=[], outputs=[], **_QUIET).then(**call, **_QUIET)


def after_change(control: Any, **call: Any) -> None:
    """Call a function, with what a gradio event takes, for each change of a control, and once more.

    A number that is typed fast changes while its earlier change is under way, and gradio 3 loses such a change.
    """
    control.change(**call, **_QUIET).then(**call, **_QUIET)


@quick
def _nothing() -> None:
    """Make a round trip to the server."""
