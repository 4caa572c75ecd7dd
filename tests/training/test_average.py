"""The average against its closed form."""

import pytest
import torch
from torch import nn

from pixelpath.training.average import twin, unwrapped, update


def test_updates_follow_the_closed_form() -> None:
    student, rate, updates = nn.Linear(3, 2), 0.9, 7
    average, first = twin(student), student.weight.detach().double()
    values = [torch.randn(2, 3) for _ in range(updates)]
    for value in values:
        student.weight.data.copy_(value)
        update(average, student, rate)
    expected = rate**updates * first + sum(
        (1 - rate) * rate ** (updates - number) * value.double() for number, value in enumerate(values, start=1)
    )
    torch.testing.assert_close(average.get_parameter("weight").double(), expected, rtol=1e-5, atol=1e-6)


def test_the_extremes() -> None:
    student = nn.Linear(3, 2)
    average, first = twin(student), student.weight.detach().clone()
    student.weight.data.add_(1.0)
    update(average, student, 1.0)
    assert torch.equal(average.get_parameter("weight"), first)
    update(average, student, 0.0)
    assert torch.equal(average.get_parameter("weight"), student.weight)
    with pytest.raises(ValueError, match="between 0 and 1"):
        update(average, student, 1.5)


def test_half_precision_students_are_averaged_in_float32() -> None:
    student = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.constant_(student.weight, 1.0)
    average = twin(student)
    nn.init.constant_(student.weight, 2.0)
    for _ in range(100):  # each step is far below what bfloat16 resolves beside 1
        update(average, student, 0.9999)
    weight = average.get_parameter("weight")
    assert weight.dtype == torch.float32
    assert weight.item() == pytest.approx(2 - 0.9999**100, rel=1e-5)


def test_buffers_are_copied_integers_too() -> None:
    student = nn.BatchNorm1d(3)
    average = twin(student)
    for _ in range(3):
        student(torch.randn(5, 3) + 4)
    update(average, student, 0.99)
    assert torch.equal(average.get_buffer("running_mean"), student.get_buffer("running_mean"))
    assert average.get_buffer("num_batches_tracked").item() == 3
    assert average.get_buffer("running_mean") is not student.get_buffer("running_mean")


def test_a_twin_neither_trains_nor_follows_by_itself() -> None:
    student = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    average = twin(student)
    assert not average.training
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    student.get_parameter("0.weight").data.zero_()
    assert average.get_parameter("0.weight").abs().sum() > 0


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
