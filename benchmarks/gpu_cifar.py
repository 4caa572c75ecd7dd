"""The part of `benchmarks.gpu` that trains: does stage one pay for its time on small photographs?

Five runs on one data set: stage one for some seconds, then diffusion and one step, each from its encoder and from scratch. An
*arm* from scratch gets the time of stage one on top, so all arms end at the same total time. Samples of the EMA are measured at
thirds of an arm's time, which stands still meanwhile, by the distance of `benchmarks.equal_time`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.equal_time.classifier import some
from benchmarks.equal_time.clock import Clock
from benchmarks.equal_time.jobs import DataSet
from benchmarks.equal_time.judge import BATCH, distance, mix
from benchmarks.equal_time.ours import Ours
from benchmarks.equal_time.systems import Task
from benchmarks.gpu_speed import Skipped
from pixelpath.atomic import whole
from pixelpath.evaluation.features import extract
from pixelpath.models.denoiser import Denoiser
from pixelpath.runs.chosen import Beginning
from pixelpath.runs.generate import Origin, generate
from pixelpath.runs.session import Session
from pixelpath.sampling.sampler import Sampler, Sampling

Rows = list[dict[str, Any]]
SHARES = (1 / 3, 2 / 3, 1.0)
TOY = ("size=nano", "batch_size=8", "pixel_head=0")
TOY_ENCODER = ("size=nano", "batch_size=8", "projector.hidden=64", "projector.out=16")


@dataclass(frozen=True)
class Plan:
    """Seconds of training, samples of a measurement, and steps of the classifier that gives the features."""

    stage_one: float = 10.0
    arm: float = 14.0
    samples: int = 1000
    classifier_steps: int = 400
    scale: float = 1.0
    """Factor of all of these."""
    toy: bool = False
    """Train networks as small as can be."""

    def scaled(self, value: float) -> int:
        """A whole number of samples or steps under the scale."""
        return max(2, round(value * self.scale))


@dataclass
class Arm:
    """One run of stage two: its name, recipe, seconds, and whether it begins with the encoder of stage one."""

    recipe: str
    encoded: bool
    rows: Rows
    due: list[float] = field(default_factory=lambda: list(SHARES))

    @property
    def name(self) -> str:
        """What it is called in the table."""
        return f"{self.recipe.rpartition('-')[2]} {'from stage one' if self.encoded else 'from scratch'}"


def run(data: Path | None, folder: Path, device: torch.device, plan: Plan, batch: int, rows: Rows) -> None:
    """Append a row for every distance: which arm, after how many seconds of training in all, and how far from held-out images.

    Raises Skipped without data.
    """
    if data is None or not data.exists():
        raise Skipped("no data given as --cifar10" if data is None else f"there is no {data}")
    if device.type == "cpu":
        torch.set_num_threads(1)  # the clock counts the time of the process
    folder.mkdir(parents=True, exist_ok=True)
    where = DataSet(unpacked(data, folder), folder, plan.scaled(plan.classifier_steps))
    task = Task(where.data, where.settings, False, 0, device)
    measure = _measure(where, device, plan)
    changes = TOY if plan.toy else ()
    with TemporaryDirectory(dir=folder) as runs:
        encoder = Path(runs) / "encoder"
        begun = Ours("small-32-encoder", TOY_ENCODER if plan.toy else ())
        begun.train(task, Clock(plan.stage_one * plan.scale, device), encoder)
        for recipe in ("small-32-diffusion", "small-32-onestep"):
            for encoded in (True, False):
                arm = Arm(recipe, encoded, rows)
                seconds = plan.arm if encoded else plan.arm + plan.stage_one
                clock = Clock(seconds * plan.scale, device)
                before = plan.stage_one * plan.scale if encoded else 0.0
                beginning = Beginning(encoder / "run") if encoded else Beginning()
                watch = _watch(arm, clock, before, measure)
                Ours(recipe, changes, beginning, watch).train(task, clock, Path(runs) / arm.name.replace(" ", "-"))


def _watch(arm: Arm, clock: Clock, before: float, measure: Callable[[Session], float]) -> Callable[[Session, int], None]:
    """What is called after every step: measures whenever another third of the time has passed."""

    def watch(session: Session, step: int) -> None:
        if not arm.due or clock.share < arm.due[0]:
            return
        while arm.due and clock.share >= arm.due[0]:
            arm.due.pop(0)
        sampler = "1 step" if session.recipe.is_one_step else "18 steps"
        images = step * session.recipe.batch_size
        found = {"arm": arm.name, "trained": before + clock.spent, "own": clock.spent, "step": step, "images": images}
        arm.rows.append({**found, "sampler": sampler, "distance": measure(session)})

    return watch


def _measure(where: DataSet, device: torch.device, plan: Plan) -> Callable[[Session], float]:
    """The Frechet distance of samples of a session's EMA to held-out images, in the classifier's features."""
    data, classifier = where.data, where.judge.classifier
    real = extract(classifier, some(data, "held_out", 10_000)[0].split(BATCH))
    count = plan.scaled(plan.samples)
    labels = mix(data, count)

    def measure(session: Session) -> float:
        assert isinstance(session.ema, Denoiser)
        one = session.recipe.is_one_step
        way = Sampling(steps=1 if one else 18, guidance=1.0, sampler=Sampler.CONSISTENCY if one else Sampler.DPMPP_2M)
        origin, chosen = Origin(session.recipe.noise), way.over(session.recipe.usual_sampling)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            images = [*generate(session.ema, origin, chosen, range(count), labels, 500)]
        native = [data.normaliser.decode(part) for part in images]
        return distance(extract(classifier, native), real)

    return measure


def unpacked(data: Path, folder: Path) -> Path:
    """A .npz of images; one of JPEG bytes is decoded once, to the folder."""
    with np.load(data) as found:
        if "train_jpeg" not in found:
            return data
        made = folder / f"{data.stem}-decoded.npz"
        if made.exists():
            return made
        parts: dict[str, Any] = {}
        for side in ("train", "test"):
            parts[f"{side}_images"] = decoded(found[f"{side}_jpeg"].tobytes(), found[f"{side}_offsets"])
            parts[f"{side}_labels"] = found[f"{side}_labels"].astype(np.int64)
    with whole(made) as file:
        np.savez(file, **parts)
    return made


def decoded(stream: bytes, offsets: np.ndarray) -> np.ndarray:
    """Images uint8 [image, row, column, channel] of JPEG files one after the other; number i ends where number i + 1 begins."""
    parts = pairwise(offsets.tolist())
    return np.stack([np.asarray(Image.open(io.BytesIO(stream[start:end])).convert("RGB")) for start, end in parts])
