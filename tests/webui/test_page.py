"""AMDM on the WebUI's page, through a real browser: open, choose, generate, send, paste, plot.

Skipped where there is no Chromium with its driver, or no selenium. Screenshots are left in pytest's folder.
"""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import random_adapters as adapter_files
from gguf_files import write_gguf
from PIL import Image

from lib_amdm.comodels.file_list import without_hash
from lib_amdm.files.pictures import as_text, fingerprint
from lib_amdm.settings import CoModel, PictureSpec, Settings, flat, specs
from lib_amdm.webui import examples, infotext, presets, tooltips
from lib_amdm.webui.recipes import ANOTHER, LORA, RECIPES, PanelRecipe

from .probed import Probed
from .test_features import ramp
from .test_networks import loras
from .webui_server import WebUI

pytest.importorskip("selenium")

from chromium import chromium
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

RECIPES_PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
PATIENCE = 60
DRAWN = 300
BETA = "beta.safetensors"
MAIN_CHECKPOINT = ":is(#setting_sd_model_checkpoint, .model_selection:has(input[aria-label=Checkpoint]))"
"""The WebUI's own list of checkpoints."""
PLAIN = (
    "a cat\nNegative prompt: a dog\n"
    "Steps: 4, Sampler: Euler, Schedule type: Automatic, CFG scale: 3, Seed: 7, Size: 64x64"
)


