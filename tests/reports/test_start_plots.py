"""Start samples beside noised images: every shape of image has its picture, to one range, under readable names."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pixelpath.reports.start_plots import LETTERS, ROOM, shown, side_by_side


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 6, 4), (3, 4, 6), (4, 8, 8), (7, 5, 9), (3, 130, 140), (1, 1, 1), (1, 4, 1)])
@pytest.mark.parametrize("count", [1, 30])
def test_four_rows_of_images(shape: tuple[int, int, int], count: int) -> None:
    source = torch.Generator().manual_seed(0)
    first, second, third, fourth = (torch.randn(count, *shape, generator=source) for _ in range(4))
    picture = side_by_side(first, second, *(each.mul(50).add(128).clamp(0, 255).byte() for each in (third, fourth)))
    across = min(count, shown(shape))
    assert 3 <= shown(shape) <= 12
    assert picture.mode == "RGB"
    assert picture.width <= 1000 + 4 * 12
    height = picture.height // 4 - ROOM
    assert picture.height == 4 * (height + ROOM)
    assert height / shape[1] == pytest.approx((picture.width / across) / shape[2], rel=0.15) or picture.width < 300
    assert all(
        (np.asarray(picture.crop((0, top, 200, top + ROOM))) == 0).any() for top in range(0, picture.height, height + ROOM)
    )


def test_noisy_rows_share_a_range_about_zero() -> None:
    """Held-out values reach from -2 to 2, so 0 is the middle grey, 1 three quarters, and a start that is too wide is cut off."""
    truth = torch.linspace(-2, 2, 64).view(1, 1, 8, 8)
    end = float(np.percentile(truth.numpy(), 99.5))
    levels = torch.tensor([-9.0, 0.0, end / 2, 9.0]).view(1, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    picture = side_by_side(truth, levels, (10 * truth + 100).byte(), (10 * levels + 100).byte())
    side = picture.height // 4 - ROOM
    top = side + 2 * ROOM
    pixels = np.asarray(picture)
    cells = [pixels[top + side * y // 4, side * x // 4, 0] for y in (1, 3) for x in (1, 3)]
    assert cells == [0, 128, 191, 255]


def test_names_are_readable() -> None:
    image = torch.zeros(1, 1, 2, 2)
    picture = side_by_side(image, image, image.byte(), image.byte())
    dark = np.asarray(picture.convert("L"))[:ROOM] < 128
    assert LETTERS / 2 < np.ptp(np.flatnonzero(dark.any(1))) < ROOM - 6


@pytest.mark.parametrize("values", [2, 5])
def test_points_are_places(values: int) -> None:
    points = torch.randn(700, 1, 1, values)
    picture = side_by_side(points, points * 3, points * 10, points * 10)
    assert shown((1, 1, values)) == 600
    pixels = {tuple(pixel) for pixel in np.asarray(picture).reshape(-1, 3)[::7].tolist()}
    assert picture.width == 1440
    assert len(pixels) > 50  # marks that lie over one another


def test_rows_that_go_north_are_drawn_from_below() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(3, 1, 1, 1)
    images = (image, -image, (10 * image).byte(), (8 * image).byte())
    turned = side_by_side(*images, south_up=True)
    flipped = side_by_side(*(each.flip(2) for each in images))
    assert np.array_equal(np.asarray(turned), np.asarray(flipped))
    assert not np.array_equal(np.asarray(turned), np.asarray(side_by_side(*images)))
