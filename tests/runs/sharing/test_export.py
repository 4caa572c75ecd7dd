"""`pixelpath export`: one file, checked before it takes its name; nothing is overwritten, and what cannot be done is said."""

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tests.application import call, files
from torch import nn

from pixelpath.data.conditions import Column, Conditions
from pixelpath.data.metadata import Metadata
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.errors import UserError
from pixelpath.interop.generator import Format
from pixelpath.models.preconditioning import EDMPreconditioning
from pixelpath.noise import NoiseRange
from pixelpath.objectives.consistency import Consistency
from pixelpath.objectives.representation import Curriculum, RepresentationLearning
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.recipes.build import student_of
from pixelpath.recipes.recipe import ProjectorSize, Recipe, Sampling, for_data, to_json
from pixelpath.recipes.sizes import Blocks, Size
from pixelpath.runs.opened import open_run
from pixelpath.runs.sharing import export as command
from pixelpath.runs.sharing.export import guided_step
from pixelpath.trainer import checkpoint
from pixelpath.trainer.checkpoint import State

SIZE = Size(Blocks(1, 32, 2), Blocks(1, 32, 2))
BYTES = Normaliser((120.0,), (60.0,))
ONE_STEP = Recipe(
    "tiny-onestep",
    Consistency(NoiseRange()),
    SIZE,
    preconditioning=EDMPreconditioning(),
    sampling=Sampling(steps=1, guidance=1.0),
)


def save(
    folder: Path,
    recipe: Recipe,
    normaliser: Normaliser = BYTES,
    classes: tuple[str, ...] = ("a", "b"),
    asks: Conditions = Conditions(),  # noqa: B008 (frozen)
) -> Path:
    """A run of 8 x 8 images with random weights, those of norms as they begin."""
    torch.manual_seed(0)
    recipe = for_data(recipe, 8, 8)
    model = student_of(recipe, (1, 8, 8), len(classes), asks.numbers, asks.other)
    for name, parameter in model.named_parameters():
        if "norm" not in name:  # norms that shrink what they are given would leave little of the noise in an image
            nn.init.normal_(parameter, std=0.2)
    extras = {
        "recipe": json.loads(to_json(recipe)),
        "normaliser": normaliser.to_json(),
        "data": {
            "shape": [1, 8, 8],
            "classes": list(classes),
            "metadata": Metadata().to_json(),
            "conditions": asks.to_json(),
        },
    }
    checkpoint.save(folder, State(7, 0), model, model, recipe.optimizer.build(model), extras)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-step run of two classes on bytes; no test changes it."""
    return save(tmp_path_factory.mktemp("runs") / "one-step", ONE_STEP)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed is measured for a moment only."""
    monkeypatch.setattr(command, "SECONDS", 0.0)


