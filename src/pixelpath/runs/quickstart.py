"""The quickstart: both stages on small digits, from data to numbers, in a few minutes on a CPU.

Stage two is trained twice, as a diffusion model and as a one-step model; the diffusion model also samples from a fitted *start*.
A *reading* is what a classifier of real digits says of samples.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.svm import SVC

from pixelpath.atomic import write_json
from pixelpath.data import sources
from pixelpath.errors import Stopped
from pixelpath.evaluation.features import FeatureExtractor, Pixels
from pixelpath.log import say
from pixelpath.recipes.digits import digits_diffusion, digits_encoder, digits_onestep
from pixelpath.reports.display import grid
from pixelpath.reports.pictures import save_png
from pixelpath.runs.beginning import begin
from pixelpath.runs.chosen import Beginning, Saving
from pixelpath.runs.comparison import extractors, keep
from pixelpath.runs.digits import write_digits
from pixelpath.runs.evaluate import RESULTS, measure, summary
from pixelpath.runs.fit_start import Fit, Quality, fit_run_start
from pixelpath.runs.opened import OpenRun, open_run
from pixelpath.runs.prepare import PreparedData, read_data, with_data
from pixelpath.runs.report import write_report
from pixelpath.runs.sample import Samples, free_folder, sample
from pixelpath.runs.sample_conditions import choose_labels
from pixelpath.sampling.sampler import Sampling

JUDGED = 200  # guided samples that the classifier must recognise
POINTS = 512  # noisy held-out images at each level by which starts are compared


def quickstart(out: Path, device: torch.device, speed_up: int = 1) -> None:
    """Train on 8x8 digits in both stages, judge, and say where to look; the same call again goes on where it was interrupted."""
    began = time.perf_counter()
    digits = out / "digits.npz"
    if not digits.exists():
        write_digits(digits)
    encoder = out / "encoder"
    stages = (
        ("Stage one: an encoder learns to tell images apart at every noise level.", digits_encoder(), None),
        ("Stage two: encoder and a new decoder learn to denoise, in pixel space.", digits_diffusion(), encoder),
        ("Stage two again: the same encoder and a new decoder learn to make an image in one step.", digits_onestep(), encoder),
    )
    for sentence, recipe, origin in stages:
        say(sentence)
        name, steps = recipe.name.removeprefix("digits-"), max(2, recipe.steps // speed_up)
        saving = Saving(every=max(1, steps // 5))
        if not begin(with_data(replace(recipe, steps=steps), digits), out / name, device, Beginning(origin), saving).run():
            say("The quickstart was stopped; the same command again goes on from there.")
            raise Stopped
    run, one = (open_run(out / name, device=device) for name in ("diffusion", "onestep"))
    data = read_data(run.recipe, None, run.normaliser)
    reader = Reader(data)
    result = judge(run, data, reader, out) | {"one_step": judge_steps(one, data, reader, out)}
    say("A start: how many of the diffusion model's steps a simple density saves.")
    try:
        result["warm"] = judge_start(run, data, reader)
    except ValueError as error:
        if speed_up == 1:
            raise
        say(f"After so short a training there is no start: {error}")
    result["seconds"] = time.perf_counter() - began
    write_json(out / "quickstart.json", result)
    for name in ("diffusion", "onestep"):
        write_report(out / name)
    say(_ending(out, result))


def judge(run: OpenRun, data: PreparedData, reader: Reader, out: Path) -> dict[str, Any]:
    """Sample, let a classifier of real digits read the samples, and measure distances with guidance and without."""
    usual, features = run.recipe.usual_sampling, extractors(run, data, None)
    found, measured = _judged(run, data, reader, usual, Sampling(guidance=1.0), features, out / "samples.png")
    say(summary(measured))
    pixels = measured["distances"][0]
    return found | {
        "judged": JUDGED,
        "guidance": usual.guidance,
        "floor": pixels["frechet_floor_of_few"],
        "few": pixels["few"],
        "samples": len(data.training),
    }


def judge_steps(run: OpenRun, data: PreparedData, reader: Reader, out: Path) -> dict[str, Any]:
    """Samples of the one-step model in one evaluation and in two: pictures, readings, distances as of the diffusion model."""
    ways = {"one": Sampling(steps=1), "two": Sampling(steps=2)}
    pictures = {name: out / f"samples-{name}-step.png" for name in ways}
    return {name: _judged(run, data, reader, how, how, [Pixels()], pictures[name])[0] for name, how in ways.items()}


def judge_start(run: OpenRun, data: PreparedData, reader: Reader) -> dict[str, Any]:
    """Samples from the newest complete start (fitted now if there is none) in half the steps, judged as the others."""
    half = run.recipe.usual_sampling.count // 2
    complete = [path.parent for path in run.path.glob("starts/*/search.json")]
    if complete:
        folder = max(complete, key=lambda path: int(path.name))
    else:
        fit = Fit(points=POINTS, quality=Quality(nfe=(half,)))
        folder = fit_run_start(run, data, free_folder(run.path / "starts", None), fit)
    how = Sampling(steps=half, start=folder)
    found, measured = _judged(run, data, reader, how, replace(how, guidance=1.0), [Pixels()])
    return found | {"start": str(folder), "sigma": measured["sampling"]["start_sigma"], "steps": how.steps}


def _judged(
    run: OpenRun,
    data: PreparedData,
    reader: Reader,
    guided: Sampling,
    plain: Sampling,
    found: list[FeatureExtractor],
    picture: Path | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a classifier reads of some guided samples, and the distances of as many plain ones as there are training images.

    And everything that was measured of these, which the run keeps.
    """
    labels = choose_labels(run, range(JUDGED), ())
    read_of = sample(run, range(JUDGED), labels, guided)
    if picture is not None:
        save_png(picture, grid(read_of.images[:120], columns=20, labels=read_of.labels[:120]))
    seeds = range(len(data.training))
    made = sample(run, seeds, choose_labels(run, seeds, ()), plain)
    measured = measure(run, data, made, found)
    keep(run.path / RESULTS, measured)
    pixels = measured["distances"][0]
    return {
        "classifier_held_out_accuracy": reader.accuracy,
        "recognised": reader.recognised(read_of, labels.numpy()),
        "nfe": read_of.nfe,
        "evaluations_unguided": made.nfe,
        "frechet": pixels["frechet_of_few"],
        "frechet_of_all": pixels["frechet"],
    }, measured


