"""Recipes: complete runs as values; one function per run, sizes as a table."""

from pixelpath.recipes import sizes
from pixelpath.recipes.rows import (
    cifar10_diffusion,
    cifar10_encoder,
    cifar10_onestep,
    cpu_32_diffusion,
    cpu_64_diffusion,
    digits_diffusion,
    digits_encoder,
    digits_onestep,
    small_32_diffusion,
    small_32_encoder,
    small_32_onestep,
    small_64_diffusion,
    small_64_encoder,
    small_64_onestep,
)

__all__ = [
    "cifar10_diffusion",
    "cifar10_encoder",
    "cifar10_onestep",
    "cpu_32_diffusion",
    "cpu_64_diffusion",
    "digits_diffusion",
    "digits_encoder",
    "digits_onestep",
    "sizes",
    "small_32_diffusion",
    "small_32_encoder",
    "small_32_onestep",
    "small_64_diffusion",
    "small_64_encoder",
    "small_64_onestep",
]
