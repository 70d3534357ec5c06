"""The demo's page in a real browser: it loads, draws with AMDM and without, and says what is wrong.

Skipped where there is no Chromium with its driver, or no selenium.
"""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("selenium")
pytest.importorskip("gradio")
pytest.importorskip("diffusers")
pytest.importorskip("amdm_lab.studio.k_diffusion_parts")

import numpy as np
from chromium import chromium
from PIL import Image
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from amdm_lab.bundled import LAYOUT_ADAPTER, WEIGHTS
from amdm_lab.demo.example import MIX, SCENES, mix_for
from amdm_lab.shapes.rows import words
from lib_amdm.settings import Settings, specs
from lib_amdm.webui import tooltips

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60
DRAWN = 180


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page, served as `install.py demo --serve` serves it."""
    if not (WEIGHTS / "shapes.safetensors").is_file():
        pytest.skip("the bundled checkpoints are missing")
    port = free_port()
    log = tmp_path_factory.mktemp("page") / "log"
    command = [sys.executable, "-m", "amdm_lab", "demo", "--serve", "--port", str(port)]
    with log.open("w") as out, subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT) as server:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + DRAWN
        while url not in log.read_text():
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield url
        server.terminate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless browser with a profile of its own, that logs what it asks for."""
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


class Page:
    """The demo's page in a browser; controls are named by their ids."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        driver.get(url)
        self.wait(lambda: self.all("#generate") and self.all("#amdm_co_models"), "the page")

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, ready: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if found := ready():
                    return found
            except StaleElementReferenceException:
                pass  # the page drew it anew in between
            time.sleep(0.05)
        raise AssertionError(f"waited {seconds} s for {what}")

    def value(self, control: str) -> str:
        return self.all(f"#{control} :is(textarea, input)")[0].get_property("value")

    def on(self) -> bool:
        """Return True if AMDM is switched on; the switch itself is in the accordion and may be folded away."""
        return self.all("#amdm_enabled input")[0].get_property("checked")

    def is_open(self) -> bool:
        return self.all("#amdm_steps")[0].is_displayed() if self.all("#amdm_steps") else False

    def toggle(self) -> None:
        self.click("#amdm_enabled-accordion > button")

    def click(self, selector: str) -> None:
        self.driver.execute_script("arguments[0].click()", self.all(selector)[0])

    def type(self, control: str, text: str) -> None:
        box = self.all(f"#{control} :is(textarea, input:not([type=range]))")[0]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(text, Keys.TAB)

    def choose(self, control: str, name: str) -> None:
        """Choose an entry of a list, as its own control does."""
        self.click_at(self.all(f"#{control} input")[0])
        entries = self.wait(
            lambda: [each for each in self.all("[role=option]") if each.text.removeprefix("✓").strip() == name], name
        )
        self.click_at(entries[0])

    def click_at(self, element: WebElement) -> None:
        """Click where the pointer would, and not past what lies above it."""
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.driver, duration=50).click(element).perform()

    def line(self) -> str:
        return " ".join(element.text for element in self.all("#said"))

    def errors(self) -> str:
        return " ".join(element.text for element in self.all(".toast-body"))

    def generate(self) -> tuple[list[bytes], list[bytes], list[str]]:
        """Press Generate; the pictures without AMDM and with it, and what the progress bar said on the way."""
        before, progress = self.line(), []
        self.click("#generate")

        def done() -> bool:
            drawing = [element.text for element in self.all("#without .progress-text")]
            progress.extend(drawing)
            assert not self.errors(), self.errors()
            # the line has seconds in it, which two drawings may have in common
            is_new = self.line() != before or (progress and not drawing)
            return bool(self.line().startswith("Seed") and is_new)

        self.wait(done, "the pictures", DRAWN)
        return self.pictures("without"), self.pictures("with"), progress

    def pictures(self, gallery: str) -> list[bytes]:
        """The files of a gallery's pictures, as the page loads them."""
        read = (
            "const done = arguments[1]; fetch(arguments[0]).then(answer => answer.arrayBuffer())"
            ".then(data => done(Array.from(new Uint8Array(data))))"
        )
        sources = [
            image.get_attribute("src") for image in self.all(f"#{gallery} :is(.grid-container, .image-container) img")
        ]
        return [bytes(self.driver.execute_async_script(read, source)) for source in sources]


@pytest.fixture
def page(browser: Any, address: str) -> Page:
    """The page, freshly loaded, set to few pictures of a fixed seed."""
    loaded = Page(browser, address)
    loaded.type("seed", "5")
    loaded.type("count", "2")
    return loaded


