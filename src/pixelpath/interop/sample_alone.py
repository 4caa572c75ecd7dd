"""Makes images with the networks beside this file: python sample.py --count 8 --seed 0 --out images.npy

Needs numpy and onnxruntime (denoiser.onnx, decode.onnx), or torch (denoiser.pt2, decode.pt2). walk.json says how to walk: the
noisy image of every estimate, and the image at the end, is a weighted sum of standard normal noises and of the estimates before.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
Network = Callable[..., np.ndarray]


def load(folder: Path = HERE) -> tuple[dict[str, Any], Network, Network]:
    """What walk.json says, the denoiser (noisy, sigma, label) and the decoder (estimate) of a folder."""
    walk = json.loads((folder / "walk.json").read_text(encoding="utf-8"))
    read = _onnx if (folder / "denoiser.onnx").exists() else _torch
    return walk, read(folder, "denoiser"), read(folder, "decode")


def sample(
    parts: tuple[dict[str, Any], Network, Network], noises: Sequence[np.ndarray], labels: np.ndarray | None = None
) -> np.ndarray:
    """Images [image, channel, row, column] in the data's own dtype and range.

    `noises` are as many standard normal arrays of that shape (float32) as walk["noises"] says; `labels` are classes [image]
    (int64), the number of classes for none, or None where there are no classes.
    """
    walk, denoiser, decode = parts
    classes = len(walk["classes"])
    if len(noises) != walk["noises"]:
        raise ValueError(f"This walk takes {walk['noises']} noises, got {len(noises)}.")
    if (labels is None) != (classes == 0) or (labels is not None and not ((labels >= 0) & (labels <= classes)).all()):
        raise ValueError(f"Labels lie in 0..{classes}, {classes} for no class." if classes else "There are no classes here.")
    known: list[np.ndarray] = list(noises)
    *rows, last = walk["rows"]
    for sigma, guidance, row in zip(walk["sigmas"], walk["guidance"], rows, strict=True):
        noisy, level = _sum(row, known), np.array(sigma, np.float32)
        if labels is None:
            known.append(denoiser(noisy, level))
            continue
        estimate = denoiser(noisy, level, labels)
        if guidance != 1:
            none = denoiser(noisy, level, np.full_like(labels, classes))
            estimate = none + np.float32(guidance) * (estimate - none)
        known.append(estimate)
    return decode(_sum(last, known))


def _sum(row: Sequence[float], known: Sequence[np.ndarray]) -> np.ndarray:
    """The weighted sum of what is known so far."""
    total = sum(weight * image for weight, image in zip(row, known, strict=True) if weight)
    return np.asarray(total, np.float32)


def _onnx(folder: Path, name: str) -> Network:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    inputs = [each.name for each in session.get_inputs()]
    return lambda *values: np.asarray(session.run(None, dict(zip(inputs, map(np.asarray, values), strict=True)))[0])


def _torch(folder: Path, name: str) -> Network:
    import torch

    module = torch.export.load(str(folder / f"{name}.pt2")).module()

    def run(*values: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(*(torch.from_numpy(np.array(value)) for value in values)).numpy()

    return run


def main() -> None:
    """Write images of given or of all classes in turn as one array."""
    options = argparse.ArgumentParser(description="Make images with the networks beside this file.")
    options.add_argument("--count", type=int, default=8, help="number of images")
    options.add_argument("--seed", type=int, default=0, help="seed of numpy's generator")
    options.add_argument("--class", dest="name", help="class of all images; default: all classes in turn")
    options.add_argument("--out", type=Path, default=Path("images.npy"), help="array to write [image, channel, row, column]")
    given = options.parse_args()
    parts = load()
    classes, shape = parts[0]["classes"], (given.count, *parts[0]["shape"])
    if given.name is not None and given.name not in classes:
        options.error(f"there is no class {given.name}: choose from {', '.join(classes) or 'none, as there are no classes'}")
    labels = (
        np.arange(given.count) % max(1, len(classes)) if given.name is None else np.full(given.count, classes.index(given.name))
    )
    draws = np.random.default_rng(given.seed)
    noises = [draws.standard_normal(shape, dtype=np.float32) for _ in range(parts[0]["noises"])]
    images = sample(parts, noises, labels if classes else None)
    np.save(given.out, images)
    sys.stdout.write(f"{given.out}: {images.shape} {images.dtype}\n")


if __name__ == "__main__":
    main()
