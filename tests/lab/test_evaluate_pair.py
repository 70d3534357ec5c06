"""A pair of one's own: what is asked for and kept, what the command says. Drawn by a stand-in and without a WebUI."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from PIL import Image

from amdm_lab.bundled import WEIGHTS
from amdm_lab.cli import main
from amdm_lab.drawing import Drawn, Order
from amdm_lab.pair.from_pictures import read_pictures
from amdm_lab.pair.subjects import Subject, read_subjects
from amdm_lab.pair.ways import PICTURES, Pair, new_pair, usual_changes, wanted, ways
from amdm_lab.runs import draw_missing
from amdm_lab.store import Record, Store
from lib_amdm.errors import AmdmError
from lib_amdm.settings import Settings, SettingsError

ROOT = Path(__file__).resolve().parents[2]

COMMON = {"steps": 20, "width": 8, "height": 8}
PAIR = new_pair("a/alpha.safetensors", "beta.safetensors", COMMON)
SUBJECTS = [Subject("a red square", 1, "a blue circle"), Subject('<b>"nasty"</b> & odd', 2)]
WAYS = ways(PAIR, ["gamma=0.7", "evaluations=8"], [0.5], "defaults")


class Painter:
    """Paints a picture in a grey that goes by what it is asked; counts what it paints, and breaks off after some."""

    def __init__(self, after: int = 99) -> None:
        self.asked: list[Order] = []
        self.after = after

    def draw(self, order: Order) -> Drawn:
        if len(self.asked) >= self.after:
            raise AmdmError("The painter is tired; ask again.")
        self.asked.append(order)
        grey = 10 * order.seed + (0 if order.settings is None else int(100 * order.settings["co_models"][0]["gamma"]))
        picture = Image.new("RGB", (order.width, order.height), (grey + 5 * bool(order.refiner),) * 3)
        return Drawn(picture, 0.5, evaluations={order.checkpoint: order.steps})

    def checkpoints(self) -> list[str]:
        return [PAIR.main, PAIR.co]

    def adapters(self) -> list[str]:
        return []

    def description(self) -> str:
        return "a painter"


# what is asked for


def test_each_model_is_asked_with_its_own_prompt_and_amdm_with_both() -> None:
    orders = {way.caption: way.order(PAIR, SUBJECTS[0]) for way in WAYS}
    alone, co, both = orders["alpha alone"], orders["beta alone"], orders["AMDM, defaults"]
    assert (alone.checkpoint, alone.prompt, alone.settings) == (PAIR.main, "a red square", None)
    assert (co.checkpoint, co.prompt, co.settings) == (PAIR.co, "a blue circle", None)
    assert both.settings is not None
    assert (both.checkpoint, both.prompt) == (PAIR.main, "a red square")
    assert both.settings["co_models"][0]["prompt"] == "a blue circle"
    changed = orders["AMDM, gamma 0.7"].settings
    assert changed == {**both.settings, "co_models": [{**both.settings["co_models"][0], "gamma": 0.7}]}
    refiner = orders["refiner: beta from 0.5 of the steps on"]
    assert refiner == replace(alone, refiner=(PAIR.co, 0.5))
    assert {order.seed for order in orders.values()} == {1}


def test_a_co_models_own_prompt_can_include_the_main_one() -> None:
    pair = replace(PAIR, common={**PAIR.common, "negative_prompt": "grey"})
    slot = replace(pair.slot, negative_prompt="{prompt}, dark")
    pair = replace(pair, settings=replace(pair.settings, co_models=(slot,)))
    orders = {way.caption: way.order(pair, Subject("a square", 1, "{prompt} in blue")) for way in WAYS}
    alone, both = orders["beta alone"], orders["AMDM, defaults"]
    assert (alone.prompt, alone.negative_prompt) == ("a square in blue", "grey, dark")
    assert both.prompt == "a square" and both.settings is not None
    assert both.settings["co_models"][0]["prompt"] == "{prompt} in blue"


def test_adapters_stay_on_the_model_that_has_them() -> None:
    told = {
        "main_adapter": {"adapter": "on-main"},
        "co_models": [{"checkpoint": "b", "adapter": "on-co", "cfg_scale": 3}],
    }
    pair = Pair("a", "b", Settings.from_dict({"enabled": True, **told}))
    alone, co = (way.order(pair, SUBJECTS[0]) for way in ways(pair, [], [], "defaults")[:2])
    adapters = [(each.settings or {})["main_adapter"]["adapter"] for each in (alone, co)]
    assert adapters == ["on-main", "on-co"]
    assert (alone.cfg_scale, co.cfg_scale) == (7.0, 3.0)


def test_the_usual_settings_can_be_tried_at_any_number_of_steps() -> None:
    for steps in (1, 8, 20, 50):
        assert len(ways(PAIR, usual_changes(steps), [0.5], "defaults")) == (9 if steps == 1 else 10)


@pytest.mark.parametrize(
    "change", ["gama=0.7", "gamma", "checkpoint=other", "enabled=false", "gamma of co-model 2=1", ""]
)
def test_what_cannot_be_tried_is_named_with_what_can(change: str) -> None:
    with pytest.raises(AmdmError, match=r"--try .* takes settings and their values.*gamma"):
        ways(PAIR, [change], [], "defaults")


def test_a_value_out_of_range_is_the_settings_own_sentence() -> None:
    with pytest.raises(SettingsError, match='"gamma of co-model 1" must be from 0 to 1'):
        ways(PAIR, ["gamma=2"], [], "defaults")


def test_two_etas_can_be_told_apart() -> None:
    settings = ways(PAIR, ["eta=0.1, eta of co-model 1=0.3"], [], "defaults")[-1].settings
    assert settings is not None
    assert (settings.eta, settings.co_models[0].eta) == (0.1, 0.3)


def test_a_share_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["pair", "--url", "http://127.0.0.1:1", "--main", "a", "--co", "b", "--refiner", "2"]) == 1
    assert "--refiner must be from 0 to below 1, not 2" in capsys.readouterr().err


def test_checkpoints_of_one_name_are_told_apart_by_their_folders() -> None:
    found = ways(new_pair("one/a.safetensors", "two/a.ckpt", COMMON), [], [], "defaults")
    assert [way.caption for way in found[:2]] == ["one/a.safetensors alone", "two/a.ckpt alone"]


def test_what_is_asked_for_twice_is_refused() -> None:
    with pytest.raises(AmdmError, match="is there twice"):
        ways(PAIR, ["gamma=0.7", "gamma=0.7"], [], "defaults")


# prompts


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_prompts_come_from_lines_with_the_co_models_behind_a_tab_or_in_a_file(tmp_path: Path) -> None:
    tabbed = written(tmp_path, "tabbed.txt", "\ufeffone\ttwo\n\n  three  \n")
    assert read_subjects(tabbed, None, 7) == [Subject("one", 7, "two"), Subject("three", 8)]
    plain, others = written(tmp_path, "plain.txt", "one\n\nthree\n"), written(tmp_path, "others.txt", "two\n\nfour")
    assert read_subjects(plain, others, 7) == [Subject("one", 7, "two"), Subject("three", 8, "four")]


@pytest.mark.parametrize(
    ("prompts", "others", "said"),
    [
        ("", None, "no prompt in it"),
        ("one\n\ttwo", None, "Line 2 .* no prompt for the main model"),
        ("one\ttwo", "three", "Line 1 .* behind a tab"),
        ("one\ntwo", "three", "1 lines, but .* has 2"),
    ],
)
def test_prompts_that_do_not_fit_are_named(tmp_path: Path, prompts: str, others: str | None, said: str) -> None:
    file = written(tmp_path, "p.txt", prompts)
    with pytest.raises(AmdmError, match=said):
        read_subjects(file, None if others is None else written(tmp_path, "o.txt", others), 1)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(AmdmError, match=r'"gone\.txt" cannot be read'):
        read_subjects(tmp_path / "gone.txt", None, 1)


# drawing


def draw_all(painter: Painter, store: Store, place: str = "a painter") -> list[Record]:
    return draw_missing(painter, store, list(wanted(PAIR, WAYS, SUBJECTS, place).values()), place, warm_up=True)


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(AmdmError, match="tired"):
        draw_all(Painter(after=7), store)
    kept_before = len(list((tmp_path / PICTURES).glob("*.json")))
    rested = Painter()
    records = draw_all(rested, store)
    full = [order for order in rested.asked if order.steps == 20]
    assert kept_before > 0 and len(full) + kept_before == len(WAYS) * len(SUBJECTS) == len(records)
    idle = Painter()
    assert draw_all(idle, store) == records
    assert not idle.asked, "not even to warm up"
    # another place draws its own
    draw_all(Painter(), store, "another painter")
    assert len(list((tmp_path / PICTURES).glob("*.json"))) == 2 * len(records)


def test_each_way_is_warmed_up_once_and_those_of_one_checkpoint_take_turns(tmp_path: Path) -> None:
    painter = Painter()
    draw_all(painter, Store(tmp_path))
    warming = [order for order in painter.asked if order.steps == 2]
    assert len(warming) == len(WAYS)
    drawn = [(order.checkpoint, order.seed) for order in painter.asked if order.steps == 20 and not order.refiner]
    assert drawn == [(PAIR.main, 1)] * 4 + [(PAIR.main, 2)] * 4 + [(PAIR.co, 1), (PAIR.co, 2)]


def test_a_folder_without_a_clip_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    told = ["pair", "--models", str(WEIGHTS), "--clip", str(tmp_path / "no-clip")]
    assert main(told) == 1
    assert '--clip "no-clip" has no CLIP in it' in capsys.readouterr().err


# out of a picture


INFOTEXT = {
    "Prompt": "a red square",
    "Negative prompt": "",
    "Steps": "6",
    "Sampler": "Euler",
    "Schedule type": "Automatic",
    "CFG scale": "3",
    "Seed": "5",
    "Size-1": "64",
    "Size-2": "48",
    "Model": "alpha",
    "AMDM": "True",
    "AMDM steps": "auto",
    "AMDM eta": "0.1",
    "AMDM 1 checkpoint": "beta [1234]",
    "AMDM 1 gamma": "0.4",
    "AMDM 1 gamma end": "",
    "AMDM 1 prompt": "a blue circle",
    "AMDM 2 checkpoint": "None",
}


class Png:
    """A WebUI that reads these infotexts, one for each picture in turn."""

    def __init__(self, *infotexts: dict[str, str]) -> None:
        self.infotexts = iter(infotexts)

    def checkpoints(self) -> list[str]:
        return [PAIR.main, PAIR.co]

    def request(self, path: str, body: object) -> dict[str, object]:
        assert path == "/sdapi/v1/png-info"
        parameters = next(self.infotexts)
        return {"info": parameters.pop("info", ""), "parameters": parameters}


def from_pictures(folder: Path, *infotexts: dict[str, str]) -> tuple[Pair, list[Subject]]:
    files = [written(folder, f"{number}.png", "") for number in range(len(infotexts))]
    return read_pictures(Png(*map(dict, infotexts)), files)  # type: ignore[arg-type]


def test_a_picture_says_its_models_its_settings_and_its_subject(tmp_path: Path) -> None:
    another = {**INFOTEXT, "Prompt": "a cross", "Seed": "6", "AMDM 1 prompt": ""}
    pair, subjects = from_pictures(tmp_path, INFOTEXT, another)
    assert (pair.main, pair.co) == (PAIR.main, PAIR.co)
    assert subjects == [Subject("a red square", 5, "a blue circle"), Subject("a cross", 6)]
    assert (pair.settings.eta, pair.slot.gamma, pair.slot.gamma_end) == (0.1, 0.4, None)
    drawn = {"steps": 6, "cfg_scale": 3.0, "width": 64, "height": 48, "sampler": "Euler", "schedule": "Automatic"}
    assert pair.common == drawn


@pytest.mark.parametrize("name", ["alpha", '"alpha"'])
def test_the_loaded_checkpoint_is_read_where_a_webui_leaves_it_out(tmp_path: Path, name: str) -> None:
    left_out = {key: value for key, value in INFOTEXT.items() if key != "Model"}
    info = f"a red Model: of, Model: other\nSteps: 6, Seed: 5, Model hash: 12, Model: {name}, AMDM: True"
    pair, _ = from_pictures(tmp_path, {**left_out, "info": info})
    assert pair.main == PAIR.main


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"AMDM": "False"}, "was drawn with . co-models of AMDM"),
        ({"AMDM 2 checkpoint": "alpha", "AMDM 2 gamma": "0.5"}, "was drawn with 2 co-models"),
        ({"AMDM 1 checkpoint": "gone"}, 'with "gone", which the WebUI does not list'),
        ({"Model": "gone"}, 'with "gone", which the WebUI does not list'),
        ({"Denoising strength": "0.5"}, "not drawn from a prompt alone"),
        ({"AMDM 1 adapter": "ip", "AMDM 1 adapter image": "1234abcd"}, "drawn with a picture"),
        ({"Seed": "five"}, "infotext that cannot be read"),
    ],
)
def test_a_picture_that_is_no_pair_is_named(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    with pytest.raises(AmdmError, match=f'"0.png".*{said}'):
        from_pictures(tmp_path, {**INFOTEXT, **changes})


def test_pictures_of_two_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AmdmError, match=r'"1\.png" was drawn with other models or settings than "0\.png"'):
        from_pictures(tmp_path, INFOTEXT, {**INFOTEXT, "AMDM 1 gamma": "0.9"})


# the command


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (["--main", "shapes", "--prompts", "P"], "Name two checkpoints and a file of prompts"),
        (["--main", "shapes", "--co", "nobody", "--prompts", "P"], '"nobody" is not in the list'),
        (["--main", "shapes", "--co", "main", "--prompts", "P"], "the second model needs its own prompts"),
        (["--main", "shapes", "--co", "colours", "--prompts", "P", "--try", "gamma=9"], "must be from 0 to 1"),
        (["--main", "shapes", "--co", "colours", "--prompts", "P", "--refiner", "0.5"], "--refiner needs a WebUI"),
        (["--from", "P"], "--from needs the WebUI"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture, told: list[str], said: str
) -> None:
    prompts = written(tmp_path, "p.txt", "a red square\n")
    given = [str(prompts) if word == "P" else word for word in told]
    small = ["--width", "16", "--height", "16", "--steps", "2"]
    assert main(["pair", "--models", str(WEIGHTS), "--out", str(tmp_path), *given, *small]) == 1
    assert said in capsys.readouterr().err


def test_beside_a_webui_no_library_is_needed_that_its_python_may_lack(tmp_path: Path) -> None:
    """The command comes as far as its first request, and without a WebUI it names what it lacks."""
    names = ["--main", "a", "--co", "b", "--prompts", str(written(tmp_path, "p.txt", "a red square\n"))]
    code = (
        "import sys; sys.modules |= dict.fromkeys(('diffusers', 'transformers', 'k_diffusion')); "
        "from amdm_lab.cli import main; sys.exit(main(sys.argv[1:]))"
    )

    def said(*place: str) -> str:
        # a process of its own: modules that are imported again stay in their packages
        command = [sys.executable, "-c", code, "pair", *place, *names]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert ran.returncode == 1
        return ran.stderr

    assert "does not answer as a WebUI's API does" in said("--url", "http://127.0.0.1:1")
    assert "This needs the Python package k_diffusion; run" in said("--models", str(tmp_path))


def test_the_bundled_checkpoints_are_a_pair(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    prompts = written(tmp_path, "p.txt", "a red square\ta blue circle\n")
    small = ["--width", "64", "--height", "64", "--steps", "4", "--try", "evaluations=1"]
    told = ["--models", str(WEIGHTS), "--main", "shapes", "--co", "colours", "--prompts", str(prompts), *small]
    assert main(["pair", "--out", str(tmp_path), *told]) == 0
    assert "Farthest from shapes alone" in capsys.readouterr().out
    records = [json.loads(file.read_text()) for file in (tmp_path / PICTURES).glob("*.json")]
    told_apart = {(record["order"]["checkpoint"], *sorted(record["evaluations"].values())) for record in records}
    main_file, co_file = "shapes.safetensors", "colours.safetensors"
    assert told_apart == {(main_file, 4), (co_file, 4), (main_file, 1, 4), (main_file, 3, 4)} and len(records) == 4
    memory = {len(record["evaluations"]): record["memory"] for record in records}
    assert memory[1]["co_models"] == 0 < memory[2]["co_models"] < memory[2]["total"]
    assert memory[1]["total"] == memory[2]["total"] - memory[2]["co_models"]
    assert (tmp_path / "index.html").read_text(encoding="utf-8").count("<img ") == 4
