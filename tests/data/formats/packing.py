"""Images packed as bytes and shards, and mistakes that must be answered with one sentence."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pixelpath.errors import UserError

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (7, 1, 6, 5), np.uint8)
COLOUR = RANDOM.integers(0, 256, (7, 3, 6, 5), np.uint8)
Members = Iterable[tuple[str, bytes]]


def png(image: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """An encoded picture of [channel, row, column]."""
    file = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(file, kind, **options)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def everything(stack: Any) -> np.ndarray:
    return np.stack([stack.read(index) for index in range(stack.shape[0])])


def sentence(message: str) -> None:
    """One sentence: it ends in a full stop, and has no other line."""
    assert message.endswith(".")
    assert "\n" not in message


def refused(words: str, act: Callable[[], Any], kind: type[Exception] = UserError) -> None:
    with pytest.raises(kind, match=words) as caught:
        act()
    sentence(str(caught.value))


def shard(path: Path, members: Members) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
