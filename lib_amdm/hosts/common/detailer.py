"""ADetailer and its kin: details that an extension draws inside a finished picture, with img2img on a crop of it."""

from __future__ import annotations

from pathlib import Path

from modules import shared

from ...layout import Box
from ..webui_types import Processing

SCRIPTS = "ad_script_names"
"""ADetailer's option: the files of the scripts that take part in its details, without their suffix."""


def is_detail(p: Processing) -> bool:
    """Return True for a detail; ADetailer marks them so."""
    return bool(getattr(p, "_ad_inner", False))


def join(p: Processing, script: str) -> None:
    """Let the script of this file take part in the picture's details: by an option of this one request."""
    if SCRIPTS not in shared.opts.data_labels:
        return
    listed = str(p.override_settings.get(SCRIPTS, getattr(shared.opts, SCRIPTS)))
    names, script_name = [name.strip() for name in listed.split(",")], Path(script).stem
    if script_name not in names:
        p.override_settings = {**p.override_settings, SCRIPTS: ",".join([*filter(None, names), script_name])}


def crop_of(p: Processing) -> Box | None:
    """Return the part of the picture that a detail's latent shows; None if that is all of it."""
    place = p.paste_to if is_detail(p) else None
    if place is None:
        return None
    x, y, width, height = place
    picture_width, picture_height = p.init_images[0].size
    # the WebUI fits the crop into the middle of the latent, and fills the rest
    scale = max(width / p.width, height / p.height)
    half_width, half_height = p.width * scale / 2, p.height * scale / 2
    return (
        (x + width / 2 - half_width) / picture_width,
        (y + height / 2 - half_height) / picture_height,
        (x + width / 2 + half_width) / picture_width,
        (y + height / 2 + half_height) / picture_height,
    )
