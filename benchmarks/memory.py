"""Memory that each GPU keeps for the published sizes, as a Markdown table: whole copies (DDP) and shares (`--shard`).

python -m benchmarks.memory --gpus 8 64
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
import tyro

from pixelpath import recipes
from pixelpath.recipes.build import student_of
from pixelpath.recipes.sizes import SIZES
from pixelpath.runs.memory import kept

CLASSES, PIXELS = 1000, 256
NAMES = ("L", "XL", "XXL", "G")


def main(gpus: tuple[int, ...] = (8, 64)) -> None:
    """Print the table.

    Args:
        gpus: Numbers of GPUs that share a run.
    """
    heads = ["size", "M parameters", "whole copy", *(f"share of {count}" for count in gpus), "gathered at once"]
    lines = [heads, ["---"] * len(heads)]
    for name in NAMES:
        recipe = replace(recipes.imagenet256_l_diffusion(), size=SIZES[name])
        with torch.device("meta"):
            student = student_of(recipe, (3, PIXELS, PIXELS), CLASSES)
        found = [kept(student, recipe, count) for count in gpus]
        parameters = sum(value.numel() for value in student.parameters())
        shares = [gib(each.share) for each in found]
        lines.append([name, f"{parameters / 1e6:.0f}", gib(found[0].whole), *shares, gib(found[0].gathered)])
    sys.stdout.write("".join(f"| {' | '.join(line)} |\n" for line in lines))


def gib(count: int) -> str:
    """Bytes in GiB."""
    return f"{count / 2**30:.2f} GiB"


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.memory")
