"""What a run looks at while it trains: alarms, and a held-out loss that belongs to the average alone."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pixelpath.data.batches import Batches
from pixelpath.recipes.build import objective_through
from pixelpath.recipes.digits import digits_encoder
from pixelpath.runs.monitor import alarms, held_out_loss, measured, watch_features
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import read_data_of

CPU = torch.device("cpu")
RECIPE = replace(digits_encoder(), batch_size=256, accumulate=1, steps=1000)
HEALTHY = {"feature_std": 0.9, "effective_rank": 20.0}


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
    assert health == {"feature_std": pytest.approx(0, abs=1e-6), "effective_rank": 0.0}
