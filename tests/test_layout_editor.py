"""The layout editor of javascript/: it reads what the Python reader reads, and its drawing and the text say the same.

In a real browser with real pointer and key events, on a bare page; skipped where there is no Chromium or no selenium.
What it does on gradio's own pages is tried by test_demo_page.py and webui/test_page.py.
"""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from strategies import boxes, layouts, letters, words

pytest.importorskip("selenium")

from chromium import chromium
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.interaction import POINTER_MOUSE, POINTER_TOUCH
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from lib_amdm.layout import EXAMPLE, Interaction, Layout, LayoutError, Region, boxes_of

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "javascript").glob("*.js"))
FIELDS = ("script_txt2img_amdm_layout", "script_txt2img_amdm_layout_1", "script_img2img_amdm_layout_2")
REGION = "script_txt2img_amdm_region_1"
SHARES = '<svg width="256" height="256" role="img"><rect class="share"/></svg>'
"""The drawing of a region alone."""
OVERLAP = "a wall: 0 0 1 1\na boy: 0.1 0.2 0.6 0.9\na ball: 0.3 0.4 0.5 0.6"
SOON = 100
"""Milliseconds in which text and drawing must agree."""
SHORT = 150
"""Characters of a sentence about a row, whatever the row holds."""
PATIENCE = 10
FEW = settings(max_examples=12)
"""The browser is asked for many texts at once."""


def document(body: str) -> str:
    scripts = "".join(f"<script>{file.read_text()}</script>" for file in SCRIPTS)
    style = f"<style>{(ROOT / 'style.css').read_text()}</style>"
    view = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    return f"<!doctype html>{view}{style}<body>{body}{scripts}"


