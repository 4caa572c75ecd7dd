"""A tiny run that is asked for numbers and masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

import pixelpath as pp


def run_with_conditions(folder: Path) -> pp.Run:
    """A run with two numbers and masks of three classes as conditions, whose weights do not ignore them, below a new folder."""
    numbers = np.random.default_rng(5)
    np.save(folder / "images.npy", numbers.integers(0, 256, (24, 1, 8, 8), dtype=np.uint8))
    np.save(folder / "masks.npy", numbers.integers(0, 3, (24, 1, 8, 8), dtype=np.uint8))
    lines = "".join(f"{place:08d},{place * 1.5},{place % 5}\n" for place in range(24))
    (folder / "table.csv").write_text("name,heat,wind\n" + lines)
    settings = pp.DataSettings(
        folder / "images.npy", conditions=folder / "table.csv", cond_image=folder / "masks.npy", held_out_share=0.2
    )
    recipe = replace(pp.recipes.digits_diffusion(steps=8, size=pp.recipes.sizes.NANO), ema_decay=0.0)
    return pp.train(pp.open_data(folder / "images.npy", settings=settings), recipe, out=folder / "run")
