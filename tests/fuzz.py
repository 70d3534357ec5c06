"""Input that nobody would think of, made by Hypothesis.

Whatever is given is taken, or refused with an exception of AMDM's own in one bounded line; what is taken can be given
again. Another kind of input is another entry of `TARGETS`: a strategy, and what must hold of each of its values.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from hypothesis import strategies as st
from PIL import Image
from strategies import value_of

from lib_amdm.adapters.kinds import describe, read_adapter
from lib_amdm.comodels.regions import region_map
from lib_amdm.errors import LONGEST, AdapterError, AmdmError
from lib_amdm.files import pictures
from lib_amdm.files.container import NEVER_UNPICKLED, open_tensor_file, refuse_code
from lib_amdm.files.pickles import Refused
from lib_amdm.layout import EXAMPLE, Layout, LayoutError, boxes_of
from lib_amdm.settings import AdapterSettings, CoModel, Settings, SettingsError, flat, specs
from lib_amdm.webui import infotext
from lib_amdm.webui.api import read_args
from lib_amdm.webui.region_preview import region_preview


def refused(error: Exception) -> str:
    """The text of a complaint, which must be fit to be shown anywhere."""
    text = str(error)
    assert text and len(text) <= LONGEST and len(text.splitlines()) == 1
    text.encode()
    if isinstance(error, SettingsError):
        assert text.startswith("AMDM: ") and text.endswith(".")
    return text


def tried(read: Callable[..., Any], *given: Any) -> tuple[Any, str]:
    """The value that is read, or None and the words of the refusal."""
    try:
        return read(*given), ""
    except (AdapterError, AmdmError, LayoutError, Refused, SettingsError) as error:
        return None, refused(error)


def taken(settings: Settings) -> None:
    """Check that settings can be read again, by every way there is."""
    values = settings.to_dict()
    assert Settings.from_dict(json.loads(json.dumps(values, allow_nan=False))) == settings
    shown = [spec.shown(settings.value(slot, spec)) for slot, spec in flat(len(settings.co_models))]
    assert Settings.from_list(shown) == settings
    for value in infotext.written(settings, {}).values():
        assert isinstance(value, str)
    assert settings.mixes <= settings.runs <= settings.enabled


def loop() -> list[Any]:
    own: list[Any] = []
    own.append(own)
    return own


def deep(depth: int) -> list[Any]:
    own: list[Any] = []
    for _ in range(depth):
        own = [own]
    return own


BREAKS = "\n\r\x1c\x85\u2028\ufeff\x00"
TEXTS = st.text(max_size=8) | st.text(st.sampled_from(BREAKS + '"“”:>[]{},. 01é') | st.characters(), max_size=30)
WORDS = st.sampled_from(
    [
        *("main", "None", "auto", "paper", "own", "first", "nan", "inf", "1e999", "1_0", "-0", "²", "٣", "0 0 1 1"),
        *("[[0,0,1,1]]", '{"a":', "data:image/png;base64,", EXAMPLE, "\ud800"),
        *("9" * 5000, "[" * 50_000, "x" * 100_000),
    ]
)
NUMBERS = (
    st.integers(-3, 160)
    | st.floats()
    | st.floats(0, 1)
    | st.sampled_from([10**400, -(10**4000), 2**63, 1e308, -0.0, 5e-324])
)
ODDITIES = st.sampled_from(
    [b"0 0 1 1", {1, 2}, 1j, range(3), object(), loop(), deep(200), np.zeros(3), np.float32(1), Settings, iter(())]
)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS | WORDS | ODDITIES
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | st.integers() | st.none(), inner, max_size=4),
    max_leaves=8,
)

PLACED = st.tuples(TEXTS, st.sampled_from([(0, 0, 0.5, 1), (0.25, 0.5, 1.0, 1), (0, 0, 1, 1), (1, 0, 0, 1)]))
"""A phrase and its box."""
SHARES = st.floats(0, 1) | st.integers(0, 1) | st.sampled_from([0.25, 0.5])
BOXES = st.lists(SHARES, min_size=4, max_size=4) | st.just([0, 0, 0.5, 1])
ROWS = (
    st.fixed_dictionaries({"phrase": TEXTS, "box": BOXES})
    | st.fixed_dictionaries({"subject": st.integers(0, 2) | TEXTS, "action": TEXTS, "object": st.integers(0, 2)})
    | st.dictionaries(st.sampled_from(["phrase", "box", "subject", "action", "object"]), ANYTHING, max_size=4)
    | ANYTHING
)
PARTS = st.sampled_from(
    [
        *":>[]{},\"' \n\t.0123456789e-+“”«»\u2028\x85\ufeff\ud800",
        *("a boy", "a ball: 0 0 0.5 1\n", "7: 0 0 1 1\n", "0 0 1 1", "a boy > on > 7\n", "nan", "9" * 400, "²", "٣"),
        *("[[", '{"phrase":', '"box":[0,0,1,1]}', "null"),
    ]
)
LAYOUTS = (
    st.lists(PLACED, max_size=3).map(
        lambda rows: "\n".join(f"{words}: {' '.join(map(str, box))}" for words, box in rows)
    )
    | st.lists(PLACED, max_size=3).map(lambda rows: [{"phrase": words, "box": list(box)} for words, box in rows])
    | st.lists(PLACED, max_size=3).map(lambda rows: "\n".join(" ".join(map(str, box)) for _, box in rows))
    | st.lists(PARTS, max_size=25).map("".join)
    | st.lists(ROWS, max_size=4)
    | st.lists(ROWS, max_size=4).map(repr).map(lambda rows: rows.replace("'", '"'))
    | st.lists(BOXES, max_size=4)
    | ANYTHING
)


def layout_holds(given: Any) -> None:
    layout, _ = tried(Layout.read, given)
    if layout is not None:
        assert Layout.of_rows(layout.rows()) == Layout.read(json.dumps(layout.rows())) == layout
    boxes, _ = tried(boxes_of, given)
    assert boxes is None or boxes_of([list(box) for box in boxes]) == boxes
    region_preview(given, None, given, given, given).encode()


values_of = partial(value_of, texts=TEXTS | WORDS, layout=LAYOUTS, region=LAYOUTS)
"""Values that a setting takes, mostly."""


@st.composite
def somehow(draw: st.DrawFn, of: type) -> Any:
    """An object of settings: some right, some of another kind, now and then one that nobody knows."""
    values = draw(st.fixed_dictionaries({}, optional={spec.name: values_of(spec) for spec in specs(of)}))
    if draw(st.integers(0, 3)) == 0:
        values[draw(st.sampled_from([spec.name for spec in specs(of)]) | TEXTS)] = draw(ANYTHING)
    return values


@st.composite
def bodies(draw: st.DrawFn) -> Any:
    values = draw(somehow(Settings))
    slots = st.lists(somehow(CoModel) | somehow(CoModel) | somehow(CoModel) | ANYTHING, max_size=3)
    nested = {"main_adapter": somehow(AdapterSettings) | st.none(), "co_models": slots | slots | st.none() | ANYTHING}
    return {**values, **draw(st.fixed_dictionaries({}, optional=nested))}


def settings_hold(body: Any) -> None:
    settings, _ = tried(Settings.from_dict, body)
    if settings is not None:
        taken(settings)


@st.composite
def lists(draw: st.DrawFn) -> Any:
    """The page's list with a few values changed, or one of any kind."""
    values = [spec.default for _, spec in flat(draw(st.integers(0, 3)))]
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(values) - 1))
        spec = [spec for _, spec in flat(3)][place]
        values[place] = draw(values_of(spec) | ANYTHING)
    return draw(st.sampled_from([values, tuple(values), values[:-1]]))


