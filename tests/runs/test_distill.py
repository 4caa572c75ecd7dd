"""A distilled run learns the samples of its teacher, keeps them, and makes images in one evaluation from pure noise alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.application import call
from tests.asking import run_with_conditions

import pixelpath as pp
from pixelpath.errors import UserError
from pixelpath.objectives.distillation import Distillation
from pixelpath.runs import teacher as making
from pixelpath.runs.digits import write_digits
from pixelpath.runs.measuring.evaluate import evaluate_curves
from pixelpath.runs.opened import OpenRun
from pixelpath.runs.prepare import batches, read_data_of
from pixelpath.runs.sample import Samples, counted, sample
from pixelpath.runs.teacher import FILE, FIRST, taught
from pixelpath.sampling.sampler import Sampler, Sampling
from pixelpath.trainer import checkpoint
from pixelpath.types import Batch, Condition

CPU, TOLD = torch.device("cpu"), ("images", "labels")
HOW = pp.Distilling(images=48, nfe=4, steps=40)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> pp.Run:
    folder = tmp_path_factory.mktemp("teacher")
    data = pp.open_data(write_digits(folder / "digits.npz"), held_out=0.2)
    return pp.train(data, pp.recipes.digits_diffusion(steps=60, batch_size=32), out=folder / "run", device="cpu")


@pytest.fixture(scope="module")
def student(teacher: pp.Run) -> pp.Run:
    return pp.distill(teacher, teacher.path.parent / "one-step", HOW, device="cpu")


def test_what_is_taught_are_the_teachers_samples_of_their_seeds(teacher: pp.Run, student: pp.Run) -> None:
    """Image k of the kept ones is that of seed FIRST + k and of training image k's class, guided as the teacher's recipe says."""
    data, objective = read_data_of(student, None), student.recipe.objective
    assert isinstance(objective, Distillation)
    assert (objective.guidance, objective.first) == (teacher.recipe.usual_sampling.guidance, 10.0)
    kept = np.fromfile(student.path / FILE, np.uint8).reshape(48, 1, 8, 8)
    names = [teacher.classes[data.training.label(index * len(data.training) // 48)] for index in range(48)]
    for row in (0, 29, 47):
        made = teacher.sample(1, classes=[names[row]], seed=FIRST + row, nfe=4, sampler=Sampler.DPMPP_2M, guidance=1.5)
        assert np.abs(made.images[0].astype(int) - kept[row]).max() <= 1  # batches of other sizes are rounded otherwise
    whole = taught(objective, data, teacher.path, student.path, CPU)
    for recipe in (student.recipe, replace(student.recipe, flip=True)):  # a mirrored image is not what its noise leads to
        lessons = [next(batches(recipe, whole, CPU, step)) for step in range(3)]
        rows = [seed - FIRST for lesson in lessons for seed in lesson.seeds]
        assert sorted(rows) == sorted([*range(48), *range(48)])  # 96 images are two epochs
        for row, image, label in zip(rows, *(torch.cat([vars(each)[what] for each in lessons]) for what in TOLD), strict=True):
            assert torch.equal(image, data.normaliser.encode(torch.from_numpy(kept[row])[None])[0])
            assert teacher.classes[int(label)] == names[row]


def test_one_evaluation_from_the_noise_of_an_image_comes_near_it(teacher: pp.Run, student: pp.Run) -> None:
    """The squared error on what was learned falls to about half of what it was under the teacher's own weights, or less."""
    objective = student.recipe.objective
    assert isinstance(objective, Distillation)
    whole = taught(objective, read_data_of(student, None), teacher.path, student.path, CPU)
    lesson = next(batches(student.recipe, whole, CPU, 0))
    assert isinstance(lesson, Batch)
    with torch.no_grad():
        before, after = (float(objective(run.denoiser, run.denoiser, lesson, 0.0).total) for run in (teacher, student))
    assert after < 0.7 * before  # of norms: half of their squares


