"""A job on disk: OUT/DATA/NAME/ with result.json, what was trained, and the samples; every part is made once.

A data set's own folder OUT/DATA/ holds classifier.pt and real.json, the measures of real images.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.equal_time.classifier import STEPS, classifier
from benchmarks.equal_time.clock import Clock
from benchmarks.equal_time.judge import Judge, mix
from benchmarks.equal_time.ours import samples_of_run
from benchmarks.equal_time.systems import How, System, Task
from pixelpath import recipes
from pixelpath.atomic import whole, write_json
from pixelpath.data.normalise.curves import Normalisation
from pixelpath.data.opening import open_split
from pixelpath.data.settings import DataSettings
from pixelpath.errors import UserError
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import PreparedData, read_data

RESULT, SPENT, REAL = "result.json", "spent.json", "real.json"
Result = dict[str, Any]
Arrays = dict[str, Any]
"""What a .npz file of samples holds: `images` [image, channel, row, column], `labels` [image], perhaps `seconds`."""


@dataclass(frozen=True)
class DataSet:
    """One data set, its judge and its folder. RGBA is premultiplied; values of floats are normalised as the audit proposes."""

    path: Path
    out: Path
    classifier_steps: int = STEPS

    @property
    def folder(self) -> Path:
        """Where all of its jobs lie."""
        return self.out / self.path.stem

    @cached_property
    def settings(self) -> DataSettings:
        """How the images are read."""
        settings = DataSettings(path=self.path, workers=0)
        training, held_out = open_split(settings)
        if len(held_out) < 2:
            raise UserError(f"{self.path} has no held-out images to compare with: give data with a test part.", setting="data")
        if training.shape[0] == 4:
            settings = replace(settings, alpha="premultiplied")
        return replace(settings, normaliser=Normalisation("auto")) if training.dtype.kind == "f" else settings

    @cached_property
    def data(self) -> PreparedData:
        """Its images."""
        return read_data(replace(recipes.cpu_32_diffusion(), data=self.settings))

    @cached_property
    def judge(self) -> Judge:
        """What measures samples; the classifier is trained if it is not there yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return Judge(self.data, classifier(self.data, self.folder / "classifier.pt", self.classifier_steps))

    def real(self, count: int) -> Result:
        """The measures of real images, as many as there are samples, and the classifier's accuracy."""
        known = read(self.folder / REAL) or {}
        if str(count) not in known:
            known[str(count)] = self.judge.floors(count) | {"accuracy": self.judge.classifier.accuracy}
            write_json(self.folder / REAL, known)
        return known[str(count)]


def read(file: Path) -> Result | None:
    """What a JSON file holds; None if it is not there."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def run(system: System, task: Task, data: DataSet, identity: Result, minutes: float, hows: Sequence[How], count: int) -> Result:
    """Train, sample and measure what is not there yet; `identity` says what the job is and must be that of its folder.

    Raises UserError if the folder holds another job.
    """
    folder = data.folder / identity["name"]
    found = read(folder / RESULT) or identity | {"samples": {}}
    other = [key for key, value in identity.items() if found.get(key) != value]
    if other:
        raise UserError(f"{folder} holds a job of another {', '.join(other)}: choose another `label` or `out`.", setting="label")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RESULT, found)
    if (spent := read(folder / SPENT)) is None:
        clock = Clock(minutes * 60, task.device)
        spent = asdict(system.train(task, clock, folder))
        write_json(folder / SPENT, spent)
    found["training"] = spent
    labels = mix(data.data, count)
    for how in hows:
        made = samples_of(system, task, folder, how, labels)
        found["samples"][how.name] = measured(data, made["images"], labels) | {"seconds_each": float(made["seconds"]) / count}
        write_json(folder / RESULT, found)
    return found


def samples_of(system: System, task: Task, folder: Path, how: How, labels: Tensor) -> Arrays:
    """The samples in the job's folder, made if they are not there or are of another number."""
    file = folder / f"samples-{how.name}.npz"
    if file.exists():
        with np.load(file) as kept:
            if len(kept["images"]) == len(labels):
                return dict(kept)
    began = time.process_time() if task.device.type != "cuda" else time.perf_counter()
    native = system.sample(task, folder, how, labels)
    seconds = (time.process_time() if task.device.type != "cuda" else time.perf_counter()) - began
    made: Arrays = {"images": native.numpy(), "labels": labels.numpy(), "seconds": np.array(seconds)}
    with whole(file) as opened:
        np.savez(opened, **made)
    return made


def measured(data: DataSet, images: np.ndarray, labels: Tensor) -> dict[str, float]:
    """The measures of samples, and how many there are; UserError unless they are images as those of the data."""
    here, there = images.shape[1:], data.data.shape
    if here != there or len(images) != len(labels) or images.dtype != data.data.training.dtype:
        raise UserError(f"The samples are {images.shape} {images.dtype}, but the data {there} {data.data.training.dtype}.")
    data.real(len(images))
    return {"count": len(images)} | data.judge(torch.from_numpy(images), labels)


def judge_given(data: DataSet, given: Path, identity: Result, how: How, count: int) -> Result:
    """The result of samples that were made elsewhere, kept beside the jobs: those of a file, or of a run that is sampled here.

    Raises UserError if the folder of the job holds another one.
    """
    folder = data.folder / identity["name"]
    if (read(folder / RESULT) or {"given": str(given)}).get("given") != str(given):
        raise UserError(f"{folder} holds another job: choose another `label`.", setting="label")
    name, made = (how.name, of_run(data, given, how, count)) if given.is_dir() else ("given", of_file(given))
    numbers = measured(data, made["images"], torch.from_numpy(made["labels"]))
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / f"samples-{name}.npz") as opened:
        np.savez(opened, **made)
    found = identity | {"given": str(given), "training": {}, "samples": {name: numbers}}
    write_json(folder / RESULT, found)
    return found


def of_file(file: Path) -> Arrays:
    """The images and labels of a .npz file."""
    with np.load(file) as kept:
        if not {"images", "labels"} <= set(kept):
            raise UserError(f"{file} needs arrays `images` [image, channel, row, column] and `labels`.", setting="samples")
        return {name: kept[name] for name in ("images", "labels")}


def of_run(data: DataSet, run: Path, how: How, count: int) -> Arrays:
    """Samples of a run, in the class shares of the held-out images."""
    labels = mix(data.data, count)
    return {"images": samples_of_run(open_run(run), how, labels).numpy(), "labels": labels.numpy()}
