"""What is decided from the data, and how a budget is spent: functions of data, seconds a step, and minutes."""

import math
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.pictures import write

from pixelpath.data.settings import DataSettings
from pixelpath.errors import UserError
from pixelpath.objectives.distillation import Distillation
from pixelpath.recipes import cpu_32_diffusion, digits_diffusion, sizes
from pixelpath.runs.fitting.choosing import Chosen, chosen_for
from pixelpath.runs.fitting.planning import (
    DIFFUSION,
    MEASURED,
    enough,
    judges_of,
    lines,
    one_step_recipe,
    planned,
    repaid,
    seen,
    showable,
    steps_in,
    tuning_of,
    variants,
)

CPU = torch.device("cpu")
NUMBERS = np.random.default_rng(0)
SPRITES = Chosen(cpu_32_diffusion(), "3249 images, 4x32x32 uint8, 6 classes.", 3249, 408, 6, (), (4, 32, 32))


def decided(path: Path, settings: DataSettings | None = None) -> Chosen:
    return chosen_for(replace(settings or DataSettings(), path=path), CPU)


def test_photographs_of_mixed_sizes_are_resized_to_64(tmp_path: Path) -> None:
    for number in range(60):
        rows, columns = (96, 144) if number % 3 else (144, 96)
        write(tmp_path / "photos" / f"{number:03d}.jpg", NUMBERS.integers(0, 256, (rows, columns, 3), np.uint8))
    found = decided(tmp_path / "photos")
    assert (found.recipe.name, found.recipe.patch) == ("cpu-64-diffusion", 8)
    assert found.recipe.data.resize == (64, 64)
    assert any("several sizes" in reason and "64x64" in reason for reason in found.reasons)


def test_sprites_with_transparency_are_premultiplied(tmp_path: Path) -> None:
    for number in range(60):
        write(tmp_path / "sprites" / f"{number:03d}.png", NUMBERS.integers(0, 256, (32, 32, 4), np.uint8))
    found = decided(tmp_path / "sprites")
    assert (found.recipe.name, found.recipe.patch) == ("cpu-32-diffusion", 4)
    assert (found.recipe.data.alpha, found.recipe.data.resize) == ("premultiplied", None)
    asked = decided(tmp_path / "sprites", DataSettings(resize=(16, 16)))
    assert asked.recipe.data.resize == (16, 16)


