"""Names of a UNet's parts in adapter files: after any prefix, in ldm's layout or in diffusers'."""

from __future__ import annotations

import re
from collections.abc import Iterable

_UNET_PART = re.compile(
    r"(?:^|\.)((?:input_blocks|middle_block|output_blocks|down_blocks|mid_block|up_blocks|position_net)\..*)$"
    r"|^(?:unet\.)?(conv_in\..*)$"
)
_DIFFUSERS = re.compile(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.(.*)")


def without_prefix(name: str) -> str:
    """Return the name from the UNet's part on, without any prefix; any other name as it is."""
    match = _UNET_PART.search(name)
    return match[1] or match[2] if match else name


def ldm_names(names: Iterable[str]) -> dict[str, str]:
    """Return each name with the one it has in ldm's layout, without a prefix.

    diffusers counts blocks within a level. How many a level has is read from the names: SD1 has 2 down and 3 up.
    """
    plain = {name: without_prefix(name) for name in names}
    matches = {name: _DIFFUSERS.match(inner) for name, inner in plain.items()}
    most = {"down": 0, "up": 0}
    for match in filter(None, matches.values()):
        most[match[1]] = max(most[match[1]], int(match[3]) + 1)

    def ldm(name: str) -> str:
        match = matches[name]
        if not match:
            return plain[name].replace("mid_block.attentions.0.", "middle_block.1.")
        side, level, index, rest = match[1], int(match[2]), int(match[3]), match[4]
        if side == "down":
            return f"input_blocks.{1 + (most['down'] + 1) * level + index}.1.{rest}"
        return f"output_blocks.{most['up'] * level + index}.1.{rest}"

    return {name: ldm(name) for name in plain}
