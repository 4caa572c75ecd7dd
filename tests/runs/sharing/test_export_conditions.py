"""Exports of runs with numbers and images as conditions, and of fitted starts: they make what `sample` makes, to 1e-5."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tests.runs.sharing.test_export import ONE_STEP, save
from tests.runs.sharing.test_export_diffusers import DIFFUSION, without_pixelpath

from pixelpath.data.conditions import Column, CondImageEncoding, Conditions
from pixelpath.data.normalise.curves import Asinh
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.errors import UserError
from pixelpath.interop import sample_alone
from pixelpath.interop.generator import TORCH
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.recipes.recipe import Sampling
from pixelpath.runs.api import load
from pixelpath.runs.opened import open_run
from pixelpath.runs.sharing.export import export
from pixelpath.runs.sharing.export_steps import export_steps
from pixelpath.runs.sharing.exports import ExportFormat, write_export
from pixelpath.runs.starting.files import save_start
from pixelpath.starts.gaussian import LowRank, fit_gaussian
from pixelpath.starts.mixture import fit_mixture
from pixelpath.starts.start import Start
from pixelpath.starts.student import fit_student
from pixelpath.starts.warm import WarmStart

FLOATS = Normaliser((5.0,), (3.0,), "float32")
COLUMNS = (
    Column("heat", "number", 20.0, 4.0),
    Column("place", "category", words=("coast", "hill")),
    Column("marks", "tags", words=("dry", "old", "wet")),
)
MASKS = Conditions(COLUMNS, CondImageEncoding(1, 3))
MAPS = Conditions((), CondImageEncoding(2, normaliser=Normaliser((1.0, 2.0), (0.5, 4.0), "float32")))
TABLE = "name,heat,place,marks\na,23.5,hill,wet|dry\nb,12.25,coast,\n"
NUMBERS = {"heat": ["23.5", "12.25"], "place": ["hill", "coast"], "marks": ["wet|dry", ""]}
GUIDED = replace(DIFFUSION, sampling=Sampling(steps=4, guidance=2.0))


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Speed is measured for a moment only, and code of pipelines is copied below the test's folder."""
    monkeypatch.setattr("pixelpath.runs.sharing.export.SECONDS", 0.0)
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.fixture
def masks(tmp_path: Path) -> np.ndarray:
    """Two masks, also as a file beside a table of two lines."""
    (tmp_path / "asked.csv").write_text(TABLE)
    found = np.random.default_rng(0).integers(0, 3, (2, 1, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "masks.npy", found)
    return found


def noises(walk: dict[str, object], count: int) -> list[np.ndarray]:
    """Those of the seeds 0, 1, ..."""
    streams = Streams([seed_of(seed) for seed in range(count)])
    assert isinstance(walk["noises"], int)
    return [normal(streams, (1, 8, 8)).numpy() for _ in range(walk["noises"])]


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_a_folder_takes_numbers_and_masks_under_guidance(tmp_path: Path, masks: np.ndarray, format: str) -> None:
    run = load(save(tmp_path / "run", GUIDED, FLOATS, asks=MASKS), device="cpu")
    folder = run.export(tmp_path / "steps", format=format)  # pyright: ignore[reportArgumentType]
    parts = sample_alone.load(folder)
    made = sample_alone.sample(parts, noises(parts[0], 2), np.array([0, 1]), NUMBERS, masks)
    table, images = tmp_path / "asked.csv", tmp_path / "masks.npy"
    own = run.sample(2, conditions=table, cond_image=images).images
    np.testing.assert_allclose(made, own, rtol=1e-5, atol=1e-5 * 3)
    other = sample_alone.sample(parts, noises(parts[0], 2), np.array([0, 1]), NUMBERS, masks[::-1])
    assert np.abs(other - own).max() > 0.1
    warmer = sample_alone.sample(parts, noises(parts[0], 2), np.array([0, 1]), NUMBERS | {"heat": [28, 12.25]}, masks)
    assert np.abs(warmer - own)[0].max() > 0.01
    with pytest.raises(ValueError, match="trained with heat, place, marks, condition images"):
        sample_alone.sample(parts, noises(parts[0], 2), np.array([0, 1]), None, masks)
    if format == "onnx":
        words = ["--count", "3", "--conditions", tmp_path / "asked.csv", "--cond-image", tmp_path / "masks.npy"]
        out = tmp_path / "made.npy"
        subprocess.run([sys.executable, folder / "sample.py", *words, "--out", out], check=True, capture_output=True)
        assert np.load(out).shape == (3, 1, 8, 8)


def test_a_folder_and_a_pipeline_take_maps_of_values(tmp_path: Path) -> None:
    maps = np.random.default_rng(1).normal(1.5, 1, (2, 2, 8, 8)).astype(np.float32)
    np.save(tmp_path / "maps.npy", maps)
    run = load(save(tmp_path / "run", GUIDED, FLOATS, (), MAPS), device="cpu")
    own = run.sample(2, cond_image=tmp_path / "maps.npy").images
    parts = sample_alone.load(run.export(tmp_path / "steps", format="torch"))
    made = sample_alone.sample(parts, noises(parts[0], 2), cond_image=maps)
    np.testing.assert_allclose(made, own, rtol=1e-5, atol=1e-5 * 3)
    (piped,) = without_pixelpath(
        run.save_diffusers(tmp_path / "pipeline"), tmp_path, {"seeds": [0, 1], "cond_image": maps.tolist()}
    )
    np.testing.assert_allclose(piped, own, rtol=1e-5, atol=1e-5 * 3)


def test_a_pipeline_takes_numbers_and_masks(tmp_path: Path, masks: np.ndarray) -> None:
    run = load(save(tmp_path / "run", GUIDED, FLOATS, asks=MASKS), device="cpu")
    folder = run.save_diffusers(tmp_path / "pipeline")
    asked = {"seeds": [0, 1], "class_labels": ["a", "b"], "cond_image": masks.tolist()}
    own, same, none = without_pixelpath(
        folder,
        tmp_path,
        {**asked, "numbers": NUMBERS},
        {**asked, "numbers": {"heat": 23.5, "place": "hill", "marks": "wet|dry"}},
        {"seeds": [0, 1], "class_labels": ["a", "b"]},
    )
    table, images = tmp_path / "asked.csv", tmp_path / "masks.npy"
    np.testing.assert_allclose(own, run.sample(2, conditions=table, cond_image=images).images, rtol=1e-5, atol=1e-5 * 3)
    np.testing.assert_allclose(same[0], own[0], rtol=1e-5, atol=1e-5 * 3)
    assert min(np.abs(same[1] - own[1]).max(), np.abs(none - own).max()) > 0.01
    from pixelpath.interop.diffusers_folder import open_pipeline

    pipeline = open_pipeline(folder)
    for wrong, words in (
        ({"numbers": {"heat": 1}}, "heat, place, marks"),
        ({"numbers": {"heat": "hot", "place": "hill", "marks": ""}}, "hot is no finite number"),
        ({"cond_image": masks[:, :, :4]}, "must have the shape"),
        ({"cond_image": masks + 2}, "class"),
    ):
        with pytest.raises(ValueError, match=words):
            pipeline(**wrong)
    pipeline.to(torch.bfloat16)(numbers=NUMBERS, cond_image=masks, class_labels=0, seeds=range(2), output_type="native")


def test_one_step_files_take_conditions(tmp_path: Path) -> None:
    run = open_run(save(tmp_path / "run", ONE_STEP, FLOATS, (), MASKS))
    file = export(run, out=tmp_path / "generator.onnx", guidance=1.5)
    session = onnxruntime.InferenceSession(file)
    assert [each.name for each in session.get_inputs()] == ["noise", "numbers", "cond_image"]
    assert json.loads(session.get_modelmeta().custom_metadata_map["conditions"]) == MASKS.to_json()
    export(run, TORCH, out=tmp_path / "generator.pt2")


def test_a_page_cannot_ask_for_images(tmp_path: Path) -> None:
    run = open_run(save(tmp_path / "run", DIFFUSION, asks=MASKS))
    with pytest.raises(UserError, match="takes condition images, which a page cannot give"):
        write_export(run, "web", out=tmp_path / "web")


def test_condition_images_with_a_curve_need_diffusers(tmp_path: Path) -> None:
    curved = Conditions((), CondImageEncoding(1, normaliser=Normaliser((0.0,), (1.0,), "float32", (Asinh(2.0),))))
    run = load(save(tmp_path / "run", DIFFUSION, FLOATS, (), curved), device="cpu")
    with pytest.raises(UserError, match="choose --format diffusers"):
        run.export(tmp_path / "steps")
    run.save_diffusers(tmp_path / "pipeline")  # which compares its images with those of the run


def fitted(name: str) -> Start:
    """A start of two classes, of three Gaussians each where it is a mixture."""
    draws = torch.Generator().manual_seed(2)
    images = 0.3 * torch.randn(200, 1, 8, 8, generator=draws).cumsum(3) / 2
    labels = torch.arange(200) % 2
    images[labels == 1] += 0.4
    if name == "full mixture":
        return fit_mixture(images, None, 0, components=2, coordinates=64)
    return fit_mixture(images, labels, 2, 3, 6) if name == "mixture" else fit_gaussian(images, labels, 2, LowRank(5))


@pytest.mark.parametrize("name", ["gaussian", "mixture", "full mixture"])
def test_a_start_of_gaussians_comes_along(tmp_path: Path, name: str) -> None:
    run = load(save(tmp_path / "run", GUIDED, FLOATS), device="cpu")
    save_start(tmp_path / "start", WarmStart(fitted(name), 0.7), run, {})
    folder = run.export(tmp_path / "steps", format="torch", start=tmp_path / "start")
    parts = sample_alone.load(folder)
    from pixelpath.runs.sharing.export_steps import _first

    first = _first(parts[0], Streams([seed_of(seed) for seed in range(6)]), run, np.arange(6) % 2)
    made = sample_alone.sample(parts, [first], np.arange(6) % 2)
    own = run.sample(6, start=tmp_path / "start").images
    np.testing.assert_allclose(made, own, rtol=1e-5, atol=1e-5 * 3)
    assert np.abs(own - run.sample(6).images).max() > 0.5
    words = [sys.executable, folder / "sample.py", "--count", "2", "--out", tmp_path / "made.npy"]
    subprocess.run(words, check=True, capture_output=True)
    assert np.isfinite(np.load(tmp_path / "made.npy")).all()


def test_other_starts_are_refused(tmp_path: Path) -> None:
    run = load(save(tmp_path / "run", DIFFUSION, FLOATS, ()), device="cpu")
    images = 0.5 * torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    save_start(tmp_path / "student", WarmStart(fit_student(images, diagonal=True, freedom=5.0), 0.7), run, {})
    refusals: dict[ExportFormat, str] = {"onnx": "only Gaussians", "diffusers": "is not exported", "web": "is not exported"}
    for format, words in refusals.items():
        with pytest.raises(UserError, match=words) as caught:
            write_export(run, format, out=tmp_path / "out", start=tmp_path / "student")
        assert caught.value.setting == "start"
    export_steps(run, TORCH, out=tmp_path / "cold")
