"""The schedules against the reference's numbers, AdamW against its equation, and Muon against its own laws."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pixelpath.errors import UserError
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.preconditioning import XPrediction
from pixelpath.networks.backbone import Backbone
from pixelpath.networks.decoder import Decoder
from pixelpath.networks.encoder import Encoder
from pixelpath.networks.head import PixelHead
from pixelpath.networks.projector import Projector
from pixelpath.trainer.optimizer import AdamW, Constant, Cosine, Muon, Steps, hidden_matrices


@pytest.mark.parametrize(
    ("name", "schedule", "steps"),
    [
        ("lr.cos", Cosine(warmup=10_000), 999_999),
        ("lr.cosmin", Cosine(warmup=10, floor=0.1), 99),
        ("lr.step", Steps(warmup=10_000), 700_000),
    ],
)
def test_schedules_equal_the_reference(parity: Path, name: str, schedule: Cosine | Steps, steps: int) -> None:
    expected = json.loads((parity / "parity.json").read_text())["results"][name]
    for step, factor in expected.items():
        # the reference has a learning rate of 0 at step 0 and again at the last of a cosine; ours counts from 1 and ends before 0
        if int(step) > 0:
            assert schedule(int(step), steps) == pytest.approx(factor, rel=1e-9, abs=1e-15), step


def test_no_schedule_begins_with_a_learning_rate_of_zero() -> None:
    for schedule in (Constant(), Constant(8), Cosine(), Cosine(8), Steps(), Steps(8)):
        assert schedule(1, 100) == pytest.approx(1 / 8 if schedule.warmup else 1.0, rel=1e-3)


def test_no_step_is_taken_at_a_learning_rate_of_zero() -> None:
    """The last of 9 steps without warm-up is nine tenths down the half wave."""
    assert Cosine()(9, 9) == pytest.approx((1 + math.cos(0.9 * math.pi)) / 2)
    assert min(Cosine(4)(step, 40) for step in range(1, 41)) > 0


def test_a_constant_schedule_stays() -> None:
    assert [Constant(4)(step, 10**6) for step in (1, 2, 3, 4, 5, 10**6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_a_run_as_short_as_its_warm_up_only_rises() -> None:
    assert [Cosine(4)(step, 4) for step in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize(
    ("wrong", "setting"),
    [
        (lambda: Cosine(floor=1.5), "floor"),
        (lambda: Steps(0, ((0.5, 0.1), (0.3, 0.2))), "borders"),
        (lambda: Steps(0, ((0.5, 0.1), (0.5, 0.2))), "borders"),
        (lambda: Steps(0, ((400_000, 0.3),)), "borders"),
        (lambda: Constant(-1), "warmup"),
        (lambda: Cosine(-1), "warmup"),
        (lambda: Steps(-1), "warmup"),
    ],
)
def test_impossible_schedules_are_refused(wrong: Callable[[], object], setting: str) -> None:
    with pytest.raises(UserError) as caught:
        wrong()
    assert caught.value.setting == f"schedule.{setting}"


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
    optimizer = AdamW(lr=0.1, weight_decay=0.5, decay_all=decay_all).build(toy)
    for parameter in toy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in toy.named_parameters():
        factor = 1 - 0.1 * 0.5 if decay_all or value.ndim > 1 else 1.0
        torch.testing.assert_close(value.detach(), factor * before[name], rtol=1e-6, atol=0)


def test_two_steps_follow_the_equation() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    optimizer = AdamW(lr=0.01, betas=(0.9, 0.95), weight_decay=0.03).build(layer)
    weight, first, second = 2.0, 0.0, 0.0
    for step, gradient in enumerate((0.3, -0.7), start=1):
        layer.weight.grad = torch.tensor([[gradient]])
        optimizer.step()
        first, second = 0.9 * first + 0.1 * gradient, 0.95 * second + 0.05 * gradient**2
        weight *= 1 - 0.01 * 0.03
        weight -= 0.01 * (first / (1 - 0.9**step)) / (math.sqrt(second / (1 - 0.95**step)) + 1e-8)
        assert layer.weight.item() == pytest.approx(weight, rel=1e-6)


def test_the_limit_begins_after_its_step() -> None:
    settings = AdamW(lr=1e-3, clip=0.5, clip_after=10)
    assert [settings.limit(step) for step in (1, 10, 11, 100)] == [None, None, 0.5, 0.5]
    assert AdamW(lr=1e-3).limit(100) is None


def test_frozen_parameters_are_left_out() -> None:
    toy = Toy()
    toy.linear.requires_grad_(False)
    groups = AdamW(lr=1e-3).build(toy).param_groups
    assert {id(p) for group in groups for p in group["params"]} == {id(toy.norm.weight), id(toy.norm.bias)}
    toy.norm.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing can be trained"):
        AdamW(lr=1e-3).build(toy)


@pytest.mark.parametrize("optimizer", [AdamW(), Muon()])
@pytest.mark.parametrize(
    ("field", "value"),
    [("lr", 0.0), ("lr", math.inf), ("betas", (0.9, 1.0)), ("weight_decay", -0.1), ("clip", 0.0)],
)
def test_impossible_settings_are_named(optimizer: AdamW | Muon, field: str, value: object) -> None:
    with pytest.raises(UserError) as caught:
        replace(optimizer, **{field: value})
    assert caught.value.setting == f"optimizer.{field}"


def generator() -> Denoiser:
    encoder = Encoder(1, 4, 4, patch=2, width=8, depth=1, heads=2)
    return Denoiser(Backbone(encoder, Decoder(encoder, 12, 1, 2), 3), XPrediction())


def test_hidden_matrices_are_neither_embeddings_nor_ends() -> None:
    student = generator()
    hidden = hidden_matrices(student)
    names = {name for name, parameter in student.named_parameters() if parameter in hidden}
    block = ("attention.query_key_value", "attention.out", "mlp.0", "mlp.2")
    expected = {f"backbone.encoder.blocks.0.{part}.weight" for part in block}
    expected |= {f"backbone.decoder.blocks.0.{part}.weight" for part in (*block, "join", "modulation.1")}
    assert names == expected | {"backbone.decoder.enter.weight"}
    head = PixelHead(1, 6, 8, features=2, blocks=1)
    names = {name for name, parameter in head.named_parameters() if parameter in hidden_matrices(head)}
    assert names == {f"{part}.weight" for part in ("enter", "modulation.1", "middle", "blocks.0.first", "blocks.0.second")}
    projector = Projector(4, 5, 3)
    assert hidden_matrices(projector) == {projector[0].weight, projector[3].weight}


class Two(nn.Module):
    """A hidden matrix, and vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)


