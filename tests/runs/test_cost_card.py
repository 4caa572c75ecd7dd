"""What a run has cost: passes against those that torch counts in a real step, sums over stages, prices."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.application import call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pixelpath.errors import UserError
from pixelpath.recipes import digits_diffusion, digits_encoder, digits_onestep, sizes
from pixelpath.recipes.build import objective_through, student_of
from pixelpath.recipes.recipe import Recipe
from pixelpath.runs.cost_card import CostCard, StageCost, cost_card, passes_of_step
from pixelpath.runs.opened import open_run, outlined
from pixelpath.runs.sample import sample
from pixelpath.runs.sample_conditions import choose_labels
from pixelpath.runs.work import multiply_adds_of
from pixelpath.trainer import checkpoint
from pixelpath.trainer.ema import twin
from pixelpath.types import Batch, Views

SHAPE = (3, 8, 8)
SMALL = replace(sizes.NANO, encoder=sizes.Blocks(1, 32, 2), decoder=sizes.Blocks(1, 32, 2))


@pytest.mark.parametrize("make", [digits_encoder, digits_diffusion, digits_onestep])
def test_passes_are_those_of_a_real_step(make: Callable[..., Recipe]) -> None:
    """Within a tenth: the first layer needs no gradient of its input, and the projector is not in every pass."""
    recipe = make(size=SMALL)
    if recipe.is_encoder:
        recipe = replace(recipe, projector=replace(recipe.projector, hidden=32, out=16))
    student = student_of(recipe, SHAPE, 0 if recipe.is_encoder else 10)
    images, seeds = torch.randn(4, *SHAPE), (1, 2, 3, 4)
    views = Views(images, images + 1, images - 1, seeds, 0)
    batch = views if recipe.is_encoder else Batch(images, torch.zeros(4, dtype=torch.int64), seeds, 0)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        objective_through(recipe, None)(student, twin(student), batch, 0.9).total.backward()
    alone = multiply_adds_of(recipe, SHAPE, 0 if recipe.is_encoder else 10)
    assert counter.get_total_flops() / 2 == pytest.approx(4 * passes_of_step(recipe) * alone, rel=0.1)


def test_a_card_counts_the_stages_before_and_the_evaluations_of_an_image(diffusion_run: Path, encoder_run: Path) -> None:
    run = open_run(diffusion_run)
    card = cost_card(run)
    assert [(stage.name, stage.steps, stage.images) for stage in card.stages] == [
        ("digits-encoder", 6, 48),
        ("digits-diffusion", 6, 48),
    ]
    ends = [checkpoint.read_state(folder).seconds for each in (encoder_run, diffusion_run) if (folder := checkpoint.latest(each))]
    assert card.seconds == pytest.approx(sum(ends))
    assert card.image is not None
    assert card.image.nfe == sample(run, range(2), choose_labels(run, range(2), ())).nfe
    last = card.stages[-1]
    assert card.image.multiply_adds == pytest.approx(card.image.nfe * last.multiply_adds / (3 * 48))
    latest = checkpoint.latest(diffusion_run)
    assert latest is not None
    assert cost_card(outlined(diffusion_run, latest)).image == card.image


def test_a_price_is_by_the_hour_of_every_device() -> None:
    stage = StageCost("a", "run", 10, 100, 1e9, 1800.0, 4, None)
    card = CostCard((stage, replace(stage, devices=2)), None)
    assert card.price(3.0) == pytest.approx((4 + 2) * 0.5 * 3)
    assert any("9" in sentence and "3 for an hour" in sentence for sentence in card.sentences(3.0))
    with pytest.raises(UserError) as caught:
        card.sentences(-1.0)
    assert caught.value.setting == "price_per_hour"


def test_the_report_has_the_card_and_the_command_the_price(diffusion_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("report", diffusion_run, "--price-per-hour", 2.5) == 0
    assert "2.5 for an hour of the device" in capsys.readouterr().err
    page = (diffusion_run / "report.html").read_text(encoding="utf-8")
    assert 'id="cost"' in page
    assert "not told by this machine" in page or "joules" in page