def test_the_same_command_takes_it_up_and_asks_the_teacher_no_more(teacher: pp.Run, tmp_path: Path) -> None:
    words = ["--images", 20, "--nfe", 2, "--steps", 8, "--every", 4, "--measure-every", 4, "--device", "cpu"]
    assert call("distill", teacher.path, "--out", tmp_path / "whole", *words) == 0
    assert call("distill", teacher.path, "--out", tmp_path / "parts", *words) == 0
    before = (tmp_path / "parts" / FILE).stat().st_mtime_ns
    later = checkpoint.latest(tmp_path / "parts")
    assert later is not None
    for file in later.iterdir():
        file.unlink()
    later.rmdir()
    assert call("distill", teacher.path, "--out", tmp_path / "parts", *words) == 0
    assert (tmp_path / "parts" / FILE).stat().st_mtime_ns == before
    first, second = (pp.load(tmp_path / name, device="cpu") for name in ("whole", "parts"))
    assert (first.step, second.step) == (8, 8)
    assert all(torch.equal(one, second.denoiser.state_dict()[name]) for name, one in first.denoiser.state_dict().items())


def test_a_making_that_was_interrupted_goes_on(teacher: pp.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(making, "PART", 8)

    def interrupted(run: OpenRun, seeds: range, *rest: Any, **named: Any) -> Samples:
        if len(made) == 2:
            made.append(-1)
            raise KeyboardInterrupt
        made.append(seeds[0] - FIRST)
        return sample(run, seeds, *rest, **named)

    monkeypatch.setattr(making, "sample", interrupted)
    how = pp.Distilling(images=20, nfe=2, steps=4)
    with pytest.raises(KeyboardInterrupt):
        pp.distill(teacher, tmp_path / "parts", how, device="cpu")
    (tmp_path / "parts" / FILE).open("ab").write(b"of a part that was cut off")
    student = pp.distill(teacher, tmp_path / "parts", replace(how, steps=6), device="cpu")  # what it learns from is the same
    assert made == [0, 8, -1, 16]
    kept = (student.path / FILE).read_bytes()
    assert kept == (pp.distill(teacher, tmp_path / "whole", how, device="cpu").path / FILE).read_bytes()
    assert json.loads((student.path / "taught.json").read_text())["seeds"] == [FIRST, FIRST + 19]


def test_what_another_teaching_left_is_made_anew(teacher: pp.Run, tmp_path: Path) -> None:
    how = pp.Distilling(images=10, nfe=2, steps=2)
    pp.distill(teacher, tmp_path / "a", how, device="cpu")
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    for other in (how, replace(how, nfe=3)):
        before = (tmp_path / "a" / FILE).stat().st_mtime_ns
        pp.distill(teacher, tmp_path / "a", other, device="cpu")
        assert ((tmp_path / "a" / FILE).stat().st_mtime_ns == before) == (other == how)
        shutil.rmtree(tmp_path / "a" / "checkpoints")


def test_images_take_one_evaluation_and_other_ways_are_refused(student: pp.Run) -> None:
    assert student.sample(2).nfe == 1
    refused = [
        Sampling(steps=2),
        Sampling(nfe=4),
        Sampling(sigma_max=5.0),
        Sampling(sigmas=(10.0, 1.0)),
        Sampling(guidance=1.5),  # against estimates without a class, which it never learned
    ]
    for chosen in refused:
        with pytest.raises(UserError) as caught:
            sample(student, [0, 1], torch.tensor([0, 1]), chosen)
        assert caught.value.setting in ("steps", "sigmas")


def test_images_are_edited_by_the_diffusion_run(student: pp.Run) -> None:
    image, mask = np.zeros((1, 1, 8, 8), np.uint8), np.ones((8, 8), np.uint8)
    for edit in (lambda: student.variations(image, 2), lambda: student.inpaint(image, mask)):
        with pytest.raises(UserError) as caught:
            edit()
        assert caught.value.setting == "run"


def test_an_evaluation_measures_samples_and_no_losses_at_sigmas_it_does_not_know(student: pp.Run) -> None:
    found = student.evaluate(count=32)
    assert found["held_out_loss"] == []
    assert found["loss_gap"] is None
    assert all(np.isfinite(row["frechet"]) for row in found["distances"])


def test_the_cost_card_counts_what_the_teacher_made(teacher: pp.Run, student: pp.Run) -> None:
    before, made, own = student.cost().stages
    assert before == teacher.cost().stages[0]
    each = before.multiply_adds / before.images / 3  # one evaluation
    assert made.multiply_adds == pytest.approx(48 * 4 * 2 * each, rel=1e-6)  # guided: twice
    assert own.multiply_adds == pytest.approx(3 * 40 * 32 * each, rel=1e-6)
    assert json.loads((student.path / "taught.json").read_text())["seconds"] == made.seconds


def test_mistakes_are_told_before_anything_is_written(teacher: pp.Run, student: pp.Run, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        pp.distill(student, tmp_path / "out")
    assert caught.value.setting == "run"
    for setting in ("images", "nfe", "steps"):
        with pytest.raises(UserError) as caught:
            pp.distill(teacher, tmp_path / "out", replace(HOW, **{setting: 0}))
        assert caught.value.setting == setting
    with pytest.raises(UserError) as caught:
        pp.distill(teacher, student.path, replace(HOW, images=49))
    assert caught.value.setting == "out"
    assert not (tmp_path / "out").exists()


def test_an_unconditional_run_is_distilled_without_guidance(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", train_images=images[:16], test_images=images[16:])
    recipe = pp.recipes.digits_diffusion(steps=2, batch_size=8)
    teacher = pp.train(pp.open_data(tmp_path / "data.npz"), recipe, out=tmp_path / "run", device="cpu")
    with pytest.raises(UserError) as caught:
        pp.distill(teacher, tmp_path / "out", pp.Distilling(guidance=2.0))
    assert caught.value.setting == "guidance"
    made = pp.distill(teacher, tmp_path / "out", pp.Distilling(images=8, nfe=2, steps=2), device="cpu")
    assert json.loads((made.path / "taught.json").read_text())["nfe"] == 2
    assert made.sample(3).images.shape == (3, 1, 8, 8)


def test_a_run_with_numbers_as_conditions_is_guided_as_was_asked(tmp_path: Path) -> None:
    teacher = run_with_conditions(tmp_path)
    made = pp.distill(teacher, tmp_path / "out", pp.Distilling(images=8, nfe=2, guidance=3.0, steps=2))
    about = json.loads((made.path / "taught.json").read_text())
    assert (about["guidance"], about["nfe"]) == (3.0, 4)
    data, objective = read_data_of(made, None), made.recipe.objective
    assert isinstance(objective, Distillation)
    lesson = next(batches(made.recipe, taught(objective, data, teacher.path, made.path, CPU), CPU, 0))
    assert isinstance(lesson, Batch)
    assert isinstance(lesson.labels, Condition)
    assert data.given is not None
    assert data.given.vectors is not None
    rows = [(seed - FIRST) * len(data.training) // 8 for seed in lesson.seeds]
    assert lesson.labels.vector is not None
    assert np.array_equal(lesson.labels.vector.numpy(), data.given.vectors[rows])
    assert made.sample(2).nfe == 1


def test_a_curve_with_a_way_that_does_not_fit_is_refused_before_it_is_sampled(student: pp.Run) -> None:
    data, before = read_data_of(student, None), set(student.path.iterdir())
    with counted(student.denoiser) as calls, pytest.raises(UserError) as caught:
        evaluate_curves([student], data, [Sampling(steps=1), Sampling(steps=2)], count=16)
    assert caught.value.setting == "steps"
    assert calls == []
    assert set(student.path.iterdir()) == before
