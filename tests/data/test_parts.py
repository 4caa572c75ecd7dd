"""Which side of a split a folder, a file or an array is on, by what it is called."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from tests.data.formats.packing import png, shard
from tests.pictures import write
from tests.refusal import refused

from pixelpath.data.opening import open_source, open_split
from pixelpath.data.parts import held_out_place, parts
from pixelpath.data.settings import DataSettings

PAIRS = [
    ("train", "test"),
    ("Train", "Test"),
    ("TRAIN", "VAL"),
    ("training", "testing"),
    ("training_set", "test_set"),
    ("trainset", "testset"),
    ("train2017", "val2017"),
    ("seg_train", "seg_test"),
    ("Training", "validation"),
    ("train", "valid"),
    ("train", "dev"),
    ("train", "eval"),
    ("train", "held_out"),
    ("train", "Held-Out"),
    ("train", "holdout"),
    ("trainval", "test"),
    ("images-train", "images-val"),
]


@pytest.mark.parametrize(("train", "test"), PAIRS)
def test_folders_are_parts_by_any_usual_word(tmp_path: Path, train: str, test: str, caplog: pytest.LogCaptureFixture) -> None:
    for name, count in ((train, 3), (test, 2)):
        for index in range(count):
            write(tmp_path / name / f"{index}.png", np.full((8, 8), 100 * (name == test), np.uint8))
    with caplog.at_level(logging.INFO, "pixelpath"):
        training, held_out = open_split(DataSettings(tmp_path))
    assert (len(training), training.classes, len(held_out), held_out.classes) == (3, (), 2, ())
    assert (training[0].max(), held_out[0].max()) == (0, 100)
    assert str(tmp_path / train) in caplog.text
    assert str(tmp_path / test) in caplog.text


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (["train-00000-of-00002.tar", "train-00001-of-00002.tar"], ["test-00000-of-00001.tar"]),
        (["Train.tar"], ["Test.tar"]),
        (["crawl-train-0.tar", "crawl-train-1.tar"], ["crawl-val-0.tar"]),
    ],
)
@pytest.mark.parametrize("below", ["", "data"])
def test_shards_are_parts_by_their_names(tmp_path: Path, train: list[str], test: list[str], below: str) -> None:
    for value, names in ((10, train), (200, test)):
        for name in names:
            (tmp_path / below).mkdir(exist_ok=True)
            shard(tmp_path / below / name, [("a.png", png(np.full((1, 8, 8), value, np.uint8)))])
    training, held_out = open_split(DataSettings(tmp_path))
    assert [len(training), training[0].max(), len(held_out), held_out[0].max()] == [len(train), 10, len(test), 200]


def test_pictures_of_one_folder_are_parts_if_all_of_them_say_so(tmp_path: Path) -> None:
    for name, value in (("train_001.png", 1), ("train_002.png", 1), ("test_001.png", 200)):
        write(tmp_path / name, np.full((8, 8), value, np.uint8))
    training, held_out = open_split(DataSettings(tmp_path))
    assert (len(training), held_out.name(0)) == (2, "test_001.png")
    write(tmp_path / "flower.png", np.full((8, 8), 7, np.uint8))
    assert len(open_source(tmp_path)) == 4


def test_arrays_of_a_file_are_parts_whatever_their_capitals(tmp_path: Path) -> None:
    images = np.zeros((3, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", X_train=images, X_test=images[:2] + 9, Y_train=[0, 1, 1], Y_test=[1, 0])
    training, held_out = open_split(DataSettings(tmp_path / "a.npz"))
    assert (len(training), len(held_out), held_out[0].max(), held_out.label(0)) == (3, 2, 9, 1)


def test_a_held_out_part_alone_is_never_trained_on(tmp_path: Path) -> None:
    for names in (["test"], ["val", "Test"], ["cat", "dog", "test"]):
        folder = tmp_path / "-".join(names)
        for name in names:
            write(folder / name / "1.png")
        with refused("data.path", folder, "est" if "test" in names else "val"):
            open_source(folder)
    assert held_out_place(tmp_path / "val-Test").path == tmp_path / "val-Test" / "val"
    assert open_source(tmp_path / "test" / "test").classes == ()  # whoever names it may


def test_parts_below_the_folders_of_classes_are_not_mixed(tmp_path: Path) -> None:
    for name in ("bottle/train/1.png", "bottle/test/1.png", "cable/train/1.png"):
        write(tmp_path / name)
    with refused("data.path", tmp_path / "bottle", "train", "test"):
        open_source(tmp_path)


def test_what_could_be_split_in_two_ways_is_asked(tmp_path: Path) -> None:
    for name in ("a_train", "a_test", "b_train", "b_test"):
        write(tmp_path / name / "1.png")
    with refused("data.path", "a_train", "a_test"):
        parts(tmp_path)
    for name in ("train", "test"):  # the words alone win
        write(tmp_path / name / "1.png")
    assert [place and place.path.name for place in parts(tmp_path)] == ["train", "test"]


def test_classes_may_be_called_by_words_that_are_parts_elsewhere(tmp_path: Path) -> None:
    for name in ("valid/1.png", "broken/2.png", "bullet-train/3.png", "devil/1.png"):
        write(tmp_path / name)
    assert open_source(tmp_path).classes == ("broken", "bullet-train", "devil", "valid")
