"""Premultiplied colours against every pair of 8-bit values, and there and back."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.refusal import refused

from pixelpath.data.alpha import premultiply, unpremultiply


def every_pair() -> np.ndarray:
    """An image [4, 256, 256] whose colours are the row and whose alpha is the column."""
    rows, columns = np.indices((256, 256)).astype(np.uint8)
    return np.stack([rows, rows, rows, columns])


def test_every_pair_of_8_bit_values() -> None:
    image = every_pair()
    colour, alpha = image[0].astype(np.float64), image[3].astype(np.float64)
    assert np.array_equal(premultiply(image)[1], np.floor(colour * alpha / 255 + 0.5))
    with np.errstate(divide="ignore", invalid="ignore"):
        straight = np.where(alpha > 0, np.floor(np.minimum(colour * 255 / alpha, 255) + 0.5), 0)
    assert np.array_equal(unpremultiply(image)[2], straight)


def test_what_was_premultiplied_comes_back_exactly() -> None:
    """A second way there and back changes nothing; straight colours change by half a step of alpha and the rounding at most."""
    image = every_pair()
    there = premultiply(image)
    back = unpremultiply(there)
    assert np.array_equal(premultiply(back), there)
    assert np.array_equal(back[:, :, 255], image[:, :, 255])  # opaque
    assert not back[:3, :, 0].any()  # transparent
    error = np.abs(back[0].astype(int) - image[0])[:, 1:]
    assert (error <= 255 / (2 * np.arange(1, 256)) + 0.5).all()


@settings(max_examples=30, deadline=None)
@given(colour=st.integers(0, 65535), alpha=st.integers(0, 65535))
def test_16_bits(colour: int, alpha: int) -> None:
    image = np.array([colour, 0, 65535, alpha], np.uint16).reshape(1, 4, 1, 1)
    there = premultiply(image)
    assert there.dtype == np.uint16
    assert there.ravel().tolist() == [int(Fraction(colour * alpha, 65535) + Fraction(1, 2)), 0, alpha, alpha]
    assert np.array_equal(premultiply(unpremultiply(there)), there)


def test_only_whole_numbers_are_multiplied() -> None:
    with refused("data.alpha", "float32"):
        premultiply(np.zeros((1, 4, 2, 2), np.float32))