def list_holds(values: Any) -> None:
    settings, _ = tried(read_args, values)
    if settings is not None:
        taken(settings)
    tried(Settings.from_list, values)


@cache
def files() -> list[bytes]:
    """Small files of every kind that is read."""
    y, x = np.mgrid[0:9, 0:12]
    colours = Image.fromarray(np.stack([x * 20, y * 25, x * y * 2, 255 - x * 20], -1).astype(np.uint8))
    plain, grey = colours.convert("RGB"), colours.getchannel("B")
    palette = plain.quantize(8)
    exif = Image.Exif()
    exif[0x0112] = 6
    deep, several = grey.point(lambda value: value * 257, "I").convert("I;16"), {"save_all": True}
    made: list[tuple[Image.Image, str, dict[str, Any]]] = [
        *(
            (plain, "PNG", {}),
            (colours, "PNG", {}),
            (palette, "PNG", {"transparency": 1}),
            (deep, "PNG", {"exif": exif}),
        ),
        *((grey, "PNG", {"transparency": 3}), (plain, "JPEG", {"exif": exif}), (plain, "JPEG", {"progressive": True})),
        *((plain.convert("CMYK"), kind, {}) for kind in ("JPEG", "TIFF")),
        *((colours, "WEBP", {"lossless": True}), (plain, "WEBP", {"exif": exif}), (plain, "BMP", {})),
        (plain, "WEBP", {**several, "append_images": [plain.rotate(90)]}),
        *((colours, "TIFF", {}), (plain, "TIFF", {"compression": "tiff_lzw"})),
        *((grey.convert(mode), "TIFF", {}) for mode in "FI"),
        *((palette, "GIF", {"transparency": 1}), (palette, "GIF", {**several, "append_images": [palette.rotate(90)]})),
    ]
    made_files = []
    for picture, kind, more in made:
        file = io.BytesIO()
        picture.save(file, kind, **more)
        made_files.append(file.getvalue())
    return made_files


