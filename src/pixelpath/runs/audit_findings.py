"""What an audit has to say of data: rules from what was measured to findings, each with what to do about it.

A *note* is good to know; a *warning* says that training will work but its results may not be what they seem; a *problem* would
stop training or spoil it.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int

from pixelpath.data.normalise.curves import Normalisation
from pixelpath.data.normalise.propose import Proposal
from pixelpath.data.settings import DataSettings
from pixelpath.data.sources import Source, labels
from pixelpath.evaluation.alike import Nearest, Order, Pair
from pixelpath.evaluation.survey import Channel, Survey
from pixelpath.runs.cost import Cost

Level = Literal["note", "warning", "problem"]
LEVELS: tuple[Level, ...] = ("note", "warning", "problem")
STATUS = {"note": 0, "warning": 1, "problem": 3}  # 2 is for mistakes in the command

FEW, SMALL = 100, 1000  # images too few to train on, and few
FEW_HELD_OUT = 20
LARGE = 16_384  # pixels of an image, above which tiles are the better way
NAMED = 10  # items that a finding names at most
TWICE, LEAKED = 0.01, 0.01  # shares of copies that deserve a warning, within training and across the split
SPOILED = 0.5  # share of held-out images among the training images, that leaves nothing to be measured by
SATURATED = 0.001
UNEVEN, RARE = 10.0, 10  # largest class in smallest ones; images of a class
FARTHER = 1.5  # times the nearest difference of training images: held-out images are of another kind
SENTINEL = 2.0  # times the spread of all other values: a value so far off is hardly a measurement
LONG = 7 * 86_400.0


@dataclass(frozen=True)
class Finding:
    """One thing found: how bad, about what, in words, which items it is about (a few of them), and what to do."""

    level: Level
    about: str
    what: str
    where: tuple[str, ...] = ()
    remedy: str = ""

    def sentence(self) -> str:
        """The finding in one line."""
        named = f" ({', '.join(self.where)})" if self.where else ""
        return f"{self.level}: {self.what}{named}." + (f" {self.remedy}" if self.remedy else "")


@dataclass(frozen=True, eq=False)
class Side:
    """One side of the split, and what it holds; `signed` images have signatures."""

    source: Source
    found: Survey

    def name(self, number: int) -> str:
        """What an image is called."""
        return self.source.name(number)

    def named(self, numbers: Sequence[int] | Int[np.ndarray, "image"]) -> tuple[str, ...]:
        """The first of these images by name."""
        more = ("...",) if len(numbers) > NAMED else ()
        return (*(self.name(int(number)) for number in numbers[:NAMED]), *more)


@dataclass(frozen=True, eq=False)
class Seen:
    """All that was measured of data. Pairs and nearest images are numbers of images (not of signatures).

    `own` says whether the data bring a held-out part of their own, `left_out` how many images are on neither side.
    """

    settings: DataSettings
    training: Side
    held_out: Side | None
    own: bool
    left_out: int
    twice: list[list[int]]
    shared: list[tuple[int, int]]
    near: list[Pair]
    leaked: list[Pair]
    among: Nearest
    across: Nearest | None
    order: Order
    proposal: Proposal | None
    exact: bool | None
    refused: str = ""
    """Why the proposed normaliser could not be fitted."""


def findings(seen: Seen) -> list[Finding]:
    """Everything, the worst first."""
    found = [
        *_counts(seen),
        *_damage(seen),
        *_channels(seen),
        *_copies(seen),
        *_split(seen),
        *_classes(seen),
        *_range(seen),
    ]
    return ordered(found)


def ordered(found: Sequence[Finding]) -> list[Finding]:
    """The worst first, else as they were."""
    return sorted(found, key=lambda finding: -LEVELS.index(finding.level))


def status(found: Sequence[Finding]) -> int:
    """The exit status: 0 for notes alone, 1 with a warning, 3 with a problem."""
    return max((STATUS[finding.level] for finding in found), default=0)


def unfit(rows: int, columns: int, patch: int, name: str) -> list[Finding]:
    """A problem if the patch of a recipe does not divide the images."""
    if rows % patch == 0 and columns % patch == 0:
        return []
    near = " ".join(str(max(patch, round(side / patch) * patch)) for side in (rows, columns))
    remedy = f"Use --data.resize {near}, --data.tile {near}, or another --patch."
    return [Finding("problem", "patch", f"the patch of {name}, {patch}, does not divide {rows}x{columns} pixels", (), remedy)]


def costs(found: Sequence[Cost], free: int, folder: Path) -> list[Finding]:
    """Whether a run has room and time here; `free` are the bytes of memory of the device, 0 where they are not known."""
    said = []
    for cost in found:
        if free and cost.memory > free:
            words = f"{cost.name} needs {cost.memory / 2**30:.1f} GiB and {cost.device} has {free / 2**30:.1f} GiB"
            remedy = "Use a smaller --batch-size, more parts (--accumulate), or --activation-checkpointing."
            said.append(Finding("problem", "memory", words, (), remedy))
        if cost.whole > LONG:
            words = f"{cost.name} would take {cost.whole / 86_400:.0f} days on {cost.device}"
            said.append(Finding("note", "time", words, (), "Use a GPU, a smaller --size, or fewer --steps."))
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    needed, room = sum(cost.disk for cost in found), shutil.disk_usage(existing).free
    if needed > room:
        words = f"checkpoints need {needed / 2**30:.1f} GiB and there are {room / 2**30:.1f} GiB free on this disk"
        said.append(Finding("warning", "disk", words, (), "Keep fewer (--keep 1), or write the run elsewhere."))
    return said


def _counts(seen: Seen) -> list[Finding]:
    count, (_, rows, columns) = len(seen.training.source), seen.training.source.shape
    found = []
    if count < SMALL:
        level: Level = "warning" if count < FEW else "note"
        remedy = "A model of so few will repeat them: give more, cut tiles (--data.tile), or mirror them (--flip)."
        found.append(Finding(level, "count", f"there are only {count} training images", (), remedy))
    held = 0 if seen.held_out is None else len(seen.held_out.source)
    if held < FEW_HELD_OUT:
        remedy = "Hold out more with --data.held-out-share, or give --data.held-out; without them nothing tells copying apart."
        found.append(Finding("warning" if held == 0 else "note", "count", f"{held} images are held out", (), remedy))
    if seen.left_out:
        words = f"{seen.left_out} images touch groups of both sides and are on neither"
        found.append(Finding("note", "count", words, (), "That keeps the sides apart."))
    if rows * columns > LARGE and not seen.settings.tile:
        remedy = "Cut them with --data.tile 64, or bring them to a smaller size with --data.resize."
        found.append(Finding("note", "size", f"images of {rows}x{columns} pixels are large", (), remedy))
    return found


def _damage(seen: Seen) -> list[Finding]:
    found = []
    for name, side in _sides(seen):
        listed = side.source.broken if side is seen.training or seen.own else []  # both sides of one source know the same
        broken = [*listed, *(side.name(number) for number in side.found.unreadable)]
        if broken:
            skipped = seen.settings.skip_broken and not side.found.unreadable
            more = ("...",) if len(broken) > NAMED else ()
            remedy = "" if skipped else "Replace or delete them, or leave them out with --data.skip-broken."
            words = f"{len(broken)} {name} files cannot be decoded" + (" and are left out" if skipped else "")
            found.append(Finding("note" if skipped else "problem", "broken", words, (*broken[:NAMED], *more), remedy))
        damaged = np.flatnonzero(side.found.damaged > 0)
        if len(damaged):
            nan = sum(channel.nan for channel in side.found.channels)
            infinite = sum(channel.infinite for channel in side.found.channels)
            words = f"{len(damaged)} {name} images hold {nan} NaN and {infinite} infinite values"
            remedy = "Replace them" + (", or say that NaN means not measured with --data.nodata nan." if nan else ".")
            found.append(Finding("problem", "not finite", words, side.named(damaged), remedy))
        empty = np.flatnonzero(side.found.missing == 1)
        if len(empty):
            words = f"{len(empty)} {name} images hold nothing but nodata"
            found.append(
                Finding("warning", "nodata", words, side.named(empty), "Leave them out: nothing can be learned from them.")
            )
    share = float(np.mean([channel.missing for channel in seen.training.found.channels]))
    if seen.training.source.metadata.nodata is not None:
        words = f"{share:.2%} of the training values are nodata ({seen.training.source.metadata.nodata:g})"
        found.append(Finding("note", "nodata", words if share else "no value is nodata, though a nodata value is set"))
    return found


def _channels(seen: Seen) -> list[Finding]:
    channels = seen.training.found.channels
    dead = [channel for channel in channels if channel.dead]
    if len(dead) == len(channels):
        values = ", ".join("nothing" if channel.lowest is None else f"{channel.lowest:g}" for channel in dead[:NAMED])
        return [Finding("problem", "dead", f"all images hold one value alone ({values})", (), "Check how they were written.")]
    found = []
    if dead:
        where = tuple(f"channel {channel.name} is always {_spoken(channel.lowest)}" for channel in dead[:NAMED])
        remedy = "Leave such channels out: they cost compute and teach nothing."
        found.append(Finding("warning", "dead", f"{len(dead)} of {len(channels)} channels are dead", where, remedy))
    if seen.training.found.copies:
        where = tuple(f"{channels[later].name} follows {channels[first].name}" for first, later in seen.training.found.copies)
        remedy = "Leave the copies out" + (
            "; grey pictures saved as colour become one channel with --data.channels 1." if len(channels) == 3 else "."
        )
        found.append(Finding("warning", "copied channels", "channels are copies of others", where[:NAMED], remedy))
    even = np.flatnonzero(seen.training.found.even & (seen.training.found.missing < 1))
    if len(even):
        words = f"{len(even)} training images are of one value throughout"
        level: Level = "warning" if len(even) > 0.05 * len(seen.training.source) else "note"
        found.append(Finding(level, "blank", words, seen.training.named(even), "Leave them out unless they belong to the data."))
    return found


def _copies(seen: Seen) -> list[Finding]:
    count, side = len(seen.training.source), seen.training
    found = []
    surplus = sum(len(group) - 1 for group in seen.twice)
    if surplus:
        level: Level = "warning" if surplus > TWICE * count else "note"
        where = tuple(" = ".join(side.named(group[:3])) for group in seen.twice[:NAMED])
        words = f"{surplus} training images are exact copies of others"
        found.append(Finding(level, "duplicates", words, where, "Delete the copies: models repeat what they see often."))
    if seen.near:
        level = "warning" if len(seen.near) > 5 * TWICE * count else "note"
        where = tuple(f"{side.name(pair.first)} ~ {side.name(pair.second)}{_view(pair)}" for pair in seen.near[:NAMED])
        words = f"{len(seen.near)} pairs of training images are nearly the same"
        found.append(Finding(level, "near-duplicates", words, where, "Look at nearest.png and keep one of each."))
    return found


def _split(seen: Seen) -> list[Finding]:
    if seen.held_out is None:
        return []
    count, ours, theirs = len(seen.held_out.source), seen.held_out, seen.training
    found = []
    leaked = len(seen.shared) + len(seen.leaked)
    if leaked:
        share = leaked / count
        level: Level = "problem" if share > SPOILED else "warning" if share > LEAKED else "note"
        pairs = [(first, second, " = ") for first, second in seen.shared]
        pairs += [(pair.first, pair.second, " ~ ") for pair in seen.leaked]
        where = tuple(f"{ours.name(first)}{sign}{theirs.name(second)}" for first, second, sign in pairs[:NAMED])
        words = (
            f"{leaked} of {count} held-out images are training images too: {len(seen.shared)} exactly, {len(seen.leaked)} nearly"
        )
        remedy = "Take them out of one side: held-out losses and the search for copies mean nothing with them."
        found.append(Finding(level, "leakage", words, where, remedy))
    both = sorted(_groups(ours.source) & _groups(theirs.source))
    if both:
        words = f"{len(both)} groups have images on both sides"
        remedy = "Keep what belongs together on one side."
        found.append(Finding("warning", "leakage", words, tuple(both[:NAMED]), remedy))
    return [*found, *_order(seen)]


def _order(seen: Seen) -> list[Finding]:
    """Of series in time, and of held-out images of another kind."""
    found = []
    if seen.order.matters:
        share = f"{seen.order.share:.0%} of the training images have their nearest within {seen.order.width} places in order"
        words = f"{share}, where chance gives {seen.order.chance:.0%}: neighbours in order are alike"
        if seen.own or seen.settings.held_out_by == "order":
            found.append(Finding("note", "series", words, (), "Images held out must not lie between training images."))
        else:
            alone = not seen.training.source.classes
            remedy = "Hold out the last ones: --data.held-out-by order." if alone else "Give held-out images of other origin."
            found.append(Finding("warning", "series", f"{words}, so held-out images lie among their likes", (), remedy))
    inside, outside = medians(seen)
    if inside is not None and outside is not None and outside > FARTHER * inside:
        words = f"held-out images are farther from training images (median difference {outside:.2g}) than those among themselves"
        remedy = "Held-out losses will be above training losses from the first step on."
        found.append(Finding("note", "split", f"{words} ({inside:.2g})", (), remedy))
    if inside is not None and outside is not None and outside < inside / FARTHER:
        words = f"held-out images are nearer to training images (median difference {outside:.2g}) than those among themselves"
        remedy = "They lie among training images of the same origin: hold out whole origins, or --data.held-out-by order."
        found.append(Finding("warning", "split", f"{words} ({inside:.2g})", (), remedy))
    return found


def _classes(seen: Seen) -> list[Finding]:
    names = seen.training.source.classes
    if not names:
        return []
    counts = np.bincount(labels(seen.training.source), minlength=len(names))
    found = []
    rare = [f"{names[number]}: {counts[number]}" for number in np.argsort(counts, kind="stable") if counts[number] < RARE]
    if rare:
        words = f"{len(rare)} classes have fewer than {RARE} training images"
        found.append(Finding("warning", "classes", words, tuple(rare[:NAMED]), "Give more of them, or join classes."))
    if counts.min() > 0 and counts.max() > UNEVEN * counts.min():
        few, many = int(counts.argmin()), int(counts.argmax())
        words = f"the largest class ({names[many]}: {counts[many]}) is {counts[many] / counts[few]:.0f} times the smallest"
        remedy = "Samples of rare classes will be worse: give more of them."
        found.append(Finding("warning", "classes", words, (f"{names[few]}: {counts[few]}",), remedy))
    if seen.held_out is not None and len(seen.held_out.source):
        held = np.bincount(labels(seen.held_out.source), minlength=len(names))
        empty = [names[number] for number in np.flatnonzero(held == 0)]
        if empty:
            words = f"{len(empty)} classes have no held-out image"
            found.append(Finding("warning", "classes", words, tuple(empty[:NAMED]), "Hold out more (--data.held-out-share)."))
    return found


def _range(seen: Seen) -> list[Finding]:
    source, channels = seen.training.source, seen.training.found.channels
    found = []
    for _, same in groupby(channels, key=_sentinel):
        group = list(same)
        value = _sentinel(group[0])
        if value is not None and seen.training.source.metadata.nodata is None:
            words = f"the value {value:g} is far from all others and has {group[0].atom_share:.1%} of a channel"
            where = tuple(f"channel {channel.name}" for channel in group[:NAMED])
            found.append(Finding("warning", "nodata", words, where, f"If it means not measured: --data.nodata {value:g}."))
    full = [each for each in channels if (each.at_highest_limit or 0) > SATURATED and not each.dead]
    if full and not source.metadata.photographs:
        where = tuple(f"channel {channel.name}: {channel.at_highest_limit:.1%}" for channel in full[:NAMED])
        words = f"values lie at the highest that {source.dtype.name} can hold"
        found.append(Finding("warning", "saturated", words, where, "They may be cut off: look for data of more bits."))
    if source.dtype == np.uint16 and all((channel.highest or 0) < 256 for channel in channels):
        found.append(Finding("note", "range", "uint16 values use 8 bits alone", (), "Nothing is lost by saving them as uint8."))
    return [*found, *_normaliser(seen)]


def _normaliser(seen: Seen) -> list[Finding]:
    if seen.refused and any(side.found.unreadable or (side.found.damaged > 0).any() for _, side in _sides(seen)):
        return []  # said already, of all images
    if seen.refused:
        return [Finding("problem", "normaliser", seen.refused.rstrip("."))]
    found = []
    if seen.exact is False:
        words = "integers do not come back exactly through the normaliser"
        found.append(Finding("problem", "normaliser", words, (), "Choose another --data.normaliser.kind, or convert to float32."))
    given = seen.settings.normaliser
    if seen.proposal is not None and given == Normalisation() and seen.proposal.how != given:
        remedy = f"Use {option(seen.proposal.how)}, or let it be chosen with --data.normaliser.kind auto."
        found.append(Finding("warning", "normaliser", seen.proposal.why[-1].rstrip("."), (), remedy))
    return found


def option(how: Normalisation) -> str:
    """A normalisation as options of the command line."""
    words = [f"--data.normaliser.kind {how.kind}"]
    words += [f"--data.normaliser.scale {how.scale:g}"] if how.scale is not None else []
    words += ["--data.normaliser.window {:g} {:g}".format(*how.window)] if how.window is not None else []
    words += [f"--data.normaliser.hurdle {how.hurdle}"] if how.hurdle is not None else []
    return " ".join(words)


def medians(seen: Seen) -> tuple[float | None, float | None]:
    """The median difference to the nearest training image: of training images, and of held-out ones."""
    found = []
    for nearest in (seen.among, seen.across):
        finite = np.empty(0) if nearest is None else nearest.difference[np.isfinite(nearest.difference)]
        found.append(float(np.median(finite)) if len(finite) else None)
    return found[0], found[1]


def device_memory(device: torch.device) -> int:
    """Bytes of memory of a device; 0 where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    meminfo = Path("/proc/meminfo")
    if device.type != "cpu" or not meminfo.exists():
        return 0
    return 1024 * int(meminfo.read_text(encoding="ascii").split("MemTotal:")[1].split()[0])


def _sides(seen: Seen) -> list[tuple[str, Side]]:
    return [("training", seen.training)] + ([] if seen.held_out is None else [("held-out", seen.held_out)])


def _groups(source: Source) -> set[str]:
    """The groups of a source whose images are not each a group of their own."""
    found = {group for index in range(len(source)) for group in source.groups(index)}
    return found if len(found) < 0.9 * len(source) else set()


def _sentinel(channel: Channel) -> float | None:
    """A frequent value at an end of the range that is far from all others; 0 is taken for a measurement."""
    value, following = channel.atom, channel.next_to_atom
    if value is None or following is None or not value or channel.atom_share < SATURATED or math.isinf(value):
        return None
    if value not in (channel.lowest, channel.highest):
        return None
    other = channel.highest if value == channel.lowest else channel.lowest
    assert other is not None
    return value if abs(following - value) > SENTINEL * max(abs(other - following), 1e-30) else None


def _view(pair: Pair) -> str:
    return "" if pair.view == "as it is" else f" {pair.view}"


def _spoken(value: float | None) -> str:
    return "nodata" if value is None else f"{value:g}"
