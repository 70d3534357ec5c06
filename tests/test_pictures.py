"""Reference pictures and masks: every kind of file is seen as a viewer shows it, none costs more than its pixels."""

from __future__ import annotations

import base64
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from lib_amdm.adapters.clip_vision import read_clip_vision
from lib_amdm.adapters.inputs import Encoder
from lib_amdm.comodels.file_list import Folder, lists
from lib_amdm.comodels.image_features import ImageFeatures
from lib_amdm.errors import AmdmError
from lib_amdm.files import pictures
from lib_amdm.files.pictures import MAX_PIXELS, as_text, fingerprint, mask_of, open_picture, shrunk

ROOT = Path(__file__).resolve().parents[1]
ENCODER = ROOT / "amdm_lab" / "adapters" / "image_encoder.safetensors"


def file_of(picture: Image.Image, kind: str = "PNG", **options: Any) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return base64.b64encode(file.getvalue()).decode("ascii")


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pixels(picture: Image.Image) -> np.ndarray:
    return np.array(picture).astype(int)


def painting() -> Image.Image:
    """A picture without symmetry, each pixel of another colour, partly transparent."""
    y, x = np.mgrid[0:30, 0:40]
    return Image.fromarray(np.stack([x * 6, y * 8, (x * y) % 256, 255 - x * 5], -1).astype(np.uint8))


def palette() -> Image.Image:
    picture = Image.frombytes("P", (40, 30), bytes((x * y) % 7 for y in range(30) for x in range(40)))
    picture.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, 99, 99, 9, 9, 99, 99, 0, 0, 0, 255, 255, 255])
    return picture


def turned(picture: Image.Image, orientation: int, kind: str = "PNG") -> str:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file_of(picture, kind, exif=exif)


RAMP = np.linspace(0, 65535, 4096).reshape(64, 64)


@pytest.mark.parametrize(("kind", "file"), [("<u2", "PNG"), ("<u2", "TIFF"), (">u2", "TIFF"), ("<i4", "TIFF")])
def test_a_grey_of_16_bits_keeps_its_tones(kind: str, file: str) -> None:
    """Depth maps and scans have it; cut off at 255, nearly all of them is white."""
    text = file_of(Image.fromarray(RAMP.astype(kind)), file)
    wanted = np.rint(RAMP.astype(int) / 257)
    for seen in (pixels(open_picture(text, "AMDM")), pixels(mask_of(text, "AMDM"))[..., None]):
        assert (seen == wanted[..., None]).all()
    assert fingerprint(text) != fingerprint(file_of(Image.fromarray(RAMP[::-1].astype(kind)), file))


def test_a_float_picture_has_its_tones_from_0_to_1_or_from_0_to_255() -> None:
    shares = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    for values in (shares, shares * 255):
        text = file_of(Image.fromarray(values), "TIFF")
        assert (pixels(open_picture(text, "AMDM"))[..., 0] == np.rint(shares * 255)).all()
        assert (pixels(mask_of(text, "AMDM")) == np.rint(shares * 255)).all()


def test_no_float_is_too_strange_to_be_seen() -> None:
    values = np.array([[np.nan, np.inf, -np.inf, -5], [300, 128, 0, 1e30]], dtype=np.float32)
    assert pixels(open_picture(file_of(Image.fromarray(values), "TIFF"), "AMDM"))[..., 0].tolist() == [
        [0, 255, 0, 0],
        [255, 128, 0, 255],
    ]
    nothing: np.ndarray = np.full((2, 2), np.nan, dtype=np.float32)
    assert not pixels(open_picture(file_of(Image.fromarray(nothing), "TIFF"), "AMDM")).any()


@pytest.mark.parametrize("hidden", [(255, 0, 255), (0, 0, 0)])
def test_what_is_hidden_under_transparency_is_not_seen(hidden: tuple[int, int, int]) -> None:
    for alpha, white in ((0, 1.0), (255, 0.0), (51, 0.8)):
        seen = pixels(open_picture(file_of(Image.new("RGBA", (9, 7), (*hidden, alpha))), "AMDM"))
        wanted = [value * (1 - white) + 255 * white for value in hidden]
        assert abs(seen - wanted).max() <= 1


def with_one_colour_hidden() -> dict[str, str]:
    """A black and a grey half, of which the black one is transparent, in all ways that files have for it."""
    grey = Image.new("L", (40, 20), 0)
    grey.paste(128, (20, 0, 40, 20))
    alpha = grey.point(lambda value: 255 if value else 0)
    in_colours = Image.frombytes("P", grey.size, grey.point(lambda value: 1 if value else 0).tobytes())
    in_colours.putpalette([0, 0, 0, 128, 128, 128])
    deep = base64.b64decode(file_of(Image.fromarray(np.array(grey).astype(np.uint16) * 257)))
    deep = deep[:33] + chunk(b"tRNS", b"\x00\x00") + deep[33:]  # behind the header; not every Pillow writes it
    clear = Image.merge("LA", (grey, alpha))
    return {
        "RGBA": file_of(clear.convert("RGBA")),
        "LA": file_of(clear),
        "P, one colour": file_of(in_colours, transparency=0),
        "P, each colour": file_of(in_colours, transparency=bytes([0, 255])),
        "GIF": file_of(in_colours, "GIF", transparency=0),
        "WebP": file_of(clear.convert("RGBA"), "WEBP", lossless=True),
        "RGB, tRNS": file_of(grey.convert("RGB"), transparency=(0, 0, 0)),
        "L, tRNS": file_of(grey, transparency=0),
        "16 bits, tRNS": base64.b64encode(deep).decode("ascii"),
        "TIFF": file_of(clear.convert("RGBA"), "TIFF"),
    }


