"""What views show of their image, measured on images whose answer is known: ramps, impulses, flat colours."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import kornia.enhance
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from tests.refusal import refused
from torch import Tensor

from pixelpath import randomness
from pixelpath.data.augment import DIGITS, LUMA, PHOTOGRAPHS, SINGLE_CHANNEL, SMALL, Augmentation, augment
from pixelpath.data.normalise.normaliser import IMAGENET, Normaliser
from pixelpath.types import Batch

NOTHING = Augmentation(
    crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0, jitter=0.0, gray=0.0, blur=(0.0, 0.0), solarise=(0.0, 0.0)
)
UNIT = Normaliser((0.0,) * 3, (127.5,) * 3)  # model range is the unit range
COUNT = 2000


def batch(images: Tensor, seed: int = 0) -> Batch:
    seeds = tuple(randomness.seed_of(seed, 0, position) for position in range(len(images)))
    return Batch(images, torch.zeros(len(images), dtype=torch.int64), seeds, randomness.seed_of(seed, 0))


def pictures(count: int = 16, channels: int = 3, rows: int = 12, columns: int = 10) -> Tensor:
    return torch.rand(count, channels, rows, columns)


def both(images: Tensor, augmentation: Augmentation, normaliser: Normaliser = UNIT) -> tuple[Tensor, Tensor]:
    views = augment(batch(images), augmentation, normaliser)
    assert views.images is images
    return views.first, views.second


def ramps(count: int, rows: int, columns: int) -> Tensor:
    """Channel 0 holds every pixel's distance from the left side, channel 1 from the top: bilinear sampling keeps them."""
    across = (torch.arange(columns) + 0.5).expand(rows, columns)
    down = (torch.arange(rows) + 0.5)[:, None].expand(rows, columns)
    return torch.stack([across, down, across]).repeat(count, 1, 1, 1)


