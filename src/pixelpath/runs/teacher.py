"""What a distilled run learns from (`objectives.distillation`), as its teacher makes it before the first step.

The run keeps the images in RUN/taught.bin, in the data's own dtype, and how they were made in RUN/taught.json. The noise of an
image follows from its seed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelpath import processes
from pixelpath.atomic import read_json, write_json
from pixelpath.data.sources import labels
from pixelpath.log import progress, say
from pixelpath.objectives.distillation import Distillation, Taught, Teach
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.runs.folder import by_main
from pixelpath.runs.opened import OpenRun, open_run
from pixelpath.runs.prepare import PreparedData
from pixelpath.runs.sample import sample, scratch
from pixelpath.sampling.sampler import Sampler, Sampling
from pixelpath.types import Conditioning

FILE, RECORD = "taught.bin", "taught.json"
PER_IMAGE = ("labels", "classes", "conditions")  # of the settings of samples: what training images say too
FIRST = 2**40  # seed of the first image, far from seeds that users sample: what the run makes must not be what it has learned
CHOICE = 3  # keeps the choice of an image apart from other numbers made of a seed
AT_ONCE, PART = 256, 1024  # images of a batch, and after which those made are kept


def taught(
    objective: Distillation, data: PreparedData, teacher: Path, out: Path, device: torch.device, *, began: bool = True
) -> Teach:
    """What the run in `out` learns from: the teacher makes it now, unless the run has begun with it.

    Images that an interrupted making left are kept. Every process must call it.
    """
    asked, seeds = conditions_of(data, objective.images), range(FIRST, FIRST + objective.images)
    if not (began and by_main((out / FILE).exists)()):
        _make(objective, data, open_run(teacher, device=device), out, asked)
    images = np.memmap(out / FILE, np.dtype(data.normaliser.dtype), "r", shape=(len(seeds), *data.shape))

    def teach(drawn: Sequence[int]) -> Taught:
        rows = [seed_of(seed, CHOICE) % len(seeds) for seed in drawn]
        noise = objective.first * normal(Streams([seed_of(seeds[row]) for row in rows]), data.shape)
        made = data.normaliser.encode(torch.from_numpy(images[rows]))
        return Taught(noise.to(device), made.to(device), asked[torch.tensor(rows)].to(device))

    return teach


def _make(objective: Distillation, data: PreparedData, teacher: OpenRun, out: Path, asked: Conditioning) -> None:
    """Let the teacher make the images, a part of them after the other, from where it was interrupted."""
    count, size = objective.images, int(np.prod(data.shape)) * np.dtype(data.normaliser.dtype).itemsize
    chosen = Sampling(nfe=objective.nfe, guidance=objective.guidance, sampler=Sampler.DPMPP_2M, sigma_max=objective.first)
    how = json.loads(json.dumps({"objective": asdict(objective), "data": data.known, "checkpoint": str(teacher.checkpoint)}))
    done, seconds = by_main(_made)(out, how)
    kept = f", of which {done:,} are there" if done else ""
    say(f"{teacher.path} makes the {count:,} images to learn from ({count * size / 2**20:,.0f} MiB){kept}.")
    with progress(f"making {count:,}", count) as advance:
        advance(done)
        for first in range(done, count, PART):
            last = min(first + PART, count)
            with scratch(out / FILE) as unfinished:
                made = sample(teacher, range(FIRST + first, FIRST + last), asked[first:last], chosen, AT_ONCE, into=unfinished)
                seconds += made.seconds
                if processes.rank() == 0:
                    _append(unfinished, out / FILE, first * size)
                    settings = {name: each for name, each in made.settings.items() if name not in PER_IMAGE}
                    settings |= {"seeds": [FIRST, FIRST + last - 1], "seconds": seconds, "how": how}
                    write_json(out / RECORD, settings)
                del made  # Windows removes no file that is mapped
                processes.barrier()
            advance(last - first)


def _append(part: Path, path: Path, size: int) -> None:
    """Write the bytes of a part after the first `size` of the file, safely on the disk."""
    with path.open("ab") as file, part.open("rb") as more:
        file.truncate(size)
        shutil.copyfileobj(more, file)
        file.flush()
        os.fsync(file.fileno())


def _made(out: Path, how: dict[str, Any]) -> tuple[int, float]:
    """How many images are there that were made like this, and the seconds that they took."""
    found = read_json(out / RECORD) if (out / RECORD).exists() and (out / FILE).exists() else {}
    return (found["seeds"][1] - FIRST + 1, found["seconds"]) if found.get("how") == how else (0, 0.0)


def conditions_of(data: PreparedData, count: int) -> Conditioning:
    """What is asked of so many images: what is known of the training images, of all in turn or of evenly chosen ones."""
    total = len(data.training)
    rows = np.arange(count) % total if count >= total else np.arange(count) * total // count
    classes: Tensor = torch.from_numpy(labels(data.training)[rows]) if data.classes else torch.zeros(count, dtype=torch.int64)
    return classes if data.given is None else data.given.condition(rows, classes)
