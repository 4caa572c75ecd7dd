"""Train a diffusion model on a tensor of your own and save its samples, in the tensor's own dtype and range."""

import sys

import torch

import pixelpath as pp

out, steps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2000

row, column = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
centres, widths = torch.rand(500, 2, 1, 1) * 16, 1 + 2 * torch.rand(500, 1, 1)
spots = torch.exp(-((row - centres[:, 0]) ** 2 + (column - centres[:, 1]) ** 2) / (2 * widths**2))
images = (4095 * spots).to(torch.uint16)  # [image, row, column], 12 bits

data = pp.from_arrays(images, held_out=0.1)
run = pp.train(data, pp.recipes.cpu_32_diffusion(steps=steps), out=f"{out}/spots", progress=True)
samples = run.sample(64, nfe=17)
samples.save(f"{out}/samples")
print(samples, samples.images.max())
