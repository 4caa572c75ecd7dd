"""Train in a loop of your own: look at every step, stop when you like, and go on later where it stopped."""

import sys

import numpy as np
from sklearn.datasets import load_digits

import pixelpath as pp

out, steps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1300

rows, labels = load_digits(return_X_y=True)
images = np.round(rows.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
data = pp.from_arrays(images, labels, held_out=0.2)

for step in pp.training(data, pp.recipes.digits_diffusion(steps=steps), out=f"{out}/digits"):
    if step.number % max(1, steps // 10) == 0:
        print(f"step {step.number}: loss {step.losses['loss']:.3f}, learning rate {step.lr:.2g}")

run = pp.load(f"{out}/digits")
run.sample(40, guidance=1.5).grid(columns=10).save(f"{out}/digits.png")
