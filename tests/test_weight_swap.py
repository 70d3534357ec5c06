"""Weights that a layer has for a time: they act, and nothing of them is left."""

from __future__ import annotations

import pytest
import torch
from pretend_device import DEVICE, MixedError, pretended
from torch import nn

from lib_amdm.comodels.weight_swap import Change, added, changed


def test_a_layer_has_other_weights_for_a_time_and_its_own_tensors_again() -> None:
    layer, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    twin.weight.data = layer.weight.data  # as the pool lets co-models share
    x, kept, pointer = torch.randn(1, 3), layer.weight.clone(), layer.weight.data_ptr()
    before = layer(x)
    other = torch.randn(2, 3)
    with changed([Change(layer, "weight", other)]):
        assert torch.equal(layer(x), nn.functional.linear(x, other, layer.bias))
        assert torch.equal(twin.weight, kept)
    assert layer.weight.data_ptr() == pointer
    assert torch.equal(layer.weight, kept) and torch.equal(layer(x), before)


def test_a_bias_is_there_for_a_time() -> None:
    layer = nn.Linear(3, 2, bias=False)
    x = torch.randn(1, 3)
    before, bias = layer(x), torch.tensor([1.0, -1.0])
    with changed([Change(layer, "bias", bias)]):
        assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, bias))
    assert layer.bias is None and torch.equal(layer(x), before)


@pytest.mark.parametrize("bias", [True, False])
def test_what_was_read_on_the_cpu_works_on_a_layer_elsewhere(bias: bool) -> None:
    """A layer that has no bias has a LoRA's where its weight is."""
    weight, offset, x = torch.randn(2, 3), torch.randn(2), torch.randn(1, 3)
    with pretended():
        layer = nn.Linear(3, 2, bias=bias).to(DEVICE)
        own = dict(layer.named_parameters())
        with changed([Change(layer, "weight", weight), Change(layer, "bias", offset)]):
            assert {parameter.device for parameter in layer.parameters()} == {DEVICE}
            drawn = layer(x.to(DEVICE)).cpu()
        assert dict(layer.named_parameters()) == own
        with pytest.raises(MixedError):
            layer(x)
    torch.testing.assert_close(drawn, nn.functional.linear(x, weight, offset))


def test_what_is_there_already_is_not_moved_again() -> None:
    with pretended() as traffic:
        layer = nn.Linear(3, 2).to(DEVICE)
        changes = [Change(layer, "weight", torch.randn(2, 3).to(DEVICE))]
        before = dict(traffic)
        for _ in range(2):
            with changed(changes):
                layer(layer.weight)
        assert traffic == before


def test_several_changes_end_in_the_reverse_order_and_what_fails_within_leaves_nothing_either() -> None:
    layer = nn.Linear(1, 1)
    kept = layer.weight.clone()
    with (
        pytest.raises(RuntimeError),
        changed([Change(layer, "weight", torch.full((1, 1), value)) for value in (2.0, 3.0)]),
    ):
        assert layer.weight.item() == 3
        raise RuntimeError
    assert torch.equal(layer.weight, kept)


def test_a_delta_is_added_in_its_own_precision() -> None:
    weight, delta = torch.tensor([[1.0]], dtype=torch.float16), torch.tensor([[2**-11 + 2**-12]])
    assert added(weight, delta).dtype is torch.float16
    assert added(weight, delta).item() == 1 + 2**-10


def test_the_first_layer_of_an_inpainting_checkpoint_keeps_its_further_channels() -> None:
    weight = torch.randn(2, 9, 3, 3)
    delta = torch.randn(2, 4, 3, 3)
    total = added(weight, delta)
    assert torch.equal(total[:, :4], weight[:, :4] + delta) and torch.equal(total[:, 4:], weight[:, 4:])


@pytest.mark.parametrize("there", [True, False])
def test_a_layer_that_a_host_moves_in_the_meantime_has_its_own_weights_where_it_is_then(there: bool) -> None:
    weight, x = torch.randn(2, 3), torch.randn(1, 3)
    begin, end = (DEVICE, torch.device("cpu")) if there else (torch.device("cpu"), DEVICE)
    with pretended():
        layer = nn.Linear(3, 2)
        before = layer(x)
        layer.to(begin)
        with changed([Change(layer, "weight", weight)]):
            layer.to(end)
            changed_to = layer(x.to(end)).cpu()
        assert {parameter.device for parameter in layer.parameters()} == {end}
        after = layer(x.to(end)).cpu()
    torch.testing.assert_close(after, before)
    assert not torch.allclose(changed_to, before)
