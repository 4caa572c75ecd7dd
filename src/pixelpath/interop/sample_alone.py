"""Makes images with the networks beside this file: python sample.py --count 8 --seed 0 --out images.npy

Needs numpy and onnxruntime (denoiser.onnx, decode.onnx), or torch (denoiser.pt2, decode.pt2). walk.json says how to walk: the
noisy image of every estimate, and the image at the end, is a weighted sum of standard normal noises and of the estimates before.
Where there is start.npz, the first of the noises is a draw of that start instead.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
Network = Callable[..., np.ndarray]


def load(folder: Path = HERE) -> tuple[dict[str, Any], Network, Network]:
    """What walk.json and start.npz say, the denoiser and the decoder of a folder; networks take their inputs by name."""
    walk = json.loads((folder / "walk.json").read_text(encoding="utf-8"))
    if walk["start"] is not None:
        walk["start"]["arrays"] = dict(np.load(folder / "start.npz"))
    read = _onnx if (folder / "denoiser.onnx").exists() else _torch
    return walk, read(folder, "denoiser"), read(folder, "decode")


def sample(
    parts: tuple[dict[str, Any], Network, Network],
    noises: Sequence[np.ndarray],
    labels: np.ndarray | None = None,
    numbers: Mapping[str, Sequence[Any]] | None = None,
    cond_image: np.ndarray | None = None,
) -> np.ndarray:
    """Images [image, channel, row, column] in the data's own dtype and range.

    `noises` are as many standard normal arrays of that shape (float32) as walk["noises"] says; where there is a start, the first
    is a draw of it (`begin`). `labels` are classes [image] (int64), the number of classes for none, or None where there are no
    classes. `numbers` are the entries of each column, an entry for each image, and `cond_image` are the condition images
    [image, channel, row, column], as in the data; both are None where the run has no such, and None means no condition.
    """
    walk, denoiser, decode = parts
    classes, count = len(walk["classes"]), len(noises[0])
    if len(noises) != walk["noises"]:
        raise ValueError(f"This walk takes {walk['noises']} noises, got {len(noises)}.")
    if (labels is None) != (classes == 0) or (labels is not None and not ((labels >= 0) & (labels <= classes)).all()):
        raise ValueError(f"Labels lie in 0..{classes}, {classes} for no class." if classes else "There are no classes here.")
    given = encoded(walk, count, numbers, cond_image)
    given |= {} if labels is None else {"label": labels}
    none = {**given, **({} if labels is None else {"label": np.full_like(labels, classes)})}
    none |= {"drop": np.ones(count, bool)} if "drop" in given else {}
    known: list[np.ndarray] = list(noises)
    *rows, last = walk["rows"]
    for sigma, guidance, row in zip(walk["sigmas"], walk["guidance"], rows, strict=True):
        walked = {"noisy": _sum(row, known), "sigma": np.array(sigma, np.float32)}
        estimate = denoiser(**walked, **given)
        if guidance != 1 and given:
            free = denoiser(**walked, **none)
            estimate = free + np.float32(guidance) * (estimate - free)
        known.append(estimate)
    return decode(images=_sum(last, known))


def encoded(
    walk: dict[str, Any], count: int, numbers: Mapping[str, Sequence[Any]] | None, cond_image: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Conditions as the denoiser takes them: numbers standardised, words and classes of masks as indicators."""
    columns, asks = walk["conditions"]["columns"], walk["conditions"]["cond_image"]
    if bool(columns) != bool(numbers) or (asks is None) != (cond_image is None):
        wanted = [column["name"] for column in columns] + ([] if asks is None else ["condition images"])
        raise ValueError(f"This run was trained with {', '.join(wanted) or 'no conditions but classes'}: give these alone.")
    found: dict[str, np.ndarray] = {"drop": np.zeros(count, bool)} if columns or asks else {}
    if numbers:
        found["numbers"] = np.concatenate([_column(column, numbers[column["name"]]) for column in columns], 1)
    if cond_image is not None and asks["classes"]:
        known = cond_image[:, :1] == np.arange(asks["classes"])[None, :, None, None]
        if not known.any(1).all():
            raise ValueError(f"Masks hold classes below {asks['classes']}: correct them.")
        found["cond_image"] = known.astype(np.float32) - np.float32(0.5)
    elif cond_image is not None:
        mean, std = (np.array(asks[name], np.float32)[:, None, None] for name in ("mean", "std"))
        found["cond_image"] = (cond_image.astype(np.float32) - mean) / (2 * std)
    return found


def _column(column: dict[str, Any], entries: Sequence[Any]) -> np.ndarray:
    if column["kind"] == "number":
        return ((np.array([float(entry) for entry in entries]) - column["mean"]) / column["std"]).astype(np.float32)[:, None]
    rows = np.zeros((len(entries), len(column["words"])), np.float32)
    for row, entry in zip(rows, entries, strict=True):
        for word in entry.split("|") if column["kind"] == "tags" else [entry]:
            if word or column["kind"] != "tags":
                row[column["words"].index(word)] = 1
    return rows


