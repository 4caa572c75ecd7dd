"""DICOM series: values in their own units, slices in their own order, damaged files answered in words."""

from __future__ import annotations

import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")

from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import (  # noqa: E402
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)
from tests.data.formats.packing import sentence  # noqa: E402

from pixelpath.data.formats.dicom import looks_like_dicom, open_dicom  # noqa: E402
from pixelpath.data.opening import open_split  # noqa: E402
from pixelpath.data.settings import DataSettings  # noqa: E402

RANDOM = np.random.default_rng(0)
CT = RANDOM.integers(0, 4096, (3, 6, 5)).astype(np.uint16)  # three slices


def scan(path: Path, pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian, **tags: Any) -> Path:
    """A minimal DICOM file: one frame [row, column], frames [frame, row, column] with NumberOfFrames, or RGB [row, column, 3]."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = UID(syntax)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = UID("1.2.3")
    data.SeriesInstanceUID, data.Modality = "1.2.4", "CT"
    colour = pixels.shape[-1] == 3 and "NumberOfFrames" not in tags
    data.Rows, data.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8 * pixels.itemsize
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.HighBit = data.BitsStored - 1
    if syntax == RLELossless:
        data.compress(RLELossless, pixels)
    else:
        data.PixelData = pixels.tobytes()
        data["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def test_a_rescaled_ct_is_exact_int16_in_hounsfield_units(tmp_path: Path) -> None:
    for number, pixels in enumerate(CT):
        scan(tmp_path / f"{number}.dcm", pixels, BitsStored=12, RescaleSlope="1", RescaleIntercept="-1024", InstanceNumber=number)
    (stack,) = open_dicom(tmp_path, ["0.dcm", "1.dcm", "2.dcm"])
    assert (stack.shape, stack.dtype, stack.whole, stack.labels) == ((3, 1, 6, 5), np.dtype("int16"), True, None)
    assert (stack.metadata.format, stack.metadata.units, stack.metadata.nodata) == ("dicom", "HU", None)
    for index, pixels in enumerate(CT):
        np.testing.assert_array_equal(stack.read(index), pixels[None].astype(np.int16) - 1024)
    np.testing.assert_array_equal(stack.read(1, slice(2, 5), slice(1, 3)), CT[1:2, 2:5, 1:3].astype(np.int16) - 1024)


@pytest.mark.parametrize(
    ("slope", "intercept", "bits", "dtype"),
    [("1", "0", 16, "uint16"), ("2", "-1024", 12, "int16"), ("2", "-1024", 16, "int32"), ("0.5", "3", 12, "float32")],
)
def test_the_dtype_holds_every_rescaled_value(tmp_path: Path, slope: str, intercept: str, bits: int, dtype: str) -> None:
    path = scan(tmp_path / "a.dcm", CT[0], BitsStored=bits, RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="OD")
    (stack,) = open_dicom(path, [])
    assert (stack.dtype, stack.metadata.units) == (np.dtype(dtype), "OD")
    np.testing.assert_array_equal(stack.read(0)[0], CT[0] * float(slope) + float(intercept))


def test_without_rescaling_values_are_as_stored_also_of_monochrome1(tmp_path: Path) -> None:
    pixels = RANDOM.integers(-300, 300, (4, 4)).astype(np.int16)
    path = scan(tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME1", Modality="MR")
    (stack,) = open_dicom(path, [])
    assert (stack.dtype, stack.metadata.units) == (np.dtype("int16"), "")
    np.testing.assert_array_equal(stack.read(0)[0], pixels)


def test_slopes_of_a_pet_that_differ_from_slice_to_slice_give_float32(tmp_path: Path) -> None:
    for number, slope in enumerate((0.25, 3.0)):
        scan(tmp_path / f"{number}.dcm", CT[number], RescaleSlope=str(slope), RescaleIntercept="0", InstanceNumber=number)
    (stack,) = open_dicom(tmp_path, ["0.dcm", "1.dcm"])
    assert stack.dtype == np.float32
    np.testing.assert_array_equal(stack.read(0)[0], CT[0] * np.float32(0.25))
    np.testing.assert_array_equal(stack.read(1)[0], CT[1] * np.float32(3))


def test_slices_lie_in_order_along_the_normal_else_by_instance_number_else_by_name(tmp_path: Path) -> None:
    turned = [0, 1, 0, 0, 0, 1]  # rows along y, columns along z: the normal is x
    for name, place, number in (("a", 3.0, 1), ("b", -7.5, 2), ("c", 0.25, 3)):
        position = [place, 100.0 * number, -50.0 * number]
        scan(
            tmp_path / f"{name}.dcm", CT[0], ImageOrientationPatient=turned, ImagePositionPatient=position, InstanceNumber=number
        )
    names = ["a.dcm", "b.dcm", "c.dcm"]
    (stack,) = open_dicom(tmp_path, names)
    assert [stack.name(index) for index in range(3)] == ["b.dcm", "c.dcm", "a.dcm"]
    scan(tmp_path / "c.dcm", CT[0], InstanceNumber=0)
    (stack,) = open_dicom(tmp_path, names)
    assert [stack.name(index) for index in range(3)] == ["c.dcm", "a.dcm", "b.dcm"]
    scan(tmp_path / "c.dcm", CT[0])
    (stack,) = open_dicom(tmp_path, ["c.dcm", "b.dcm", "a.dcm"])
    assert [stack.name(index) for index in range(3)] == names


def test_every_series_is_a_stack_and_every_frame_an_image(tmp_path: Path) -> None:
    scan(tmp_path / "sub" / "a.dcm", CT, NumberOfFrames=3)
    scan(tmp_path / "b.dcm", CT[1], SeriesInstanceUID="1.2.5")
    frames, single = open_dicom(tmp_path, ["sub/a.dcm", "b.dcm"])
    assert [frames.name(index) for index in range(3)] == [f"sub/a.dcm,frame={number:04d}" for number in (1, 2, 3)]
    np.testing.assert_array_equal(np.stack([frames.read(index)[0] for index in range(3)]), CT)
    assert single.shape == (1, 1, 6, 5)


def test_enhanced_files_rescale_every_frame_by_its_own_group(tmp_path: Path) -> None:
    groups = []
    for slope in ("2", "0.5", None):
        transform = Dataset()
        transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = slope or "4", "10", "HU"
        group = Dataset()
        if slope or not groups:
            group.PixelValueTransformationSequence = [transform]
        groups.append(group)
    shared = Dataset()
    shared.PixelValueTransformationSequence = [transform]  # slope 4, for the frame without one
    sequences = {"PerFrameFunctionalGroupsSequence": groups, "SharedFunctionalGroupsSequence": [shared]}
    (stack,) = open_dicom(scan(tmp_path / "a.dcm", CT, NumberOfFrames=3, **sequences), [])
    assert (stack.dtype, stack.metadata.units) == (np.dtype("float32"), "HU")
    for index, slope in enumerate((2, 0.5, 4)):
        np.testing.assert_array_equal(stack.read(index)[0], CT[index] * slope + 10)


def test_padding_is_nodata_in_rescaled_units_whatever_its_signedness(tmp_path: Path) -> None:
    pixels = np.full((4, 4), -2000, np.int16)
    path = scan(tmp_path / "a.dcm", pixels, RescaleSlope="1", RescaleIntercept="-24", PixelPaddingValue=-2000)
    raw = path.read_bytes()
    assert raw.count(b"\x28\x00\x20\x01SS") == 1
    path.write_bytes(raw.replace(b"\x28\x00\x20\x01SS", b"\x28\x00\x20\x01US"))  # the same bits, 63536 if read as unsigned
    for _ in range(2):
        (stack,) = open_dicom(path, [])
        assert stack.metadata.nodata == -2024.0 == stack.read(0)[0, 0, 0]
        path.write_bytes(raw)


def test_two_padding_values_in_a_series_are_refused(tmp_path: Path) -> None:
    for number in (1, 2):
        scan(tmp_path / f"{number}.dcm", CT[0], PixelPaddingValue=number)
    with pytest.raises(ValueError, match=r"1\.dcm pads with 1 but .*2\.dcm of the same series with 2 .*one padding value"):
        open_dicom(tmp_path, ["1.dcm", "2.dcm"])


def test_colours_palettes_and_ybr_are_rgb(tmp_path: Path) -> None:
    colours = RANDOM.integers(0, 256, (4, 6, 3)).astype(np.uint8)
    (stack,) = open_dicom(scan(tmp_path / "rgb.dcm", colours), [])
    assert (stack.shape, stack.dtype) == ((1, 3, 4, 6), np.dtype("uint8"))
    np.testing.assert_array_equal(stack.read(0), colours.transpose(2, 0, 1))

    tables = RANDOM.integers(0, 256, (3, 256)).astype(np.uint8)
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
        tags[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    (stack,) = open_dicom(scan(tmp_path / "palette.dcm", colours[..., 0], **tags), [])
    assert (stack.shape, stack.dtype) == ((1, 3, 4, 6), np.dtype("uint8"))
    np.testing.assert_array_equal(stack.read(0), tables[:, colours[..., 0]])

    grey = np.stack([colours[..., 0], *[np.full((4, 6), 128, np.uint8)] * 2], -1)  # no colour: R = G = B = Y
    (stack,) = open_dicom(scan(tmp_path / "ybr.dcm", grey, PhotometricInterpretation="YBR_FULL"), [])
    np.testing.assert_array_equal(stack.read(0), np.repeat(colours[None, ..., 0], 3, 0))


def test_compressed_files_are_read_where_there_is_a_decoder_and_named_where_there_is_none(tmp_path: Path) -> None:
    (stack,) = open_dicom(scan(tmp_path / "rle.dcm", CT[0], RLELossless), [])
    np.testing.assert_array_equal(stack.read(0)[0], CT[0])
    for syntax in (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        (stack,) = open_dicom(scan(tmp_path / "plain.dcm", CT[0], syntax), [])
        np.testing.assert_array_equal(stack.read(0)[0], CT[0])
    path = scan(tmp_path / "ls.dcm", CT[0])
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = JPEGLSLossless
    data.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    data["PixelData"].is_undefined_length = True
    data.save_as(path)
    known = pydicom.pixels.get_decoder(JPEGLSLossless).is_available
    with pytest.raises(
        ValueError, match=r"ls\.dcm" if known else r"ls\.dcm is compressed as JPEG-LS Lossless.*decompress"
    ) as caught:
        open_dicom(path, [])[0].read(0)
    sentence(str(caught.value))


def test_dicom_is_known_by_its_letters_and_only_headers_are_read_at_opening(tmp_path: Path) -> None:
    path = scan(tmp_path / "a", np.zeros((64, 64), np.uint16))
    (tmp_path / "b").write_bytes(b"\0" * 200)
    assert looks_like_dicom(path)
    assert not looks_like_dicom(tmp_path / "b")
    assert not looks_like_dicom(tmp_path)
    (stack,) = open_dicom(path, [])
    scan(path, np.ones((64, 64), np.uint16))  # what is written after the opening is what is read
    assert stack.read(0).min() == 1


def test_a_directory_file_is_passed_over(tmp_path: Path) -> None:
    scan(tmp_path / "a.dcm", CT[0])
    listing = pydicom.dcmread(tmp_path / "a.dcm")
    listing.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    listing.save_as(tmp_path / "DICOMDIR")
    (stack,) = open_dicom(tmp_path, ["DICOMDIR", "a.dcm"])
    assert stack.name(0) == "a.dcm"
    with pytest.raises(ValueError, match="no DICOM images"):
        open_dicom(tmp_path, ["DICOMDIR"])


def broken(path: Path) -> dict[str, str]:
    """Files that cannot be read, and words of the sentence for each."""
    scan(path / "short.dcm", CT[0])
    (path / "short.dcm").write_bytes((path / "short.dcm").read_bytes()[:-7])
    scan(path / "head.dcm", CT[0])
    (path / "head.dcm").write_bytes((path / "head.dcm").read_bytes()[:150])
    (path / "text.dcm").write_text("no scan " * 100)
    (path / "empty.dcm").write_bytes(b"")
    scan(path / "report.dcm", CT[0], Rows=None, Columns=None, Modality="SR")
    scan(path / "bits.dcm", CT[0].astype(np.int64))
    scan(path / "flat.dcm", CT[0], RescaleSlope="0", RescaleIntercept="1")
    scan(path / "table.dcm", CT[0], ModalityLUTSequence=[Dataset()])
    scan(path / "words.dcm", CT[0], InstanceNumber="1").write_bytes(
        (path / "words.dcm").read_bytes().replace(b"\x20\x00\x13\x00IS\x02\x001 ", b"\x20\x00\x13\x00IS\x02\x00xx")
    )
    data = pydicom.dcmread(scan(path / "none.dcm", CT[0]))
    del data.PixelData
    data.save_as(path / "none.dcm")
    return {
        "short.dcm": "ends 7 bytes before its pixels",
        "head.dcm": "",
        "text.dcm": "cannot be read as a DICOM file",
        "empty.dcm": "",
        "report.dcm": r"\(SR\) without an image",
        "bits.dcm": "64 bits a value",
        "flat.dcm": "makes no values",
        "table.dcm": "modality LUT",
        "words.dcm": "cannot be read as a DICOM file",
        "none.dcm": "without an image",
    }


def test_every_broken_dicom_file_is_answered_with_one_sentence_that_names_it(tmp_path: Path) -> None:
    for name, words in broken(tmp_path).items():
        with pytest.raises(ValueError, match=re.escape(str(tmp_path / name)) + ".*" + words) as caught:
            open_dicom(tmp_path, [name])
        sentence(str(caught.value))
    with pytest.raises(FileNotFoundError, match=r"gone\.dcm does not exist"):
        open_dicom(tmp_path, ["gone.dcm"])


def test_slices_of_unequal_size_or_dtype_are_named(tmp_path: Path) -> None:
    scan(tmp_path / "a.dcm", CT[0])
    scan(tmp_path / "b.dcm", CT[0, :4])
    scan(tmp_path / "c.dcm", CT[0].astype(np.int16))
    for other, words in (("b.dcm", r"\(1, 4, 5\)"), ("c.dcm", "int16")):
        with pytest.raises(ValueError, match=rf"{other} has .*{words} but .*a\.dcm of the same series") as caught:
            open_dicom(tmp_path, ["a.dcm", other])
        sentence(str(caught.value))


def test_a_file_that_changes_after_the_opening_is_named(tmp_path: Path) -> None:
    path = scan(tmp_path / "a.dcm", CT[0])
    (stack,) = open_dicom(path, [])
    scan(path, CT[0, :4])
    with pytest.raises(ValueError, match=r"a\.dcm has shape .* unchanged"):
        stack.read(0)
    path.unlink()
    with pytest.raises(ValueError, match=r"a\.dcm cannot be read as a DICOM file") as caught:
        stack.read(0)
    sentence(str(caught.value))


def test_threads_read_what_one_reads(tmp_path: Path) -> None:
    frames = RANDOM.integers(0, 200, (30, 4, 5)).astype(np.uint8)
    (stack,) = open_dicom(scan(tmp_path / "a.dcm", frames, NumberOfFrames=30), [])
    with ThreadPoolExecutor(4) as pool:
        np.testing.assert_array_equal(np.stack(list(pool.map(stack.read, range(30))))[:, 0], frames)


@pytest.mark.parametrize("tag", ["PatientID", "StudyInstanceUID"])
def test_the_series_of_a_patient_are_held_out_together(tmp_path: Path, tag: str) -> None:
    """Twelve series of two slices, two of a patient each (or of a study, where there is one patient alone)."""
    for series in range(12):
        for number in range(2):
            owner = f"1.2.{series // 2}" if tag == "StudyInstanceUID" else f"P{series // 2}"
            tags = {"SeriesInstanceUID": f"1.3.{series}", "InstanceNumber": number, "PatientID": "none", tag: owner}
            scan(tmp_path / f"{series}-{number}.dcm", np.full((6, 5), series // 2, np.uint8), **tags)
    training, held_out = open_split(DataSettings(tmp_path, held_out_share=0.3))
    sides = [{int(side[index].flat[0]) for index in range(len(side))} for side in (training, held_out)]
    assert (sides[0] & sides[1], sides[0] | sides[1]) == (set(), set(range(6)))
    assert len(held_out) == 4 * len(sides[1])


def test_a_header_of_another_encoding_than_it_says_is_read_as_pydicom_reads_it_whole() -> None:
    path = Path(str(get_testdata_file("SC_rgb_jpeg.dcm", download=False)))
    (stack,) = open_dicom(path, ())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = pydicom.dcmread(path).pixel_array
        np.testing.assert_array_equal(stack.read(0), expected.transpose(2, 0, 1))
