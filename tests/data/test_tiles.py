"""Stacks one after the other, whole and in tiles; splits that keep together what belongs together."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from pixelpath.data import tiles
from pixelpath.data.formats.arrays import ClassLabels
from pixelpath.data.formats.stacks import ArrayStack
from pixelpath.data.metadata import Axis, Metadata
from pixelpath.data.opening import open_source
from pixelpath.data.settings import DataSettings
from pixelpath.data.sources import Source, gather, labels, split
from pixelpath.data.tiles import Stacked


def stack(count: int, rows: int, columns: int, first: int = 0, whole: bool = False, channels: int = 2) -> ArrayStack:
    """Images whose every value is its own number."""
    size = count * channels * rows * columns
    images = first + np.arange(size, dtype=np.int32).reshape(count, channels, rows, columns)
    return ArrayStack(Path(f"{first}.npy"), images, whole=whole)


def stacked(*stacks: ArrayStack, tile: tuple[int, int] | None = None, stride: tuple[int, int] | None = None) -> Stacked:
    count = sum(each.shape[0] for each in stacks)
    titles = tuple(each.path.name for each in stacks) if len(stacks) > 1 else ("",)
    return Stacked(stacks, titles, np.arange(count) % 2, ("even", "odd"), tile=tile, stride=stride)


def test_images_of_several_stacks_follow_one_another() -> None:
    first, second = stack(2, 4, 6), stack(3, 4, 6, 1000)
    source = stacked(first, second)
    assert (len(source), source.shape, source.dtype) == (5, (2, 4, 6), np.dtype("int32"))
    np.testing.assert_array_equal(gather(source, range(5)), np.concatenate([first.images, second.images]))
    assert [source.name(index) for index in (0, 2, 4)] == ["0.npy:00000000", "1000.npy:00000000", "1000.npy:00000002"]
    assert labels(source).tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("rows", "columns", "tile", "stride", "down", "across"),
    [
        (8, 12, (4, 4), (4, 4), [0, 4], [0, 4, 8]),
        (8, 12, (4, 4), (2, 4), [0, 2, 4], [0, 4, 8]),
        (9, 13, (4, 6), (4, 6), [0, 4, 5], [0, 6, 7]),  # the last tile touches the edge
        (4, 6, (4, 6), (1, 1), [0], [0]),
    ],
)
def test_tiles_cover_every_pixel_and_are_windows_of_their_image(
    rows: int, columns: int, tile: tuple[int, int], stride: tuple[int, int], down: list[int], across: list[int]
) -> None:
    whole = stack(2, rows, columns)
    source = stacked(whole, tile=tile, stride=stride)
    corners = [(image, row, column) for image in range(2) for row in down for column in across]
    assert len(source) == len(corners)
    seen = np.zeros(whole.images.size, bool)
    for index, (image, row, column) in enumerate(corners):
        window = whole.images[image, :, row : row + tile[0], column : column + tile[1]]
        np.testing.assert_array_equal(source[index], window)
        assert source.name(index) == f"{image:08d}@{row},{column}"
        assert source.label(index) == image
        seen[source[index].ravel()] = True
    assert seen.all()


def test_tiles_of_stacks_of_unequal_sizes() -> None:
    source = stacked(stack(1, 4, 4), stack(1, 8, 4, 1000), tile=(4, 4))
    assert [source.name(index) for index in range(3)] == ["0.npy@0,0", "1000.npy@0,0", "1000.npy@4,0"]
    assert source[2].min() == 1000 + 16


def test_a_split_keeps_volumes_and_the_tiles_of_an_image_together() -> None:
    volumes = stacked(*(stack(4, 2, 2, 1000 * number, whole=True) for number in range(30)))
    for source, key in ((volumes, ":"), (stacked(stack(40, 4, 6), tile=(2, 2)), "@")):
        training, held_out = split(source, 0.3)
        sides = [{side.name(index).split(key)[0] for index in range(len(side))} for side in (training, held_out)]
        assert sides[0].isdisjoint(sides[1])
        assert len(training) + len(held_out) == len(source)
        assert 0.1 < len(held_out) / len(source) < 0.5


@pytest.mark.parametrize("count", [2, 3, 19, 30])
@pytest.mark.parametrize("tile", [None, (2, 2)])
@pytest.mark.parametrize("by", ["name", "order"])
def test_whole_volumes_are_on_one_side_however_few_there_are(
    count: int, tile: tuple[int, int] | None, by: Literal["name", "order"]
) -> None:
    source = stacked(*(stack(4, 4, 4, 1000 * number, whole=True) for number in range(count)), tile=tile)
    sides = [{name_of.split(":")[0] for name_of in names(side)} for side in split(source, 0.05, by)]
    assert [len(side) for side in sides] == [count - max(1, len(sides[1])), len(sides[1])]
    assert sides[0].isdisjoint(sides[1])
    assert len(sides[1]) >= 1


@pytest.mark.parametrize("tile", [None, (2, 2)])
def test_of_one_volume_runs_of_slices_are_held_out(tile: tuple[int, int] | None) -> None:
    source = stacked(stack(100, 4, 4, whole=True), tile=tile)
    training, held_out = split(source, 0.2)
    numbers = [{int(name_of.split("@")[0]) for name_of in names(side)} for side in (training, held_out)]
    assert numbers[0] | numbers[1] == set(range(100))
    assert numbers[0].isdisjoint(numbers[1])
    assert {number // 5 for number in numbers[0]}.isdisjoint({number // 5 for number in numbers[1]})  # a twentieth has 5


def test_tiles_of_a_thin_volume_are_split_by_where_they_are() -> None:
    source = stacked(stack(3, 64, 64, whole=True), tile=(8, 8))
    corners = [{name_of.split("@")[1] for name_of in names(side)} for side in split(source, 0.3)]
    assert corners[0].isdisjoint(corners[1])
    assert corners[1]


def test_all_time_points_of_a_slice_are_on_one_side(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 40, 3), np.int16), np.eye(4)), tmp_path / "a.nii")
    sides = [{name_of.split("z=")[1] for name_of in names(side)} for side in split(open_source(tmp_path / "a.nii"), 0.2)]
    assert sides[0].isdisjoint(sides[1])
    assert len(sides[0] | sides[1]) == 40


def names(source: Source) -> list[str]:
    return [source.name(index) for index in range(len(source))]


def test_overlapping_tiles_of_one_image_share_no_pixel_across_the_split() -> None:
    source = stacked(stack(1, 64, 96), tile=(8, 8), stride=(4, 4))
    training, held_out = split(source, 0.3)
    pixels = [set(gather(side, range(len(side))).ravel().tolist()) for side in (training, held_out)]
    assert pixels[0].isdisjoint(pixels[1])
    assert len(held_out) > 0
    assert len(training) + len(held_out) < len(source)  # those across the border are on neither side


def test_the_last_images_in_order_can_be_held_out() -> None:
    training, held_out = split(stacked(stack(10, 2, 2)), 0.2, "order")
    assert [held_out.name(index) for index in range(2)] == ["00000008", "00000009"]
    assert (len(training), len(held_out)) == (8, 2)
    assert len(split(stacked(stack(10, 2, 2)), 0.0, "order")[1]) == 0
    assert len(split(stacked(stack(10, 2, 2)), 0.01, "order")[1]) == 1


def test_facts_survive_json() -> None:
    for nodata in (None, -9999.0, float("nan")):
        metadata = Metadata("netcdf", "u", ("a", "b"), "m/s", nodata, axes=(Axis("y", (1.0, 0.1 + 0.2), "km"), Axis("x", (3.0,))))
        again = Metadata.from_json(metadata.to_json())
        assert again.to_json() == metadata.to_json()
        assert again.axes == metadata.axes


def test_coordinates_are_those_of_all_images_and_follow_a_resize(tmp_path: Path) -> None:
    axes = Axis("lat", tuple(50 + 0.5 * np.arange(8)), "degrees_north"), Axis("lon", tuple(4.0 + np.arange(12)), "degrees_east")
    images = np.zeros((2, 1, 8, 12), np.float32)

    def axes_of(*known: tuple[Axis, ...], **settings: Any) -> list[tuple[float, ...]]:
        stacks = [ArrayStack(tmp_path, images, Metadata("netcdf", axes=each, south_up=True)) for each in known]
        names = [f"{number}.nc" for number in range(len(stacks))]
        source = tiles.stacked(
            stacks, names, ClassLabels(np.zeros(2 * len(stacks), np.int64)), DataSettings(tmp_path, **settings)
        )
        assert source.metadata.south_up
        return [axis.values for axis in source.metadata.axes]

    whole = [axis.values for axis in axes]
    moved = (Axis("lat", tuple(10 + 0.5 * np.arange(8))), axes[1])
    uneven = (axes[0], Axis("lon", tuple(np.arange(12.0) ** 2)))
    assert axes_of(axes, axes) == axes_of(axes, resize=(8, 12)) == whole
    assert axes_of(axes, moved) == axes_of(axes, tile=(4,)) == axes_of(uneven, resize=(4, 6)) == []
    # new pixels are 2 x 2 old ones, so that each centre lies midway between two old centres
    assert axes_of(axes, resize=(4, 6)) == [(50.25, 51.25, 52.25, 53.25), (4.5, 6.5, 8.5, 10.5, 12.5, 14.5)]
    # the shorter side is kept, and two columns are cut off on either side
    assert axes_of(axes, resize=(8, 8))[1] == tuple(6.0 + np.arange(8))
