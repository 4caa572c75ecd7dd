"""What both benchmarks share: settings, works timed side by side, peaks of memory, counted operations, ratios, and the report.

A *work* is something to be timed: a whole step, the bare networks, the peer. Works are *interleaved*: every round runs each of
them once, so that a ratio compares times that were taken beside each other. A *mode* is a precision, eager or compiled.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn

from pixelpath import recipes
from pixelpath.recipes import sizes
from pixelpath.recipes.recipe import Recipe, for_data
from pixelpath.runs.devices import choose_device
from pixelpath.runs.work import operations as operations_of
from pixelpath.trainer.journal import peak_memory

Stage = Literal["encoder", "diffusion", "onestep"]
SizeName = Literal["nano", "tiny", "small", "B", "L", "XL", "XXL", "G"]
PrecisionName = Literal["float32", "bfloat16", "float16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CLASSES = 10
MARK = "measured call"
COUNTED = (2, 4)  # batch sizes at which operations are counted
MATMUL = {"cuda": 8192, "mps": 4096, "cpu": 1024}  # side of the square matrices whose product is the peak


@dataclass(frozen=True)
class Settings:
    """What to measure, on what, and how often."""

    size: SizeName = "nano"
    """Size of the networks, from the table of the recipes."""
    pixels: int = 8
    """Rows and columns of an image."""
    patch: int = 4
    """Side of a patch in pixels."""
    channels: int = 1
    """Channels of an image."""
    batch: int = 128
    """Images of a step, a multiple of 4."""
    device: str | None = None
    """cpu, cuda, mps; chosen by itself if not given."""
    threads: int | None = None
    """Threads of torch on the CPU; torch's own choice if not given."""
    repeats: int = 5
    """Rounds; every ratio is a median over them."""
    calls: int = 3
    """Calls of a work in a round."""
    precision: tuple[PrecisionName, ...] = ("float32",)
    """Precisions to compare, the first being the reference."""
    compile: bool | None = None
    """Measure compiled networks too; none given: on CUDA only."""
    steps: int | None = None
    """Steps of the sampler, where one is measured; the recipe's if not given."""
    out: Path | None = None
    """JSON file of the results."""

    def __post_init__(self) -> None:
        if self.batch < 4 or self.batch % 4:
            raise ValueError(f"A batch of {self.batch} cannot be measured: give --batch a multiple of 4.")
        counts = (self.repeats, self.calls, self.threads or 1, self.steps or 1)
        if min(counts) < 1 or self.threads == 0 or self.steps == 0 or not self.precision:
            raise ValueError(
                "Nothing would be measured: give --repeats, --calls, --threads and --steps at least 1, and one --precision."
            )
        if self.pixels % self.patch:
            raise ValueError(f"A patch of {self.patch} does not divide images of {self.pixels} pixels: choose another --patch.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows, columns."""
        return self.channels, self.pixels, self.pixels


@dataclass(frozen=True)
class Mode:
    """A precision, eager or compiled."""

    precision: str
    compiled: bool

    def __str__(self) -> str:
        return f"{self.precision} {'compiled' if self.compiled else 'eager'}"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of matrix products."""
        return DTYPES[self.precision]

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context in which networks compute in this precision."""
        return nullcontext() if self.precision == "float32" else torch.autocast(device.type, self.dtype)


@dataclass(frozen=True)
class Work:
    """Something to be timed: `call` does it once, over `images` images, in `operations` floating-point operations.

    `held` are the bytes that stay between two calls: weights, gradients, optimizer, average. None: not counted.
    """

    name: str
    call: Callable[[], object]
    mode: Mode | None = None
    images: int | None = None
    operations: float | None = None
    held: int | None = None


def compiled(network: nn.Module) -> nn.Module:
    """The network compiled (at its first call), its weights shared with the eager one."""
    found = torch.compile(network)
    assert isinstance(found, nn.Module)
    return found


def modes(settings: Settings, device: torch.device) -> list[Mode]:
    """Every precision eager and, if asked for, compiled; the reference first."""
    both = device.type == "cuda" if settings.compile is None else settings.compile
    return [Mode(name, on) for on in ([False, True] if both else [False]) for name in dict.fromkeys(settings.precision)]


def closed_recipe(settings: Settings, stage: Stage) -> Recipe:
    """The recipe of this size and stage for these pixels: that of the digits for nano, of small-32 to small, else ImageNet's."""
    size = sizes.SIZES[settings.size]
    small = {"encoder": recipes.small_32_encoder, "diffusion": recipes.small_32_diffusion, "onestep": recipes.small_32_onestep}
    known = {
        "nano": {"encoder": recipes.digits_encoder, "diffusion": recipes.digits_diffusion, "onestep": recipes.digits_onestep},
        "tiny": small,
        "small": small,
    }
    large = {
        "encoder": recipes.imagenet256_l_encoder,
        "diffusion": recipes.imagenet256_l_diffusion,
        "onestep": recipes.imagenet256_l_onestep,
    }
    recipe = known.get(settings.size, large)[stage]()
    still = replace(recipe.optimizer, lr=1e-6)  # thousands of steps on random images must not drive the weights to infinity
    recipe = replace(recipe, size=size, patch=settings.patch, batch_size=settings.batch, optimizer=still)
    return for_data(recipe, settings.pixels, settings.pixels)


def matmul(mode: Mode, device: torch.device) -> Work:
    """The product of two large square matrices: the most operations a second that this device does in this precision."""
    side = MATMUL[device.type]
    left, right = (torch.randn(side, side, device=device, dtype=mode.dtype) for _ in range(2))
    return Work(f"matmul {mode.precision}", lambda: left @ right, operations=2.0 * side**3)


def operations(run: Callable[[int], object], batch: int, update: Callable[[], object] = lambda: None) -> float:
    """Floating-point operations (two per multiply-add) of the matrix products and convolutions of run(batch), its batch size.

    They are linear in the batch but for contrastive losses, which are quadratic, so two small batches tell. `update` is the part
    of `run` whose operations do not depend on the batch: the optimizer's, called again after a run.
    """
    few, more = (operations_of(partial(run, size)) for size in COUNTED)
    fixed = operations_of(update)
    few, more = few - fixed, more - fixed
    square = (more - 2 * few) / 8
    return (few / 2 - 2 * square) * batch + square * batch**2 + fixed


def storage(tensors: Sequence[Tensor]) -> int:
    """Bytes of these tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def transient_peak(call: Callable[[], object], device: torch.device) -> int:
    """The most bytes that a call holds beyond those held when it begins; on MPS only what the driver keeps afterwards."""
    if device.type == "cpu":
        return _cpu_peak(call)
    if device.type == "mps":
        before = torch.mps.driver_allocated_memory()
        call()
        return torch.mps.driver_allocated_memory() - before
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _cpu_peak(call: Callable[[], object]) -> int:
    """From the profiler's record of every allocation: the process's own peak would count everything that ran before.

    The record misses the release of what was allocated before it began, so a first call replaces gradients and the like.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
        with torch.profiler.record_function(MARK):
            call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    begin = next(event["ts"] for event in events if event.get("name") == MARK)
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    held = [0, *accumulate(change for when, change in changes if when >= begin)]
    return max(held)


def interleave(works: Sequence[Work], settings: Settings, device: torch.device) -> dict[str, list[float]]:
    """Seconds per call of every work, one number per round, after two calls to warm up; every round begins with another work."""
    for work in works:
        for _ in range(2):
            work.call()
    seconds: dict[str, list[float]] = {work.name: [] for work in works}
    for repeat in range(settings.repeats):
        for place in range(len(works)):
            work = works[(place + repeat) % len(works)]
            synchronise(device)
            started = time.perf_counter()
            for _ in range(settings.calls):
                work.call()
            synchronise(device)
            seconds[work.name].append((time.perf_counter() - started) / settings.calls)
    return seconds


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if device.type == "mps":
        torch.mps.synchronize()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def ratio(seconds: dict[str, list[float]], over: str, under: str) -> dict[str, float]:
    """Time of `over` by time of `under`, round by round."""
    return spread([above / below for above, below in zip(seconds[over], seconds[under], strict=True)])


def described(work: Work, seconds: dict[str, list[float]], device: torch.device) -> dict[str, Any]:
    """All numbers of one work; its utilisation is its operations a second by those of the matrix product of the same round."""
    own = seconds[work.name]
    found: dict[str, Any] = {"seconds": spread(own)}
    if work.images is not None:
        found["images_per_second"] = work.images / statistics.median(own)
    if work.operations is not None:
        found["operations"] = work.operations
        found["operations_per_second"] = work.operations / statistics.median(own)
    if work.operations is not None and work.mode is not None:
        peaks = [2.0 * MATMUL[device.type] ** 3 / value for value in seconds[f"matmul {work.mode.precision}"]]
        found["utilisation"] = spread([work.operations / value / peak for value, peak in zip(own, peaks, strict=True)])
    if work.held is not None:
        found["held_bytes"] = work.held
        found["peak_bytes"] = work.held + transient_peak(work.call, device)
    return found


def evaluated(
    works: Sequence[Work], pairs: Sequence[tuple[str, str]], settings: Settings, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Time the works side by side: {"works": numbers of each, "ratios": time of the first of each pair by that of the second}."""
    seconds = interleave(works, settings, device)
    found = {work.name: described(work, seconds, device) for work in works}
    return {"works": found, "ratios": {f"{over} / {under}": ratio(seconds, over, under) for over, under in pairs}}


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on."""
    try:
        peer = metadata.version("diffusers")
    except metadata.PackageNotFoundError:
        peer = None
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": peer,
        "float32_matmul": torch.get_float32_matmul_precision(),
    }


def main(name: str, run: Callable[[Settings, torch.device], dict[str, Any]]) -> None:
    """Read the settings from the command line and measure; a user's mistake is one sentence and exit status 2."""
    try:
        measured(name, run, tyro.cli(Settings, prog=f"python -m benchmarks.{name}"))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{name}: {error}\n")
        sys.exit(2)


def measured(name: str, run: Callable[[Settings, torch.device], dict[str, Any]], settings: Settings) -> dict[str, Any]:
    """All results of a benchmark, printed, and written to settings.out if that is given."""
    device = choose_device(settings.device)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # as training does
    torch._dynamo.config.recompile_limit = 64  # side by side, one network meets more modes than in any run
    started = time.perf_counter()
    torch.manual_seed(0)
    results = {"benchmark": name, "settings": {**asdict(settings), "out": None}, "machine": machine(device)}
    results["stages"] = run(settings, device)
    results["seconds"] = time.perf_counter() - started
    results["process_peak_bytes"] = peak_memory(device)
    sys.stdout.write(table(results))
    if settings.out is not None:
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        settings.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


def table(results: dict[str, Any]) -> str:
    """The results as text: ratios first, since times alone depend on who shares the machine."""
    about, chosen = results["machine"], results["settings"]
    side = chosen["pixels"]
    lines = [
        f"{results['benchmark']}: {chosen['size']}, images {chosen['channels']} x {side} x {side}, patch {chosen['patch']}, "
        f"batch {chosen['batch']}; {chosen['repeats']} rounds of {chosen['calls']} calls; {results['seconds']:.0f} s in all",
        f"{about['device']}, torch {about['torch']} with {about['threads']} threads, float32 products {about['float32_matmul']}",
    ]
    for stage, found in results["stages"].items():
        lines += ["", f"{stage}: " + ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in found["sizes"].items())]
        lines.append(f"  {'ratio of times':<62} {'median':>8} {'lowest':>8} {'highest':>8}")
        for name, row in found["ratios"].items():
            lines.append(f"  {name:<62} {row['median']:>8.3f} {row['lowest']:>8.3f} {row['highest']:>8.3f}")
        heads = ("ms", "lowest", "highest", "images/s", "GFLOP", "GFLOP/s")
        lines.append(f"  {'work':<32} {' '.join(f'{head:>9}' for head in heads)} {'of peak':>8} {'peak MB':>9}")
        lines += [_line(name, row) for name, row in found["works"].items()]
    return "\n".join(lines) + "\n"


def _line(name: str, row: dict[str, Any]) -> str:
    times = " ".join(f"{1000 * value:>9.2f}" for value in row["seconds"].values())
    numbers = [
        f"{row['images_per_second']:>9.0f}" if "images_per_second" in row else f"{'':>9}",
        f"{row['operations'] / 1e9:>9.3f} {row['operations_per_second'] / 1e9:>9.1f}" if "operations" in row else f"{'':>19}",
        f"{row['utilisation']['median']:>8.1%}" if "utilisation" in row else f"{'':>8}",
        f"{row['peak_bytes'] / 1e6:>9.1f}" if "peak_bytes" in row else f"{'':>9}",
    ]
    return f"  {name:<32} {times} {' '.join(numbers)}"