def severe(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def asked_for(browser: Any) -> set[str]:
    """The hosts that pages asked for something since the last look; the browser's own pages aside."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return {urlsplit(url).netloc for url in urls if url.startswith(("http", "ws"))}


def test_it_loads_and_draws_without_an_error_or_a_request_to_elsewhere(browser: Any, address: str) -> None:
    severe(browser), asked_for(browser)
    page = Page(browser, address)
    page.type("count", "1")
    page.type("sampling_steps", "2")
    page.generate()
    assert severe(browser) == []
    assert asked_for(browser) == {urlsplit(address).netloc}


def test_an_example_is_filled_in(page: Page) -> None:
    co_model = mix_for(SCENES[0], MIX).co_models[0]
    assert page.is_open() and page.on()
    assert page.value("checkpoint") == "shapes.safetensors"
    assert page.value("prompt") == words("shapes", SCENES[0])
    assert page.value("amdm_checkpoint_1") == f"{co_model.checkpoint}.safetensors"
    assert page.value("amdm_prompt_1") == co_model.prompt
    # gradio's own buttons and tabs have no tooltips
    page.wait(lambda: page.all("#amdm_co_model_1-button")[0].get_attribute("title") == tooltips.SLOT, "a tab's tooltip")
    assert float(page.value("amdm_gamma_1")) == co_model.gamma
    assert float(page.value("amdm_eta")) == MIX.eta
    shown = {spec.name: spec.shown(MIX.value(0, spec)) for spec in specs(Settings)}
    assert page.value("amdm_steps") == shown["steps"] and page.value("amdm_evaluations") == shown["evaluations"]


def test_generate_fills_both_galleries_from_the_same_seeds(page: Page) -> None:
    alone, together, progress = page.generate()
    assert len(set(alone)) == len(set(together)) == 2
    assert not set(alone) & set(together)
    assert f"20 + {MIX.evaluations} evaluations" in page.line() and page.line().startswith("Seed 5.")
    assert any("/20 steps" in text for text in progress), progress
    page.type("amdm_gamma_1", "0")
    again, _, _ = page.generate()
    assert again == alone
    # the page may show the words before it empties the gallery
    page.wait(lambda: page.pictures("with") == [], "the other gallery to be empty")


def test_opening_the_accordion_switches_amdm_on_and_closing_it_off(page: Page) -> None:
    page.toggle()
    page.wait(lambda: not page.is_open() and not page.on(), "the accordion to close and AMDM to be off")
    alone, together, _ = page.generate()
    assert len(alone) == 2 and together == []
    assert "AMDM is off" in page.line()
    page.toggle()
    page.wait(lambda: page.is_open() and page.on(), "the accordion to open and AMDM to be on")
    same, together, _ = page.generate()
    assert same == alone and len(together) == 2


def test_an_impossible_setting_is_said_in_a_sentence(page: Page) -> None:
    page.type("amdm_eta", "1.5")
    page.click("#generate")
    said = page.wait(page.errors, "the error")
    assert '"eta" is 1.5' in said and '"paper"' in said
    page.type("amdm_eta", "0.2")
    page.type("amdm_steps", "some")
    page.click("#generate")
    page.wait(lambda: '"steps" must be a whole number or "auto"' in page.errors(), "the error of the steps")
    page.type("amdm_steps", "auto")
    page.type("prompt", "<lora:something:1>")
    page.click("#generate")
    page.wait(lambda: "<lora:...>" in page.errors(), "the other error")
    assert page.pictures("without") == page.pictures("with") == []


def test_a_layout_is_drawn_in_the_editor_and_gradio_is_told(page: Page) -> None:
    page.type("count", "1")
    page.type("sampling_steps", "1")
    page.click("#amdm_main_adapter > button")
    page.wait(page.all("#amdm_adapter input")[0].is_displayed, "the fold to open")
    page.choose("amdm_adapter", LAYOUT_ADAPTER.name)
    place = '[data-field="amdm_layout"]'
    canvas = page.wait(lambda: page.all(f"{place} .amdm-canvas"), "the editor")[0]
    page.wait(canvas.is_displayed, "the editor to be seen")
    page.type("amdm_layout", "a cross: 0 0 2")
    page.wait(lambda: "row 1" in " ".join(line.text for line in page.all(f"{place} .amdm-messages")), "what is wrong")
    page.click("#generate")
    page.wait(lambda: "row 1" in page.errors(), "the error")
    page.click(f"{place} [data-do=undo]")
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    corner = (-canvas.rect["width"] // 4, -canvas.rect["height"] // 4)
    drag = ActionChains(page.driver, duration=50).move_to_element_with_offset(canvas, *corner).click_and_hold()
    drag.move_by_offset(canvas.rect["width"] // 2, canvas.rect["height"] // 2).release().perform()
    assert page.value("amdm_layout") == "thing: 0.25 0.25 0.75 0.75"
    page.type("amdm_adapter", "None")
    page.wait(lambda: not page.all(place), "the layout to go")
    before = page.errors()
    page.click("#generate")
    page.wait(lambda: page.line().startswith("Seed"), "the pictures", DRAWN)
    assert page.errors() in (before, ""), "gradio has the text that was drawn, and not the wrong one"
    # the last picture may lie behind the boxes
    page.type("amdm_adapter", "lost.safetensors")
    page.wait(lambda: page.all(f"{place} .amdm-box"), "the layout to be back")
    page.all(f"{place} option[value=gallery]")[0].click()
    behind = page.all(f"{place} .amdm-behind")[0]
    page.wait(lambda: behind.get_attribute("src") and behind.is_displayed(), "the picture behind")
    assert severe(page.driver) == []


@pytest.mark.parametrize("slot", [0, 1])
def test_a_bundled_adapter_is_offered_and_takes_a_layout_that_is_written(page: Page, slot: int) -> None:
    page.type("count", "1")
    page.type("sampling_steps", "2")
    suffix = f"_{slot}" if slot else ""
    page.click(f"#amdm_adapter_of_{slot} > button" if slot else "#amdm_main_adapter > button")
    page.wait(page.all(f"#amdm_adapter{suffix} input")[0].is_displayed, "the fold to open")
    _, before, _ = page.generate()
    page.choose(f"amdm_adapter{suffix}", LAYOUT_ADAPTER.name)
    fields = f"#amdm_layout{suffix} textarea"
    field = page.wait(lambda: [field for field in page.all(fields) if field.is_displayed()], "the layout")[0]
    # what is cut off is not seen, whatever its size: the pointer must reach the field a line from its edges
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
    reached = (
        "const r = arguments[0].getBoundingClientRect(); const at = y => document.elementFromPoint(r.x + 20, y);"
        "return r.height >= 40 && [at(r.y + 10), at(r.bottom - 10)].every(each => each === arguments[0])"
    )
    assert page.driver.execute_script(reached, field)
    page.type(f"amdm_layout{suffix}", "a cross: 0 0 0.5 0.5")
    _, after, _ = page.generate()
    assert len(after) == 1 and after != before
    assert severe(page.driver) == []


def test_pictures_are_seen_whole_and_a_gallery_is_no_higher_than_they_need(page: Page) -> None:
    page.type("count", "4")
    page.type("sampling_steps", "1")
    page.generate()
    for gallery in ("without", "with"):
        pictures = page.all(f"#{gallery} .grid-container img")
        assert len(pictures) == 4
        top = min(picture.rect["y"] for picture in pictures)
        high = max(picture.rect["y"] + picture.rect["height"] for picture in pictures) - top
        assert page.all(f"#{gallery}")[0].rect["height"] < 1.5 * high
        for above in page.all(f"#{gallery} :is(label, .icon-button-wrapper)"):
            assert above.rect["y"] + above.rect["height"] <= top
        # no bar to scroll what is seen whole
        wrap = page.all(f"#{gallery} .grid-wrap")[0]
        assert wrap.get_property("offsetWidth") - wrap.get_property("clientWidth") < 3
    # one of them can be looked at in a larger size
    page.click("#with .grid-container button")
    large = page.wait(lambda: page.all("#with .preview img"), "the large picture")
    page.wait(lambda: large[0].rect["height"] > 1.5 * pictures[0].rect["height"], "it to be larger")


def test_compare_draws_each_model_alone_from_the_same_seeds(page: Page) -> None:
    page.type("sampling_steps", "2")
    alone, together, _ = page.generate()
    assert not page.all("#compared")
    page.click("#amdm_compare input")
    same, again, _ = page.generate()
    assert (same, again) == (alone, together)
    page.wait(lambda: page.all("#compared img"), "the comparison")
    [grid] = page.pictures("compared")
    # what the second model alone draws is what it draws as the main one
    page.choose("checkpoint", "colours.safetensors")
    page.type("prompt", mix_for(SCENES[0], MIX).co_models[0].prompt)
    page.toggle()
    page.wait(lambda: not page.on(), "AMDM to be off")
    second, _, _ = page.generate()
    page.wait(lambda: not page.all("#compared img"), "the comparison to go")
    columns = [[place(picture, grid) for picture in row] for row in (alone, second, together)]
    rows = [[found for column in columns if (found := column[row]) is not None] for row in range(2)]
    assert all(len(row) == len(columns) for row in rows)
    assert all(len({y for y, _ in row}) == 1 and row == sorted(row) for row in rows)
    assert rows[0][0] < rows[1][0]


def place(picture: bytes, page: bytes) -> tuple[int, int] | None:
    """The place of this picture in a larger one, (y, x)."""
    small, large = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in (picture, page))
    height, width, _ = small.shape
    for y, x in np.argwhere((large[: 1 - height, : 1 - width] == small[0, 0]).all(-1)):
        if np.array_equal(large[y : y + height, x : x + width], small):
            return int(y), int(x)
    return None
