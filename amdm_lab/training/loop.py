"""One loop that trains every network of the shapes world: seeded by step, resumable, with a log and a loss plot."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lib_amdm.command_line import put

SAVE_EVERY = 60.0
"""Seconds between two saved states."""
LOG_EVERY = 50

Model = TypeVar("Model", bound=torch.nn.Module)


def train(
    name: str,
    model: Model,
    loss_of: Callable[[np.random.Generator, float], torch.Tensor],
    steps: int,
    lr: float,
    folder: Path,
    average: float = 0.999,
    seed: int = 0,
) -> tuple[Model, dict[str, float]]:
    """Train `model` for `steps`; return its running average, and a record of steps, minutes and loss.

    loss_of(rng, share): the loss of one batch, after this share of the steps. Everything random comes from `rng` or
        from torch's generator, which are both seeded by `seed` and the step.
    average: how slowly the running average follows, 0 for no average. It must have forgotten the first weights by the
        end.

    The state is kept in `folder` every minute, and a second call continues from it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state_file = folder / f"{name}.state.pt"
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-4)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(average))
    first, seconds, losses = 0, 0.0, []
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        first, seconds, losses = state["step"], state["seconds"], state["losses"]

    def save(step: int) -> None:
        state = {"model": model.state_dict(), "averaged": averaged.state_dict(), "optimizer": optimizer.state_dict()}
        unfinished = state_file.with_suffix(".new")
        torch.save({**state, "step": step, "seconds": seconds, "losses": losses}, unfinished)
        put(unfinished, state_file)

    began = saved = time.monotonic()
    before = seconds
    recent: list[float] = []
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * _schedule(step, steps)
        torch.manual_seed(seed * 1_000_003 + step)
        loss = loss_of(np.random.default_rng((seed, step)), step / steps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        averaged.update_parameters(model)
        recent.append(loss.item())
        seconds = before + time.monotonic() - began
        if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            losses.append([step + 1, float(np.mean(recent))])
            recent = []
            print(f"{name}: step {step + 1} of {steps}, loss {losses[-1][1]:.4f}, {seconds / 60:.1f} min", flush=True)
        if time.monotonic() - saved > SAVE_EVERY:
            save(step + 1)
            saved = time.monotonic()
    save(steps)
    plot_losses(name, losses, folder / f"{name}.png")
    record = {"steps": steps, "minutes": round(seconds / 60, 1), "loss": round(losses[-1][1], 5)}
    (folder / f"{name}.json").write_text(json.dumps(record))
    return cast(Model, averaged.module), record


def note(name: str, record: dict[str, float], folder: Path) -> None:
    """Note in the folder of the weights what was trained, with which command, and for how long."""
    file = folder / "training.json"
    notes = json.loads(file.read_text()) if file.exists() else {}
    command = f"python -m amdm_lab train {name}"
    notes[name] = {"command": command, **record, "threads": torch.get_num_threads(), "torch": torch.__version__}
    file.write_text(json.dumps(notes, indent=1) + "\n")


def _schedule(step: int, steps: int) -> float:
    """Return the share of the learning rate: up over the first 2 %, then down along a cosine."""
    warm = max(1, steps // 50)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) + 1e-3


def plot_losses(name: str, losses: list[list[float]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(*zip(*losses))
    axes.set(xlabel="step", ylabel="loss", yscale="log", title=name)
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=100)
    plt.close(figure)
