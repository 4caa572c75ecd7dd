"""A run of many steps as a folder: sample.py makes the run's images with numpy and onnxruntime, or torch, alone."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.application import call, files
from tests.runs.sharing.test_export import BYTES, ONE_STEP, save
from tests.runs.sharing.test_export_diffusers import DIFFUSION, MASK

from pixelpath.data.metadata import Metadata
from pixelpath.data.normalise.curves import Asinh
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.unmeasured import with_mask
from pixelpath.errors import UserError
from pixelpath.interop import sample_alone
from pixelpath.interop.generator import ONNX, TORCH
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.recipes.recipe import Sampling
from pixelpath.runs.opened import open_run
from pixelpath.runs.sample import sample
from pixelpath.runs.sharing import export_steps as module
from pixelpath.runs.sharing.export import export
from pixelpath.sampling.sampler import Sampler

ALONE = """
import sys
for name in {names}:
    sys.modules[name] = None  # importing it fails
sys.path.insert(0, sys.argv[1])
import numpy as np, sample
noises = np.load(sys.argv[2])
np.save(sys.argv[3], sample.sample(sample.load(), list(noises), np.array({labels})))
"""


def alone(folder: Path, tmp: Path, labels: list[int], without: list[str]) -> np.ndarray:
    """The images of seeds 0, 1, ... by a folder's sample.py, in a process that cannot import some packages."""
    walk = json.loads((folder / "walk.json").read_text())
    streams = Streams([seed_of(seed) for seed in range(len(labels))])
    np.save(tmp / "noises.npy", torch.stack([normal(streams, (1, 8, 8)) for _ in range(walk["noises"])]).numpy())
    words = [sys.executable, "-B", "-c", ALONE.format(names=without, labels=labels)]
    found = subprocess.run([*words, folder, tmp / "noises.npy", tmp / "made.npy"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return np.load(tmp / "made.npy")


def test_onnx_and_numpy_make_the_images_of_a_diffusion_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, folder = save(tmp_path / "run", DIFFUSION), tmp_path / "steps"
    assert call("export", run, "--guidance", 3, "--out", folder) == 0
    assert "Run by numpy, it makes the images of the run: on 4 seeds" in capsys.readouterr().err
    assert {path.name for path in files(folder)} == {"denoiser.onnx", "decode.onnx", "walk.json", "sample.py"}
    made = alone(folder, tmp_path, [0, 1, 0, 1], ["pixelpath", "torch"])
    own = sample(open_run(run), range(4), torch.tensor([0, 1, 0, 1]), Sampling(guidance=3.0)).images
    assert made.dtype == np.uint8
    assert (own[0] != own[2]).mean() > 0.5  # of one class: the noise matters
    assert np.abs(made.astype(int) - own).max() <= 1
    assert (made == own).mean() > 0.99
    none = alone(folder, tmp_path, [2, 2, 2, 2], ["pixelpath", "torch"])
    assert np.abs(none.astype(int) - own).max() > 1
    assert call("export", run, "--out", folder) == 2
    assert "is there already: choose another --out" in capsys.readouterr().err


def test_torch_alone_walks_a_sampler_that_adds_noise(tmp_path: Path) -> None:
    recipe = replace(DIFFUSION, sampling=Sampling(steps=3, sampler=Sampler.HEUN_STOCHASTIC, guidance=1.0))
    run = open_run(save(tmp_path / "run", recipe, Normaliser((5.0,), (3.0,), "float32"), ()))
    folder = module.export_steps(run, TORCH, out=tmp_path / "steps")
    streams = Streams([seed_of(seed) for seed in range(2)])
    loaded = sample_alone.load(folder)
    made = sample_alone.sample(loaded, [normal(streams, (1, 8, 8)).numpy() for _ in range(loaded[0]["noises"])])
    own = sample(run, range(2), torch.zeros(2, dtype=torch.int64)).images
    assert loaded[0]["noises"] > 1
    assert np.allclose(made, own, rtol=1e-5, atol=1e-4)
    with pytest.raises(ValueError, match=r"takes \d+ noises"):
        sample_alone.sample(loaded, [made])


def test_a_land_mask_is_kept_by_files_of_one_and_of_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelpath.runs.sharing.export.SECONDS", 0.0)
    normalisers = [Normaliser((5.0,), (3.0,), "float32", nodata=nodata) for nodata in (-9.0, float("nan"))]
    metadata = [with_mask(Metadata(nodata=each.nodata), MASK) for each in normalisers]
    one = replace(open_run(save(tmp_path / "one", ONE_STEP, normalisers[0], ())), metadata=metadata[0])
    many = replace(open_run(save(tmp_path / "many", DIFFUSION, normalisers[1], ())), metadata=metadata[1])
    make = ONNX.read(export(one, ONNX, out=tmp_path / "one.onnx"))
    folder = module.export_steps(many, TORCH, out=tmp_path / "many-steps")
    noise = torch.randn(2, 1, 8, 8)
    first = make(noise, None).numpy()
    second = sample_alone.sample(sample_alone.load(folder), [noise.numpy()])
    assert np.array_equal(first == -9, np.broadcast_to(MASK, first.shape))
    assert np.array_equal(np.isnan(second), np.broadcast_to(MASK, second.shape))


def test_what_a_folder_cannot_hold_is_said(tmp_path: Path) -> None:
    curved = Normaliser((0.0,), (1.0,), "float32", (Asinh(2.0),))
    run = open_run(save(tmp_path / "run", DIFFUSION, curved, ()))
    with pytest.raises(UserError, match="has a curve: choose --format diffusers"):
        module.export_steps(run, out=tmp_path / "steps")
    assert not (tmp_path / "steps").exists()
    assert BYTES.straight