def steps(view: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How far (across, down) in the image one pixel to the right in the view goes, and one pixel down, at the view's centre."""
    row, column = view.shape[2] // 2, view.shape[3] // 2
    right = view[..., row, column] - view[..., row, column - 1]
    below = view[..., row, column] - view[..., row - 1, column]
    return right[:, 0], right[:, 1], below[:, 0], below[:, 1]


FLOATS = Normaliser((0.0,) * 3, (0.5,) * 3, "float32")


def test_no_augmentation_is_the_identity() -> None:
    images = pictures()
    for view in both(images, NOTHING):
        assert torch.equal(view, images)


def test_flips_mirror_exactly_and_as_often_as_asked() -> None:
    images = pictures(COUNT, 3, 4, 6)
    for view in both(images, replace(NOTHING, flip=0.3)):
        mirrored = (view - images.flip(-1)).abs().amax((1, 2, 3)) < 1e-5
        untouched = (view - images).abs().amax((1, 2, 3)) < 1e-5
        assert (mirrored ^ untouched).all()
        assert abs(mirrored.float().mean() - 0.3) < 4 * (0.3 * 0.7 / COUNT) ** 0.5


@pytest.mark.parametrize(("rows", "columns"), [(24, 24), (16, 32)])
def test_crops_cover_the_area_and_ratio_asked_for(rows: int, columns: int) -> None:
    augmentation = replace(NOTHING, crop_scale=(0.1, 0.5), crop_ratio=(0.8, 1.6))
    for view in both(ramps(COUNT, rows, columns), augmentation, FLOATS):
        across, skew, other_skew, down = steps(view)
        torch.testing.assert_close(skew, torch.zeros_like(skew), atol=1e-4, rtol=0)
        torch.testing.assert_close(other_skew, torch.zeros_like(skew), atol=1e-4, rtol=0)
        area, ratio = across * down, across / down
        whole = (across < 0.999) & (down < 0.999)  # a side that would leave the image is cut to it
        assert whole.float().mean() > 0.8
        assert (area <= 0.5 + 1e-3).all()
        assert (area[whole] >= 0.1 - 1e-3).all()
        assert ((ratio[whole] >= 0.8 - 1e-3) & (ratio[whole] <= 1.6 + 1e-3)).all()
        assert abs(area.mean() - 0.3) < 4 * 0.4 / 12**0.5 / COUNT**0.5 + 0.002
        assert abs(ratio.log().mean() - math.log(0.8 * 1.6) / 2) < 4 * math.log(2) / 12**0.5 / COUNT**0.5 + 0.002
        centre = view[:, :2, rows // 2 - 1 : rows // 2 + 1, columns // 2 - 1 : columns // 2 + 1].mean((2, 3))
        room = torch.stack([(1 - across) * columns, (1 - down) * rows], 1)
        place = (centre - (torch.tensor([columns, rows]) - room) / 2) / room  # 0 at one end of the free room, 1 at the other
        assert ((place > -1e-3) & (place < 1 + 1e-3))[whole].all()
        assert place[whole].amin(0).max() < 0.005
        assert place[whole].amax(0).min() > 0.995
        assert (place[whole].mean(0) - 0.5).abs().max() < 4 / 12**0.5 / whole.sum() ** 0.5
        assert place[whole].std(0) == pytest.approx(12**-0.5, rel=0.05)


@pytest.mark.parametrize(("rows", "columns"), [(24, 24), (16, 32)])
def test_rotation_keeps_shapes(rows: int, columns: int) -> None:
    """On ramps the view's steps form the rotation matrix itself, in pixels, for images that are not square too."""
    for view in both(ramps(COUNT, rows, columns), replace(NOTHING, rotation=20.0), FLOATS):
        across, down, other, below = steps(view)
        torch.testing.assert_close(across**2 + down**2, torch.ones(COUNT), atol=1e-3, rtol=0)
        torch.testing.assert_close(torch.stack([across, down]), torch.stack([below, -other]), atol=1e-3, rtol=0)
        angle = torch.rad2deg(torch.atan2(down, across))
        assert angle.abs().max() <= 20.05
        assert angle.std() == pytest.approx(40 / 12**0.5, rel=0.05)


def test_nothing_from_outside_the_image_comes_in() -> None:
    flat = torch.full((64, 3, 16, 16), 0.7)
    for view in both(flat, replace(NOTHING, rotation=45.0, flip=0.5, crop_scale=(0.5, 1.0))):
        torch.testing.assert_close(view, flat)


def only(**changes: float) -> Augmentation:
    strengths = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0} | changes
    return replace(NOTHING, jitter=1.0, **strengths)


def test_brightness_multiplies() -> None:
    images = pictures(COUNT, 3, 2, 2) * 0.6
    for view in both(images, only(brightness=0.4)):
        factor = view[:, 0, 0, 0] / images[:, 0, 0, 0]
        torch.testing.assert_close(view, images * factor[:, None, None, None], atol=1e-5, rtol=1e-4)
        assert factor.min() > 0.6 - 1e-3
        assert factor.max() < 1.4 + 1e-3
        assert factor.std() == pytest.approx(0.8 / 12**0.5, rel=0.05)
        assert factor.mean() == pytest.approx(1, abs=0.02)


def test_contrast_and_saturation_agree_with_kornia() -> None:
    """The factor is read from one pixel; kornia's function must then give all others."""
    images = 0.4 + 0.2 * pictures(COUNT, 3, 4, 4)
    luma = (images * torch.tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    mean = luma.mean((2, 3), keepdim=True)
    references = {
        "contrast": (mean.expand_as(images), kornia.enhance.adjust_contrast_with_mean_subtraction),
        "saturation": (luma.expand_as(images), kornia.enhance.adjust_saturation_with_gray_subtraction),
    }
    for name, (middle, reference) in references.items():
        for view in both(images, only(**{name: 0.3})):
            where = (images - middle).abs().flatten(1).argmax(1, keepdim=True)
            factor = ((view - middle).flatten(1).gather(1, where) / (images - middle).flatten(1).gather(1, where)).squeeze(1)
            torch.testing.assert_close(view, reference(images, factor), atol=1e-5, rtol=1e-4)
            assert factor.std() == pytest.approx(0.6 / 12**0.5, rel=0.05), name


def test_hue_turns_as_in_kornia() -> None:
    images = pictures(COUNT, 3, 3, 3)
    images[:, :, 0, 0] = torch.tensor([1.0, 0.0, 0.0])  # pure red: its new hue is the turn
    images[:, :, 1, 1] = 0.5  # gray has none and stays
    images[:, :, 2, 2] = 0.0
    for view in both(images, only(hue=0.1)):
        red, green, blue = view[:, :, 0, 0].unbind(1)
        rot90 = torch.where(green > 0, green, -blue) / 6
        torch.testing.assert_close(red, torch.ones(COUNT), atol=1e-5, rtol=0)
        torch.testing.assert_close(view, kornia.enhance.adjust_hue(images, rot90 * 2 * math.pi), atol=2e-5, rtol=0)
        assert rot90.abs().max() < 0.1 + 1e-5
        assert rot90.std() == pytest.approx(0.2 / 12**0.5, rel=0.05)


def test_gray_is_the_luma_and_as_often_as_asked() -> None:
    images = pictures(COUNT)
    luma = 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
    for view in both(images, replace(NOTHING, gray=0.2)):
        gray = (view - luma[:, None]).abs().amax((1, 2, 3)) < 1e-5
        assert torch.allclose(view[~gray], images[~gray], atol=1e-6)
        assert abs(gray.float().mean() - 0.2) < 4 * (0.2 * 0.8 / COUNT) ** 0.5


def test_blur_agrees_with_scipy() -> None:
    """Deviations of 0.5 to 1.5 pixels reach 5 pixels far; of two views only the first is blurred."""
    images = pictures(32, 2, 14, 12)
    normaliser = Normaliser((0.0,) * 2, (0.5,) * 2, "float32")
    first, second = both(images, replace(NOTHING, blur=(1.0, 0.0), blur_sigma=(0.5, 1.5)), normaliser)
    assert torch.equal(second, images)
    impulses = torch.zeros(32, 2, 21, 21)
    impulses[:, :, 10, 10] = 1
    spread, _ = both(impulses, replace(NOTHING, blur=(1.0, 0.0), blur_sigma=(0.5, 1.5)), normaliser)
    # of a sampled Gaussian, the ratio of the two highest taps is exp(-1 / (2 sigma^2))
    sigma = (-0.5 / (spread[:, 0, 10, 11] / spread[:, 0, 10, 10]).log()).sqrt()
    assert sigma.min() > 0.499
    assert sigma.max() < 1.501
    assert sigma.std() > 0.2
    for image, view, std in zip(images.numpy(), first, sigma.tolist(), strict=True):
        expected = gaussian_filter(image, (0, std, std), mode="mirror", radius=(0, 5, 5))
        np.testing.assert_allclose(view, expected, atol=2e-5)


def test_the_deviation_of_a_blur_is_in_pixels() -> None:
    impulse = torch.zeros(1, 3, 33, 33)
    impulse[:, :, 16, 16] = 1
    view, _ = both(impulse, replace(NOTHING, blur=(1.0, 1.0), blur_sigma=(2.0, 2.0)))
    taps = torch.exp(-(torch.arange(-6.0, 7.0) ** 2) / 8)
    taps = taps / taps.sum()
    torch.testing.assert_close(view[0, 0, 10:23, 10:23], torch.outer(taps, taps), atol=1e-7, rtol=1e-4)


def test_blur_of_an_image_smaller_than_its_reach() -> None:
    flat = torch.full((4, 3, 4, 3), 0.25)
    torch.testing.assert_close(both(flat, replace(NOTHING, blur=(1.0, 1.0)))[0], flat)


def test_blur_and_solarise_have_probabilities_by_view() -> None:
    images = pictures(COUNT, 3, 6, 6)
    inverted = torch.where(images >= 0.5, 1 - images, images)
    views = both(images, replace(NOTHING, solarise=(0.05, 0.2)))
    for view, chance in zip(views, (0.05, 0.2), strict=True):
        chosen = (view - inverted).abs().amax((1, 2, 3)) < 1e-5
        assert torch.allclose(view[~chosen], images[~chosen], atol=1e-6)
        assert abs(chosen.float().mean() - chance) < 4 * (chance * (1 - chance) / COUNT) ** 0.5
    for view, chance in zip(both(images, replace(NOTHING, blur=(0.5, 0.1))), (0.5, 0.1), strict=True):
        blurred = (view - images).abs().amax((1, 2, 3)) > 1e-6
        assert abs(blurred.float().mean() - chance) < 4 * (chance * (1 - chance) / COUNT) ** 0.5 + 0.01


def test_a_view_depends_on_its_own_seed_alone() -> None:
    images = IMAGENET.encode((pictures(8, 3, 16, 16) * 255).to(torch.uint8))
    whole = batch(images)
    views = augment(whole, PHOTOGRAPHS, IMAGENET)
    part = augment(Batch(images[5:], whole.labels[5:], whole.seeds[5:], whole.seed), PHOTOGRAPHS, IMAGENET)
    torch.testing.assert_close(part.first, views.first[5:], atol=1e-6, rtol=0)
    torch.testing.assert_close(part.second, views.second[5:], atol=1e-6, rtol=0)
    assert (part.seeds, part.seed) == (whole.seeds[5:], whole.seed)
    assert (views.first - views.second).abs().mean() > 0.1
    other = augment(batch(images, seed=1), PHOTOGRAPHS, IMAGENET)
    assert (views.first - other.first).abs().mean() > 0.1


def test_views_know_nothing_of_each_other_or_of_the_noise() -> None:
    images = torch.full((COUNT, 3, 1, 1), 0.5)
    first, second = (view[:, 0, 0, 0] for view in both(images, only(brightness=0.4)))
    draws = randomness.normal(randomness.Streams(batch(images).seeds), ())
    correlations = torch.corrcoef(torch.stack([first, second, draws])) - torch.eye(3)
    assert correlations.abs().max() < 4 / COUNT**0.5


def test_alpha_is_moved_but_not_coloured() -> None:
    normaliser = Normaliser((0.0,) * 4, (127.5,) * 4)
    images = pictures(64, 4, 8, 8)
    colours = replace(PHOTOGRAPHS, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0, blur=(0.0, 0.0), solarise=(0.5, 0.5))
    first, second = both(images, colours, normaliser)
    torch.testing.assert_close(first[:, 3], images[:, 3])
    torch.testing.assert_close(second[:, 3], images[:, 3])
    opaque, _ = both(images[:, :3].contiguous(), colours)
    torch.testing.assert_close(first[:, :3], opaque)
    moved, _ = both(images, replace(NOTHING, flip=1.0), normaliser)
    torch.testing.assert_close(moved, images.flip(-1), atol=1e-5, rtol=0)


def test_data_without_a_unit_range_keeps_its_values() -> None:
    images = torch.full((16, 3, 8, 8), 40.0)
    for view in both(images, PHOTOGRAPHS, FLOATS):
        torch.testing.assert_close(view, images)


@pytest.mark.parametrize(
    ("augmentation", "channels"), [(PHOTOGRAPHS, 3), (SMALL, 3), (SMALL, 4), (SINGLE_CHANNEL, 1), (DIGITS, 1), (PHOTOGRAPHS, 2)]
)
def test_views_stay_inside_what_the_dtype_can_hold(augmentation: Augmentation, channels: int) -> None:
    normaliser = Normaliser((90.0,) * channels, (60.0,) * channels)
    native = torch.randint(0, 256, (64, channels, 8, 8), dtype=torch.uint8)
    ends = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, channels, 1, 1)
    lowest, highest = normaliser.encode(ends)
    for view in both(normaliser.encode(native), augmentation, normaliser):
        assert view.isfinite().all()
        assert (view >= lowest - 1e-5).all()
        assert (view <= highest + 1e-5).all()


def test_the_recipes() -> None:
    """The reference's strengths, and what the others leave out."""
    reference = Augmentation(
        crop_scale=(0.08, 1.0),
        crop_ratio=(0.75, 4 / 3),
        rotation=0.0,
        flip=0.5,
        jitter=0.8,
        brightness=0.4,
        contrast=0.4,
        saturation=0.2,
        hue=0.1,
        gray=0.2,
        blur=(1.0, 0.1),
        blur_sigma=(0.1, 2.0),
        solarise=(0.0, 0.2),
    )
    assert reference == PHOTOGRAPHS
    assert (SMALL.crop_scale, SMALL.blur) == ((0.2, 1.0), (0.0, 0.0))
    assert DIGITS.flip == 0
    for augmentation in (SINGLE_CHANNEL, DIGITS):
        assert (augmentation.saturation, augmentation.hue, augmentation.gray) == (0, 0, 0)


def test_wrong_strengths_are_answered_with_a_sentence() -> None:
    for name, value, facts in [
        ("flip", 1.5, ["1.5"]),
        ("flip", math.nan, ["nan"]),
        ("blur", (0.0, -0.1), ["-0.1", "at most 1"]),
        ("crop_scale", (0.5, 1.2), ["1.2", "at most 1"]),
        ("crop_scale", (0.0, 1.0), ["above 0"]),
        ("crop_ratio", (2.0, 0.5), ["2 0.5"]),
        ("blur_sigma", (2.0, 1.0), ["2 1"]),
        ("hue", 0.6, ["0.6", "at most 0.5"]),
        ("brightness", -0.1, ["-0.1"]),
        ("rotation", -5.0, ["-5"]),
    ]:
        changed: dict[str, Any] = {name: value}
        with refused(f"augmentation.{name}", *facts):
            replace(PHOTOGRAPHS, **changed)
