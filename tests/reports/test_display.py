"""Grids against pixels computed by hand: which channels are shown, between which values, in which colours, under which bar."""

from __future__ import annotations

from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import Normalize, TwoSlopeNorm
from PIL import Image

from pixelpath.data.alpha import premultiply
from pixelpath.data.metadata import Metadata
from pixelpath.errors import UserError
from pixelpath.reports.display import Display, grid, panels, show

FIELD = Metadata("netcdf", "rain", units="mm/h")


def ramp(dtype: str, channels: int = 1, count: int = 1) -> np.ndarray:
    values = np.arange(count * channels * 16).reshape(count, channels, 4, 4)
    return values.astype(dtype)


def cells(picture: Image.Image, rows: int, columns: int) -> np.ndarray:
    """The middle pixel of every pixel of a grid of one image."""
    pixels = np.asarray(picture)
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    return pixels[height // 2 :: height, width // 2 :: width]


def test_north_is_up_where_the_data_tell() -> None:
    values, south_up = ramp("float32", 3, 2), replace(FIELD, south_up=True)
    for channels in ((), (1,), (0, 1, 2)):
        display = Display(channels)
        before, turned = (show(values, metadata, display) for metadata in (FIELD, south_up))
        assert np.array_equal(turned.pictures, before.pictures[:, ::-1])
        assert (turned.bar is None) == (before.bar is None)
    assert np.array_equal(values, ramp("float32", 3, 2))
    labelled = [np.asarray(grid(values[:, :1], 2, metadata=each, labels=["a", "b"])) for each in (FIELD, south_up)]
    assert not np.array_equal(labelled[0][0, :4], labelled[1][0, :4])


def test_whole_range_of_bytes_is_shown_as_it_is() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    picture = grid(torch.from_numpy(image), columns=1)
    assert picture.mode == "L"
    assert picture.size == (32 * 16, 32 * 16)
    assert np.array_equal(cells(picture, 16, 16), image[0, 0])


@pytest.mark.parametrize(
    ("count", "columns", "side"), [(1, 12, 8), (36, 12, 8), (200, 20, 8), (36, 12, 32), (9, 3, 100), (30, 10, 64)]
)
def test_width_and_places(count: int, columns: int, side: int) -> None:
    """Image n stands in row n // columns; enlarged by one whole number, 2 grey pixels apart, up to 1000 pixels wide."""
    values = np.random.default_rng(0).integers(0, 255, count, np.uint8)
    pixels = np.asarray(grid(np.broadcast_to(values[:, None, None, None], (count, 1, side, side)), columns))
    across = min(columns, count)
    edge = (pixels.shape[1] + 2) // across
    assert (pixels.shape[1] + 2) % across == 0
    assert (edge - 2) % side == 0
    assert pixels.shape == (edge * -(-count // columns) - 2, edge * across - 2)
    assert pixels.shape[1] <= 1000
    assert pixels.shape[1] > 500 or (edge - 2) == 32 * side
    for place, value in enumerate(values):
        top, left = place // across * edge, place % across * edge
        assert (pixels[top : top + edge - 2, left : left + edge - 2] == value).all()


def test_large_images_keep_their_size() -> None:
    assert grid(np.zeros((6, 3, 300, 400), np.uint8), 3).size == (3 * 402 - 2, 2 * 302 - 2)


def test_unfilled_places_and_gaps_are_grey() -> None:
    pixels = np.asarray(grid(np.zeros((3, 1, 256, 256), np.uint8), 2))
    assert (pixels[258:, 258:] == 128).all()
    assert (pixels[256:258] == 128).all()


def test_given_range_and_range_of_integers() -> None:
    digits = np.array([0, 4, 16, 17], np.uint8).reshape(1, 1, 2, 2)
    assert cells(grid(digits, 1, (0, 16)), 2, 2).ravel().tolist() == [0, 64, 255, 255]  # 4/16 of 255 is 63.75
    wide = np.array([-32768, 0, 32767, 100], np.int16).reshape(1, 1, 2, 2)
    assert cells(grid(wide, 1), 2, 2).ravel().tolist() == [0, 128, 255, 128]


def test_floats_are_shown_between_percentiles() -> None:
    """A ramp of 10,000 values: 0.5 % of them are black, 0.5 % white, and the middle stays the middle."""
    values = torch.linspace(-3, 5, 10_000).reshape(1, 1, 100, 100)
    shown = np.sort(cells(grid(values, 1), 100, 100).ravel())
    expected = np.floor(np.clip((np.arange(10_000) / 9999 - 0.005) / 0.99, 0, 1) * 255 + 0.5)
    assert np.abs(shown - expected).max() <= 1
    assert np.mean(shown != expected) < 0.01


def test_values_that_are_not_finite() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 0.5], np.float32).reshape(1, 1, 2, 2)
    assert cells(grid(values, 1, (0.0, 1.0)), 2, 2).ravel().tolist() == [0, 255, 0, 128]
    assert cells(grid(np.full((1, 1, 2, 2), np.nan, np.float32), 1), 2, 2).max() == 0


def test_channels() -> None:
    """Three are colours; two and five show the first."""
    assert np.array_equal(cells(grid(ramp("uint8", 3), 1), 4, 4), ramp("uint8", 3)[0].transpose(1, 2, 0))
    for channels in (2, 5):
        assert np.array_equal(cells(grid(ramp("uint8", channels), 1), 4, 4), ramp("uint8", channels)[0, 0])


def test_transparency_shows_a_checkerboard() -> None:
    image = np.zeros((1, 4, 128, 128), np.uint8)
    image[:, 0], image[:, 3, :, 64:] = 200, 255
    image[:, 3, :, 32:64] = 51  # a fifth
    pixels = np.asarray(grid(image, 1))
    scale = pixels.shape[0] // 128
    assert (pixels[:, 64 * scale :] == [200, 0, 0]).all()
    assert {tuple(pixel) for pixel in pixels[:, : 32 * scale].reshape(-1, 3).tolist()} == {(255,) * 3, (204,) * 3}
    thin = {tuple(pixel) for pixel in pixels[:, 32 * scale : 64 * scale].reshape(-1, 3).tolist()}
    assert thin == {(244, 204, 204), (203, 163, 163)}  # 0.2 of (200, 0, 0) over 0.8 of 255 and of 204


def test_grid_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        grid(np.zeros((0, 1, 4, 4), np.uint8), 3)
    with pytest.raises(ValueError, match="below its highest"):
        grid(ramp("uint8"), 1, (16, 16))


def coloured(values: np.ndarray, colours: str, lowest: float, highest: float) -> np.ndarray:
    """The values [image, 1, row, column] in matplotlib's colours, through its own normalisation."""
    return matplotlib.colormaps[colours](Normalize(lowest, highest)(values[:, 0].astype(np.float64)), bytes=True)[..., :3]


def near(pictures: np.ndarray, expected: np.ndarray) -> bool:
    """Whether no pixel is further off than one of the 256 colours is from the next."""
    return bool(np.abs(pictures.astype(int) - expected).max() <= 6)


def test_photographs_look_the_same_whatever_is_known() -> None:
    for channels in (1, 3, 4):
        images = np.random.default_rng(0).integers(0, 255, (6, channels, 8, 8), np.uint8)
        known = Metadata("png", photographs=True, alpha="straight" if channels == 4 else "")
        assert grid(images, 3, metadata=known) == grid(images, 3)
        assert show(images, replace(known, photographs=False)).bar is None
    assert grid(images[:, :1], 3, metadata=Metadata(photographs=True), display=Display(range=(0, 100))) == grid(
        images[:, :1], 3, (0, 100)
    )


def test_premultiplied_colours_are_seen_as_straight_ones() -> None:
    straight = np.random.default_rng(0).integers(0, 255, (2, 4, 8, 8), np.uint8)
    straight[:, 3] = np.where(straight[:, 3] > 99, 255, 0)
    known = Metadata("png", photographs=True, alpha="straight")
    assert grid(premultiply(straight), 2, metadata=replace(known, alpha="premultiplied")) == grid(straight, 2, metadata=known)


def test_measured_values_are_sequential_between_percentiles() -> None:
    """A skewed field: viridis from the 0.5th to the 99.5th percentile, computed by sorting."""
    values = np.random.default_rng(1).exponential(size=(4, 1, 50, 50)).astype(np.float16)
    ordered = np.sort(values.astype(np.float64).ravel())
    lowest, highest = np.interp([0.005 * 9999, 0.995 * 9999], np.arange(10_000), ordered)
    shown = show(values, FIELD)
    assert shown.bar is not None
    assert (shown.bar.lowest, shown.bar.highest) == pytest.approx((lowest, highest), rel=1e-6)
    assert shown.bar.beyond == (True, True)
    assert shown.bar.title == "rain (mm/h)"
    assert near(shown.pictures, coloured(values, "viridis", lowest, highest))
    assert shown.pictures[values[:, 0] > highest].tolist() == [[253, 231, 37]] * 50  # the last of viridis as published
    assert np.asarray(grid(values, 4, metadata=FIELD))[0, 0].tolist() == shown.pictures[0, 0, 0].tolist()


def test_two_signs_in_earnest_diverge_from_0() -> None:
    """The range becomes even about 0; from a fifth of the longer side on the shorter one counts."""
    values = np.linspace(-1, 4, 1001, dtype=np.float32).reshape(1, 1, 7, 143)
    shown = show(values, FIELD, Display(percentiles=(0, 100)))
    assert shown.bar is not None
    assert (shown.bar.lowest, shown.bar.highest) == (-4, 4)
    assert near(shown.pictures, coloured(values, "RdBu_r", -4, 4))
    at_zero = shown.pictures[0].reshape(-1, 3)[200]
    assert at_zero.min() > 235
    assert TwoSlopeNorm(0, -4, 4)(values.ravel()[200]) == pytest.approx(0.5, abs=1e-6)
    for nearer, expected in ((-0.79, 0), (-0.81, -4)):
        bar = show(values, FIELD, Display(range=(nearer, 4))).bar
        assert bar is not None
        assert bar.lowest == (nearer if expected == 0 else expected)


def test_colours_can_be_chosen_and_radiology_is_grey() -> None:
    values = np.linspace(-1000, 1000, 400).reshape(1, 1, 20, 20).astype(np.int16)
    for known, display in ((FIELD, Display(colours="grey")), (Metadata("dicom", units="HU"), Display())):
        pictures = show(values, known, display).pictures
        assert (pictures == pictures[..., :1]).all()
        assert np.ptp(pictures) == 255
    assert near(show(values, FIELD, Display((), (0, 100), None, "sequential")).pictures, coloured(values, "viridis", -1000, 1000))
    assert show(np.abs(values), FIELD, Display(range=(0, 10), colours="diverging")).bar.lowest == -10  # type: ignore[union-attr]
    assert show(values.astype(np.uint8), Metadata(photographs=True), Display(colours="sequential")).bar is not None


def test_range_is_the_given_or_the_seen_one() -> None:
    values = np.linspace(0, 1, 100, dtype=np.float32).reshape(1, 1, 10, 10)
    assert grid(values, 1, metadata=FIELD, seen=[(0, 8)]) == grid(values, 1, metadata=FIELD, display=Display(range=(0, 8)))
    again = show(values, FIELD, Display(percentiles=(0, 50)), seen=[(0, 8)]).bar
    assert again is not None
    assert again.highest == pytest.approx(0.5)
    constant = show(values * 0 + 3, FIELD).bar
    assert constant is not None
    assert (constant.lowest, constant.highest) == (3, 4)


@pytest.mark.parametrize("nodata", [-9999.0, float("nan")])
def test_what_was_not_measured_is_grey(nodata: float) -> None:
    """It stretches nothing, and the title says what the grey is; 0 and infinity keep their colours."""
    values = np.linspace(0, 1, 100, dtype=np.float32).reshape(1, 1, 10, 10)
    holes = values.copy()
    holes[0, 0, 3, :4], holes[0, 0, 9, 9] = nodata, np.inf
    shown = show(holes, replace(FIELD, nodata=nodata), Display(percentiles=(0, 100)))
    assert (shown.pictures[0, 3, :4] == 150).all()
    assert shown.pictures[0, 9, 9].tolist() == [253, 231, 37]
    assert shown.bar is not None
    assert shown.bar.title == "rain (mm/h); grey: not measured"
    assert shown.bar.highest == pytest.approx(98 / 99)
    assert not (show(values, FIELD).pictures == 150).all(-1).any()
    three = np.repeat(values, 3, axis=1)
    three[0, 1, 5, 5] = nodata
    assert show(three, replace(FIELD, nodata=nodata)).pictures[0, 5, 5].tolist() == [150] * 3


def test_three_channels_are_stretched_each_on_its_own() -> None:
    values = np.random.default_rng(2).normal(size=(2, 7, 20, 20))
    scaled = values * np.array([1, 1000, 1, 1, 0.01, 1, 50]).reshape(7, 1, 1) + 7
    chosen = Display((6, 1, 4))
    pictures = show(values, FIELD, chosen).pictures
    assert np.abs(pictures.astype(int) - show(scaled, FIELD, chosen).pictures).max() <= 1
    assert show(values, FIELD, chosen).bar is None
    for place, channel in enumerate(chosen.channels):
        alone = show(values, FIELD, Display((channel,), colours="grey")).pictures[..., 0]
        assert np.array_equal(pictures[..., place], alone)
    named = Metadata(channels=("blue", "green", "red", "nir", "a", "b", "c"))
    assert np.array_equal(show(values, named).pictures, show(values, FIELD, Display((2, 1, 0))).pictures)
    assert np.array_equal(show(values[:, :3], FIELD).pictures, show(values, FIELD, Display((0, 1, 2))).pictures)


@pytest.mark.parametrize("channels", [2, 4, 7])
def test_of_other_channels_the_first_is_shown(channels: int) -> None:
    values = np.random.default_rng(2).integers(0, 255, (2, channels, 9, 6), np.uint8)
    known = Metadata("npy", channels=tuple("abcdefg"[:channels]))
    shown = show(values, known)
    assert shown.bar is not None
    assert shown.bar.title == "a"
    assert np.array_equal(shown.pictures, show(values[:, :1], Metadata(units="K")).pictures)
    assert show(values, Metadata(), Display((1,))).bar.title == f"channel 1 of {channels}"  # type: ignore[union-attr]


def test_a_grid_shows_every_variable_by_itself_with_its_units() -> None:
    known = Metadata("netcdf", "t,u,rain", channels=("t", "u", "rain"), channel_units=("K", "m/s", "mm/h"))
    values = np.random.default_rng(3).normal(size=(4, 3, 16, 16)) + np.array([280, 0, 5]).reshape(3, 1, 1)
    shown = panels(values, known)
    assert [each.bar.title for each in shown if each.bar] == ["t (K)", "u (m/s)", "rain (mm/h)"]
    for channel, each in enumerate(shown):
        assert np.array_equal(each.pictures, show(values, known, Display((channel,))).pictures)
    alone = [grid(values, 2, metadata=known, display=Display((channel,))) for channel in range(3)]
    together = grid(values, 2, metadata=known)
    assert together.height > sum(picture.height for picture in alone)
    assert np.array_equal(np.asarray(together)[: alone[0].height], np.asarray(alone[0]))
    assert len(panels(values, Metadata())) == 1  # three without names are colours
    assert len(panels(np.repeat(values, 3, axis=1), Metadata())) == 1  # too many


def test_bar_says_which_value_a_colour_stands_for() -> None:
    """Below the grid: every colour in order, and the tick of 0 under the middle."""
    values = np.linspace(-3, 3, 64 * 64, dtype=np.float32).reshape(1, 1, 64, 64)
    picture = grid(values, 1, metadata=FIELD, display=Display(range=(-3, 3)))
    assert picture.mode == "RGB"
    assert picture.width == 64 * 15
    assert picture.height > 64 * 15 + 40
    below = np.asarray(picture)[64 * 15 :]
    line = below[12]
    table = np.floor(matplotlib.colormaps["RdBu_r"](np.arange(256))[:, :3] * 255 + 0.5).tolist()
    places = [table.index(colour) for colour in line.tolist() if colour in table]
    assert places == sorted(places)
    assert set(places) == set(range(256))
    ticks = np.flatnonzero((below[8 + 14 + 2] == 0).all(-1))  # the marks reach from the bar to the numbers
    assert len(ticks) % 2 == 1
    assert abs(ticks[len(ticks) // 2] - (picture.width - 1) / 2) <= 1
    assert np.ptp(np.diff(ticks)) <= 1
    bar = np.flatnonzero([colour in table for colour in line.tolist()])
    assert (bar[-1] - bar[0]) == pytest.approx(ticks[-1] - ticks[0], abs=2)  # -3 and 3 are marked at the ends


def test_small_pictures_leave_room_for_the_bar() -> None:
    picture = grid(np.full((1, 1, 2, 2), 273.15), 1, metadata=Metadata(units="K"))
    assert 200 <= picture.width <= 300
    pixels = np.asarray(picture)
    assert (pixels[:64, :64] == [68, 1, 84]).all()  # the first of viridis as published
    assert (pixels[:64, 64:] == 255).all()


def test_display_says_what_is_wrong() -> None:
    values = np.zeros((1, 2, 4, 4), np.float32)
    for setting, wrong in (
        ("channels", lambda: grid(values, 1, metadata=FIELD, display=Display((2,)))),
        ("channels", lambda: Display((0, 1))),
        ("percentiles", lambda: Display(percentiles=(99, 1))),
        ("range", lambda: Display(range=(1, 1))),
        ("colours", lambda: Display((0, 1, 2), colours="grey")),
    ):
        with pytest.raises(UserError) as caught:
            wrong()
        assert caught.value.setting == f"display.{setting}"
    with pytest.raises(ValueError, match="for 1 channels, but the images have 2"):
        grid(values, 1, metadata=FIELD, seen=[(0, 1)])


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (8, 3), (90, 4), (1, 1)])
def test_labels_stand_below_images_and_cover_none(side: int, channels: int) -> None:
    """Every image has the pixels that it has without labels; below it are letters, within its own width."""
    images = np.random.default_rng(0).integers(0, 255, (30, channels, side, side), np.uint8)
    labels = [f"seed {number}\na class of a long name {number}" for number in range(29)] + ["\n"]
    plain, shown = (np.asarray(grid(images, 10, labels=each).convert("RGB")) for each in (None, labels))
    edge, across = ((picture.shape[1] + 2) // 10 for picture in (plain, shown))
    down = (shown.shape[0] + 2) // 3
    tile = edge - 2
    assert across == max(tile, 48) + 2
    assert down >= tile + 2 + 2 * 11
    for place in range(30):
        row, column = divmod(place, 10)
        cell = shown[row * down : (row + 1) * down, column * across : (column + 1) * across]
        image = plain[row * edge :, column * edge :][:tile, :tile]
        assert np.array_equal(cell[:tile, :tile], image)
        assert (cell[tile:].min() < 100) == (place < 29)
        assert (cell[:, across - 2 :] == 255).all()
        assert (cell[:tile, tile:] == 255).all()


def test_a_grid_takes_a_label_for_every_image() -> None:
    with pytest.raises(UserError):
        grid(ramp("uint8", count=3), 3, labels=["a", "b"])
