"""The page of a pair: its figures, its verdict, CLIP's part; every text is escaped, and nothing but pictures loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from amdm_lab.pair.figures import Figure, efficient, figures, summaries
from amdm_lab.pair.page import Comparison, page, verdict
from amdm_lab.pair.similarity import Clip
from amdm_lab.pair.subjects import Subject
from amdm_lab.pair.ways import PICTURES, new_pair, ways
from amdm_lab.store import Record
from amdm_lab.studio.tokenizer import write_tokenizer

PAIR = new_pair("a/alpha.safetensors", "beta.safetensors", {"steps": 20})
SUBJECTS = [Subject("a red square", 1, "a blue circle"), Subject('<b>"nasty"</b> & odd', 2)]
WAYS = ways(PAIR, [], [], "defaults")


def figures_of(folder: Path, subject: Subject, clip: Clip | None, *told: tuple[int, float]) -> list[Figure]:
    """The figures of pictures of these greys that took these seconds."""
    files = [folder / f"{grey}-{seconds}.png" for grey, seconds in told]
    for file, (grey, _) in zip(files, told):
        Image.new("RGB", (4, 4), (grey,) * 3).save(file)
    return figures(files, [Record({}, "", seconds) for _, seconds in told], subject, clip)


def compared(folder: Path, clip: Clip | None = None) -> Comparison:
    """The main model alone, and ways of 30, 20, 10 and 25 grey levels for 4, 1, 2 and 1 seconds more."""
    all_ways = [WAYS[0], *(replace(WAYS[2], caption=name) for name in ("thirty", "twenty", "ten", "more"))]
    told = [(0, 10.0), (30, 14.0), (20, 11.0), (10, 12.0), (25, 11.2)]
    of_subjects = [figures_of(folder, subject, clip, *told) for subject in SUBJECTS]
    return Comparison(PAIR, "a <painter>", SUBJECTS, summaries(all_ways, of_subjects), of_subjects)


def test_what_moved_farthest_for_its_time_is_found(tmp_path: Path) -> None:
    found = compared(tmp_path)
    assert [row.moved for row in found.rows] == [0, 30, 20, 10, 25]
    assert [row.extra for row in found.rows] == pytest.approx([0, 4, 1, 2, 1.2])
    # 1 and 1.2 seconds of 10 count as the same time
    assert [row.way.caption for row in efficient(found.rows[1:])] == ["more", "thirty"]
    said = verdict(found)
    assert said[0] == "Farthest from alpha alone: thirty, 30.0 grey levels for +4.0 s a picture."
    assert said[2:4] == [
        "- more: 25.0 grey levels for +1.2 s a picture",
        "- thirty: 30.0 grey levels for +4.0 s a picture",
    ]


def test_a_time_below_the_main_models_is_none(tmp_path: Path) -> None:
    of_subject = figures_of(tmp_path, SUBJECTS[0], None, (0, 10.0), (30, 9.0))
    found = Comparison(PAIR, "", SUBJECTS[:1], summaries([WAYS[0], WAYS[2]], [of_subject]), [of_subject])
    assert "30.0 grey levels for no more time." in verdict(found)[0]


class Reader(HTMLParser):
    """Collects a page's tags, and what they would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.alts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.tags.append(tag)
        self.loads += [told[name] or "" for name in ("src", "href") if name in told]
        self.alts += [told["alt"] or ""] if "alt" in told else []


def test_the_page_escapes_every_text_and_loads_nothing_but_its_pictures(tmp_path: Path) -> None:
    (tmp_path / PICTURES).mkdir()
    text = page(compared(tmp_path / PICTURES))
    read = Reader(text)
    assert "b" not in read.tags and "painter" not in read.tags and "script" not in read.tags
    assert f"thirty: {SUBJECTS[1].prompt}" in read.alts
    assert read.loads and all((tmp_path / loaded).is_file() for loaded in read.loads)
    assert not re.search(r"https?:|url\(|@import", text)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of two small layers and random weights, in transformers' layout."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**small, "eos_token_id": 49407}, vision_config={**small, "image_size": 32, "patch_size": 8}
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer = CLIPTokenizer.from_pretrained(write_tokenizer(folder))
    tokenizer.save_pretrained(folder)
    size = {"crop_size": {"height": 32, "width": 32}, "size": {"shortest_edge": 32}}
    CLIPImageProcessor(**size).save_pretrained(folder)
    return folder


def test_clip_tells_prompts_and_pictures_apart(clip_folder: Path, tmp_path: Path) -> None:
    clip = Clip(clip_folder)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8))
    features, (one, other, tagged) = clip.view(noise, ["a red square", "blue", "a red square<lora:x:1>"])
    assert features.norm().item() == pytest.approx(1, abs=1e-5)
    assert -1 <= one <= 1 and one != other and one == pytest.approx(tagged, abs=1e-6)
    found = compared(tmp_path, clip)
    assert found.rows[0].features_moved == pytest.approx(0, abs=1e-6)
    assert all(row.to_main is not None and row.to_co is not None for row in found.rows)
    text = page(found)
    assert "to the main prompt" in text and "Nearest to both prompts" in text
    assert clip.view(noise, ["long " * 200, "x"])[1], "longer than CLIP reads"
