"""What a run would cost, from its networks and a few real steps.

The *peak* is the most memory that a process has held on its device (on a CPU: in memory). It includes the libraries and the data
of the process, so a *cost* says what a run shows only if it is measured in a process of its own, as `measured_apart` does.
"""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path

import torch
from tqdm import tqdm

from pixelpath import processes
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.opening import open_split
from pixelpath.data.sources import Source, evenly, subset
from pixelpath.errors import UserError
from pixelpath.log import say
from pixelpath.models.denoiser import Denoiser
from pixelpath.recipes.build import objective_through, representation_of
from pixelpath.recipes.recipe import Recipe, from_json, to_json
from pixelpath.runs import monitor
from pixelpath.runs.chosen import Saving
from pixelpath.runs.devices import check_shard, choose_device, compiles, use_tensor_cores
from pixelpath.runs.generate import Origin, generate
from pixelpath.runs.memory import kept
from pixelpath.runs.prepare import PreparedData, close, read_data
from pixelpath.runs.session import Session
from pixelpath.runs.students import new_student
from pixelpath.runs.work import multiply_adds
from pixelpath.sampling.sampler import Sampler, Sampling
from pixelpath.trainer.journal import peak_memory

MEASURED = 3  # steps at least
SPAN, MOST = 3.0, 30  # seconds that short steps are measured for, and how many at most: a first few say little of a long run
WARM, WARM_COMPILED = 1, 3  # steps before these
GPUS = 8  # as many processes as memory is told for where there is one
KEPT = 4  # checkpoints of a run: the latest three and the best, unless `keep` says otherwise
WORK = 4e10  # multiply-adds of a step on a CPU, above which fewer images are measured: some seconds
FITTED = 2048  # images of data that no memory holds, by which their normaliser is fitted here


@dataclass(frozen=True)
class Cost:
    """What a run costs on this machine.

    `seconds` are those of a step, `memory` is the peak in bytes, `checkpoint` the bytes of one on the disk, `multiply_adds` those
    of one evaluation of one image. Memory and seconds were measured on `measured` images a step; if these are fewer than the
    batch, they are extrapolated in a straight line.
    """

    name: str
    device: str
    parameters: int
    tokens: int
    multiply_adds: float
    steps: int
    batch_size: int
    measured: int
    seconds: float
    memory: int
    checkpoint: int

    @property
    def images_per_second(self) -> float:
        """Images per second of training."""
        return self.batch_size / self.seconds

    @property
    def whole(self) -> float:
        """Seconds of all steps."""
        return self.steps * self.seconds

    @property
    def disk(self) -> int:
        """Bytes of the checkpoints that a run keeps."""
        return KEPT * self.checkpoint


def tell_cost(recipe: Recipe, data: PreparedData, device: torch.device, *, shard: bool = False) -> None:
    """Say parameters, multiply-adds per image, tokens, memory, disk and steps per second; nothing that it writes stays.

    Of several processes all must call it; the batch is then shared out among them, and so are the weights with `shard`.
    """
    check_shard(recipe, device, shard)
    found = cost(recipe, data, device, shard=shard)
    say(f"{recipe.name}: {found.parameters / 1e6:.2f} M parameters, {found.tokens} tokens an image.")
    say(f"One evaluation of one image: {found.multiply_adds / 1e9:.3g} G multiply-adds (matrix products and convolutions).")
    own = 20 * found.parameters / 2**30
    say(f"Weights, their EMA, gradients and the optimizer's moments: {own:.2g} GiB in float32, without activations.")
    count = processes.count() if processes.count() > 1 else GPUS
    with torch.device("meta"):
        each = kept(data.student(recipe), recipe, count)
    say(f"With `shard`, each of {count} processes keeps {each.share / 2**30:.2g} GiB of these.")
    place = "of the device" if device.type == "cuda" else "of the process"
    say(f"Real steps of {found.measured} images on {device}: {1 / found.seconds:.3g} steps/s,")
    say(f"{found.images_per_second:.0f} images/s, peak memory {place} {found.memory / 2**30:.2f} GiB,")
    if found.measured < recipe.batch_size:
        say(f"extrapolated to {recipe.batch_size} images a step;")
    say(f"all {recipe.steps:,} steps would take {tqdm.format_interval(found.whole)}, checkpoints {found.disk / 2**30:.2g} GiB,")
    say("without previews, held-out measurements and checkpoints, of which a run makes ten unless `every` says otherwise.")


