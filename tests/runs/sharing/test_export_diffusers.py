"""A run as a pipeline of diffusers: opened where pixelpath cannot be imported, it makes the run's images."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.application import call, files
from tests.runs.sharing.test_export import BYTES, ONE_STEP, save

from pixelpath.data.metadata import Metadata
from pixelpath.data.normalise.curves import Asinh
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.unmeasured import with_mask
from pixelpath.errors import UserError
from pixelpath.models.preconditioning import XPrediction
from pixelpath.noise import NoiseRange
from pixelpath.objectives.denoising import Denoising
from pixelpath.recipes.recipe import Sampling
from pixelpath.runs.api import load
from pixelpath.runs.opened import OpenRun, open_run
from pixelpath.runs.sharing.export_diffusers import save_diffusers

DIFFUSION = replace(
    ONE_STEP, name="tiny-diffusion", objective=Denoising(NoiseRange()), preconditioning=XPrediction(), sampling=Sampling(steps=4)
)
FLOATS = Normaliser((5.0,), (3.0,), "float32", (Asinh(2.0),), nodata=-9.0)
MASK = np.zeros((1, 8, 8), bool)
MASK[0, 2:4, 5] = True
SCRIPT = """
import sys
sys.modules["pixelpath"] = sys.modules["jaxtyping"] = None  # importing either fails
import json, numpy as np, torch
from diffusers import DiffusionPipeline
folder, out, calls = sys.argv[1:]
pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
pipeline.set_progress_bar_config(disable=True)
made = []
for call in json.loads(calls):
    if "torch_seed" in call:
        call["generator"] = torch.Generator().manual_seed(call.pop("torch_seed"))
    made.append(np.asarray(pipeline(**call).images))
np.savez(out, *made)
assert not any(name.startswith("pixelpath.") for name in sys.modules)
"""


def without_pixelpath(folder: Path, out: Path, *calls: dict[str, object]) -> list[np.ndarray]:
    """The images of every call of the pipeline in a folder, in a process that cannot import pixelpath."""
    own = {"HF_HOME": str(out / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", SCRIPT, str(folder), str(out / "made.npz"), json.dumps(calls)]
    found = subprocess.run(words, env={**os.environ, **own}, capture_output=True, text=True, check=False, cwd=out)
    assert found.returncode == 0, found.stderr
    return list(np.load(out / "made.npz").values())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of pipelines is copied below the test's folder."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


def test_a_diffusion_run_makes_its_images_without_pixelpath(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, folder = save(tmp_path / "run", DIFFUSION), tmp_path / "pipeline"
    assert call("export", run, "--format", "diffusers", "--out", folder) == 0
    assert "it makes the images of the run: on 2 seeds at most" in capsys.readouterr().err
    kept = {str(path) for path in files(folder)}
    assert {"model_index.json", "pixelpath_pipeline.py", "README.md", "transformer/pixelpath_denoiser.py"} <= kept
    loaded = load(run, device="cpu")
    plain, named, steps, pictures, shown = without_pixelpath(
        folder,
        tmp_path,
        {"seeds": [0, 1, 2], "class_labels": [0, 1, 0], "output_type": "native"},
        {"seeds": [3], "class_labels": "b", "guidance_scale": 3.0, "output_type": "native"},
        {
            "seeds": [0, 1],
            "class_labels": [0, 1],
            "num_inference_steps": 7,
            "sampler": "heun_stochastic",
            "output_type": "native",
        },
        {"seeds": [0, 1, 2], "class_labels": [0, 1, 0]},
        {"seeds": [0, 1, 2], "class_labels": [0, 1, 0], "output_type": "np"},
    )
    own = loaded.sample(3)
    assert plain.dtype == np.uint8
    assert (own.images[0] != own.images[2]).mean() > 0.5  # of one class: the noise matters
    assert np.abs(plain.astype(int) - own.images).max() <= 1  # rounding
    assert (plain == own.images).mean() > 0.99
    assert np.abs(named.astype(int) - loaded.sample(1, seed=3, classes="b", guidance=3.0).images).max() <= 1
    assert np.abs(steps.astype(int) - loaded.sample(2, steps=7, sampler="heun_stochastic").images).max() <= 1
    assert np.array_equal(pictures, plain[:, 0])
    assert np.allclose(shown[..., 0] * 255, plain[:, 0], atol=1e-4)


def test_values_of_any_kind_come_to_a_hundred_thousandth(tmp_path: Path) -> None:
    run, folder = save(tmp_path / "run", ONE_STEP, FLOATS, ()), tmp_path / "pipeline"
    opened = open_run(run)
    opened = replace(opened, metadata=with_mask(Metadata(nodata=-9.0), MASK))
    save_diffusers(opened, folder)
    made, free, again, rows = without_pixelpath(
        folder, tmp_path, {"seeds": [4, 5]}, {"batch_size": 2, "torch_seed": 1}, {"batch_size": 2, "torch_seed": 1},
        {"seeds": [4, 5], "output_type": "np"},
    )  # fmt: skip
    own = sampled(opened, 4, 2)
    assert made.dtype == np.float32
    assert made.std() > 1
    assert np.allclose(made, own, rtol=1e-5, atol=1e-5)
    assert (made[:, MASK] == -9).all()
    assert (made != -9).sum() == made.size - 2 * MASK.sum()
    assert np.array_equal(rows.transpose(0, 3, 1, 2), made)
    assert np.array_equal(free, again)
    assert not np.allclose(free, made)


def sampled(run: OpenRun, seed: int, count: int) -> np.ndarray:
    """The run's own images."""
    from pixelpath.runs.sample import sample

    return sample(run, range(seed, seed + count), torch.zeros(count, dtype=torch.int64)).images


def test_the_folder_has_what_it_says_and_saves_itself_again(tmp_path: Path) -> None:
    run = save(tmp_path / "run", ONE_STEP)
    save_diffusers(open_run(run), tmp_path / "pipeline")
    from pixelpath.interop.diffusers_folder import made_by, open_pipeline

    pipeline = open_pipeline(tmp_path / "pipeline")
    own = made_by(pipeline, range(2), [0, 1])
    pipeline.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "model_index.json").read_text())
    first = json.loads((tmp_path / "pipeline" / "model_index.json").read_text())
    assert {name: again[name] for name in ("normaliser", "noise", "sampling", "id2label")} == {
        name: first[name] for name in ("normaliser", "noise", "sampling", "id2label")
    }
    assert own.shape == (2, 1, 8, 8)
    for wrong in ({"class_labels": "c"}, {"class_labels": 3}, {"class_labels": [0, 1], "batch_size": 3}):
        with pytest.raises(ValueError, match="class_labels"):
            pipeline(**wrong)
    halved = pipeline.to(torch.bfloat16)(class_labels=[0, 1], seeds=range(2), output_type="native").images
    assert 0 < np.abs(halved.astype(int) - own).mean() < 5
    with pytest.raises(UserError, match="is there already"):
        save_diffusers(open_run(run), tmp_path / "pipeline")
    assert BYTES.dtype == "uint8"
