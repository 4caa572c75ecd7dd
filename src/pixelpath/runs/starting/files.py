"""A warm start on disk, for the run it was fitted for; and the samples of another run as a start.

The folder holds the start (starts/files.py), the level to begin at, the expected energies, and of which weights the denoiser had
that they were measured with: a start is not used with another one unseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pixelpath.errors import UserError
from pixelpath.evaluation.features import hash_of
from pixelpath.randomness import Streams
from pixelpath.runs.folder import holds_run
from pixelpath.runs.generate import Origin, from_sources
from pixelpath.runs.opened import OpenRun, open_run
from pixelpath.sampling.sampler import Sampling
from pixelpath.starts import files
from pixelpath.starts.simple import FromSamples
from pixelpath.starts.start import Load, Saved, Start, State
from pixelpath.starts.warm import WarmStart
from pixelpath.types import Images, Labels

ENERGIES = 1024  # expected energies that are kept


@dataclass(frozen=True, eq=False)
class RunSamples:
    """The samples of a run, by default in one evaluation each, plus noise: a second run goes on from them.

    ES-DDPM (Lyu et al. 2022, arXiv 2205.12524) with a one-step model of our own. `steps` are those of its own sampler.
    """

    run: OpenRun
    steps: int = 1

    def sample(self, streams: Streams, sigma: float, labels: Labels | None = None) -> Images:
        """An image of the run, unguided, for every stream and label, plus sigma e."""
        return self._noised.sample(streams, sigma, labels)

    def state(self) -> State:
        """Where the run lies, its checkpoint, and the hash of its weights."""
        metadata = {
            "family": "run",
            "run": str(self.run.path.resolve()),
            "checkpoint": self.run.checkpoint.name,
            "steps": self.steps,
        }
        return metadata | {"weights": fingerprint(self.run)}, {}

    @cached_property
    def _noised(self) -> FromSamples:
        origin = Origin(self.run.noise)
        chosen = Sampling(steps=self.steps, guidance=1.0).over(self.run.recipe.usual_sampling)

        def generate(streams: Streams, labels: Labels | None) -> Images:
            given = torch.zeros(len(streams), dtype=torch.int64) if labels is None else labels
            return from_sources(self.run.denoiser, origin, chosen, streams, given)

        return FromSamples(generate)


def fingerprint(run: OpenRun) -> str:
    """The hash of the EMA weights that a run is sampled with."""
    return hash_of(run.model.state_dict())


def are_alike(one: OpenRun, other: OpenRun) -> bool:
    """Whether two runs make images of one shape, range and set of classes."""
    return (one.shape, one.normaliser, one.classes) == (other.shape, other.normaliser, other.classes)


def check_generator(generator: OpenRun, run: OpenRun) -> None:
    """ValueError unless the samples of `generator` are images of the same kind, range and classes as those of `run`."""
    if not are_alike(generator, run):
        raise UserError(
            f"{generator.path} was trained on other images or classes than {run.path}, so its samples cannot start it: give a "
            "run on the same data."
        )


def save_start(folder: Path, warm: WarmStart, run: OpenRun, about: Mapping[str, Any]) -> None:
    """Write the start of `run` into `folder`, with the facts `about` it; raises as `starts.files.save`."""
    expected = [] if warm.expected is None else warm.expected[:ENERGIES].tolist()
    labels = None if warm.labels is None else warm.labels[:ENERGIES].tolist()
    own = {"sigma": warm.sigma, "denoiser": fingerprint(run), "run": str(run.path.resolve()), "checkpoint": run.checkpoint.name}
    files.save(
        warm.start, folder, {**about, **own, "tensors": _hash(warm.start), "residual_energies": expected, "classes": labels}
    )


def open_start(folder: Path, run: OpenRun) -> WarmStart:
    """The start that `save_start` wrote for the run, or for a diffusion run on the same images if this is a one-step run.

    A one-step run has no posterior means, so nothing is checked with it. Raises FileNotFoundError if there is no start, UserError
    if it cannot be read or was made for other weights than the run's.
    """
    about = files.about(folder)
    try:
        made_for, tensors, sigma = about["denoiser"], about["tensors"], float(about["sigma"])
        energies = torch.tensor([float(energy) for energy in about["residual_energies"]])
        labels = None if about["classes"] is None else torch.tensor([int(label) for label in about["classes"]])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder} is a start without a level or a denoiser ({error}): fit one with `pixelpath start fit {run.path}`."
        ) from error
    own = made_for == fingerprint(run)
    if not own and not (run.recipe.is_one_step and _is_of_same_images(folder, about, run)):
        raise UserError(
            f"The start {folder} was fitted for {about.get('checkpoint')} of {about.get('run')}, and {run.path} has other "
            f"weights at {run.checkpoint.name}: fit one for it with `pixelpath start fit {run.path}`."
        )
    start = files.load(folder, {"run": _loader(run)})
    if _hash(start) != tensors:
        raise UserError(f"{folder} holds other numbers than were fitted: fit the start again, nothing of it can be relied on.")
    if not own:
        return WarmStart(start, sigma, None, None)
    return WarmStart(start, sigma, energies if len(energies) else None, labels)


def _is_of_same_images(folder: Path, about: Mapping[str, Any], run: OpenRun) -> bool:
    """Whether the diffusion run that a start was fitted for is still there, and was trained on the images of `run`.

    That is the run that the start lies in, as it may have been moved with it, or else the one that was noted.
    """
    around = folder.resolve().parents[1]
    path = around if holds_run(around) else Path(str(about.get("run")))
    try:
        fitted = open_run(path, path / "checkpoints" / str(about.get("checkpoint")), run.device)
    except UserError:
        return False
    return are_alike(fitted, run) and fingerprint(fitted) == about["denoiser"]


def _hash(start: Start) -> str:
    return hash_of(start.state()[1]) if isinstance(start, Saved) else ""


def _loader(run: OpenRun) -> Load:
    def load(metadata: dict[str, Any], tensors: dict[str, torch.Tensor]) -> RunSamples:
        path = Path(metadata["run"])
        generator = open_run(path, path / "checkpoints" / metadata["checkpoint"], run.device)
        check_generator(generator, run)
        if fingerprint(generator) != metadata["weights"]:
            raise UserError(f"{path} has other weights than when the start was made of its samples: make the start again.")
        return RunSamples(generator, metadata["steps"])

    return load