class Page:
    """The WebUI's page in a browser; controls are named by their ids."""

    def __init__(self, driver: Any, webui: WebUI, shots: Path) -> None:
        self.driver, self.webui, self.shots = driver, webui, shots
        driver.get(webui.url("/"))
        parts = ("-visible-checkbox", " > .label-wrap")
        self.wait(lambda: all(self.all(f"#script_txt2img_amdm_enabled{part}") for part in parts), "the page")

    # ---- looking ----

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def wait(self, ready: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := ready():
                return found
            time.sleep(0.1)
        self.shot("timeout")
        raise AssertionError(f"waited {seconds} s for {what}")

    def shot(self, name: str) -> None:
        self.driver.save_screenshot(str(self.shots / f"{name}.png"))

    def value(self, control: str) -> str:
        """The value that a text box, a number, a slider or a dropdown shows, or the chosen one of radio buttons."""
        chosen = self.all(f"#{control} label.selected")
        if chosen:
            return chosen[0].get_property("textContent").strip()  # its text is empty while it is hidden
        return self.one(f"#{control} :is(textarea, input)").get_property("value")

    def has_value(self, control: str, shown: str) -> bool:
        return self.value(control) == shown

    def is_open(self, tab: str) -> bool:
        """Return True if AMDM's accordion is open, and so AMDM on."""

        def switches() -> set[bool]:
            ends = ("visible-checkbox", "checkbox input")
            return {self.one(f"#script_{tab}_amdm_enabled-{end}").get_property("checked") for end in ends}

        # the page sets one after the other, and a look may fall between the two
        [shown] = self.wait(lambda: agreed if len(agreed := switches()) == 1 else None, "the two switches to agree")
        return shown

    # ---- doing ----

    def click(self, selector: str) -> None:
        self.driver.execute_script("arguments[0].click()", self.one(selector))

    def type(self, control: str, text: str) -> None:
        box = self.one(f"#{control} :is(textarea, input:not([type=range]))")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(text, Keys.TAB)

    def choose(self, control: str, choice: str) -> None:
        self.choose_in(f"#{control}", choice)

    def choose_in(self, dropdown: str, choice: str) -> None:
        """Choose from a dropdown that has no id."""
        box = self.one(f"{dropdown} input")
        self.wait(box.is_displayed, dropdown)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
        box.click()
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(choice)
        items = self.wait(lambda: self.all(f"{dropdown} ul.options li"), f"the choices of {dropdown}")
        # of a checkpoint the WebUI may know the hash by now
        next(item for item in items if without_hash(item.get_attribute("aria-label")) == choice).click()
        assert without_hash(box.get_property("value")) == choice

    def choices(self, control: str) -> list[str]:
        """The choices of a dropdown."""
        return self.choices_in(f"#{control}")

    def choices_in(self, dropdown: str) -> list[str]:
        """The choices of a dropdown that has no id."""
        box = self.one(f"{dropdown} input")
        box.click()
        found = [item.get_attribute("aria-label") for item in self.all(f"{dropdown} ul.options li")]
        box.send_keys(Keys.ESCAPE)
        # the list opens with the focus, and would stay shut at the next look
        self.driver.execute_script("arguments[0].blur()", box)
        return found

    def switch_to(self, tab: str) -> None:
        buttons = self.all("#tabs > .tab-nav button")
        button = next(button for button in buttons if button.text.strip().lower() == tab.lower())
        button.click()

    def toggle(self, accordion: str) -> None:
        self.click(f"#{accordion} > .label-wrap")

    def paste(self, infotext: str) -> None:
        """Set txt2img's controls from an infotext, with the arrow button beside the prompt."""
        box = self.one("#txt2img_prompt textarea")
        self.driver.execute_script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
            box,
            infotext,
        )
        time.sleep(0.3)
        self.click("#txt2img_tools #paste")
        prompt = infotext.split("\n")[0]
        self.wait(lambda: self.value("txt2img_prompt") == prompt, "the prompt that was pasted")

    def generate(self, tab: str = "txt2img") -> str:
        """Press Generate and return what the page says of the picture, its infotext or what went wrong."""
        before = self.result(tab)
        self.click(f"#{tab}_generate")
        self.wait(lambda: self.result(tab)[0] and self.result(tab) != before, "the picture", DRAWN)
        return self.one(f"#html_info_{tab}").text + "\n" + self.one(f"#html_log_{tab}").text

    def result(self, tab: str) -> tuple[str, list[str]]:
        """The line below the gallery and the addresses of its pictures; the addresses are new for every picture."""
        # at one moment: the page puts previews in each other's place
        sources = "return [...document.querySelectorAll(arguments[0])].map(picture => picture.src)"
        return self.one(f"#html_log_{tab}").text, self.driver.execute_script(
            sources, f"#{tab}_gallery img:not(.livePreview img)"
        )

    def pictures(self) -> list[np.ndarray]:
        """The pictures of txt2img's gallery, as they were drawn."""
        sources = [picture.get_attribute("src") for picture in self.all("#txt2img_gallery .thumbnails img")]
        answers = [self.webui.get("/" + source.split("/", 3)[3]) for source in sources]
        return [np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB")) for answer in answers]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless browser with a profile of its own."""
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def server(start_webui: Callable[..., WebUI]) -> WebUI:
    """A WebUI that serves its page, with grids in its galleries as by default, and the tests' detailer."""
    return start_webui(page=True, options={"return_grid": True}, others=[Path(__file__).parent / "detailer"])


@pytest.fixture
def page(browser: Any, server: WebUI, tmp_path: Path) -> Page:
    """The page, freshly loaded."""
    return Page(browser, server, tmp_path)


def without_hashes(text: str) -> str:
    """A text without the hashes behind checkpoints' names, of which the WebUI knows those that it has loaded."""
    return re.sub(r" \[[0-9a-f]{10}\]", "", text)


def amdm(**settings: Any) -> dict[str, Any]:
    """The arguments of a request to the API that runs AMDM."""
    return {"alwayson_scripts": {"AMDM": {"args": [{"enabled": True} | settings]}}}


def explained(name: str, of: type = CoModel) -> str:
    return next(spec.help for spec in specs(of) if spec.name == name)


# ---- what stands on the page ----


def test_ids_are_unique_and_in_both_tabs(page: Page) -> None:
    found = [element.get_attribute("id") for element in page.all("[id*=amdm]")]
    assert [name for name, count in Counter(found).items() if count > 1] == []
    for tab in ("txt2img", "img2img"):
        controls = [
            f"script_{tab}_amdm_{name}" for name in ("enabled", "steps", "eta", "checkpoint_1", "gamma_3", "unload")
        ]
        assert set(controls) <= set(found)
    assert {"setting_amdm_slots", "setting_amdm_pool_limit", "setting_amdm_on_error"} <= set(found)


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_the_accordion_is_closed_until_it_is_opened(page: Page, tab: str) -> None:
    page.switch_to(tab)
    assert not page.is_open(tab)
    page.toggle(f"script_{tab}_amdm_enabled")
    page.wait(lambda: page.is_open(tab), "the accordion to open")
    page.wait(lambda: page.one(f"#script_{tab}_amdm_gamma_1").is_displayed(), "its controls")
    assert page.one(f"#script_{tab}_amdm_pass").is_displayed() is (tab == "txt2img")
    page.shot(tab)
    page.toggle(f"script_{tab}_amdm_enabled")
    page.wait(lambda: not page.is_open(tab), "the accordion to close")


def test_controls_are_explained(page: Page) -> None:
    assert page.one("#script_txt2img_amdm_steps").get_attribute("title") == explained("steps", Settings)
    assert page.one("#script_img2img_amdm_gamma_2").get_attribute("title") == explained("gamma")
    placeholder = page.one("#script_txt2img_amdm_prompt_1 textarea").get_attribute("placeholder")
    assert placeholder == explained("prompt")


def test_all_that_is_pressed_is_explained(page: Page) -> None:
    page.toggle("script_txt2img_amdm_enabled")
    pressed = "button, [role=tab], .label-wrap"
    own = f":is({pressed}):is([id*=amdm], [id*=amdm] > *, .tab-nav *):not([id*=amdm_image] *, [id*=amdm_mask] *)"

    def unexplained() -> list[str]:
        found = page.all(f"#script_txt2img_amdm_enabled {own}, #script_txt2img_amdm_enabled .amdm-layout button")
        assert len(found) > 40 and sum("Co-model" in each.text for each in found) == 3
        return [each.get_attribute("outerHTML")[:200] for each in found if not each.get_attribute("title")]

    page.wait(lambda: not unexplained(), "the tooltips")


TRANSLATIONS = {
    "gamma": "mu",
    "Co-model 2": "Beimodell 2",
    "Advanced": "Weiteres",
    "Adapter of co-model 1": "Adapter des ersten",
    "Example layout": "Beispiel",
    "Undo": "Rückgängig",
    tooltips.SLOT: "Was mitläuft",
    explained("gamma"): "Wie viel",
}


def test_captions_can_be_translated(browser: Any, server: WebUI, tmp_path: Path) -> None:
    """A localization file is a table of plain strings, which the WebUI puts on its page as this variable."""
    table = f"Object.defineProperty(window, 'localization', {{value: {json.dumps(TRANSLATIONS)}, writable: false}})"
    added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": table})
    try:
        page = Page(browser, server, tmp_path)
        page.toggle("script_txt2img_amdm_enabled")
        panel = page.one("#script_txt2img_amdm_enabled")

        def left() -> set[str]:
            said = panel.get_property("textContent")
            titles = {each.get_attribute("title") for each in page.all("#script_txt2img_amdm_enabled [title]")}
            return {there for there in TRANSLATIONS.values() if there not in said and there not in titles}

        page.wait(lambda: not left(), "the translations")
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_a_users_defaults_are_kept_under_unique_names(page: Page) -> None:
    saved = json.loads((page.webui.data / "ui-config.json").read_text())
    own = {key: value for key, value in saved.items() if "amdm.py/txt2img" in key}
    forgets = "accordion's default" in page.webui.host.lacks
    assert own.get("customscript/amdm.py/txt2img/AMDM/value") is (None if forgets else False)
    assert own["customscript/amdm.py/txt2img/Gamma of co-model 3/value"] == 0.5
    # a picture is nobody's default
    kept = [spec for _, spec in flat(3) if not isinstance(spec, PictureSpec)]
    assert len([key for key in own if key.endswith("/value")]) == len(kept) - forgets
    assert [key for key in saved if "Unload co-models" in key] == []


def test_the_page_loads_without_an_error(browser: Any, server: WebUI, tmp_path: Path) -> None:
    before = len(server.log)
    browser.get_log("browser")
    Page(browser, server, tmp_path)
    said = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert [message for message in said if "ERR_NAME_NOT_RESOLVED" not in message] == []
    assert [error for error in server.errors(before) if error.startswith("***")] == [], server.log[before:]


# ---- a picture ----


def line_says(line: WebElement, words: str) -> bool:
    """Return True if the panel's line has these words, or is empty if there are none."""
    return words in line.text if words else not line.text


def test_two_checkpoints_in_four_actions(page: Page) -> None:
    """From a page as it is loaded; only size and steps are set before, since the WebUI's own take minutes."""
    page.paste(PLAIN)
    panel = "script_txt2img_amdm"
    line = page.one(f"#{panel}_enabled .amdm-line")
    actions: list[tuple[str, Callable[[], Any], str]] = [
        (f"#{panel}_enabled > .label-wrap", lambda: page.toggle(f"{panel}_enabled"), "choose a checkpoint"),
        (f"#{panel}_checkpoint_1", lambda: page.choose(f"{panel}_checkpoint_1", BETA), ""),
        ("#txt2img_prompt", lambda: page.type("txt2img_prompt", "a red square"), ""),
        ("#txt2img_generate", lambda: said.append(page.generate()), ""),
    ]
    said: list[str] = []
    for control, act, told in actions:
        page.wait(page.one(control).is_displayed, f"{control}, in sight without another action")
        act()
        page.wait(partial(line_says, line, told), f"the panel to say {told!r}")
        page.shot(control.split()[0].strip("#"))
    assert f"AMDM 1 checkpoint: {BETA}" in without_hashes(said[0])
    ran = page.one('.amdm-ran[data-tab="txt2img"]')
    assert re.match(r"2 models, \d+ of \d+ steps, \d+ evaluations? of beta", page.wait(lambda: ran.text, "what ran"))


def test_a_picture_through_the_page(page: Page) -> None:
    page.paste(PLAIN)
    alone = page.generate()
    assert "AMDM" not in alone
    [without] = page.pictures()
    page.toggle("script_txt2img_amdm_enabled")
    page.choose("script_txt2img_amdm_checkpoint_1", BETA)
    page.type("script_txt2img_amdm_gamma_1", "0.7")
    page.type("script_txt2img_amdm_prompt_1", 'a "blue" circle, here')
    page.shot("before")
    said = page.generate()
    page.shot("after")
    assert (
        f"AMDM: True, AMDM steps: auto, AMDM eta: 0, AMDM 1 checkpoint: {BETA}, AMDM 1 gamma: 0.7, "
        r'AMDM 1 prompt: "a \"blue\" circle, here"'
    ) in without_hashes(said)
    [with_beta] = page.pictures()
    assert not np.array_equal(with_beta, without)
    line = page.one('.amdm-ran[data-tab="txt2img"]')
    ran = page.wait(lambda: line.text, "the line that says what ran")
    assert re.fullmatch(r"2 models, \d+ of \d+ steps, \d+ evaluations? of beta, \+\d+\.\d s of \d+\.\d s", ran)
    assert f'AMDM ran: "{ran}"' in said

    page.toggle("script_txt2img_amdm_memory_fold")
    page.click("#script_txt2img_amdm_look")
    line = page.one("#script_txt2img_amdm_memory .prose")
    told = page.wait(lambda: line.text if "In memory" in line.text else "", "what is in memory")
    assert re.fullmatch(rf"In memory: {re.escape(BETA)}.* \([\d.]+ [KMG]B\)\.", told)
    page.click("#script_txt2img_amdm_unload")
    page.wait(lambda: "No co-model is in memory." in line.text, "the co-model to be unloaded")
    assert page.webui.call("/amdm/v1/models")["loaded"] == []

    page.toggle("script_txt2img_amdm_enabled")
    page.wait(lambda: not page.is_open("txt2img"), "the accordion to close")
    assert "AMDM" not in page.generate()
    assert np.array_equal(page.pictures()[0], without)


def test_a_region_is_drawn_over_the_pictures_size_and_reaches_the_picture(page: Page) -> None:
    page.paste(f"{PLAIN}, AMDM: True, AMDM steps: 3, AMDM 1 checkpoint: {BETA}, AMDM 1 gamma: 0.7")
    page.wait(lambda: page.is_open("txt2img"), "the accordion to open")
    page.type("script_txt2img_amdm_evaluations", "2")
    page.toggle("script_txt2img_amdm_region_of_1")
    page.wait(lambda: page.one("#script_txt2img_amdm_region_1").is_displayed(), "the fold to open")
    page.type("script_txt2img_amdm_region_1", "0 0 0.5 1")

    def size() -> tuple[int, ...]:
        drawn = page.all("#script_txt2img_amdm_region_of_1 svg[role=img]")
        return tuple(int(drawn[0].get_attribute(side)) for side in ("width", "height")) if drawn else ()

    page.wait(lambda: size() == (256, 256), "the drawing")
    page.shot("region")
    page.type("txt2img_width", "128")
    page.type("script_txt2img_amdm_region_1", "0 0 0.5 0.9")
    page.wait(lambda: size() == (256, 128), "the drawing to follow the picture's width")
    said = page.generate()
    assert "AMDM evaluations: 2" in said and "AMDM 1 region: 0 0 0.5 0.9" in said
    # with the pointer, as boxes of a layout are
    assert drawn(page, "script_txt2img_amdm_region_1", (0.6, 0.2), (0.9, 0.8)) == "0 0 0.5 0.9\n0.6 0.2 0.9 0.8"
    under = '[data-field="script_txt2img_amdm_region_1"] .amdm-canvas .amdm-behind rect[fill="#4363d8"]'
    page.wait(lambda: len({each.get_attribute("x") for each in page.all(under)}) > 40, "what both boxes come to")
    page.shot("region-drawn")
    page.generate()
    both = 'AMDM 1 region: "0 0 0.5 0.9\\n0.6 0.2 0.9 0.8"'
    # a preview may come before the new infotext
    page.wait(lambda: both in page.one("#html_info_txt2img").text, "both boxes in the infotext")
    page.type("script_txt2img_amdm_region_1", "0 0 2 1")
    page.wait(lambda: "row 1" in page.one("#script_txt2img_amdm_region_of_1").text, "what is wrong")


def cleared(page: Page, control: str) -> str:
    """The value of a field once it was emptied and left."""
    box = page.one(f"#{control} :is(textarea, input:not([type=range]))")
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(Keys.BACKSPACE)
    box.send_keys(Keys.TAB)
    time.sleep(0.3)
    return page.value(control)


def test_a_number_that_is_cleared_is_its_default(page: Page) -> None:
    told = "AMDM: True, AMDM steps: 2, AMDM evaluations: 1, AMDM eta: 0.25, AMDM start: 1, AMDM 1 checkpoint: beta"
    page.paste(f"{PLAIN}, {told}, AMDM 1 gamma: 0.25, AMDM 1 gamma end: 0.75, AMDM 1 CFG scale: 4, AMDM 1 feather: 0.2")
    page.wait(lambda: page.value("script_txt2img_amdm_gamma_end_1") == "0.75", "the settings")
    numbers = [f"{name}_1" for name in ("gamma", "gamma_end", "cfg_scale", "feather")]
    shown = {name: cleared(page, f"script_txt2img_amdm_{name}") for name in ("eta", "start", *numbers)}
    usual = {"eta": "0", "start": "0", "gamma_1": "0.5", "gamma_end_1": "", "cfg_scale_1": "0", "feather_1": "0"}
    assert shown == usual
    for name in ("steps", "evaluations"):
        cleared(page, f"script_txt2img_amdm_{name}")
    said = without_hashes(page.generate())
    assert "AMDM: True, AMDM steps: auto, AMDM eta: 0, AMDM 1 checkpoint: beta.safetensors, AMDM 1 gamma: 0.5, " in said
    assert not re.search("AMDM (evaluations|start|1 gamma end|1 CFG scale|1 feather)", said)


def captions(page: Page, state: str) -> set[str]:
    """The panel's folds and tabs whose captions are in a state: open, or marked."""
    captions = f"#script_txt2img_amdm_enabled :is(.label-wrap, .tab-nav button).{state}"
    said = {each.get_property("textContent").strip() for each in page.all(captions)}
    return {re.sub(r"\s*[▼◀▲]$", "", text) for text in said}


def test_folds_that_hold_something_are_marked_and_open_after_a_paste(page: Page) -> None:
    main = f"{PLAIN}, AMDM: True, AMDM steps: 2, AMDM 1 checkpoint: beta, AMDM 1 gamma: 0.25"
    page.paste(main)
    page.wait(lambda: page.is_open("txt2img"), "the accordion to open")
    page.wait(lambda: captions(page, "amdm-holds") == {"Co-model 1"}, "the tab's mark")
    assert captions(page, "open") <= {"AMDM"}
    page.paste(
        f"{main}, AMDM start: 1, AMDM 1 region: 0 0 0.5 1, AMDM 1 noise: independent, AMDM 2 checkpoint: main, "
        "AMDM 2 gamma: 0.5, AMDM 2 adapter: lost.safetensors, AMDM 2 adapter until: 0.5"
    )
    folds = {"Advanced", "Region of co-model 1", "More of co-model 1", "Adapter of co-model 2"}
    page.wait(lambda: captions(page, "amdm-holds") == {"Co-model 1", "Co-model 2", *folds}, "the marks")
    page.wait(lambda: folds <= captions(page, "open") <= {"AMDM", *folds}, "the folds to open")
    page.wait(lambda: page.one("#script_txt2img_amdm_region_1").is_displayed(), "the region")
    page.shot("folds")
    # what the user closes stays closed until something is pasted
    page.toggle("script_txt2img_amdm_region_of_1")
    time.sleep(1)
    assert "Region of co-model 1" not in captions(page, "open")
    page.paste(f"{main}, AMDM 1 region: 0 0 1 0.5")
    page.wait(lambda: "Region of co-model 1" in captions(page, "open"), "the fold to open")
    page.wait(lambda: captions(page, "amdm-holds") == {"Co-model 1", "Region of co-model 1"}, "the other marks to go")


def test_a_slot_that_is_switched_off_comes_back_switched_off(page: Page, server: WebUI) -> None:
    page.paste(
        f"{PLAIN}, AMDM: True, AMDM steps: 2, AMDM 1 checkpoint: beta, AMDM 1 gamma: 0.25, AMDM 2 checkpoint: gamma, "
        "AMDM 2 gamma: 0.75, AMDM 2 enabled: False"
    )
    page.wait(
        lambda: without_hash(page.value("script_txt2img_amdm_checkpoint_2")) == "gamma.safetensors", "the settings"
    )
    switch = "#script_txt2img_amdm_enabled_2 input"
    assert not page.one(switch).get_property("checked")
    said = page.generate()
    assert "AMDM 2 enabled: False, AMDM 2 checkpoint: gamma.safetensors, AMDM 2 gamma: 0.75" in without_hashes(said)
    assert "2 models" in said
    [picture] = page.pictures()
    infotext = said.split("\n\n")[0]
    again = server.from_infotext(infotext[: infotext.index(', AMDM ran: "')])
    [told] = json.loads(again["info"])["infotexts"]
    assert "AMDM 2 enabled: False" in told, "a request with an infotext switched it on"
    assert np.array_equal(server.pixels(again)[0], picture)


def test_an_example_runs_what_the_user_has_and_is_taken_back(page: Page) -> None:
    page.paste(f"{PLAIN}, AMDM: True, AMDM steps: 2, AMDM 1 checkpoint: gamma, AMDM 1 gamma: 0.25")
    page.wait(lambda: page.value("script_txt2img_amdm_gamma_1") == "0.25", "the settings")
    page.toggle("script_txt2img_amdm_examples")
    page.choose("script_txt2img_amdm_preset", presets.PRESETS[0].name)
    page.click("#script_txt2img_amdm_fill")
    page.wait(lambda: page.value("script_txt2img_amdm_correction") == "paper", "the paper's example")
    page.choose("script_txt2img_amdm_preset", examples.NAMES[0])
    page.click("#script_txt2img_amdm_fill")
    page.wait(lambda: page.value("script_txt2img_amdm_correction") == "relative", "the other example")
    chosen = without_hash(page.value("script_txt2img_amdm_checkpoint_1"))
    page.shot("example")
    assert f"AMDM 1 checkpoint: {chosen}, AMDM 1 gamma: 0.5" in without_hashes(page.generate())
    page.click("#script_txt2img_amdm_undo")
    page.wait(lambda: page.value("script_txt2img_amdm_correction") == "paper", "the example before")
    page.click("#script_txt2img_amdm_undo")
    page.wait(lambda: page.value("script_txt2img_amdm_gamma_1") == "0.25", "the user's own")
    assert shown(page, "txt2img", ("checkpoint_1", "steps")) == {"checkpoint_1": "gamma.safetensors", "steps": "2"}


def test_each_recipe_runs_as_it_is_filled_in_or_says_what_is_missing(page: Page, server: WebUI) -> None:
    """Without a LoRA's name, which only the user knows, the picture is refused in words."""
    page.paste(PLAIN)
    page.toggle("script_txt2img_amdm_enabled")
    page.toggle("script_txt2img_amdm_examples")
    for number, recipe in enumerate(RECIPES, 1):
        page.choose("script_txt2img_amdm_preset", recipe.name)
        page.click("#script_txt2img_amdm_fill")
        advice = page.wait(partial(said_of, page, recipe), "the recipe's lines")
        slots = recipe.settings.co_models
        for slot, told in enumerate(slots, 1):
            gamma = infotext.as_text(told.gamma)
            page.wait(partial(page.has_value, f"script_txt2img_amdm_gamma_{slot}", gamma), f"gamma of {recipe.name}")
            checkpoint = page.value(f"script_txt2img_amdm_checkpoint_{slot}")
            is_file = checkpoint not in ("", "None", "main", told.checkpoint)
            assert is_file or checkpoint == told.checkpoint == "main", (recipe.name, checkpoint)
        page.shot(f"recipe-{number}")
        said = page.generate()
        page.shot(f"recipe-{number}-drawn")
        assert ("Missing" in advice) == bool(recipe.missing)
        if recipe.missing:
            assert f'"{LORA}" is not in the WebUI\'s list of LoRAs' in refusal(page, said)
            with loras(Probed(server)):
                page.type("script_txt2img_amdm_prompt_1", recipe.settings.co_models[0].prompt.replace(LORA, "strong"))
                said = page.generate()
                page.shot(f"recipe-{number}-named")
        if not recipe.missing or "strong" in said:
            assert f"AMDM ran: {len(slots) + 1} models" in said.replace('"', "") and "VAE call" not in said


def said_of(page: Page, recipe: PanelRecipe) -> str:
    """The lines below the examples, once they are the recipe's."""
    text = page.one("#script_txt2img_amdm_examples").text
    return text if recipe.expect in text else ""


def test_a_recipes_infotext_is_pasted_and_the_panel_asks_for_the_file(page: Page) -> None:
    texts = re.findall(r"^```\n(.*?)\n```$", RECIPES_PAGE.read_text(encoding="utf-8"), re.M | re.S)
    [text] = [text for text in texts if "region" in text]
    page.paste(text)
    page.wait(partial(page.has_value, "script_txt2img_amdm_region_1", "0.5 0 1 1"), "the region")
    assert shown(page, "txt2img", ("gamma_1", "feather_1")) == {"gamma_1": "1", "feather_1": "0.1"}
    line = page.one("#script_txt2img_amdm_enabled .amdm-line")
    page.wait(lambda: f'"{ANOTHER}" is not in the list' in line.text, "the line to name the file")


def test_a_co_models_prompt_has_the_webuis_token_counter(page: Page) -> None:
    """`{prompt}` counts as what it stands for."""

    def counts(prompt: str) -> str:
        counters = page.all(f"#{prompt}")
        return counters[0].text.strip() if counters else ""

    page.paste(
        f'{PLAIN}, AMDM: True, AMDM 1 checkpoint: beta, AMDM 1 gamma: 0.5, AMDM 1 prompt: "a red cat, and {{prompt}}"'
    )
    page.wait(lambda: page.is_open("txt2img"), "the accordion to open")
    counter = "script_txt2img_amdm_prompt_1 .amdm-count"
    first = page.wait(lambda: counts(counter), "the count")
    page.one("#script_txt2img_amdm_prompt_1").screenshot(str(page.shots / "counter.png"))
    page.shot("tokens")
    page.type("txt2img_prompt", "a cat and a dog")
    longer = page.wait(lambda: counts(counter) if counts(counter) != first else "", "the main prompt to be counted")
    page.type("txt2img_prompt", "a red cat, and a cat and a dog")
    page.wait(lambda: counts("txt2img_token_counter") == longer, "the WebUI to count the same")
    assert cleared(page, "script_txt2img_amdm_prompt_1") == ""
    page.wait(lambda: not counts(counter), "the counter to go")


def test_a_checkpoint_that_came_later_is_found(page: Page) -> None:
    late = page.webui.checkpoint_folder / "late.safetensors"
    late.symlink_to((page.webui.checkpoint_folder / BETA).resolve())
    try:
        page.toggle("script_txt2img_amdm_enabled")
        page.wait(lambda: page.one("#script_txt2img_amdm_checkpoint_1").is_displayed(), "the controls")
        page.click("#script_txt2img_amdm_refresh_1")
        page.wait(lambda: late.name in page.choices("script_txt2img_amdm_checkpoint_1"), "the new checkpoint")
        page.choose("script_txt2img_amdm_checkpoint_1", late.name)
    finally:
        late.unlink()
        page.webui.refresh_checkpoints()


PIXELS = ", through pixels"


@pytest.fixture
def strangers(server: WebUI) -> Iterator[dict[str, str]]:
    """Checkpoints with other latents or inputs than an SD1, by their titles, with the words that mark them."""
    marks = dict.fromkeys(("xl-alpha.safetensors", "xl-beta.safetensors"), f"· SDXL{PIXELS}")
    marks["inpaint-alpha.safetensors"] = "· SD1 inpainting"
    file = server.checkpoint_folder / "small.gguf"
    if server.host.flow_families:  # those WebUIs read GGUF
        write_gguf(file, "lumina2", [("cap_embedder.1.weight", np.zeros((3840, 2), np.float16), None)])
        marks[file.name] = f"· Z-Image{PIXELS}"
    server.refresh_checkpoints()
    yield marks
    file.unlink(missing_ok=True)
    server.refresh_checkpoints()


def test_a_checkpoint_that_does_not_share_the_main_ones_latents_is_marked_and_named(
    strangers: dict[str, str], page: Page, server: WebUI
) -> None:
    page.toggle("script_txt2img_amdm_enabled")
    page.wait(lambda: page.one("#script_txt2img_amdm_checkpoint_1").is_displayed(), "the controls")
    panel = page.one("#script_txt2img_amdm_enabled")

    def marked() -> dict[str, str]:
        """The choices with words behind them; grey are those that cannot be run through pixels either."""
        page.one("#script_txt2img_amdm_checkpoint_1 input").click()
        read = """return [...arguments].map(e => [e.getAttribute("aria-label"), getComputedStyle(e).opacity < 0.9,
            getComputedStyle(e, "::after").content])"""
        items = page.all("#script_txt2img_amdm_checkpoint_1 ul.options li")
        found = page.driver.execute_script(read, *items)
        page.shot("marked")
        page.driver.execute_script("arguments[0].blur()", page.one("#script_txt2img_amdm_checkpoint_1 input"))
        marks = {without_hash(name): (is_grey, words.strip('"')) for name, is_grey, words in found if "·" in words}
        assert all(is_grey != words.endswith(PIXELS) for is_grey, words in marks.values()), marks
        return {name: words for name, (_, words) in marks.items()}

    page.click("#script_txt2img_amdm_refresh_1")
    page.wait(lambda: strangers.items() <= marked().items(), "the entries to be marked")
    assert not {"None", "main", "alpha.safetensors", BETA} & marked().keys()
    page.choose("script_txt2img_amdm_checkpoint_1", "inpaint-alpha.safetensors")
    told = 'Co-model 1: "inpaint-alpha.safetensors" is SD1 inpainting, but the main checkpoint "alpha.safetensors" is'
    page.wait(lambda: told in without_hashes(panel.text), "the line to say so")
    page.shot("misfit")
    page.choose("script_txt2img_amdm_checkpoint_1", "xl-beta.safetensors")
    page.wait(lambda: "Co-model 1: SDXL alongside SD1 is run through pixels" in panel.text, "the line to say the cost")
    page.shot("through pixels")
    # its own size is 1024, and the page's 512
    page.toggle("script_txt2img_amdm_more_1")
    page.wait(lambda: page.one("#script_txt2img_amdm_size_1").is_displayed(), "its size")
    for control, side in (("script_txt2img_amdm_size_1", "0"), ("txt2img_width", "64"), ("txt2img_height", "64")):
        page.type(control, side)
    assert "VAE call" in page.generate()
    page.choose_in(MAIN_CHECKPOINT, "xl-alpha.safetensors")
    try:
        page.wait(lambda: "is run through pixels" not in panel.text, "the line to follow the main checkpoint", DRAWN)
        page.wait(lambda: f"· SD1{PIXELS}" in marked().values(), "the marks to follow it")
        assert not {name for name, mark in strangers.items() if "SDXL" in mark} & marked().keys()
        # the WebUI knows a hash of the other one now, and the page's list is from before
        page.choose_in(MAIN_CHECKPOINT, "alpha.safetensors")
        page.wait(lambda: strangers.items() <= marked().items(), "all to be marked again", DRAWN)
    finally:
        server.use_checkpoint("alpha")


def test_the_list_is_in_the_order_of_the_webuis_own(page: Page) -> None:
    page.toggle("script_txt2img_amdm_enabled")
    page.wait(lambda: page.one("#script_txt2img_amdm_checkpoint_1").is_displayed(), "the controls")

    def own() -> list[str]:
        return [without_hash(title) for title in page.choices_in(MAIN_CHECKPOINT)]

    listed = [without_hash(title) for title in page.choices("script_txt2img_amdm_checkpoint_1")]
    # some of them fill it once the page is there
    page.wait(lambda: own() == listed[2:], f"the order {listed}")
    assert len(listed) > 6


def test_what_runs_nothing_says_so_before_the_picture_and_with_it(page: Page) -> None:
    page.paste(PLAIN)
    [plain] = page.pictures() if page.generate() else []
    page.toggle("script_txt2img_amdm_enabled")
    line = page.one("#script_txt2img_amdm_enabled .amdm-line")

    def says(words: str) -> bool:
        return page.wait(lambda: (words in line.text) if words else not line.text, f"the line to say {words!r}")

    says("choose a checkpoint")
    page.choose("script_txt2img_amdm_checkpoint_1", BETA)
    says("")
    page.type("script_txt2img_amdm_gamma_1", "0")
    says("raise gamma")
    said = page.generate()
    assert "AMDM: No co-model is run: raise gamma." in said and "AMDM ran" not in said
    assert np.array_equal(page.pictures()[0], plain)
    page.toggle("script_txt2img_amdm_more_1")
    page.type("script_txt2img_amdm_gamma_end_1", "0.8")
    says("")
    said = page.generate()
    assert "AMDM ran" in said and "No co-model" not in said
    page.type("script_txt2img_amdm_steps", "0")
    says("raise steps")


def test_the_line_keeps_up_with_a_number_that_is_typed_fast(page: Page) -> None:
    page.toggle("script_txt2img_amdm_enabled")
    page.choose("script_txt2img_amdm_checkpoint_1", BETA)
    line = page.one("#script_txt2img_amdm_enabled .amdm-line")
    box = page.one("#script_txt2img_amdm_gamma_1 input[type=number]")

    def is_idle(wanted: bool) -> bool:
        return ("raise gamma" in line.text) is wanted

    for typed in ("0.05", "0", "0.31", "0", "0.75", "0"):
        box.send_keys(Keys.CONTROL, "a")
        # all its letters at once, and the field is not left
        box.send_keys(typed)
        page.wait(partial(is_idle, float(typed) == 0), f"the line for gamma {typed}", 10)


@pytest.mark.needs("presets")
def test_the_line_and_the_list_follow_the_preset(browser: Any, server: WebUI, tmp_path: Path) -> None:
    """A preset brings the main checkpoint that was chosen in it."""
    titles = {"sd": "alpha.safetensors", "xl": "xl-alpha.safetensors"}
    server.call("/sdapi/v1/options", {f"forge_checkpoint_{preset}": title for preset, title in titles.items()})
    # what a page shows at first is the preset's checkpoint
    page = Page(browser, server, tmp_path)
    page.toggle("script_txt2img_amdm_enabled")
    page.choose("script_txt2img_amdm_checkpoint_1", "xl-beta.safetensors")
    panel = page.one("#script_txt2img_amdm_enabled")
    page.wait(lambda: "is run through pixels" in panel.text, "the line for what is loaded")
    marks = "#script_txt2img_amdm_enabled .amdm-unseen style"

    def marked() -> str:
        return "".join(each.get_property("textContent") for each in page.all(marks))

    def says_pixels(told: bool) -> bool:
        return ("is run through pixels" in panel.text) is told

    def is_marked(grey: str) -> bool:
        return grey in marked()

    try:
        for preset, told, grey in (("xl", False, '"alpha.'), ("sd", True, '"xl-alpha.'), ("xl", False, '"alpha.')):
            page.choose("forge_ui_preset", preset)
            page.wait(partial(says_pixels, told), f"the line for {preset}", DRAWN)
            page.wait(partial(is_marked, grey), f"the list for {preset}")
    finally:
        page.choose("forge_ui_preset", "sd")
        server.use_checkpoint("alpha")


def test_compare_at_one_click(page: Page) -> None:
    page.paste(PLAIN)
    page.generate()
    [without] = page.pictures()
    page.toggle("script_txt2img_amdm_enabled")
    page.choose("script_txt2img_amdm_checkpoint_1", BETA)
    page.click("#script_txt2img_amdm_compare input")
    panel = page.one("#script_txt2img_amdm_enabled")
    page.wait(lambda: "Compare: 3 pictures for each, and a grid." in panel.text, "what it costs")
    page.generate()
    page.shot("compared")
    together, grid, main, co_model = page.pictures()
    assert np.array_equal(main, without)
    assert not np.array_equal(together, main) and not np.array_equal(co_model, main)
    assert grid.shape[1] >= 3 * main.shape[1]
    page.all("#txt2img_gallery .thumbnails button")[-1].click()
    info = page.wait(
        lambda: text if "Model: beta" in (text := page.one("#html_info_txt2img").text) else "", "its words"
    )
    assert "AMDM" not in info, "it can be drawn again without AMDM"


OWN_WORDS = "a blue circle"


def select(page: Page, number: int, said: str) -> str:
    """Select a picture of txt2img's gallery, and return its infotext, in which `said` must be."""
    page.all("#txt2img_gallery .thumbnails button")[number].click()
    info = page.one("#html_info_txt2img")
    return page.wait(lambda: text if (text := info.text).startswith(said) else "", f"the infotext of {said!r}")


def sent_picture(page: Page, canvas: str) -> np.ndarray | None:
    """The picture in one of img2img's fields, or None."""
    shown = [each.get_attribute("src") for each in page.all(f"{canvas} img")]
    data = [source.split(",", 1)[1] for source in shown if source and source.startswith("data:image/")]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data[0]))).convert("RGB")) if data else None


