"""Reference pictures as settings carry them: a picture file in base64, as the WebUI's API has its own."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from functools import lru_cache
from typing import Any

from PIL import Image, ImageOps

from .base import AmdmError

FINGERPRINT = 12
"""Digits of a picture's fingerprint: what an infotext tells of it."""


def as_text(picture: Any) -> str:
    """What a page's picture control holds (a PIL image, an array, a text, or None) as a setting's text."""
    if picture is None or isinstance(picture, str):
        return picture or ""
    if not isinstance(picture, Image.Image):
        picture = Image.fromarray(picture)
    file = io.BytesIO()
    # the file lives for one request: speed counts more than size
    picture.save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode("ascii")


def opened(text: str, who: str) -> Image.Image:
    """The reference picture in RGB, upright; AmdmError where the text is none. `who` opens a complaint."""
    return _decoded(text, f"{who}: the adapter's image").convert("RGB")


def mask_of(text: str, who: str) -> Image.Image:
    """A mask in grey, upright: the picture's transparency where it has any, or else its brightness."""
    picture = _decoded(text, f"{who}: the mask")
    return _transparency(picture) or picture.convert("L")


def _transparency(picture: Image.Image) -> Image.Image | None:
    """The picture's alpha; None where all of it is opaque."""
    if "A" in picture.getbands() or "transparency" in picture.info:
        alpha = picture.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            return alpha
    return None


def _decoded(text: str, what: str) -> Image.Image:
    try:
        data = base64.b64decode("".join(text.rpartition(",")[2].split()), validate=True)
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        picture.load()
        return picture
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise AmdmError(
            f"{what} cannot be read ({type(error).__name__}); give a PNG, JPEG or WebP file, in the API as base64."
        ) from error


@lru_cache(maxsize=8)
def fingerprint(text: str) -> str:
    """Digits that tell pictures apart by what is in them, not by their files; "" for no picture."""
    if not text:
        return ""
    try:
        picture = _decoded(text, "AMDM: the picture")
        alpha = _transparency(picture)
        content = repr(picture.size).encode() + picture.convert("RGB").tobytes() + (alpha.tobytes() if alpha else b"")
    except AmdmError:
        content = text.encode()
    return hashlib.sha256(content).hexdigest()[:FINGERPRINT]
