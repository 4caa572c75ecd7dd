"""What is measured of data before training: values, copies within and across the split, order, and a normaliser.

A *part* is one side of the split with its survey. Pairs and nearest images are numbers of images of a part. A *finding* is one
conclusion from these measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int

from pixelpath.data.normalise.curves import Normalisation
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.normalise.propose import Proposal, propose
from pixelpath.data.normalise.statistics import missing_in
from pixelpath.data.settings import DataSettings
from pixelpath.data.sources import Source, Subset, evenly, gather, labels, subset
from pixelpath.evaluation import alike
from pixelpath.evaluation.alike import Nearest, Order, Pair
from pixelpath.evaluation.survey import Survey, survey

SIGNED, SIGNED_HELD_OUT = 16_000, 4_000  # images among which near-duplicates are looked for, at most
FAST, FAST_HELD_OUT = 2000, 500  # images that a fast inspection reads
CONFIRMED = 2000  # pairs whose pixels are compared, at most
MIRRORABLE = 50  # held-out images, at least, by which it is judged whether mirrored images belong to the data
AS_NEAR = (
    1.05  # ratio up to which mirrored training images are as near as upright ones: 1.01 on photographs, 1.3 to 2.4 elsewhere
)
TRIED = 512  # images that go through the normaliser and back
NAMED = 10  # items that a finding names, at most

LEFT_TO_RIGHT = "mirrored left to right"
Level = Literal["note", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One conclusion: how bad, about what, the fact, the items concerned (a few of them), and what to do.

    A *note* needs no action. With a *warning* training works, but its results may mislead. A *problem* would stop or spoil it.
    Settings in `remedy` stand in backticks.
    """

    level: Level
    about: str
    what: str
    where: tuple[str, ...] = ()
    remedy: str = ""

    def __str__(self) -> str:
        named = f" ({', '.join(self.where)})" if self.where else ""
        return f"{self.level}: {self.what}{named}." + (f" {self.remedy}" if self.remedy else "")


@dataclass(frozen=True, eq=False)
class Part:
    """One side of the split, and what its survey found."""

    source: Source
    found: Survey

    def name(self, number: int) -> str:
        """The name of an image."""
        return self.source.name(number)

    def named(self, numbers: Sequence[int] | Int[np.ndarray, "image"]) -> tuple[str, ...]:
        """The names of the first of these images."""
        more = ("...",) if len(numbers) > NAMED else ()
        return (*(self.name(int(number)) for number in numbers[:NAMED]), *more)

    @property
    def blank(self) -> Bool[np.ndarray, "image"]:
        """Images that count as no copies even if their bytes are equal: those of one value throughout, and unreadable ones."""
        unread = np.zeros(len(self.source), bool)
        unread[list(self.found.unreadable)] = True
        return self.found.even | unread

    def signed_image(self, place: int) -> np.ndarray:
        """The image of a signature, with NaN for nodata."""
        image = self.source[int(self.found.signed[place])]
        missing = missing_in(image[None], self.source.metadata.nodata)
        return image if missing is None else np.where(missing[0], np.nan, image.astype(np.float64))


@dataclass(frozen=True)
class NormaliserTrial:
    """The proposed normalisation, whether integers come back exactly through the normaliser, and why it was refused, if so."""

    proposal: Proposal | None
    exact: bool | None
    refused: str = ""


@dataclass(frozen=True, eq=False)
class Inspection:
    """What was measured. `own_split`: the data have held-out images of their own. `left_out`: images on neither side.

    `nearest` of every signed training image is its nearest other one; `nearest_held_out` of every signed held-out image is the
    nearest training image. `mirrored` is how much farther from held-out images training images are when mirrored left to right:
    the ratio of the median differences, None for too few held-out images.
    """

    settings: DataSettings
    training: Part
    held_out: Part | None
    own_split: bool
    left_out: int
    duplicates: list[list[int]]
    near_duplicates: list[Pair]
    leaked: list[tuple[int, int]]
    near_leaked: list[Pair]
    nearest: Nearest
    nearest_held_out: Nearest | None
    order: Order
    normaliser: NormaliserTrial
    mirrored: float | None = None

    @property
    def parts(self) -> list[tuple[str, Part]]:
        """The sides by name; held-out only if there are any."""
        return [("training", self.training)] + ([] if self.held_out is None else [("held-out", self.held_out)])

    @property
    def median_differences(self) -> tuple[float | None, float | None]:
        """The median difference to the nearest training image: of training images, and of held-out ones."""
        found = []
        for nearest in (self.nearest, self.nearest_held_out):
            finite = np.empty(0) if nearest is None else nearest.difference[np.isfinite(nearest.difference)]
            found.append(float(np.median(finite)) if len(finite) else None)
        return found[0], found[1]

    @property
    def mirrors(self) -> bool | None:
        """Whether mirrored images belong to the data, as they are no farther from held-out ones; None if that cannot be told."""
        return None if self.mirrored is None else self.mirrored <= AS_NEAR

    @property
    def class_counts(self) -> dict[str, dict[str, int]]:
        """Images by class and side (training, held_out); empty without classes."""
        names = self.training.source.classes
        sides = {"training": self.training} | ({} if self.held_out is None else {"held_out": self.held_out})
        counts = {side: np.bincount(labels(part.source), minlength=len(names)) for side, part in sides.items()} if names else {}
        return {name: {side: int(count[number]) for side, count in counts.items()} for number, name in enumerate(names)}