def test_a_model_alone_is_sent_with_its_own_settings_and_drawn_again_from_them(page: Page) -> None:
    page.paste(f"{PLAIN}, AMDM: True, AMDM 1 checkpoint: main, AMDM 1 prompt: {OWN_WORDS}, AMDM 1 CFG scale: 2")
    page.wait(lambda: page.is_open("txt2img"), "the accordion to open")
    page.click("#script_txt2img_amdm_compare input")
    page.generate()
    together, _, _, co_model = page.pictures()

    alone = select(page, -1, OWN_WORDS)
    for button in ("img2img", "inpaint"):
        page.click(f"#txt2img_send_to_{button}")
        page.wait(lambda: page.one("#img2img_prompt").is_displayed(), "img2img")
        sent = {"img2img_prompt": OWN_WORDS, "img2img_cfg_scale": "2", "img2img_seed": "7", "img2img_width": "64"}
        page.wait(partial(all_show, page, sent), f"{button} to have the model's own settings")
        assert not page.is_open("img2img"), "AMDM took no part in it"
        page.shot(f"sent-to-{button}")
        page.switch_to("txt2img")
    picture = page.wait(lambda: [each] if (each := sent_picture(page, "#img2img_image")) is not None else None, "it")[0]
    assert np.array_equal(picture, co_model)

    select(page, 0, "a cat")
    page.click("#txt2img_send_to_img2img")
    page.wait(lambda: page.has_value("img2img_prompt", "a cat") and page.is_open("img2img"), "all models together")
    assert page.value("script_img2img_amdm_prompt_1") == OWN_WORDS
    page.switch_to("txt2img")

    page.paste(alone)
    page.wait(lambda: not page.is_open("txt2img"), "the accordion to close")
    page.generate()
    [again] = page.wait(lambda: each if len(each := page.pictures()) == 1 else [], "the one picture")
    assert np.array_equal(again, co_model) and not np.array_equal(co_model, together)


