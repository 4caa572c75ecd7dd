"""What a sitting of a fit knows of its time."""

from pathlib import Path

import pytest
import torch

from pixelpath.data.settings import DataSettings
from pixelpath.runs.fitting.planning import FIXED, Budget
from pixelpath.runs.fitting.sitting import Machine, Sitting


@pytest.mark.parametrize(("looking", "fixed"), [(0.5, FIXED), (4.4, 17.6), (19.0, 76.0)])
def test_an_evaluation_is_planned_as_several_looks_at_the_data(looking: float, fixed: float, tmp_path: Path) -> None:
    """Sprites took 26 processor seconds to evaluate after a look of 4.4."""
    machine = Machine(lambda: 0.0, lambda recipe, device: 1.0)
    sitting = Sitting(DataSettings(tmp_path), tmp_path / "fit", Budget(2), torch.device("cpu"), machine)
    sitting.state["spent"]["looking"] = looking
    assert sitting.fixed == pytest.approx(fixed)
