"""Guidance of one co-model evaluation: the WebUI's formula, however the rows are put into calls."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lib_amdm.comodels.guidance import guided


class Model:
    """Predicts x * sigma + the mean of its condition, and remembers how many rows each call had."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, x: Tensor, sigma: Tensor, cond: Tensor | dict[str, Tensor], rows: list[int]) -> Tensor:
        self.calls.append(len(x))
        told = cond["crossattn"] if isinstance(cond, dict) else cond
        assert len(x) == len(sigma) == len(told) == len(rows)
        return (
            x * sigma.view(-1, 1, 1, 1)
            + told.mean((1, 2)).view(-1, 1, 1, 1)
            + 10 * torch.tensor(rows).view(-1, 1, 1, 1)
        )


def case(length_of_uncond: int = 3, as_dict: bool = False) -> dict:
    generator = torch.Generator().manual_seed(1)
    cond, uncond = (torch.randn(rows, n, 4, generator=generator) for rows, n in ((3, 3), (2, length_of_uncond)))
    if as_dict:
        cond, uncond = ({"crossattn": part, "vector": part[:, 0]} for part in (cond, uncond))
    return {
        "x": torch.randn(2, 1, 2, 2, generator=generator),
        "sigma": torch.tensor([0.5, 2.0]),
        "parts": [[(0, 1.0), (1, -0.5)], [(2, 1.0)]],
        "cond": cond,
        "uncond": uncond,
        "cond_scale": 7.0,
    }


def by_hand(x, sigma, parts, cond, uncond, cond_scale):
    cond, uncond = (part["crossattn"] if isinstance(part, dict) else part for part in (cond, uncond))
    out = []
    for image, of_image in enumerate(parts):
        plain = x[image] * sigma[image] + 10 * image
        base = plain + uncond[image].mean()
        out.append(base + sum(w * cond_scale * (plain + cond[row].mean() - base) for row, w in of_image))
    return torch.stack(out)


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("length", [3, 6])
@pytest.mark.parametrize("together", [False, True])
def test_formula_holds_for_every_way_to_call_the_model(length, together, as_dict):
    given = case(length, as_dict)
    assert torch.allclose(guided(Model(), **given, together=together), by_hand(**given), atol=1e-5)


@pytest.mark.parametrize(
    ("length", "together", "calls"), [(3, True, [5]), (6, True, [3, 2]), (3, False, [2, 1, 2]), (6, False, [2, 1, 2])]
)
def test_rows_in_a_call(length, together, calls):
    model = Model()
    guided(model, **case(length), together=together)
    assert model.calls == calls


def test_without_the_negative_prompt_the_first_part_is_the_base_and_the_scale_is_one():
    given = case()
    model = Model()
    out = guided(model, **given, skip_uncond=True)
    given["uncond"] = torch.stack([given["cond"][0], given["cond"][2]])
    assert torch.allclose(out, by_hand(**{**given, "cond_scale": 1.0}), atol=1e-5)
    assert model.calls == [3]


def test_nothing_given_is_changed():
    given = case()
    before = {key: value.clone() for key, value in given.items() if isinstance(value, Tensor)}
    guided(Model(), **given)
    assert all(torch.equal(given[key], value) for key, value in before.items())
