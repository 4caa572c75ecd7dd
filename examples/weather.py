"""Made-up weather to try scientific data with: python -m examples.weather weather.nc (needs `pip install xarray h5netcdf`).

Every day has an air temperature (K), a wind (m/s) and rain (mm/h), which most pixels lack; a corner was not measured. Then:
pixelpath audit weather.nc::t2m,u10,rain
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
import xarray
from jaxtyping import Float

SIDE = 32
FIRST = np.datetime64("2020-01-01T12:00", "ns")


def main(out: Annotated[Path, tyro.conf.Positional], days: int = 120, seed: int = 0) -> None:
    """Write a NetCDF file of 32 x 32 pixels.

    Args:
        out: File to write.
        days: How many images.
        seed: Seed of the weather.
    """
    numbers = np.random.default_rng(seed)
    year = np.sin(2 * np.pi * np.arange(days) / 365)[:, None, None]
    variables = {
        "t2m": (283 + 8 * year + 6 * smooth(numbers, days, 2.0), "K"),
        "u10": (5 * smooth(numbers, days, 1.5), "m/s"),
        "rain": (3 * np.maximum(0, smooth(numbers, days, 1.2) - 0.8) ** 1.5, "mm/h"),
    }
    for values, _ in variables.values():
        values[:, 20:, :10] = np.nan
    places = {"lat": np.linspace(50, 60, SIDE), "lon": np.linspace(5, 15, SIDE)}
    times = FIRST + np.arange(days) * np.timedelta64(1, "D")
    known = {
        name: (("time", "lat", "lon"), values.astype(np.float32), {"units": units}) for name, (values, units) in variables.items()
    }
    xarray.Dataset(known, coords={"time": times, **places}).to_netcdf(out, engine="h5netcdf")


def smooth(numbers: np.random.Generator, days: int, slope: float) -> Float[np.ndarray, "day row column"]:
    """Gaussian fields of mean 0 and standard deviation 1, whose amplitudes fall with frequency to the power of `slope`."""
    along = np.fft.fftfreq(SIDE)
    frequency = np.hypot(along[:, None], along[None])
    frequency[0, 0] = 1
    fields = np.fft.ifft2(np.fft.fft2(numbers.normal(size=(days, SIDE, SIDE))) * frequency**-slope).real
    return fields / fields.std()


if __name__ == "__main__":
    tyro.cli(main)
