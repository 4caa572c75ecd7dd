"""Weights are loaded strictly: keys and shapes, no more and no fewer, or nothing at all."""

import pytest
import torch
from torch import nn

from pixelpath.errors import UserError
from pixelpath.networks.weights import NAMED, load_strictly


def test_weights_that_fit_are_loaded() -> None:
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    load_strictly(ours, theirs.state_dict(), "the other", "none")
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


def test_any_misfit_is_named_and_changes_nothing() -> None:
    ours = nn.Linear(3, 2)
    weight, bias = ours.weight.detach().clone(), ours.bias.detach().clone()
    for state, fact in (
        ({"weight": torch.zeros(2, 3)}, "1 missing (bias)"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}, "1 of another shape (bias (3,) instead of (2,))"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "scale": torch.zeros(1)}, "1 unexpected (scale)"),
        ({}, "2 missing (weight, bias)"),
    ):
        with pytest.raises(UserError) as caught:
            load_strictly(ours, state, "the other", "do this", "encoder")
        assert fact in str(caught.value)
        assert "the other" in str(caught.value)
        assert str(caught.value).endswith("do this.")
        assert caught.value.setting == "encoder"
        assert torch.equal(ours.weight, weight)
        assert torch.equal(ours.bias, bias)


def test_of_many_keys_a_few_are_named() -> None:
    strange = {f"x{number}": torch.zeros(1) for number in range(9)}
    with pytest.raises(UserError) as caught:
        load_strictly(nn.Identity(), strange, "the other", "do this")
    assert f"9 unexpected (x0, x1, x2, x3 and {9 - NAMED} more)" in str(caught.value)
