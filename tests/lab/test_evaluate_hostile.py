"""Input of the evidence commands: answers of a server, kept files, pictures. Each is used, or refused."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from coco_stand_ins import METHODS, Draws, Sees, draw_all, entries
from PIL import EpsImagePlugin, Image
from test_evaluate_drawing import MIXED, RAN, Server, order, served
from test_evaluate_pair import INFOTEXT, PAIR, SUBJECTS, WAYS, Painter

from amdm_lab.cli import main
from amdm_lab.coco_mig import benchmark, judge
from amdm_lab.coco_mig.recipes import from_file
from amdm_lab.coco_mig.report import report
from amdm_lab.coco_mig.segmenter import WholeBox
from amdm_lab.drawers.webui_api import WebUIDrawer
from amdm_lab.gpu import on_webui
from amdm_lab.memory import MemoryWatch
from amdm_lab.pair.from_pictures import read_pictures
from amdm_lab.records import write_whole
from amdm_lab.store import MemoryUse, Record, Store
from lib_amdm.errors import AmdmError

DEEP = b"[" * 100_000 + b"]" * 100_000
SURROGATE = "\ud800"


def picture(side: int = 8, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (255, 0, 0)).save(file, kind)
    return file.getvalue()


def bomb(side: int = 60_000) -> bytes:
    """A PNG whose header says more pixels than any memory holds."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n"
BROKEN = {"truncated": picture(64)[:-40], "empty": b"", "text": b"no picture", "bomb": bomb(), "eps": EPS}


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def server() -> Iterator[Server]:
    yield from served()


def sentence(error: BaseException) -> str:
    """The complaint, if any console and any file can hold it."""
    told = str(error)
    assert told.encode() and len(told.splitlines()) == 1 and told.endswith(".")
    return told


