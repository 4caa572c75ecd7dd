"""How long a save holds up training: the copy that it takes at its step, and what the writing thread keeps from Python.

    python -m benchmarks.saving --size small --pixels 32 --patch 4 --channels 3

A *save* lasts from the call until everything is on the disk. The *copy* is the part of it for which the step waits, and *stall*
its share. While the thread writes, a loop in Python is busy. *loop* is the processor time that it got by that which the thread
got: about 1 or more if the thread leaves Python's lock to others, far below 1 if it keeps it. Run it with one thread of torch.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.measure import CLASSES, Settings, closed_recipe, spread
from pixelpath.recipes.build import student_of
from pixelpath.trainer.checkpoint import State
from pixelpath.trainer.ema import twin
from pixelpath.trainer.writer import Writer


def run(settings: Settings) -> dict[str, Any]:
    """Bytes of a checkpoint, and of every save its seconds, those of its copy, their ratio, and the share of the loop."""
    torch.manual_seed(0)
    recipe = closed_recipe(settings, "diffusion")
    student = student_of(recipe, settings.shape, CLASSES)
    ema, optimizer = twin(student), recipe.optimizer.build(student)
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # so that there are moments to be saved
    rows: dict[str, list[float]] = {"copy, s": [], "save, s": [], "stall": [], "loop": []}
    with tempfile.TemporaryDirectory() as folder:
        writer = Writer()
        for number in range(settings.repeats + 1):
            started = time.perf_counter()
            writer.save(Path(folder), State(number, 0), (student, ema), optimizer, {}, 1)
            copied = time.perf_counter() - started
            written = threading.Thread(target=writer.wait)
            own, both = time.thread_time(), time.process_time()
            written.start()
            while written.is_alive():
                pass
            own, both = time.thread_time() - own, time.process_time() - both
            save = time.perf_counter() - started
            if number:  # the first one warms up
                for name, value in zip(rows, (copied, save, copied / save, own / (both - own)), strict=True):
                    rows[name].append(value)
        newest = max(Path(folder).glob("checkpoints/*"))
        size = sum(file.stat().st_size for file in newest.iterdir())
    return {"bytes": size, **{name: spread(values) for name, values in rows.items()}}


def main() -> None:
    """Read the settings from the command line and print what was measured."""
    settings = tyro.cli(Settings, prog="python -m benchmarks.saving")
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    found = run(settings)
    sys.stdout.write(f"{settings.size}, checkpoint of {found.pop('bytes') / 2**20:.0f} MiB, {settings.repeats} saves\n")
    for name, row in found.items():
        sys.stdout.write(f"{name:<8} {row['median']:8.3f}  ({row['lowest']:.3f} to {row['highest']:.3f})\n")


if __name__ == "__main__":
    main()
