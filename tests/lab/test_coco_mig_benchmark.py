"""COCO-MIG's entries and methods: the builder against the published definitions, the published file's form."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from coco_form import HEIGHT, WIDTH, random_pictures, write

from amdm_lab.coco_mig import benchmark
from amdm_lab.coco_mig.benchmark import Entry, Instance, first_of_each_level
from amdm_lab.coco_mig.build import build
from amdm_lab.coco_mig.published import COLOURS, LEVELS, MIGC_PAGE, PAPER
from amdm_lab.coco_mig.recipes import BUILT_IN, Recipe, built_in, from_file
from lib_amdm.errors import AmdmError
from lib_amdm.settings import Settings

ADAPTERS = ["ip-adapter_sd15.safetensors", "ext_InteractDiff_v1.0.pth", "MIGC_SD14.ckpt"]
CATS = [("cat", (0, 0, 100, 100)), ("dog", (200, 100, 300, 300))]
PUBLISHED = {
    "7": {
        "caption": "a photo of a black cat and a white hot dog ",
        "segment": [
            {"bbox": [0.125, 0.5, 0.75, 1.0], "label": "a black cat"},
            {"bbox": [0.5, 0.5, 1, 0.75], "label": "a white hot dog"},
        ],
        "image_id": "500084",
    }
}
"""The form of the paper's own file."""
ENTRY = Entry(0, "0", "a photo of a red cat and a blue dog", (Instance("a red cat", (0, 0, 0.5, 1)),) * 2)


# --- the builder ---


@pytest.fixture(scope="module", name="annotations")
def written_annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("coco") / "instances.json", random_pictures(400))


@pytest.fixture(scope="module")
def entries(annotations: Path) -> list[Entry]:
    return build(annotations, count=100, seed=3)


def test_every_level_has_a_fifth_of_the_entries(entries: list[Entry]) -> None:
    assert Counter(entry.level for entry in entries) == dict.fromkeys((2, 3, 4, 5, 6), 20)
    assert [entry.number for entry in entries] == list(range(100))


def test_instances_are_cocos_that_are_not_small(entries: list[Entry]) -> None:
    drawn = random_pictures(400)
    for entry in entries:
        things = {
            (name, (x / WIDTH, y / HEIGHT, (x + w) / WIDTH, (y + h) / HEIGHT)): (w / WIDTH, h / HEIGHT)
            for name, (x, y, w, h) in drawn[int(entry.image_id)]
        }
        kept = {(instance.name, instance.box) for instance in entry.instances}
        assert kept <= set(things) and len(kept) == entry.level
        assert all(min(things[thing]) >= 1 / 8 for thing in kept)
        if entry.level < 6:
            assert kept == {thing for thing, sides in things.items() if min(sides) >= 1 / 8}


def test_a_prompt_names_each_instance_with_its_colour(entries: list[Entry]) -> None:
    for entry in entries:
        assert entry.caption == "a photo of " + " and ".join(f"a {i.colour} {i.name}" for i in entry.instances)
    colours = Counter(instance.colour for entry in entries for instance in entry.instances)
    assert set(colours) == set(COLOURS) and min(colours.values()) > 30
    assert any(instance.name == "hot dog" for entry in entries for instance in entry.instances)


def test_no_people_no_picture_twice_no_prompt_twice(entries: list[Entry]) -> None:
    assert all(instance.name != "person" for entry in entries for instance in entry.instances)
    assert len({entry.image_id for entry in entries}) == len({entry.caption for entry in entries}) == 100


def test_the_seed_makes_the_benchmark(annotations: Path, entries: list[Entry]) -> None:
    assert build(annotations, count=100, seed=3) == entries
    assert build(annotations, count=100, seed=4) != entries


def test_of_more_than_six_the_first_six_are_kept_largest_first(tmp_path: Path) -> None:
    sides = (100, 130, 120, 90, 110, 95, 300)
    # the last one would be the largest, and a person in its place would be no hindrance
    things = [("cup", (0, 0, side, side)) for side in sides[:-1]] + [("person", (0, 0, 300, 300))]
    pictures = {level: [("cat", (level, n, 100, 100)) for n in range(level)] for level in (2, 3, 4, 5)}
    [entry] = [e for e in build(write(tmp_path / "c.json", {9: things, **pictures}), count=5) if e.level == 6]
    assert [round(WIDTH * i.box[2]) for i in entry.instances] == sorted(sides[:-1], reverse=True)