def picture(colour: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def panel() -> str:
    """The parts of a WebUI's page that the editor looks for."""
    slider = '<div id="txt2img_{}"><input type="number" value="512"></div>'
    sliders = slider.format("width") + slider.format("height")
    gallery = f'<div id="txt2img_gallery"><img src="{picture("red")}"><img src="{picture("blue")}"></div>'
    image = f'<div id="img2img_image"><img src="{picture("green")}"></div>'
    fields = "".join(
        f'<div id="{field}"><textarea rows="3"></textarea></div><div class="amdm-layout" data-field="{field}"></div>'
        for field in FIELDS
    )
    region = (
        f'<div class="amdm-region"><div id="{REGION}"><textarea></textarea></div>'
        f'<div class="amdm-shares">{SHARES}</div>'
        f'<div class="amdm-layout" data-field="{REGION}" data-kind="region"></div></div>'
    )
    return f"{sliders}{fields}{gallery}{image}{region}<div style='height: 3000px'></div>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


def opened(browser: Any, folder: Path, body: str) -> None:
    file = folder / "page.html"
    file.write_text(document(body), encoding="utf-8")
    browser.get(file.as_uri())


def severe(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """The bare page, whose scripts must not have complained in the end."""
    severe(browser)
    browser.set_window_size(1400, 1800)
    opened(browser, tmp_path, panel())
    places = [f'[data-field="{field}"] .amdm-canvas' for field in (*FIELDS, REGION)]
    wait(lambda: all(browser.find_elements(By.CSS_SELECTOR, place) for place in places), "the editors")
    yield browser
    assert severe(browser) == []


def wait(ready: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := ready():
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited {seconds} s for {what}")


class Editor:
    """One of the page's editors. Places are shares of the picture's width and height."""

    def __init__(self, driver: Any, field: str = FIELDS[0]) -> None:
        self.driver, self.field = driver, field
        self.place = f'[data-field="{field}"]'

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, f"{self.place} {selector}")

    @property
    def area(self) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, f"#{self.field} textarea")

    @property
    def text(self) -> str:
        return self.area.get_property("value")

    def take(self, text: str) -> None:
        """Import a text."""
        self.press("import")
        self.driver.execute_script("arguments[0].value = arguments[1]", self.all(".amdm-import textarea")[0], text)
        self.press("take")

    def fill(self, text: str) -> None:
        """Set the text as a WebUI does, which tells nobody, and wait until it is drawn."""
        self.driver.execute_script("arguments[0].value = arguments[1]", self.area, text)
        self.settle()

    def settle(self) -> None:
        """Wait the page's own time for text and drawing to agree, however slow the machine is."""
        self.driver.execute_async_script("setTimeout(arguments[1], arguments[0])", SOON)

    def each(self, selector: str, script: str) -> list[Any]:
        """A script's answer for each of these elements, all at one moment."""
        each = f"return [...document.querySelectorAll(arguments[0])].map(element => {script})"
        return self.driver.execute_script(each, f"{self.place} {selector}")

    def boxes(self) -> dict[str, list[float]]:
        """The boxes that are drawn, in percent, by their labels."""
        sides = "['left', 'top', 'width', 'height'].map(side => parseFloat(element.style[side]))"
        drawn = self.each(".amdm-box", f"[element.textContent, {sides}]")
        ends = {label: (x, y, x + width, y + height) for label, (x, y, width, height) in drawn}
        return {label: [round(side, 3) for side in box] for label, box in ends.items()}

    def selected(self) -> str:
        return "".join(self.each(".amdm-canvas > [aria-selected=true]", "element.textContent"))

    def messages(self) -> str:
        return "\n".join(self.each(".amdm-messages > div", "element.textContent"))

    def press(self, name: str) -> None:
        self.driver.execute_script("arguments[0].click()", self.all(f"[data-do={name}]")[0])

    def point(self, at: tuple[float, float]) -> tuple[float, float]:
        read = (
            "arguments[0].scrollIntoView({block: 'center'}); const {left, top, width, height} = "
            "arguments[0].getBoundingClientRect(); return [left + arguments[1] * width, top + arguments[2] * height]"
        )
        return self.driver.execute_script(read, self.all(".amdm-canvas")[0], *at)

    def drag(self, *places: tuple[float, float] | Any, kind: str = POINTER_MOUSE) -> None:
        """Press at the first place, move over the others, and release; an element stands for its middle."""
        points = [self.point(place) if isinstance(place, tuple) else self.middle(place) for place in places]
        actions = ActionBuilder(self.driver, mouse=PointerInput(kind, kind), duration=20)
        pointer = actions.pointer_action
        pointer.move_to_location(*map(round, points[0]))
        pointer.pointer_down()
        for point in points[1:]:
            pointer.move_to_location(*map(round, point))
        pointer.pointer_up()
        actions.perform()

    def middle(self, element: Any) -> tuple[float, float]:
        read = "const box = arguments[0].getBoundingClientRect(); return [box.x, box.y, box.width, box.height]"
        x, y, width, height = self.driver.execute_script(read, element)
        return x + width / 2, y + height / 2

    def keys(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def with_key(self, modifier: str, key: str) -> None:
        ActionChains(self.driver).key_down(modifier).send_keys(key).key_up(modifier).perform()


@pytest.fixture
def editor(page: Any) -> Editor:
    return Editor(page)


@pytest.fixture
def region(page: Any) -> Editor:
    return Editor(page, REGION)


def percent(box: list[float]) -> list[float]:
    return [round(side * 100, 3) for side in box]


def agrees(editor: Editor) -> bool:
    """Return True if the drawing shows what the text says."""
    return editor.boxes() == {region.phrase: percent(list(region.box)) for region in Layout.read(editor.text).regions}


READ = """
return arguments[0].map(text => {
    const {rows, problems} = window.amdmLayout.text.read(text);
    const places = problems.map(problem => text.slice(problem.from, problem.to));
    return [rows, problems.map(problem => problem.message), places];
})
"""
WRITE = "return arguments[0].map(([rows, form]) => window.amdmLayout.text.write(rows, form))"


def regions_and_actions(rows: list[dict[str, Any]]) -> Layout:
    regions = []
    for row in rows:
        if row["kind"] == "region":
            x0, y0, x1, y1 = map(float, row["box"])
            regions.append(Region(row["phrase"], (x0, y0, x1, y1)))
    actions = [row for row in rows if row["kind"] == "action"]
    return Layout(tuple(regions), tuple(Interaction(row["subject"], row["action"], row["object"]) for row in actions))


def test_what_is_written_is_read_as_it_was_meant_here_and_in_python(page: Any) -> None:
    @FEW
    @given(st.lists(layouts(), min_size=10, max_size=20), st.sampled_from(["lines", "json"]))
    def holds(each: list[Layout], form: str) -> None:
        rows = [[{"kind": "region" if "box" in row else "action", **row} for row in one.rows()] for one in each]
        texts = page.execute_script(WRITE, [[row, form] for row in rows])
        assert [Layout.read(text) for text in texts] == each
        read = page.execute_script(READ, [*texts, *(json.dumps(one.rows()) for one in each)])
        assert [regions_and_actions(one) for one, _, _ in read] == each * 2
        assert [problems for _, problems, _ in read] == [[]] * 2 * len(each)

    holds()


ends = st.sampled_from(["a boy", "a ball", "0", "1", "9", "", "a dog", "١", "9" * 12])
NUMBERS = r"""0 1 .5 0.25 1e-3 -0.1 +.5 2 nan inf 1_0 here ٠.٥ 1e-9 -0 0x1 1. ' " \ 1e16 0.00012"""
numbers = st.sampled_from(NUMBERS.split(" "))
lines = st.one_of(
    st.builds("{}: {}".format, ends | words, st.lists(numbers, min_size=3, max_size=5).map(" ".join)),
    st.builds("{} > {} > {}".format, ends, st.sampled_from(["kicking", "", "'on'"]), ends),
    st.builds("{}:{}".format, words, boxes.map(str)),
    words,
    st.text(letters, max_size=100),
)
texts = st.lists(lines, max_size=4).flatmap(
    lambda each: st.sampled_from(["\n", "\r\n", "\x85", "\n\n", " \n\t"]).map(lambda between: between.join(each))
)


def row_of(message: str) -> str:
    """The row that a sentence is about, as it names it."""
    found = re.search(r"row \d+", message)
    return found[0] if found else ""


def test_lines_are_refused_for_the_row_that_the_python_reader_names(page: Any) -> None:
    @FEW
    @given(st.lists(texts.filter(lambda text: not text.strip("\ufeff \n\t").startswith(("[", "{"))), min_size=20))
    def holds(each: list[str]) -> None:
        for text, (rows, problems, places) in zip(each, page.execute_script(READ, each)):
            try:
                layout = Layout.read(text)
            except LayoutError as error:
                assert row_of(str(error)) in map(row_of, problems), text
                assert all(len(problem) < SHORT for problem in problems), problems
            else:
                assert (problems, regions_and_actions(rows)) == ([], layout), text
            assert all(place in text for place in places)

    holds()


ROW = {"phrase": "a boy", "box": [0, 0, 0.5, 1]}
WRONG_ROWS: tuple[Any, ...] = (
    *(5, None, [], {}, {**ROW, "colour": "red"}, {**ROW, "box": [0, 0, True, 1]}, {**ROW, "box": "0 0 1 1"}),
    *({**ROW, "box": [0.5, 0, 0.5, 1]}, {**ROW, "phrase": " "}, {**ROW, "phrase": 7}),
    *({"subject": 0, "action": "on", "object": end} for end in (0, 1)),
    {"subject": 0.0, "action": "on", "object": 0},
    {"subject": "a boy", "action": "", "object": 0},
    {"subject": "a boy", "action": "[],{\\", "object": "0"},
    {"subject": True, "action": "on", "object": 0},
)
JSON_TEXTS = [
    "[]",
    " [ ] ",
    "[",
    "[]]",
    '{"phrase": "a", "box": [0, 0, 1, 1]}',
    json.dumps([ROW])[:-1],
    json.dumps([ROW]) + " and more",
    *(json.dumps([ROW, row]) for row in WRONG_ROWS),
]


def test_json_is_refused_where_the_python_reader_refuses_it_and_its_other_rows_stay(page: Any) -> None:
    for text, (rows, problems, _) in zip(JSON_TEXTS, page.execute_script(READ, JSON_TEXTS)):
        try:
            layout = Layout.read(text)
        except LayoutError:
            assert problems, text
        else:
            assert (problems, regions_and_actions(rows)) == ([], layout), text
        if text.startswith(json.dumps(ROW)[:-1], 1) and "more" not in text and text.endswith("]"):
            assert rows[0]["box"] == ROW["box"], text
    assert "has a row 2 whose box is empty" in page.execute_script(READ, [JSON_TEXTS[14]])[0][1][0]


def test_drawing_makes_a_row_with_these_numbers(editor: Editor) -> None:
    editor.drag((0.1, 0.2), (0.3, 0.3), (0.502, 0.898))
    editor.settle()
    assert editor.text == "thing: 0.1 0.2 0.5 0.9"
    assert agrees(editor)
    editor.keys("a red ball ", "here", Keys.ENTER)
    assert editor.text == "a red ball here: 0.1 0.2 0.5 0.9"
    editor.drag((0.9, 0.9), (0.6, 0.1))
    assert editor.text.split("\n")[1] == "thing: 0.6 0.1 0.9 0.9"
    # over boxes one draws by the button
    editor.press("draw")
    editor.drag((0.2, 0.3), (0.4, 0.5))
    assert editor.text.split("\n")[2] == "thing 2: 0.2 0.3 0.4 0.5"
    assert agrees(editor)


def test_each_handle_moves_its_own_edges(editor: Editor) -> None:
    for handle in ("nw", "n", "ne", "e", "se", "s", "sw", "w"):
        editor.fill("a boy: 0.4 0.4 0.6 0.6")
        editor.drag((0.5, 0.5))
        x, y = 0.3 if "w" in handle else 0.7, 0.3 if "n" in handle else 0.7
        editor.drag(editor.all(f"[data-handle={handle}]")[0], (x, y))
        ends = zip("wnes", (x, y, x, y), (0.4, 0.4, 0.6, 0.6))
        expected = " ".join(str(moved if side in handle else stayed) for side, moved, stayed in ends)
        assert editor.text == f"a boy: {expected}", handle
    # an edge stops before the opposite one
    editor.drag(editor.all("[data-handle=w]")[0], (0.9, 0.5))
    assert editor.text == "a boy: 0.59 0.4 0.6 0.6"


def test_a_press_again_reaches_the_box_below_and_a_drag_moves_it(editor: Editor) -> None:
    editor.fill(OVERLAP)
    reached = []
    for _ in range(4):
        editor.drag((0.4, 0.5))
        reached.append(editor.selected())
    assert reached == ["a ball", "a boy", "a wall", "a ball"]
    editor.drag((0.4, 0.5))
    editor.drag((0.4, 0.5), (0.5, 0.6))
    assert editor.text.split("\n")[1:] == ["a boy: 0.2 0.3 0.7 1", "a ball: 0.3 0.4 0.5 0.6"]
    editor.drag((0.65, 0.8), (0.99, 0.8))
    assert editor.text.split("\n")[1] == "a boy: 0.5 0.3 1 1", "a box stays within the picture"


def test_keys_nudge_resize_delete_and_duplicate(editor: Editor) -> None:
    editor.fill("a boy: 0.1 0.2 0.3 0.4\na boy > kicking > a ball\na ball: 0.5 0.5 0.7 0.7\n1 > above > 0")
    editor.drag((0.2, 0.3))
    editor.keys(Keys.ARROW_RIGHT, Keys.ARROW_UP)
    editor.with_key(Keys.SHIFT, Keys.ARROW_DOWN)
    editor.with_key(Keys.CONTROL, Keys.ARROW_RIGHT)
    assert editor.text.split("\n")[0] == "a boy: 0.11 0.29 0.32 0.49"
    editor.with_key(Keys.CONTROL, "d")
    assert editor.text.split("\n")[3] == "a boy: 0.14 0.32 0.35 0.52"
    assert Layout.read(editor.text).interactions == (Interaction(0, "kicking", 1), Interaction(1, "above", 0))
    editor.drag((0.6, 0.6))
    editor.keys(Keys.DELETE)
    assert Layout.read(editor.text).phrases == ["a boy", "a boy"]
    assert Layout.read(editor.text).interactions == ()


def test_a_copy_leaves_its_boxs_name_in_the_actions(editor: Editor) -> None:
    editor.fill(EXAMPLE)
    for x, y in ((0.25, 0.5), (0.7, 0.8)):
        editor.drag((x, y))
        editor.with_key(Keys.CONTROL, "d")
    assert editor.text.endswith("\na boy > kicking > a ball")
    layout = Layout.read(editor.text)
    assert sorted(layout.phrases) == ["a ball", "a ball", "a boy", "a boy"]
    assert layout.interactions == (Interaction(0, "kicking", 1),)
    # the copy itself is named by its number
    editor.press("action")
    editor.drag((0.36, 0.3), (0.875, 0.96))
    editor.keys("near")
    assert Layout.read(editor.text).interactions[1] == Interaction(2, "near", 3), editor.text


def test_a_region_is_drawn_by_the_pointer(region: Editor) -> None:
    region.drag((0.1, 0.2), (0.3, 0.3), (0.5, 0.9))
    region.settle()
    assert region.text == "0.1 0.2 0.5 0.9"
    region.drag((0.9, 0.9), (0.6, 0.1))
    assert boxes_of(region.text) == [(0.1, 0.2, 0.5, 0.9), (0.6, 0.1, 0.9, 0.9)]
    region.drag((0.75, 0.5), (0.7, 0.5))
    region.drag(region.all("[data-handle=se]")[0], (0.8, 0.7))
    assert boxes_of(region.text)[1] == (0.55, 0.1, 0.8, 0.7)
    region.keys(Keys.ARROW_LEFT, Keys.ENTER)
    assert boxes_of(region.text)[1] == (0.54, 0.1, 0.79, 0.7)
    region.with_key(Keys.CONTROL, "d")
    assert len(boxes_of(region.text)) == 3
    region.keys(Keys.DELETE)
    region.press("undo")
    assert len(boxes_of(region.text)) == 3
    for name in ("action", "import"):
        assert not region.all(f"[data-do={name}]")[0].is_displayed()
    assert not region.all(".amdm-words")[0].is_displayed()
    # a box may have a phrase, and keeps it; JSON stays JSON
    region.fill("a sign: STOP: 0 0 0.5 0.5")
    region.drag((0.2, 0.2), (0.3, 0.2))
    assert region.text == "a sign: STOP: 0.1 0 0.6 0.5"
    region.fill("[[0, 0, 0.5, 0.5]]")
    region.drag((0.2, 0.2), (0.3, 0.2))
    assert json.loads(region.text) == [[0.1, 0, 0.6, 0.5]]


def test_what_the_page_draws_of_a_region_lies_under_its_boxes(page: Any, region: Editor) -> None:
    region.settle()
    assert len(region.all(".amdm-canvas .share")) == 1
    beside = page.find_element(By.CSS_SELECTOR, ".amdm-shares")
    assert not beside.is_displayed()
    page.execute_script("arguments[0].innerHTML = '<p>The mask is too small.</p>'", beside)
    wait(beside.is_displayed, "what the page says")
    assert not region.all(".amdm-canvas .share")
    region.fill("0 0 2 1")
    wait(lambda: not beside.is_displayed(), "one sentence for one fault")
    # the page looks at a field again once it is left: after the last of many changes too
    page.execute_script(
        "window.left = []; arguments[0].addEventListener('blur', event => window.left.push(event.target.value))",
        region.area,
    )
    region.fill("")
    region.drag((0.1, 0.1), (0.2, 0.2), (0.3, 0.3))
    wait(lambda: page.execute_script("return window.left") == ["0.1 0.1 0.3 0.3"], "the look at the end")


BOX_TEXTS = [
    *("[]", "", " \n", "[", "[]]", '{"box": [0, 0, 1, 1]}', "5", "0 0 1", "0 0 1 1 1", "a: 0 0 1 1", "a > b > c"),
    *("0 0 1 1\n\n .5, .5, 1, 1\n0.5 0 0.5 1", "a sign: STOP: [0.5 0.5 1 1]", "٠ 0 ١ 1", "nan 0 1 1", "0 0 2 1"),
    *map(json.dumps, [[[0, 0, 1, 1]], [{"phrase": "a", "box": [0, 0, 1, 1], "colour": "red"}], [[0, 0, True, 1]]]),
    *map(json.dumps, [[5], [None], [{}], [{"box": 7}], [[0, 0, 0, 1]], [[[0, 0, 1, 1]]], [{"box": [0, 0, 1, 2]}]]),
]


def test_a_regions_boxes_are_read_as_the_python_reader_reads_them(page: Any) -> None:
    script = READ.replace("read(text)", 'read(text, "region")')
    for text, (rows, problems, _) in zip(BOX_TEXTS, page.execute_script(script, BOX_TEXTS), strict=True):
        try:
            expected = boxes_of(text)
        except LayoutError as error:
            assert problems, text
            if "JSON" not in str(error) and not text.startswith("["):
                assert row_of(problems[0]) == row_of(str(error)), text
        else:
            assert (problems, [tuple(row["box"]) for row in rows]) == ([], expected), text


def test_an_action_is_dragged_from_box_to_box_and_its_verb_typed(editor: Editor) -> None:
    editor.fill(EXAMPLE.rpartition("\n")[0])
    editor.press("action")
    editor.drag((0.2, 0.5), (0.4, 0.6), (0.7, 0.8))
    assert editor.text == EXAMPLE.rpartition("\n")[0], "without a verb it is none"
    editor.keys("kicking")
    editor.settle()
    assert editor.text == EXAMPLE
    [label], [line] = editor.all(".amdm-action"), editor.all(".amdm-lines line:not([style*=none])")
    assert label.text == "kicking"
    assert [line.get_attribute(end) for end in ("x1", "y1", "x2", "y2")] == ["25%", "57.5%", "72.5%", "82.5%"]
    # or one end after the other; the action follows its boxes' words
    editor.press("action")
    editor.drag((0.7, 0.8))
    editor.drag((0.2, 0.5))
    editor.keys("near", Keys.ENTER)
    editor.drag((0.2, 0.5))
    editor.keys(Keys.ENTER)
    editor.with_key(Keys.CONTROL, "a")
    editor.keys("a girl")
    assert editor.text == EXAMPLE.replace("a boy", "a girl") + "\na ball > near > a girl"
    editor.drag(editor.all(".amdm-action")[0])
    editor.keys(Keys.DELETE)
    assert Layout.read(editor.text).interactions == (Interaction(1, "near", 0),)


def test_everything_is_drawn_with_keys_alone(editor: Editor) -> None:
    for phrase, way in (("a boy", Keys.ARROW_LEFT), ("a ball", Keys.ARROW_RIGHT)):
        editor.all("[data-do=add]")[0].send_keys(Keys.ENTER)
        editor.keys(phrase, Keys.ENTER)
        editor.with_key(Keys.SHIFT, way)
    editor.all("[data-do=action]")[0].send_keys(Keys.ENTER)
    boy, ball = editor.all(".amdm-box")
    ball.send_keys(Keys.ENTER)
    boy.send_keys(Keys.ENTER)
    editor.keys("near", Keys.ENTER)
    expected = "a boy: 0.25 0.35 0.55 0.65\na ball: 0.45 0.35 0.75 0.65\na ball > near > a boy"
    assert editor.text == expected
    # Tab goes from one to the next, and selects it; letters typed meanwhile change nothing
    boy.send_keys("x")
    editor.keys(Keys.TAB)
    assert editor.selected() == "a ball"
    assert editor.text == expected
    editor.keys(Keys.ESCAPE)
    assert editor.selected() == ""


def test_undo_restores_the_text_after_anything_and_redo_what_was_undone(editor: Editor) -> None:
    start = f"  {EXAMPLE}\n\na dog: 0 0 2 2\n"
    editor.fill(start)
    changes: list[Callable[[], None]] = [
        lambda: editor.drag((0.2, 0.5), (0.3, 0.5), (0.3, 0.4)),
        lambda: editor.drag(editor.all("[data-handle=se]")[0], (0.6, 0.9)),
        lambda: editor.keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT),
        lambda: editor.press("duplicate"),
        lambda: editor.press("remove"),
        lambda: editor.press("add"),
        lambda: editor.keys("a cat"),
        lambda: editor.area.send_keys("x"),
        lambda: editor.fill("a bird: 0 0 1 1"),
        lambda: editor.fill(""),
        lambda: editor.area.send_keys("\n"),
        lambda: editor.fill("  "),
        lambda: editor.drag((0.1, 0.1), (0.2, 0.2)),
    ]
    seen = [start]
    for change in changes:
        change()
        editor.settle()
        assert editor.text != seen[-1]
        seen.append(editor.text)
    for text in reversed(seen[:-1]):
        editor.press("undo")
        assert editor.text == text
    for text in seen[1:]:
        editor.press("redo")
        assert editor.text == text
    assert agrees(editor)
    editor.all(".amdm-canvas")[0].send_keys(Keys.CONTROL, "z")
    assert editor.text == seen[-2]


def test_typing_is_drawn_at_once_and_a_wrong_row_is_marked_while_the_others_stay(page: Any, editor: Editor) -> None:
    wrong = "a dog: 0 0 2 1"
    editor.area.send_keys(f"{EXAMPLE}\n{wrong}")
    editor.settle()
    assert editor.boxes() == {"a boy": [5, 20, 45, 95], "a ball": [60, 70, 85, 95]}
    with pytest.raises(LayoutError) as caught:
        Layout.read(editor.text)
    said = "has a row 4 whose box is not four numbers from 0 to 1 (x0, y0, x1, y1)"
    assert editor.messages() == f"The layout {said}; correct it."
    assert str(caught.value) == f"{said}: [0.0, 0.0, 2.0, 1.0]; correct it", "a picture's error quotes what is wrong"
    assert editor.area.get_attribute("aria-invalid") == "true"
    editor.all(".amdm-messages button")[0].click()
    assert page.execute_script("return window.getSelection().toString()") == wrong
    editor.drag((0.2, 0.5), (0.3, 0.5))
    assert editor.text == f"{EXAMPLE}\n{wrong}".replace("0.05 0.2 0.45", "0.15 0.2 0.55")
    # what only assigns the text, as the WebUI does, tells nobody
    page.execute_script("arguments[0].value = 'a cat: 0 0 0.5 0.5'", editor.area)
    editor.settle()
    assert editor.boxes() == {"a cat": [0, 0, 50, 50]} and editor.messages() == ""
    heard = "window.heard = []; arguments[0].addEventListener('input', event => window.heard.push(event.target.value))"
    page.execute_script(heard, editor.area)
    editor.drag((0.25, 0.25), (0.35, 0.25))
    assert page.execute_script("return window.heard")[-1] == editor.text == "a cat: 0.1 0 0.6 0.5"


def test_a_finger_draws_and_the_page_does_not_scroll(page: Any, editor: Editor) -> None:
    editor.point((0.5, 0.5))
    before = page.execute_script("return window.scrollY")
    editor.drag((0.2, 0.9), (0.2, 0.5), (0.6, 0.1), kind=POINTER_TOUCH)
    assert editor.text == "thing: 0.2 0.1 0.6 0.9"
    assert page.execute_script("return window.scrollY") == before


def test_several_editors_do_not_disturb_each_other(page: Any) -> None:
    first, second, third = (Editor(page, field) for field in FIELDS)
    first.fill("a boy: 0 0 0.5 0.5")
    second.fill(OVERLAP)
    third.drag((0.1, 0.1), (0.4, 0.4))
    second.press("action")
    first.drag((0.2, 0.2), (0.3, 0.2))
    first.press("undo")
    texts = ["a boy: 0 0 0.5 0.5", OVERLAP, "thing: 0.1 0.1 0.4 0.4"]
    assert [each.text for each in (first, second, third)] == texts
    assert all(agrees(each) for each in (first, second, third))
    # gradio may make an editor's place anew
    again = "const old = document.querySelector(arguments[0]); old.outerHTML = old.cloneNode().outerHTML"
    page.execute_script(again, first.place)
    wait(lambda: first.all(".amdm-box"), "the editor in its new place")
    first.press("redo")
    assert first.text == "a boy: 0.1 0 0.6 0.5"


def test_a_page_without_the_panel_and_the_scripts_twice_complain_of_nothing(browser: Any, tmp_path: Path) -> None:
    severe(browser)
    opened(browser, tmp_path, "<p>another page</p>")
    names = browser.execute_script(
        "const bare = document.body.appendChild(document.createElement('iframe')).contentWindow;"
        "const own = new Set(Object.getOwnPropertyNames(bare));"
        "return Object.getOwnPropertyNames(window).filter(name => !own.has(name) && isNaN(name))"
    )
    assert [name for name in names if not name.startswith(("cdc_", "ret_"))] == ["amdmLayout"], "the driver's own aside"
    place = f'<div class="amdm-layout" data-field="{FIELDS[0]}"></div>'
    scripts = "".join(f"<script>{file.read_text()}</script>" for file in SCRIPTS)
    opened(browser, tmp_path, f'{place}<div id="{FIELDS[0]}"><textarea></textarea></div>{scripts}')
    wait(lambda: browser.find_elements(By.CSS_SELECTOR, ".amdm-canvas"), "the editor")
    opened(browser, tmp_path, place)
    Editor(browser).settle()
    assert severe(browser) == []


def test_its_shape_follows_the_sliders_and_its_picture_the_gallery(page: Any, editor: Editor) -> None:

    def shape() -> float:
        size = editor.all(".amdm-canvas")[0].rect
        return size["width"] / size["height"]

    def has_shape(wanted: float) -> bool:
        return shape() == pytest.approx(wanted, rel=0.03)

    for width, height in ((512, 512), (1024, 512), (512, 2048), (2048, 64)):
        for side, value in (("width", width), ("height", height)):
            page.execute_script(f"document.querySelector('#txt2img_{side} input').value = {value}")
        wait(partial(has_shape, width / height), "the shape")
        editor.fill("a boy: 0.2 0.2 0.4 0.4")
        editor.drag((0.3, 0.3), (0.5, 0.3))
        [boy] = Layout.read(editor.text).regions
        # a pixel of a slim picture is more than one percent
        assert boy.box == pytest.approx((0.4, 0.2, 0.6, 0.4), abs=0.03), (width, height)
    assert not editor.all(".amdm-behind")[0].is_displayed()
    for kind, colour in (("gallery", "blue"), ("img2img", "green")):
        editor.all("select option")[["", "gallery", "img2img"].index(kind)].click()
        assert editor.all(".amdm-behind")[0].get_attribute("src") == picture(colour)
    opacity = editor.all("input[type=range]")[0]
    opacity.send_keys(Keys.END)
    assert editor.all(".amdm-behind")[0].value_of_css_property("opacity") == "1"


def test_it_opens_large_over_the_page_and_draws_there(page: Any, editor: Editor) -> None:
    page.set_window_size(1400, 1300)
    small = editor.all(".amdm-canvas")[0].rect["width"]
    editor.press("large")
    assert editor.all(".amdm-canvas")[0].rect["width"] > 1.2 * small
    editor.drag((0.1, 0.1), (0.9, 0.9))
    assert editor.text == "thing: 0.1 0.1 0.9 0.9"
    editor.keys(Keys.ESCAPE)
    wait(lambda: editor.all(".amdm-canvas")[0].rect["width"] == small, "the editor in its place")
    assert editor.selected() == "thing"
    # what is begun is left first
    editor.press("large")
    editor.press("draw")
    editor.keys(Keys.ESCAPE)
    assert editor.all("dialog[open]") and editor.each("[data-do=draw]", "element.ariaPressed") == ["false"]
    editor.keys(Keys.ESCAPE)
    wait(lambda: not editor.all("dialog[open]"), "the editor in its place again")


NO_FOCUS = """
for (const button of document.querySelectorAll(".amdm-editor button")) {
    button.addEventListener("mousedown", event => {
        event.preventDefault();
        document.activeElement.blur();
    });
}
window.heard = [];
window.addEventListener("keydown", event => window.heard.push(event.key));
"""


@pytest.mark.parametrize("control", [Keys.CONTROL, Keys.META], ids=["Ctrl", "Cmd"])
def test_keys_reach_the_editor_after_a_button_that_takes_no_focus(page: Any, editor: Editor, control: str) -> None:
    """As Safari's and Firefox's on macOS."""
    editor.fill(EXAMPLE)
    page.execute_script(NO_FOCUS)
    editor.drag((0.2, 0.5))
    editor.all("[data-do=remove]")[0].click()
    assert editor.text != EXAMPLE
    editor.all("[data-do=draw]")[0].click()
    editor.keys(Keys.ESCAPE)
    assert editor.each("[data-do=draw]", "element.ariaPressed") == ["false"]
    editor.with_key(control, "z")
    assert editor.text == EXAMPLE
    assert "Escape" not in page.execute_script("return window.heard"), "the page would end its picture"
    # a button that can do no more is disabled, and loses the focus in every browser
    editor.all("[data-do=redo]")[0].click()
    assert not editor.all("[data-do=redo]")[0].is_enabled()
    editor.with_key(control, "z")
    assert editor.text == EXAMPLE
    editor.all("[data-do=large]")[0].click()
    editor.keys(Keys.ESCAPE)
    wait(editor.all(".amdm-canvas")[0].is_displayed, "the editor in its place")
    # what a press gives the focus to keeps it
    editor.all("[data-do=add]")[0].click()
    editor.keys("a dog")
    assert "a dog: 0.35 0.35 0.65 0.65" in editor.text
    editor.fill(f"{EXAMPLE}\na dog: 2")
    page.execute_script(NO_FOCUS)
    editor.all(".amdm-messages button")[0].click()
    assert page.execute_script("return document.activeElement === arguments[0]", editor.area)


def test_on_a_narrow_page_it_fits_and_each_button_says_what_it_does(page: Any, region: Editor, editor: Editor) -> None:
    page.execute_script("document.body.style.width = '344px'")
    editor.fill(OVERLAP)
    editor.drag((0.4, 0.5))
    assert page.execute_script("return document.querySelector(arguments[0]).scrollWidth", editor.place) <= 344
    editor.press("import")
    controls = editor.all(":is(button, select, .amdm-body input)")
    assert len(controls) > 10
    for control in [*controls, *region.all(":is(button, select)")]:
        if not control.is_displayed():
            continue
        assert control.get_attribute("title") and control.accessible_name, control.get_attribute("outerHTML")
    named = [box.accessible_name for box in editor.all(".amdm-box")]
    assert named[1] == "a boy: left 10 %, top 20 %, right 60 %, bottom 90 %"


IDEOGRAM = {
    "high_level_description": "a park",
    "compositional_deconstruction": {
        "background": "grass",
        "elements": [
            {"type": "obj", "bbox": [200, 50, 950, 450], "desc": "a boy"},
            {"type": "text", "bbox": [0, 0, 100, 1000], "text": "PARK", "desc": "a sign: PARK"},
            {"type": "obj", "desc": "a tree"},
        ],
    },
}
IN_LINES = "a boy: 0.05 0.2 0.45 0.95\na sign: PARK: 0 0 1 0.1"


@pytest.mark.parametrize(
    ("imported", "expected"),
    [
        (EXAMPLE, EXAMPLE),
        (json.dumps(Layout.read(EXAMPLE).rows()), json.dumps(Layout.read(EXAMPLE).rows())),
        (json.dumps(IDEOGRAM), IN_LINES),
        (f"Here it is:\n```json\n{json.dumps(IDEOGRAM)}\n```", IN_LINES),
        ('[{"box_2d": [100, 200, 300, 400], "label": "a cat"}]', "a cat: 0.2 0.1 0.4 0.3"),
        ("[[0, 0, 1000, 500], [0, 500, 1000, 1000]]", "thing 1: 0 0 0.5 1\nthing 2: 0.5 0 1 1"),
        ('[{"label": "a cat", "x": 0.1, "y": 0.2, "w": 0.3, "h": 0.4}]', "a cat: 0.1 0.2 0.4 0.6"),
        ('{"boxes": [{"label": "a cat", "bbox": [0.1, 0.2, 0.3, 0.4]}]}', "a cat: 0.1 0.2 0.4 0.6"),
        ('[["a cat", [0.1, 0.2, 0.3, 0.4]]]', "a cat: 0.1 0.2 0.4 0.6"),
        ("nothing", None),
        ('[{"label": "a cat", "bbox": [0.5, 0.5, 0.7, 0.7]}]', None),
        ('[{"label": "a cat", "bbox": [0, 0, 2000, 100]}]', None),
    ],
)
def test_layouts_of_other_tools_are_imported(editor: Editor, imported: str, expected: str | None) -> None:
    editor.fill("a dog: 0 0 1 1")
    editor.take(imported)
    assert editor.text == (expected or "a dog: 0 0 1 1")
    assert ("no box and were left out" in editor.messages()) is ("a tree" in imported)
    assert bool(editor.messages()) is (expected is None or "a tree" in imported)
    if expected:
        editor.press("undo")
        assert editor.text == "a dog: 0 0 1 1"


def many(count: int) -> str:
    return json.dumps([{"label": f"thing {n}", "box_2d": [0, 0, n % 900 + 1, 500]} for n in range(count)])


@pytest.mark.parametrize(
    ("imported", "said"),
    [
        (many(501), "501 things with boxes, but at most 500"),
        (f'{{"a": [[{many(20_000)}]]}}', "20000 things with boxes, but at most 500"),
        (json.dumps([[0, 0, 1000, 500]] * 501), "501 things"),
        ("[" * 20_000 + "]" * 20_000, "lists too deep in lists"),
        ('[{"label": "a", "parts": ' * 3000 + "[]" + "}]" * 3000, "lists too deep in lists"),
        ("\n".join(["a: 0 0 1 1"] * 501), "501 rows, but at most 500"),
    ],
    ids=["things", "many", "bare", "deep", "objects", "rows"],
)
def test_what_is_too_much_to_import_is_said_and_the_layout_stays(editor: Editor, imported: str, said: str) -> None:
    editor.fill("a dog: 0 0 1 1")
    started = time.monotonic()
    editor.take(imported)
    assert editor.text == "a dog: 0 0 1 1"
    assert said in editor.messages()
    assert time.monotonic() - started < 8
    # in the field itself it is refused as well, and the editor goes on
    editor.fill(imported)
    editor.fill("a cat: 0 0 1 1")
    assert editor.boxes() == {"a cat": [0, 0, 100, 100]}


def test_a_layout_of_another_tool_in_the_field_is_converted_by_one_press(editor: Editor) -> None:
    editor.fill(json.dumps(IDEOGRAM))
    editor.all(".amdm-messages button")[-1].click()
    assert editor.text == IN_LINES
    editor.take(many(500))
    assert len(Layout.read(editor.text).regions) == 500, "as many as a layout takes"


def test_more_than_an_adapter_takes_is_said_before_a_picture(page: Any, editor: Editor) -> None:
    set_room = "Object.assign(document.querySelector(arguments[0]).dataset, arguments[1])"
    many = "\n".join(f"a {n}: 0 0 0.5 1" for n in range(29))
    editor.fill(many)
    assert "MIGC 28" in editor.messages()
    page.execute_script(set_room, editor.place, {"adapter": "MIGC_SD14.ckpt", "boxes": "28"})
    limit = '"MIGC_SD14.ckpt" takes 28 boxes and the layout has 29; remove some.'
    wait(lambda: editor.messages() == limit, "the limit")
    editor.fill(many.rpartition("\n")[0])
    assert editor.messages() == ""
    page.execute_script("delete document.querySelector(arguments[0]).dataset.boxes", editor.place)
    page.execute_script(set_room, editor.place, {"adapter": "interact.pth", "actions": "2"})
    wait(lambda: "draws actions alone; drag one" in editor.messages(), "what it needs")
    editor.fill(f"{EXAMPLE}\na boy > near > a ball\n1 > below > 0\na dog: 0 0 1 1")
    assert '"interact.pth" takes 2 interactions and the layout has 3; remove some.' in editor.messages()
    assert '"a dog" takes part in none' in editor.messages()
