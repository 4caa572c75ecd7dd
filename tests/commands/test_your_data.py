"""From a user's files to samples in the same format, dtype and units, through the command line, on tiny runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.application import call, train

from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import read_data_of

RANDOM = np.random.default_rng(5)


def newest(run: Path) -> Path:
    return max((run / "samples").iterdir(), key=lambda path: int(path.name))


@pytest.mark.parametrize("channels", [1, 2, 4, 7, 13])
def test_any_number_of_channels_and_any_aspect_come_back_as_they_were(channels: int, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    images = RANDOM.integers(100, 60_000, (12, channels, 8, 16)).astype(np.uint16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scene/bands"] = images
        file["scene/bands"].attrs["units"] = "counts"
    data, out = Path(f"{tmp_path / 'a.h5'}::scene/bands"), tmp_path / "run"
    if channels == 7:
        assert train("digits-encoder", data, tmp_path / "encoder") == 0
        assert train("digits-diffusion", data, out, "--encoder", tmp_path / "encoder", "--no-flip") == 0
    else:
        assert train("digits-diffusion", data, out) == 0
    assert call("sample", out, "--count", 3) == 0
    with h5py.File(newest(out) / "000000-000002.h5") as file:
        samples = file["scene/bands"]
        assert (samples.shape, samples.dtype, samples.attrs["units"]) == ((3, channels, 8, 16), np.uint16, "counts")
    assert (newest(out) / "grid.png").exists()
    about = json.loads((newest(out) / "samples.json").read_text())
    assert (about["format"], about["units"], about["shape"]) == ("hdf5", "counts", [channels, 8, 16])


def test_rain_keeps_its_zeros_units_and_coordinates(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    rain = RANDOM.gamma(0.5, 2.0, (16, 8, 12)).astype(np.float32)
    rain[RANDOM.random(rain.shape) < 0.6] = 0
    coords = {"y": np.arange(8) * 0.5, "x": np.arange(12) * 2.0}
    array = xarray.DataArray(rain, dims=("time", "y", "x"), coords=coords, attrs={"units": "mm/h"}, name="rate")
    array.encoding["_FillValue"] = None
    array.to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding={"rate": {"_FillValue": None}})
    out = tmp_path / "run"
    assert train("digits-diffusion", tmp_path / "a.nc", out, "--data.normaliser.kind", "auto") == 0
    run = open_run(out)
    assert run.normaliser.hurdles  # what auto proposes for many zeros and a tail
    data = read_data_of(run, None)
    native = torch.from_numpy(data.training[0][None])
    assert torch.equal(run.normaliser.decode(run.normaliser.encode(native)) == 0, native == 0)
    assert call("sample", out, "--count", 2, "--coordinates") == 0
    with xarray.open_dataset(newest(out) / "000000-000001.nc", engine="h5netcdf") as samples:
        assert samples["rate"].attrs["units"] == "mm/h"
        assert samples["rate"].dtype == np.float32
        assert float(samples["rate"].min()) >= 0
        assert samples["x"].values.tolist() == coords["x"].tolist()
    assert call("sample", out, "--count", 2, "--format", "npy") == 0
    assert np.load(newest(out) / "000000-000001.npy").shape == (2, 1, 8, 12)


def test_what_was_not_measured_counts_for_nothing_and_is_made_where_no_image_has_a_value_and_where_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = RANDOM.normal(3, 2, (12, 2, 8, 8)).astype(np.float32)
    images[:, :, :3, :3] = np.nan
    np.save(tmp_path / "a.npy", images)
    assert train("digits-diffusion", tmp_path / "a.npy", tmp_path / "x") == 2
    assert "if NaN means" in capsys.readouterr().err
    out = tmp_path / "run"
    assert train("digits-diffusion", tmp_path / "a.npy", out, "--data.nodata", "nan") == 0
    mask = np.zeros((1, 8, 8), np.uint8)
    mask[0, 4:, 4:] = 1
    np.save(tmp_path / "mask.npy", mask)
    shared = np.isnan(images).all((0, 1))
    for words, expected in (((), shared), (("--fill-nodata", tmp_path / "mask.npy"), shared | (mask[0] > 0))):
        assert call("sample", out, "--count", 2, *words) == 0
        samples = np.load(newest(out) / "000000-000001.npy")
        assert (np.isnan(samples) == expected).all()


def test_a_sea_keeps_its_land_and_its_variables_their_kinds_units_and_conditions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rain over all, temperature of the sea alone; a table in the order of the file, without names."""
    xarray = pytest.importorskip("xarray")
    rain = RANDOM.gamma(0.5, 2.0, (40, 8, 8)).astype(np.float32)
    rain[RANDOM.random(rain.shape) < 0.6] = 0
    warmth = RANDOM.normal(290, 5, rain.shape).astype(np.float32)
    warmth[RANDOM.random(rain.shape) < 0.2] = np.nan  # clouds
    land = np.zeros((8, 8), bool)
    land[2:7, :3] = True
    warmth[:, land] = np.nan
    axes = ("time", "y", "x")
    variables = {"rain": (axes, rain, {"units": "mm/h"}), "sst": (axes, warmth, {"units": "K"})}
    xarray.Dataset(variables).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    (tmp_path / "table.csv").write_text("day,wind\n" + "".join(f"{n},{'east' if n % 2 else 'west'}\n" for n in range(40)))
    data, out = Path(f"{tmp_path / 'a.nc'}::rain,sst"), tmp_path / "run"
    words = ("--data.normaliser.kind", "auto", "--data.conditions", tmp_path / "table.csv", "--flip")
    assert train("digits-diffusion", data, out, *words) == 0
    said = capsys.readouterr().err
    assert "12% of the values are not measured in any image" in said
    assert "in the order of the file" in said
    assert train("digits-diffusion", data, out, *words) == 0  # takes it up again
    run = open_run(out)
    assert not run.recipe.flip
    assert [type(each).__name__ for each in run.normaliser.transforms] == ["Log1p", "Identity"]
    (tmp_path / "asked.csv").write_text("day,wind\n3,east\n17.5,west\n")
    assert call("sample", out, "--conditions", tmp_path / "asked.csv") == 0
    with xarray.open_dataset(newest(out) / "000000-000001.nc", engine="h5netcdf") as samples:
        assert [samples[name].attrs["units"] for name in ("rain", "sst")] == ["mm/h", "K"]
        assert (np.isnan(samples["sst"].values) == land).all()
        assert not np.isnan(samples["rain"].values).any()
        assert (samples["day"].values.tolist(), samples["wind"].values.tolist()) == ([3.0, 17.5], ["east", "west"])
    about = json.loads((newest(out) / "samples.json").read_text())
    assert (about["units"], about["channels"]) == (["mm/h", "K"], ["rain", "sst"])
    assert about["conditions"] == {"day": [3.0, 17.5], "wind": ["east", "west"]}
    assert call("evaluate", out, "--count", 6, "--no-use-inception") == 0
    measured = json.loads((out / "evaluation.json").read_text())[-1]
    assert np.isfinite([row["frechet"] for row in measured["distances"]]).all()
    channels = {row["channel"]: row for row in measured["pixel_values"]["channels"]}
    assert set(channels) == {"rain (mm/h)", "sst (K)"}


