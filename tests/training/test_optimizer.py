"""The schedules against the reference's numbers, and AdamW against its equation."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from pixelpath.training.optimizer import AdamW, Constant, Cosine, Steps


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("lr.cos", Cosine(warmup=10_000, total=1_000_000)),
        ("lr.cosmin", Cosine(warmup=10, total=100, floor=0.1)),
        ("lr.step", Steps(warmup=10_000)),
    ],
)
def test_schedules_equal_the_reference(parity: Path, name: str, schedule: Cosine | Steps) -> None:
    expected = json.loads((parity / "parity.json").read_text())["results"][name]
    for step, factor in expected.items():
        if int(step) > 0:  # the reference begins with a rate of 0 at step 0; ours counts from 1
            assert schedule(int(step)) == pytest.approx(factor, rel=1e-9, abs=1e-15), step


def test_no_schedule_begins_with_rate_zero() -> None:
    for schedule in (Constant(), Constant(8), Cosine(0, 100), Cosine(8, 100), Steps(), Steps(8)):
        assert schedule(1) == pytest.approx(1 / 8 if schedule.warmup else 1.0, rel=1e-3)


def test_a_constant_schedule_stays() -> None:
    assert [Constant(4)(step) for step in (1, 2, 3, 4, 5, 10**6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_impossible_schedules_are_refused() -> None:
    for wrong in (
        lambda: Cosine(10, 10),
        lambda: Cosine(0, 10, 1.5),
        lambda: Steps(0, ((5, 0.1), (3, 0.2))),
        lambda: Constant(-1),
    ):
        with pytest.raises(ValueError, match="schedule"):
            wrong()


class Toy(nn.Module):
    """One matrix, and vectors of a norm and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 2), nn.LayerNorm(2)


@pytest.mark.parametrize("decay_all", [False, True])
def test_only_matrices_decay(decay_all: bool) -> None:
    toy = Toy()
    nn.init.ones_(toy.linear.bias)
    before = {name: value.detach().clone() for name, value in toy.named_parameters()}
    optimizer = AdamW(rate=0.1, weight_decay=0.5, decay_all=decay_all).build(toy)
    for parameter in toy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in toy.named_parameters():
        factor = 1 - 0.1 * 0.5 if decay_all or value.ndim > 1 else 1.0
        torch.testing.assert_close(value.detach(), factor * before[name], rtol=1e-6, atol=0)


def test_two_steps_follow_the_equation() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    optimizer = AdamW(rate=0.01, betas=(0.9, 0.95), weight_decay=0.03).build(layer)
    weight, first, second = 2.0, 0.0, 0.0
    for step, gradient in enumerate((0.3, -0.7), start=1):
        layer.weight.grad = torch.tensor([[gradient]])
        optimizer.step()
        first, second = 0.9 * first + 0.1 * gradient, 0.95 * second + 0.05 * gradient**2
        weight *= 1 - 0.01 * 0.03
        weight -= 0.01 * (first / (1 - 0.9**step)) / (math.sqrt(second / (1 - 0.95**step)) + 1e-8)
        assert layer.weight.item() == pytest.approx(weight, rel=1e-6)


def test_the_limit_begins_after_its_step() -> None:
    settings = AdamW(rate=1e-3, clip=0.5, clip_after=10)
    assert [settings.limit(step) for step in (1, 10, 11, 100)] == [None, None, 0.5, 0.5]
    assert AdamW(rate=1e-3).limit(100) is None


def test_frozen_parameters_are_left_out() -> None:
    toy = Toy()
    toy.linear.requires_grad_(False)
    groups = AdamW(rate=1e-3).build(toy).param_groups
    assert {id(p) for group in groups for p in group["params"]} == {id(toy.norm.weight), id(toy.norm.bias)}
    toy.norm.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing can be trained"):
        AdamW(rate=1e-3).build(toy)
    with pytest.raises(ValueError, match="rate > 0"):
        AdamW(rate=0.0)
