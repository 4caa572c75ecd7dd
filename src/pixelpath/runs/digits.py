"""The 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn (Alpaydin and Kaynak 1998, UCI repository)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np

from pixelpath.log import say
from pixelpath.runs.folder import FIT
from pixelpath.runs.sharing.bundled import DIGITS

Given = TypeVar("Given", bound=Path | None)


def located(path: Given, out: Path) -> Given | Path:
    """The file of the digits where `path` is their name and nothing lies there, written beside `out`; any other path as it is."""
    if not _named(path):
        return path
    file = out.parent / f"{DIGITS}.npz"
    if not file.exists():
        say(f"{write_digits(file)}: 1,797 handwritten digits of 8 x 8 pixels, which come with scikit-learn.")
    return file


@contextmanager
def located_aside(path: Given, out: Path) -> Iterator[Given | Path]:
    """As `located`, but nothing of it stays: the digits lie in a temporary folder while this is open.

    Those that were written before stay where they are. So does the name of those of a fit that looked at them: it reads none.
    """
    kept = out.parent / f"{DIGITS}.npz"
    if not _named(path) or kept.exists() or (out / FIT).exists():
        yield kept if _named(path) else path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield write_digits(Path(folder) / kept.name)


def _named(path: Path | None) -> bool:
    return path is not None and str(path) == DIGITS and not path.exists()


def write_digits(path: Path) -> Path:
    """Write a .npz that any recipe can train on: uint8 images [1797, 8, 8], 17 grey levels spread over 0 .. 255, and labels."""
    from sklearn.datasets import load_digits

    rows, labels = load_digits(return_X_y=True)
    images = np.rint(rows * 255 / 16).astype(np.uint8).reshape(-1, 8, 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial.npz")
    np.savez(partial, images=images, labels=labels.astype(np.int64), class_names=np.array(list("0123456789")))
    partial.replace(path)
    return path
