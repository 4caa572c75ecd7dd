"""Pairs of sigmas: the gap's closed form, its stages, and the weight of a pair."""

import math
from dataclasses import replace

import pytest
import torch

from pixelpath.errors import UserError
from pixelpath.noise import NoiseRange
from pixelpath.objectives.pairs import StagedGap, inverse_gap

SIGMAS = torch.tensor([0.002, 0.01, 0.3, 1.0, 7.0, 80.0])


def test_the_gap_in_closed_form() -> None:
    gap, noise = StagedGap(stages=7), NoiseRange()
    assert [gap.stage(step / 700) for step in (0, 99, 100, 350, 699, 700)] == [1, 1, 2, 4, 7, 7]
    lower = gap(torch.tensor([2.0]), noise, 250 / 700)  # stage 3: a share of 1/8, times 1 + 8 / (1 + e^2)
    assert lower.item() == pytest.approx(2 * (1 - (1 + 8 / (1 + math.exp(2))) / 8), rel=1e-5)
    assert StagedGap(base=3.0, widening=2.0, steepness=0.5)(torch.tensor([4.0]), noise, 0).item() == pytest.approx(
        4 * (1 - (1 + 2 / (1 + math.exp(2))) / 3), rel=1e-5
    )


@pytest.mark.parametrize("stages", [3, 7, 14, 49, 700])
def test_stages_change_at_exact_shares_of_any_run(stages: int) -> None:
    """Also where a border k / stages is not a float, and times stages is not k."""
    gap = StagedGap(stages=stages, first=0)
    for length in (stages, 100 * stages, 700_000):
        borders = [stage * length // stages for stage in range(stages)]
        assert [gap.stage(border / length) for border in borders if border * stages % length == 0] == [
            border * stages // length for border in borders if border * stages % length == 0
        ]
        assert [gap.stage((border - 1) / length) for border in borders[1:]] == [
            (border - 1) * stages // length for border in borders[1:]
        ]


@pytest.mark.parametrize("gap", [StagedGap(), StagedGap(4, 0)])
def test_lower_sigmas_approach_the_upper_ones(gap: StagedGap) -> None:
    noise = NoiseRange()
    lowers = torch.stack([gap(SIGMAS, noise, step / 100) for step in range(0, 101, 5)])
    assert bool((lowers >= noise.sigma_min).all())
    assert bool((lowers <= SIGMAS).all())
    assert bool((lowers[1:] >= lowers[:-1]).all())
    assert bool((lowers[-1, 1:] > lowers[0, 1:]).all())


def test_only_a_stage_of_number_zero_denoises() -> None:
    gap = StagedGap(stages=3, first=0)
    assert [gap.denoises(step / 90) for step in (0, 29, 30, 89)] == [True, True, False, False]
    assert torch.equal(gap(SIGMAS, NoiseRange(), 29 / 90), torch.full_like(SIGMAS, 0.002))
    assert not StagedGap().denoises(0)


@pytest.mark.parametrize(
    ("field", "value"), [("base", 1.0), ("first", -1), ("stages", 0), ("widening", -1.0), ("widening", math.inf)]
)
def test_impossible_gaps(field: str, value: float) -> None:
    with pytest.raises(UserError) as caught:
        replace(StagedGap(), **{field: value})
    assert caught.value.setting == f"objective.gap.{field}"


def test_the_weight_of_pairs() -> None:
    sigma, lower = torch.tensor([3.0, 0.5, 0.002]), torch.tensor([1.0, 0.25, 0.002])
    assert inverse_gap(sigma, lower, NoiseRange(shift=0.25)).tolist() == pytest.approx([2.0, 16.0, 0.0])
