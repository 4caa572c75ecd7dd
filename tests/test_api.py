"""The Python face: every public example runs, every name is there, and the caller's world stays as it was."""

from __future__ import annotations

import doctest
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pixelpath as pp
from pixelpath.runs.digits import write_digits
from tests.application import call

ROOT = Path(__file__).parents[1]
PUBLIC = [getattr(pp, name) for name in pp.__all__ if name != "__version__"]


@pytest.fixture(scope="module")
def digits_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits") / "digits.npz")


@pytest.fixture(scope="module")
def data(digits_file: Path) -> pp.Data:
    return pp.open_data(digits_file, held_out=0.2)


@pytest.fixture(scope="module")
def run(data: pp.Data, tmp_path_factory: pytest.TempPathFactory) -> pp.Run:
    return pp.train(data, pp.recipes.digits_diffusion(steps=20), out=tmp_path_factory.mktemp("runs") / "run")


def documented(thing: Any) -> list[Any]:
    """A function or class, and the public methods of a class, that have an example."""
    found = [thing]
    if inspect.isclass(thing) and thing.__module__.startswith("pixelpath"):
        found += [member for name, member in vars(thing).items() if not name.startswith("_") and inspect.isfunction(member)]
    return [each for each in found if ">>>" in (inspect.getdoc(each) or "")]


@pytest.mark.parametrize("thing", [each for thing in PUBLIC for each in documented(thing)], ids=lambda each: each.__qualname__)
def test_the_example_of_a_docstring_runs(thing: Any, data: pp.Data, run: pp.Run, digits_file: Path, tmp_path: Path) -> None:
    names = {
        "data": data,
        "run": run,
        "digits_file": digits_file,
        "folder": tmp_path,
        **{name: getattr(pp, name) for name in pp.__all__},
    }
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(thing) or "", names, thing.__qualname__, None, 0)
    failed, tried = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(example)
    assert tried > 0
    assert failed == 0


def test_what_trains_and_opens_has_an_example() -> None:
    for thing in (pp.open_data, pp.from_arrays, pp.train, pp.training, pp.load, pp.fit_start, pp.Run.sample):
        assert documented(thing), thing
    assert all(inspect.getdoc(thing) for thing in PUBLIC)


def test_the_version_is_that_of_the_package() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", pp.__version__)


def test_importing_the_package_does_not_import_torch() -> None:
    script = "import sys, pixelpath; assert 'torch' not in sys.modules; pixelpath.NoiseRange; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_names_survive_the_import_of_modules_below() -> None:
    script = "import pixelpath as pp, pixelpath.runs.api; assert callable(pp.training) and callable(pp.train), pp.training"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_run_from_memory_is_an_ordinary_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.random.default_rng(0).integers(0, 4096, (40, 12, 8), dtype=np.uint16)
    data = pp.from_arrays(torch.from_numpy(images), [n % 2 for n in range(40)], ["a", "b"], held_out=0.25, units="HU")
    run = pp.train(data, pp.recipes.digits_diffusion(steps=3), out=tmp_path / "run")
    assert (run.shape, run.classes, run.step) == ((1, 12, 8), ("a", "b"), 3)
    made = run.sample(2, seed=5, steps=2)
    assert (made.images.dtype, made.images.shape) == (np.uint16, (2, 1, 12, 8))
    assert capsys.readouterr().err == ""
    out = tmp_path / "samples"
    assert call("sample", tmp_path / "run", "--count", 2, "--first-seed", 5, "--steps", 2, "--out", out, "--format", "npy") == 0
    assert np.array_equal(np.load(next(out.glob("*.npy"))).reshape(made.images.shape), made.images)
    assert json.loads((out / "samples.json").read_text())["units"] == "HU"
    assert call("evaluate", tmp_path / "run", "--count", 4, "--steps", 1, "--no-use-inception") == 0