class Reader:
    """A classifier (support vectors) of the real digits of training; `accuracy` is its share right among held-out ones."""

    def __init__(self, data: PreparedData) -> None:
        training, held_out = (_rows(sources.gather(side, range(len(side)))) for side in (data.training, data.held_out))
        self.classifier = SVC(gamma="scale", C=10.0).fit(training, sources.labels(data.training))
        self.accuracy = float(self.classifier.score(held_out, sources.labels(data.held_out)))

    def recognised(self, made: Samples, intended: np.ndarray) -> float:
        """The share of samples that it reads as the digit intended."""
        return float((self.classifier.predict(_rows(made.images)) == intended).mean())


def _rows(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255.0


def _ending(out: Path, result: dict[str, Any]) -> str:
    return "\n".join(
        [
            f"{result['recognised']:.1%} of {JUDGED} guided samples are read as the digit they were meant to be, by a classifier "
            f"that reads {result['classifier_held_out_accuracy']:.1%} of held-out real digits.",
            f"Frechet distance in pixels, {result['few']} unguided samples: {result['frechet']:.3f}; "
            f"{result['few']} held-out real digits in their place: {result['floor']:.3f}.",
            *(
                f"One-step model, {name} evaluation(s): {part['recognised']:.1%} recognised, distance {part['frechet']:.3f}."
                for name, part in result["one_step"].items()
            ),
            *([] if "warm" not in result else [_warm(result)]),
            f"All of this took {result['seconds']:.0f} s. Look at {out / 'samples.png'}, {out / 'samples-one-step.png'} and "
            f"{out / 'diffusion' / 'report.html'};",
            f"more samples: pixelpath sample {out / 'onestep'}; your own images: pixelpath train --help.",
        ]
    )


def _warm(result: dict[str, Any]) -> str:
    warm = result["warm"]
    return (
        f"From a start, {warm['evaluations_unguided']:g} evaluations instead of {result['evaluations_unguided']:g}: distance "
        f"{warm['frechet_of_all']:.3f} against {result['frechet_of_all']:.3f} of {result['samples']} unguided samples, "
        f"{warm['recognised']:.1%} of guided ones recognised."
    )