def begin(walk: dict[str, Any], labels: np.ndarray | None, chosen: np.ndarray, draws: Sequence[np.ndarray]) -> np.ndarray:
    """Draws of the start [image, channel, row, column]: Gaussians, or Gaussians in principal directions, noised to its sigma.

    `chosen` [image] is uniform in (0, 1) and says which Gaussian; `draws` are standard normal, [image, size] for each of the
    start's "draws".
    """
    start, found = walk["start"], walk["start"]["arrays"]
    classes, noise = len(walk["classes"]), start["sigma"] ** 2
    if start["classes"] and labels is not None:
        weights = np.where((labels[:, None] == found["classes"]) | (labels[:, None] == classes), found["shares"], 0)
    else:
        weights = np.tile(found["shares"], (len(chosen), 1))
    weights = (weights / weights.sum(1, keepdims=True)).cumsum(1)
    part = np.minimum((weights <= chosen[:, None]).sum(1), len(found["shares"]) - 1)
    if start["family"] == "gaussian":
        along = np.einsum("nvr,nr->nv", found["basis"][part], draws[0] * np.sqrt(found["spread"][part]))
        rows = found["mean"][part] + along + np.sqrt(found["remainder"][part] + noise) * draws[1]
    else:
        inside, turned = draws[0] * np.sqrt(found["variances"][part] + noise), found["axes"].shape[1]
        inside[:, :turned] = np.einsum("nij,nj->ni", found["axes"][part], inside[:, :turned])
        rows = found["centre"] + (found["means"][part] + inside) @ found["basis"].T
        if len(draws) > 1:
            rest = draws[1] - draws[1] @ found["basis"] @ found["basis"].T
            rows = rows + np.sqrt(found["rest"] + noise) * rest
    return rows.astype(np.float32).reshape(len(rows), *walk["shape"])


def _sum(row: Sequence[float], known: Sequence[np.ndarray]) -> np.ndarray:
    """The weighted sum of what is known so far."""
    total = sum(weight * image for weight, image in zip(row, known, strict=True) if weight)
    return np.asarray(total, np.float32)


def _onnx(folder: Path, name: str) -> Network:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    return lambda **given: np.asarray(session.run(None, given)[0])


def _torch(folder: Path, name: str) -> Network:
    import torch

    module = torch.export.load(str(folder / f"{name}.pt2")).module()

    def run(**given: np.ndarray) -> np.ndarray:
        values = {key: torch.from_numpy(np.array(value)) for key, value in given.items()}
        placed = [values.pop(key) for key in ("noisy", "sigma", "images", "label") if key in values]
        with torch.no_grad():
            return module(*placed, **values).numpy()

    return run


def main() -> None:
    """Write images of given or of all classes in turn as one array."""
    options = argparse.ArgumentParser(description="Make images with the networks beside this file.")
    options.add_argument("--count", type=int, default=8, help="number of images")
    options.add_argument("--seed", type=int, default=0, help="seed of numpy's generator")
    options.add_argument("--class", dest="name", help="class of all images; default: all classes in turn")
    options.add_argument("--conditions", type=Path, help="table .csv of the columns the run was trained with, lines in turn")
    options.add_argument("--cond-image", type=Path, help="condition images .npy [image, channel, row, column], in turn")
    options.add_argument("--out", type=Path, default=Path("images.npy"), help="array to write [image, channel, row, column]")
    given = options.parse_args()
    parts = load()
    walk, turn = parts[0], np.arange(given.count)
    classes, shape = walk["classes"], (given.count, *walk["shape"])
    if given.name is not None and given.name not in classes:
        options.error(f"there is no class {given.name}: choose from {', '.join(classes) or 'none, as there are no classes'}")
    labels = turn % max(1, len(classes)) if given.name is None else np.full(given.count, classes.index(given.name))
    draws = np.random.default_rng(given.seed)
    noises = [draws.standard_normal(shape, dtype=np.float32) for _ in range(walk["noises"])]
    if walk["start"] is not None:
        normals = [draws.standard_normal((given.count, size)) for size in walk["start"]["draws"]]
        noises[0] = begin(walk, labels if classes else None, draws.random(given.count), normals)
    numbers = images = None
    if given.conditions is not None:
        lines = list(csv.DictReader(given.conditions.read_text(encoding="utf-8").splitlines()))
        numbers = {name: [lines[place % len(lines)][name] for place in turn] for name in lines[0]}
    if given.cond_image is not None:
        images = np.load(given.cond_image)
        images = images[turn % len(images)]
    try:
        made = sample(parts, noises, labels if classes else None, numbers, images)
    except (ValueError, KeyError) as error:
        options.error(str(error))
    np.save(given.out, made)
    sys.stdout.write(f"{given.out}: {made.shape} {made.dtype}\n")


if __name__ == "__main__":
    main()
