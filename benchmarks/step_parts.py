"""Where the processor time of a training step goes on a CPU: by kind of operation, beside what a large matrix product reaches.

    python -m benchmarks.step_parts --recipe cpu-32-diffusion --pixels 32 --channels 4

All of a recipe's steps are the library's own, in float32 and one thread. *share* is the part's processor time in that of all
operations, *GFLOP* counts two per multiply-add, and *of peak* is the part's rate by that of a large matrix product, timed between
the steps. Processor time does not count what other processes take.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import tyro
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.measure import CLASSES, MATMUL, Settings
from benchmarks.train_step import random_stream
from pixelpath.recipes import RECIPES
from pixelpath.recipes.build import objective_through, student_of
from pixelpath.runs.work import counter
from pixelpath.trainer.ema import twin
from pixelpath.trainer.loop import train

KINDS = {
    "linear layers": ("aten.mm", "aten.addmm"),
    "products of the optimizer": ("aten.bmm", "aten.baddbmm"),
    "attention": ("aten._scaled_dot_product",),
    "convolutions": ("aten.convolution",),
    "GELU": ("aten.gelu",),
    "LayerNorm": ("aten.native_layer_norm",),
}
REST = "value by value, sums, copies"


class Times(TorchDispatchMode):
    """Processor seconds and floating-point operations of every operation, by its kind."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = counter().flop_registry
        self.seconds, self.operations = defaultdict[str, float](float), defaultdict[str, float](float)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        started = time.thread_time()
        found = func(*args, **(kwargs or {}))
        taken = time.thread_time() - started
        kind = next((kind for kind, names in KINDS.items() if str(func).startswith(names)), REST)
        self.seconds[kind] += taken
        count = self.counts.get(func._overloadpacket)
        self.operations[kind] += 0 if count is None else count(*args, **(kwargs or {}), out_val=found)
        return found


def steps_of(recipe: str, settings: Settings) -> Callable[[], object]:
    """The next step of the recipe's own training on random images."""
    chosen = RECIPES[recipe]()
    device = torch.device("cpu")
    stream, _ = random_stream(chosen, settings, device)
    student = student_of(chosen, settings.shape, CLASSES)
    return train(
        student,
        twin(student),
        objective_through(chosen, None),
        chosen.optimizer.build(student),
        chosen.schedule,
        stream.batches(0),
        first=0,
        steps=chosen.steps,
        ema_decay=chosen.ema_decay,
        seed=chosen.seed,
        clip=chosen.optimizer.limit,
    ).__next__


def main(recipe: str = "cpu-32-diffusion", pixels: int = 32, channels: int = 4, repeats: int = 8) -> None:
    """Print the table.

    Args:
        recipe: a recipe of stage two that needs no encoder.
        pixels: rows and columns of an image.
        channels: channels of an image.
        repeats: number of steps.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    chosen, side = RECIPES[recipe](), MATMUL["cpu"]
    step = steps_of(recipe, Settings(pixels=pixels, patch=chosen.patch, channels=channels, batch=chosen.batch_size))
    square, rates, whole, times = torch.randn(side, side), list[float](), list[float](), Times()
    for _ in range(2):
        step()
    for _ in range(repeats):
        rates.append(2 * side**3 / _seconds(lambda: square @ square))
        whole.append(_seconds(step))
        with times:
            step()
    peak, total = statistics.median(rates), sum(times.seconds.values())
    sys.stdout.write(f"{recipe}, {statistics.median(whole) * 1e3:.0f} ms a step, peak {peak / 1e9:.0f} GFLOP/s\n")
    done = sum(times.operations.values())
    rows = [(kind, times.seconds[kind], times.operations[kind]) for kind in (*KINDS, REST)]
    sys.stdout.write(f"{'part':<30} {'share':>7} {'GFLOP':>7} {'of peak':>8}\n")
    for kind, seconds, count in (*rows, ("all operations", total, done)):
        counted = f" {count / repeats / 1e9:>7.2f} {count / seconds / peak:>8.0%}" if count else ""
        sys.stdout.write(f"{kind:<30} {seconds / total:>7.1%}{counted}\n")
    rate = statistics.median([done / repeats / seconds / rate for seconds, rate in zip(whole, rates, strict=True)])
    sys.stdout.write(f"{'a step without this count':<30} {'':>7} {done / repeats / 1e9:>7.2f} {rate:>8.0%}\n")


def _seconds(call: Callable[[], object | Tensor]) -> float:
    started = time.thread_time()
    call()
    return time.thread_time() - started


if __name__ == "__main__":
    tyro.cli(main)
