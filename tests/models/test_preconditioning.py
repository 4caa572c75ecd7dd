"""Scalings keep the variances they are made for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pixelpath.errors import UserError
from pixelpath.models.preconditioning import Anchored, EDMPreconditioning, XPrediction, noise_coordinate

levels = st.floats(1e-4, 1e3)
data = st.floats(0.1, 2.0)


@given(levels, data, st.floats(0.0, 0.1))
def test_variances(level: float, sigma_data: float, boundary: float) -> None:
    """Var of the input is 1; the network's target, (image - skip noisy) / out, has variance 1 where there is no boundary."""
    sigma = torch.tensor(level, dtype=torch.float64)
    for factors in (EDMPreconditioning(sigma_data, boundary)(sigma), XPrediction(sigma_data)(sigma)):
        assert float(factors.input**2 * (sigma**2 + sigma_data**2)) == pytest.approx(1.0)
    skip, out, _, _ = EDMPreconditioning(sigma_data)(sigma)
    assert float(out**2) == pytest.approx(float((1 - skip) ** 2 * sigma_data**2 + skip**2 * sigma**2))


@given(st.floats(1e-3, 1.0), data)
def test_identity_at_the_boundary(boundary: float, sigma_data: float) -> None:
    factors = EDMPreconditioning(sigma_data, boundary)(torch.tensor(boundary, dtype=torch.float64))
    assert float(factors.skip) == pytest.approx(1.0, rel=1e-15)
    assert float(factors.out) == 0


@given(levels, data, st.floats(0.0, 0.1))
def test_boundary_moves_the_level(level: float, sigma_data: float, boundary: float) -> None:
    """skip is EDM's at sigma - boundary, and out^2 (sigma^2 + sd^2) = (sigma - boundary)^2 sd^2."""
    sigma = torch.tensor(level + boundary, dtype=torch.float64)
    factors = EDMPreconditioning(sigma_data, boundary)(sigma)
    assert float(factors.skip) == pytest.approx(float(EDMPreconditioning(sigma_data)(sigma - boundary).skip))
    assert float(factors.out**2 * (sigma**2 + sigma_data**2)) == pytest.approx(level**2 * sigma_data**2, rel=1e-6)


def test_clean_takes_the_network_at_its_word() -> None:
    factors = XPrediction()(torch.tensor([0.0, 0.3, 80.0]))
    assert factors.skip.tolist() == [0.0] * 3
    assert factors.out.tolist() == [1.0] * 3


@given(levels, st.floats(0.0, 0.1), st.floats(0.01, 1.0))
def test_anchored_lies_between_the_noisy_image_and_the_prediction(level: float, boundary: float, width: float) -> None:
    """skip + out = 1; skip is 1 at the boundary, a half one width above it, and w^2 / sigma^2 far above it."""
    preconditioning = Anchored(boundary=boundary, width=width)
    sigma = torch.tensor([boundary, boundary + width, boundary + level, boundary + 1000 * width], dtype=torch.float64)
    skip, out, _, _ = preconditioning(sigma)
    assert (skip + out).tolist() == pytest.approx([1.0] * 4, rel=1e-12)
    assert skip[:2].tolist() == pytest.approx([1.0, 0.5], rel=1e-9)
    assert float(skip[3]) == pytest.approx(1e-6, rel=1e-5)
    assert preconditioning(sigma)[2:] == (pytest.approx(XPrediction()(sigma).input), pytest.approx(XPrediction()(sigma).noise))


def test_anchored_needs_a_width() -> None:
    with pytest.raises(UserError) as caught:
        Anchored(width=0.0)
    assert caught.value.setting == "preconditioning.width"
    for kind in (XPrediction, EDMPreconditioning, Anchored):
        with pytest.raises(UserError) as caught:
            kind(sigma_data=0.0)
        assert caught.value.setting == "preconditioning.sigma_data"


def test_noise_coordinate() -> None:
    assert float(noise_coordinate(torch.tensor(1.0))) == 0
    sigma = torch.tensor([0.3, 0.3 * 2.718281828], dtype=torch.float64)
    assert float(noise_coordinate(sigma).diff()) == pytest.approx(250.0)
    assert torch.isfinite(noise_coordinate(torch.tensor([0.0, 1e-40])))[0]
