"""Data that changed since a run began are noticed; a run finds its data from any folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.reliability.harness import Command, Starter, differences, train

from pixelpath.trainer.journal import lines


def replace_image(data: Path) -> Path:
    """Another image of the same size, in the same number of bytes as far as that can be."""
    file = sorted((data / "across").iterdir())[3]
    Image.fromarray(np.asarray(Image.open(file))[::-1].copy()).save(file)
    return file


def swap_names(data: Path) -> Path:
    first, second = sorted((data / "across").iterdir())[3], sorted((data / "down").iterdir())[3]
    shutil.copy(first, data / "kept.png")
    shutil.copy(second, first)
    shutil.copy(data / "kept.png", second)
    (data / "kept.png").unlink()
    return first


def rename_image(data: Path) -> Path:
    file = sorted((data / "across").iterdir())[3]
    return file.rename(file.with_name("zz.png"))


@pytest.mark.parametrize("change", [replace_image, swap_names, rename_image])
def test_a_changed_image_is_noticed(change: Callable[[Path], Path], starter: Starter, pictures: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(pictures, data)
    words = train("digits-diffusion", data, out)
    (ended,) = starter.run(Command(words, after_file=str(out / "checkpoints" / "step-00000003")))
    if ended.status == 0:
        shutil.rmtree(out / "checkpoints" / "step-00000009")  # as if it had been stopped before its last step
    file = change(data)
    (ended,) = starter.run(Command(words))
    assert file.name in ended.sentence
    assert "--accept-changed-data" in ended.sentence
    (ended,) = starter.run(Command((*words, "--accept-changed-data")))
    assert ended.status == 0, ended.said
    assert any(file.name in alarm for line in lines(out) for alarm in line.get("alarms", []))
    assert starter.run(Command(words))[0].status == 0  # its checkpoints know the new data


def test_data_of_another_shape_are_not_accepted(starter: Starter, tmp_path: Path) -> None:
    out, file = tmp_path / "run", tmp_path / "data.npy"
    np.save(file, np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), np.uint8))
    words = train("digits-diffusion", file, out)
    assert starter.run(Command(words))[0].status == 0
    np.save(file, np.random.default_rng(0).integers(0, 256, (40, 1, 12, 8), np.uint8))
    (ended,) = starter.run(Command((*words, "--accept-changed-data")))
    assert "shape" in ended.sentence or "12" in ended.sentence


def test_a_changed_array_is_noticed(starter: Starter, tmp_path: Path) -> None:
    images, out = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), np.uint8), tmp_path / "run"
    np.save(tmp_path / "data.npy", images)
    words = train("digits-diffusion", tmp_path / "data.npy", out)
    assert starter.run(Command(words))[0].status == 0
    shutil.rmtree(out / "checkpoints" / "step-00000009")
    images[5, 0, 3, 3] ^= 255
    np.save(tmp_path / "data.npy", images)
    (ended,) = starter.run(Command(words))
    assert "data.npy" in ended.sentence


def test_touched_and_moved_data_are_the_same(starter: Starter, pictures: Path, tmp_path: Path) -> None:
    """What counts is what the images hold, not when they were copied or where they lie."""
    out = tmp_path / "run"
    shutil.copytree(pictures, tmp_path / "data")
    assert starter.run(Command(train("digits-diffusion", tmp_path / "data", out)))[0].status == 0
    shutil.copytree(out, tmp_path / "straight")
    shutil.rmtree(out / "checkpoints" / "step-00000009")
    (tmp_path / "data").rename(tmp_path / "moved")
    for file in (tmp_path / "moved").rglob("*.png"):
        os.utime(file, (1, 1))
    (ended,) = starter.run(Command(train("digits-diffusion", tmp_path / "moved", out)))
    assert ended.status == 0, ended.said
    named = ("recipe.json", "state.json")  # in which the path stands, or the checksum of a file in which it stands
    assert [name for name in differences(tmp_path / "straight", out) if not name.endswith(named)] == []


def test_a_run_works_from_another_folder(starter: Starter, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "here" / "data")
    (tmp_path / "there").mkdir()
    words = train("digits-encoder", "data", "one")
    (ended,) = starter.run(Command(words, cwd=str(tmp_path / "here")))
    assert ended.status == 0, ended.said
    words = train("digits-diffusion", "data", "two", "--encoder", "one")
    (ended,) = starter.run(Command(words, cwd=str(tmp_path / "here")))
    assert ended.status == 0, ended.said
    for words in (("probe", "../here/one"), ("evaluate", "../here/two", "--count", "16")):
        (ended,) = starter.run(Command(words, cwd=str(tmp_path / "there")))
        assert ended.status == 0, ended.said


def test_data_that_are_gone_are_named_with_their_run(starter: Starter, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "data")
    assert starter.run(Command(train("digits-diffusion", tmp_path / "data", tmp_path / "run")))[0].status == 0
    shutil.rmtree(tmp_path / "data")
    (ended,) = starter.run(Command(("evaluate", str(tmp_path / "run"), "--count", "16")))
    assert str(tmp_path / "run") in ended.sentence
    assert "--data" in ended.sentence
