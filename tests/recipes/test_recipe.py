"""Recipes: to JSON and back, closed for data, and wrong ones refused."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pixelpath import recipes
from pixelpath.data.settings import DataSettings
from pixelpath.errors import UserError
from pixelpath.models.preconditioning import Anchored, EDMPreconditioning, XPrediction
from pixelpath.noise import FlatWeight, GridLogNormal, LogNormal, LogUniform, NoiseRange
from pixelpath.objectives.consistency import Consistency
from pixelpath.objectives.denoising import Denoising
from pixelpath.objectives.features import ContrastiveFeatures
from pixelpath.objectives.pairs import StagedGap
from pixelpath.objectives.representation import Curriculum, InterpolatedTemperature, RepresentationLearning
from pixelpath.recipes import RECIPES
from pixelpath.recipes.recipe import Precision, ProjectorSize, Recipe, for_data, from_json, summary, to_json, unlearned
from pixelpath.recipes.sizes import NANO, TINY
from pixelpath.sampling.sampler import Sampling
from pixelpath.trainer.optimizer import Muon, Steps

UNUSUAL = Recipe(
    "unusual",
    Denoising(NoiseRange(0.01, 7.0, 0.3), LogUniform(0.1, 2.0), FlatWeight(), 0.0),
    preconditioning=EDMPreconditioning(0.7, 0.01),
    schedule=Steps(3, ((1 / 3, 0.5), (0.9, 0.1))),
    precision=Precision.FLOAT16,
    compile=False,
    sampling=Sampling(5, 2.0, (0.2, math.inf)),
    data=DataSettings(Path("a/b"), Path("c"), resize=(8, 16), channels=1, workers=0),
)
ONE_STEP = Recipe(
    "one-step",
    Consistency(NoiseRange(), StagedGap(8), LogUniform(), ContrastiveFeatures(0.2, 0.5), 0.1, 0.0),
    preconditioning=EDMPreconditioning(),
    dropout=0.5,
    steps=700,
    optimizer=Muon(lr=2e-3, clip=1.0),
)


@pytest.mark.parametrize("recipe", [*(make() for make in RECIPES.values()), UNUSUAL, ONE_STEP], ids=lambda recipe: recipe.name)
def test_a_recipe_goes_to_json_and_back(recipe: Recipe) -> None:
    assert from_json(to_json(recipe)) == recipe
    closed = recipe if recipe is UNUSUAL else for_data(recipe, 32, 48)
    assert from_json(to_json(closed)) == closed
    json.loads(to_json(recipe), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_an_unknown_setting_names_the_near_ones() -> None:
    written = json.loads(to_json(UNUSUAL))
    written["optimizer"]["weight_decai"] = 0.1
    with pytest.raises(UserError, match="did you mean weight_decay") as caught:
        from_json(json.dumps(written))
    assert caught.value.setting == "weight_decai"
    written = json.loads(to_json(UNUSUAL)) | {"batchsize": 3}
    with pytest.raises(UserError, match="did you mean batch_size") as caught:
        from_json(json.dumps(written))
    assert caught.value.setting == "batchsize"


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"steps": "many"}, None),
        ({"objective": {"type": "Nonsense"}}, None),
        ({"optimizer": {"lr": 1e-3}}, None),
        ({"schedule": {"type": "Cosine", "floor": 2}}, "schedule.floor"),
    ],
)
def test_a_wrong_value_is_a_sentence(change: dict, setting: str | None) -> None:
    with pytest.raises(UserError, match=next(iter(change))) as caught:
        from_json(json.dumps(json.loads(to_json(UNUSUAL)) | change))
    assert caught.value.setting == setting


def test_text_that_is_not_json_is_a_sentence() -> None:
    with pytest.raises(UserError, match="not JSON"):
        from_json("{")


def test_closing_shifts_the_noise_range_and_nothing_else() -> None:
    noise = NoiseRange(0.002, 80.0)
    open_recipe = Recipe("open", RepresentationLearning(noise, Curriculum(), InterpolatedTemperature()), steps=123)
    closed = for_data(open_recipe, 32, 128)
    assert closed.noise == NoiseRange(0.002, 80.0, 1.0)  # the root of 32 x 128 is 64
    assert for_data(open_recipe, 16, 16).noise.shift == pytest.approx(0.25)
    assert closed == open_recipe
    with pytest.raises(UserError) as caught:
        for_data(replace(open_recipe, objective=replace(open_recipe.objective, noise=replace(noise, shift=2.0))), 8, 8)
    assert caught.value.setting == "objective.noise.shift"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("accumulate", 0),
        ("patch", 0),
        ("ema_decay", 1.0),
        ("dropout", 1.0),
        ("position_init", -1.0),
        ("position_init", math.inf),
        ("position_init", math.nan),
    ],
)
def test_impossible_numbers_are_refused(setting: str, value: float) -> None:
    with pytest.raises(UserError) as caught:
        replace(UNUSUAL, **{setting: value})
    assert caught.value.setting == setting


@pytest.mark.parametrize("setting", ["hidden", "out"])
def test_an_impossible_projector(setting: str) -> None:
    with pytest.raises(UserError) as caught:
        ProjectorSize(**{setting: 0})
    assert caught.value.setting == f"projector.{setting}"


def test_the_stage_follows_from_the_objective() -> None:
    assert not UNUSUAL.is_encoder
    assert {name: make().is_encoder for name, make in RECIPES.items()} == {name: name.endswith("encoder") for name in RECIPES}
    assert {name: make().is_one_step for name, make in RECIPES.items()} == {name: "onestep" in name for name in RECIPES}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_function_takes_the_frequent_settings(name: str) -> None:
    """Those and no others change; the function is called like the recipe."""
    make = RECIPES[name]
    assert vars(recipes)[name.replace("-", "_").lower()] is make
    assert make().name == name
    changed = make(steps=7, batch_size=6, lr=0.5, size=TINY, ema_decay=0.25, seed=3)
    assert changed == replace(
        make(), steps=7, batch_size=6, size=TINY, ema_decay=0.25, seed=3, optimizer=replace(make().optimizer, lr=0.5)
    )
    assert make(steps=7) == replace(make(), steps=7)


def test_the_summary_says_stage_size_and_length() -> None:
    recipe = replace(UNUSUAL, size=NANO, steps=2500, batch_size=64)
    assert summary(recipe) == "Stage two: encoder 3 x 96, decoder 3 x 128, patch 4, 2,500 steps of 64 images."


def test_closing_a_consistency_recipe_fills_in_the_boundary() -> None:
    closed = for_data(ONE_STEP, 16, 16)
    assert closed.preconditioning == EDMPreconditioning(boundary=0.002 * (16 / 64))
    assert for_data(
        replace(ONE_STEP, preconditioning=EDMPreconditioning(boundary=0.1)), 16, 16
    ).preconditioning == EDMPreconditioning(boundary=0.1)
    assert for_data(replace(ONE_STEP, preconditioning=XPrediction()), 16, 16).preconditioning == XPrediction()
    assert for_data(replace(ONE_STEP, preconditioning=Anchored()), 16, 16).preconditioning == Anchored(boundary=0.002 * (16 / 64))
    diffusion = for_data(replace(ONE_STEP, objective=Denoising(NoiseRange())), 16, 16)
    assert diffusion.preconditioning == EDMPreconditioning()
    assert (ONE_STEP.is_one_step, diffusion.is_one_step, ONE_STEP.is_encoder) == (True, False, False)


@pytest.mark.parametrize("gap", [StagedGap(first=18), StagedGap(base=math.inf), StagedGap(stages=24)])
def test_a_gap_lost_in_rounding_is_refused(gap: StagedGap) -> None:
    """2^-24 is 6e-8; float32 tells 2^-23 apart."""
    with pytest.raises(UserError) as caught:
        for_data(replace(ONE_STEP, objective=Consistency(NoiseRange(), gap)), 16, 16)
    assert caught.value.setting == "objective.gap.stages"
    for_data(replace(ONE_STEP, objective=Consistency(NoiseRange(), StagedGap(first=17))), 16, 16)


@pytest.mark.parametrize(
    ("lowest", "highest", "draw", "ends"),
    [
        (0.002, 80.0, GridLogNormal(-1.2, 1.6), ()),
        (0.002, 640.0, GridLogNormal(2.0, 1.6), ("lie below 0.0054, .* raise `objective.noise.sigma_min` to 0.02,",)),
        (0.002, 640.0, LogNormal(-1.2, 1.6), ("lie above 2.4e\\+02, .* lower `objective.noise.sigma_max`",)),
        (0.02, 640.0, GridLogNormal(2.0, 1.6), ()),
        (0.01, 7.0, LogUniform(0.1, 2.0), ("lie below 0.027", "lie above 2.6")),
    ],
)
def test_ends_of_the_range_that_training_does_not_reach_are_named(
    lowest: float, highest: float, draw: GridLogNormal | LogNormal | LogUniform, ends: tuple[str, ...]
) -> None:
    """Sigmas that samples pass and training does not draw spoil them, however low the loss; the named sigma mends it."""
    found = unlearned(replace(RECIPES["small-64-diffusion"](), objective=Denoising(NoiseRange(lowest, highest), draw)))
    assert len(found) == len(ends)
    assert all(re.search(end, sentence) for end, sentence in zip(ends, found, strict=True))


def test_no_recipe_leaves_an_end_of_its_range_out() -> None:
    assert not [sentence for make in RECIPES.values() for sentence in unlearned(make())]


def test_published_recipes_train_on_all_images_in_the_published_range() -> None:
    published = [recipe() for name, recipe in RECIPES.items() if name.startswith("imagenet")]
    assert len(published) == 10
    assert {(recipe.data.normaliser.kind, recipe.data.held_out_share) for recipe in published} == {("imagenet", 0.0)}
