"""The average against its closed form."""

import pytest
import torch
from torch import nn

from pixelpath.trainer.ema import twin, unwrapped, update


def test_updates_follow_the_closed_form() -> None:
    student, decay, updates = nn.Linear(3, 2), 0.9, 7
    ema, first = twin(student), student.weight.detach().double()
    values = [torch.randn(2, 3) for _ in range(updates)]
    for value in values:
        student.weight.data.copy_(value)
        update(ema, student, decay)
    expected = decay**updates * first + sum(
        (1 - decay) * decay ** (updates - number) * value.double() for number, value in enumerate(values, start=1)
    )
    torch.testing.assert_close(ema.get_parameter("weight").double(), expected, rtol=1e-5, atol=1e-6)


def test_the_extremes() -> None:
    student = nn.Linear(3, 2)
    ema, first = twin(student), student.weight.detach().clone()
    student.weight.data.add_(1.0)
    update(ema, student, 1.0)
    assert torch.equal(ema.get_parameter("weight"), first)
    update(ema, student, 0.0)
    assert torch.equal(ema.get_parameter("weight"), student.weight)
    with pytest.raises(ValueError, match="ema_decay"):
        update(ema, student, 1.5)


def test_half_precision_students_are_averaged_in_float32() -> None:
    student = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.constant_(student.weight, 1.0)
    ema = twin(student)
    nn.init.constant_(student.weight, 2.0)
    for _ in range(100):  # each step is far below what bfloat16 resolves beside 1
        update(ema, student, 0.9999)
    weight = ema.get_parameter("weight")
    assert weight.dtype == torch.float32
    assert weight.item() == pytest.approx(2 - 0.9999**100, rel=1e-5)


def test_buffers_are_copied_integers_too() -> None:
    student = nn.BatchNorm1d(3)
    ema = twin(student)
    for _ in range(3):
        student(torch.randn(5, 3) + 4)
    update(ema, student, 0.99)
    assert torch.equal(ema.get_buffer("running_mean"), student.get_buffer("running_mean"))
    assert ema.get_buffer("num_batches_tracked").item() == 3
    assert ema.get_buffer("running_mean") is not student.get_buffer("running_mean")


def test_a_twin_neither_trains_nor_follows_by_itself() -> None:
    student = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    ema = twin(student)
    assert not ema.training
    assert not any(parameter.requires_grad for parameter in ema.parameters())
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    student.get_parameter("0.weight").data.zero_()
    assert ema.get_parameter("0.weight").abs().sum() > 0


def test_another_module_is_refused() -> None:
    with pytest.raises(ValueError, match="bias"):
        update(twin(nn.Linear(2, 2, bias=False)), nn.Linear(2, 2), 0.9)


def test_wrappers_are_seen_through() -> None:
    student = nn.Linear(2, 2)
    assert unwrapped(student) is student
    compiled = torch.compile(student)
    assert isinstance(compiled, nn.Module)
    assert unwrapped(compiled) is student
    update(twin(compiled), compiled, 0.9)