def all_show(page: Page, values: dict[str, str]) -> bool:
    return all(page.has_value(control, value) for control, value in values.items())


@pytest.mark.parametrize("which", ["detailer", "all"])
def test_a_pass_with_details_can_be_chosen(page: Page, which: str) -> None:
    page.paste(f"{PLAIN}, AMDM: True, AMDM 1 checkpoint: beta")
    page.wait(lambda: page.is_open("txt2img"), "the accordion to open")
    page.choose("script_txt2img_amdm_pass", which)
    details = {"boxes": [[[8, 16, 40, 48]]], "width": 64, "height": 64}
    page.type("script_txt2img_amdm_detailer_request", json.dumps(details))
    drawn = page.generate()
    page.shot(f"details-{which}")
    assert f"AMDM pass: {which}" in drawn and "detail 1: 2 models" in drawn


def refusal(page: Page, said: str) -> str:
    """The WebUI's words for an error: on its page, or on its console where the page has no words for it."""
    return page.webui.log if "errors on the page" in page.webui.host.lacks else said


def test_an_interrupted_comparison_shows_what_was_drawn(page: Page) -> None:
    page.paste(PLAIN.replace("Steps: 4", "Steps: 60").replace("64x64", "128x128"))
    page.toggle("script_txt2img_amdm_enabled")
    page.choose("script_txt2img_amdm_checkpoint_1", BETA)
    page.click("#script_txt2img_amdm_compare input")
    before, log = page.result("txt2img"), len(page.webui.log)
    page.click("#txt2img_generate")

    def rounds() -> int:
        return page.webui.log[log:].count("100%")

    # the picture with both models is drawn, and one of the models alone is being drawn
    page.wait(lambda: rounds() >= 1, "the first picture", DRAWN)
    time.sleep(1)
    page.click("#txt2img_interrupt")
    page.wait(lambda: page.result("txt2img")[0] and page.result("txt2img") != before, "what there is", DRAWN)
    page.shot("interrupted")
    assert page.result("txt2img")[1] and "Error" not in page.result("txt2img")[0]
    page.click("#script_txt2img_amdm_compare input")
    page.paste(PLAIN)
    assert "Steps: 4" in page.generate()


