"""The demo: what `install.py demo` draws with the bundled checkpoints, writes and prints."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers")
pytest.importorskip("amdm_lab.studio.k_diffusion_parts")

from amdm_lab.bundled import ADAPTERS, JUDGE, WEIGHTS
from amdm_lab.cli import main
from amdm_lab.demo import demo, example
from amdm_lab.demo.demo import DemoWay, DrawnWay
from amdm_lab.demo.example import MIX, SCENES
from amdm_lab.judges.scenes import Judge
from amdm_lab.shapes.rows import MAIN, reference_file
from amdm_lab.shapes.rules import EVERYTHING
from amdm_lab.studio.host import Job, Standalone
from amdm_lab.world import scenes as world

INSTALL = Path(__file__).resolve().parents[2] / "install.py"
PICTURES = 1
NAMES = [MAIN, *(slot.checkpoint for slot in MIX.co_models), EVERYTHING]
bundled = pytest.mark.skipif(
    not all((WEIGHTS / f"{name}.safetensors").is_file() for name in NAMES), reason="the bundled checkpoints are missing"
)
judged = pytest.mark.skipif(not JUDGE.is_file(), reason="the bundled judge is missing")


@dataclass
class Ran:
    """A run of the demo: its file, what it said and what it drew, by the titles of the rows."""

    file: Path
    said: str
    drawn: dict[str, DrawnWay]


def run(file: Path) -> Ran:
    said: list[str] = []
    drawn = demo.demo(file, PICTURES, say=said.append)
    return Ran(file, "\n".join(said), {one.way.title: one for one in drawn})


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    with pytest.MonkeyPatch.context() as patched:
        # fewer steps than a user's, which leave the rows as far apart
        patched.setattr(demo, "STEPS", 10)
        yield run(tmp_path_factory.mktemp("demo") / "demo.png")


def place(picture: np.ndarray, page: np.ndarray) -> tuple[int, int] | None:
    """The place of a picture on the page, as it was drawn."""
    height, width, _ = picture.shape
    for y, x in np.argwhere((page[: 1 - height, : 1 - width] == picture[0, 0]).all(-1)):
        if np.array_equal(page[y : y + height, x : x + width], picture):
            return int(y), int(x)
    return None


@bundled
@judged
def test_every_picture_stands_in_the_row_of_its_models_and_the_column_of_its_scene(ran: Ran) -> None:
    with Image.open(ran.file) as opened:
        assert opened.format == "PNG"
        page = np.asarray(opened.convert("RGB"))
    ys, lefts = [], None
    for drawn in ran.drawn.values():
        assert drawn.pictures.shape == (len(SCENES), PICTURES, world.SIZE, world.SIZE, 3)
        looked = [place(picture, page) for scene in drawn.pictures for picture in scene]
        places = [found for found in looked if found is not None]
        assert len(places) == len(looked), drawn.way.title
        [y] = {y for y, _ in places}
        ys.append(y)
        xs = [x for _, x in places]
        assert xs == sorted(set(xs)) and xs == (lefts or xs)
        lefts = xs
    assert ys == sorted(set(ys))


@bundled
@judged
def test_amdm_differs_from_each_checkpoint_alone_in_every_scene(ran: Ran) -> None:
    alone = [drawn.pictures for drawn in ran.drawn.values() if drawn.way.mix is None]
    directly, through_pixels = (drawn.pictures for drawn in ran.drawn.values() if drawn.way.mix is not None)
    assert len(alone) == len(MIX.co_models) + 2
    for together, others in ((directly, [*alone, through_pixels]), (through_pixels, alone)):
        for pictures in others:
            differing = [not np.array_equal(one, other) for one, other in zip(together, pictures)]
            assert differing == [True] * len(SCENES)


@bundled
@judged
def test_the_table_says_that_amdm_gets_more_objects_right_than_either_alone(ran: Ran) -> None:
    found = re.findall(r"^(.+?) +(\d+)% +(\d+)% +(\d+)% +([\d.]+)$", ran.said, re.M)
    both = {title: int(share) for title, _, _, share, _ in found}
    assert list(both) == list(ran.drawn)
    assert all(int(share) <= min(int(shape), int(colour)) for _, shape, colour, share, _ in found)
    mixed = [share for title, share in both.items() if ran.drawn[title].way.mix]
    assert len(mixed) == 2 and min(mixed) > max(share for title, share in both.items() if title.endswith("alone")), (
        ran.said
    )
    assert str(ran.file.resolve()) in ran.said


@bundled
@judged
def test_the_same_seeds_write_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "STEPS", 2)
    once, again = (run(tmp_path / name).file.read_bytes() for name in ("once.png", "again.png"))
    assert once == again


@judged
def test_the_shares_are_those_of_the_scenes() -> None:
    """Drawings of the scenes themselves are right, and drawings of other scenes are not."""
    rng = np.random.default_rng(3)
    painted = np.stack([[world.draw(scene, rng) for _ in range(3)] for scene in SCENES])
    right = DrawnWay(DemoWay("drawings", MAIN), (painted * 255).astype(np.uint8), 0.0)
    judge = Judge.load()
    assert min(demo.shares(right, judge).values()) > 0.95
    wrong = DrawnWay(right.way, right.pictures[::-1].copy(), 0.0)
    assert demo.shares(wrong, judge)["both"] < 0.3


def test_each_checkpoint_is_told_the_scene_in_its_own_words() -> None:
    assert demo.words("shapes", SCENES[0]) == "a circle at the top left, a cross at the bottom right"
    assert demo.mix_for(SCENES[0], MIX).co_models[0].prompt == (
        "something red at the top left, something blue at the bottom right"
    )


@pytest.mark.parametrize("name", example.BUNDLED)
def test_every_example_of_the_page_draws_with_what_is_bundled(name: str) -> None:
    host = Standalone(WEIGHTS, adapter_folders=[ADAPTERS])
    settings, advice = example.bundled_example(name, host)
    if "image" in advice:
        # the one input that an example leaves to the user
        [slot] = settings.co_models
        settings = replace(settings, co_models=(replace(slot, image=reference_file(SCENES[0], 1)),))
    job = Job(MAIN, [example.words(MAIN, SCENES[0])], [1], steps=4, width=64, height=64)
    alone, together = (host.generate(job, chosen) for chosen in (None, settings))
    assert together.co_evaluations[0] > 0 and not np.array_equal(alone.pictures, together.pictures)


@pytest.mark.parametrize(
    ("arguments", "named"), [(["--pictures", "0"], "--pictures"), (["--out", "no-such-folder/x.png"], "no-such-folder")]
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *arguments]) == 1
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1


def install(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, INSTALL, *arguments], capture_output=True, text=True)


def test_the_webuis_call_of_install_does_nothing() -> None:
    done = install()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_unknown_command_is_refused_and_the_known_ones_are_named() -> None:
    done = install("destroy")
    assert done.returncode == 1
    assert "destroy" in done.stderr and "demo, evaluate, test" in done.stderr
