"""The generator of a one-step run as one file that needs no pixelpath."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial as calling
from importlib import metadata
from pathlib import Path

import torch

from pixelpath.atomic import whole
from pixelpath.data.unmeasured import unmeasured_in
from pixelpath.errors import UserError
from pixelpath.interop.generator import (
    ONNX,
    TOLERANCE,
    TORCH,
    Agreement,
    Format,
    Generator,
    Make,
    agreement,
    check_packages,
    graph_of,
)
from pixelpath.log import progress, say
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.runs.generate import Origin, balanced, generate
from pixelpath.runs.opened import OpenRun
from pixelpath.runs.sharing.bundled import check_writable
from pixelpath.runs.sharing.export_conditions import examples_of
from pixelpath.sampling.sampler import Sampler, Sampling
from pixelpath.types import Images

FORMATS: dict[str, Format] = {"onnx": ONNX, "torch": TORCH}
SEEDS = range(8)  # of the images that file and run must agree on
BATCHES = (1, 64)  # numbers of images at a time whose speed is measured
ROUNDS = (3, 50)  # of a measurement: at least, and at most
SECONDS = 3.0  # after which a measurement ends, once it has the rounds it needs


def export(run: OpenRun, format: Format = ONNX, guidance: float | None = None, out: Path | None = None) -> Path:
    """Write the generator of a one-step run as one file: noise and condition in, images in the data's own dtype and range out.

    `guidance` is fixed in the file; None: as the recipe says. `out` of None: RUN/generator.onnx or RUN/generator.pt2. The file
    takes its name only after it was read back and makes the images of the run. Raises UserError for a run that is not one-step,
    guidance that cannot act, a file that is there already.
    """
    if format is ONNX:
        check_packages()
    _check_one_step(run)
    if out is None:
        check_writable(run.path)
    file = run.path / f"generator{format.suffix}" if out is None else out
    if file.exists():
        raise UserError(f"{file} is there already: choose another `out`, nothing is overwritten.", setting="out")
    sampling = guided_step(run, guidance)
    assert sampling.guidance is not None
    highest = float(sampling.schedule(run.noise)[0])
    generator = Generator(run.denoiser, run.normaliser, highest, sampling.guidance, unmeasured_in(run.metadata, run.shape))
    file.parent.mkdir(parents=True, exist_ok=True)
    with progress("export", 4) as advance:
        with whole(file) as partial:
            format.write(graph_of(generator), partial, _about(run, sampling.guidance))
            partial.flush()
            advance(1)
            make = format.read(Path(partial.name))
            advance(1)
            found = _compare(make, run, sampling)
            advance(1)
        speed = _speed(make, generator, run, "onnxruntime" if format is ONNX else "the file")
        advance(1)
    size = f"{file.stat().st_size / 1e6:.1f} MB"
    say(f"{file} ({size}): {_inputs(run)} to image, {run.normaliser.dtype}.")
    say(_agreement(found))
    say(speed)
    return file


def _check_one_step(run: OpenRun) -> None:
    if run.recipe.is_encoder:
        raise UserError(
            f"{run.path} is a run of stage one, an encoder, which makes no images: train a one-step recipe (NAME-onestep) with "
            f"--encoder {run.path} and export that run."
        )
    if not run.recipe.is_one_step:
        raise UserError(f"{run.path} is a diffusion run, whose images take many evaluations: give a one-step run.", setting="run")


def guided_step(run: OpenRun, guidance: float | None) -> Sampling:
    """One step from the highest sigma, guided as asked or as the recipe says; UserError if what is asked cannot act."""
    chosen = run.recipe.usual_sampling
    assert chosen.guidance_interval is not None
    low, high = chosen.guidance_interval
    conditional = run.denoiser.backbone.conditional
    acts = conditional and low < run.noise.sigma_max <= high
    if guidance not in (None, 1.0) and not acts:
        why = "guides only at lower sigmas than that of its one step" if conditional else "is unconditional"
        raise UserError(f"{run.path} {why}, so `guidance` would change nothing: omit it.", setting="guidance")
    wanted = chosen.guidance if guidance is None else guidance
    whole_range = (0.0, math.inf)
    return Sampling(1, wanted if acts else 1.0, whole_range, sampler=Sampler.CONSISTENCY)


def _about(run: OpenRun, guidance: float) -> dict[str, str]:
    """What the file says of itself."""
    return {
        "pixelpath": metadata.version("pixelpath"),
        "recipe": run.recipe.name,
        "step": str(run.step),
        "shape": json.dumps(run.shape),
        "dtype": run.normaliser.dtype,
        "classes": json.dumps(run.classes),
        "guidance": str(guidance),
        "conditions": json.dumps(run.conditions.to_json()),
    }


def _compare(make: Make, run: OpenRun, sampling: Sampling) -> Agreement:
    """How the images of a file agree with the run's own, together and one alone; ValueError if they do not."""
    labels = balanced(SEEDS, len(run.classes))
    if run.classes:
        labels[-1] = len(run.classes)  # one image of no class
    examples = examples_of(run, SEEDS, labels)
    estimate = torch.cat(list(generate(run.denoiser, Origin(run.noise), sampling, SEEDS, examples.condition)))
    noise, given = _noise(run, SEEDS), examples.given
    nowhere = unmeasured_in(run.metadata, run.shape)
    alone = agreement(make(noise[:1], None if given is None else given[:1]), estimate[:1], run.normaliser, nowhere)
    found = agreement(make(noise, given), estimate, run.normaliser, nowhere)
    if not (found.holds and alone.holds):
        worst = found.excess if not found.holds else alone.excess
        raise UserError(
            f"The exported file was not kept: its images differ from the run's by {worst:.1e} in model "
            f"range, beyond rounding, and may by {TOLERANCE:g}; choose another `format`, and report this with your versions."
        )
    return found