@pytest.mark.parametrize("kind", with_one_colour_hidden())
def test_transparency_is_white_in_every_kind_of_file(kind: str) -> None:
    text = with_one_colour_hidden()[kind]
    seen, mask = pixels(open_picture(text, "AMDM")), pixels(mask_of(text, "AMDM"))
    assert (seen[:, :20] == 255).all() and (seen[:, 20:] == 128).all()
    assert (mask[:, :20] == 0).all() and (mask[:, 20:] == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photograph_is_seen_upright(orientation: int, kind: str) -> None:
    quarters = Image.new("RGB", (64, 32))
    for number, colour in enumerate(("red", "lime", "blue", "white")):
        quarters.paste(colour, (number % 2 * 32, number // 2 * 16, number % 2 * 32 + 32, number // 2 * 16 + 16))
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    stored = quarters if back is None else quarters.transpose(Image.Transpose(back))
    upright = np.array(open_picture(turned(stored, orientation, kind), "AMDM"))
    assert upright.shape == (32, 64, 3)
    mask = np.array(mask_of(turned(stored, orientation, kind), "AMDM"))
    assert mask.shape == (32, 64) and mask[8::16, 16::32].argmax() == 3
    middles = upright[8::16, 16::32].reshape(4, 3).astype(int)
    assert abs(middles - [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]).max() < 30


def png_header(width: int, height: int) -> str:
    """A file that says its size, and has nothing that could be decoded."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"\x00" * 8)).decode("ascii")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "size", [(MAX_PIXELS // 1000, 1001), (10_000, 10_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)]
)
def test_too_large_a_picture_is_refused_by_its_header(size: tuple[int, int]) -> None:
    for read, what in ((open_picture, "the adapter's image"), (mask_of, "the mask")):
        with pytest.raises(AmdmError) as caught:
            read(png_header(*size), "AMDM co-model 2")
        assert str(caught.value) == f"AMDM co-model 2: {what} has more than 50 million pixels; give a smaller one."
    assert fingerprint(png_header(*size))
    with pytest.raises(AmdmError, match="cannot be read"):
        open_picture(png_header(8000, 6000), "AMDM")


_MEASURE = """
import json, sys
import numpy as np, torch
from pathlib import Path
from lib_amdm.adapters.inputs import Encoder
from lib_amdm.files import pictures
from lib_amdm.comodels.file_list import Folder, lists
from lib_amdm.comodels.image_features import ImageFeatures
from lib_amdm.comodels.regions import region_map
from lib_amdm.settings import CoModel
torch.set_num_threads(1)
def peak():  # getrusage's would be the parent's, where that has had more before it started this process
    peaks = Path("/proc/self/status").read_text().partition("VmHWM:")[2]
    return int(peaks.split()[0]) // 1024
folders = [Folder(Path(sys.argv[1]), takes_all=True)]
images = ImageFeatures(lists(lambda: folders, lambda: folders)[1])
encoder = Encoder("", "image_embeds", int(sys.argv[2]))
def features(text):
    images.of(text, encoder, torch.device("cpu"), "AMDM", "ip")
small = pictures.as_text(np.zeros((30, 40, 3), np.uint8))
peaks = {}
features(small)
region_map(CoModel(mask=small), 8, 8, "AMDM")
before = peak()
for kind, text in json.load(sys.stdin).items():
    features(text)
    peaks[kind] = peak() - before
    region_map(CoModel(mask=text), 64, 64, "AMDM")
    peaks[kind + ", mask"] = peak() - before
print(json.dumps(peaks))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux tells a process's own peak this way")
def test_a_picture_of_48_megapixels_stays_below_400_mb() -> None:
    large = Image.new("RGB", (8000, 6000), (9, 99, 199))
    texts = {
        "turned": turned(large, 6, "JPEG"),
        "transparent": file_of(Image.merge("RGBA", [*large.split(), Image.new("L", large.size, 99)]), compress_level=1),
    }
    ran = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(ENCODER.parent), "64"],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    peaks = json.loads(ran.stdout)
    assert peaks.keys() >= texts.keys()
    assert max(peaks.values()) < 400, peaks


KNOWN = {
    "RGB": "a8769d70cc8e",
    "RGBA": "df7d5051f4b8",
    "L": "b19af61c8526",
    "LA": "e7e442c304aa",
    "1": "7c53980f6621",
    "P": "4407ba8cd8da",
    "P, transparent": "41ac47ea53d7",
    "turned": "bfba097f6485",
    "opaque": "a8769d70cc8e",
    "CMYK": "a8769d70cc8e",
    "none": "9ed97c950c33",
}
"""Fingerprints that infotexts have of the pictures of `kinds`."""


def kinds() -> dict[str, str]:
    picture = painting()
    colours, grey, alpha = picture.convert("RGB"), picture.getchannel("B"), picture.getchannel("A")
    return {
        "RGB": file_of(colours),
        "RGBA": file_of(picture),
        "L": file_of(grey),
        "LA": file_of(Image.merge("LA", (grey, alpha))),
        "1": file_of(grey.point(lambda value: 255 if value > 99 else 0, "1")),
        "P": file_of(palette()),
        "P, transparent": file_of(palette(), transparency=3),
        "turned": turned(colours, 6),
        "opaque": file_of(colours.convert("RGBA")),
        "CMYK": file_of(colours.convert("CMYK"), "TIFF"),
        "none": "no picture",
    }


@pytest.mark.parametrize("strip", [pictures.STRIP, 100, 1])
def test_a_picture_keeps_the_fingerprint_that_infotexts_have_of_it(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "STRIP", strip)
    fingerprint.cache_clear()
    assert {kind: fingerprint(text) for kind, text in kinds().items()} == KNOWN


def test_what_is_no_text_that_can_be_written_has_a_fingerprint_too() -> None:
    assert len({fingerprint(text) for text in ("\ud800", "\ud801", "", "a")}) == 4


@pytest.mark.parametrize("size", [(40, 28), (28, 28), (31, 77), (450, 300), (20, 14), (97, 28), (400, 28), (3, 2)])
def test_an_encoder_sees_what_transformers_own_preprocessing_shows_it(size: tuple[int, int]) -> None:
    from transformers import CLIPImageProcessorPil

    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 128}, crop_size={"height": 128, "width": 128})
    wanted = torch.from_numpy(np.array(processor(Image.fromarray(noise)).pixel_values))
    small = np.array(shrunk(Image.fromarray(noise), 128))
    seen = read_clip_vision(ENCODER).preprocess(torch.from_numpy(small).permute(2, 0, 1)[None] / 255)
    assert (seen - wanted).abs().max() < 1e-5, "a level of 256 would be 0.01"


