"""The memory that is told is that of the tensors: of whole copies as counted, of shares as pencil and paper give it."""

from dataclasses import replace

import pytest
import torch

from pixelpath import recipes
from pixelpath.recipes.build import student_of
from pixelpath.recipes.recipe import Recipe
from pixelpath.recipes.sizes import Blocks, Size
from pixelpath.runs.memory import kept
from pixelpath.trainer.ema import twin
from pixelpath.trainer.optimizer import AdamW, Muon


def small(optimizer: AdamW | Muon) -> Recipe:
    return replace(recipes.digits_diffusion(), size=Size(Blocks(1, 12, 2), Blocks(1, 20, 2)), optimizer=optimizer)


@pytest.mark.parametrize("optimizer", [AdamW(), Muon()])
def test_a_whole_copy_has_the_bytes_of_a_run_after_a_step(optimizer: AdamW | Muon) -> None:
    recipe = small(optimizer)
    student = student_of(recipe, (1, 8, 8), 3)
    tensors = [*student.parameters(), *twin(student).parameters()]
    built = optimizer.build(student)
    for parameter in student.parameters():
        parameter.grad = torch.ones_like(parameter)
    built.step()
    tensors += [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
    tensors += [value for state in built.state.values() for value in state.values() if value.ndim]
    assert kept(student, recipe, 8).whole == sum(4 * value.numel() for value in tensors)


def test_a_share_has_a_part_of_the_rows_of_every_tensor() -> None:
    recipe = small(AdamW())
    student = student_of(recipe, (1, 8, 8), 3)
    one, two, all_of_them = (kept(student, recipe, count) for count in (1, 2, 10**6))
    assert one.share == one.whole
    assert one.whole / 2 < two.share < 0.6 * one.whole
    rows = sum(value[0].numel() for value in student.parameters())
    assert all_of_them.share == 20 * rows
    assert one.gathered == 4 * sum(value.numel() for value in student.parameters())  # two blocks are all