def _noise(run: OpenRun, seeds: Sequence[int]) -> Images:
    """The noise from which the images of these seeds begin."""
    return normal(Streams([seed_of(seed) for seed in seeds]), run.shape)


def _inputs(run: OpenRun) -> str:
    asks, (channels, *size) = run.conditions, run.shape
    found = [f"noise [batch, {', '.join(map(str, (channels, *size)))}]"]
    found += [f"label [batch] ({len(run.classes)}: no class)"] if run.classes else []
    found += [f"numbers [batch, {asks.numbers}]"] if asks.numbers else []
    found += [f"cond_image [batch, {', '.join(map(str, (asks.other, *size)))}]"] if asks.other else []
    return " and ".join(found)


def _agreement(found: Agreement) -> str:
    if found.apart == 0:
        return f"Read back, it makes the images of the run: on {len(SEEDS)} seeds every value is equal."
    return (
        f"Read back, it makes the images of the run: on {len(SEEDS)} seeds {found.equal:.2%} of the values are equal, the others "
        f"at most {found.apart:.3g} apart; rounding explains all but {found.excess:.1e} in model range."
    )


def _speed(make: Make, generator: Generator, run: OpenRun, name: str) -> str:
    """Images per second of the file and of PyTorch, measured in turns."""
    words = []
    for batch in BATCHES:
        noise = _noise(run, range(batch))
        examples = examples_of(run, range(batch), balanced(range(batch), len(run.classes)))
        given, inputs = examples.given, examples.inputs
        ours, torchs, rounds = _seconds(calling(make, noise, given), calling(generator, noise, **inputs))
        words.append(f"{batch} at a time {batch / ours:.1f} images/s (PyTorch {batch / torchs:.1f}; median of {rounds} rounds)")
    threads = torch.get_num_threads()
    return f"Speed of {name} on this CPU with {threads} thread{'s' * (threads > 1)}: {', '.join(words)}."


def _seconds(make: Callable[[], object], ours: Callable[[], object]) -> tuple[float, float, int]:
    """Median seconds of two calls, made in turns, and the number of turns."""
    least, most = ROUNDS
    times: list[tuple[float, float]] = []
    with torch.no_grad():
        for call in (make, ours):
            call()  # the first one also allocates
        began = time.perf_counter()
        while len(times) < least or (len(times) < most and time.perf_counter() - began < SECONDS):
            start = time.perf_counter()
            make()
            turned = time.perf_counter()
            ours()
            times.append((turned - start, time.perf_counter() - turned))
    first, second = (statistics.median(column) for column in zip(*times, strict=True))
    return first, second, len(times)
