"""What a full evaluation judges besides distances: whether samples are copies, and whether the network memorises.

A *judgement* is a JSON-ready mapping for RUN/evaluation.json, in which rows of measurements are flat. Pixel values are judged in
`pixel_values`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pixelpath.data import sources
from pixelpath.data.sources import Source
from pixelpath.evaluation import memorising
from pixelpath.evaluation.copies import Neighbours, closeness, quantiles, search, suspects
from pixelpath.evaluation.features import FeatureExtractor, extract
from pixelpath.evaluation.held_out import HeldOutRow
from pixelpath.evaluation.protocol import Protocol
from pixelpath.log import followed
from pixelpath.reports.evaluation import nearest_picture, save_plots
from pixelpath.reports.names import short
from pixelpath.reports.pictures import save_png, series
from pixelpath.runs.measuring import pixel_values
from pixelpath.runs.measuring.comparison import BATCH, MOST, Native, Real, protocol
from pixelpath.runs.measuring.extremes import by_distance, picture
from pixelpath.runs.measuring.verdict import worst
from pixelpath.runs.opened import OpenRun
from pixelpath.runs.prepare import PreparedData
from pixelpath.runs.sample import Samples
from pixelpath.trainer import checkpoint
from pixelpath.trainer.journal import lines

SEARCHED = 10_000  # samples, at most, whose neighbours are looked for
PAIRS = 12  # of these, how many are shown


@dataclass(frozen=True, eq=False)
class Features:
    """The features of training images, held-out images (None: fewer than two) and samples, by one extractor."""

    extractor: FeatureExtractor
    training: Float[Tensor, "training feature"]
    held_out: Float[Tensor, "held_out feature"] | None
    samples: Float[Tensor, "sample feature"]


def trained_on(run: OpenRun, data: PreparedData) -> bool:
    """Whether these are as many images on both sides of the split as the run was trained on."""
    about = checkpoint.read(run.checkpoint, "data")
    return (about["training"], about["held_out"]) == (len(data.training), len(data.held_out))


@dataclass(frozen=True)
class Made:
    """Images that may be copies of the training images, in memory or in files.

    `protocol(extractor, real)` says how they are compared with so many real ones. `mirrored`: mirror images of training images
    are copies too. The first image has the seed `first_seed`, None for images without seeds. Features are extracted on `device`.
    """

    images: Source
    protocol: Callable[[FeatureExtractor, int], Protocol]
    mirrored: bool = False
    first_seed: int | None = None
    device: torch.device | str = "cpu"


def as_source(made: Samples) -> Source:
    """Samples as a source."""
    return sources.Arrays(made.images, np.zeros(len(made), np.int64))


def of_run(run: OpenRun, data: PreparedData, made: Samples) -> Made:
    """The samples of a run that was trained on these data."""
    about = partial(protocol, real=Real(data), made=made, run=run)
    return Made(as_source(made), about, run.recipe.flip, made.settings["seeds"][0], run.device)


def copies(data: PreparedData, made: Made, found: Sequence[Features]) -> dict[str, Any]:
    """Neighbours of images among training and held-out images in each kind of features; pairs and duplicates by the first."""
    real = Real(data)
    searched = [_searched(features, real, made) for features in followed(found, "search for copies", len(found))]
    rows = [_closeness(features, each, made) for features, each in zip(found, searched, strict=True)]
    first = searched[0]
    return {
        "duplicates": _duplicates(made.images, data.training, first.to_training),
        "held_out_duplicates": None if first.real is None else _real_duplicates(data, first.real),
        "mirrored": made.mirrored,
        "closeness": rows,
        "neighbours": [row for features, each in zip(found, searched, strict=True) for row in _distances(features, each)],
        "pairs": _pairs(data, made, first),
        "extremes": by_distance(data, made.images, made.first_seed, first.to_training, first.real),
    }


def loss_gap(run: OpenRun, training: Sequence[HeldOutRow], held_out: Sequence[HeldOutRow]) -> dict[str, Any]:
    """The losses on training and on held-out images at every noise level, and whether to train on."""
    rows = memorising.gaps(training, held_out)
    steps, losses = series([line for line in lines(run.path) if line["step"] <= run.step], "held_out_loss")
    best = None if run.recipe.is_one_step else memorising.best_step(steps.tolist(), losses.tolist())
    kept = {int(path.name[5:]): path for path in checkpoint.complete(run.path)}
    near = None if best is None or not kept else kept[min(kept, key=lambda step: abs(step - best))]
    return {
        "advice": memorising.advice(rows, best),
        "best_step": best,
        "checkpoint": None if near is None else near.name,
        "images": training[0].count,
        "noise_levels": [asdict(row) for row in rows],
    }


def sentences(result: dict[str, Any]) -> list[str]:
    """The judgements of a result in a line each."""
    found = [_copies_sentence(result["copies"])] if result.get("copies") else []
    if result.get("loss_gap"):
        gap = result["loss_gap"]
        found.append(gap["advice"] + (f" The nearest one kept is {gap['checkpoint']}." if gap["checkpoint"] else ""))
    return [*found, pixel_values.sentence(result["pixel_values"])] if result.get("pixel_values") else found


def save_pictures(folder: Path, data: PreparedData, made: Samples, result: Mapping[str, Any]) -> None:
    """Write nearest.png, extremes.png and the plots of a result into the run's folder, over older ones."""
    save_plots(folder, result)
    if result["extremes"]:
        save_png(folder / "extremes.png", picture(data, as_source(made), result["extremes"]))
    if result["copies"]:
        pairs = result["copies"]["pairs"]
        names = [made.labels[pair["sample"]] for pair in pairs]
        names += [short(pair[f"{side}_name"]) for side in ("training", "held_out") for pair in pairs if side in pair]
        rows = nearest_images(data, as_source(made), pairs)
        save_png(folder / "nearest.png", nearest_picture(rows, data.metadata, data.normaliser.shown, names))


