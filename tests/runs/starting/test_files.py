"""A start on disk belongs to one set of weights; the samples of another run are a start that needs that run again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pixelpath.atomic import read_json
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.randomness import Streams, seed_of
from pixelpath.recipes.build import student_of
from pixelpath.recipes.digits import digits_diffusion, digits_onestep
from pixelpath.recipes.recipe import Recipe, for_data
from pixelpath.recipes.sizes import Blocks, Size
from pixelpath.runs.generate import Origin, from_sources
from pixelpath.runs.opened import OpenRun
from pixelpath.runs.starting.files import ENERGIES, RunSamples, check_generator, fingerprint, open_start, save_start
from pixelpath.sampling.sampler import Sampling, usual
from pixelpath.starts.gaussian import fit_gaussian
from pixelpath.starts.simple import FromSamples
from pixelpath.starts.warm import WarmStart

SHAPE = (1, 4, 4)
SMALL = Size(Blocks(1, 16, 2), Blocks(1, 16, 2))
CLASSES = ("across", "down")
LABELS = torch.tensor([0, 1, 1])


def run_of(recipe: Recipe, folder: Path, seed: int = 0) -> OpenRun:
    """A run of two classes, of weights that are a function of the seed."""
    closed = for_data(replace(recipe, size=SMALL, patch=2), 4, 4)
    model = student_of(closed, SHAPE, len(CLASSES)).eval()
    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return OpenRun(folder, folder / "checkpoints" / "step-00000003", closed, SHAPE, CLASSES, Normaliser((1.0,), (2.0,)), model, 3)


@pytest.fixture
def run(tmp_path: Path) -> OpenRun:
    return run_of(digits_diffusion(), tmp_path / "run")


@pytest.fixture
def warm() -> WarmStart:
    """A Gaussian for each class, at level 1.5, with 2000 expected energies."""
    numbers = torch.Generator().manual_seed(0)
    images = torch.randn(200, *SHAPE, generator=numbers)
    density = fit_gaussian(images, torch.arange(200) % 2, 2)
    return WarmStart(density, 1.5, torch.linspace(0.5, 1.5, 2000))


def test_a_start_comes_back_as_it_was(run: OpenRun, warm: WarmStart, tmp_path: Path) -> None:
    save_start(tmp_path / "start", warm, run, {"name": "moment", "steps": 7})
    again = open_start(tmp_path / "start", run)
    assert again.sigma == 1.5
    assert warm.expected is not None
    assert again.expected is not None
    assert torch.equal(again.expected, warm.expected[:ENERGIES])
    drawn = [each.draw(Streams(range(3)), SHAPE, LABELS) for each in (warm, again)]
    assert torch.equal(*drawn)
    about = json.loads((tmp_path / "start" / "start.json").read_text())["about"]
    metadata = {"name": "moment", "steps": 7, "sigma": 1.5, "denoiser": fingerprint(run), "run": str(run.path)}
    assert {name: about[name] for name in metadata} == metadata
    assert about["checkpoint"] == "step-00000003"


def test_energies_that_are_not_known_stay_so(run: OpenRun, warm: WarmStart, tmp_path: Path) -> None:
    save_start(tmp_path, replace(warm, expected=None), run, {})
    assert open_start(tmp_path, run).expected is None


def test_the_fingerprint_is_that_of_every_weight(run: OpenRun) -> None:
    same = run_of(digits_diffusion(), run.path)
    assert fingerprint(same) == fingerprint(run)
    last = list(same.model.parameters())[-1]
    with torch.no_grad():
        last[..., -1] = torch.nextafter(last[..., -1], torch.tensor(9.0))
    assert fingerprint(same) != fingerprint(run)
    assert fingerprint(run_of(digits_diffusion(), run.path, seed=1)) != fingerprint(run)


def test_a_start_is_for_the_weights_it_was_fitted_with(run: OpenRun, warm: WarmStart, tmp_path: Path) -> None:
    """Not for its folder: a run that was moved keeps its starts, a run in its place does not have them."""
    save_start(tmp_path / "start", warm, run, {})
    moved = replace(run, path=tmp_path / "elsewhere")
    assert open_start(tmp_path / "start", moved).sigma == 1.5
    other = run_of(digits_diffusion(), run.path, seed=1)
    with pytest.raises(ValueError, match=r"was fitted for step-00000003 of .*run, and .*run has other weights at step-00000003"):
        open_start(tmp_path / "start", other)


@pytest.mark.parametrize("missing", ["sigma", "denoiser", "residual_energies"])
def test_a_start_without_what_it_needs_is_refused(missing: str, run: OpenRun, warm: WarmStart, tmp_path: Path) -> None:
    save_start(tmp_path, warm, run, {})
    file = tmp_path / "start.json"
    saved = read_json(file)
    del saved["about"][missing]
    file.write_text(json.dumps(saved))
    with pytest.raises(
        ValueError, match=f"is a start without a level or a denoiser .*{missing}.*: fit one with `pixelpath start"
    ):
        open_start(tmp_path, run)


@pytest.mark.parametrize("wrong", [None, 1.0, "many", [None], [[1.0, 2.0]], ["a"]], ids=str)
def test_energies_are_numbers(wrong: Any, run: OpenRun, warm: WarmStart, tmp_path: Path) -> None:
    save_start(tmp_path, warm, run, {})
    file = tmp_path / "start.json"
    saved = read_json(file)
    saved["about"]["residual_energies"] = wrong
    file.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match="is a start without a level or a denoiser"):
        open_start(tmp_path, run)


def test_no_start_is_no_file(run: OpenRun, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no start in"):
        open_start(tmp_path, run)


def test_a_function_cannot_be_saved(run: OpenRun, tmp_path: Path) -> None:
    start = FromSamples(lambda sources, labels: torch.zeros(len(sources), *SHAPE))
    with pytest.raises(ValueError, match="A start FromSamples cannot be saved"):
        save_start(tmp_path / "start", WarmStart(start, 1.0), run, {})
    assert not (tmp_path / "start").exists()


# the samples of another run


@pytest.fixture
def onestep(tmp_path: Path) -> OpenRun:
    return run_of(digits_onestep(), tmp_path / "onestep", seed=2)


@pytest.mark.parametrize("steps", [1, 2])
def test_samples_of_a_run_are_its_images_and_noise(steps: int, onestep: OpenRun) -> None:
    """The image is that of the same generator, by its own sampler; the noise comes next from that generator."""
    start = RunSamples(onestep, steps)
    sampling, origin = Sampling(steps, 1.0).over(usual(one_step=True)), Origin(onestep.noise)
    clean = from_sources(onestep.denoiser, origin, sampling, Streams(range(3)), LABELS)
    torch.testing.assert_close(start.sample(Streams(range(3)), 0.0, LABELS), clean, rtol=0, atol=1e-6)
    one, two = (start.sample(Streams(range(3)), sigma, LABELS) - clean for sigma in (0.7, 1.4))
    torch.testing.assert_close(two, 2 * one, rtol=1e-4, atol=1e-5)
    whole = start.sample(Streams(seed_of(place) for place in range(2000)), 3.0, torch.arange(2000) % 2)
    base = from_sources(
        onestep.denoiser, origin, sampling, Streams(seed_of(place) for place in range(2000)), torch.arange(2000) % 2
    )
    assert float((whole - base).std()) == pytest.approx(3.0, rel=0.02)
    parts = [start.sample(Streams([place]), 0.7, LABELS[place : place + 1]) for place in range(3)]
    torch.testing.assert_close(torch.cat(parts), start.sample(Streams(range(3)), 0.7, LABELS), rtol=0, atol=1e-5)


def test_samples_of_a_run_depend_on_the_class(onestep: OpenRun) -> None:
    start = RunSamples(onestep)
    zero, one = (start.sample(Streams([5]), 0.5, torch.tensor([label])) for label in (0, 1))
    assert (zero - one).abs().max() > 0.01


def test_the_state_says_which_run_and_weights(onestep: OpenRun) -> None:
    metadata, tensors = RunSamples(onestep, 2).state()
    assert tensors == {}
    assert metadata == {
        "family": "run", "run": str(onestep.path.resolve()), "checkpoint": "step-00000003", "steps": 2,
        "weights": fingerprint(onestep),
    }  # fmt: skip


def test_samples_are_saved_as_where_they_come_from(
    run: OpenRun, onestep: OpenRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    condition: list[Any] = []

    def opened(path: Path, which: Path, device: Any) -> OpenRun:
        condition.append((path, which))
        return onestep

    monkeypatch.setattr("pixelpath.runs.starting.files.open_run", opened)
    save_start(tmp_path / "start", WarmStart(RunSamples(onestep, 2), 2.0, torch.ones(3)), run, {})
    again = open_start(tmp_path / "start", run)
    assert condition == [(onestep.path.resolve(), onestep.path.resolve() / "checkpoints" / "step-00000003")]
    expected = RunSamples(onestep, 2).sample(Streams(range(3)), 2.0, LABELS)
    assert torch.equal(again.draw(Streams(range(3)), SHAPE, LABELS), expected)
    onestep = run_of(digits_onestep(), onestep.path, seed=3)
    with pytest.raises(ValueError, match="has other weights than when the start was made of its samples"):
        open_start(tmp_path / "start", run)


def test_a_generator_that_is_gone_is_no_file(run: OpenRun, onestep: OpenRun, tmp_path: Path) -> None:
    save_start(tmp_path / "start", WarmStart(RunSamples(onestep), 2.0), run, {})
    with pytest.raises(FileNotFoundError):
        open_start(tmp_path / "start", run)


@pytest.mark.parametrize(
    "other",
    [{"shape": (3, 4, 4)}, {"normaliser": Normaliser((1.0,), (3.0,))}, {"classes": ()}, {"classes": ("down", "across")}],
    ids=["shape", "range", "no classes", "order of classes"],
)
def test_a_generator_knows_the_same_images(other: dict[str, Any], run: OpenRun, onestep: OpenRun) -> None:
    check_generator(onestep, run)
    with pytest.raises(
        ValueError, match=r"onestep was trained on other images or classes than .*run, so its samples cannot start"
    ):
        check_generator(replace(onestep, **other), run)
