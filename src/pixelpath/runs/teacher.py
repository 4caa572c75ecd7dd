"""The images that a distilled run learns from (`objectives.distillation`), as its teacher makes them before the first step.

The run keeps them in RUN/taught.bin, in the data's own dtype, and how they were made in RUN/taught.json. Image k is that of seed
FIRST + k, under what is known of one of the training images.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pixelpath import processes
from pixelpath.atomic import read_json, write_json
from pixelpath.data.sources import Arrays, labels
from pixelpath.log import progress, say
from pixelpath.objectives.distillation import Distillation
from pixelpath.runs.folder import by_main
from pixelpath.runs.opened import OpenRun, open_run
from pixelpath.runs.prepare import FIRST, PreparedData
from pixelpath.runs.sample import sample, scratch
from pixelpath.sampling.sampler import Sampler, Sampling

FILE, RECORD = "taught.bin", "taught.json"
PER_IMAGE = ("labels", "classes", "conditions")  # of the settings of samples: what training images say too
AT_ONCE, PART = 256, 1024  # images of a batch, and after which those made are kept


def taught(
    objective: Distillation, data: PreparedData, teacher: Path, out: Path, device: torch.device, *, began: bool = True
) -> PreparedData:
    """The data, the training images being those that the teacher makes: it does so now, unless the run in `out` has begun.

    Images that an interrupted making left are kept. Every process must call it.
    """
    total, count, dtype = len(data.training), objective.images, np.dtype(data.normaliser.dtype)
    rows = np.arange(count) % total if count >= total else np.arange(count) * total // count
    numbers = labels(data.training)[rows] if data.classes else np.zeros(count, dtype=np.int64)
    given = None if data.given is None else data.given.of(rows)
    if not (began and by_main((out / FILE).exists)()):
        _make(objective, replace(data, given=given), numbers, open_run(teacher, device=device), out)
    images = np.memmap(out / FILE, dtype, "r", shape=(count, *data.shape))
    made = Arrays(images, numbers, data.training.classes, metadata=data.sampled or data.metadata)
    return replace(data, training=made, given=given, originals=None)


def _make(objective: Distillation, data: PreparedData, numbers: np.ndarray, teacher: OpenRun, out: Path) -> None:
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
            asked = torch.from_numpy(numbers[first:last])
            asked = asked if data.given is None else data.given.condition(range(first, last), asked)
            with scratch(out / FILE) as unfinished:
                made = sample(teacher, range(FIRST + first, FIRST + last), asked, chosen, AT_ONCE, into=unfinished)
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
