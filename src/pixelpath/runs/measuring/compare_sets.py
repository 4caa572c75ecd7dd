"""What is compared: sets of images, or statistics of their features, from whatever the user has.

A *set* is named by a path (a folder, a file, a run) or given as an object (arrays, `Data`, `Run`, `Samples`). A file of
*statistics* is a .npz with `mu` and `sigma` (and `mu_s`, `sigma_s`) as ADM keeps them, with or without images `arr_0`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelpath.data import memory, sources
from pixelpath.data.digest import digests
from pixelpath.data.formats import arrays
from pixelpath.data.opening import open_place
from pixelpath.data.parts import parts
from pixelpath.data.settings import DataSettings
from pixelpath.data.sources import Source, look
from pixelpath.errors import MissingError, UserError
from pixelpath.evaluation.dinov2 import SIZES
from pixelpath.evaluation.features import hash_of
from pixelpath.evaluation.inception import POOL, SPATIAL
from pixelpath.evaluation.statistics import Moments
from pixelpath.log import say
from pixelpath.runs.data import Data
from pixelpath.runs.measuring.comparison import MOST
from pixelpath.runs.measuring.judgements import as_source
from pixelpath.runs.opened import OpenRun, open_run
from pixelpath.runs.prepare import held_in_memory
from pixelpath.runs.sample import Samples, sample
from pixelpath.runs.sample_conditions import condition
from pixelpath.runs.sharing.bundled import located
from pixelpath.sampling.sampler import Sampling

Given = Path | str | np.ndarray | Tensor | Data | OpenRun | Samples | Source
SAMPLES = 10_000  # of each of two runs, unless told otherwise
POOLED, SPATIAL_NAME = "inception-v3-2048", "inception-v3-spatial"
STATISTICS = {POOL: POOLED, SPATIAL: SPATIAL_NAME} | {width: f"dinov2-vit-{size}-14" for width, size in SIZES.items()}
"""The features that statistics of a width are of."""
RESIZED = ("shorter side to size, antialiased, then centre crop", "none")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images (None: not at hand), `moments` of some kinds of features by name, and what is to be said of them, JSON-ready."""

    name: str
    source: Source | None
    about: Mapping[str, Any]
    moments: Mapping[str, Moments] = field(default_factory=dict)
    held_out: Source | None = None
    first_seed: int | None = None

    def __len__(self) -> int:
        return 0 if self.source is None else len(self.source)


@dataclass(frozen=True)
class Reading:
    """How sets are read and sampled: files by `settings`, runs at `sampling` with `count` images from `first_seed` on.

    `layout` says where the channels of arrays are, where their shape leaves it open.
    """

    settings: DataSettings = DataSettings()
    sampling: Sampling | None = None
    count: int | None = None
    first_seed: int = 0
    batch_size: int = 64
    device: torch.device | str = "cpu"
    layout: memory.Layout | None = None


def open_sets(images: Given, reference: Given, how: Reading) -> tuple[ImageSet, ImageSet]:
    """Both sets; a run makes as many samples as the other set has images, unless told otherwise, two runs 10,000 each.

    Raises UserError for what cannot be read, for sets of different sizes, channels or dtypes, and for sampling without a run.
    """
    given = {"images": images, "reference": reference}
    runs = {name: run for name, each in given.items() if (run := _run(each, how)) is not None}
    if not runs and (how.sampling is not None or how.count is not None):
        setting = "count" if how.count is not None else "sampling"
        raise UserError(f"`{setting}` says how a run is sampled, and neither set is a run: omit it.", setting=setting)
    read = {name: _read(each, name, how) for name, each in given.items() if name not in runs}
    count = how.count or min(MOST, max(map(len, read.values()), default=0) or SAMPLES)
    read |= {name: _sampled(run, count, how) for name, run in runs.items()}
    _check_alike(read["images"], read["reference"])
    return read["images"], read["reference"]


def open_held_out(given: Given, reference: ImageSet, how: Reading) -> ImageSet:
    """Images that the generator did not see; UserError unless they are like those of the reference."""
    if _run(given, how) is not None:
        raise UserError("Held-out images are real ones: give a folder or file, not a run.", setting="held_out")
    found = _read(given, "held_out", how)
    if found.source is None:
        raise UserError(f"{found.name} holds statistics alone: give the held-out images themselves.", setting="held_out")
    _check_alike(found, reference, "held_out")
    return found


def _run(given: Given, how: Reading) -> OpenRun | None:
    """The run that is given, if it is one: a folder with checkpoints."""
    if isinstance(given, OpenRun):
        return given
    if not isinstance(given, Path | str):
        return None
    path = Path(given) if Path(given).exists() else located(given)
    return open_run(path, device=how.device) if (path / "checkpoints").is_dir() else None