def test_samples_can_be_asked_for_by_a_table(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png"))
    lines = [f"{name},{place / 10},{'old' if place % 2 else 'new'}" for place, name in enumerate(names)]
    (tmp_path / "table.csv").write_text("\n".join(["name,light,age", *lines]))
    out = tmp_path / "run"
    words = ("--data.conditions", tmp_path / "table.csv", "--no-conditional")
    assert train("digits-diffusion", pictures, out, *words) == 0
    assert train("digits-diffusion", pictures, out, *words) == 0  # takes it up again
    assert open_run(out).conditions.numbers == 1 + 2
    (tmp_path / "asked.csv").write_text("light,age\n0.5,old\n3,new\n1,old\n")
    for place in ("one", "two"):
        assert call("sample", out, "--conditions", tmp_path / "asked.csv", "--out", tmp_path / place) == 0
    assert len(list((tmp_path / "one").glob("0*.png"))) == 3
    assert (tmp_path / "one" / "000001.png").read_bytes() == (tmp_path / "two" / "000001.png").read_bytes()
    assert call("sample", out, "--count", 2, "--out", tmp_path / "three") == 0
    assert "taken from held-out images" in capsys.readouterr().err
    (tmp_path / "asked.csv").write_text("light,age\n0.5,ancient\n")
    assert call("sample", out, "--conditions", tmp_path / "asked.csv") == 2
    assert "ancient is not among the words that training saw: choose from" in capsys.readouterr().err
    assert call("evaluate", out, "--count", 6, "--no-use-inception") == 0
    assert call("start", "fit", out) == 2
    assert call("export", out) == 0


def test_sprites_are_made_from_masks_and_hide_no_colour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in range(24):
        sprite = RANDOM.integers(0, 256, (8, 8, 4)).astype(np.uint8)
        mask = np.zeros((8, 8), np.uint8)
        mask[2:6, place % 4 : 4 + place % 4] = 1
        sprite[..., 3] = 255 * mask
        for folder, array in (("sprites", sprite), ("masks", mask)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / folder / f"{place:02d}.png")
    out = tmp_path / "run"
    words = ("--data.alpha", "premultiplied", "--data.cond-image", tmp_path / "masks")
    assert train("digits-diffusion", tmp_path / "sprites", out, *words) == 0
    run = open_run(out)
    assert (run.conditions.other, run.metadata.alpha) == (2, "premultiplied")
    data = read_data_of(run, None)
    native = data.training[0]
    assert not native[:3, native[3] == 0].any()
    assert call("sample", out, "--cond-image", tmp_path / "masks", "--out", tmp_path / "made") == 0
    made = np.asarray(Image.open(tmp_path / "made" / "000000.png"))
    assert (made.shape, made.dtype) == ((8, 8, 4), np.uint8)
    assert not made[made[..., 3] == 0].any()
    assert len(list((tmp_path / "made").glob("0*.png"))) == 24
    (tmp_path / "few").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "few" / "a.png")
    assert call("sample", out, "--cond-image", tmp_path / "few") == 2
    assert "are 1x4x4 but" in capsys.readouterr().err


