"""The line of what ran, which javascript/run_line.js takes from a picture's infotext, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("selenium")

from chromium import chromium
from selenium.webdriver.support.ui import WebDriverWait

SCRIPT = Path(__file__).resolve().parents[1] / "javascript" / "run_line.js"
RAN = "2 models, 3 of 20 steps, 4 evaluations of beta, +0.9 s of 7.1 s"
SAID = f'AMDM: True, AMDM steps: auto, AMDM ran: "{RAN}", Version: v1'
PROMPTS = ("a cat", 'a cat, AMDM ran: "no"', "AMDM ran: no", "a cat\nAMDM ran: no", "Steps: 1, AMDM ran: no\na cat", "")
BESIDE = (
    "Seed: 1",
    r'AMDM 1 prompt: "a, \"AMDM ran: no\", AMDM ran: no", Seed: 1',
    r'AMDM 1 prompt: "a: b\nSteps: 1, AMDM ran: no", Seed: 1',
    'Hires prompt: "AMDM ran: no, ", Size: 64x64',
)
INFOTEXTS = [f"{prompt}\nNegative prompt: {prompt}\nSteps: 20, {beside}" for prompt in PROMPTS for beside in BESIDE]
TEXTS = {
    **dict.fromkeys(INFOTEXTS, ""),
    **{f"{text}, {SAID}": RAN for text in INFOTEXTS},
    **{f"{text}, {SAID}\nTemplate: AMDM ran: no": RAN for text in INFOTEXTS[:4]},
    f"{INFOTEXTS[0]}, AMDM ran: 2 models": "2 models",
    "": "",
}


def test_only_what_the_picture_says_itself_is_shown(tmp_path: Path) -> None:
    fill = """arguments[0].forEach((text, n) => {
        document.body.insertAdjacentHTML(
            "beforeend", `<div id="html_info_${n}"></div><p class="amdm-ran" data-tab="${n}">-</p>`
        );
        document.getElementById(`html_info_${n}`).textContent = text;
    })"""
    file = tmp_path / "page.html"
    file.write_text(f'<meta charset="utf-8"><body><script>{SCRIPT.read_text()}</script>', encoding="utf-8")
    with chromium(tmp_path / "profile") as browser:
        browser.get(file.as_uri())
        browser.execute_script(fill, list(TEXTS))

        def shown(driver: object) -> list[str]:
            read = "return [...document.querySelectorAll('.amdm-ran')].map(each => each.textContent)"
            return browser.execute_script(read)

        WebDriverWait(browser, 10, 0.05).until(lambda driver: "-" not in shown(driver))
        assert dict(zip(TEXTS, shown(browser))) == TEXTS
