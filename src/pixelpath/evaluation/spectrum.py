"""The radial power spectrum of images: how much of their variance lies at which spatial frequency.

A *frequency* is a radius in cycles per pixel, sqrt((k / columns)^2 + (l / rows)^2): up to 1/2 along an axis. A
*mode* is one of the rows * columns coefficients of a Fourier transform, a *bin* a ring of modes of nearly one frequency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped

Native = Shaped[np.ndarray, "image channel row column"]
Valid = Bool[np.ndarray, "image channel row column"]

BINS = 64  # at most
CHUNK = 2**22  # values transformed at a time
NOTHING = 1e-12  # of the mean power: less counts as this


@dataclass(frozen=True)
class SpectrumRow:
    """The power of one channel at one frequency in three sets of images; None where there is no such set."""

    channel: str
    frequency: float
    training: float
    held_out: float | None
    samples: float


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Power [channel, bin] per mode, the frequency of every bin (the mean over its modes) and how many modes it has.

    sum(modes * power) is the mean over images of the variance of their pixels about the image's own mean (Parseval).
    """

    power: Float[np.ndarray, "channel bin"]
    frequency: Float[np.ndarray, "bin"]
    modes: Float[np.ndarray, "bin"]

    @property
    def variance(self) -> Float[np.ndarray, "channel"]:
        """The mean variance within an image of each channel."""
        return self.power @ self.modes


class SpectrumSum:
    """The spectrum of a stream of native images of one shape: `add` batches, then ask for the `spectrum`."""

    def __init__(self, channels: int, rows: int, columns: int) -> None:
        self.shape = (channels, rows, columns)
        self._power = np.zeros((channels, rows, columns // 2 + 1))
        self._counts = np.zeros(channels)

    def add(self, images: Native, valid: Valid | None = None) -> None:
        """Add a batch; pixels that are not `valid` take the mean of the channel's valid ones; a channel without any is left
        out.

        NaN and infinity are never valid.
        """
        for first in range(0, len(images), size := max(1, CHUNK // math.prod(self.shape))):
            part = slice(first, first + size)
            self._add(images[part], None if valid is None else valid[part])

    def spectrum(self) -> Spectrum:
        """The spectrum of all images so far: the mean over images and rings of |F(image - its mean)|^2 / (rows columns)^2."""
        _, rows, columns = self.shape
        radius, twice = _radii(rows, columns)
        width = max(1 / max(min(rows, columns), 8), math.sqrt(0.5) / BINS)
        place = np.rint(radius / width).astype(np.int64)
        modes = np.bincount(place.ravel(), twice.ravel())
        sums = [np.bincount(place.ravel(), (twice * power).ravel()) for power in self._power]
        kept = modes > 0
        counted = np.maximum(self._counts, 1)[:, None]
        power = np.stack(sums)[:, kept] / modes[kept] / counted / (rows * columns) ** 2
        return Spectrum(power, np.bincount(place.ravel(), (twice * radius).ravel())[kept] / modes[kept], modes[kept])

    def _add(self, images: Native, valid: Valid | None) -> None:
        values = images.astype(np.float64)
        if valid is not None or images.dtype.kind == "f":
            seen = np.isfinite(values) if valid is None else np.isfinite(values) & valid
            values = np.where(seen, values, 0.0)
            known = seen.sum((2, 3), keepdims=True)
            values = np.where(seen, values - values.sum((2, 3), keepdims=True) / np.maximum(known, 1), 0.0)
            self._counts += (known > 0).sum((0, 2, 3))
        else:
            values -= values.mean((2, 3), keepdims=True)
            self._counts += len(images)
        found = np.fft.rfft2(values)
        self._power += (found.real**2 + found.imag**2).sum(0)


def log_distance(first: Spectrum, second: Spectrum) -> list[float | None]:
    """The log-spectral distance of each channel: the root of the mean over bins of (ln power_1 / power_2)^2.

    0 for equal spectra, about r for powers that differ by a share r. Power below 1e-12 of the second spectrum's mean counts as
    that; None for a channel that is constant there.
    """
    found: list[float | None] = []
    for ours, theirs in zip(first.power, second.power, strict=True):
        least = NOTHING * float((theirs * second.modes).sum() / second.modes.sum())
        if least <= 0:
            found.append(None)
            continue
        ratio = np.log(np.maximum(ours, least) / np.maximum(theirs, least))
        found.append(float(np.sqrt(np.square(ratio).mean())))
    return found


def _radii(rows: int, columns: int) -> tuple[Float[np.ndarray, "row half"], Float[np.ndarray, "row half"]]:
    """The frequency of every mode of a real transform, and its count: 2 where the mirror image is left out, 0 for the mean."""
    radius = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None, :])
    twice = np.full(radius.shape, 2.0)
    twice[:, 0] = 1.0
    if columns % 2 == 0:
        twice[:, -1] = 1.0
    twice[0, 0] = 0.0
    return radius, twice