def nearest_images(data: PreparedData, made: Source, pairs: Sequence[Mapping[str, Any]]) -> list[Native]:
    """The samples of the pairs, their nearest training images, and their nearest held-out images if there are such."""
    rows = [torch.from_numpy(sources.gather(made, [pair["sample"] for pair in pairs]))]
    for name, side in (("training", data.training), ("held_out", data.held_out)):
        if name in pairs[0]:
            images = torch.from_numpy(sources.gather(side, [pair[name] for pair in pairs]))
            rows.append(_mirrored(images, torch.tensor([pair[f"{name}_mirrored"] for pair in pairs])))
    return rows


@dataclass(frozen=True, eq=False)
class _Searched:
    """The neighbours of samples among training and held-out images, those of held-out images among training ones, and hits."""

    to_training: Neighbours
    to_held_out: Neighbours | None
    real: Neighbours | None
    hits: Tensor


def _searched(features: Features, real: Real, made: Made) -> _Searched:
    training = _views(features.extractor, features.training, real, real.data.training, made)
    samples = features.samples[:SEARCHED]
    if features.held_out is None:
        (near,), hits = search(samples, [training])
        return _Searched(near, None, None, hits)
    held_out = _views(features.extractor, features.held_out, real, real.data.held_out, made)
    (near, other), hits = search(samples, [training, held_out])
    return _Searched(near, other, search(features.held_out, [training])[0][0], hits)


def _views(
    extractor: FeatureExtractor, features: Tensor, real: Real, side: Source, made: Made
) -> Float[Tensor, "view image feature"]:
    """The features of real images, and of their mirror images if these are copies too."""
    if not made.mirrored:
        return features[None]
    return torch.stack([features, extract(extractor, (_flipped(images) for images in real.batches(side)), made.device)])


