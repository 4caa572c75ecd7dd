"""Settings and data with which nothing can be learned are refused before the first step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.reliability.harness import Command, Starter, train

NONSENSE = [
    ("digits-diffusion", "--optimizer.lr", "inf"),
    ("digits-diffusion", "--optimizer.lr", "nan"),
    ("digits-diffusion", "--optimizer.lr", "1e39"),
    ("digits-diffusion", "--optimizer.clip", "nan"),
    ("digits-diffusion", "--optimizer.weight-decay", "nan"),
    ("digits-diffusion", "--objective.label-dropout", "7"),
    ("digits-diffusion", "--objective.label-dropout", "nan"),
    ("digits-onestep", "--objective.label-dropout", "7"),
    ("digits-diffusion", "--ema-decay", "nan"),
    ("digits-diffusion", "--dropout", "nan"),
    ("digits-diffusion", "--position-init", "nan"),
    ("digits-diffusion", "--objective.draw.p-mean", "nan"),
    ("digits-diffusion", "--objective.draw.p-std", "inf"),
    ("digits-diffusion", "--objective.noise.sigma-min", "nan"),
    ("digits-diffusion", "--objective.noise.sigma-max", "inf"),
    ("digits-encoder", "--objective.temperature.value", "nan"),
    ("digits-onestep", "--objective.softening", "nan"),
    ("digits-diffusion", "--schedule.warmup", "-1"),
    ("digits-diffusion", "--steps", "0"),
    ("digits-diffusion", "--data.held-out-share", "nan"),
]


@pytest.mark.parametrize(("recipe", "option", "value"), NONSENSE)
def test_nonsense_is_refused(recipe: str, option: str, value: str, starter: Starter, pictures: Path, tmp_path: Path) -> None:
    (ended,) = starter.run(Command(train(recipe, pictures, tmp_path / "run", option, value)))
    assert option in ended.said or option.replace("-", "_") in ended.said
    assert ended.status == 2, ended.said
    assert "Traceback" not in ended.said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", ["digits-encoder", "digits-diffusion", "digits-onestep"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_constant_images_are_refused(recipe: str, dtype: str, starter: Starter, tmp_path: Path) -> None:
    np.save(tmp_path / "grey.npy", np.full((40, 1, 8, 8), 7, dtype))
    (ended,) = starter.run(Command(train(recipe, tmp_path / "grey.npy", tmp_path / "run")))
    assert "7" in ended.sentence
    assert not (tmp_path / "run").exists()
