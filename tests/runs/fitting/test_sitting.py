"""What a sitting of a fit knows of its time."""

import json
from pathlib import Path

import pytest
import torch

from pixelpath.data.settings import DataSettings
from pixelpath.recipes import digits_diffusion
from pixelpath.recipes.recipe import to_json
from pixelpath.runs.fitting.planning import FIXED, Budget
from pixelpath.runs.fitting.sitting import Machine, Sitting

ABOUT = {"about": "", "training": 1425, "held_out": 372, "classes": 10, "reasons": [], "shape": [1, 8, 8]}


@pytest.mark.parametrize(("looking", "fixed"), [(0.5, FIXED), (4.4, 17.6), (19.0, 76.0)])
def test_an_evaluation_is_planned_as_several_looks_at_the_data(looking: float, fixed: float, tmp_path: Path) -> None:
    """Sprites took 26 processor seconds to evaluate after a look of 4.4."""
    machine = Machine(lambda: 0.0, lambda recipe, device: 1.0)
    sitting = Sitting(DataSettings(tmp_path), tmp_path / "fit", Budget(2), torch.device("cpu"), machine)
    sitting.state["spent"]["looking"] = looking
    assert sitting.fixed == pytest.approx(fixed)


def test_a_step_takes_no_less_than_it_was_tried_to_take(tmp_path: Path) -> None:
    """Evaluations, whose time follows from it, are made in one process, and two that train together are faster."""
    machine = Machine(lambda: 0.0, lambda recipe, device: 1.0)
    sitting = Sitting(DataSettings(tmp_path), tmp_path / "fit", Budget(2), torch.device("cpu"), machine)
    sitting.state |= {"step": 0.4, "about": ABOUT, "recipe": json.loads(to_json(digits_diffusion()))}
    for step, expected in ((None, 0.4), (0.1, 0.4), (0.3, 0.6)):  # of half of the images
        sitting.state["runs"] = [{"kind": "diffusion", "step": step, "recipe": {"batch_size": 64}}]
        assert sitting.step == pytest.approx(expected)
