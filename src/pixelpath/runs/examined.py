"""What a run has to know of the values of its images before its first step, by one pass over them or from an earlier one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pixelpath.data.digest import Digests
from pixelpath.data.examine import examine
from pixelpath.data.normalise.curves import Normalisation
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.normalise.propose import propose
from pixelpath.data.normalise.statistics import ChannelStatistics, Tallies, complete
from pixelpath.data.passes import chunks
from pixelpath.data.settings import DataSettings
from pixelpath.data.sources import Source
from pixelpath.errors import UserError
from pixelpath.log import say
from pixelpath.runs.folder import by_main
from pixelpath.runs.index import Findings, Index


def examined(
    sides: tuple[Source, Source], settings: DataSettings, known: Normaliser | None, index: Index | None
) -> tuple[Normaliser, dict[str, Digests]]:
    """The normaliser of training images, `known` or fitted to them, which takes the held-out ones too, and the digests of both.

    With an `index` every process of a run must call it: the main one reads the images, unless the index knows them already.
    Raises UserError as `Normaliser.fit`, if all values are one, and for a held-out image that the normaliser does not take.
    """
    if index is None:
        return _read(sides, settings, known)
    kept = index.find(sides)
    normaliser = known or (kept and kept.normaliser)
    if kept is not None and normaliser is not None:
        say("No file has changed since the images were last read, so they are not read again.")
        return normaliser, kept.digests
    normaliser, digests = by_main(_read)(sides, settings, known)
    # a run may go on with other images than its normaliser was fitted to, which no other run is to take
    index.keep(sides, Findings(normaliser if known is None else None, digests))
    return normaliser, digests


def fitted(training: Source, settings: DataSettings, counted: tuple[ChannelStatistics, ...] | None = None) -> Normaliser:
    """The normaliser of training images; of kind auto, what was chosen and why is said."""
    how: Normalisation | tuple[Normalisation, ...] = settings.normaliser
    if how.kind == "auto":
        proposal = propose(training, settings.workers, given=how)
        how = proposal.each
        for reason in proposal.why:
            say(reason)
    return Normaliser.fit(training, settings.workers, how, training.metadata.nodata, counted)


def _read(
    sides: tuple[Source, Source], settings: DataSettings, known: Normaliser | None
) -> tuple[Normaliser, dict[str, Digests]]:
    """Both sides read once; constants that are known or published need no statistics."""
    training, held_out = sides
    measuring = known is None and settings.normaliser.kind != "imagenet"
    (first, tallies), (second, others) = (
        examine(side, settings.workers, training.metadata.nodata, statistics=measuring) for side in sides
    )
    if known is None:
        nodata = training.metadata.nodata
        nodata = None if nodata is None else float(nodata)
        counted = None if tallies is None or not len(training) else complete(tallies, nodata)
        known = fitted(training, settings, counted)
        _check_varied(training, known)
        _check_held_out(held_out, known, others, settings.workers)
    return known, {"training": first, "held_out": second}


def _check_varied(training: Source, normaliser: Normaliser) -> None:
    """UserError if every pixel of the training images has the same value in its channel."""
    if normaliser.ranges and all(channel.lowest == channel.highest for channel in normaliser.ranges):
        values = ", ".join(f"{channel.lowest:g}" for channel in normaliser.ranges)
        raise UserError(
            f"Every pixel of the {len(training)} training images is {values}, so there is nothing to learn: give other images.",
            setting="data",
        )


def _check_held_out(held_out: Source, normaliser: Normaliser, tallies: Tallies | None, workers: int | None) -> None:
    """UserError naming the first held-out image that the normaliser of the training images does not take.

    Where `tallies` say which values there are, the images are read only if one of these values is not taken.
    """
    whole = held_out.dtype.kind in "iu"
    if len(held_out) == 0 or (whole and normaliser.affine) or (tallies is not None and _takes(normaliser, tallies)):
        return
    for numbers, images in chunks(held_out, workers):
        for number, image in zip(numbers.tolist(), images, strict=True):
            _check_image(torch.from_numpy(image[None]), held_out.name(number), normaliser)


def _takes(normaliser: Normaliser, tallies: Tallies) -> bool:
    """Whether the normaliser takes every value that was counted."""
    found = [np.array([normaliser.nodata]) if seen is None else seen.values for seen in tallies.found()]
    longest = max(map(len, found))
    rows = np.stack([np.pad(values, (0, longest - len(values)), mode="edge") for values in found])
    try:
        normaliser.encode(torch.from_numpy(rows[None, :, None].astype(normaliser.dtype)))
    except ValueError:
        return False
    return True


def _check_image(native: Tensor, name: str, normaliser: Normaliser) -> None:
    wrong = ~native.isfinite() if normaliser.nodata is None else native.isinf()
    if bool(wrong.any()):
        raise UserError(
            f"The held-out image {name} holds NaN or infinity: leave it out, or say `data.nodata` nan if NaN means not measured."
        )
    try:
        normaliser.encode(native)
    except ValueError as error:
        raise UserError(f"The held-out image {name} does not fit the training images: {error}") from error
