"""The mean of micro-batches is the whole batch, in loss and gradient, for objectives whose images do not meet: masks included."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor, nn

from pixelpath.models.denoiser import Denoiser
from pixelpath.models.preconditioning import EDMPreconditioning
from pixelpath.networks.backbone import Backbone
from pixelpath.networks.decoder import Decoder
from pixelpath.networks.encoder import Encoder
from pixelpath.noise import NoiseRange
from pixelpath.objectives.consistency import Consistency
from pixelpath.objectives.denoising import Denoising
from pixelpath.objectives.pairs import StagedGap
from pixelpath.randomness import seed_of
from pixelpath.trainer.loop import split
from pixelpath.types import Batch, Condition, Objective, Views

NOISE = NoiseRange(0.02, 20.0)
COUNT = 6
PARTS = [2, 3, 6]
OBJECTIVES = [
    Denoising(NOISE, label_dropout=0.3),
    Consistency(NOISE, label_dropout=0.3),
    Consistency(NOISE, StagedGap(stages=2, first=0)),  # its first half is denoising
]


def denoiser() -> Denoiser:
    """One without dropout, that uses classes, numbers and images of its condition."""
    encoder = Encoder(1, 4, 4, patch=2, width=8, depth=1, heads=2)
    backbone = Backbone(encoder, Decoder(encoder, 8, 1, 2), num_classes=3, numbers=2, cond_image=1)
    student = Denoiser(backbone, EDMPreconditioning(boundary=0.02))
    for parameter in student.parameters():
        nn.init.normal_(parameter, std=0.3)
    return student.double()


def batch() -> Batch:
    """Images that differ in everything, of which one has no valid pixel and one has all."""
    images = torch.randn(COUNT, 1, 4, 4, dtype=torch.float64)
    valid = torch.rand(COUNT, 1, 4, 4) < 0.6
    valid[0], valid[1] = False, True
    condition = Condition(torch.arange(COUNT) % 4, torch.randn(COUNT, 2).double(), torch.randn(COUNT, 1, 4, 4).double())
    seeds = tuple(seed_of(1, position) for position in range(COUNT))
    return Batch(
        torch.where(valid, images, 0.0),
        condition,
        seeds,
        seed_of(1),
        valid,
        torch.arange(COUNT) % 4,
        torch.randn(COUNT, 2, 1, 4, 4),
    )


def loss_and_gradient(objective: Objective, student: Denoiser, parts: list[Batch | Views]) -> tuple[Tensor, Tensor]:
    """Of the mean over micro-batches."""
    student.zero_grad()
    losses = [objective(student, student, part, 0.25).total / len(parts) for part in parts]
    total = torch.stack(losses).sum()
    total.backward()
    return total.detach(), torch.cat(
        [parameter.grad.flatten() for parameter in student.parameters() if parameter.grad is not None]
    )


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=["denoising", "consistency", "stage zero"])
def test_micro_batches_are_the_whole_batch(objective: Objective, parts: int) -> None:
    student, whole = denoiser(), batch()
    expected = loss_and_gradient(objective, student, [whole])
    torch.testing.assert_close(loss_and_gradient(objective, student, split(whole, parts)), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=["denoising", "consistency", "stage zero"])
def test_each_field_of_a_batch_matters_to_it(objective: Objective) -> None:
    """So the law above would fail for a micro-batch without its mask, condition or seeds, or with those of other images."""
    student, whole = denoiser(), batch()
    loss, _ = loss_and_gradient(objective, student, [whole])
    assert whole.valid is not None
    assert isinstance(whole.labels, Condition)
    numbers = torch.zeros(COUNT, 2, dtype=torch.float64)
    for change in (
        {"valid": None},
        {"valid": whole.valid.roll(1, 0)},
        {"labels": replace(whole.labels, labels=whole.labels.labels.roll(1, 0))},
        {"labels": replace(whole.labels, vector=numbers)},
        {"labels": replace(whole.labels, cond_image=torch.zeros_like(whole.images))},
        {"seeds": whole.seeds[::-1]},
        {"images": whole.images.roll(1, 0)},
    ):
        other, _ = loss_and_gradient(objective, student, [replace(whole, **change)])
        assert abs(float(other - loss)) > 1e-4 * float(loss), change.keys()


def same(ours: object, theirs: object) -> bool:
    return torch.equal(ours, theirs) if isinstance(ours, Tensor) and isinstance(theirs, Tensor) else ours == theirs


@pytest.mark.parametrize("kind", [Batch, Views])
def test_every_field_is_sliced_but_the_seed_of_the_step(kind: type) -> None:
    """A field that is added to a batch is part of its micro-batches without a change elsewhere."""
    whole = batch()
    if kind is Views:
        whole = Views(whole.images, whole.images + 1, whole.images + 2, whole.seeds, whole.seed, whole.index)
    part = whole[2:5]
    assert isinstance(part, kind)
    for field in fields(part):
        own, all_of = vars(part)[field.name], vars(whole)[field.name]
        if isinstance(own, Condition):
            pairs = [(vars(own)[each.name], vars(all_of)[each.name]) for each in fields(own)]
            assert all(same(few, many[2:5]) for few, many in pairs)
        else:
            assert same(own, all_of if field.name == "seed" else all_of[2:5]), field.name


def test_what_a_batch_does_not_have_its_parts_do_not_have() -> None:
    plain = replace(batch(), valid=None, labels=torch.zeros(COUNT, dtype=torch.int64))
    assert plain[:2].valid is None
    assert torch.equal(plain[:2].images, plain.images[:2])
