"""`data.skip_broken` for every format: damaged files, and damaged images within files, are left out, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.data.formats.packing import png, shard

from pixelpath.data.formats.reading import BrokenFileError
from pixelpath.data.opening import open_source, open_split
from pixelpath.data.settings import DataSettings
from pixelpath.errors import UserError

Write = Callable[[Path, np.ndarray], object]


def images(number: int) -> np.ndarray:
    """Two images whose every value is the number of their file."""
    return np.full((2, 8, 8), number, np.uint8)


def tiff(path: Path, values: np.ndarray) -> None:
    pytest.importorskip("tifffile").imwrite(path, values, photometric="minisblack")


def hdf5(path: Path, values: np.ndarray) -> None:
    with pytest.importorskip("h5py").File(path, "w") as file:
        file["x"] = values


def netcdf(path: Path, values: np.ndarray) -> None:
    pytest.importorskip("h5netcdf")
    pytest.importorskip("xarray").Dataset({"rain": (("time", "y", "x"), values)}).to_netcdf(path, engine="h5netcdf")


def nifti(path: Path, values: np.ndarray) -> None:
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(values.transpose(1, 2, 0), np.eye(4)), path)


def parquet(path: Path, values: np.ndarray) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"image": [png(value[None]) for value in values]}), path)


def tar(path: Path, values: np.ndarray) -> None:
    shard(path, [(f"{index}.png", png(value[None])) for index, value in enumerate(values)])


def dicom(path: Path, values: np.ndarray) -> None:
    from tests.data.formats.test_dicom import scan

    scan(path, values, NumberOfFrames=2)


KINDS: list[tuple[str, Write]] = [
    (".tif", tiff),
    (".npy", np.save),
    (".npz", lambda path, values: np.savez(path, images=values)),
    (".h5", hdf5),
    (".nc", netcdf),
    (".nii", nifti),
    (".nii.gz", nifti),
    (".parquet", parquet),
    (".tar", tar),
    (".dcm", dicom),
]


def settings(folder: Path, *, skip_broken: bool = True) -> DataSettings:
    return DataSettings(folder, held_out_share=0.0, skip_broken=skip_broken, workers=0)


@pytest.mark.parametrize(("suffix", "write"), KINDS)
@pytest.mark.parametrize("damage", ["empty", "half", "text"])
def test_damaged_files_are_left_out_and_named(tmp_path: Path, suffix: str, write: Write, damage: str) -> None:
    for number in (1, 2, 3):
        write(tmp_path / f"{number}{suffix}", images(number))
    good = [image.max() for image in _all(tmp_path, skip_broken=False)]
    bad = tmp_path / f"2{suffix}"
    whole = bad.read_bytes()
    bad.write_bytes({"empty": b"", "half": whole[: len(whole.rstrip(b"\0")) // 2], "text": b"words " * 100}[damage])
    with pytest.raises(BrokenFileError) as caught:
        _all(tmp_path, skip_broken=False)
    assert str(bad) in str(caught.value)
    source = open_split(settings(tmp_path))[0]
    assert source.broken == [bad.name]
    assert [source[index].max() for index in range(len(source))] == [value for value in good if value != 2]


def test_only_the_damaged_sample_of_a_shard_and_slice_of_a_series_is_left_out(tmp_path: Path) -> None:
    cells = [png(np.full((1, 8, 8), value, np.uint8)) for value in (1, 2, 3)]
    cells[1] = cells[1][:50]
    (tmp_path / "tar").mkdir()
    shard(tmp_path / "tar" / "a.tar", [(f"{index}.png", cell) for index, cell in enumerate(cells)])
    pyarrow = pytest.importorskip("pyarrow")
    (tmp_path / "parquet").mkdir()
    table = pyarrow.table({"image": cells, "label": [0, 1, 1]})
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "parquet" / "a.parquet")
    for kind, name in (("tar", "a.tar:1"), ("parquet", "a.parquet:00000001")):
        source = open_split(settings(tmp_path / kind))[0]
        assert source.broken == [name]
        assert [source[index].max() for index in range(len(source))] == [1, 3]
    assert [source.label(index) for index in range(2)] == [0, 1]
    pytest.importorskip("pydicom")
    from tests.data.formats.test_dicom import RLELossless, scan

    for number in (1, 2, 3):
        path = scan(tmp_path / "dicom" / f"{number}.dcm", np.full((8, 8), number, np.uint8), RLELossless)
        if number == 2:
            path.write_bytes(path.read_bytes()[:-60])
    source = open_split(settings(tmp_path / "dicom"))[0]
    assert len(source) == 2
    assert ["2.dcm" in name for name in source.broken] == [True]


def test_classes_stay_with_their_files(tmp_path: Path) -> None:
    for number, name in enumerate(("cat/a", "cat/b", "dog/c", "dog/d")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / f"{name}.npy", images(number))
    (tmp_path / "cat" / "a.npy").write_bytes(b"")
    source = open_split(settings(tmp_path))[0]
    assert (source.broken, source.classes) == (["cat/a.npy"], ("cat", "dog"))
    assert [(source[index].max(), source.label(index)) for index in range(3)] == [(1, 0), (2, 1), (3, 1)]


def test_what_is_whole_but_unlike_still_stops_and_nothing_left_is_said(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", images(1))
    np.save(tmp_path / "b.npy", images(1).astype(np.float32))
    with pytest.raises(UserError, match="float32"):
        open_source(tmp_path, skip_broken=True)
    for name in "ab":
        (tmp_path / f"{name}.npy").write_bytes(b"")
    with pytest.raises(UserError, match="2"):
        open_source(tmp_path, skip_broken=True)


def _all(folder: Path, *, skip_broken: bool) -> list[np.ndarray]:
    source = open_split(settings(folder, skip_broken=skip_broken))[0]
    return [source[index] for index in range(len(source))]
