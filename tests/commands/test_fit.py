"""`pixelpath fit --plan` writes nothing outside temporary folders, whatever the images are."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.application import call
from tests.data.formats.packing import npy, shard

from pixelpath.data.settings import DataSettings
from pixelpath.runs import index
from pixelpath.runs.digits import located, located_aside
from pixelpath.runs.fitting.fit import Fitting
from pixelpath.runs.fitting.planning import Budget
from pixelpath.runs.fitting.sitting import Machine, Sitting

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (60, 8, 8), np.uint8)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
MADE = ("os.mkdir", "os.rename", "os.link", "os.symlink", "os.truncate")
written: list[Path] | None = None  # while files are watched, those that were opened for writing, made or moved


def watch(event: str, about: tuple[Any, ...]) -> None:
    """The audit hook: notes what is written, however it is (sys.addaudithook; a hook stays as long as the process)."""
    if written is None or event not in ("open", *MADE):
        return
    name, *_, flags = about if event == "open" else (about[0], os.O_CREAT)
    if isinstance(name, str | os.PathLike) and isinstance(flags, int) and flags & WRITING:
        written.append(Path(os.path.abspath(name)))


sys.addaudithook(watch)


@contextmanager
def watched(allowed: Path) -> Iterator[list[Path]]:
    """While open, files that are written go into the list, but for those below the allowed folder and devices."""
    global written
    written, found = [], []
    try:
        yield found
    finally:
        found += [path for path in written if not path.is_relative_to(allowed) and not path.is_relative_to("/dev")]
        written = None


def standing(folder: Path) -> list[Path]:
    """What lies in a folder, but for what is temporary."""
    return sorted(path for path in folder.rglob("*") if not path.is_relative_to(folder / "temporary"))


def folder_of_classes(folder: Path) -> Path:
    for number, image in enumerate(IMAGES):
        file = folder / "images" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return folder / "images"


def array(folder: Path) -> Path:
    np.save(folder / "images.npy", IMAGES)
    return folder / "images.npy"


def mixed_pictures(folder: Path) -> Path:
    (folder / "images").mkdir()
    for number, image in enumerate(IMAGES):
        Image.fromarray(image).resize((20 + number % 3, 21), 0).save(folder / "images" / f"{number}.png")
    return folder / "images"


def packed(folder: Path) -> Path:
    shard(folder / "images.tar", [(f"{number}.npy", npy(image[None])) for number, image in enumerate(IMAGES)])
    return folder / "images.tar"


def store(folder: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "images.h5", "w") as file:
        file["images"] = IMAGES
    return Path(f"{folder / 'images.h5'}::images")


def digits(folder: Path) -> Path:
    return Path("digits")


@pytest.mark.parametrize("made", [digits, folder_of_classes, array, mixed_pictures, packed, store])
def test_a_plan_writes_nothing(
    made: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = made(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(index, "LEAST", 0)  # an index would be kept of any folder
    before = standing(tmp_path)
    with watched(tmp_path / "temporary") as found, caplog.at_level("INFO", "pixelpath"):
        assert call("fit", path, "--plan", "--minutes", 30, "--device", "cpu") == 0
    assert any(line.startswith("Data: ") for line in caplog.messages)
    assert found == []
    assert standing(tmp_path) == before


def test_what_writes_is_seen(tmp_path: Path) -> None:
    with watched(tmp_path / "allowed") as found:
        (tmp_path / "allowed").mkdir()
        (tmp_path / "allowed" / "a").write_text("a")
        (tmp_path / "b").write_text("b")
        (tmp_path / "b").read_text()
    assert found == [tmp_path / "b"]


def test_a_plan_of_more_minutes_for_a_fit_of_digits_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file, out = located(Path("digits"), Path("runs/digits")), Path("runs/digits")
    out.mkdir()
    machine = Machine(lambda: 0.0, lambda recipe, device: 3.0)
    Fitting(Sitting(DataSettings(path=file), out, Budget(1), torch.device("cpu"), machine, kept=True)).decide(added=False)
    file.unlink()
    assert call("fit", "digits", "--minutes", 10, "--plan", "--device", "cpu") == 0
    assert not file.exists()


def test_digits_lie_aside_only_while_they_are_read(tmp_path: Path) -> None:
    with located_aside(Path("digits"), tmp_path / "runs" / "digits") as file, np.load(file) as arrays:
        assert arrays["labels"].shape == (1797,)
    assert not file.exists()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits.npz").write_bytes(b"kept")
    with located_aside(Path("digits"), tmp_path / "runs" / "digits") as file:
        assert file == tmp_path / "runs" / "digits.npz"
    assert file.read_bytes() == b"kept"
