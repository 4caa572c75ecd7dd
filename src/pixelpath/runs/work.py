"""The multiply-adds of a network: matrix products and convolutions, as torch counts them (half its floating-point operations)."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pixelpath.models.denoiser import Denoiser
from pixelpath.models.representation import Representation
from pixelpath.recipes.build import Shape, student_of
from pixelpath.recipes.recipe import Recipe


def multiply_adds(student: Representation | Denoiser, shape: tuple[int, int, int]) -> float:
    """Multiply-adds of one evaluation of one image, counted by torch (half its floating-point operations)."""
    device = next(student.parameters()).device
    counter = FlopCounterMode(display=False)
    mode = student.training
    student.eval()
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # torch counts nothing for its attention kernel on a CPU
        student(torch.zeros(1, *shape, device=device), torch.ones(1, device=device))
    student.train(mode)
    return counter.get_total_flops() / 2


def multiply_adds_of(recipe: Recipe, shape: Shape, classes: int, numbers: int = 0, cond_image: int = 0) -> float:
    """Multiply-adds of one evaluation of one image by the network of a recipe, counted without making its weights."""
    with torch.device("meta"):
        student = student_of(recipe, shape, classes, numbers, cond_image)
    return multiply_adds(student, shape)