@st.composite
def damaged(draw: st.DrawFn, whole: Callable[[], list[bytes]]) -> bytes:
    """A file, some of whose bytes are others, are gone, or are there twice."""
    data = draw(st.sampled_from(whole()))
    for _ in range(draw(st.integers(0, 4))):
        # what stands at the start says how the rest is read
        place = draw(st.integers(0, min(len(data), 64)) | st.integers(0, len(data)))
        other = draw(st.binary(max_size=4) | st.just(data[place : place + 16]))
        gone = draw(st.sampled_from([len(other), 0, 1, 16, len(data)]))
        data = data[:place] + other + data[place + gone :]
    return data


@st.composite
def texts_of_pictures(draw: st.DrawFn) -> str:
    """A damaged picture in base64."""
    start = draw(st.sampled_from(["", "", "data:image/png;base64,"]))
    return start + base64.b64encode(draw(damaged(files))).decode("ascii")


def picture_holds(text: str) -> None:
    assert len(pictures.fingerprint(text)) == (pictures.FINGERPRINT if text else 0)
    seen, _ = tried(pictures.open_picture, text, "AMDM co-model 1")
    if seen is not None:
        assert seen.mode == "RGB" and seen.width * seen.height <= pictures.MAX_PIXELS
        assert min(pictures.shrunk(seen, 16).size) == 16
    tried(region_map, CoModel(mask=text), 4, 6, "AMDM co-model 1")


class Call:
    """Makes a folder where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(folder() / "ran"),)


@cache
def folder() -> Path:
    """The folder of the files, until the process ends."""
    made = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, made)
    return made


SUFFIXES = (".safetensors", ".gguf", ".bin", ".ckpt", ".PT", "")
TENSORS = {"ip_adapter.1.to_k_ip.weight": torch.ones(2, 768), "image_proj.proj.weight": torch.ones(2, 2).T}
PICKLED = ({"state_dict": TENSORS, "epoch": 3}, {"a": torch.nn.Parameter(torch.ones(2)), "b": {"c": Call()}}, Call())


@cache
def weights() -> list[bytes]:
    """Small files in every container that is read; some run code where they are unpickled."""
    made_files = [safetensors.torch.save({name: tensor.contiguous() for name, tensor in TENSORS.items()})]
    for each in PICKLED:
        for zipped in (True, False):
            file = io.BytesIO()
            torch.save(each, file, _use_new_zipfile_serialization=zipped)
            made_files.append(file.getvalue())
    return made_files


@cache
def pickles() -> list[bytes]:
    """The pickles in the archives among these."""
    archives = [zipfile.ZipFile(io.BytesIO(data)) for data in weights() if data.startswith(b"PK")]
    return [archive.read(name) for archive in archives for name in archive.namelist() if name.endswith("data.pkl")]


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """An archive with a damaged pickle in it, and now and then something beside it."""
    file = io.BytesIO()
    entry = st.sampled_from(["data.pkl", "DATA.PKL", "data/0", "version", "code/a.py", "constants.pkl", "x"]) | TEXTS
    with zipfile.ZipFile(file, "w", draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as packed:
        packed.writestr("archive/data.pkl", draw(damaged(pickles)))
        packed.writestr("archive/version", "3")
        packed.writestr("archive/data/0", bytes(2 * 768 * 4))
        for name in draw(st.lists(entry, max_size=2)):
            packed.writestr(f"archive/{name}".encode("utf-8", "replace").decode(), draw(damaged(pickles)))
    return file.getvalue()


def file_holds(given: tuple[str, bytes]) -> None:
    """Nothing that is read is run, nor anything of what is handed on to a reader that runs whatever it finds."""
    suffix, data = given
    path = folder() / f"file{suffix}"
    path.write_bytes(data)

    def shapes_hold(inert: bool) -> None:
        file = open_tensor_file(path, inert)
        assert {name: tuple(tensor.shape) for name, tensor in file.read(file.shapes).items()} == file.shapes

    tried(shapes_hold, False)
    tried(shapes_hold, True)
    tried(describe, path)
    tried(read_adapter, path)
    if not tried(refuse_code, path)[1] and suffix not in NEVER_UNPICKLED:
        with contextlib.suppress(Exception):
            torch.serialization.load(path, map_location="cpu", weights_only=False)
    assert not (folder() / "ran").exists()


TARGETS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], None]]] = {
    "settings": (bodies() | ANYTHING, settings_hold),
    "layouts": (LAYOUTS, layout_holds),
    "lists": (lists() | st.lists(ANYTHING, max_size=40) | ANYTHING.map(lambda value: [value]), list_holds),
    "pictures": (texts_of_pictures() | TEXTS | WORDS, picture_holds),
    "files": (st.tuples(st.sampled_from(SUFFIXES), damaged(weights) | archives()), file_holds),
}
