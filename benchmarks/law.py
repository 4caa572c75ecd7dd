"""Images of a known law, to see whether samples have its means and covariances: 16 bits, 7 channels, 48 x 96 pixels.

    python -m benchmarks.law write law.h5 --count 2000
    pixelpath train cpu-64-diffusion --data law.h5::images --patch 48 ... --out runs/law         # whole in docs/results.md
    pixelpath sample runs/law --count 500 --steps 40 --out law-samples
    python -m benchmarks.law compare law.h5 law-samples/000000-000499.h5

An image is mean[channel] + sum over modes of coefficient * pattern[mode] * mixing[channel, mode], rounded; a pattern is a product
of two cosines with mean square 1, coefficients are independent normal. So all means, covariances and the law of every coefficient
are known, and since patterns are orthogonal the coefficients can be read off any image.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

CHANNELS, ROWS, COLUMNS = 7, 48, 96
MODES = ((0, 0), (1, 0), (0, 1), (1, 2), (2, 3), (3, 1))  # half waves along rows and columns


@dataclass(frozen=True)
class Law:
    """Means [channel], mixing [channel, mode] in native values per unit coefficient, patterns [mode, row, column]."""

    mean: np.ndarray
    mixing: np.ndarray
    patterns: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """Of the channels of one pixel, averaged over pixels [channel, channel], without the twelfth that rounding adds."""
        return self.mixing @ self.mixing.T

    def draw(self, count: int, seed: int) -> np.ndarray:
        """Images [count, channel, row, column], uint16."""
        coefficients = np.random.default_rng(seed).normal(size=(count, len(MODES)))
        values = self.mean[:, None, None] + np.einsum("nk,ck,kij->ncij", coefficients, self.mixing, self.patterns, optimize=True)
        assert values.min() >= 0
        assert values.max() < 65535
        return np.rint(values).astype(np.uint16)

    def coefficients(self, images: np.ndarray) -> np.ndarray:
        """[image, mode], by projection on the patterns and least squares over channels."""
        parts = np.einsum("ncij,kij->nkc", images - self.mean[:, None, None], self.patterns, optimize=True) / (ROWS * COLUMNS)
        return np.stack(
            [parts[:, mode] @ self.mixing[:, mode] / (self.mixing[:, mode] ** 2).sum() for mode in range(len(MODES))], axis=1
        )


def known() -> Law:
    """The one law of this benchmark."""
    source = np.random.default_rng(7)
    down, across = ((np.arange(side) + 0.5) / side for side in (ROWS, COLUMNS))
    patterns = np.stack([np.outer(np.cos(np.pi * i * down), np.cos(np.pi * j * across)) for i, j in MODES])
    patterns /= np.sqrt((patterns**2).mean((1, 2), keepdims=True))
    scale = np.geomspace(300, 3000, CHANNELS)[:, None]  # channels of very unequal spread
    return Law(np.linspace(12_000, 40_000, CHANNELS), scale * source.normal(size=(CHANNELS, len(MODES))) / 2, patterns)


def compare(law: Law, images: np.ndarray, real: np.ndarray) -> dict[str, dict[str, float]]:
    """How far samples, and as many images of the law, are from it."""
    found = {}
    for name, values in (("samples", images), ("the law", real)):
        pixels = values.astype(np.float64)
        mean = pixels.mean((0, 2, 3))
        std = np.sqrt(np.diag(law.covariance))
        centred = (pixels - law.mean[:, None, None]).transpose(1, 0, 2, 3).reshape(CHANNELS, -1)
        covariance = centred @ centred.T / centred.shape[1]
        coefficients = law.coefficients(pixels)
        left = pixels - law.mean[:, None, None] - np.einsum("nk,ck,kij->ncij", coefficients, law.mixing, law.patterns)
        found[name] = {
            "largest error of a channel's mean, in its deviations": float(np.abs((mean - law.mean) / std).max()),
            "error of the covariance, relative (Frobenius)": float(
                np.linalg.norm((covariance - law.covariance) / np.outer(std, std))
                / np.linalg.norm(law.covariance / np.outer(std, std))
            ),
            "smallest deviation of a coefficient (1)": float(coefficients.std(0).min()),
            "largest deviation of a coefficient (1)": float(coefficients.std(0).max()),
            "largest correlation of two coefficients (0)": float(np.abs(np.corrcoef(coefficients.T) - np.eye(len(MODES))).max()),
            "what no mode explains, in deviations": float(np.sqrt((left**2).mean((0, 2, 3)) / std**2).max()),
        }
    return found


def main() -> None:
    """Write images of the law, or compare samples with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("write", "compare"))
    parser.add_argument("files", type=Path, nargs="+", help="write: the file; compare: that file and the samples")
    parser.add_argument("--count", type=int, default=2000)
    chosen = parser.parse_args()
    law = known()
    if chosen.what == "write":
        with h5py.File(chosen.files[0], "w") as file:
            file.create_dataset("images", data=law.draw(chosen.count, 0), chunks=(1, CHANNELS, ROWS, COLUMNS))
        return
    with h5py.File(chosen.files[1], "r") as file:
        samples = np.asarray(file["images"])
    assert samples.dtype == np.uint16
    assert samples.shape[1:] == (CHANNELS, ROWS, COLUMNS)
    json.dump(compare(law, samples, law.draw(len(samples), 1)), sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
