"""Reference pictures in settings: a picture file in base64, as in the WebUI's API."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

from ..errors import AmdmError, short

FINGERPRINT = 12
"""The number of digits of a picture's fingerprint in an infotext."""
MAX_PIXELS = 50_000_000
"""The most millions of pixels of a picture; a phone's 48 megapixels fit."""
STRIP = 1 << 20
"""Pixels that are processed at a time, so that no step needs the memory of a second picture."""
LONGEST_FORM = 16
"""The largest ratio of a picture's sides; only the middle of a longer strip is used."""

# excludes formats that Pillow delegates to external programs or whose header may misstate the size
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000")
_IN_A_PNG = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
_ORIENTATION = 0x0112
T = TypeVar("T")


def as_text(picture: Any, name: str = "image") -> str:
    """Return the value of a page's picture control (a PIL image, an array, a text, or None) as a setting's text.

    AmdmError names the setting, `name`, for any other value.
    """
    if picture is None or isinstance(picture, str):
        return picture or ""
    file = io.BytesIO()
    try:
        # the file lives for one request: speed counts more than size
        _storable(picture).save(file, "PNG", compress_level=1)
    except Exception as error:  # how it fails depends on the value
        raise AmdmError(
            f'AMDM: "{name}" must be a picture, in the API a picture file as base64, but it is {short(picture)}; '
            "change it."
        ) from error
    return base64.b64encode(file.getvalue()).decode("ascii")


def _storable(picture: Any) -> Image.Image:
    if not isinstance(picture, Image.Image):
        picture = Image.fromarray(picture)
    if picture.mode in _IN_A_PNG:
        return picture
    return _in_eight_bits(picture).convert("RGBA" if _may_be_transparent(picture) else "RGB")


def open_picture(text: str, error_prefix: str) -> Image.Image:
    """Return the reference picture in RGB, upright, on white where it is transparent.

    AmdmError, which begins with `error_prefix`, if the text is not a picture.
    """
    return _read(text, f"{error_prefix}: the adapter's image", _on_white)


def mask_of(text: str, error_prefix: str) -> Image.Image:
    """Return a mask in grey, upright: the picture's transparency if it has any, otherwise its brightness.

    AmdmError, which begins with `error_prefix`, if the text is not a picture.
    """
    return _read(text, f"{error_prefix}: the mask", lambda picture: _transparency(picture) or picture.convert("L"))


def shrunk(picture: Image.Image, side: int) -> Image.Image:
    """Return the picture with `side` pixels along its shorter side, bicubic as in CLIP's own preprocessing."""
    width, height = picture.size
    longest = LONGEST_FORM * min(width, height)
    left, top = (max(0, length - longest) // 2 for length in (width, height))
    if left or top:
        picture = picture.crop((left, top, width - left, height - top))
        width, height = picture.size
    size = [side * length // min(width, height) for length in (width, height)]
    return picture.resize((size[0], size[1]), Image.Resampling.BICUBIC)


@lru_cache(maxsize=8)
def fingerprint(text: str) -> str:
    """Return digits that identify a picture by its pixels, not by its file; "" for no picture."""
    if not text:
        return ""
    try:
        digits = _read(text, "AMDM: the picture", _digest)
    except AmdmError:
        digits = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return digits[:FINGERPRINT]


def _digest(picture: Image.Image) -> str:
    digest = hashlib.sha256(repr(picture.size).encode())
    for _, part in _strips(picture):
        digest.update(part.convert("RGB").tobytes())
    alpha = _transparency(picture)
    for _, part in _strips(alpha) if alpha else ():
        digest.update(part.tobytes())
    return digest.hexdigest()


def _read(text: str, label: str, use: Callable[[Image.Image], T]) -> T:
    """Return `use` of the picture in `text`; AmdmError calls it `label`."""
    try:
        return use(_decoded(text))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        most = MAX_PIXELS // 1_000_000
        raise AmdmError(f"{label} has more than {most} million pixels; give a smaller one.") from error
    except Exception as error:  # Pillow's readers raise all kinds of errors for a damaged file
        raise AmdmError(
            f"{label} cannot be read ({type(error).__name__}); give a PNG, JPEG or WebP file, in the API as base64."
        ) from error


def _decoded(text: str) -> Image.Image:
    """Return the picture upright, in 8 bits; refused by its header if it is too large."""
    Image.init()
    known = [name for name in _FORMATS if name in Image.OPEN]
    picture: Image.Image = Image.open(io.BytesIO(_data(text)), formats=known)
    if picture.width * picture.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    picture.load()
    # checked here because ImageOps copies an upright picture, and an older Pillow turns a TIFF without notice
    if picture.format != "TIFF" and picture.getexif().get(_ORIENTATION, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    return _in_eight_bits(picture)


def _data(text: str) -> bytes:
    return base64.b64decode("".join(text.rpartition(",")[2].split()), validate=True)


def _strips(picture: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield the picture in parts from top to bottom, each with its first row's number."""
    rows = max(1, STRIP // picture.width)
    for top in range(0, picture.height, rows):
        yield top, picture.crop((0, top, picture.width, min(top + rows, picture.height)))


def _in_eight_bits(picture: Image.Image) -> Image.Image:
    """Return deep grey, which Pillow itself clips at 255, in 8 bits; any other picture as it is.

    16 bits are scaled. So are floats if none is more than 1.
    """
    if picture.mode != "F" and not picture.mode.startswith("I"):
        return picture
    grey, alpha = Image.new("L", picture.size), Image.new("L", picture.size, 255)
    hidden = picture.info.get("transparency")
    whole = 65535 if picture.mode != "F" else 1 if _highest(picture) <= 1 else 255
    for top, part in _strips(picture):
        values = np.asarray(part)
        tones = np.nan_to_num(values.astype(np.float32) * (255 / whole), nan=0, posinf=255, neginf=0)
        grey.paste(Image.fromarray(np.rint(tones.clip(0, 255)).astype(np.uint8)), (0, top))
        if hidden is not None:
            alpha.paste(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)), (0, top))
    return grey if hidden is None else Image.merge("LA", (grey, alpha))


def _highest(picture: Image.Image) -> float:
    """Return the highest number in a picture of floats."""
    parts = (np.asarray(part) for _, part in _strips(picture))
    return max(float(part.max(initial=0, where=np.isfinite(part))) for part in parts)


def _may_be_transparent(picture: Image.Image) -> bool:
    return picture.mode.lower().endswith("a") or "transparency" in picture.info


def _transparency(picture: Image.Image) -> Image.Image | None:
    """Return the picture's alpha, or None if all of it is opaque."""
    if not _may_be_transparent(picture):
        return None
    alpha = Image.new("L", picture.size)
    for top, part in _strips(picture):
        alpha.paste(part.convert("RGBA").getchannel("A"), (0, top))
    return alpha if alpha.getextrema() != (255, 255) else None


def _on_white(picture: Image.Image) -> Image.Image:
    clear = _may_be_transparent(picture)
    if picture.mode == "RGB" and not clear:
        return picture
    seen = Image.new("RGB", picture.size, "white")
    for top, part in _strips(picture):
        part = part.convert("RGBA" if clear else "RGB")
        seen.paste(part, (0, top), part if clear else None)
    return seen
