"""NIfTI volumes: values and slices as they are stored or rescaled, damaged files answered in words."""

from __future__ import annotations

import gzip
import re
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")

from tests.data.formats.packing import sentence  # noqa: E402
from tests.refusal import refused  # noqa: E402

from pixelpath.data.formats.nifti import open_nifti  # noqa: E402

RANDOM = np.random.default_rng(0)


def volume(path: Path, values: np.ndarray, slope: float = 1.0, inter: float = 0.0) -> Path:
    """A NIfTI file of these stored values, with slope and intercept in its header."""
    image = nibabel.Nifti1Image(values, np.eye(4), dtype=values.dtype)
    image.header.set_slope_inter(slope, inter)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_slices_of_a_nifti_volume_keep_values_and_dtype(tmp_path: Path, name: str, dtype: str) -> None:
    values = RANDOM.integers(0, 200, (4, 5, 6)).astype(dtype)
    path = volume(tmp_path / name, values)
    for axis in range(3):
        stack = open_nifti(path, axis)
        assert (stack.dtype, stack.whole, stack.metadata.format, stack.metadata.units) == (np.dtype(dtype), True, "nifti", "")
        expected = np.moveaxis(values, axis, 0)[:, None]
        assert stack.shape == expected.shape
        assert stack.name(1) == f"{'xyz'[axis]}=0001"
        np.testing.assert_array_equal(np.stack([stack.read(index) for index in range(stack.shape[0])]), expected)
        np.testing.assert_array_equal(stack.read(2, slice(1, 3), slice(2, None)), expected[2, :, 1:3, 2:])


def test_only_a_window_of_a_large_volume_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_shape((1024, 1024, 256))
    header.set_data_dtype(np.uint8)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with (tmp_path / "a.nii").open("wb") as file:  # 256 MiB, nearly all of them a hole
        file.write(header.binaryblock)
        file.seek(352 + 200 * 1024**2 + 7 * 1024 + 5)
        file.write(b"\x09")
        file.truncate(352 + 256 * 1024**2)
    tracemalloc.start()
    stack = open_nifti(tmp_path / "a.nii")
    image = stack.read(200)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 8 * 2**20
    assert (image[0, 5, 7], image.sum()) == (9, 9)
    values = RANDOM.integers(0, 200, (4, 5, 6, 2)).astype(np.uint8)
    stack = open_nifti(volume(tmp_path / "a.nii.gz", values), 1)
    monkeypatch.setattr("pixelpath.data.formats.nifti.MOST_UNZIPPED", 0)  # as if the volume were too large to be unpacked whole
    np.testing.assert_array_equal(stack.read(7, slice(1, 3), slice(2, 5))[0], values[1:3, 2, 2:5, 1])


def test_big_endian_volumes_have_the_machines_byte_order(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 9999, (3, 4, 2)).astype(">i2")
    image = nibabel.Nifti1Image(values, np.eye(4), nibabel.Nifti1Header(endianness=">"))
    image.set_data_dtype(">i2")
    nibabel.save(image, tmp_path / "a.nii")
    stack = open_nifti(tmp_path / "a.nii")
    assert (stack.dtype.isnative, stack.read(1).dtype) == (True, np.dtype("int16"))
    np.testing.assert_array_equal(stack.read(1)[0], values[:, :, 1])


def test_time_points_follow_each_other_and_scaled_volumes_are_float32(tmp_path: Path) -> None:
    values = RANDOM.integers(-99, 99, (3, 4, 5, 2)).astype(np.int16)
    stack = open_nifti(volume(tmp_path / "a.nii", values, 0.5, 7.0))
    assert (stack.shape, stack.dtype) == ((10, 1, 3, 4), np.dtype("float32"))
    assert [stack.name(index) for index in (0, 4, 5)] == ["t=000,z=0000", "t=000,z=0004", "t=001,z=0000"]
    np.testing.assert_array_equal(stack.read(8)[0], values[:, :, 3, 1] * 0.5 + 7)


def test_threads_read_what_one_reads(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 200, (4, 5, 30)).astype(np.uint8)
    stack = open_nifti(volume(tmp_path / "a.nii.gz", values))
    with ThreadPoolExecutor(4) as pool:
        np.testing.assert_array_equal(np.stack(list(pool.map(stack.read, range(30))))[:, 0], values.transpose(2, 0, 1))


def test_a_header_whose_values_are_in_another_file_is_named(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "a.hdr")
    (tmp_path / "a.hdr").rename(tmp_path / "a.nii")  # whose first bytes would be read as values
    with refused(None, tmp_path / "a.nii", ".img"):
        open_nifti(tmp_path / "a.nii")


def test_broken_volumes_are_answered_with_one_sentence(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 200, (8, 8, 8)).astype(np.uint8)
    whole = volume(tmp_path / "whole.nii", values).read_bytes()
    (tmp_path / "short.nii").write_bytes(whole[:-5])
    (tmp_path / "head.nii").write_bytes(whole[:100])
    (tmp_path / "text.nii").write_text("no volume")
    (tmp_path / "text.nii.gz").write_text("no volume")
    (tmp_path / "cut.nii.gz").write_bytes(gzip.compress(whole)[:-100])
    volume(tmp_path / "wide.nii", np.zeros((2, 2, 2), np.int64))
    volume(tmp_path / "complex.nii", np.zeros((2, 2, 2), np.complex64))
    volume(tmp_path / "five.nii", np.zeros((2, 2, 2, 1, 3), np.uint8))
    words = {
        "short.nii": "ends after 859 of 864 bytes",
        "head.nii": "NIfTI",
        "text.nii": "NIfTI",
        "text.nii.gz": "NIfTI",
        "cut.nii.gz": "NIfTI",
        "wide.nii": "int64: convert it",
        "complex.nii": "complex64: convert it",
        "five.nii": "shape",
    }
    for name, word in words.items():
        with pytest.raises(ValueError, match=re.escape(str(tmp_path / name)) + ".*" + word) as caught:
            open_nifti(tmp_path / name).read(0)
        sentence(str(caught.value))
    with refused("data.axis", "whole.nii", 3):
        open_nifti(tmp_path / "whole.nii", 3)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_nifti(tmp_path / "gone.nii")