def test_a_picture_with_a_person_among_its_instances_is_left_out(tmp_path: Path) -> None:
    pictures = {level: [("cat", (level, n, 100, 100)) for n in range(level)] for level in LEVELS}
    small = [("person", (0, 0, 79, 79))]
    with_small = {image: small + things for image, things in pictures.items()}
    assert len(build(write(tmp_path / "small.json", with_small), count=5)) == 5
    with_one = {**pictures, 4: [("person", (0, 0, 80, 60)), *pictures[4][1:]]}
    with pytest.raises(AmdmError, match=r"too few layouts for 5 entries \(lacking: 1 of 4 things\)"):
        build(write(tmp_path / "person.json", with_one), count=5)


@pytest.mark.parametrize(
    "told", [{}, [], {"images": [], "annotations": [{"image_id": 1}], "categories": []}, {"annotations": 3}]
)
def test_a_file_that_is_not_of_cocos_form_is_named(tmp_path: Path, told: Any) -> None:
    file = tmp_path / "captions.json"
    file.write_text(json.dumps(told))
    with pytest.raises(AmdmError, match=r'^"captions.json" does not have the form of COCO\'s instances'):
        build(file)


# --- the published form ---


def read(tmp_path: Path, told: Any) -> list[Entry]:
    file = tmp_path / "mig_bench.json"
    file.write_text(told if isinstance(told, str) else json.dumps(told))
    return benchmark.read(file)


def test_the_published_form_is_read(tmp_path: Path) -> None:
    [entry] = read(tmp_path, PUBLISHED)
    assert (entry.number, entry.key, entry.level, entry.image_id) == (0, "7", 2, "500084")
    assert entry.caption == "a photo of a black cat and a white hot dog"
    assert [(i.colour, i.name) for i in entry.instances] == [("black", "cat"), ("white", "hot dog")]
    assert entry.instances[0].box == (0.125, 0.5, 0.75, 1.0)


def test_what_is_written_is_read_again(tmp_path: Path, entries: list[Entry]) -> None:
    file = tmp_path / "mig_bench.json"
    benchmark.write(entries, file)
    assert benchmark.read(file) == entries
    told = json.loads(file.read_text())
    assert set(told["0"]) == set(PUBLISHED["7"]) and set(told["0"]["segment"][0]) == {"bbox", "label"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"segment": []}, "2 to 6 segments"),
        ({"caption": 3}, "a text as caption"),
        ({"segment": [{"label": "a red cat"}] * 2}, '"label" and "bbox"'),
        ({"segment": 3}, '"label" and "bbox"'),
        ({"segment": [{"label": "a purple cat", "bbox": [0, 0, 1, 1]}] * 2}, "colours red, blue, green"),
        ({"segment": [{"label": "cat", "bbox": [0, 0, 1, 1]}] * 2}, 'like "a red cat"'),
        ({"segment": [{"label": "a red cat", "bbox": [0.5, 0, 0.5, 1]}] * 2}, "box is empty"),
        ({"segment": [{"label": "a red cat", "bbox": [0, 0, 640, 480]}] * 2}, "four numbers from 0 to 1"),
    ],
)
def test_an_entry_that_is_not_of_it_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(AmdmError, match=r'^entry "7" of "mig_bench.json" ') as caught:
        read(tmp_path, {"7": {**PUBLISHED["7"], **change}})
    assert said in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize("told", ["{", "[]", "{}", '{"a": []}'])
def test_a_file_that_is_no_benchmark_is_named(tmp_path: Path, told: str) -> None:
    with pytest.raises(AmdmError, match=r"mig_bench.json"):
        read(tmp_path, told)


def test_fewer_entries_are_the_first_of_each_level(entries: list[Entry]) -> None:
    fewer = first_of_each_level(entries, 15)
    assert Counter(entry.level for entry in fewer) == dict.fromkeys(LEVELS, 3)
    for level in LEVELS:
        assert [e for e in fewer if e.level == level] == [e for e in entries if e.level == level][:3]
    assert first_of_each_level(entries, 800) == entries


def test_published_averages_are_of_instances_and_not_of_levels() -> None:
    """The tables' last columns follow from their levels so, as `report` counts; the sources round differently."""
    for row in PAPER:
        for levels, total in ((row.success, row.all_success), (row.overlap, row.all_overlap)):
            assert sum(n * x for n, x in zip(LEVELS, levels)) / sum(LEVELS) == pytest.approx(total, abs=0.01)
    assert sum(n * x for n, x in zip(LEVELS, MIGC_PAGE.success)) / 20 == pytest.approx(MIGC_PAGE.all_success, abs=1)