LIMITED = """
import re, resource, sys
from pathlib import Path
import torch
from pixelpath.data import sources
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.opening import open_split
from pixelpath.data.settings import DataSettings
from pixelpath.data.batches import Batches

settings = DataSettings(Path(sys.argv[1]), tile=tuple(map(int, sys.argv[2].split())), cache_bytes=2**20)
training, held_out = open_split(settings)
size = len(training) * training[0].nbytes
private = 1024 * int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
room = size // 10
resource.setrlimit(resource.RLIMIT_DATA, (private + room, private + room))
normaliser = Normaliser.fit(training)
stream = Batches(training, normaliser, 16, seed=0, cache_bytes=2**20)
for step in range(30):
    assert torch.isfinite(stream.batch(step).images).all()
try:
    sources.load(training)
except MemoryError:
    print("constant")
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the limit is that of Linux")
@pytest.mark.parametrize("tile", ["", "64 64"])
def test_data_of_ten_times_the_memory_are_read_at_constant_memory(tile: str, tmp_path: Path) -> None:
    """A sparse file of 400 MB under a limit of 40 MB beyond what the program itself takes; loading it whole must fail there."""
    shape, dtype = ((3100, 1, 256, 256), np.float16) if tile else ((25_000, 1, 128, 128), np.uint8)
    written = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", dtype, shape)
    written[::100, :, ::16] = 1
    written.flush()
    del written
    found = subprocess.run([sys.executable, "-c", LIMITED, tmp_path / "a.npy", tile], capture_output=True, text=True, check=False)
    assert (found.stdout.strip(), found.returncode) == ("constant", 0), found.stderr[-2000:]
