"""Data in memory: the same images on the same sides as from a file, whatever holds them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.refusal import refused
from torch.utils.data import TensorDataset

from pixelpath.data.memory import Layout, from_arrays, save_arrays
from pixelpath.data.opening import open_source, open_split
from pixelpath.data.settings import DataSettings
from pixelpath.data.sources import Source, gather, labels, load

RANDOM = np.random.default_rng(0)
ALL = DataSettings(held_out_share=0.0)
FIRST = RANDOM.integers(0, 256, (60, 3, 8, 12), np.uint8)
LAST = np.ascontiguousarray(FIRST.transpose(0, 2, 3, 1))
NUMBERS = np.arange(60) % 3


def values(source: Source) -> np.ndarray:
    return gather(source, range(len(source)))


def everything(images: Any, *rest: Any, layout: Layout | None = None, settings: DataSettings = ALL) -> Source:
    training, held_out = from_arrays(images, *rest, layout=layout, settings=settings)
    assert len(held_out) == 0
    return training


def assert_same(one: Source, other: Source) -> None:
    assert (one.shape, one.dtype, one.classes, one.metadata) == (other.shape, other.dtype, other.classes, other.metadata)
    assert [one.name(index) for index in range(len(one))] == [other.name(index) for index in range(len(other))]
    assert labels(one).tolist() == labels(other).tolist()
    np.testing.assert_array_equal(values(one), values(other))


@pytest.mark.parametrize("images", [FIRST, LAST, FIRST[:, 0], FIRST.astype(np.float32)])
@pytest.mark.parametrize("by", ["name", "order"])
@pytest.mark.parametrize("tile", [(), (4,)])
def test_arrays_in_memory_and_the_same_in_a_file_have_the_same_sides(
    tmp_path: Path, images: np.ndarray, by: Any, tile: tuple[int, ...]
) -> None:
    settings = DataSettings(held_out_share=0.2, held_out_by=by, tile=tile, units="mm")
    np.savez(tmp_path / "own.npz", images=images, labels=NUMBERS, class_names=["a", "b", "c"])
    sides = from_arrays(images, NUMBERS, ["a", "b", "c"], settings=settings)
    save_arrays(tmp_path / "data.npz", sides[1])
    assert 0 < len(sides[1]) < len(sides[0])
    for name in ("own.npz", "data.npz"):
        opened = open_split(DataSettings(tmp_path / name, held_out_share=0.2, held_out_by=by, tile=tile, units="mm"))
        for side, other in zip(sides, opened, strict=True):
            assert_same(side, other)


def test_what_is_saved_says_where_its_channels_are(tmp_path: Path) -> None:
    """By their lengths alone the 12 bands of these 8 x 8 images would be taken for rows."""
    bands = RANDOM.integers(0, 1000, (6, 12, 8, 8)).astype(np.uint16)
    side = everything(bands, layout="channels_first")
    save_arrays(tmp_path / "data.npz", side)
    assert open_source(tmp_path / "data.npz").shape == side.shape == (12, 8, 8)
    np.testing.assert_array_equal(values(open_source(tmp_path / "data.npz")), bands)


def test_colours_that_are_multiplied_and_images_that_are_resized_are_saved_as_they_were(tmp_path: Path) -> None:
    rgba = RANDOM.integers(0, 256, (9, 4, 8, 12), np.uint8)
    for settings in (DataSettings(alpha="premultiplied"), DataSettings(resize=(4, 4))):
        training, _ = from_arrays(rgba, settings=settings)
        save_arrays(tmp_path / "data.npz", training)
        np.testing.assert_array_equal(values(open_source(tmp_path / "data.npz")), rgba)
    Image.fromarray(LAST[0]).save(tmp_path / "a.png")
    for other in (open_source(tmp_path / "a.png"), load(training)):  # of a loaded side the other one is not known
        with pytest.raises(ValueError, match="no side of arrays"):
            save_arrays(tmp_path / "other.npz", other)


def test_arrays_stay_as_they_are() -> None:
    images = FIRST.copy()
    side = everything(images)
    assert side[0].base is None  # a copy of its own, which nobody else changes
    images[7, 0, 0, 0] ^= 1
    assert side[7][0, 0, 0] == images[7, 0, 0, 0]
    for dtype in ("int8", "uint16", "int32", "uint32", "float16", "float64"):
        assert everything(FIRST.astype(dtype)).dtype == np.dtype(dtype)
    assert everything(torch.from_numpy(FIRST).float().requires_grad_()).dtype == np.float32


class Table:
    """What a Hugging Face data set offers: named columns, rows as dictionaries, features that name classes."""

    class ClassLabel:
        def __init__(self, names: list[str]) -> None:
            self.names = names

    def __init__(self, columns: dict[str, list[Any]], names: list[str] | None = None) -> None:
        self.columns, self.column_names = columns, list(columns)
        self.features = {name: self.ClassLabel(names) if names and name == "label" else None for name in columns}

    def __len__(self) -> int:
        return len(self.columns[self.column_names[0]])

    def __getitem__(self, index: int | str) -> Any:
        return self.columns[index] if isinstance(index, str) else {name: column[index] for name, column in self.columns.items()}


class Named(TensorDataset):
    """As the data sets of torchvision, with names of its classes."""

    classes = ("a", "b", "c")

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, label = super().__getitem__(index)
        return image, int(label)


PICTURES = [Image.fromarray(image) for image in LAST]
HOLDERS: list[tuple[Any, tuple[str, ...]]] = [
    (torch.from_numpy(FIRST), ()),
    (list(FIRST), ()),
    (PICTURES, ()),
    (tuple(torch.from_numpy(LAST)), ()),
    (TensorDataset(torch.from_numpy(FIRST)), ()),
    (TensorDataset(torch.from_numpy(FIRST), torch.from_numpy(NUMBERS)), ("0", "1", "2")),
    (Named(torch.from_numpy(FIRST), torch.from_numpy(NUMBERS)), ("a", "b", "c")),
    (list(zip(PICTURES, NUMBERS.tolist(), strict=True)), ("0", "1", "2")),
    (list(zip(PICTURES, ["xyz"[number] for number in NUMBERS], strict=True)), ("x", "y", "z")),
    (Table({"image": PICTURES, "id": [0] * 60}), ()),
    (Table({"img": PICTURES, "label": NUMBERS.tolist()}, ["p", "q", "r"]), ("p", "q", "r")),
    (Table({"picture": PICTURES, "label": ["xyz"[number] for number in NUMBERS]}), ("x", "y", "z")),
]


@pytest.mark.parametrize(("held", "classes"), HOLDERS)
def test_every_holder_of_the_same_images_gives_them(held: Any, classes: tuple[str, ...]) -> None:
    source = everything(held)
    np.testing.assert_array_equal(values(source), FIRST if held is HOLDERS[0][0] else LAST.transpose(0, 3, 1, 2))
    assert source.classes == classes
    assert labels(source).tolist() == (NUMBERS.tolist() if classes else [0] * 60)


def test_pictures_become_what_files_of_them_would_be(tmp_path: Path) -> None:
    grey = Image.fromarray(LAST[0]).convert("L")
    for image in (
        grey,
        grey.convert("1"),
        grey.convert("LA"),
        PICTURES[0].convert("P"),
        Image.fromarray(LAST[0, :, :, 0].astype("u2")),
    ):
        image.save(tmp_path / "a.png")
        np.testing.assert_array_equal(everything([image])[0], open_source(tmp_path)[0])
    turned = Image.Exif()
    turned[0x0112] = 6
    PICTURES[0].save(tmp_path / "a.png", exif=turned)
    opened = Image.open(tmp_path / "a.png")
    np.testing.assert_array_equal(everything([opened])[0], open_source(tmp_path)[0])
    sizes = [PICTURES[0], PICTURES[1].resize((24, 16))]
    assert everything(sizes, settings=DataSettings(held_out_share=0.0, resize=(4, 4))).shape == (3, 4, 4)
    assert everything(sizes[:1], settings=DataSettings(held_out_share=0.0, channels=1)).shape == (1, 8, 12)


def test_names_as_labels_are_numbered_by_the_names_of_the_classes() -> None:
    words = ["dog", "cat", "dog", "cat"]
    assert labels(everything(FIRST[:4], words)).tolist() == [1, 0, 1, 0]
    source = everything(FIRST[:4], words, ["dog", "cat", "fox"])
    assert (source.classes, labels(source).tolist()) == (("dog", "cat", "fox"), [0, 1, 0, 1])


WRONG: list[tuple[Callable[[], object], str, list[Any]]] = [
    (lambda: from_arrays(FIRST.astype(bool)), "images", ["bool"]),
    (lambda: from_arrays(FIRST.astype(complex)), "images", ["complex128"]),
    (lambda: from_arrays(FIRST.astype(object)), "images", ["object"]),
    (lambda: from_arrays(torch.from_numpy(FIRST).bfloat16()), "images", ["bfloat16", "float32"]),
    (lambda: from_arrays(FIRST[0, 0]), "images", ["(8, 12)"]),
    (lambda: from_arrays([]), "images", ["(0,)"]),
    (lambda: from_arrays({"train": FIRST}), "images", ["dict"]),
    (lambda: from_arrays([*FIRST[:5], FIRST[5, :, :4], FIRST[6]]), "images", ["Image 5", "3x4x12", "3x8x12"]),
    (lambda: from_arrays([FIRST[0], FIRST[1].astype(np.float32)]), "images", ["Image 1", "float32", "uint8"]),
    (lambda: from_arrays([(FIRST[0], 1), FIRST[1]]), "images", ["Item 1"]),
    (lambda: from_arrays([FIRST[0], (FIRST[1], 1)]), "images", ["Item 1"]),
    (lambda: from_arrays([Image.new("I", (4, 4))]), "images", ["Image 0", "mode I"]),
    (lambda: from_arrays(Table({"a": [], "b": []})), "images", ["a, b"]),
    (lambda: from_arrays(FIRST, NUMBERS[:5]), "labels", ["(5,)", "60 images"]),
    (lambda: from_arrays(FIRST, NUMBERS + 0.5), "labels", ["float64"]),
    (lambda: from_arrays(FIRST, NUMBERS, ["a", "b"]), "labels", ["2, outside 0 to 1"]),
    (lambda: from_arrays(FIRST[:2], ["a", "c"], ["a", "b"]), "labels", ["c"]),
    (lambda: from_arrays([(FIRST[0], 1)], [1]), "labels", ["labels"]),
    (lambda: from_arrays(np.zeros((5, 3, 8, 3), np.uint8)), "layout", ["(5, 3, 8, 3)", "channels_last"]),
    (lambda: from_arrays(np.zeros((5, 12, 8, 8), np.uint8)), "layout", ["(5, 12, 8, 8)"]),
    (lambda: from_arrays(FIRST, settings=DataSettings(held_out_share=1.0)), "data.held_out_share", ["1.0"]),
    (lambda: from_arrays(FIRST, settings=DataSettings(tile=(9,))), "data.tile", ["8x12", "9x9"]),
]


@pytest.mark.parametrize(("act", "setting", "facts"), WRONG)
def test_mistakes_name_their_argument(act: Callable[[], object], setting: str, facts: list[Any]) -> None:
    with refused(setting, *facts):
        act()


def test_the_layout_says_which_axis_has_the_channels() -> None:
    both = np.zeros((5, 3, 8, 4), np.uint8)
    assert everything(both, layout="channels_first").shape == (3, 8, 4)
    assert everything(both, layout="channels_last").shape == (4, 3, 8)
