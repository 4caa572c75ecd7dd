"""The command `pixelpath probe`: what an encoder knows of the classes, at six noise levels."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from pixelpath.commands.pictures import probe_plot, save_png
from pixelpath.commands.prepare import Data, choose_device, read_data, say, with_data
from pixelpath.data import sources
from pixelpath.evaluation.probe import ProbeRow, Split, noisy_features, probe_levels
from pixelpath.evaluation.probe import probe as measure
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.representation import Representation
from pixelpath.models.scalings import Clean
from pixelpath.noise import seed_of
from pixelpath.recipes.run import Run, open_run


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
        data: Images with classes; the run's own data if not given.
        limit: At most so many training and so many held-out images.
        checkpoint: A folder of RUN/checkpoints other than the latest.
        device: cpu, cuda, mps; chosen by itself if not given.
    """
    chosen = choose_device(device)
    opened = open_run(run, checkpoint, chosen)
    content = read_data(with_data(opened.recipe, data), opened.normaliser)
    if not content.training.classes:
        raise ValueError("A probe needs images of 2 or more classes, and this data has one or none: give labelled images with --data.")
    rows = probe_run(opened, content, limit, chosen)
    say(table(rows))
    (run / "probe.json").write_text(json.dumps([asdict(row) for row in rows], indent=2), encoding="utf-8")
    save_png(run / "probe.png", probe_plot(rows))
    say(f"Table and plot: {run / 'probe.json'}, {run / 'probe.png'}.")


def probe_run(run: Run, data: Data, limit: int, device: torch.device) -> list[ProbeRow]:
    """Rows for the encoder's CLS features and, as a control, for the pixels of the same noisy images."""
    sides = [(_images(side, data, limit), torch.from_numpy(sources.labels(side)[:limit])) for side in (data.training, data.held_out)]
    levels = probe_levels(run.noise)

    def split(features, sigma: float) -> Split:  # noqa: ANN001
        found: list[Tensor] = []
        for number, (images, labels) in enumerate(sides):
            seeds = [seed_of(number, index) for index in range(len(images))]
            found += [noisy_features(features, images, sigma, seeds, device=device), labels]
        return found[0], found[1], found[2], found[3]

    encoder = features_of(run)
    rows = measure(lambda sigma: split(encoder, sigma), levels)
    return rows + measure(lambda sigma: split(lambda noisy, sigma: noisy.flatten(1), sigma), levels, name="pixels")


def features_of(run: Run):  # noqa: ANN201
    """The function (noisy, sigma) -> CLS features [batch, width] of a run's encoder, whichever stage it is of."""
    if isinstance(run.model, Representation):
        return run.model.features
    assert isinstance(run.model, Denoiser)
    return Representation(run.model.backbone.encoder, torch.nn.Identity(), Clean()).eval().features


def _images(side: sources.Source, data: Data, limit: int) -> Tensor:
    native = sources.gather(side, range(min(limit, len(side))))
    return data.normaliser.encode(torch.from_numpy(native))


def table(rows: list[ProbeRow]) -> str:
    """The rows as text."""
    head = f"{'features':<10} {'sigma':>10} {'k-NN':>7} {'linear':>7}   ({rows[0].train_count} training, {rows[0].test_count} held-out images)"
    return "\n".join([head, *(f"{row.name:<10} {row.sigma:>10.4g} {row.nearest:>7.1%} {row.linear:>7.1%}" for row in rows)])
