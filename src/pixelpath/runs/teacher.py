"""What a distilled run learns from (`objectives.distillation`), as its teacher makes it before the first step.

The run keeps the images in RUN/taught.bin, in the data's own dtype, and how they were made in RUN/taught.json. The noise of an
image follows from its seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pixelpath import processes
from pixelpath.atomic import write_json
from pixelpath.data.sources import labels
from pixelpath.log import say
from pixelpath.objectives.distillation import Distillation, Taught, Teach
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.runs.folder import by_main
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import PreparedData
from pixelpath.runs.sample import sample, scratch
from pixelpath.sampling.sampler import Sampler, Sampling
from pixelpath.types import Conditioning

FILE, RECORD = "taught.bin", "taught.json"
FIRST = 2**40  # seed of the first image, far from seeds that users sample: what the run makes must not be what it has learned
CHOICE = 3  # keeps the choice of an image apart from other numbers made of a seed
AT_ONCE = 256  # images


def taught(
    objective: Distillation, data: PreparedData, teacher: Path, out: Path, device: torch.device, *, began: bool = True
) -> Teach:
    """What the run in `out` learns from: the teacher makes it now, unless it is there and the run has begun with it.

    Every process must call it.
    """
    path, count = out / FILE, objective.images
    asked, seeds = conditions_of(data, count), range(FIRST, FIRST + count)
    if not (began and by_main(path.exists)()):
        size = count * int(np.prod(data.shape)) * np.dtype(data.normaliser.dtype).itemsize
        say(f"{teacher} makes the {count:,} images to learn from ({size / 2**20:,.0f} MiB).")
        chosen = Sampling(nfe=objective.nfe, guidance=objective.guidance, sampler=Sampler.DPMPP_2M, sigma_max=objective.first)
        with scratch(path) as unfinished:
            made = sample(open_run(teacher, device=device), seeds, asked, chosen, AT_ONCE, into=unfinished)
            if processes.rank() == 0:
                settings = {name: each for name, each in made.settings.items() if name not in ("labels", "classes", "conditions")}
                write_json(out / RECORD, settings | {"seconds": made.seconds})
                del made  # Windows renames no file that is mapped
                unfinished.rename(path)
            processes.barrier()
    images = np.memmap(path, np.dtype(data.normaliser.dtype), "r", shape=(count, *data.shape))

    def teach(drawn: Sequence[int]) -> Taught:
        rows = [seed_of(seed, CHOICE) % count for seed in drawn]
        noise = objective.first * normal(Streams([seed_of(seeds[row]) for row in rows]), data.shape)
        made = data.normaliser.encode(torch.from_numpy(images[rows]))
        return Taught(noise.to(device), made.to(device), asked[torch.tensor(rows)].to(device))

    return teach


def conditions_of(data: PreparedData, count: int) -> Conditioning:
    """What is asked of so many images: what is known of the training images, of all in turn or of evenly chosen ones."""
    total = len(data.training)
    rows = np.arange(count) % total if count >= total else np.arange(count) * total // count
    classes: Tensor = torch.from_numpy(labels(data.training)[rows]) if data.classes else torch.zeros(count, dtype=torch.int64)
    return classes if data.given is None else data.given.condition(rows, classes)