def test_onnx_makes_what_sample_makes(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "mine.onnx"
    assert call("export", run, "--out", out) == 0
    said = capsys.readouterr().err
    assert "noise [batch, 1, 8, 8] and label [batch] (2: no class) to image, uint8" in said
    assert re.search(r"on 8 seeds (every value is equal|99\.\d\d% of the values are equal, the others at most 1 apart)", said)
    assert re.search(r"onnxruntime on this CPU with 1 thread: 1 at a time [\d.]+ images/s \(PyTorch [\d.]+; median of 3", said)
    assert re.search(r", 64 at a time [\d.]+ images/s \(PyTorch [\d.]+", said)
    assert list(files(out.parent)) == [Path("mine.onnx")]

    session = onnxruntime.InferenceSession(out)
    about = session.get_modelmeta().custom_metadata_map
    assert {name: about[name] for name in ("recipe", "step", "dtype", "guidance")} == {
        "recipe": "tiny-onestep", "step": "7", "dtype": "uint8", "guidance": "1.0"
    }  # fmt: skip
    assert (json.loads(about["classes"]), json.loads(about["shape"])) == (["a", "b"], [1, 8, 8])

    words = ("--count", 5, "--steps", 1, "--sampler", "euler", "--guidance", 1, "--format", "npy", "--out", tmp_path / "samples")
    assert call("sample", run, *words) == 0
    sampled = np.load(tmp_path / "samples" / "000000-000004.npy")
    noise = normal(Streams([seed_of(seed) for seed in range(5)]), (1, 8, 8)).numpy()
    made = np.asarray(session.run(["image"], {"noise": noise, "label": np.arange(5) % 2})[0])
    assert made.dtype == np.uint8
    assert made.std() > 5
    assert np.abs(made.astype(int) - sampled.reshape(made.shape)).max() <= 1


def test_torch_is_written_beside_the_run_and_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = save(tmp_path / "run", ONE_STEP, Normaliser((5.0,), (3.0,), "float32"), ())
    assert call("export", run, "--format", "torch") == 0
    assert "noise [batch, 1, 8, 8] to image, float32" in capsys.readouterr().err
    module = torch.export.load(run / "generator.pt2").module()
    assert [module(torch.zeros(count, 1, 8, 8)).shape for count in (1, 3)] == [(1, 1, 8, 8), (3, 1, 8, 8)]
    before = files(run)
    assert call("export", run, "--format", "torch") == 2
    assert "generator.pt2 is there already: choose another --out, nothing is overwritten." in capsys.readouterr().err
    assert files(run) == before


def test_a_file_that_makes_other_images_is_not_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(path: Path) -> object:
        make = command.TORCH.read(path)
        return lambda noise, label: make(1.01 * noise, label)

    monkeypatch.setitem(command.FORMATS, "torch", Format(".pt2", command.TORCH.write, read))  # pyright: ignore[reportArgumentType]
    assert call("export", run, "--format", "torch", "--out", tmp_path / "off.pt2") == 2
    assert re.search(r"was not kept: its images differ from the run's by [\d.e-]+ in model range", capsys.readouterr().err)
    assert files(tmp_path) == {}


def test_guidance_is_as_the_recipe_says_unless_asked_for(run: Path, tmp_path: Path) -> None:
    opened = open_run(run)
    guided = replace(opened, recipe=replace(opened.recipe, sampling=Sampling(1, 2.5)))
    lower = replace(opened, recipe=replace(opened.recipe, sampling=Sampling(1, 2.5, (0.0, 79.0))))
    plain = replace(open_run(save(tmp_path / "plain", ONE_STEP, classes=())), recipe=guided.recipe)
    numbers = Conditions((Column("heat", "number", mean=15.0, std=6.0),))
    by_number = replace(open_run(save(tmp_path / "by-number", ONE_STEP, classes=(), asks=numbers)), recipe=guided.recipe)
    asked = ((opened, None), (opened, 3.0), (guided, None), (lower, None), (plain, None), (by_number, None))
    assert [guided_step(each, guidance).guidance for each, guidance in asked] == [1, 3, 2.5, 1, 1, 2.5]
    assert guided_step(opened, None).schedule(opened.noise).tolist() == [80 / 8, 0]
    for wrong, reason in ((lower, "guides only at lower sigmas"), (plain, "is unconditional")):
        with pytest.raises(UserError, match=reason) as caught:
            guided_step(wrong, 2.0)
        assert caught.value.setting == "guidance"


def test_an_encoder_makes_no_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = replace(ONE_STEP, projector=ProjectorSize(16, 8))
    encoder = save(tmp_path / "encoder", replace(size, objective=RepresentationLearning(NoiseRange(), Curriculum())))
    assert call("export", encoder) == 2
    said = capsys.readouterr().err
    assert f"--encoder {encoder}" in said
    assert "(NAME-onestep)" in said
    assert not list(encoder.glob("generator*"))
    assert call("export", tmp_path / "nowhere") == 2
    assert "nowhere does not exist" in capsys.readouterr().err


def test_missing_packages_are_said(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("pixelpath.interop.generator.find_spec", lambda name: None if name == "onnxscript" else found(name))
    assert call("export", run) == 2
    assert "ONNX needs onnxscript, not installed here: pip install 'pixelpath[export]'" in capsys.readouterr().err