# --- the methods ---


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_method_is_settings_that_run(name: str) -> None:
    settings = Settings.from_dict(built_in(name, ADAPTERS, {}).of(ENTRY))
    assert settings.runs and settings.mixes == (name not in ("interact", "migc"))
    used = {settings.main_adapter.adapter, *(slot.adapter for slot in settings.co_models)}
    assert used == {
        "interact": {ADAPTERS[1]},
        "migc": {ADAPTERS[2]},
    }.get(name, {ADAPTERS[1], ADAPTERS[2]})


def test_each_instance_acts_on_itself_by_and_as_in_the_papers_code() -> None:
    layout = built_in("paper", ADAPTERS, {}).of(ENTRY)["main_adapter"]["layout"]
    assert [row["phrase"] for row in layout if "phrase" in row] == ["a red cat", "a red cat"]
    actions = [row for row in layout if "action" in row]
    assert actions == [{"subject": n, "action": "and", "object": n} for n in (0, 1)]


def test_the_papers_settings_are_the_papers() -> None:
    told = built_in("paper", ADAPTERS, {}).settings
    assert {"steps": 3, "eta": 45, "correction": "paper", "evaluations": 0}.items() <= told.items()
    assert {"gamma": 0.5, "eta": 55, "checkpoint": "main"}.items() <= told["co_models"][0].items()
    defaults = Settings.from_dict(built_in("defaults", ADAPTERS, {}).of(ENTRY))
    plain = Settings.from_dict({"enabled": True, "co_models": [{"checkpoint": "main"}]})
    for name in ("steps", "evaluations", "eta", "correction", "start"):
        assert getattr(defaults, name) == getattr(plain, name)
    assert defaults.co_models[0].gamma == plain.co_models[0].gamma


def test_a_files_adapters_get_the_layout_where_they_have_none(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    own = "a cup: 0 0 1 1"
    slots = [{"checkpoint": "main", "adapter": "MIGC.ckpt"}, {"checkpoint": "other"}]
    file.write_text(
        json.dumps({"enabled": True, "main_adapter": {"adapter": "gligen", "layout": own}, "co_models": slots})
    )
    method = from_file(file)
    told = method.of(ENTRY)
    assert method.name == "mine" and told["main_adapter"]["layout"] == own
    assert told["co_models"][0]["layout"] == ENTRY.layout().rows() and "layout" not in told["co_models"][1]
    assert "layout" not in method.settings["co_models"][0]
    assert from_file(file).of(Entry(0, "0", "", ENTRY.instances[:1])) != told


@pytest.mark.parametrize(
    ("name", "told", "said"),
    [
        ("mine", "{", "cannot be read as JSON"),
        ("mine", '{"gama": 1}', "gama"),
        ("mine", '{"enabled": false}', "runs nothing"),
        ("paper", '{"enabled": true, "co_models": [{"checkpoint": "main"}]}', "call it otherwise"),
    ],
)
def test_a_file_that_is_no_method_is_named(tmp_path: Path, name: str, told: str, said: str) -> None:
    file = tmp_path / f"{name}.json"
    file.write_text(told)
    with pytest.raises(AmdmError, match=f"{name}.json.*{said}"):
        from_file(file)


def test_adapters_are_found_by_their_names_or_as_they_are_given() -> None:
    def used(listed: list[str], **given: str) -> str:
        return built_in("interact", listed, given).settings["main_adapter"]["adapter"]

    both = [*ADAPTERS, "my/interact.safetensors"]
    assert used(both) == ADAPTERS[1] and used(both, interact="my/interact.safetensors") == "my/interact.safetensors"
    with pytest.raises(AmdmError, match=r'no adapter with "interact" in its name .* or name it with --interact\.$'):
        used([ADAPTERS[0]])
    with pytest.raises(AmdmError, match=re.escape('no adapter "lost.pth" is in the list (empty)')):
        used([], interact="lost.pth")
    with pytest.raises(AmdmError, match='"mine" is not a method'):
        built_in("mine", ADAPTERS, {})


def test_a_method_leaves_its_settings_as_they_are() -> None:
    method = Recipe("a", "a", {"enabled": True, "main_adapter": {"adapter": "x"}, "co_models": None})
    method.of(ENTRY)
    assert method.settings == {"enabled": True, "main_adapter": {"adapter": "x"}, "co_models": None}