INFO = json.dumps({"infotexts": ["a cat\nSteps: 4"]})
INFOS: tuple[Any, ...] = ("", "[]", "null", "{", None, 5, {"infotexts": []}, DEEP.decode(), '{"infotexts": [5]}')
ANSWERS: dict[str, Any] = {
    "null": None,
    "a list": [],
    "nothing": {},
    "no images": {"images": [], "info": INFO},
    "null as images": {"images": None, "info": INFO},
    "a number as a picture": {"images": [5], "info": INFO},
    "no base64": {"images": ["***"], "info": INFO},
    **{f"a picture: {name}": {"images": [encoded(data)], "info": INFO} for name, data in BROKEN.items()},
    **{f"info: {info!r:.20}": {"images": [encoded(picture())], "info": info} for info in INFOS},
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_that_is_none_of_a_webuis_is_refused(server: Server, answer: Any) -> None:
    server.answers["/sdapi/v1/txt2img"] = (200, json.dumps(answer).encode())
    with pytest.raises(AmdmError) as caught:
        WebUIDrawer(server.url).draw(order())
    assert server.url in sentence(caught.value)


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize(
    "answer", [DEEP, b'{"error": ' + DEEP + b"}", b"\xff\xfe", b'"' + b"x" * 10_000 + b'"', b"null"]
)
def test_whatever_is_answered_is_told_in_a_sentence(server: Server, status: int, answer: bytes) -> None:
    server.answers |= dict.fromkeys(("/sdapi/v1/txt2img", *server.answers), (status, answer))
    drawer = WebUIDrawer(server.url)
    for ask in (drawer.checkpoints, drawer.adapters, drawer.description, lambda: drawer.draw(order())):
        with pytest.raises(AmdmError) as caught:
            ask()
        assert str(caught.value).encode() and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_formats_that_a_webui_answers_in_are_read(server: Server, kind: str) -> None:
    server.answers["/sdapi/v1/txt2img"] = {"images": [encoded(picture(kind=kind))], "info": INFO}
    assert WebUIDrawer(server.url).draw(order()).picture.size == (8, 8)


def test_no_other_program_is_started_for_a_picture(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *told, **more: started.append(told))
    server.answers["/sdapi/v1/txt2img"] = {"images": [encoded(EPS)], "info": INFO}
    with pytest.raises(AmdmError, match="picture that cannot be read"):
        WebUIDrawer(server.url).draw(order())
    assert not started


def test_halves_of_characters_are_kept_as_marks(server: Server, tmp_path: Path) -> None:
    server.infotext = RAN.format("3 evaluations of beta").replace("a cat", SURROGATE)
    server.answers["/amdm/v1/models"] = {"checkpoints": [f"al{SURROGATE}pha"], "adapters": [SURROGATE], "loaded": []}
    server.answers["/amdm/v1/version"] = {"version": SURROGATE, "host": SURROGATE}
    drawer = WebUIDrawer(server.url)
    for text in (*drawer.checkpoints(), *drawer.adapters(), drawer.description()):
        assert "\N{REPLACEMENT CHARACTER}" in text and text.encode()
    asked = order(prompt=SURROGATE, settings=MIXED)
    drawn = drawer.draw(asked)
    store = Store(tmp_path)
    store.keep(
        "here", drawn.picture, Record(asdict(asked), SURROGATE, drawn.seconds, drawn.evaluations, drawn.infotext)
    )
    assert store.drawn("here")
    draw_all(Store(tmp_path / "out"), drawer, entries()[:1], METHODS[:1])


@pytest.mark.parametrize(
    "figures",
    [
        None,
        [],
        {},
        {"cuda": None, "ram": None},
        {"cuda": {"allocated": {"peak": "much"}}},
        {"ram": {"used": float("nan")}},
    ],
)
def test_a_memory_that_is_not_told_is_not_known(server: Server, figures: Any) -> None:
    server.answers["/sdapi/v1/memory"] = (200, json.dumps(figures).encode())
    drawer = WebUIDrawer(server.url)
    assert MemoryWatch(drawer).used_by(WAYS[0].order(PAIR, SUBJECTS[0])) == MemoryUse()
    assert on_webui.gpu_memory(drawer, "peak") is None


@pytest.mark.parametrize(
    "loaded", [None, [5], [{"bytes": 5}], [{"checkpoint": "b", "bytes": "x"}], [{"checkpoint": "b"}]]
)
def test_a_list_of_what_is_loaded_that_is_none_is_refused(server: Server, loaded: Any) -> None:
    server.answers["/amdm/v1/models"]["loaded"] = loaded
    with pytest.raises(AmdmError) as caught:
        MemoryWatch(WebUIDrawer(server.url)).used_by(WAYS[2].order(PAIR, SUBJECTS[0]))
    sentence(caught.value)


PNG_INFOS: dict[str, Any] = {
    "null": None,
    "a list": [],
    "numbers": {"info": 5, "parameters": 5},
    "null in it": {"info": None, "parameters": None},
    "a bad escape": {"info": 'Steps: 4, Model: "\\q"', "parameters": {**INFOTEXT, "Model": None}},
    "lists as values": {"info": "", "parameters": {key: [] for key in INFOTEXT}},
    "deep": {"info": "", "parameters": {**INFOTEXT, "AMDM 1 adapter layout": DEEP.decode()}},
    "endless steps": {"info": "", "parameters": {**INFOTEXT, "Steps": "9" * 5000}},
    "no number": {"info": "", "parameters": {**INFOTEXT, "CFG scale": "nan"}},
}


@pytest.mark.parametrize("answer", PNG_INFOS.values(), ids=PNG_INFOS)
def test_an_infotext_that_is_none_is_refused(server: Server, tmp_path: Path, answer: Any) -> None:
    server.answers["/amdm/v1/models"]["checkpoints"] = [PAIR.main, PAIR.co]
    server.answers["/sdapi/v1/png-info"] = (200, json.dumps(answer).encode())
    (tmp_path / "0.png").write_bytes(b"")
    with pytest.raises((AmdmError, ValueError)) as caught:
        read_pictures(WebUIDrawer(server.url), [tmp_path / "0.png"])
    sentence(caught.value)


def test_halves_of_characters_in_an_infotext_are_marks(server: Server, tmp_path: Path) -> None:
    server.answers["/amdm/v1/models"]["checkpoints"] = [PAIR.main, PAIR.co]
    parameters = {**INFOTEXT, "Prompt": SURROGATE, "Sampler": SURROGATE, "AMDM 1 prompt": SURROGATE}
    server.answers["/sdapi/v1/png-info"] = {"info": "", "parameters": parameters}
    (tmp_path / "0.png").write_bytes(b"")
    pair, [subject] = read_pictures(WebUIDrawer(server.url), [tmp_path / "0.png"])
    assert (subject.prompt + subject.co_prompt + pair.common["sampler"]).encode()


# --- a redirect ---


def test_a_login_is_given_to_no_other_host(server: Server) -> None:
    for other in served():
        server.redirect = other.url
        with pytest.raises(AmdmError, match=f"sends its callers on to {other.url}; name that address") as caught:
            WebUIDrawer(server.url, "me:secret").checkpoints()
        sentence(caught.value)
        assert not other.asked


def test_a_redirect_within_the_webui_is_followed(server: Server) -> None:
    server.redirect = server.url + "/moved"
    server.answers["/moved/amdm/v1/models"] = server.answers["/amdm/v1/models"]
    assert WebUIDrawer(server.url, "me:secret").checkpoints() == ["alpha"]
    assert server.asked[-1][2]


# --- what a folder has ---


def spoilt(described: dict[str, Any]) -> Iterator[bytes]:
    for value in (float("nan"), float("inf"), "1 s", True, None, -1, 10**400):
        yield json.dumps({**described, "seconds": value}).encode()
    yield json.dumps({**described, "evaluations": ["alpha"]}).encode()
    yield json.dumps({**described, "evaluations": {"alpha": "many"}}).encode()
    yield from (b"\xff", DEEP, b'{"seconds": ' + DEEP + b"}", b"null")


def kept_picture(folder: Path) -> tuple[Store, Record]:
    """A store with one picture, named "one"."""
    asked, store = WAYS[0].order(PAIR, SUBJECTS[0]), Store(folder)
    drawn = Painter().draw(asked)
    store.keep("one", drawn.picture, Record(asdict(asked), "", drawn.seconds, memory=MemoryUse(1, 2, "gpu")))
    record = store.drawn("one")
    assert record is not None and record.memory == MemoryUse(1, 2, "gpu")
    return store, record


def test_what_a_kept_folder_has_that_is_broken_is_drawn_again(tmp_path: Path) -> None:
    store, record = kept_picture(tmp_path)
    described = store.record_file("one")
    good = described.read_bytes()
    memories: tuple[Any, ...] = ({"total": "x"}, {"kind": "?"}, [])
    for spoilt_one in (
        *spoilt(json.loads(good)),
        *(json.dumps({**json.loads(good), "memory": m}).encode() for m in memories),
    ):
        described.write_bytes(spoilt_one)
        assert store.drawn("one") is None, spoilt_one[:80]
    described.write_bytes(good)
    for name, data in BROKEN.items():
        store.picture("one").write_bytes(data)
        assert store.drawn("one") is None, name
    assert kept_picture(tmp_path)[1] == record


def test_a_kept_folder_that_is_a_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    benchmark.write(entries(), tmp_path / "bench.json")
    assert main(["coco-mig", "--bench", str(tmp_path / "bench.json"), "--out", str(tmp_path / "file")]) == 1
    assert 'file" cannot be made a folder' in capsys.readouterr().err


def test_a_record_of_a_benchmark_that_is_broken_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    draw_all(store, Draws(), entries()[:1], METHODS[:1])
    file = store.record_file("one/0")
    good = json.loads(file.read_bytes())
    for spoilt_one in (*spoilt(good), json.dumps({**good, "order": []}).encode()):
        file.write_bytes(spoilt_one)
        with pytest.raises(AmdmError) as caught:
            report(store, entries()[:1], METHODS[:1])
        assert '0.json" ' in sentence(caught.value)


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_picture_that_cannot_be_judged_is_named(tmp_path: Path, data: bytes) -> None:
    store = Store(tmp_path)
    draw_all(store, Draws(), entries()[:1], METHODS[:1])
    store.picture("one/0").write_bytes(data)
    with pytest.raises(AmdmError, match=r'0\.png" cannot be read .*; remove it'):
        judge.judge_all(store, entries()[:1], METHODS[:1], Sees(1), WholeBox())


@pytest.mark.parametrize(
    "value", [{}, [], {"judges": ["a"], "instances": []}, {"judges": 5, "instances": [{"found": "x"}]}]
)
def test_a_verdict_that_is_none_is_named(tmp_path: Path, value: Any) -> None:
    store = Store(tmp_path)
    draw_all(store, Draws(), entries()[:1], METHODS[:1])
    write_whole(store.verdict_file("one/0"), value)
    with pytest.raises(AmdmError, match="does not say what was judged"):
        report(store, entries()[:1], METHODS[:1])


# --- keys of a benchmark ---

KEYS = [
    "../../victim",
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "a\0b",
    "x" * 300,
    "CON",
    "nul",
    "com1",
    "a:b",
    "a.",
    "a ",
    "0.judged",
]


def with_keys(file: Path, *keys: str) -> Path:
    benchmark.write([entries()[0]], file)
    [entry] = json.loads(file.read_text()).values()
    file.write_text(json.dumps(dict.fromkeys(keys, entry)))
    return file


@pytest.mark.parametrize("key", [*KEYS, "{absolute}", SURROGATE, "é" * 90])
def test_a_key_of_a_benchmark_is_no_path(tmp_path: Path, key: str) -> None:
    victims = [tmp_path / name for name in ("victim.png", "victim.json", "victim.judged.json")]
    for victim in victims:
        victim.write_text("mine")
    file = with_keys(tmp_path / "bench.json", key.format(absolute=tmp_path / "victim"))
    out = tmp_path / "out"
    with pytest.raises(AmdmError, match="must be named by") as caught:
        draw_all(Store(out), Draws(), benchmark.read(file))
    sentence(caught.value)
    assert [victim.read_text() for victim in victims] == ["mine"] * 3 and not out.exists()


def test_keys_that_one_file_would_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AmdmError, match=r'"A" .* differs from "a" in capitals alone'):
        benchmark.read(with_keys(tmp_path / "bench.json", "a", "A"))