def test_training_again_takes_the_run_up_and_a_loop_left_early_is_saved(data: pp.Data, tmp_path: Path) -> None:
    recipe = pp.recipes.digits_diffusion(steps=4)
    whole = pp.train(data, recipe, out=tmp_path / "whole")
    for step in pp.training(data, recipe, out=tmp_path / "parts"):
        if step.number == 2:
            break
    assert pp.load(tmp_path / "parts").step == 2
    assert [step.number for step in pp.training(data, recipe, out=tmp_path / "parts")] == [3, 4]
    parts = pp.load(tmp_path / "parts")
    for ours, theirs in zip(whole.denoiser.parameters(), parts.denoiser.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_callers_random_state_threads_and_precision_stay(data: pp.Data, run: pp.Run, tmp_path: Path) -> None:
    def state() -> list[Any]:
        precision = torch.get_float32_matmul_precision()
        return [torch.get_rng_state().tolist(), str(np.random.get_state()), torch.get_num_threads(), precision]

    before = state()
    for _ in pp.training(data, pp.recipes.digits_diffusion(steps=2), out=tmp_path / "run"):
        assert state() == before
    run.sample(2, steps=2)
    assert state() == before


def test_short_representations(data: pp.Data, run: pp.Run) -> None:
    samples = run.sample(3, steps=1)
    for thing in (data, data.training, run, samples):
        assert len(repr(thing)) < 200
        assert "\n" not in repr(thing)


def test_a_notebook_shows_samples_and_findings(data: pp.Data, run: pp.Run) -> None:
    assert run.sample(3, steps=1)._repr_png_().startswith(b"\x89PNG")
    assert "<" in data.audit(fast=True)._repr_html_()
    assert run.curves().get_axes()


@pytest.mark.parametrize(
    ("wrong", "setting"),
    [
        ({"nfe": 4, "sampler": "heun"}, "nfe"),
        ({"steps": 2, "nfe": 3}, "steps"),
        ({"sampler": "hune"}, "sampler"),
        ({"classes": ["eleven"]}, "classes"),
        ({"guidance": float("nan")}, "guidance"),
        ({"sigmas": [3.0, 9.0]}, "sigmas"),
        ({"sigmas": [3.0, 1.0], "rho": 5}, "rho"),
        ({"rho": 0.5}, "rho"),
        ({"sigma_max": 0}, "sigma_max"),
        ({"sigma_max": 1e9}, "sigma_max"),
        ({"sigma_max": 2, "start": "somewhere"}, "sigma_max"),
        ({"count": 0}, "count"),
    ],
)
def test_a_mistake_names_its_setting(run: pp.Run, wrong: dict[str, Any], setting: str) -> None:
    with pytest.raises(pp.UserError) as caught:
        run.sample(**wrong)
    assert caught.value.setting == setting


def test_network_evaluations_are_what_was_asked_for(run: pp.Run) -> None:
    assert run.sample(2, nfe=5, guidance=1).nfe == 5
    assert run.sample(2, nfe=4, guidance=1, sampler="dpmpp_2m").nfe == 4
    assert run.sample(2, nfe=5, guidance=2).nfe == 10  # with and without label


@pytest.mark.parametrize("name", ["own_tensors", "own_denoiser", "own_loop"])
def test_a_script_runs(name: str, tmp_path: Path) -> None:
    script = ROOT / "examples" / f"{name}.py"
    assert len(script.read_text().splitlines()) <= 25
    done = subprocess.run([sys.executable, script, tmp_path, "4"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPS", "4")
    monkeypatch.setenv("OUT", str(tmp_path))
    cells = json.loads((ROOT / "examples" / "first_steps.ipynb").read_text())["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert len(names["samples"]) == 40
    assert (tmp_path / "samples" / "grid.png").exists()


def test_data_that_do_not_fit_are_refused(run: pp.Run, tmp_path: Path) -> None:
    """Images that are open already meet the checks of those that a path names: the patch in training, the run's kind later."""
    odd = pp.from_arrays(np.zeros((30, 9, 9), np.uint8) + np.arange(30, dtype=np.uint8)[:, None, None])
    with pytest.raises(pp.UserError) as caught:
        pp.train(odd, pp.recipes.digits_diffusion(steps=2), out=tmp_path / "run")
    assert caught.value.setting == "data.resize"
    assert not (tmp_path / "run").exists()
    with pytest.raises(pp.UserError) as caught:
        run.evaluate(pp.from_arrays(np.zeros((30, 8, 8), np.uint16)))
    assert caught.value.setting == "data"


def test_settings_stay_where_no_argument_is_given() -> None:
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8)
    chosen = pp.DataSettings(held_out_share=0.5, units="mm/h")
    data = pp.from_arrays(images, settings=chosen)
    assert (data.settings.held_out_share, data.settings.units) == (0.5, "mm/h")
    assert pp.from_arrays(images, held_out=0.1, settings=chosen).settings.held_out_share == 0.1


def test_a_sampler_by_its_name_belongs_to_the_command_line() -> None:
    assert pp.Sampling(sampler=pp.sampling.Sampler.EULER).sampler is pp.sampling.Sampler("euler")
    script = "import pixelpath as pp; pp.Sampling(sampler='euler')"  # the tests' own checks of types would come first
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "UserError: `sampler`" in done.stderr
    assert "EULER" in done.stderr
