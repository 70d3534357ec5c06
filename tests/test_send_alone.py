"""The pictures that javascript/send_alone.js sends with their own settings, and these settings, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium")

from chromium import chromium

SCRIPT = Path(__file__).resolve().parents[1] / "javascript" / "send_alone.js"
# the listener stands for the WebUI's own copy of txt2img's controls, which comes later
PAGE = """<meta charset="utf-8"><body>
<button id="txt2img_generate"></button><button id="txt2img_send_to_img2img"></button>
<button id="txt2img_send_to_inpaint"></button><button id="txt2img_send_to_extras"></button>
<div id="script_txt2img_amdm_enabled-checkbox"><input type="checkbox"></div>
<div id="script_txt2img_amdm_compare"><input type="checkbox"></div>
<div id="html_info_txt2img"></div><div id="img2img_prompt"><textarea></textarea></div>
<div id="img2img_tools"><button id="paste"></button></div>
<script>
var opts = {};
const box = document.querySelector("textarea");
let pasted = null, lost = 0;
document.querySelector("#paste").onclick = () => {
    if (lost-- > 0) return;
    pasted = box.value;
    box.value = "pasted";
};
for (const button of document.querySelectorAll("[id^=txt2img_send]")) {
    button.onclick = () => setTimeout(() => { box.value = "copied"; }, 150);
}
</script><script>SCRIPT</script>"""
SEND = """const [compare, text, to, sends, fails] = arguments, done = arguments[arguments.length - 1];
document.querySelectorAll("input").forEach((control) => { control.checked = compare; });
opts.send_seed = opts.send_cfg = sends;
document.querySelector("#txt2img_generate").click();
document.querySelectorAll("input").forEach((control) => { control.checked = !compare; });
document.querySelector("#html_info_txt2img").textContent = text;
pasted = null;
lost = fails;
document.querySelector(`#txt2img_send_to_${to}`).click();
const end = Date.now() + 1500 + 6000 * fails;
const look = () => {
    if (pasted === null && Date.now() < end) setTimeout(look, 50);
    else done([pasted, box.value]);
};
look();"""
ALONE = (
    "a cat, Size: 1x1\nSteps: 1, no\nNegative prompt: red\nSteps: 4, Sampler: Euler, CFG scale: 2.5, "
    "Seed: 7, Size: 64x64, Model: beta"
)
OWN = ALONE.replace(", Size: 64x64", "")
TOGETHER = f"{ALONE}, AMDM: True, AMDM 2 checkpoint: beta, AMDM 2 gamma: 0.5"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser with the script and the parts of a WebUI's page that it uses."""
    folder = tmp_path_factory.mktemp("page")
    file = folder / "page.html"
    file.write_text(PAGE.replace("SCRIPT", SCRIPT.read_text()), encoding="utf-8")
    with chromium(folder / "profile") as started:
        started.get(file.as_uri())
        yield started


@pytest.mark.parametrize(
    ("text", "to", "sends", "own"),
    [
        (ALONE, "img2img", True, OWN),
        (ALONE, "inpaint", True, OWN),
        (ALONE, "img2img", False, OWN.replace(", Seed: 7", "").replace(", CFG scale: 2.5", "")),
        ("Steps: 4, Seed: 7, Size: 64x64, Model: beta", "img2img", True, "Steps: 4, Seed: 7, Model: beta"),
        (f"{ALONE}, AMDM: True, AMDM main adapter: ip", "img2img", True, f"{OWN}, AMDM: True, AMDM main adapter: ip"),
    ],
)
def test_a_model_alone_is_pasted_after_the_webuis_own_copy(
    browser: Any, text: str, to: str, sends: bool, own: str
) -> None:
    assert browser.execute_async_script(SEND, True, text, to, sends, 0) == [own, "pasted"]


def test_a_paste_that_the_webui_loses_is_made_again(browser: Any) -> None:
    assert browser.execute_async_script(SEND, True, ALONE, "img2img", True, 1) == [OWN, "pasted"]


@pytest.mark.parametrize(
    ("compare", "text", "to"),
    [(False, ALONE, "img2img"), (True, TOGETHER, "img2img"), (True, ALONE, "extras"), (True, "", "img2img")],
)
def test_other_pictures_are_sent_by_the_webui_alone(browser: Any, compare: bool, text: str, to: str) -> None:
    assert browser.execute_async_script(SEND, compare, text, to, True, 0) == [None, "copied"]
