"""What one GPU does in nine minutes: training steps, sampling, waits, and small photographs learned in equal time.

    python -m benchmarks.gpu --out results/gpu.json --cifar10 cifar10.npz

A *part* measures one thing and may fail alone. Parts run in order of worth. Every part has an end by the clock, and what an
earlier one leaves goes to the later ones. OUT.json and OUT.md are written anew after every part.
"""

from __future__ import annotations

import gc
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import tyro

from benchmarks import gpu_cifar, gpu_speed
from benchmarks.gpu_table import markdown
from benchmarks.measure import Settings, Stage, machine
from pixelpath.atomic import whole, write_json
from pixelpath.errors import UserError

AGAIN = 5.0  # seconds after which the alarm of a part is raised again, if something swallowed it
TOY = 0.01  # times the seconds and samples of the part that trains, at toy size
LEAST = 4  # images; where so few do not fit, a part is given up
Rows = list[dict[str, Any]]


class OutOfTime(BaseException):
    """The time of a part is up."""


@dataclass(frozen=True)
class Part:
    """Something to be measured in about `seconds`: `run(batch, rows)` appends rows as it goes, so that they outlast a failure.

    `batch` is halved as often as memory runs out; None: it has no batch.
    """

    name: str
    seconds: float
    run: Callable[[int, Rows], None]
    batch: int | None = None


@dataclass
class Results:
    """All that is known so far, and where it is written."""

    out: Path
    about: dict[str, Any]
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write(self) -> None:
        """Write the JSON and, beside it, the Markdown, each whole or not at all."""
        found = {**self.about, "parts": self.parts}
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.out, found)
        with whole(self.out.with_suffix(".md")) as file:
            file.write(markdown(found).encode("utf-8"))


def run_all(parts: Sequence[Part], results: Results, limit: float) -> None:
    """Run parts, one after the other, until `limit` seconds are spent.

    A part must end when the times of all parts up to it would have passed. The results are written after every part, also
    after one that fails; an interruption ends the run once they are written.
    """
    began, ends = time.monotonic(), 0.0
    for part in parts:
        ends += part.seconds
        left = min(ends, limit) - (time.monotonic() - began)
        found = results.parts.setdefault(part.name, {"rows": []})
        started = time.monotonic()
        say(f"{part.name}: up to {max(0, left):.0f} s")
        try:
            found["status"] = _outcome(part, found, left)
        except KeyboardInterrupt:
            found["status"] = "interrupted"
            raise
        finally:
            found["seconds"] = time.monotonic() - started
            results.about["seconds"] = time.monotonic() - began
            results.write()
            say(f"{part.name}: {found['status']}, {found['seconds']:.0f} s")


def _outcome(part: Part, found: dict[str, Any], left: float) -> str:
    """Run one part; what became of it, in a few words. Only interruptions are raised."""
    if left <= 0:
        return "no time left"
    try:
        with alarm(left):
            return _fitting(part, found)
    except OutOfTime:
        return f"out of time after {left:.0f} s"
    except gpu_speed.Skipped as reason:
        return f"skipped: {reason}"
    except Exception as error:
        return f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    finally:
        release()


def _fitting(part: Part, found: dict[str, Any]) -> str:
    """Run one part with the largest batch that fits."""
    batch = part.batch or 0
    while True:
        found["rows"] = rows = []
        try:
            part.run(batch, rows)
            return "done" if batch == (part.batch or 0) else f"done (a batch of {2 * batch} did not fit)"
        except torch.OutOfMemoryError:
            if batch // 2 < LEAST:
                raise
        batch //= 2
        say(f"{part.name}: out of memory, again with a batch of {batch}")
        release()


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in here when so many seconds have passed, again and again until it is left."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def release() -> None:
    """Give back the memory of networks that nobody holds any more, compiled ones too."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def parts_of(device: torch.device, toy: bool, cifar10: Path | None, folder: Path) -> list[Part]:
    """All parts in order of worth, of networks and images as on a GPU, or as small as can be."""
    xl = Settings("XL", 256, 16, 3, 64, repeats=3, calls=2, precision=("bfloat16", "float16"), compile=True)
    b = replace(xl, size="B")
    if toy:
        xl = b = Settings("nano", 8, 4, 1, 4, repeats=1, calls=1, compile=False)
    plan = gpu_cifar.Plan(scale=TOY, toy=True) if toy else gpu_cifar.Plan()

    def step(name: str, settings: Settings, stage: Stage, seconds: float) -> Part:
        return Part(name, seconds, partial(gpu_speed.training, settings, stage, device), settings.batch)

    large, small = ("xl", "b") if not toy else ("nano", "nano-again")
    return [
        step(f"{large}-diffusion", xl, "diffusion", 100),
        Part("waits", 25, partial(gpu_speed.waits, b, device), min(16, b.batch)),
        Part(f"{large}-sampling", 45, partial(gpu_speed.sampling_speed, xl, device), xl.batch),
        Part("cifar10", 165, partial(gpu_cifar.run, cifar10, folder, device, plan)),
        step(f"{large}-onestep", xl, "onestep", 65),
        step("encoder", xl, "encoder", 50),  # B and XL have the same encoder
        step(f"{small}-diffusion", b, "diffusion", 40),
        step(f"{small}-onestep", b, "onestep", 40),
    ]


def main(
    out: Path = Path("results/gpu.json"),
    cifar10: Path | None = None,
    minutes: float = 8.8,
    only: tuple[str, ...] = (),
    skip: tuple[str, ...] = (),
    toy: bool = False,
) -> Results:
    """Measure one CUDA GPU. Results go to OUT.json and OUT.md, which are written after every part.

    Args:
        out: JSON file of the results; the table lies beside it as .md.
        cifar10: CIFAR-10 as one .npz, of images or of JPEG bytes; without it that part is skipped.
        minutes: Time for everything.
        only: Parts to run; all if not given.
        skip: Parts to leave out.
        toy: As small as can be, on the CPU: whether the script works.
    """
    if not toy and not torch.cuda.is_available():
        raise UserError("This measures a CUDA GPU and torch sees none here: use --toy to try it on the CPU.")
    device = torch.device("cpu" if toy else "cuda")
    torch.set_float32_matmul_precision("high")  # as training does
    torch._dynamo.config.recompile_limit = 64
    torch.manual_seed(0)
    parts = chosen(parts_of(device, toy, cifar10, out.parent / f"{out.stem}-cifar10"), only, skip)
    results = Results(out, {"benchmark": "gpu", "toy": toy, "machine": machine(device), "seconds": 0.0})
    run_all(parts, results, 60 * minutes)
    say(markdown({**results.about, "parts": results.parts}))
    return results


def chosen(parts: Sequence[Part], only: Sequence[str], skip: Sequence[str]) -> list[Part]:
    """The parts that are asked for; UserError for a name that none has."""
    names = [part.name for part in parts]
    for name in (*only, *skip):
        if name not in names:
            raise UserError(f"There is no part {name}: choose from {', '.join(names)}.")
    return [part for part in parts if (part.name in only or not only) and part.name not in skip]


def say(words: str) -> None:
    """A line on the terminal."""
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def program() -> int:
    """Measure as the command line says; the exit status, 2 after a mistake and 130 after an interruption."""
    try:
        tyro.cli(main, prog="python -m benchmarks.gpu")
    except UserError as mistake:
        sys.stderr.write(f"{mistake}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(program())