def test_a_painted_mask_keeps_the_rest_of_the_picture(page: Page, tmp_path: Path) -> None:
    if "painting" in page.webui.host.lacks:
        pytest.skip(page.webui.host.lacks["painting"])
    start = ramp()
    Image.fromarray(start).save(tmp_path / "start.png")
    page.switch_to("img2img")
    next(button for button in page.all("#mode_img2img > .tab-nav button") if button.text.strip() == "Inpaint").click()
    canvas = "#img2maskimg"
    page.one(f"{canvas} input[type=file]").send_keys(str(tmp_path / "start.png"))
    drawing = page.wait(lambda: [each for each in page.all(f"{canvas} canvas") if each.is_displayed()], "the picture")
    time.sleep(2)
    area = drawing[-1]
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", area)
    # a stroke in the left third
    left = -int(area.size["width"] / 3)
    ActionChains(page.driver).move_to_element_with_offset(area, left, 0).click_and_hold().move_by_offset(
        0, int(area.size["height"] / 4)
    ).release().perform()
    page.type("img2img_steps", "4")
    page.type("img2img_width", "64")
    page.type("img2img_height", "64")
    page.type("img2img_mask_blur", "0")
    page.shot("painted")
    page.toggle("script_img2img_amdm_enabled")
    page.choose("script_img2img_amdm_checkpoint_1", BETA)
    said = page.generate("img2img")
    page.shot("inpainted")
    assert "AMDM ran" in said and "2 models" in said
    [source] = [each for each in page.result("img2img")[1] if "file=" in each][:1]
    answer = page.webui.get("/" + source.split("/", 3)[3])
    drawn = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))
    changed = np.abs(drawn.astype(int) - start).max(axis=-1) > 8
    assert changed[:, :32].any() and not changed[:, 44:].any()


