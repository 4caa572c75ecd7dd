"""What a run looks at while it trains: alarms, and a held-out loss that belongs to the average alone."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pixelpath.data.batches import Batches
from pixelpath.recipes import RECIPES
from pixelpath.recipes.build import objective_through
from pixelpath.recipes.digits import digits_encoder
from pixelpath.recipes.distilled import Distilling, distilled
from pixelpath.recipes.small import cpu_32_diffusion
from pixelpath.runs.monitor import Measuring, alarms, held_out_loss, measured, measuring, watch_features
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import read_data_of

CPU = torch.device("cpu")
RECIPE = replace(digits_encoder(), batch_size=256, accumulate=1, steps=1000)
HEALTHY = {"feature_std": 0.9, "effective_rank": 20.0, "by_content": 0.6}


def test_healthy_features_and_a_falling_loss_raise_no_alarm() -> None:
    chance = 2 * math.log(256)
    assert alarms(RECIPE, HEALTHY, 0.9 * chance, 500) == []
    assert alarms(RECIPE, {}, 0.9 * chance, 500) == []
    assert alarms(RECIPE, HEALTHY, chance, 100) == []  # too early to tell


def test_collapse_and_chance_level_are_said() -> None:
    chance = 2 * math.log(256)
    for bad in ({"feature_std": 0.19}, {"effective_rank": 1.9}):
        (alarm,) = alarms(RECIPE, HEALTHY | bad, 1.0, 500)
        assert alarm.startswith("features have collapsed")
    (alarm,) = alarms(RECIPE, HEALTHY, 0.99 * chance, 500)
    assert alarm == f"contrastive loss {0.99 * chance:.2f} is at chance level {chance:.2f}"
    (alarm,) = alarms(RECIPE, HEALTHY | {"by_content": 0.34}, 1.0, 500)
    assert alarm.startswith("features at sigma 1 know 34% of the images by their content")
    assert alarms(RECIPE, HEALTHY | {"by_content": 0.34}, 1.0, 100) == []  # too early to tell
    assert alarms(replace(RECIPE, accumulate=4), HEALTHY, 1.99 * math.log(64), 500) == []  # negatives are those of the batch


def test_the_held_out_loss_is_the_objective_on_held_out_images(diffusion_run: Path) -> None:
    run = open_run(diffusion_run)
    data = read_data_of(run, None)
    images = measured(data)
    assert len(images) == len(data.held_out) == 4
    objective = objective_through(run.recipe, None)
    loss = held_out_loss(run.recipe, objective, data, images, run.model, CPU)
    batch = Batches(data.held_out, data.normaliser, 4, run.recipe.seed).batch(0)
    assert loss == pytest.approx(float(objective(run.model, run.model, batch, 0).total), rel=1e-6)
    assert loss == held_out_loss(run.recipe, objective, data, images, run.model, CPU)


def test_equal_features_of_all_images_have_no_spread(encoder_run: Path) -> None:
    run = open_run(encoder_run)
    data = read_data_of(run, None)
    health = watch_features(run.recipe, data, data.training, run.model, CPU)
    assert health["feature_std"] > 0.01
    run.representation.encoder.norm.weight.zero_()
    run.representation.encoder.norm.bias.fill_(1.0)
    health = watch_features(run.recipe, data, data.training, run.model, CPU)
    assert health == {"feature_std": pytest.approx(0, abs=1e-6), "effective_rank": 0.0, "by_content": 0.0}


def test_what_would_take_more_than_a_tenth_of_the_time_is_measured_less_often() -> None:
    """32 images a step, three evaluations each: 96; a held-out loss of 480 images; a preview of 24 an image."""
    found = measuring(cpu_32_diffusion(steps=44), 4, 480, 1024)
    assert found == Measuring(losses=100, previews=60, images=12)  # each is 5 % of so many steps
    for steps, every in ((2000, 1), (2000, 50), (9000, 900)):
        found = measuring(cpu_32_diffusion(steps=steps), every, 480, 1024)
        assert 0.05 < 480 / (found.losses * 96) + 36 * 24 / (found.previews * 96) <= 0.1 or found.previews == every
        assert (found.losses % every, found.previews % every, found.images) == (0, 0, 36)
    assert measuring(cpu_32_diffusion(steps=9000), 900, 480, 1024).sentence(900, 9000) == ""


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_at_its_own_length_is_measured_less_often(name: str) -> None:
    recipe = RECIPES[name]()
    every = recipe.steps // 10
    assert measuring(recipe, every, 372 if name.startswith("digits") else 1024, 1024).sentence(every, recipe.steps) == ""


def test_chosen_steps_hold_whatever_they_cost() -> None:
    assert measuring(cpu_32_diffusion(steps=44), 4, 480, 1024, chosen=8) == Measuring(8, 8, 36)


def test_a_distilled_run_measures_its_samples_as_it_has_no_held_out_loss() -> None:
    recipe = distilled(cpu_32_diffusion(steps=44), True, Distilling())
    found = measuring(recipe, 4, 480, 1024)
    assert found == measuring(recipe, 4, 0, 1024)
    assert found.sentence(4, 44).startswith("Measured less often, to take no more than a tenth of the time: one-step samples at")


def test_the_sentence_says_what_is_thinned_and_how_to_choose() -> None:
    said = Measuring(losses=20, previews=100, images=6).sentence(4, 44)
    assert re.findall(r"held-out loss (every [\d]+ steps)|previews \(of (\d+) images\) (at the end only)", said) == [
        ("every 20 steps", "", ""),
        ("", "6", "at the end only"),
    ]
    assert "`measure_every` 4" in said
