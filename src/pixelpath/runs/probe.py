"""The command `pixelpath probe`: what an encoder knows of the classes, at six noise levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor
from torch.nn import functional

from pixelpath.runs.folder import write_json
from pixelpath.reports.pictures import probe_plot, save_png
from pixelpath.runs.prepare import Data, choose_device, data_place, read_data_of, say
from pixelpath.data import sources
from pixelpath.evaluation.features import fewer
from pixelpath.evaluation.probe import ProbeRow, Split, noisy_features, probe_levels
from pixelpath.evaluation.probe import probe as measure
from pixelpath.randomness import seed_of
from pixelpath.runs.opened import OpenRun, open_run

Features = Callable[[Tensor, Tensor], Tensor]
"""(noisy, sigma) -> features [batch, width]."""


def probe(
    run: Annotated[Path, tyro.conf.Positional],
    data: Path | None = None,
    limit: int = 10_000,
    checkpoint: Path | None = None,
    device: str | None = None,
) -> None:
    """Measure what the encoder of a run (of either stage) has learned: k-NN and linear accuracy at six noise levels.

    Args:
        run: Folder of a run.
        data: Images with classes, brought to the run's size; the run's own data if not given.
        limit: At most so many training and so many held-out images.
        checkpoint: A folder of RUN/checkpoints other than the latest.
        device: cpu, cuda, mps; chosen by itself if not given.
    """
    if limit < 1:
        raise ValueError(f"--limit must be at least 1, got {limit}.")
    chosen = choose_device(device)
    opened = open_run(run, checkpoint, chosen)
    content = read_data_of(opened, data)
    if not content.training.classes:
        where = data_place(opened, data)
        raise ValueError(
            f"A probe needs images of 2 or more classes, and {where} has one or none: give labelled images with --data."
        )
    if len(content.held_out) == 0:
        raise ValueError("A probe needs held-out images: give some with --data, a folder that holds train and test.")
    rows = probe_run(opened, content, limit, chosen)
    say(table(rows))
    write_json(run / "probe.json", [asdict(row) for row in rows])
    save_png(run / "probe.png", probe_plot(rows))
    say(f"Table and plot: {run / 'probe.json'}, {run / 'probe.png'}.")


def probe_run(run: OpenRun, data: Data, limit: int, device: torch.device) -> list[ProbeRow]:
    """Rows for the encoder's CLS features and, as a control, for the pixels of the same noisy images."""
    (train, train_labels), (test, test_labels) = (_images(side, data, limit) for side in (data.training, data.held_out))
    levels = probe_levels(run.noise)

    def split(features: Features, sigma: float) -> Split:
        found = [
            noisy_features(features, images, sigma, [seed_of(number, index) for index in range(len(images))], device=device)
            for number, images in enumerate((train, test))
        ]
        return found[0], train_labels, found[1], test_labels

    def pixels(noisy: Tensor, sigma: Tensor) -> Tensor:
        size = fewer(run.shape)
        return (noisy if size is None else functional.adaptive_avg_pool2d(noisy.cpu(), size)).flatten(1)

    rows = measure(lambda sigma: split(run.model.features, sigma), levels)
    return rows + measure(lambda sigma: split(pixels, sigma), levels, name="pixels")


def _images(side: sources.Source, data: Data, limit: int) -> tuple[Tensor, Tensor]:
    """At most `limit` images of one side in model range, evenly chosen, and their labels."""
    count = min(limit, len(side))
    chosen = [index * len(side) // count for index in range(count)]
    native = torch.from_numpy(sources.gather(side, chosen))
    return data.normaliser.encode(native), torch.from_numpy(sources.labels(side))[chosen]


def table(rows: list[ProbeRow]) -> str:
    """The rows as text."""
    counts = f"({rows[0].train_count} training, {rows[0].test_count} held-out images)"
    head = f"{'features':<10} {'sigma':>10} {'k-NN':>7} {'linear':>7}   {counts}"
    lines = [f"{row.name:<10} {row.sigma:>10.4g} {row.nearest:>7.1%} {row.linear:>7.1%}" for row in rows]
    return "\n".join([head, *lines])