def test_what_is_wrong_is_said_on_the_page(page: Page) -> None:
    page.paste(f"{PLAIN}, AMDM: True, AMDM 1 checkpoint: lost.safetensors, AMDM 1 gamma: 0.5")
    page.wait(lambda: page.is_open("txt2img"), "the accordion to open")
    assert page.value("script_txt2img_amdm_checkpoint_1") == "lost.safetensors"
    said = refusal(page, page.generate())
    page.shot("refused")
    assert "lost.safetensors" in said and "AMDM co-model 1" in said
    assert page.pictures() == []


# ---- an infotext ----

TAKEN = {
    "steps": 2,
    "eta": 0.25,
    "start": 1,
    "co_models": [
        {},
        {"checkpoint": "gamma", "gamma": 0.75, "eta": 0.5, "prompt": 'one, "two"\nthree: (four:1.2)', "cfg_scale": 4.5},
        {"checkpoint": "main", "gamma": 0.25, "noise": "independent", "negative_prompt": " 1x2 "},
    ],
}
SHOWN = {
    "steps": "2",
    "eta": "0.25",
    "start": "1",
    "pass": "first",
    "checkpoint_1": "None",
    "gamma_1": "0.5",
    "checkpoint_2": "gamma.safetensors",
    "gamma_2": "0.75",
    "eta_2": "0.5",
    "prompt_2": 'one, "two"\nthree: (four:1.2)',
    "cfg_scale_2": "4.5",
    "noise_2": "shared",
    "checkpoint_3": "main",
    "gamma_3": "0.25",
    "noise_3": "independent",
    "negative_prompt_3": " 1x2 ",
}


def shown(page: Page, tab: str, names: Iterable[str]) -> dict[str, str]:
    return {name: without_hash(page.value(f"script_{tab}_amdm_{name}")) for name in names}


