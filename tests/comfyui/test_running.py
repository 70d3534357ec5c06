"""A server at work: errors, interrupts, the queue, progress, memory."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch

from .graphs import Drawing, Link
from .server import ComfyUI, ComfyUIError, Graph


def graph(of: Any, **values: Any) -> Graph:
    """A graph that draws with the model that `of` adds."""
    drawing = Drawing()
    return drawing.saved(drawing.sample(of(drawing), **values))


def both(drawing: Drawing, **values: Any) -> Link:
    return drawing.amdm(drawing.checkpoint("alpha"), drawing.checkpoint("beta"), **values)


def with_words(drawing: Drawing, name: str, *names: str) -> Link:
    words = {each: drawing.words(1, 1024) for each in names}
    return drawing.amdm(drawing.checkpoint("alpha"), drawing.checkpoint(name), **words)


def two_scales(drawing: Drawing) -> Link:
    words = {"cond1": drawing.words(1), "cond2": drawing.words(2), "negative": drawing.words(3)}
    model = both(drawing)
    scales = {"cfg_conds": 3.0, "cfg_cond2_negative": 3.0, "style": "regular"}
    return drawing.node(
        "SamplerCustomAdvanced",
        noise=drawing.node("RandomNoise", noise_seed=5),
        guider=drawing.node("DualCFGGuider", model=model, **words, **scales),
        sampler=drawing.node("KSamplerSelect", sampler_name="euler"),
        sigmas=drawing.node("BasicScheduler", model=model, scheduler="normal", steps=3, denoise=1.0),
        latent_image=drawing.empty(),
    )


def without_noise(drawing: Drawing) -> Link:
    fields = {"sampler_name": "euler", "scheduler": "normal", "start_at_step": 0, "end_at_step": 3, "steps": 3}
    return drawing.node(
        "KSamplerAdvanced",
        model=both(drawing, noise="independent"),
        positive=drawing.words(1),
        negative=drawing.words(2),
        latent_image=drawing.empty(),
        add_noise="disable",
        return_with_leftover_noise="disable",
        noise_seed=5,
        cfg=3.0,
        **fields,
    )


REFUSED = {
    "latents": (
        lambda d: d.sample(with_words(d, "upscaler", "positive", "negative")),
        "AMDM: co-model 1 is SD_X4Upscaler with latents SD_X4, but the main model is SD15 with SD15; connect one with "
        "the same.",
    ),
    "words": (
        lambda d: d.sample(with_words(d, "sd2", "positive")),
        "AMDM: co-model 1 is SD20, but the main model SD15; connect its positive and negative.",
    ),
    "number": (
        lambda d: d.sample(both(d, gamma_end="much")),
        "AMDM: \"gamma_end of co-model 1\" must be a number or empty, but it is 'much'; change it.",
    ),
    "eta": (
        lambda d: d.sample(d.settings(both(d, eta=0.5), eta=2.0)),
        'AMDM: "eta" is 2, but with the relative correction it must be from 0 to 1; lower it, or set "correction" to '
        '"paper" for the paper\'s units.',
    ),
    "noise": (
        without_noise,
        "AMDM: co-model 1 has independent noise, but the sampler adds none; set its noise to shared.",
    ),
    "scales": (
        two_scales,
        "AMDM: co-model 1 cannot use the CFG scales of the main model's guider; set its own CFG scale.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_error_is_a_sentence_with_the_remedy(comfyui: ComfyUI, case: str) -> None:
    make, sentence = REFUSED[case]
    drawing = Drawing()
    assert comfyui.error(drawing.saved(make(drawing))) == sentence


def test_sd2_beside_sd1_with_its_own_words(comfyui: ComfyUI) -> None:
    found = comfyui.latents(graph(lambda d: with_words(d, "sd2", "positive", "negative")))
    assert torch.isfinite(found).all()


def test_a_number_out_of_range_is_refused_before_the_queue(comfyui: ComfyUI) -> None:
    with pytest.raises(ComfyUIError, match=r"1\.5.*bigger than max"):
        comfyui.queue(graph(lambda d: both(d, gamma=1.5)))


def test_an_interrupt_ends_the_prompt_at_once_and_leaves_nothing(comfyui: ComfyUI) -> None:
    def shared(drawing: Drawing) -> Link:
        main = drawing.checkpoint("alpha")
        return drawing.settings(drawing.amdm(main, drawing.counted(drawing.lora(main), "co")), steps=150, evaluations=0)

    plain = comfyui.latents(graph(lambda d: d.checkpoint("alpha")))
    comfyui.counts()
    prompt, following = comfyui.queue(graph(shared, steps=400)), comfyui.queue(graph(shared, seed=6))
    while not comfyui.counts():
        time.sleep(0.05)
    comfyui.post("/interrupt")
    assert comfyui.wait(prompt)["status"]["status_str"] == "error"
    after = comfyui.saved(comfyui.wait(following))
    assert torch.equal(comfyui.latents(graph(lambda d: d.checkpoint("alpha"))), plain)
    assert torch.equal(comfyui.latents(graph(shared, seed=6)), after)


def test_two_prompts_in_the_queue_do_not_see_each_other(comfyui: ComfyUI) -> None:
    def other(drawing: Drawing) -> Link:
        return drawing.amdm(drawing.checkpoint("beta"), drawing.checkpoint("alpha"), gamma=0.8)

    graphs = [graph(both, seed=11), graph(other, seed=12)]
    together = [comfyui.saved(comfyui.wait(each)) for each in [comfyui.queue(each) for each in graphs]]
    again = [graph(both, seed=11), graph(other, seed=12)]
    for first, each in zip(together, again):
        assert torch.equal(comfyui.latents(each), first)


def test_each_step_has_its_progress_and_its_preview(comfyui: ComfyUI) -> None:
    websocket = pytest.importorskip("websocket")
    connection = websocket.create_connection(f"{comfyui.url.replace('http', 'ws')}/ws?clientId=watcher", timeout=120)
    prompt = comfyui.queue(graph(both, seed=31, steps=6), "watcher")
    previews, steps = 0, set()
    while True:
        message = connection.recv()
        if isinstance(message, bytes):
            previews += 1
            continue
        event = json.loads(message)
        if event["type"] == "progress":
            steps.add((event["data"]["value"], event["data"]["max"]))
        if event["type"] == "execution_success":
            break
    connection.close()
    assert event["data"]["prompt_id"] == prompt
    assert previews == 6
    assert steps == {(step, 6) for step in range(1, 7)}


def test_memory_does_not_grow(comfyui: ComfyUI) -> None:
    def shared(drawing: Drawing) -> Link:
        main = drawing.checkpoint("alpha")
        return drawing.amdm(both(drawing), drawing.lora(main), gamma=0.3)

    found = []
    for number in range(50):
        values = {"seed": 100 + number, "steps": 2, "sampler_name": ("euler", "euler_cfg_pp")[number % 2]}
        comfyui.latents(graph(shared, **values))
        if number in (9, 49):
            found.append(comfyui.get("/tests/alive"))
    assert found[1] == found[0]
