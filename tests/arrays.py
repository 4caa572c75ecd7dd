"""Sources for tests, straight from arrays."""

from __future__ import annotations

import numpy as np

from pixelpath.data.formats.arrays import check_array, check_labels
from pixelpath.data.sources import Arrays


def array_source(images: np.ndarray, labels: np.ndarray | None = None, classes: tuple[str, ...] | None = None) -> Arrays:
    """The images of an array [N,H,W], [N,C,H,W] or [N,H,W,C], the channels on the shorter axis."""
    planes = check_array(images, "the array")
    return Arrays(planes, *check_labels(labels, len(planes), classes, "The labels of the array"))