def test_a_ct_series_is_resized_and_its_last_slices_held_out(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    from tests.data.formats.test_dicom import scan

    across, down = np.meshgrid(np.arange(96), np.arange(96))
    for number in range(80):
        disc = np.hypot(across - 20 - number / 2, down - 40) < 12 + number / 8
        slice_ = (1000 + 300 * disc + NUMBERS.normal(0, 5, (96, 96))).astype(np.uint16)
        scan(tmp_path / "ct" / f"{number:03d}.dcm", slice_, InstanceNumber=number, ImagePositionPatient=[0, 0, float(number)])
    found = decided(tmp_path / "ct")
    assert (found.recipe.name, found.recipe.data.resize) == ("cpu-64-diffusion", (64, 64))
    assert found.recipe.data.held_out_by == "order"


def test_a_field_with_a_land_mask_keeps_it(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    sea = NUMBERS.normal(15, 3, (60, 40, 48)).astype(np.float32)
    sea[:, :10, :20] = np.nan
    xarray.Dataset({"sst": (("time", "y", "x"), sea, {"units": "degC"})}).to_netcdf(tmp_path / "sea.nc", engine="scipy")
    found = decided(Path(f"{tmp_path / 'sea.nc'}::sst"))
    assert (found.recipe.name, found.recipe.data.resize) == ("cpu-32-diffusion", None)
    assert found.recipe.data.nodata is None or math.isnan(found.recipe.data.nodata)


def test_scenes_of_16_bits_are_cut_into_tiles(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    (tmp_path / "scenes").mkdir()
    for number in range(3):
        scene = NUMBERS.integers(0, 4096, (330, 400)).astype(np.uint16)
        tifffile.imwrite(tmp_path / "scenes" / f"{number}.tif", scene, photometric="minisblack")
    found = decided(tmp_path / "scenes")
    assert (found.recipe.data.tile, found.recipe.name) == ((64, 64), "cpu-64-diffusion")
    assert found.training + found.held_out == 3 * 6 * 7  # the last tiles of a row and column overlap


def test_what_cannot_be_trained_on_stops_in_one_sentence(tmp_path: Path) -> None:
    np.save(tmp_path / "same.npy", np.full((40, 1, 8, 8), 7, np.uint8))
    np.save(tmp_path / "far.npy", np.where(NUMBERS.random((40, 1, 8, 8)) < 0.01, np.inf, 1.0).astype(np.float32))
    for name, words in (("same", "only one value"), ("far", "infinite")):
        with pytest.raises(UserError, match=words) as caught:
            decided(tmp_path / f"{name}.npy")
        assert caught.value.setting == "data"


def test_a_plan_uses_what_is_left() -> None:
    for left in (30.0, 180.0, 3600.0, 86_400.0):
        plan = planned(SPRITES, 0.1, left, one_step=False)
        assert plan.training + plan.tuning + plan.evaluation == pytest.approx(left)
        assert plan.training >= left / 2
        assert plan.training - MEASURED * plan.step < MEASURED * plan.step * plan.steps <= plan.training


def test_a_longer_budget_is_tuned_and_judged_by_more_samples() -> None:
    short, hour, day = (planned(SPRITES, 0.1, left, one_step=False) for left in (180.0, 3600.0, 86_400.0))
    assert 50 <= short.tuned < hour.tuned <= day.tuned == 1000
    assert short.judged < hour.judged <= day.judged == 3249
    assert (short.light, hour.light) == (("tuning", "evaluation"), ())
    assert short.tuning + short.evaluation <= 0.21 * 180
    assert hour.tuning <= 360
    assert hour.evaluation <= 1.1 * 360
    assert planned(SPRITES, 0.2, 3600.0, one_step=False).steps < 0.6 * hour.steps


def test_a_light_plan_counts_what_a_light_tuning_and_evaluation_ask_of_the_network() -> None:
    """Guided, 6 and 12 evaluations: 3 ways and 3 fresh sets of 79 samples; 64 samples and more, 32 losses at 10 levels twice."""
    plan, evaluation = planned(SPRITES, 0.1, 180.0, one_step=False), 0.1 / 96
    assert plan.tuning == pytest.approx(plan.tuned * 6 * 36 * evaluation)
    assert plan.evaluation == pytest.approx(5 + (24 * (plan.shown + plan.judged) + 640) * evaluation)
    how = tuning_of(SPRITES, 120, light=True)
    assert (how.nfe, how.count, how.learned, how.use_own, how.controls) == ((6, 12), 120, False, False, False)


def test_an_evaluation_becomes_smaller_before_it_is_left_out() -> None:
    """Of a step of 4 s 20 samples and 640 losses take 47 s; of 8 s 16 samples and 80 losses 39 s; of 24 s too much."""
    slow = planned(SPRITES, 4.0, 300.0, one_step=False)
    assert (slow.judged, slow.tuned, slow.light) == (20, 0, ("evaluation",))
    assert judges_of(20, light=True).losses == 32
    slower = planned(SPRITES, 8.0, 300.0, one_step=False)
    assert (slower.shown, slower.judged, slower.light) == (16, 16, ("evaluation",))
    assert judges_of(16, light=True).losses == 4
    plan = planned(SPRITES, 24.0, 300.0, one_step=False)
    assert (plan.judged, plan.tuned) == (0, 0)
    assert any("evaluation" in line for line in lines(plan, SPRITES, datetime(2026, 1, 1), 0.0, "cpu", Path("out"))[3:4])


def test_fewer_samples_are_saved_where_the_time_is_short() -> None:
    """A sample takes 24 evaluations of 0.1 / 96 s: 40 of them take a second."""
    assert [showable(SPRITES, 0.1, left, (DIFFUSION,)) for left in (9.0, 1.001, 0.1, -3.0)] == [64, 40, 16, 16]


def test_sizes_follow_the_number_of_images_and_patches_the_tokens_that_are_left() -> None:
    recipe = cpu_32_diffusion()
    assert [(each.size, each.patch) for each in variants(recipe, (4, 32, 32), 3249)] == [(sizes.NANO, 4), (sizes.NANO, 8)]
    many = [(each.size, each.patch) for each in variants(recipe, (3, 28, 28), 60_000)]
    assert many == [(sizes.SMALL, 4), (sizes.TINY, 4), (sizes.NANO, 4)]
    assert [each.patch for each in variants(digits_diffusion(), (1, 8, 8), 1425)] == [4]


def test_enough_images_are_those_that_training_sees() -> None:
    """At 0.1 s a step of 32 images, 0.8 of 5 minutes hold 73 thousand images."""
    assert seen(300.0, 0.1, cpu_32_diffusion()) == pytest.approx(0.8 * 300 / (MEASURED * 0.1) * 32)
    assert enough(cpu_32_diffusion()) < 73_000 < enough(replace(cpu_32_diffusion(), size=sizes.TINY))


def test_few_steps_become_more_of_a_smaller_batch() -> None:
    slow = planned(SPRITES, 1.0, 600.0, one_step=False)
    assert (slow.batch_size, slow.step) == (16, 0.5)
    assert planned(SPRITES, 0.1, 600.0, one_step=False).batch_size == 32
    few = planned(replace(SPRITES, recipe=digits_diffusion(), training=40), 0.01, 600.0, one_step=False)
    assert few.batch_size == 32


def test_a_one_step_model_takes_two_fifths_of_the_training() -> None:
    plan = planned(SPRITES, 0.1, 3600.0, one_step=True)
    assert plan.steps == steps_in(0.6 * plan.training, 0.1)
    assert plan.tuned == planned(SPRITES, 0.1, 3600.0, one_step=False).tuned
    assert "then a one-step model that learns from it" in lines(plan, SPRITES, datetime(2026, 1, 1), 0.0, "cpu", Path("out"))[1]
    alone = planned(SPRITES, 0.1, 180.0, one_step=False)
    both = planned(SPRITES, 0.1, 180.0, one_step=True)
    assert both.evaluation == pytest.approx(10 + (25 * (both.shown + both.judged) + 2 * 640) * 0.1 / 96)
    assert alone.evaluation < both.evaluation


@pytest.mark.parametrize(
    ("seconds", "conditional", "images", "left"),
    [(300.0, True, 6000, 200.0), (6000.0, True, 12_000, 5800.0), (45.0, True, 1000, 45 - 100 / 6), (300.0, False, 6000, 200.0)],
)
def test_a_one_step_model_learns_from_images_that_take_a_third_of_its_time(
    seconds: float, conditional: bool, images: int, left: float
) -> None:
    """An image takes 16 guided evaluations of 0.1 / 96 s, a step of 16 images 0.05 s."""
    teacher = replace(cpu_32_diffusion(), flip=True, patch=8, batch_size=16)
    recipe = one_step_recipe(teacher, SPRITES, 0.1, seconds, conditional=conditional)
    assert isinstance(recipe.objective, Distillation)
    assert (recipe.objective.images, recipe.objective.guidance) == (images, 1.5 if conditional else 1.0)
    assert (recipe.flip, recipe.patch, recipe.batch_size, recipe.size) == (True, 8, 16, sizes.NANO)
    assert recipe.steps == steps_in(left, 0.05)


def test_a_one_step_model_is_worth_it_where_diffusion_sees_three_times_enough() -> None:
    """180,000 images at 320 a second of which training has 0.8 / 1.05: 738 s."""
    assert not repaid(SPRITES, 0.1, 730.0)
    assert repaid(SPRITES, 0.1, 745.0)


def test_a_start_is_fitted_to_small_images_where_enough_are_held_out_and_the_time_allows() -> None:
    digits = Chosen(digits_diffusion(), "", 1425, 372, 10, (), (1, 8, 8))
    plan = planned(digits, 0.08, 270.0, one_step=True)
    assert plan.start == pytest.approx(100 * 512 * 0.08 / 384 + 2.5)
    assert plan.training + plan.after == pytest.approx(270.0)
    assert planned(digits, 0.08, 100.0, one_step=True).start == 0
    assert planned(replace(digits, held_out=199), 0.08, 270.0, one_step=True).start == 0
    assert planned(SPRITES, 0.08, 2700.0, one_step=True).start == 0


def test_the_plan_is_said_with_clock_times() -> None:
    plan = planned(SPRITES, 0.1, 3600.0, one_step=False)
    said = lines(plan, SPRITES, datetime(2026, 1, 1, 12, 0), 20.0, "cpu", Path("runs/sprites"))
    assert len(said) == 5
    assert said[1].startswith("12:00 to ")
    assert said[-1].startswith("13:00: done, in ")
    assert "tune the sampler by" in said[2]
