"""How far two tensors are apart: one number each, 0 where they agree. The tests of the reference say which number they mean."""

from pathlib import Path

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
