"""Signs that a generator goes wrong while it trains: samples whose moments leave the data's, and losses that jump.

*Moments* are per channel, of images in one range [batch, channel, row, column]. The *spread* is the std of a pixel over images,
as the root of its mean square over pixels. It is 0 for samples that are all alike.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pixelpath.errors import UserError
from pixelpath.types import Images

FLOOR = 0.1  # of the largest std of a channel: channels that vary less are compared with this


@dataclass(frozen=True)
class Moments:
    """Mean, std and spread of every channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    spread: tuple[float, ...]


@dataclass(frozen=True)
class Band:
    """How far samples may be from the data: the mean by `shift` stds of the data, the others by a factor in [least, most].

    A few hundred samples of a good generator lie well inside. Images of pure noise, of one colour or of one kind do not.
    """

    shift: float = 0.5
    least: float = 0.5
    most: float = 2.0


def moments(images: Images) -> Moments:
    """The moments of at least two images; UserError for fewer."""
    if len(images) < 2:
        raise UserError(f"The moments of samples need at least 2 images, got {len(images)}: draw more.")
    values = images.detach().cpu().double()
    spread = values.var(0, correction=1).mean((1, 2)).sqrt()
    std = values.transpose(0, 1).flatten(1).std(1, correction=0)
    return Moments(*(tuple(each.tolist()) for each in (values.mean((0, 2, 3)), std, spread)))


def outside(samples: Images, data: Moments, band: Band = Band()) -> list[str]:
    """A sentence for every moment of the samples that has left its band around the data's; empty if none has.

    Raises UserError if the samples have another number of channels.
    """
    found = moments(samples)
    if len(found.mean) != len(data.mean):
        raise UserError(f"The samples have {len(found.mean)} channels and the data {len(data.mean)}: compare like with like.")
    if not bool(torch.isfinite(samples).all()):
        return ["samples are not finite"]
    alarms = []
    least = FLOOR * max(data.std)  # a channel that hardly varies is no measure of itself
    for channel, std in enumerate(data.std):
        where = f" of channel {channel}" if len(data.mean) > 1 else ""
        distance = abs(found.mean[channel] - data.mean[channel])
        if distance > band.shift * max(std, least):
            alarms.append(f"the mean{where} of samples is {distance / max(std, least):.2f} stds from the data's")
        for name, ours, theirs in (
            ("std", found.std[channel], std),
            ("spread", found.spread[channel], data.spread[channel]),
        ):
            if ours > band.most * max(theirs, least) or (theirs >= least and ours < band.least * theirs):
                alarms.append(f"the {name}{where} of samples is {ours / max(theirs, least):.2f} times the data's")
    return alarms


def spiked(losses: Sequence[float], window: int = 50, factor: float = 5.0) -> bool:
    """Whether the last of the losses (positive, in the order of steps) is not finite, or above `factor` medians of those
    before.

    The median is over the `window` losses before the last, so a slow change is no spike. With fewer than ten of them only a
    loss that is not finite counts.
    """
    *before, last = losses
    if not math.isfinite(last):
        return True
    known = [loss for loss in before[-window:] if math.isfinite(loss)]
    return len(known) >= 10 and last > factor * statistics.median(known)
