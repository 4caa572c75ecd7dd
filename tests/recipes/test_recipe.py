"""Recipes: to JSON and back, closed for data, and wrong ones refused."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pixelpath.data.settings import DataSettings
from pixelpath.models.preconditioning import Anchored, EDMPreconditioning, XPrediction
from pixelpath.noise import FlatWeight, GridLogNormal, LogNormal, LogUniform, NoiseRange
from pixelpath.objectives.consistency import Consistency
from pixelpath.objectives.denoising import Denoising
from pixelpath.objectives.features import LayerFeatures
from pixelpath.objectives.pairs import RelativeGap, SmoothGap, StagedGap
from pixelpath.objectives.representation import Curriculum, InterpolatedTemperature, RepresentationLearning
from pixelpath.recipes.recipe import Precision, Recipe, Sampling, for_data, from_json, summary, to_json, unlearned
from pixelpath.recipes.rows import table
from pixelpath.recipes.sizes import NANO
from pixelpath.trainer.optimizer import Constant, Cosine, Muon, Steps

UNUSUAL = Recipe(
    "unusual",
    Denoising(NoiseRange(0.01, 7.0, 0.3), LogUniform(0.1, 2.0), FlatWeight(), 0.0),
    preconditioning=EDMPreconditioning(0.7, 0.01),
    schedule=Steps(3, ((5, 0.5), (9, 0.1))),
    precision=Precision.FLOAT16,
    compile=False,
    sampling=Sampling(5, 2.0, (0.2, math.inf)),
    data=DataSettings(Path("a/b"), Path("c"), resize=(8, 16), channels=1, workers=0),
)
ONE_STEP = Recipe(
    "one-step",
    Consistency(NoiseRange(), SmoothGap(last=9.0), LogUniform(), RelativeGap(), LayerFeatures((0, -1), 0.5), 0.1, 0.0),
    preconditioning=EDMPreconditioning(),
    dropout=0.5,
    steps=700,
    optimizer=Muon(lr=2e-3, clip=1.0),
)


@pytest.mark.parametrize("recipe", [*table().values(), UNUSUAL, ONE_STEP], ids=lambda recipe: recipe.name)
def test_a_recipe_goes_to_json_and_back(recipe: Recipe) -> None:
    assert from_json(to_json(recipe)) == recipe
    closed = recipe if recipe is UNUSUAL else for_data(recipe, 32, 48)
    assert from_json(to_json(closed)) == closed
    json.loads(to_json(recipe), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_an_unknown_setting_names_the_near_ones() -> None:
    written = json.loads(to_json(UNUSUAL))
    written["optimizer"]["weight_decai"] = 0.1
    with pytest.raises(ValueError, match=r"Unknown setting weight_decai in AdamW: did you mean weight_decay"):
        from_json(json.dumps(written))
    written = json.loads(to_json(UNUSUAL)) | {"batchsize": 3}
    with pytest.raises(ValueError, match=r"Unknown setting batchsize in Recipe: did you mean batch_size"):
        from_json(json.dumps(written))


@pytest.mark.parametrize(
    "change", [{"steps": "many"}, {"objective": {"type": "Nonsense"}}, {"schedule": {"type": "Cosine", "floor": 2}}]
)
def test_a_wrong_value_is_a_sentence(change: dict) -> None:
    with pytest.raises(ValueError, match=r"A setting of this recipe is wrong or missing .*: compare with a fresh recipe.json\."):
        from_json(json.dumps(json.loads(to_json(UNUSUAL)) | change))


def test_what_is_no_json_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="This recipe is not JSON"):
        from_json("{")


def test_closing_shifts_the_levels_and_fills_in_totals() -> None:
    noise = NoiseRange(0.002, 80.0)
    open_recipe = Recipe(
        "open", RepresentationLearning(noise, Curriculum(), InterpolatedTemperature()), steps=123, schedule=Cosine(warmup=5)
    )
    closed = for_data(open_recipe, 32, 128)
    assert closed.noise == NoiseRange(0.002, 80.0, 1.0)  # the root of 32 x 128 is 64
    assert for_data(open_recipe, 16, 16).noise.shift == pytest.approx(0.25)
    assert isinstance(closed.objective, RepresentationLearning)
    assert closed.objective.curriculum == Curriculum(total=123)
    assert closed.objective.temperature == InterpolatedTemperature(total=123)
    assert closed.schedule == Cosine(warmup=5, total=123)
    assert for_data(replace(open_recipe, schedule=Cosine(5, 77)), 8, 8).schedule == Cosine(5, 77)
    assert for_data(replace(open_recipe, schedule=Constant(5)), 8, 8).schedule == Constant(5)
    with pytest.raises(ValueError, match=r"leave --objective.noise.shift alone"):
        for_data(replace(open_recipe, objective=replace(open_recipe.objective, noise=replace(noise, shift=2.0))), 8, 8)


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"batch_size": 0}, {"accumulate": 0}, {"patch": 0}, {"ema_decay": 1.0}, {"dropout": 1.0}]
)
def test_impossible_numbers_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=f"--{next(iter(change)).replace('_', '-')} must be at least"):
        replace(UNUSUAL, **change)


def test_the_stage_follows_from_the_objective() -> None:
    assert not UNUSUAL.is_encoder
    assert {name: row.is_encoder for name, row in table().items()} == {name: name.endswith("encoder") for name in table()}
    assert all(name == row.name for name, row in table().items())


def test_the_summary_says_stage_size_and_length() -> None:
    recipe = replace(UNUSUAL, size=NANO, steps=2500, batch_size=64)
    assert summary(recipe) == "Stage two: encoder 3 x 96, decoder 3 x 128, patch 4, 2,500 steps of 64 images."


def test_closing_a_consistency_recipe_fills_in_total_and_boundary() -> None:
    closed = for_data(ONE_STEP, 16, 16)
    assert isinstance(closed.objective, Consistency)
    assert closed.objective.gap == SmoothGap(total=700, last=9.0)
    assert closed.preconditioning == EDMPreconditioning(boundary=0.002 * (16 / 64))
    staged = for_data(replace(ONE_STEP, objective=Consistency(NoiseRange(), StagedGap(total=70))), 16, 16)
    assert isinstance(staged.objective, Consistency)
    assert staged.objective.gap == StagedGap(total=70)
    assert for_data(
        replace(ONE_STEP, preconditioning=EDMPreconditioning(boundary=0.1)), 16, 16
    ).preconditioning == EDMPreconditioning(boundary=0.1)
    assert for_data(replace(ONE_STEP, preconditioning=XPrediction()), 16, 16).preconditioning == XPrediction()
    assert for_data(replace(ONE_STEP, preconditioning=Anchored()), 16, 16).preconditioning == Anchored(boundary=0.002 * (16 / 64))
    diffusion = for_data(replace(ONE_STEP, objective=Denoising(NoiseRange())), 16, 16)
    assert diffusion.preconditioning == EDMPreconditioning()
    assert (ONE_STEP.is_one_step, diffusion.is_one_step, ONE_STEP.is_encoder) == (True, False, False)


def test_an_optimizer_without_a_type_is_adamw() -> None:
    written = json.loads(to_json(UNUSUAL))
    assert written["optimizer"].pop("type") == "AdamW"
    assert from_json(json.dumps(written)) == UNUSUAL
    written["optimizer"]["type"] = "Nonsense"
    with pytest.raises(ValueError, match="A setting of this recipe is wrong or missing"):
        from_json(json.dumps(written))


@pytest.mark.parametrize("gap", [StagedGap(first=18), StagedGap(base=math.inf), SmoothGap(last=24.0)])
def test_a_gap_lost_in_rounding_is_refused(gap: StagedGap | SmoothGap) -> None:
    """2^-24 is 6e-8; one less is told apart in float32."""
    with pytest.raises(ValueError, match="which is none in float32"):
        for_data(replace(ONE_STEP, objective=Consistency(NoiseRange(), gap)), 16, 16)
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
    """What samples pass and training does not draw spoils them, however low the loss; the level that is named mends it."""
    row = table()["small-64-diffusion"]
    found = unlearned(replace(row, objective=Denoising(NoiseRange(lowest, highest), draw)))
    assert len(found) == len(ends)
    assert all(re.search(end, sentence) for end, sentence in zip(ends, found, strict=True))


def test_no_row_leaves_an_end_of_its_range_out() -> None:
    assert not [sentence for row in table().values() for sentence in unlearned(row)]