def test_png_info_sends_every_setting_to_txt2img(page: Page, tmp_path: Path) -> None:
    drawn = page.webui.txt2img(**amdm(**TAKEN))["images"][0]
    file = tmp_path / "drawn.png"
    file.write_bytes(base64.b64decode(drawn))
    page.toggle("script_txt2img_amdm_enabled")
    page.wait(lambda: page.one("#script_txt2img_amdm_gamma_1").is_displayed(), "the controls")
    page.type("script_txt2img_amdm_gamma_1", "0.9")
    page.toggle("script_txt2img_amdm_enabled")
    page.wait(lambda: not page.is_open("txt2img"), "the accordion to close")
    page.switch_to("PNG Info")
    page.one("#pnginfo_image input[type=file]").send_keys(str(file))
    page.wait(lambda: "AMDM 2 checkpoint" in page.one("#tab_pnginfo").text, "the infotext")
    page.shot("png-info")
    page.click("#tab_pnginfo #txt2img_tab")
    page.wait(lambda: page.is_open("txt2img"), "the accordion to open")
    page.wait(lambda: page.value("script_txt2img_amdm_gamma_1") == "0.5", "the settings")
    page.shot("sent")
    assert shown(page, "txt2img", SHOWN) == SHOWN


def test_an_infotext_without_amdm_switches_it_off(page: Page) -> None:
    page.paste(f"{PLAIN}, AMDM: True, AMDM steps: 2, AMDM 1 checkpoint: beta, AMDM 1 gamma: 0.25")
    page.wait(lambda: page.is_open("txt2img"), "the accordion to open")
    assert shown(page, "txt2img", ("checkpoint_1", "gamma_1")) == {"checkpoint_1": BETA, "gamma_1": "0.25"}
    page.paste(PLAIN.replace("a cat", "a house"))
    page.wait(lambda: not page.is_open("txt2img"), "the accordion to close")


def test_a_picture_is_sent_to_img2img_with_its_settings(page: Page) -> None:
    page.paste(
        f"{PLAIN}, AMDM: True, AMDM steps: 2, AMDM 2 checkpoint: main, AMDM 2 gamma: 0.25, AMDM 2 noise: independent"
    )
    page.wait(lambda: page.is_open("txt2img"), "the accordion to open")
    assert "AMDM 2 noise: independent" in page.generate()
    page.click("#txt2img_send_to_img2img")
    page.wait(lambda: page.is_open("img2img"), "the accordion of the other tab to open")
    expected = {
        "steps": "2",
        "checkpoint_1": "None",
        "checkpoint_2": "main",
        "gamma_2": "0.25",
        "noise_2": "independent",
    }
    page.wait(lambda: shown(page, "img2img", expected) == expected, "the settings in the other tab")
    page.shot("img2img")


PROMPTS = (
    "512x512",
    "AMDM 1 prompt",
    '"',
    '""',
    '"a"',
    '"a", b: "c"',
    " a ",
    "\\",
    "\t",
    "c\rd",
    "жук, 猫: 🐈\n\n",
    "True",
)


def test_prompts_of_all_kinds_survive_the_webuis_own_writer_and_reader(server: WebUI) -> None:
    for start in range(0, len(PROMPTS), 4):
        texts = PROMPTS[start : start + 4]
        pairs = [{"prompt": texts[0], "negative_prompt": texts[1]}, {"prompt": texts[2], "negative_prompt": texts[3]}]
        co_models = [{"checkpoint": "main", **pair} for pair in pairs]
        picture = server.txt2img(steps=2, **amdm(steps=1, co_models=co_models))["images"][0]
        read = server.call("/sdapi/v1/png-info", {"image": picture})["parameters"]
        labels = [f"AMDM {slot} {name}" for slot in (1, 2) for name in ("prompt", "negative prompt")]
        assert tuple(read[label] for label in labels) == texts


def test_an_infotext_in_a_request_draws_the_same_picture(server: WebUI) -> None:
    settings = {"steps": 3, "co_models": [{"checkpoint": "beta", "gamma": 0.75, "eta": 0.25, "prompt": "a, b: c"}]}
    first = server.txt2img(**amdm(**settings))
    [text] = json.loads(first["info"])["infotexts"]
    second = server.from_infotext(text)
    [again] = json.loads(second["info"])["infotexts"]
    # it says too how long it took
    assert [re.sub(r'AMDM ran: ".*?"', "", each) for each in (text, again)] == [
        re.sub(r'AMDM ran: ".*?"', "", text)
    ] * 2
    assert np.array_equal(server.pixels(first)[0], server.pixels(second)[0])


# ---- the plot ----


def test_a_plot_over_gamma_and_k(page: Page) -> None:
    """With the panel closed: an axis switches AMDM on. No K and no gamma is the untouched picture."""
    page.paste(PLAIN)
    page.toggle("script_txt2img_amdm_enabled")
    page.choose("script_txt2img_amdm_checkpoint_1", BETA)
    page.toggle("script_txt2img_amdm_enabled")
    page.wait(lambda: not page.is_open("txt2img"), "the accordion to close")
    page.choose("script_list", "X/Y/Z plot")
    for axis, caption, values in (("x", "[AMDM] gamma", "0, 0.6"), ("y", "[AMDM] steps (K)", "0, 1, 3")):
        page.choose(f"script_txt2img_xyz_plot_{axis}_type", caption)
        page.type(f"script_txt2img_xyz_plot_{axis}_values", values)
    page.click("#script_txt2img_xyz_plot_include_lone_images input")
    page.shot("plot-before")
    page.generate()
    page.all("#txt2img_gallery .thumbnails button")[0].click()  # only then the page shows the infotext of the grid
    axes = 'X Type: [AMDM] gamma, X Values: "0, 0.6", Y Type: [AMDM] steps (K), Y Values: "0, 1, 3"'
    page.wait(lambda: axes in page.one("#html_info_txt2img").text, "the infotext of the grid")
    page.shot("plot")
    _grid, untouched, k0, gamma_k1, k1, gamma_k3, k3 = page.pictures()
    assert all(np.array_equal(untouched, same) for same in (k0, gamma_k1, gamma_k3))
    assert not np.array_equal(untouched, k1)
    assert not np.array_equal(k1, k3)


def test_a_plot_that_names_an_unknown_checkpoint_is_refused_before_it_starts(page: Page) -> None:
    page.paste(PLAIN)
    page.choose("script_list", "X/Y/Z plot")
    page.click("#script_txt2img_xyz_plot_csv_mode input")
    page.choose("script_txt2img_xyz_plot_x_type", "[AMDM] checkpoint of co-model 1")
    page.type("script_txt2img_xyz_plot_x_values", "None, lost, main")
    said = refusal(page, page.generate())
    page.shot("plot-refused")
    assert '"lost"' in said and "list of checkpoints" in said


def test_each_cell_of_a_plot_tells_of_itself_alone(server: WebUI) -> None:
    """The cells share one processing object's data, so what one cell ran must not be told of the next."""
    axes = next(
        argument["choices"]
        for script in server.call("/sdapi/v1/script-info")
        for argument in script["args"]
        if script["name"] == "x/y/z plot" and argument["label"] == "X type"
    )
    gamma, steps = axes.index("[AMDM] gamma"), axes.index("[AMDM] steps (K)")
    answer = server.txt2img(
        steps=3,
        script_name="X/Y/Z plot",
        # three axes, then: legend, single pictures, grids, fixed and varied seeds, margin, text inputs
        script_args=[
            *(gamma, "0.6, 0, 0.4", []),
            *(steps, "2, 0, Auto, 1", []),
            *(0, "", []),
            *(True, *server.host.plot, True, False, True, False, False, False, *server.host.plot_rows, 0, False),
        ],
        **amdm(enabled=False, co_models=[{"checkpoint": "beta"}]),
    )
    cells = json.loads(answer["info"])["infotexts"][1:]
    told = [tuple(re.findall(r"AMDM (?:1 gamma|steps): ([\d.]+|auto)", cell)) for cell in cells]
    rows = [[(k, "0.6"), (), (k, "0.4")] if k != "0" else [(), (), ()] for k in ("2", "0", "auto", "1")]
    assert told == [cell for row in rows for cell in row]


# ---- adapters ----