def test_a_strip_of_a_picture_is_no_more_than_its_middle_needs() -> None:
    for size in ((100_000, 2), (2, 100_000)):
        strip = Image.new("RGB", size)
        strip.paste("white", (size[0] // 2 - 1, size[1] // 2 - 1, size[0] // 2 + 1, size[1] // 2 + 1))
        small = shrunk(strip, 64)
        assert min(small.size) == 64 and max(small.size) <= 64 * 16
        assert ImageOps.fit(small, (64, 64)).getpixel((32, 32)) == (255, 255, 255)


@pytest.mark.parametrize("size", [(40, 30), (300, 500), (1, 1)])
def test_a_pictures_features_are_those_of_the_picture_that_the_encoder_sees(size: tuple[int, int]) -> None:
    wanted = Encoder("", "image_embeds", 64)
    folders = [Folder(ENCODER.parent, takes_all=True)]
    images = ImageFeatures(lists(lambda: folders, lambda: folders)[1])
    picture = Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 20).convert("RGB")
    found = images.of(as_text(picture), wanted, torch.device("cpu"), "AMDM", "ip").pictures
    whole = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        assert (found - read_clip_vision(ENCODER).features(whole, wanted)).abs().max() < 1e-2


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16", "RGBX"]
)
def test_a_picture_of_any_mode_becomes_a_text_that_opens_again(mode: str) -> None:
    picture = Image.new(mode, (3, 2))
    assert open_picture(as_text(picture), "AMDM").size == (3, 2)


@pytest.mark.parametrize(
    "given", [{}, {"image": None}, True, False, 5, 0.5, [], [[1]], ["a"], b"PNG", object(), np.zeros((2, 2, 7))]
)
def test_what_is_no_picture_is_named_by_its_setting(given: Any) -> None:
    with pytest.raises(AmdmError) as caught:
        as_text(given, "mask of co-model 2")
    words = str(caught.value)
    assert words.startswith('AMDM: "mask of co-model 2" must be a picture') and words.endswith("; change it.")
    assert len(words) <= 500 and len(words.splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ",",
        "A",
        "AAAA",
        "YWJj",
        "no picture!",
        "data:,",
        "\ud800",
        "é",
        "=" * 9,
        "9" * 100_000,
        kinds()["RGB"][:-40],
    ],
)
def test_a_text_that_is_no_picture_is_a_sentence(text: str) -> None:
    for read, what in ((open_picture, "the adapter's image"), (mask_of, "the mask")):
        with pytest.raises(AmdmError, match=rf"^AMDM co-model 2: {what} cannot be read[^\n.!?]*\.$"):
            read(text, "AMDM co-model 2")


def test_a_file_that_another_program_would_have_to_read_is_not_opened() -> None:
    """PostScript is a language, which Pillow hands to Ghostscript."""
    file = base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n").decode()
    with pytest.raises(AmdmError, match="give a PNG, JPEG or WebP file"):
        open_picture(file, "AMDM")