def test_the_published_keys_and_names_like_them_are_taken(tmp_path: Path) -> None:
    keys = ["0", "799", "L2_001", "coco-000000397133", "consul"]
    assert [entry.key for entry in benchmark.read(with_keys(tmp_path / "bench.json", *keys))] == keys


@pytest.mark.parametrize("field", ["caption", "label", "image_id"])
def test_a_text_of_a_benchmark_that_no_file_can_hold_is_refused(tmp_path: Path, field: str) -> None:
    file = with_keys(tmp_path / "bench.json", "0")
    given = json.loads(file.read_text())
    holder = given["0"]["segment"][0] if field == "label" else given["0"]
    holder[field] = f"a red {SURROGATE}"
    file.write_text(json.dumps(given))
    with pytest.raises(AmdmError, match='entry "0"') as caught:
        benchmark.read(file)
    sentence(caught.value)


@pytest.mark.parametrize("name", ["..json", "...json", "CON.json", "a\u202e.json"])
def test_a_file_of_settings_names_no_other_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(json.dumps({"enabled": True, "main_adapter": {"adapter": "MIGC.ckpt"}}))
    with pytest.raises(AmdmError, match="must be named by") as caught:
        from_file(tmp_path / name)
    sentence(caught.value)


# --- what a user types ---


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "NaN", "\ud800"])
def test_a_setting_to_try_is_refused_whatever_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    from amdm_lab.pair.ways import ways

    with pytest.raises((AmdmError, ValueError)) as caught:
        ways(PAIR, [f"gamma={text}"], [], "defaults")
    sentence(caught.value)


def test_orders_are_kept_as_they_were(tmp_path: Path) -> None:
    asked = order(prompt=f"é {SURROGATE} \U0001f600", settings=MIXED)
    write_whole(tmp_path / "a.json", asdict(asked))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == asdict(asked)
    assert "é" in (tmp_path / "a.json").read_text(encoding="utf-8")