def test_an_example_is_filled_in_and_its_boxes_are_drawn(page: Page) -> None:
    page.toggle("script_txt2img_amdm_enabled")
    page.toggle("script_txt2img_amdm_examples")
    page.choose("script_txt2img_amdm_preset", presets.PRESETS[-1].name)
    page.click("#script_txt2img_amdm_fill")
    expected = presets.PRESETS[-1].settings.to_dict()

    for slot, told in enumerate([expected["main_adapter"], *expected["co_models"]]):
        names = {"adapter", "strength", "until", "layout"} | ({"gamma", "eta", "checkpoint"} if slot else set())
        for name in names:
            control = f"script_txt2img_amdm_{name}_{slot}" if slot else f"script_txt2img_amdm_{name}"
            shown = str(told[name]).removesuffix(".0")
            page.wait(partial(page.has_value, control, shown), f"{control} = {shown}")
    assert page.value("script_txt2img_amdm_correction") == "paper"
    editor = '[data-field="script_txt2img_amdm_layout"]'
    words = f"{editor} :is(.amdm-label, .amdm-action)"
    drawn = page.wait(lambda: page.all(words), "the drawing")
    assert {element.get_property("textContent") for element in drawn} == {"a boy", "a ball", "kicking"}
    page.wait(lambda: page.one("#script_txt2img_amdm_layout").is_displayed(), "the fold to open")
    page.type("script_txt2img_amdm_layout", "a boy: 0 0 2 2")
    page.wait(lambda: "row 1" in page.one(f"{editor} .amdm-messages").text, "what is wrong")


def drawn(page: Page, field: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    """Drag in a layout's editor, from and to shares of the picture, and return the layout's text."""
    canvas = page.one(f'[data-field="{field}"] .amdm-canvas')
    page.wait(canvas.is_displayed, "the editor")
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    width, height = canvas.rect["width"], canvas.rect["height"]
    (x0, y0), (x1, y1) = ((round((x - 0.5) * width), round((y - 0.5) * height)) for x, y in (start, end))
    pointer = ActionChains(page.driver, duration=50).move_to_element_with_offset(canvas, x0, y0).click_and_hold()
    pointer.move_by_offset(x1 - x0, y1 - y0).release().perform()
    return page.value(field)


def test_a_layout_drawn_in_the_editor_reaches_the_picture(page: Page, server: WebUI) -> None:
    adapter_files.write(
        server.data / "models" / "amdm", adapter_files.Shape.of(server.checkpoint_folder / "alpha.safetensors")
    )
    field, place = "script_txt2img_amdm_layout_1", '[data-field="script_txt2img_amdm_layout_1"]'
    page.driver.get_log("browser")
    layout = "a boy: 0 0 0.5 0.5"
    told = f"{PLAIN}, AMDM: True, AMDM steps: 2, AMDM 1 checkpoint: main, AMDM 1 gamma: 0.5"
    page.paste(f'{told}, AMDM 1 adapter layout: "{layout}"')
    page.wait(lambda: page.is_open("txt2img"), "the accordion to open")
    page.wait(lambda: page.all(f"{place} .amdm-box"), "the pasted layout to be drawn")
    page.click("#script_txt2img_amdm_refresh_adapters_1")
    page.toggle("script_txt2img_amdm_adapter_of_1")
    page.wait(lambda: adapter_files.GLIGEN in page.choices("script_txt2img_amdm_adapter_1"), "the new file")
    page.shot("no-adapter")
    assert seen_of_adapter(page, "_1") == {"adapter"}
    page.choose("script_txt2img_amdm_adapter_1", adapter_files.GLIGEN)
    page.wait(lambda: page.all(f'{place}[data-boxes="30"] .amdm-box'), "the editor to know the file")
    page.wait(lambda: seen_of_adapter(page, "_1") == {"adapter", "strength", "until", "layout"}, "what it takes")
    canvas = page.one(f"{place} .amdm-canvas")
    page.type("txt2img_width", "128")
    page.wait(lambda: abs(canvas.rect["width"] / canvas.rect["height"] - 2) < 0.02, "the shape of the picture")
    text = drawn(page, field, (0.6, 0.6), (0.9, 0.8))
    assert text == f"{layout}\nthing: 0.6 0.6 0.9 0.8"
    page.driver.switch_to.active_element.send_keys("a ball")
    page.shot("editor")
    said = page.generate()
    assert f'AMDM 1 adapter layout: "{layout}\\na ball: 0.6 0.6 0.9 0.8"' in said
    page.all(f"{place} option[value=gallery]")[0].click()
    page.wait(lambda: "file=" in (page.one(f"{place} .amdm-behind").get_attribute("src") or ""), "the picture behind")
    page.shot("editor-picture")
    page.click(f"{place} [data-do=large]")
    page.shot("editor-large")
    page.click(f"{place} [data-do=large]")
    assert [entry["message"] for entry in page.driver.get_log("browser") if "amdm" in entry["message"].lower()] == []


def seen_of_adapter(page: Page, slot: str) -> set[str]:
    """The settings of txt2img's adapters that are seen. slot: "", "_1", ..."""
    names = ("adapter", "strength", "until", "image", "layout")
    return {name for name in names if page.one(f"#script_txt2img_amdm_{name}{slot}").is_displayed()}


def test_the_editor_is_in_the_other_tab_too_and_after_the_page_is_loaded_again(page: Page, server: WebUI) -> None:
    adapter_files.write(
        server.data / "models" / "amdm", adapter_files.Shape.of(server.checkpoint_folder / "alpha.safetensors")
    )
    field = "script_img2img_amdm_layout"

    def draw() -> None:
        page.switch_to("img2img")
        page.toggle("script_img2img_amdm_enabled")
        page.wait(lambda: page.is_open("img2img"), "the accordion to open")
        page.toggle("script_img2img_amdm_main_adapter")
        page.click("#script_img2img_amdm_refresh_adapters_0")
        page.wait(lambda: adapter_files.GLIGEN in page.choices("script_img2img_amdm_adapter"), "the new file")
        page.choose("script_img2img_amdm_adapter", adapter_files.GLIGEN)
        page.wait(lambda: page.one(f"#{field}").is_displayed(), "the adapter's controls")
        assert drawn(page, field, (0.2, 0.2), (0.5, 0.8)) == "thing: 0.2 0.2 0.5 0.8"
        assert page.value("script_txt2img_amdm_layout") == ""

    draw()
    # what "Reload UI" does in the end; the button itself would end the server that other tests use, and A1111 hangs at
    # times in its own shutdown
    page.driver.refresh()
    page.wait(lambda: page.all(f'[data-field="{field}"] .amdm-canvas'), "the editor")
    draw()


def test_a_picture_with_an_adapters_picture_through_the_page(page: Page, server: WebUI, tmp_path: Path) -> None:
    adapter_files.write(
        server.data / "models" / "amdm", adapter_files.Shape.of(server.checkpoint_folder / "alpha.safetensors")
    )
    picture = tmp_path / "reference.png"
    Image.effect_mandelbrot((40, 30), (-2, -1.5, 1, 1.5), 20).convert("RGB").save(picture)
    page.paste(f"{PLAIN}, AMDM: True, AMDM steps: 4, AMDM 1 gamma: 0.5")
    page.wait(lambda: page.is_open("txt2img"), "the accordion to open")
    page.click("#script_txt2img_amdm_refresh_adapters_1")
    page.toggle("script_txt2img_amdm_adapter_of_1")
    page.wait(lambda: adapter_files.IP_ADAPTER in page.choices("script_txt2img_amdm_adapter_1"), "the new file")
    page.choose("script_txt2img_amdm_adapter_1", adapter_files.IP_ADAPTER)
    page.wait(lambda: page.value("script_txt2img_amdm_checkpoint_1") == "main", "the main checkpoint to be chosen")
    page.wait(lambda: seen_of_adapter(page, "_1") == {"adapter", "strength", "until", "image"}, "what it takes")
    assert "needs a reference picture" in refusal(page, page.generate())
    page.one("#script_txt2img_amdm_image_1 input[type=file]").send_keys(str(picture))
    page.wait(lambda: page.all("#script_txt2img_amdm_image_1 img"), "the picture")
    page.shot("adapter")
    told = page.generate()
    assert f"AMDM 1 adapter: {adapter_files.IP_ADAPTER}" in told
    assert f"AMDM 1 adapter image: {fingerprint(as_text(Image.open(picture)))}" in told
    assert len(page.pictures()) == 1
