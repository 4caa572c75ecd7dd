"""Short fits of five kinds of images that people have, made here: what `fit` chose and how long it took, as a table.

Usage: python -m benchmarks.fit_kinds OUT [--minutes 2] [--sprites FOLDER]. OUT gets data/KIND and runs/KIND. Photographs are
crops of those that come with scikit-learn; slices, sea and tiles are drawn from random numbers. Sprites are your folder of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

import pixelpath as pp

Numbers = np.random.Generator


def photographs(folder: Path, count: int, numbers: Numbers) -> Path:
    """JPEG files of as many sizes, one of them grey."""
    from sklearn.datasets import load_sample_images

    scenes = [Image.fromarray(scene) for scene in load_sample_images().images]
    for number in range(count):
        scene, wide = scenes[number % len(scenes)], int(numbers.integers(120, 400))
        high = int(np.clip(wide * numbers.uniform(0.6, 1.6), 90, scene.height - 1))
        left, top = int(numbers.integers(scene.width - wide)), int(numbers.integers(scene.height - high))
        scale = numbers.uniform(0.7, 1.8)
        crop = scene.crop((left, top, left + wide, top + high)).resize((int(wide * scale), int(high * scale)))
        (crop.convert("L") if number == count // 2 else crop).save(folder / f"{number:04d}.jpg", quality=88)
    return folder


def _bodies(count: int, numbers: Numbers) -> Iterator[np.ndarray]:
    """Slices through bodies in Hounsfield units, twenty a body: fat, muscle, lungs, a spine, noise."""
    down, across = np.mgrid[-1:1:256j, -1:1:256j]
    patients = -(-count // 20)
    halves = numbers.uniform((0.62, 0.5), (0.8, 0.62), (patients, 2))
    pairs = numbers.uniform((0.3, 0.2, 0.3), (0.4, 0.26, 0.4), (patients, 2, 3))
    for number in range(count):
        half, lungs = halves[number // 20], pairs[number // 20]
        inside = (across / half[0]) ** 2 + (down / half[1]) ** 2
        slice_ = np.where(inside < 0.86, 40.0, np.where(inside < 1, -100.0, -1000.0))
        depth = np.sin(np.pi * (0.15 + 0.7 * (number % 20) / 19))
        for side, (place, wide, high) in zip((-1, 1), lungs, strict=True):
            slice_[((across - side * place) / wide) ** 2 + (down / high) ** 2 < depth**2] = -820
        slice_[across**2 + (down - 0.36) ** 2 < 0.012] = 700
        yield gaussian_filter(slice_, 1.2) + numbers.normal(0, 12, slice_.shape)


def slices(folder: Path, count: int, numbers: Numbers) -> Path:
    """DICOM files of 16 stored bits, a series a patient, whose values are int32 in Hounsfield units."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    for number, body in enumerate(_bodies(count, numbers)):
        file, patient = Dataset(), number // 20
        file.file_meta = FileMetaDataset()
        file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = CTImageStorage
        file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = generate_uid()
        file.PatientID, file.SeriesInstanceUID, file.Modality = f"{patient}", f"1.2.3.{patient + 1}", "CT"
        file.Rows, file.Columns, file.SamplesPerPixel, file.PhotometricInterpretation = *body.shape, 1, "MONOCHROME2"
        file.BitsAllocated = file.BitsStored = 16
        file.HighBit, file.PixelRepresentation, file.RescaleSlope, file.RescaleIntercept = 15, 0, "1", "-1024"
        file.InstanceNumber = number % 20 + 1
        file.PixelData = np.rint(body + 1024).clip(0, 65535).astype("<u2").tobytes()
        file["PixelData"].VR = "OW"
        file.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
    return folder


def sea(folder: Path, count: int, numbers: Numbers) -> Path:
    """A NetCDF file of daily surface temperatures that drift, NaN on land."""
    import xarray

    down, across = np.mgrid[0:48, 0:80]
    land = np.zeros((48, 80), bool)
    for row, column, high, wide in numbers.uniform((5, 5, 4, 6), (43, 75, 9, 14), (5, 4)):
        land |= ((down - row) / high) ** 2 + ((across - column) / wide) ** 2 < 1
    latitude, weather, days = np.linspace(-60, 60, 48), np.zeros((48, 80)), np.empty((count, 48, 80), np.float32)
    for day in range(count):
        weather = 0.9 * weather + numbers.normal(size=weather.shape)
        season = 4 * np.sin(2 * np.pi * day / 365) * latitude / 60
        days[day] = (28 * np.cos(np.deg2rad(latitude)) + season)[:, None] + 12 * gaussian_filter(weather, 4, mode="wrap")
    days[:, land] = np.nan
    coordinates = {"time": np.datetime64("2020-01-01") + np.arange(count).astype("timedelta64[D]"), "lat": latitude}
    array = xarray.DataArray(days, coordinates, ("time", "lat", "lon"), attrs={"units": "degC"})
    array.to_dataset(name="sst").to_netcdf(folder / "sea.nc", engine="h5netcdf")
    return Path(f"{folder / 'sea.nc'}::sst")


def tiles(folder: Path, count: int, numbers: Numbers) -> Path:
    """TIFF files of 16 bits: a rough background and one bright spot."""
    import tifffile

    down, across = np.mgrid[0:64, 0:64]
    for number in range(count):
        ground = 30_000 * gaussian_filter(numbers.normal(size=(64, 64)), 6) + 12_000
        row, column, size, height = numbers.uniform((10, 10, 10, 8_000), (54, 54, 80, 30_000))
        tile = ground + height * np.exp(-((down - row) ** 2 + (across - column) ** 2) / size)
        tifffile.imwrite(folder / f"{number:04d}.tif", np.rint(tile).clip(0, 65535).astype(np.uint16))
    return folder


KINDS: dict[str, tuple[Callable[[Path, int, Numbers], Path], int]] = {
    "photographs": (photographs, 500),
    "slices": (slices, 160),
    "sea": (sea, 800),
    "tiles": (tiles, 600),
}


def row(name: str, path: Path, out: Path, minutes: float) -> str:
    """A fit, as a row of the table: what was chosen, and the seconds by its own clock and by this one."""
    began = time.monotonic()
    pp.fit(path, minutes=minutes, out=out, progress=True)
    wall, found = time.monotonic() - began, json.loads((out / "fit.json").read_text(encoding="utf-8"))
    recipe, run = found["recipe"], found["runs"][-1]["recipe"]
    read = recipe["data"]["resize"] or recipe["data"]["tile"] or found["about"]["shape"][1:]
    sides, spent = "x".join(map(str, read)), sum(found["spent"].values())
    chosen = f"{recipe['name']}, {sides}, patch {recipe['patch']}, {recipe['data']['normaliser']['kind']}"
    return f"| {name} | {chosen} | {run['steps']} | {spent:.0f} | {wall:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--sprites", type=Path)
    asked = parser.parse_args()
    rows = [] if asked.sprites is None else [row("sprites", asked.sprites, asked.out / "runs" / "sprites", asked.minutes)]
    for name, (make, count) in KINDS.items():
        folder = asked.out / "data" / name
        folder.mkdir(parents=True)
        path = make(folder, count, np.random.default_rng(0))
        rows.append(row(name, path, asked.out / "runs" / name, asked.minutes))
    sys.stdout.write("\n".join(["| data | chosen | steps | seconds | wall |", "|---|---|---|---|---|", *rows, ""]))


if __name__ == "__main__":
    main()