def cost(recipe: Recipe, data: PreparedData, device: torch.device, *, shard: bool = False) -> Cost:
    """The cost of a closed recipe: some real steps, a measurement, a preview and a checkpoint of which nothing stays.

    On a CPU, batches of more than some ten seconds are measured on fewer images, in two sizes.
    """
    student = new_student(recipe, data, None, None)
    work, parameters = multiply_adds(student, data.shape), sum(parameter.numel() for parameter in student.parameters())
    stand_in = representation_of(recipe, data.shape).to(device) if recipe.needs_encoder else None
    size = recipe.batch_size
    while device.type == "cpu" and size >= 4 and 3 * work * size > WORK:
        size //= 2
    with tempfile.TemporaryDirectory() as folder:
        session = Session(recipe, objective_through(recipe, stand_in), data, Path(folder), device, student, Saving(), shard=shard)
        images = monitor.measured(data)
        if size == recipe.batch_size:
            seconds, memory = _seconds(session, recipe), _finish(session, recipe, images)
        else:
            _steps(session, replace(recipe, batch_size=size // 2, accumulate=1), 1)
            before = _finish(session, recipe, images)
            seconds = _seconds(session, replace(recipe, batch_size=size, accumulate=1)) * recipe.batch_size / size
            part = recipe.batch_size if recipe.is_encoder else recipe.batch_size // recipe.accumulate
            memory = max(before, peak_memory(device))
            memory += round((memory - before) / (size - size // 2) * max(0, part - size))
        bytes_written = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    return Cost(
        name=recipe.name,
        device=str(device),
        parameters=parameters,
        tokens=2 + (data.shape[1] // recipe.patch) * (data.shape[2] // recipe.patch),
        multiply_adds=work,
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        measured=size,
        seconds=seconds,
        memory=memory,
        checkpoint=bytes_written,
    )


def seconds_of_step(recipe: Recipe, device: torch.device) -> float:
    """The seconds of a step of an open recipe that compares no features, by a few in this process of which nothing stays.

    Those of the fastest: a moment in which the machine is busy with other work should not decide on a smaller network.
    """
    data = _data(recipe)
    closed = close(recipe, data)
    with tempfile.TemporaryDirectory() as folder:
        student, objective = new_student(closed, data, None, None), objective_through(closed, None)
        session = Session(closed, objective, data, Path(folder), device, student, Saving())
        return min(_steps(session, closed))


def measured_apart(recipe: Recipe, device: str | None = None) -> Cost:
    """The cost of an open recipe, measured in a process of its own; ValueError with its sentence if such a run would stop."""
    words = [sys.executable, "-m", "pixelpath.runs.cost", device or ""]
    done = subprocess.run(words, input=to_json(recipe), capture_output=True, text=True)
    lines = done.stdout.splitlines()
    answer = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    if "error" in answer:
        raise UserError(answer["error"])
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(
            f"A trial of {recipe.name} ended with status {done.returncode} ({last}): choose a smaller `batch_size`.", "batch_size"
        )
    return Cost(**answer)


def _seconds(session: Session, recipe: Recipe) -> float:
    """The median time of a step, a mean over processes; of short ones after as many others."""
    found = _median(_steps(session, recipe))
    count = min(MOST, round(SPAN / found))
    return _median(_steps(session, recipe, count)) if count > MEASURED else found


def _median(seconds: list[float]) -> float:
    return float(processes.mean(torch.tensor(statistics.median(seconds))))


def _steps(session: Session, recipe: Recipe, count: int = MEASURED) -> list[float]:
    """Seconds of so many real steps of the recipe, after some to warm up."""
    warm = WARM_COMPILED if compiles(session.recipe, session.device) else WARM
    session.recipe = replace(recipe, steps=warm + count)
    return [step.seconds for step in session.steps()][warm:]


def _finish(session: Session, recipe: Recipe, images: Source) -> int:
    """The peak after what a run does every so many steps, with fewer images and fewer steps of sampling."""
    data, ema = session.data, session.whole_ema()
    few = subset(images, range(min(len(images), recipe.batch_size)))
    monitor.held_out_loss(recipe, session.objective, data, few, ema, session.device)
    if recipe.is_encoder:
        monitor.watch_features(recipe, data, images, ema, session.device)
    elif isinstance(ema, Denoiser):
        chosen = Sampling(steps=2, sampler=Sampler.HEUN).over(recipe.usual_sampling)
        seeds = range(monitor.PREVIEWS[0])
        for _ in generate(ema, Origin(recipe.noise), chosen, seeds, data.condition(seeds)):
            pass
    session.save()
    session.writer.wait()
    return peak_memory(session.device)


def _data(recipe: Recipe) -> PreparedData:
    """The data of a run; of those that are not kept in memory only some images decide on the normaliser."""
    training, _ = open_split(recipe.data, recipe.patch)
    if len(training) * prod(training.shape) * training.dtype.itemsize <= recipe.data.cache_bytes:
        return read_data(recipe)
    few = subset(training, evenly(len(training), FITTED))
    return read_data(recipe, None, Normaliser.fit(few, recipe.data.workers, recipe.data.normaliser, training.metadata.nodata))


def _answer(device: str) -> None:
    """Measure the recipe on standard input, and write its cost, or why there is none, to standard output."""
    importlib.import_module("tyro")  # a run holds it in memory too
    try:
        recipe = from_json(sys.stdin.read())
        use_tensor_cores()  # as the command line trains
        chosen = choose_device(device or None)
        data = _data(recipe)
        answer = asdict(cost(close(recipe, data), data, chosen))
    except (ValueError, OSError, RuntimeError) as error:
        answer = {"error": str(error).splitlines()[0]}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    _answer(sys.argv[1] if len(sys.argv) > 1 else "")
