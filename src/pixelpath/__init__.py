"""Train an image generator on your own images or arrays, in pixel space.

Data
    open_data     a folder of images or a file of arrays
    from_arrays   images in memory: numpy, torch, a Dataset
    Data          training and held-out images; `data.audit()` says what would go wrong
    DataSettings  every way of reading them

Training
    recipes       what to train: `recipes.small_32_diffusion(steps=5000, lr=3e-3)`
    fit           from a path and a number of minutes to a run, everything chosen by the data
    train         train a recipe to its end, or take it up where it stopped
    training      the same as a loop in your hands
    distill       a one-step model of a diffusion run, from that run's own samples
    Distilling    how many of them, made in how many evaluations, and how long

A run
    load          a run on disk, or `hf:owner/name`
    Run           sample, evaluate, tune, report, curves, fit_start, export, save_diffusers, push_to_hub
    Samples       images that a run made; a notebook shows them
    Sampling      how to sample: steps or nfe, sampler, sigmas, guidance, start
    Tune          what `run.tune()` looks for: the fewest evaluations

Any images
    compare       distances, copies, spectra of two sets: folders, arrays, statistics of FID, runs
    Comparison    its numbers with their protocols

Pieces, for people with a denoiser of their own, denoise(noisy, sigma) -> clean estimate
    NoiseRange    which noise levels exist
    sampling      heun, euler, dpmpp_2m, ...: functions of (denoise, x, sigmas)
    fit_start     a density of the noised data to begin sampling at

Mistakes raise UserError (a ValueError) with the `setting` to change. Nothing is printed unless you pass `progress=True`, and
neither random state nor threads nor matmul precision of the caller change.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import version

    from pixelpath import recipes, sampling
    from pixelpath.data.settings import DataSettings
    from pixelpath.errors import MissingError, UserError
    from pixelpath.noise import NoiseRange
    from pixelpath.recipes.distilled import Distilling
    from pixelpath.runs.api import compare, distill, fit, load, train, training
    from pixelpath.runs.data import Data, from_arrays, open_data
    from pixelpath.runs.measuring.compare import Comparison
    from pixelpath.runs.run import Run
    from pixelpath.runs.sample import Samples
    from pixelpath.runs.starting.fit_start import fit_start
    from pixelpath.runs.tune import Tune
    from pixelpath.sampling.sampler import Sampling

    __version__ = version("pixelpath")

__all__ = [
    "Comparison",
    "Data",
    "DataSettings",
    "Distilling",
    "MissingError",
    "NoiseRange",
    "Run",
    "Samples",
    "Sampling",
    "Tune",
    "UserError",
    "__version__",
    "compare",
    "distill",
    "fit",
    "fit_start",
    "from_arrays",
    "load",
    "open_data",
    "recipes",
    "sampling",
    "train",
    "training",
]

_HOMES = {
    "Comparison": "runs.measuring.compare",
    "Data": "runs.data",
    "DataSettings": "data.settings",
    "Distilling": "recipes.distilled",
    "MissingError": "errors",
    "NoiseRange": "noise",
    "Run": "runs.run",
    "Samples": "runs.sample",
    "Sampling": "sampling.sampler",
    "Tune": "runs.tune",
    "UserError": "errors",
    "compare": "runs.api",
    "distill": "runs.api",
    "fit": "runs.api",
    "fit_start": "runs.starting.fit_start",
    "from_arrays": "runs.data",
    "load": "runs.api",
    "open_data": "runs.data",
    "train": "runs.api",
    "training": "runs.api",
}


def __getattr__(name: str) -> Any:
    """Names are imported when they are first used, so that the command line need not wait for torch."""
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("pixelpath")
    if name in ("recipes", "sampling"):
        return importlib.import_module(f"pixelpath.{name}")
    if name in _HOMES:
        return importlib.import_module(f"pixelpath.{_HOMES[name]}").__dict__[name]
    raise AttributeError(f"module 'pixelpath' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
