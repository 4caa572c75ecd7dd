"""What a fit decides from the data: how large images are read, and in which values."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelpath.data.opening import open_split
from pixelpath.data.settings import DataSettings
from pixelpath.runs.fitting.choosing import LARGEST, read_as

RANDOM = np.random.default_rng(0)


def ct(path: Path, pixels: np.ndarray, number: int) -> None:
    """A slice of 16 stored bits, whose values in Hounsfield units (stored - 1024) do not fit into int16."""
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = pydicom.uid.UID(f"1.2.3.{number + 1}")
    data.SeriesInstanceUID, data.Modality, data.InstanceNumber = f"1.2.4.{number // 15}", "CT", number + 1
    data.PatientID = f"patient {number // 15}"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.RescaleSlope, data.RescaleIntercept = 15, "1", "-1024"
    data.PixelData = pixels.astype("<u2").tobytes()
    data["PixelData"].VR = "OW"
    data.save_as(path, enforce_file_format=True)


def test_slices_of_16_bits_are_resized_whole_in_hounsfield_units(tmp_path: Path) -> None:
    """Air around half a body: each value is kept, and the slice is the whole slice."""
    for number in range(30):
        pixels = np.full((96, 96), 24, np.uint16)
        pixels[48:] = 1024 + 40 + number
        ct(tmp_path / f"{number:02d}.dcm", pixels, number)
    settings, reasons = read_as(DataSettings(tmp_path))
    assert (settings.resize, settings.tile) == ((LARGEST, LARGEST), ())
    assert any("resize" in reason for reason in reasons)
    training, held_out = open_split(settings)
    assert (training.dtype, training.shape, training.metadata.units) == (np.dtype("int32"), (1, 64, 64), "HU")
    slices = {int(side[index].max()): side[index][0] for side in (training, held_out) for index in range(len(side))}
    assert sorted(slices) == [40 + number for number in range(30)]
    for body, found in slices.items():
        assert (found[:31] == -1000).all()
        assert (found[33:] == body).all()


def test_a_few_scenes_of_wide_integers_are_cut_into_tiles(tmp_path: Path) -> None:
    np.save(tmp_path / "scenes.npy", RANDOM.integers(0, 10**6, (3, 200, 300)).astype(np.int32))
    settings, _ = read_as(DataSettings(tmp_path / "scenes.npy"))
    assert (settings.resize, settings.tile) == (None, (LARGEST, LARGEST))


def test_photographs_of_as_many_sizes_are_resized_in_their_usual_shape(tmp_path: Path) -> None:
    """The first is a panorama, one is grey: neither decides."""
    for number in range(12):
        rows, columns = (70, 300) if number == 0 else (150 + number, 120 + 2 * number)
        pixels = RANDOM.integers(0, 256, (rows, columns, 3), np.uint8)
        Image.fromarray(pixels[..., 0] if number == 5 else pixels).save(tmp_path / f"{number:02d}.jpg")
    settings, reasons = read_as(DataSettings(tmp_path))
    assert (settings.resize, settings.channels) == ((64, 64), 3)
    assert any("several sizes" in reason for reason in reasons)
