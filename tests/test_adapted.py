"""Which rows of which call are whose, and where CLIP's pooled embedding stands."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib_amdm.adapters.errors import AdapterError
from lib_amdm.comodels.adapted import MainRows, pooled_at_end
from lib_amdm.comodels.guidance import guided

parts = st.lists(st.integers(1, 3), min_size=1, max_size=4)


@given(parts, st.data())
def test_the_rows_are_the_same_in_however_many_calls_they_come(counts: list[int], data: st.DataObject) -> None:
    total = sum(counts) + len(counts)
    owners = [image for image, count in enumerate(counts) for _ in range(count)]
    images, prompts, rows = [], [], MainRows(counts)
    while len(images) < total:
        some = data.draw(st.integers(1, total - len(images)))
        taken = rows.take(some)
        assert len(taken[0]) == len(taken[1]) == some
        images += taken[0]
        prompts += taken[1]
    assert images == [*owners, *range(len(counts))]
    assert prompts == [True] * len(owners) + [False] * len(counts)


def test_more_rows_than_there_are_is_another_extensions_doing() -> None:
    rows = MainRows([1, 2])
    rows.take(5)
    with pytest.raises(AdapterError, match="another extension changes the batch"):
        rows.take(1)


@given(parts, st.booleans(), st.booleans(), st.booleans())
def test_guidance_announces_every_row_of_every_call(
    counts: list[int], together: bool, same_length: bool, skip: bool
) -> None:
    """Each row of a condition carries its image and whether it is a prompt's; what is announced must say the same."""
    rows = iter(range(sum(counts)))
    of_images = [[(next(rows), 1.0) for _ in range(count)] for count in counts]
    owners = [image for image, count in enumerate(counts) for _ in range(count)]
    cond = torch.tensor([[[float(image), 1.0]] for image in owners])
    uncond = torch.tensor([[[float(image), 0.0]] * (1 if same_length else 2) for image in range(len(counts))])
    told: list[tuple[list[int], list[bool]]] = []

    def predict(x: torch.Tensor, sigma: torch.Tensor, cond: torch.Tensor, rows: list[int]) -> torch.Tensor:
        images, prompts = told[-1]
        assert images == cond[:, 0, 0].int().tolist() == list(rows)
        assert prompts == (cond[:, 0, 1] == 1).tolist()
        return x

    x = torch.zeros(len(counts), 1)
    guided(
        predict,
        x,
        torch.ones(len(counts)),
        of_images,
        cond,
        uncond,
        2.0,
        skip,
        together,
        lambda images, prompts: told.append((list(images), list(prompts))),
    )
    assert sum(len(images) for images, _ in told) == sum(counts) + (0 if skip else len(counts))


def test_the_pooled_embedding_is_the_first_end_tokens_even_beside_higher_numbers() -> None:
    tokens = torch.tensor([[9, 99, 5, 7, 7], [9, 7, 7, 7, 7]])  # 99 is a textual inversion, 7 the end
    hidden = torch.arange(10.0).reshape(2, 5, 1)
    assert pooled_at_end(hidden, tokens, 7).flatten().tolist() == [3.0, 6.0]
