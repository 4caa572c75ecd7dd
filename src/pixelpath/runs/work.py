"""The floating-point operations of a network: those of matrix products and convolutions, as torch counts them.

Two of them are a multiply-add. Attention counts as the plain products that define it, two forwards and four backwards: torch has
no count for its kernel on a CPU, and its kernels on a GPU compute some products twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pixelpath.models.denoiser import Denoiser
from pixelpath.models.representation import Representation
from pixelpath.recipes.build import Shape, student_of
from pixelpath.recipes.recipe import Recipe

ATEN = torch.ops.aten


def counter() -> FlopCounterMode:
    """Counts the operations of what runs inside of it; its `flop_registry` holds the count of every kind of operation."""
    forwards = (
        ATEN._scaled_dot_product_flash_attention_for_cpu,
        ATEN._scaled_dot_product_flash_attention,
        ATEN._scaled_dot_product_efficient_attention,
        ATEN._scaled_dot_product_cudnn_attention,
        ATEN._scaled_dot_product_attention_math_for_mps,
    )
    backwards = (
        ATEN._scaled_dot_product_flash_attention_for_cpu_backward,
        ATEN._scaled_dot_product_flash_attention_backward,
        ATEN._scaled_dot_product_efficient_attention_backward,
        ATEN._scaled_dot_product_cudnn_attention_backward,
    )
    counts = dict.fromkeys(forwards, _attention) | dict.fromkeys(backwards, _attention_backward)
    return FlopCounterMode(display=False, custom_mapping=counts)


def operations(call: Callable[[], object]) -> float:
    """The operations of a call."""
    with counter() as counted:
        call()
    return float(counted.get_total_flops())


def _attention(query: torch.Size, key: torch.Size, *rest: Any, **named: Any) -> int:
    return 4 * math.prod(query) * key[2]


def _attention_backward(gradient: torch.Size, query: torch.Size, key: torch.Size, *rest: Any, **named: Any) -> int:
    return 2 * _attention(query, key)


def multiply_adds(student: Representation | Denoiser, shape: tuple[int, int, int]) -> float:
    """Multiply-adds of one evaluation of one image, counted by torch (half its floating-point operations)."""
    device = next(student.parameters()).device
    mode = student.training
    student.eval()
    with torch.no_grad():
        found = operations(lambda: student(torch.zeros(1, *shape, device=device), torch.ones(1, device=device)))
    student.train(mode)
    return found / 2


def multiply_adds_of(recipe: Recipe, shape: Shape, classes: int, numbers: int = 0, cond_image: int = 0) -> float:
    """Multiply-adds of one evaluation of one image by the network of a recipe, counted without making its weights."""
    with torch.device("meta"):
        student = student_of(recipe, shape, classes, numbers, cond_image)
    return multiply_adds(student, shape)
