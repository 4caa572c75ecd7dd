"""Small pictures of every usual mode, and their files."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RANDOM = np.random.default_rng(0)
PIXELS = {
    "L": RANDOM.integers(0, 256, (8, 12), np.uint8),
    "RGB": RANDOM.integers(0, 256, (8, 12, 3), np.uint8),
    "RGBA": RANDOM.integers(0, 256, (8, 12, 4), np.uint8),
}


def write(path: Path, array: np.ndarray = PIXELS["RGB"], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path