def _closeness(features: Features, found: _Searched, made: Made) -> dict[str, Any]:
    """How many samples are suspiciously near to training images; without held-out images this cannot be told."""
    near = found.to_training.distance
    values: dict[str, Any] = {} if found.real is None else asdict(closeness(near, found.real.distance, found.hits))
    held_out = 0 if features.held_out is None else len(features.held_out)
    counts = {"samples": len(near), "training": len(features.training), "held_out": held_out}
    about = made.protocol(features.extractor, len(features.training))
    return {"features": features.extractor.name, **about.record(**counts, **values)}


def _distances(features: Features, found: _Searched) -> list[dict[str, Any]]:
    """Quantiles of the distances of samples, and of held-out images, to the nearest image of each side."""
    sides = (
        ("samples", "training", found.to_training),
        ("samples", "held out", found.to_held_out),
        ("held out", "training", found.real),
    )
    return [
        {"features": features.extractor.name, "from": here, "to": there, **quantiles(near.distance)}
        for here, there, near in sides
        if near is not None
    ]


def _pairs(data: PreparedData, made: Made, found: _Searched) -> list[dict[str, Any]]:
    """The samples nearest to training images, with the images that they are near to."""
    rows = []
    for place in suspects(found.to_training, found.to_held_out, PAIRS):
        row: dict[str, Any] = {"sample": place}
        row |= {"sample_name": made.images.name(place)} if made.first_seed is None else {"seed": made.first_seed + place}
        for name, side, near in (("training", data.training, found.to_training), ("held_out", data.held_out, found.to_held_out)):
            if near is not None:
                index = int(sources.evenly(len(side), MOST)[near.index[place]])
                row |= {name: index, f"{name}_name": side.name(index), f"{name}_mirrored": bool(near.view[place])}
                row[f"{name}_distance"] = float(near.distance[place])
        rows.append(row)
    return rows


def _duplicates(images: Source, side: Source, near: Neighbours) -> int:
    """How many of the images equal, value for value, their nearest image of the other side (or its mirror image)."""
    places = (near.distance == 0).nonzero().flatten()
    chosen, count = sources.evenly(len(side), MOST), 0
    for part in places.split(BATCH):
        others = torch.from_numpy(sources.gather(side, chosen[near.index[part].numpy()]))
        ours = sources.gather(images, part.numpy())
        theirs = _mirrored(others, near.view[part].bool()).numpy()
        equal = (theirs == ours) | ((theirs != theirs) & (ours != ours))  # NaN, which is not measured on either side
        count += int(equal.all((1, 2, 3)).sum())
    return count


def _mirrored(images: Native, which: Bool[Tensor, "image"]) -> Native:
    """The images, some of them as their mirror images."""
    mirrored, plain = _flipped(images).numpy(), images.numpy()
    return torch.from_numpy(np.where(which.reshape(-1, 1, 1, 1).numpy(), mirrored, plain))


def _real_duplicates(data: PreparedData, near: Neighbours) -> int:
    places = (near.distance == 0).nonzero().flatten()
    chosen = sources.evenly(len(data.held_out), MOST)
    images = sources.subset(data.held_out, chosen[places.numpy()])
    part = Neighbours(near.index[places], near.view[places], near.distance[places])
    return _duplicates(images, data.training, part)


def _copies_sentence(found: dict[str, Any]) -> str:
    """How near samples lie to training images, in the features in which they look most like copies; `verdict` judges it."""
    floor = "" if found["held_out_duplicates"] is None else f" ({found['held_out_duplicates']} of the held-out images)"
    equal = f"{found['duplicates']} samples are exact copies of training images{floor}"
    most = worst(found)
    if most is None or not most[1].telling:
        return f"Copies: {equal}."
    row, near = most
    return (
        f"Copies: {near.closer:.1%} +- {near.closer_error:.1%} of samples are nearer to training images than to as many "
        f"held-out ones (in {row['features']}), {near.below:.1%} nearer than the nearest hundredth of held-out ones (by chance "
        f"{near.below_expected:.1%}), {equal}."
    )


def _flipped(images: Tensor) -> Tensor:
    """Images turned left to right, by way of numpy: torch mirrors no 16- and 32-bit unsigned integers."""
    return torch.from_numpy(np.flip(images.numpy(), -1).copy())
