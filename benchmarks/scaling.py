"""Two processes beside one: images a second of a diffusion step, each process with its share of the batch.

    python -m benchmarks.scaling --size tiny --pixels 32 --patch 4 --channels 3 --batch 64 --repeats 5 --out scaling.json

Ways: one process of one thread, two processes of one thread each (started by torchrun, averaging gradients by gloo), and one
process of two threads. Every round runs each of them once, and a ratio compares times of the same round. The batch of two
processes is as large as that of one (*strong*), or twice as large, so that each process does what one does alone (*weak*).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from benchmarks.measure import CLASSES, Settings, closed_recipe, spread
from benchmarks.train_step import random_stream
from pixelpath import processes
from pixelpath.recipes.build import objective_through, student_of
from pixelpath.runs.devices import joined
from pixelpath.trainer.ema import twin
from pixelpath.trainer.loop import distribute, train

ROOT = Path(__file__).parents[1]
WARM = 2  # steps before those that count


@dataclass(frozen=True)
class Way:
    """How many processes of how many threads share a batch so many times that of the settings."""

    processes: int
    threads: int
    batches: int = 1

    def __str__(self) -> str:
        kind = "" if self.processes == 1 else ", weak" if self.batches > 1 else ", strong"
        return f"{self.processes} x {self.threads}{kind}"


ALONE = Way(1, 1)
WAYS = (ALONE, Way(2, 1), Way(2, 1, 2), Way(1, 2))


def speed(settings: Settings) -> float:
    """Images a second of all processes, of the median step of this one; the batch of the settings is this process's."""
    recipe = closed_recipe(settings, "diffusion")
    stream, _ = random_stream(recipe, settings, torch.device("cpu"))
    student = student_of(recipe, settings.shape, CLASSES)
    steps = train(
        distribute(student), twin(student), objective_through(recipe, None), recipe.optimizer.build(student), recipe.schedule,
        stream.batches(0), first=0, steps=recipe.steps, ema_decay=recipe.ema_decay, seed=recipe.seed, clip=recipe.optimizer.limit,
    )  # fmt: skip
    times = []
    for _ in range(WARM + settings.calls):
        started = time.perf_counter()
        next(steps)
        times.append(time.perf_counter() - started)
    return settings.batch * processes.count() / statistics.median(times[WARM:])


def measured(way: Way, settings: Settings) -> float:
    """What `speed` finds this way, in processes of its own."""
    own = replace(settings, batch=settings.batch * way.batches // way.processes, threads=way.threads)
    words = [f"--{name}={getattr(own, name)}" for name in ("size", "pixels", "patch", "channels", "batch", "threads", "calls")]
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(way.processes)] if way.processes > 1 else []
    done = subprocess.run(
        [sys.executable, *start, "-m", "benchmarks.scaling", *words],
        check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(way.threads), "PIXELPATH_SCALING": "worker"},
    )  # fmt: skip
    return float(done.stdout.split()[-1])


def worker(settings: Settings) -> None:
    """Print the speed, on the main process."""
    torch.set_num_threads(settings.threads or 1)
    with joined():
        found = speed(settings)
        if processes.rank() == 0:
            sys.stdout.write(f"{found}\n")


def main(settings: Settings) -> None:
    """Measure every way in every round, and print and write what was found."""
    rows: dict[str, list[float]] = {str(way): [] for way in WAYS}
    for _ in range(settings.repeats):
        for way in WAYS:
            rows[str(way)].append(measured(way, settings))
    ratios = {name: [a / b for a, b in zip(row, rows[str(ALONE)], strict=True)] for name, row in rows.items()}
    found = {name: {"images a second": spread(row), "by one": spread(ratios[name])} for name, row in rows.items()}
    for name, row in found.items():
        speeds, ratio = row.values()
        range_of = f"({ratio['lowest']:.2f} to {ratio['highest']:.2f})"
        sys.stdout.write(f"{name:<16}{speeds['median']:10.1f} images/s  {ratio['median']:.2f} times one {range_of}\n")
    if settings.out is not None:
        settings.out.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    chosen = tyro.cli(Settings, prog="python -m benchmarks.scaling")
    worker(chosen) if os.environ.get("PIXELPATH_SCALING") == "worker" else main(chosen)
