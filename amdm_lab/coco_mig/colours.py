"""The colour test of the published judge: which pixels have a colour, by hue, saturation and value."""

from __future__ import annotations

import numpy as np

from .published import COLOURS

HUES = 180
"""OpenCV's hue, in which the ranges are given, has two degrees to a step."""
_SHIFT = 12
"""OpenCV divides by the rounded multiples of 2^-12 of a table; pixels at a range's edge fall as they do there."""
_DIVISORS = np.maximum(np.arange(256), 1)
_BY_VALUE = np.rint((255 << _SHIFT) / _DIVISORS).astype(np.int64)
_BY_SPREAD = np.rint((HUES << _SHIFT) / (6.0 * _DIVISORS)).astype(np.int64)


def hsv(pixels: np.ndarray) -> np.ndarray:
    """Return hue, saturation and value as OpenCV has them, (..., 3), of pixels (..., 3) of bytes."""
    r, g, b = np.moveaxis(pixels.astype(np.int64), -1, 0)
    value = np.maximum(np.maximum(r, g), b)
    spread = value - np.minimum(np.minimum(r, g), b)
    sextants = np.select([value == r, value == g], [g - b, b - r + 2 * spread], r - g + 4 * spread)
    hue = _rounded(sextants * _BY_SPREAD[spread])
    return np.stack([hue + HUES * (hue < 0), _rounded(spread * _BY_VALUE[value]), value], -1)


def _rounded(multiple: np.ndarray) -> np.ndarray:
    return (multiple + (1 << (_SHIFT - 1))) >> _SHIFT


def has_colour(pixels: np.ndarray, colour: str) -> np.ndarray:
    """Return a mask (...) of the pixels (..., 3) that are in one of the colour's ranges."""
    planes = hsv(pixels)
    ranges = [np.all((planes >= low) & (planes <= high), axis=-1) for low, high in COLOURS[colour]]
    return np.logical_or.reduce(ranges)


def colour_share(picture: np.ndarray, colour: str, mask: np.ndarray) -> float:
    """Return the share of a mask's pixels that have the colour; 0 for an empty mask."""
    return float(has_colour(picture[mask], colour).mean()) if mask.any() else 0.0