def test_a_step_of_muon_is_orthogonal_and_as_large_as_adams() -> None:
    """The update of a matrix has singular values near 1 times 0.2 sqrt(longer side); the rest moves by AdamW's first step."""
    student = Two()
    optimizer = Muon(lr=0.01, weight_decay=20.0).build(student)
    before = {name: value.detach().clone() for name, value in student.named_parameters()}
    student.linear.weight.grad, student.linear.bias.grad = torch.randn(3, 6), torch.tensor([0.3, -2.0, 5.0])
    left, _, right = torch.linalg.svd(student.linear.weight.grad, full_matrices=False)
    optimizer.step()
    update = (before["linear.weight"] * (1 - 0.01 * 20) - student.linear.weight.detach()) / (0.01 * 0.2 * math.sqrt(6))
    turned = left.T @ update @ right.T  # diagonal in the gradient's own directions, with values between 0.6 and 1.3
    assert bool(((turned.diagonal() > 0.6) & (turned.diagonal() < 1.3)).all())
    assert float((turned - turned.diagonal().diag()).abs().max()) < 0.05
    moved = before["linear.bias"] - student.linear.bias.detach()
    assert moved.tolist() == pytest.approx([0.01, -0.01, 0.01], rel=1e-4)  # and no decay


def test_muon_has_momentum() -> None:
    """After a gradient A, then B: the update is that of 0.95 (0.05 * 0.95 A + 0.05 B) + 0.05 B, Nesterov's."""
    student, other = Two(), Two()
    first, second = torch.randn(3, 6), torch.randn(3, 6)
    optimizer = Muon(lr=0.01, weight_decay=0.0).build(student)
    single = Muon(lr=0.01, momentum=0.0, weight_decay=0.0).build(other)
    for gradient in (first, second):
        before = student.linear.weight.detach().clone()
        student.linear.weight.grad, student.linear.bias.grad = gradient, torch.ones(3)
        optimizer.step()
    other.linear.weight.grad, other.linear.bias.grad = 0.95 * (0.0475 * first + 0.05 * second) + 0.05 * second, torch.ones(3)
    start = other.linear.weight.detach().clone()
    single.step()
    buffer = optimizer.state[student.linear.weight]["momentum_buffer"]
    torch.testing.assert_close(buffer, 0.0475 * first + 0.05 * second)
    torch.testing.assert_close(student.linear.weight.detach() - before, other.linear.weight.detach() - start, rtol=0, atol=2e-4)


def test_the_schedule_sets_the_learning_rate_of_every_part() -> None:
    student = Two()
    optimizer = Muon(lr=0.01).build(student)
    assert len(optimizer.param_groups) == 2
    before = [parameter.detach().clone() for parameter in student.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    student.linear.weight.grad, student.linear.bias.grad = torch.randn(3, 6), torch.ones(3)
    optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, student.parameters(), strict=True))
    optimizer.zero_grad()
    assert student.linear.weight.grad is None


def test_muon_of_frozen_parts() -> None:
    student = Two()
    student.linear.weight.requires_grad_(False)
    assert [len(group["params"]) for group in Muon().build(student).param_groups] == [1]
    student.linear.bias.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing can be trained"):
        Muon().build(student)
    with pytest.raises(UserError) as caught:
        Muon(momentum=1.0)
    assert caught.value.setting == "optimizer.momentum"
    assert [Muon(clip=0.5, clip_after=3).limit(step) for step in (3, 4)] == [None, 0.5]


def test_borders_move_with_the_length_of_the_run() -> None:
    """They are shares of the run: 400,000 of 700,000 steps is 4/7 of any run."""
    assert [Steps()(step, 700_000) for step in (400_000, 400_001, 500_000, 500_001)] == [1.0, 0.3, 0.3, 0.08]
    assert [Steps()(step, 70) for step in (40, 41, 50, 51)] == [1.0, 0.3, 0.3, 0.08]
    assert [Steps(borders=((0.4, 0.5),))(step, 10) for step in (4, 5)] == [1.0, 0.5]
