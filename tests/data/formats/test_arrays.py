"""Arrays in files: which axis is which, what labels mean, and the sentence that each mistake is answered with."""

from __future__ import annotations

import os
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.arrays import array_source
from tests.refusal import refused

from pixelpath.data.formats import arrays, reading
from pixelpath.data.opening import open_source
from pixelpath.data.sources import (
    Arrays,
    gather,
    labels,
)

RANDOM = np.random.default_rng(0)


def assert_sentence(error: BaseException, words: list[str]) -> None:
    text = str(error)
    assert text.endswith(".")
    assert "\n" not in text
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 8, 6), (1, 8, 6)),
        ((5, 8, 6, 3), (3, 8, 6)),
        ((5, 3, 8, 6), (3, 8, 6)),
        ((5, 13, 32, 32), (13, 32, 32)),
        ((5, 8, 6, 1), (1, 8, 6)),
        ((5, 4, 4, 4), (4, 4, 4)),
    ],
)
def test_the_channel_axis_is_the_shorter_one(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    images = RANDOM.integers(0, 256, shape).astype(np.uint8)
    source = array_source(images)
    assert source.shape == expected
    last = len(shape) == 4 and shape[-1] < shape[1]
    np.testing.assert_array_equal(source[2], images[2].transpose(2, 0, 1) if last else images[2].reshape(expected))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", ">i2", "float16", ">f4", "float64"])
def test_array_files_are_mapped_and_native(tmp_path: Path, dtype: str) -> None:
    images = RANDOM.integers(0, 100, (6, 8, 4)).astype(dtype)
    np.save(tmp_path / "a.npy", images)
    np.save(tmp_path / "a_labels.npy", np.array([0, 1, 2, 2, 1, 0], np.uint8))
    np.savez(
        tmp_path / "b.npz", labels=np.array([[0], [1], [2], [2], [1], [0]]), images=images, class_names=np.array(["x", "y", "z"])
    )
    np.savez_compressed(tmp_path / "c.npz", images, labels=np.array([0, 1, 2, 2, 1, 0]))
    for name, classes, mapped in (("a.npy", "012", True), ("b.npz", "xyz", True), ("c.npz", "012", False)):
        source = open_source(tmp_path / name, patch=4)
        assert isinstance(source, Arrays)
        assert isinstance(source.images, np.memmap) == mapped
        assert source.dtype == np.dtype(dtype).newbyteorder("=")
        assert source[0].dtype == source.dtype
        assert source.classes == tuple(classes)
        assert labels(source).tolist() == [0, 1, 2, 2, 1, 0]
        np.testing.assert_array_equal(gather(source, range(6))[:, 0], images)


ARRAY = np.zeros((3, 8, 8), np.uint8)


WRONG_ARRAYS = [
    (ARRAY.astype(object), None, None, ["object", "uint8"]),
    (ARRAY.astype(np.int64), None, None, ["int64", "convert"]),
    (ARRAY.astype(bool), None, None, ["bool", "convert"]),
    (ARRAY[0], None, None, ["(8, 8)", "[N,H,W]"]),
    (ARRAY[:0], None, None, ["(0, 8, 8)", "no images"]),
    (ARRAY, np.array([0.0, 1.0, 2.0]), None, ["float64", "integers"]),
    (ARRAY, np.array([0, 1]), None, ["(2,)", "3 images"]),
    (ARRAY, np.array([0, -1, 1]), None, ["-1", "outside 0"]),
    (ARRAY, np.array([0, 1, 2]), ("a", "b"), ["hold 2, outside 0 to 1"]),
    (ARRAY, np.array([0, 3, 1]), None, ["up to 3", "none is 2"]),
    (ARRAY, None, ("a", "b"), ["missing", "2 classes"]),
]


@pytest.mark.parametrize(("images", "numbers", "classes", "words"), WRONG_ARRAYS)
def test_wrong_arrays_are_answered_with_one_sentence(
    images: np.ndarray, numbers: np.ndarray | None, classes: tuple[str, ...] | None, words: list[str]
) -> None:
    with pytest.raises(ValueError, match="the array") as error:
        array_source(images, numbers, classes)
    assert_sentence(error.value, words)


class Trap:
    """Unpickling this makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_array_files_are_never_unpickled(tmp_path: Path) -> None:
    trap = np.array([Trap(tmp_path / "sprung")] * 3, dtype=object)
    np.save(tmp_path / "a.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "b.npz", images=trap)
    np.savez(tmp_path / "c.npz", images=ARRAY, labels=trap)
    (tmp_path / "d.npy").write_bytes(b"no array")
    (tmp_path / "e.npz").write_bytes(b"no archive")
    for name in ("a.npy", "b.npz", "c.npz", "d.npy", "e.npz"):
        with pytest.raises(ValueError, match="cannot be read as arrays without Python objects") as error:
            open_source(tmp_path / name)
        assert_sentence(error.value, [name, "numpy.save"])
    assert not (tmp_path / "sprung").exists()


def test_an_archive_without_images_lists_what_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", pictures=ARRAY, other=ARRAY)
    with pytest.raises(ValueError, match="holds pictures, other but no images"):
        open_source(tmp_path / "a.npz")


def test_a_pipe_in_place_of_a_file_is_named_and_never_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 8, 8), np.uint8))
    os.mkfifo(tmp_path / "a_labels.npy")
    with refused(None, tmp_path / "a_labels.npy"):
        open_source(tmp_path / "a.npy")


def test_an_archive_of_very_many_arrays_is_opened_at_once(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for number in range(20_000):
            archive.writestr(f"{number}.npy", b"")
        with archive.open("images.npy", "w") as file:
            np.save(file, np.zeros((3, 8, 8), np.uint8))
    began = time.perf_counter()
    assert len(open_source(tmp_path / "a.npz")) == 3
    assert time.perf_counter() - began < 5  # counting each among all took minutes


def test_a_packed_array_larger_than_the_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((300, 64, 64), np.uint8))
    monkeypatch.setattr(arrays, "check_room", lambda path, needed, what: reading.check_room(path, needed + 2**60, what))
    monkeypatch.setattr(np, "load", None)  # nothing is unpacked
    with refused(None, tmp_path / "a.npz", "images", "GiB"):
        open_source(tmp_path / "a.npz")
