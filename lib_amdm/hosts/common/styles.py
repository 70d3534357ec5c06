"""The WebUI's styles in a co-model's own prompt."""

from __future__ import annotations

from modules import shared

from ...comodels.prompts import split_styles
from ...errors import AmdmError


def with_styles(setting: str, *, negative: bool = False) -> str:
    """Return a co-model's setting with the styles that it names, as the WebUI inserts them; unknown ones are empty."""
    text, names = split_styles(setting)
    if not names:
        return setting
    styles = shared.prompt_styles
    insert = styles.apply_negative_styles_to_prompt if negative else styles.apply_styles_to_prompt
    styled: str = insert(text, names)
    return styled


def refuse_unknown(setting: str, where: str, error_prefix: str) -> None:
    """Raise AmdmError if a co-model's setting names a style that the WebUI does not have."""
    for name in split_styles(setting)[1]:
        if name not in shared.prompt_styles.styles:
            raise AmdmError(
                f'{error_prefix}: its {where} names the style "{name}", which the WebUI does not have; '
                "correct the name or remove it."
            )
