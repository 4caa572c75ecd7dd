"""From recipes to networks: published sizes, seeded weights, strict hand-over."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from pixelpath.errors import UserError
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.representation import Representation
from pixelpath.objectives.consistency import Consistency
from pixelpath.objectives.features import ContrastiveFeatures
from pixelpath.recipes.build import (
    checkpoint_activations,
    denoiser_of,
    hand_over,
    objective_through,
    representation_of,
    start_from,
    student_of,
)
from pixelpath.recipes.digits import digits_diffusion, digits_encoder
from pixelpath.recipes.recipe import ProjectorSize, Recipe
from pixelpath.recipes.sizes import SIZES, Blocks, Size
from pixelpath.types import Batch

TINY = Size(Blocks(2, 16, 2), Blocks(2, 24, 2))
SHAPE = (1, 8, 8)


def recipe(**changes: Any) -> Recipe:
    return replace(digits_diffusion(), **{"size": TINY, **changes})


def encoder_recipe(**changes: Any) -> Recipe:
    return replace(digits_encoder(), size=TINY, projector=ProjectorSize(8, 4), **changes)


@pytest.mark.parametrize(("name", "millions"), [("L", 540), ("XL", 583), ("XXL", 789), ("G", 1391)])
def test_published_sizes_have_the_published_number_of_parameters(name: str, millions: int) -> None:
    with torch.device("meta"):
        model = denoiser_of(recipe(patch=16, size=SIZES[name]), (3, 256, 256), 1000)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert abs(count / 1e6 - millions) < 1


def test_nano_is_about_a_million() -> None:
    model = denoiser_of(recipe(size=SIZES["nano"]), SHAPE, 10)
    assert 0.7e6 < sum(parameter.numel() for parameter in model.parameters()) < 1.5e6


def test_the_amplitude_of_positions_is_the_recipe_s() -> None:
    plain, placed = (student_of(recipe(position_init=amplitude), SHAPE, 3).state_dict() for amplitude in (0.0, 3.0))
    largest = (placed["backbone.encoder.positions"] - plain["backbone.encoder.positions"]).abs().max()
    assert float(largest) == pytest.approx(3, abs=1e-5)


def test_weights_are_a_function_of_the_seed() -> None:
    before = torch.get_rng_state()
    first, again, other = (student_of(recipe(seed=seed), SHAPE, 3).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["backbone.encoder.positions"], other["backbone.encoder.positions"])


def test_stage_one_and_two_share_the_encoder_exactly() -> None:
    one, two = representation_of(encoder_recipe(), SHAPE), denoiser_of(recipe(), SHAPE, 3)
    hand_over(one.encoder, two)
    noisy, noise = torch.randn(2, *SHAPE), torch.tensor([0.3, -2.0])
    assert torch.equal(one.encoder(noisy, noise).tokens, two.backbone.encoder(noisy, noise).tokens)


def test_another_resolution_takes_the_interpolated_table_and_leaves_the_giver() -> None:
    one, two = representation_of(encoder_recipe(), SHAPE), denoiser_of(recipe(), (1, 8, 16), 3)
    before = one.encoder.positions.detach().clone()
    hand_over(one.encoder, two)
    assert torch.equal(one.encoder.positions, before)
    table = before[:, 2:].reshape(1, 2, 2, 16).permute(0, 3, 1, 2)
    grown = functional.interpolate(table, (2, 4), mode="bicubic", antialias=True).permute(0, 2, 3, 1).reshape(1, 8, 16)
    torch.testing.assert_close(two.backbone.encoder.positions, torch.cat([before[:, :2], grown], 1), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("shape", "changes", "misfit"),
    [
        (SHAPE, {"size": Size(Blocks(2, 32, 2), Blocks(2, 24, 2))}, "cls (1, 1, 16) instead of (1, 1, 32)"),
        (SHAPE, {"size": Size(Blocks(3, 16, 2), Blocks(3, 24, 2))}, "11 missing (blocks.2.norm_attention.weight"),
        (SHAPE, {"size": Size(Blocks(1, 16, 2), Blocks(1, 24, 2))}, "11 unexpected (blocks.1.norm_attention.weight"),
        (SHAPE, {"patch": 2}, "positions (1, 6, 16) instead of (1, 18, 16)"),
        ((3, 8, 8), {}, "patches.weight (16, 1, 4, 4) instead of (16, 3, 4, 4)"),
    ],
)
def test_an_encoder_that_does_not_fit_is_named_and_changes_nothing(shape: tuple, changes: dict, misfit: str) -> None:
    two = denoiser_of(recipe(**changes), shape, 3)
    before = {name: value.clone() for name, value in two.state_dict().items()}
    with pytest.raises(UserError, match=re.escape(misfit)) as caught:
        hand_over(representation_of(encoder_recipe(), SHAPE).encoder, two)
    assert caught.value.setting == "encoder"
    assert all(torch.equal(before[name], value) for name, value in two.state_dict().items())


def test_a_start_gives_all_weights() -> None:
    for make in (recipe, encoder_recipe):
        origin, target = student_of(make(seed=1), SHAPE, 3), student_of(make(seed=2), SHAPE, 3)
        start_from(origin, target, Path("origin"))
        ours, theirs = target.state_dict(), origin.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_start_of_the_other_stage_or_other_classes_is_refused() -> None:
    one, two = representation_of(encoder_recipe(), SHAPE), denoiser_of(recipe(), SHAPE, 3)
    for origin, target, fact in (
        (one, two, "give it as `encoder`"),
        (two, one, "must be a run of stage one"),
        (two, denoiser_of(recipe(), SHAPE, 10), "backbone.classes.weight (4, 16) instead of (11, 16)"),
    ):
        with pytest.raises(UserError, match=re.escape(fact)) as caught:
            start_from(origin, target, Path("origin"))
        assert caught.value.setting == "init_from"
        assert "origin" in str(caught.value)


@pytest.mark.parametrize("stage", [recipe, encoder_recipe])
def test_activation_checkpointing_gives_the_same_gradients(stage: Callable[..., Recipe]) -> None:
    gradients = []
    for on in (False, True):
        student = student_of(stage(activation_checkpointing=on), SHAPE, 3)
        if isinstance(student, Denoiser):
            torch.nn.init.ones_(student.backbone.decoder.out.weight)
            out = student(torch.linspace(-1, 1, 128).reshape(2, *SHAPE), torch.tensor([0.5, 2.0]), torch.tensor([0, 2]))
        else:
            out = student(torch.linspace(-1, 1, 128).reshape(2, *SHAPE), torch.tensor(0.5)).projection
        out.square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in student.named_parameters()})
    assert all(gradients[0][name] is not None for name in gradients[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-6, atol=1e-7)


def test_activation_checkpointing_can_be_switched() -> None:
    one, two = representation_of(encoder_recipe(), SHAPE), denoiser_of(recipe(), SHAPE, 3)
    for on in (True, False):
        checkpoint_activations(one, on)
        checkpoint_activations(two, on)
        assert {one.encoder.checkpointing, two.backbone.encoder.checkpointing, two.backbone.decoder.checkpointing} == {on}


@pytest.mark.parametrize("classes", [0, 3])
def test_every_parameter_of_stage_two_receives_a_finite_gradient(classes: int) -> None:
    chosen = recipe()
    student = student_of(chosen, SHAPE, classes)
    assert isinstance(student, Denoiser)
    torch.nn.init.normal_(student.backbone.decoder.out.weight)  # zero at the start: nothing would flow through it
    for block in student.backbone.decoder.blocks:
        torch.nn.init.normal_(block.get_parameter("modulation.1.weight"), std=0.1)
    batch = Batch(torch.randn(6, *SHAPE), torch.arange(6) % max(classes, 1), tuple(range(6)), 0)
    chosen.objective(student, student, batch, 0).total.backward()  # pyright: ignore[reportArgumentType]
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_a_size_needs_blocks_and_heads_that_divide_its_width() -> None:
    for wrong in ((0, 16, 2), (1, 16, 3), (1, 16, 0), (1, 0, 1)):
        with pytest.raises(UserError) as caught:
            Blocks(*wrong)
        assert caught.value.setting == "size"


def test_students_of_both_stages_are_of_their_kind() -> None:
    assert isinstance(student_of(encoder_recipe(), SHAPE, 3), Representation)
    assert isinstance(student_of(recipe(), SHAPE, 3), Denoiser)


def test_an_objective_that_compares_features_is_bound_to_a_frozen_encoder() -> None:
    noise = digits_diffusion().noise
    plain, comparing = (
        recipe(objective=objective) for objective in (Consistency(noise), Consistency(noise, features=ContrastiveFeatures()))
    )
    assert objective_through(plain, None) is plain.objective
    assert objective_through(recipe(), None) == recipe().objective
    with pytest.raises(UserError) as caught:
        objective_through(comparing, None)
    assert caught.value.setting == "encoder"
    frozen = representation_of(encoder_recipe(), SHAPE)
    bound = objective_through(comparing, frozen)
    assert not frozen.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    student = denoiser_of(comparing, SHAPE, 0)
    batch = Batch(torch.randn(4, *SHAPE), torch.zeros(4, dtype=torch.long), (1, 2, 3, 4), 0)
    assert set(bound(student, student, batch, 0).parts) == {"consistency", "features"}


def test_dropout_of_the_recipe_reaches_the_decoder() -> None:
    student = student_of(recipe(dropout=0.5), SHAPE, 0)
    shares = {module.p for module in student.modules() if isinstance(module, torch.nn.Dropout)}
    assert shares == {0.0, 0.5}
    assert student.state_dict().keys() == student_of(recipe(), SHAPE, 0).state_dict().keys()
