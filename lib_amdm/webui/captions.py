"""The captions of the panel's controls, which are short, and the names under which a WebUI saves their defaults."""

from __future__ import annotations

from ..settings import Spec, SwitchSpec, infotext_label


class Caption(str):
    """A control's caption, such as "gamma": the tab around it names the co-model.

    The WebUI saves a user's defaults under its value in an f-string: a unique name that does not change.
    """

    saved: str

    def __new__(cls, shown: str, saved: str) -> Caption:
        caption = super().__new__(cls, shown)
        caption.saved = saved
        return caption

    def __format__(self, spec: str) -> str:
        return format(self.saved, spec)

    def __reduce__(self) -> tuple[type[Caption], tuple[str, str]]:
        # gradio copies what its controls are made of
        return Caption, (str(self), self.saved)


def caption(slot: int, spec: Spec) -> Caption:
    """Return a control's caption."""
    if not slot:
        return Caption(spec.label, infotext_label(slot, spec))
    if isinstance(spec, SwitchSpec):
        return Caption("use it", f"Use co-model {slot}")
    return Caption(spec.label, f"{spec.label[0].upper()}{spec.label[1:]} of co-model {slot}")
