"""What an encoder knows of the classes, at several noise levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor
from torch.nn import functional

from pixelpath.atomic import write_json
from pixelpath.data import sources
from pixelpath.errors import UserError
from pixelpath.evaluation.features import fewer
from pixelpath.evaluation.probe import ProbeRow, probe_levels
from pixelpath.evaluation.probe import probe as measure
from pixelpath.log import followed, say
from pixelpath.reports.pictures import probe_plot, save_png
from pixelpath.runs.opened import OpenRun
from pixelpath.runs.prepare import PreparedData
from pixelpath.runs.sharing.bundled import check_writable


def probe(run: OpenRun, data: PreparedData, limit: int = 10_000, sigmas: Sequence[float] = ()) -> list[ProbeRow]:
    """k-NN and linear accuracy of the encoder's features (and of pixels) at these sigmas; kept in RUN/probe.json and .png.

    Without sigmas at the six of `probe_levels`.
    `by_content` is the share of images that features know by their content rather than by their noise. At most `limit` training
    and as many held-out images are used. Raises UserError for data without classes or held-out images.
    """
    check_writable(run.path)
    if limit < 1:
        raise UserError(f"`limit` must be at least 1, got {limit}.", setting="limit")
    if not all(0 < sigma < math.inf for sigma in sigmas):
        raise UserError(f"`sigmas` must be above 0 and finite, got {', '.join(map(str, sigmas))}.", setting="sigmas")
    if not data.training.classes:
        raise UserError("A probe needs images of 2 or more classes: give labelled images as `data`.", setting="data")
    if len(data.held_out) == 0:
        raise UserError("A probe needs held-out images: give `data` with parts train and test.", setting="data")
    rows = probe_run(run, data, limit, tuple(sigmas) or probe_levels(run.noise))
    say(table(rows))
    write_json(run.path / "probe.json", [asdict(row) for row in rows])
    save_png(run.path / "probe.png", probe_plot(rows))
    say(f"Table and plot: {run.path / 'probe.json'}, {run.path / 'probe.png'}.")
    return rows


def probe_run(run: OpenRun, data: PreparedData, limit: int, levels: Sequence[float]) -> list[ProbeRow]:
    """Rows for the encoder's CLS features and, as a control, for the pixels of the same noisy images."""
    (train, train_labels), (test, test_labels) = (_images(side, data, limit) for side in (data.training, data.held_out))

    def encoder(noisy: Tensor, sigma: Tensor) -> Tensor:
        return run.model.features(noisy.to(run.device), sigma.to(run.device))

    def pixels(noisy: Tensor, sigma: Tensor) -> Tensor:
        size = fewer(run.shape)
        return (noisy if size is None else functional.adaptive_avg_pool2d(noisy, size)).flatten(1)

    rows = []
    for name, features in (("encoder", encoder), ("pixels", pixels)):
        steps = followed(levels, f"probe ({name})", len(levels))
        rows += measure(features, (train, test), (train_labels, test_labels), steps, name)
    return rows


def _images(side: sources.Source, data: PreparedData, limit: int) -> tuple[Tensor, Tensor]:
    """At most `limit` images of one side in model range, evenly chosen, and their labels."""
    count = min(limit, len(side))
    chosen = [index * len(side) // count for index in range(count)]
    native = torch.from_numpy(sources.gather(side, chosen))
    return data.normaliser.encode(native), torch.from_numpy(sources.labels(side))[chosen]


def table(rows: list[ProbeRow]) -> str:
    """The rows as text."""
    counts = f"({rows[0].train_count} training, {rows[0].test_count} held-out images)"
    head = f"{'features':<10} {'sigma':>10} {'k-NN':>7} {'linear':>7} {'content':>8}   {counts}"
    lines = [f"{row.name:<10} {row.sigma:>10.4g} {row.nearest:>7.1%} {row.linear:>7.1%} {row.by_content:>8.1%}" for row in rows]
    return "\n".join([head, *lines])
