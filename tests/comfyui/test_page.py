"""The nodes in ComfyUI's page, in Chromium, and the example workflows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from chromium import chromium

from lib_amdm.settings import CoModel, Settings, named, specs

from .server import REPOSITORY, ComfyUI

EXAMPLES = sorted(file.stem for file in (REPOSITORY / "example_workflows").glob("*.json"))
SECONDS = 120
FIELDS = {
    "AMDM": (CoModel, ["gamma", "gamma_end", "region", "feather", "eta", "cfg_scale", "noise"]),
    "AMDMSettings": (Settings, ["steps", "evaluations", "eta", "start", "correction"]),
}


@pytest.fixture(scope="module")
def browser(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser with the page, ready for use."""
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        driver.set_script_timeout(SECONDS)
        driver.get(comfyui.url)
        until(
            lambda: driver.execute_script(
                "return !!window.app?.graph && !!window.LiteGraph?.registered_node_types.AMDM"
            )
        )
        yield driver


def until(found: Callable[[], Any]) -> Any:
    """Wait for something that is there."""
    begun = time.monotonic()
    while time.monotonic() - begun < SECONDS:
        if value := found():
            return value
        time.sleep(0.1)
    raise AssertionError("waited in vain")


@pytest.mark.parametrize("node", FIELDS)
def test_a_nodes_fields_are_the_settings(browser: Any, node: str) -> None:
    owner, names = FIELDS[node]
    widgets = browser.execute_script(
        """
        const node = LiteGraph.createNode(arguments[0]);
        app.graph.add(node);
        const fields = LiteGraph.registered_node_types[arguments[0]].nodeData.input.required;
        const found = node.widgets.map(w => ({name: w.name, value: w.value, tooltip: fields[w.name][1].tooltip,
                                              min: w.options?.min, max: w.options?.max}));
        app.graph.remove(node);
        return found;
        """,
        node,
    )
    assert [widget["name"] for widget in widgets] == names
    for widget in widgets:
        spec = named(widget["name"], specs(owner))
        assert widget["value"] == spec.shown(spec.default)
        assert widget["tooltip"] == spec.help
        if isinstance(spec.shown(spec.default), (int, float)):
            assert (widget["min"], widget["max"]) == (spec.minimum, spec.maximum)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_offered_and_draws(comfyui: ComfyUI, browser: Any, name: str) -> None:
    assert name in comfyui.get("/workflow_templates")["sd-webui-amdm"]
    address = f"/api/workflow_templates/sd-webui-amdm/{name}"
    assert requests.get(f"{comfyui.url}{address}.jpg", timeout=60).headers["Content-Type"] == "image/jpeg"
    graph = comfyui.get(f"{address}.json")
    prompt = browser.execute_async_script(
        """
        const [graph, done] = arguments;
        const checkpointFiles = ["whole-alpha.safetensors", "whole-beta.safetensors"];
        const small = {ckpt_name: null, lora_name: "lora.safetensors", width: 64, height: 64, steps: 3};
        (async () => {
            await app.loadGraphData(graph);
            let checkpoints = 0;
            for (const node of app.graph.nodes) for (const widget of node.widgets ?? []) {
                if (node.type == "AMDMSettings" || !(widget.name in small)) continue;
                widget.value = small[widget.name] ?? checkpointFiles[checkpoints++];
            }
            const {output} = await app.graphToPrompt();
            await app.queuePrompt(0);
            done(output);
        })().catch(error => done({error: String(error)}));
        """,
        graph,
    )
    assert "error" not in prompt, prompt
    kinds = {node["class_type"]: node["inputs"] for node in prompt.values()}
    [written] = [node for node in graph["nodes"] if node["type"] == "AMDM"]
    assert [kinds["AMDM"][field] for field in FIELDS["AMDM"][1]] == written["widgets_values"]
    sent = [until(lambda: [each for each in comfyui.get("/history").values() if each["prompt"][2] == prompt])[-1]]
    for record in sent:
        assert record["status"]["status_str"] == "success", record["status"]["messages"]
        [picture] = [file for output in record["outputs"].values() for file in output.get("images", ())]
        assert (comfyui.data / "output" / picture["subfolder"] / picture["filename"]).is_file()


def test_each_example_has_its_picture() -> None:
    folder: Path = REPOSITORY / "example_workflows"
    assert len(EXAMPLES) == 4
    assert {file.stem for file in folder.glob("*.jpg")} == set(EXAMPLES)