def inspect(
    training: Source,
    held_out: Source,
    settings: DataSettings,
    *,
    own_split: bool = False,
    fast: bool = False,
    turned: bool = False,
) -> Inspection:
    """Measure both sides in one pass over the images.

    `fast` reads about 2,000 evenly spaced images instead of every image. `turned` looks for mirrored and rotated copies too.
    Raises ValueError if no image can be decoded.
    """
    all_training, left_out = training, 0 if fast else _left_out(training, held_out)
    if fast:
        training = subset(training, alike.chosen_runs(len(training), FAST))
        held_out = subset(held_out, alike.chosen_runs(len(held_out), FAST_HELD_OUT))
    ours = _part(training, settings, SIGNED)
    theirs = _part(held_out, settings, SIGNED_HELD_OUT) if len(held_out) else None
    views = alike.views_of(*training.shape[1:], turned)
    nearest = alike.nearest(ours.found.signatures, views=views)
    leaked, near_leaked, nearest_held_out = _across(ours, theirs, views)
    places = ours.found.signed
    numbers = np.array([training.label(int(number)) for number in places], np.int64)
    upright = alike.nearest(ours.found.signatures) if turned else nearest
    return Inspection(
        settings=settings,
        training=ours,
        held_out=theirs,
        own_split=own_split,
        left_out=left_out,
        duplicates=alike.groups_of(ours.found.digests, ours.blank),
        near_duplicates=_within(ours, nearest),
        leaked=leaked,
        near_leaked=near_leaked,
        nearest=nearest,
        nearest_held_out=nearest_held_out,
        order=alike.in_order(upright, places, numbers),
        normaliser=_tried(all_training, settings),
        mirrored=_mirrored(ours, theirs),
    )


def _mirrored(ours: Part, theirs: Part | None) -> float | None:
    """How much farther held-out images are from training images when mirrored left to right: the ratio of median differences."""
    if theirs is None:
        return None
    views = (alike.AS_IS, {LEFT_TO_RIGHT: alike.MIRRORED[LEFT_TO_RIGHT]})
    found = [alike.nearest(theirs.found.signatures, ours.found.signatures, view).difference for view in views]
    both = np.isfinite(found[0]) & np.isfinite(found[1])
    if both.sum() < MIRRORABLE:
        return None
    upright, mirrored = (float(np.median(each[both])) for each in found)
    return mirrored / upright if upright > 0 else None


def _part(source: Source, settings: DataSettings, most: int) -> Part:
    return Part(source, survey(source, settings.workers, alike.chosen_runs(len(source), most)))


def _within(part: Part, nearest: Nearest) -> list[Pair]:
    """Pairs of images of one side that are nearly, but not exactly, the same."""
    found = alike.confirmed(nearest, part.signed_image, part.signed_image, _scale(part), CONFIRMED, within=True)
    digests = part.found.digests
    return [pair for pair in _numbered(found, part, part) if digests[pair.first] != digests[pair.second]]


def _across(
    ours: Part, theirs: Part | None, views: dict[str, alike.View]
) -> tuple[list[tuple[int, int]], list[Pair], Nearest | None]:
    """Held-out images that are training images: exactly, and nearly; and the nearest training image of each."""
    if theirs is None:
        return [], [], None
    exact = alike.shared(theirs.found.digests, ours.found.digests, theirs.blank)
    nearest = alike.nearest(theirs.found.signatures, ours.found.signatures, views)
    near = alike.confirmed(nearest, theirs.signed_image, ours.signed_image, _scale(ours), CONFIRMED, within=False)
    known = {first for first, _ in exact}
    return exact, [pair for pair in _numbered(near, theirs, ours) if pair.first not in known], nearest


def _numbered(pairs: Sequence[Pair], first: Part, second: Part) -> list[Pair]:
    """Pairs of signatures as pairs of images."""
    signed, other = first.found.signed, second.found.signed
    return [Pair(int(signed[pair.first]), int(other[pair.second]), pair.view, pair.difference) for pair in pairs]


def _scale(part: Part) -> np.ndarray:
    return np.array([channel.std or 1.0 for channel in part.found.channels])


def _left_out(training: Source, held_out: Source) -> int:
    """Images of one source that its split put on neither side."""
    if isinstance(training, Subset) and isinstance(held_out, Subset) and training.source is held_out.source:
        return len(training.source) - len(training) - len(held_out)
    return 0


def _tried(source: Source, settings: DataSettings) -> NormaliserTrial:
    """Some images through the normaliser of the settings, or the proposed one if they choose none."""
    few = subset(source, evenly(len(source), TRIED))
    try:
        auto = settings.normaliser.kind == "auto"
        proposal = propose(few, settings.workers, given=settings.normaliser if auto else Normalisation("auto"))
        how = proposal.each if auto or settings.normaliser == Normalisation() else settings.normaliser
        normaliser = Normaliser.fit(few, settings.workers, how, source.metadata.nodata)
        native = torch.from_numpy(gather(few, range(len(few))))
        if source.dtype.kind not in "iu":
            return NormaliserTrial(proposal, None)
        back, valid = normaliser.decode(normaliser.encode(native)), normaliser.valid(native)
    except ValueError as error:
        return NormaliserTrial(None, None, str(error))
    same = (back.to(torch.int64) == native.to(torch.int64)) | (False if valid is None else ~valid)
    return NormaliserTrial(proposal, bool(same.all()))
