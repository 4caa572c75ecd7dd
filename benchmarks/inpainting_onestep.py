"""In-painting by a trained one-step run of digits, by the number of steps of consistency sampling.

    python -m benchmarks.inpainting_onestep RUN

RUN is the one-step run of `pixelpath fit digits`. The right half, or the middle quarter, of 90 digits is made anew four times
each, under its class. The energy score (Gneiting & Raftery 2007) is the mean distance of the made parts from the true one, less
half of that between two made ones, in levels of 16: it is least for draws from the conditional law, which have as large a
distance from each other (spread) as from the truth (near).
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC

import pixelpath as pp
from pixelpath.runs.edit import inpaint
from pixelpath.runs.edit_inputs import given_images, open_pixels

COUNT, DRAWS, LEVEL = 90, 4, 255 / 16


def scores(run: pp.Run, steps: int, seed: int = 5000) -> str:
    """Scores of so many steps, of the right half and of the middle quarter."""
    rows, targets = load_digits(return_X_y=True)
    reader = SVC(gamma=0.001).fit(rows, targets)  # pyright: ignore[reportArgumentType]
    chosen = np.repeat(np.random.default_rng(1).choice(len(rows), COUNT, replace=False), DRAWS)
    images, labels = np.round(rows[chosen] * LEVEL).astype(np.uint8).reshape(-1, 1, 8, 8), targets[chosen]
    seeds, sampling, said = range(seed, seed + len(images)), pp.Sampling(nfe=steps), []
    for name, mask in (("half", np.arange(8) >= 4 + np.zeros((8, 1))), ("middle", np.pad(np.ones((4, 4), bool), 2))):
        pixels = open_pixels(run, mask, len(images))
        made = inpaint(run, given_images(run, images), pixels, seeds, torch.tensor(labels), sampling).images
        drawn, true = (each[:, 0][:, mask].reshape(COUNT, DRAWS, -1) / LEVEL for each in (made, images))
        near = np.linalg.norm(drawn - true, axis=2).mean()
        apart = np.linalg.norm(drawn[:, :, None] - drawn[:, None], axis=3).sum((1, 2)).mean() / (DRAWS * (DRAWS - 1))
        read = (reader.predict(made.reshape(len(made), -1) / LEVEL) == labels).mean()
        said.append(f"{name}: score {near - apart / 2:.1f}, near {near:.1f}, spread {apart:.1f}, read {read:.0%}")
    return "; ".join(said)


if __name__ == "__main__":
    loaded = pp.load(sys.argv[1], device="cpu")
    for number in (4, 8, 16, 64):
        sys.stdout.write(f"{number} steps: {scores(loaded, number)}\n")