def _read(given: Given, setting: str, how: Reading) -> ImageSet:
    settings = how.settings
    if isinstance(given, Samples):
        return _of_source(str(given.run.path), as_source(given), "run", settings, given.settings)
    if isinstance(given, Data):
        found = _of_source(str(given.settings.path or "images in memory"), given.training, "training images", given.settings)
        return replace(found, held_out=given.held_out if len(given.held_out) else None)
    if isinstance(given, np.ndarray | Tensor):
        source, _ = memory.from_arrays(given, layout=how.layout, settings=replace(settings, held_out_share=0))
        return _of_source("array in memory", source, "array", settings)
    if isinstance(given, Source):
        return _of_source("images in memory", given, "images", settings)
    path = Path(str(given))
    keys = _keys(path)
    moments = _moments(path, keys, setting) if "mu" in keys else {}
    if moments and not {"arr_0", "images"} & keys:
        weights = {f"{name}.{part}": each for name, pair in moments.items() for part, each in vars(pair).items()}
        about = {"path": str(path), "kind": "statistics", "images": None, "hash": hash_of(weights)}
        return ImageSet(str(path), None, about, moments)
    place, other = parts(path)
    source, held_out = open_place(place, settings, None), None
    if other is not None:
        say(f"{path}: compared are the images of {place}; {other} are held out.")
        held_out = open_place(other, settings, None)
    found = _of_source(str(place), source, "images", settings)
    return replace(found, moments=moments, held_out=held_out)


def _of_source(
    name: str, source: Source, kind: str, settings: DataSettings, made: Mapping[str, Any] | None = None, seed: int | None = None
) -> ImageSet:
    """A set of images, at most MOST of them, in memory if they fit."""
    if len(source) > MOST:
        say(f"Of the {len(source):,} images of {name} {MOST:,}, evenly chosen, are compared.")
        source = sources.subset(source, sources.evenly(len(source), MOST))
    for broken in source.broken[:20]:
        say(f"Left out, cannot be decoded: {broken}")
    source = held_in_memory(source, settings)
    digest = hashlib.sha256(json.dumps(digests(source, settings.workers)).encode()).hexdigest()[:16]
    about: dict[str, Any] = {"path": name, "kind": kind, "images": len(source), "look": look(source), "hash": digest}
    about["resize"] = RESIZED[0 if settings.resize and kind != "run" else 1]
    if made is not None:
        kept = ("checkpoint", "step", "seeds", "sampler", "steps", "nfe", "guidance", "guidance_interval", "start")
        about["sampling"] = {key: made[key] for key in kept if key in made}
    return ImageSet(name, source, about, first_seed=seed)


def _sampled(run: OpenRun, count: int, how: Reading) -> ImageSet:
    run.denoiser  # noqa: B018 (UserError for a run of stage one)
    seeds = range(how.first_seed, how.first_seed + count)
    made = sample(run, seeds, condition(run, seeds), how.sampling, how.batch_size)
    return _of_source(str(run.path), as_source(made), "run", how.settings, made.settings, how.first_seed)


def _keys(path: Path) -> set[str]:
    if "::" in str(path) or path.suffix.lower() != ".npz":
        return set()
    if not path.exists():
        raise MissingError(f"{path} does not exist: check the path.", setting="path")
    return set(arrays.keys_of(path))


def _moments(path: Path, keys: set[str], setting: str) -> dict[str, Moments]:
    """The statistics of a file by the features that they are of; UserError if they cannot be such."""
    found = {}
    for mu, sigma in (("mu", "sigma"), ("mu_s", "sigma_s")):
        if mu not in keys:
            continue
        if sigma not in keys:
            raise UserError(f"{path} holds {mu} but no {sigma}: give a file with both.", setting)
        mean, covariance = (torch.from_numpy(np.array(arrays.mapped(path, key), np.float64)) for key in (mu, sigma))
        what = f"{mu} and {sigma} of {path}"
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise UserError(
                f"{what} have shapes {tuple(mean.shape)} and {tuple(covariance.shape)}: give [n] and [n, n].", setting
            )
        if not bool(mean.isfinite().all() and covariance.isfinite().all()):
            raise UserError(f"{what} are not finite: measure them again.", setting)
        largest = float(covariance.abs().max())
        if float((covariance - covariance.T).abs().max()) > 1e-4 * largest or float(covariance.diagonal().min()) < 0:
            raise UserError(f"{sigma} of {path} is no covariance (symmetric, no negative variance): measure it again.", setting)
        if len(mean) not in STATISTICS or (mu == "mu_s") != (len(mean) == SPATIAL):
            raise UserError(
                f"{what} are of {len(mean)} features: {POOL} (Inception), {SPATIAL} (its spatial ones, as mu_s) and those of "
                "DINOv2 are known.",
                setting,
            )
        found[STATISTICS[len(mean)]] = Moments(mean, (covariance + covariance.T) / 2)
    return found


def _check_alike(images: ImageSet, reference: ImageSet, setting: str = "images") -> None:
    """UserError for images of other sizes, channels or dtypes."""
    ours, theirs = images.source, reference.source
    if ours is None or theirs is None:
        return
    both = f"{images.name} holds images of {look(ours)}, {reference.name} of {look(theirs)}"
    if ours.shape[1:] != theirs.shape[1:]:
        raise UserError(f"{both}: bring both to one size with `data.resize`.", setting=setting)
    if ours.shape[0] != theirs.shape[0]:
        raise UserError(f"{both}: give both the same channels (`data.channels` converts picture files).", setting=setting)
    if ours.dtype != theirs.dtype:
        raise UserError(f"{both}: convert one of them, so that equal values mean the same in both.", setting=setting)
