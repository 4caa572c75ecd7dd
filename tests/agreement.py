"""How far two tensors are apart: one number each, 0 where they agree. The tests of the reference say which number they mean."""

import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


def largest(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, in units of their largest value."""
    assert ours.shape == theirs.shape
    return float((ours.detach().double() - theirs.double()).abs().max() / theirs.double().abs().max())


def norm(ours: Tensor, theirs: Tensor) -> float:
    """The Euclidean norm of the difference, in units of theirs."""
    assert ours.shape == theirs.shape
    return float((ours.detach().double() - theirs.double()).norm() / theirs.double().norm())


def each(ours: Tensor, theirs: Tensor) -> float:
    """The largest relative difference of any one value; where theirs is 0, the difference itself."""
    assert ours.shape == theirs.shape
    scale = theirs.double().abs()
    return float(((ours.detach().double() - theirs.double()).abs() / scale.where(scale > 0, 1.0)).max())


def vectors(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one file of the reference."""
    return load_file(folder / f"{name}.safetensors")


def reference_frequencies(folder: Path) -> Tensor:
    """The frequencies of the reference's sinusoids of width 64, found from its waves.

    They were made by a float32 exp whose rounding differs between processors: an ulp of a frequency, times positions of up to
    1100, is 6e-5 of a wave. The argument of exp, up to 9, was rounded too, which moves a frequency by up to 8 ulps. Of every
    frequency and its neighbours so far away in float32 the one whose waves are nearest is taken.
    """
    scalars = vectors(folder, "scalars")
    position, waves = scalars["timestep_embedding_64.t"].double(), scalars["timestep_embedding_64.out"].double()
    exact = torch.exp(-math.log(10000.0) * torch.arange(32, dtype=torch.float64) / 32).float()
    ulps = torch.arange(-8, 9, dtype=torch.int32)[:, None]
    near = (exact.view(torch.int32) + ulps).view(torch.float32)
    angles = (position.float()[:, None, None] * near).double()
    errors = (angles.cos() - waves[:, None, :32]).abs().amax(0) + (angles.sin() - waves[:, None, 32:]).abs().amax(0)
    return near.gather(0, errors.argmin(0)[None])[0]
