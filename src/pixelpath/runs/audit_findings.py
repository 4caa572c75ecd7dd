"""What an audit concludes: rules from measurements to findings, each with what to do about it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from pixelpath.data.normalise.curves import Normalisation
from pixelpath.data.settings import DataSettings, fitting
from pixelpath.data.sources import Source
from pixelpath.evaluation.alike import Pair
from pixelpath.evaluation.inspection import NAMED, Finding, Inspection, Level, Part
from pixelpath.evaluation.survey import Channel
from pixelpath.recipes.recipe import Recipe
from pixelpath.runs.cost import Cost

LEVELS: tuple[Level, ...] = ("note", "warning", "problem")
STATUS = {"note": 0, "warning": 1, "problem": 3}  # 2 is for mistakes in the command

FEW, SMALL = 100, 1000  # images too few to train on, and few
FEW_HELD_OUT = 20
LARGE = 16_384  # pixels of an image, above which tiles are better
REPEATED, LEAKED = 0.01, 0.01  # shares of copies that deserve a warning, within training and across the split
SPOILED = 0.5  # share of held-out images among the training images, above which they measure nothing
SATURATED = 0.001
BLANK = 0.05  # share of images of one value that deserves a warning
UNEVEN, RARE = 10.0, 10  # largest class in smallest ones; images of a class
FARTHER = 1.5  # times the nearest difference of training images: held-out images are of another kind
SENTINEL = 2.0  # times the spread of all other values: a value so far off is hardly a measurement
LONG = 7 * 86_400.0


def findings(seen: Inspection, *, flipped: bool = False) -> list[Finding]:
    """Everything that follows from the measurements, the worst first; `flipped`: training mirrors images anyway."""
    return ordered(
        [
            *_counts(seen, flipped=flipped),
            *_damage(seen),
            *_nodata(seen),
            *_channels(seen),
            *_copies(seen),
            *_leakage(seen),
            *_mirroring(seen),
            *_order(seen),
            *_distance(seen),
            *_classes(seen),
            *_range(seen),
            *_normaliser(seen),
        ]
    )


def ordered(found: Sequence[Finding]) -> list[Finding]:
    """The worst first, otherwise in the same order."""
    return sorted(found, key=lambda finding: -LEVELS.index(finding.level))


def status(found: Sequence[Finding]) -> int:
    """The exit status: 0 for notes alone, 1 with a warning, 3 with a problem."""
    return max((STATUS[finding.level] for finding in found), default=0)


def unfit(rows: int, columns: int, recipe: Recipe, settings: DataSettings) -> list[Finding]:
    """A problem if the patch of a recipe does not divide the images; a note if the recipe resizes them, as nobody asked."""
    patch, name = recipe.patch, recipe.name
    if recipe.data.resize is not None and recipe.data.resize != settings.resize:
        words = f"no patch divides {rows}x{columns} pixels well, so {name} is proposed with `data.resize`"
        return [Finding("note", "patch", words, (), "Or cut tiles with `data.tile`.")]
    if rows % patch == 0 and columns % patch == 0:
        return []
    near = " ".join(map(str, fitting(rows, columns, patch)))
    remedy = f"Use `data.resize` {near}, `data.tile` {near}, or another `patch`."
    return [Finding("problem", "patch", f"the patch of {name}, {patch}, does not divide {rows}x{columns} pixels", (), remedy)]


def costs(found: Sequence[Cost], free: int, folder: Path) -> list[Finding]:
    """Whether a run has room and time here: `free` bytes of memory of the device (0: unknown), and the disk of `folder`."""
    said = []
    for cost in found:
        if free and cost.memory > free:
            words = f"{cost.name} needs {cost.memory / 2**30:.1f} GiB and {cost.device} has {free / 2**30:.1f} GiB"
            remedy = "Use a smaller `batch_size`, a larger `accumulate`, or `activation_checkpointing`."
            said.append(Finding("problem", "memory", words, (), remedy))
        if cost.whole > LONG:
            words = f"{cost.name} would take {cost.whole / 86_400:.0f} days on {cost.device}"
            said.append(Finding("note", "time", words, (), "Use a GPU, a smaller `size`, or fewer `steps`."))
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    needed, room = sum(cost.disk for cost in found), shutil.disk_usage(existing).free
    if needed > room:
        words = f"checkpoints need {needed / 2**30:.1f} GiB and there are {room / 2**30:.1f} GiB free on this disk"
        said.append(Finding("warning", "disk", words, (), "Keep fewer (`keep` 1), or write the run elsewhere."))
    return said


def device_memory(device: torch.device) -> int:
    """Bytes of memory of a device; 0 where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    meminfo = Path("/proc/meminfo")
    if device.type != "cpu" or not meminfo.exists():
        return 0
    return 1024 * int(meminfo.read_text(encoding="ascii").split("MemTotal:")[1].split()[0])


def _counts(seen: Inspection, *, flipped: bool) -> list[Finding]:
    count, (_, rows, columns) = len(seen.training.source), seen.training.source.shape
    found = []
    if count < SMALL:
        level: Level = "warning" if count < FEW else "note"
        ways = ["give more"] if seen.settings.tile or seen.settings.resize else ["give more", "cut tiles (`data.tile`)"]
        ways += [] if flipped or seen.mirrors is False else ["mirror them (`flip`)"]
        remedy = f"Trained for long, a model of so few repeats them (see `pixelpath evaluate`): {' or '.join(ways)}."
        found.append(Finding(level, "count", f"there are only {count} training images", (), remedy))
    held = 0 if seen.held_out is None else len(seen.held_out.source)
    if held < FEW_HELD_OUT:
        remedy = "Raise `data.held_out_share`, or give `data.held_out`: without held-out images, copying cannot be detected."
        found.append(Finding("warning" if held == 0 else "note", "count", f"{held} images are held out", (), remedy))
    if seen.left_out:
        words = f"{seen.left_out} images touch groups of both sides and are on neither"
        found.append(Finding("note", "count", words, (), "That keeps the sides apart."))
    if rows * columns > LARGE and not seen.settings.tile:
        remedy = "Cut them with `data.tile` 64, or bring them to a smaller size with `data.resize`."
        found.append(Finding("note", "size", f"images of {rows}x{columns} pixels are large", (), remedy))
    return found


def _damage(seen: Inspection) -> list[Finding]:
    return [finding for name, part in seen.parts for finding in (*_broken(seen, name, part), *_not_finite(name, part))]


def _broken(seen: Inspection, name: str, part: Part) -> list[Finding]:
    """Files that cannot be decoded; both sides of one source list the same."""
    listed = part.source.broken if part is seen.training or seen.own_split else []
    broken = [*listed, *(part.name(number) for number in part.found.unreadable)]
    if not broken:
        return []
    where = (*broken[:NAMED], *(("...",) if len(broken) > NAMED else ()))
    words = f"{len(broken)} {name} files cannot be decoded"
    if seen.settings.skip_broken and not part.found.unreadable:
        return [Finding("note", "broken", f"{words} and are left out", where)]
    return [Finding("problem", "broken", words, where, "Replace or delete them, or leave them out with `data.skip_broken`.")]


def _not_finite(name: str, part: Part) -> list[Finding]:
    damaged = np.flatnonzero(part.found.damaged > 0)
    if not len(damaged):
        return []
    nan, infinite = (sum(vars(channel)[kind] for channel in part.found.channels) for kind in ("nan", "infinite"))
    words = f"{len(damaged)} {name} images hold {nan} NaN and {infinite} infinite values"
    remedy = "Replace them" + (", or say that NaN means not measured with `data.nodata` nan." if nan else ".")
    return [Finding("problem", "not finite", words, part.named(damaged), remedy)]


def _nodata(seen: Inspection) -> list[Finding]:
    found = []
    for name, part in seen.parts:
        empty = np.flatnonzero(part.found.missing == 1)
        if len(empty):
            remedy = "Leave them out: nothing can be learned from them."
            words = f"{len(empty)} {name} images hold nothing but nodata"
            found.append(Finding("warning", "nodata", words, part.named(empty), remedy))
    share = float(np.mean([channel.missing for channel in seen.training.found.channels]))
    nodata = seen.training.source.metadata.nodata
    if nodata is not None:
        words = f"{share:.2%} of the training values are nodata ({nodata:g})"
        words = words if share else "no value is nodata, though a nodata value is set"
        halves = "`data.resize` averages the other values alone; a pixel of which less than half was measured is nodata."
        found.append(Finding("note", "nodata", words, (), halves if seen.settings.resize else ""))
    return found


def _channels(seen: Inspection) -> list[Finding]:
    channels, even = seen.training.found.channels, seen.training.found.even
    dead = [channel for channel in channels if channel.dead]
    if len(dead) == len(channels):
        values = ", ".join("nothing" if channel.lowest is None else f"{channel.lowest:g}" for channel in dead[:NAMED])
        return [Finding("problem", "dead", f"all images hold only one value ({values})", (), "Check how they were written.")]
    found = []
    if dead:
        where = tuple(f"channel {channel.name} is always {_spoken(channel.lowest)}" for channel in dead[:NAMED])
        remedy = "Leave such channels out: they cost compute and teach nothing."
        found.append(Finding("warning", "dead", f"{len(dead)} of {len(channels)} channels are dead", where, remedy))
    if seen.training.found.copies:
        where = tuple(f"{channels[later].name} follows {channels[first].name}" for first, later in seen.training.found.copies)
        grey = ". Grey pictures saved in colour become one channel with `data.channels` 1." if len(channels) == 3 else "."
        found.append(Finding("warning", "copied channels", "channels copy others", where[:NAMED], f"Leave the copies out{grey}"))
    blank = np.flatnonzero(even & (seen.training.found.missing < 1))
    if len(blank):
        level: Level = "warning" if len(blank) > BLANK * len(seen.training.source) else "note"
        remedy = "Leave them out unless they belong to the data."
        words = f"{len(blank)} training images have one value throughout"
        found.append(Finding(level, "blank", words, seen.training.named(blank), remedy))
    return found


def _copies(seen: Inspection) -> list[Finding]:
    count, part = len(seen.training.source), seen.training
    found = []
    surplus = sum(len(group) - 1 for group in seen.duplicates)
    if surplus:
        level: Level = "warning" if surplus > REPEATED * count else "note"
        where = tuple(" = ".join(part.named(group[:3])) for group in seen.duplicates[:NAMED])
        words = f"{surplus} training images are exact copies of others"
        found.append(Finding(level, "duplicates", words, where, "Delete the copies: models repeat what they see often."))
    if seen.near_duplicates:
        level = "warning" if len(seen.near_duplicates) > 5 * REPEATED * count else "note"
        pairs = seen.near_duplicates[:NAMED]
        where = tuple(f"{part.name(pair.first)} ~ {part.name(pair.second)}{_view(pair)}" for pair in pairs)
        words = f"{len(seen.near_duplicates)} pairs of training images are nearly the same"
        found.append(Finding(level, "near-duplicates", words, where, "Look at nearest.png and keep one of each."))
    return found


def _leakage(seen: Inspection) -> list[Finding]:
    """Images, and groups of images, that are on both sides."""
    if seen.held_out is None:
        return []
    count, ours, theirs = len(seen.held_out.source), seen.held_out, seen.training
    found, leaked = [], len(seen.leaked) + len(seen.near_leaked)
    if leaked:
        share = leaked / count
        level: Level = "problem" if share > SPOILED else "warning" if share > LEAKED else "note"
        pairs = [(first, second, " = ") for first, second in seen.leaked]
        pairs += [(pair.first, pair.second, " ~ ") for pair in seen.near_leaked]
        where = tuple(f"{ours.name(first)}{sign}{theirs.name(second)}" for first, second, sign in pairs[:NAMED])
        kinds = f"{len(seen.leaked)} exactly, {len(seen.near_leaked)} nearly"
        words = f"{leaked} of {count} held-out images are training images too: {kinds}"
        remedy = "Remove them from one side: held-out losses and the search for copies mean nothing with them."
        found.append(Finding(level, "leakage", words, where, remedy))
    both = sorted(_groups(ours.source) & _groups(theirs.source))
    if both:
        words = f"{len(both)} groups have images on both sides"
        found.append(Finding("warning", "leakage", words, tuple(both[:NAMED]), "Keep what belongs together on one side."))
    return found


def _mirroring(seen: Inspection) -> list[Finding]:
    """Whether mirrored images belong to the data."""
    if not seen.mirrors:
        return []
    words = f"mirrored training images are as near to held-out ones as upright ones (median difference {seen.mirrored:.3f} times)"
    return [Finding("note", "mirroring", words, (), "Mirror half of them in training (`flip`).")]


def _order(seen: Inspection) -> list[Finding]:
    """Series, as in time, whose held-out images lie between training images."""
    if seen.held_out is None or not seen.order.matters:
        return []
    share = f"{seen.order.share:.0%} of the training images have their nearest within {seen.order.width} places in order"
    words = f"{share}, where chance gives {seen.order.chance:.0%}: neighbours in order are alike"
    if seen.own_split or seen.settings.held_out_by == "order":
        return [Finding("note", "series", words, (), "Images held out must not lie between training images.")]
    alone = not seen.training.source.classes
    remedy = "Hold out the last ones: `data.held_out_by` order." if alone else "Give held-out images from another origin."
    return [Finding("warning", "series", f"{words}, so held-out images lie among similar ones", (), remedy)]


def _distance(seen: Inspection) -> list[Finding]:
    """Held-out images that are much less or much more similar to training images than these are to each other."""
    inside, outside = seen.median_differences
    if inside is None or outside is None:
        return []
    ends = f"training images (median difference {outside:.2g}) than those are to each other ({inside:.2g})"
    if outside > FARTHER * inside:
        remedy = "Held-out losses will be above training losses from the first step on."
        return [Finding("note", "split", f"held-out images are less similar to {ends}", (), remedy)]
    if outside < inside / FARTHER:
        remedy = "They lie among training images of the same origin: hold out whole origins, or `data.held_out_by` order."
        return [Finding("warning", "split", f"held-out images are more similar to {ends}", (), remedy)]
    return []


def _classes(seen: Inspection) -> list[Finding]:
    classes = seen.class_counts
    if not classes:
        return []
    counts = {name: sides["training"] for name, sides in classes.items()}
    found = []
    rare = [f"{name}: {count}" for name, count in sorted(counts.items(), key=lambda item: item[1]) if count < RARE]
    if rare:
        words = f"{len(rare)} classes have fewer than {RARE} training images"
        found.append(Finding("warning", "classes", words, tuple(rare[:NAMED]), "Give more of them, or join classes."))
    few, many = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[few] > 0 and counts[many] > UNEVEN * counts[few]:
        words = f"the largest class ({many}: {counts[many]}) is {counts[many] / counts[few]:.0f} times the smallest"
        remedy = "Samples of rare classes will be worse: give more of them."
        found.append(Finding("warning", "classes", words, (f"{few}: {counts[few]}",), remedy))
    empty = [name for name, sides in classes.items() if sides.get("held_out") == 0]
    if empty:
        words = f"{len(empty)} classes have no held-out image"
        remedy = "Hold out more (`data.held_out_share`)."
        found.append(Finding("warning", "classes", words, tuple(empty[:NAMED]), remedy))
    return found


def _range(seen: Inspection) -> list[Finding]:
    source, channels = seen.training.source, seen.training.found.channels
    found = []
    for value, same in groupby(channels, key=_sentinel):
        group = list(same)
        if value is not None and source.metadata.nodata is None:
            words = f"the value {value:g} is far from all others and has {group[0].atom_share:.1%} of a channel"
            where = tuple(f"channel {channel.name}" for channel in group[:NAMED])
            found.append(Finding("warning", "nodata", words, where, f"If it means not measured: `data.nodata` {value:g}."))
    full = [each for each in channels if (each.at_highest_limit or 0) > SATURATED and not each.dead]
    if full and not source.metadata.photographs:
        where = tuple(f"channel {channel.name}: {channel.at_highest_limit:.1%}" for channel in full[:NAMED])
        words = f"values lie at the highest that {source.dtype.name} can hold"
        found.append(Finding("warning", "saturated", words, where, "They may be cut off: look for data of more bits."))
    if source.dtype == np.uint16 and all((channel.highest or 0) < 256 for channel in channels):
        found.append(Finding("note", "range", "uint16 values use only 8 bits", (), "Nothing is lost by saving them as uint8."))
    return found


def _normaliser(seen: Inspection) -> list[Finding]:
    trial, given = seen.normaliser, seen.settings.normaliser
    if trial.refused and any(part.found.unreadable or (part.found.damaged > 0).any() for _, part in seen.parts):
        return []  # said already, of all images
    if trial.refused:
        return [Finding("problem", "normaliser", trial.refused.rstrip("."))]
    found = []
    if trial.exact is False:
        words = "integers do not come back exactly through the normaliser"
        remedy = "Choose another `data.normaliser.kind`, or convert the data to float32."
        found.append(Finding("problem", "normaliser", words, (), remedy))
    if trial.proposal is not None and given == Normalisation() and trial.proposal.how != given:
        mixed = trial.proposal.how.kind == "auto"
        auto = "et it be chosen with `data.normaliser.kind` auto."
        remedy = f"L{auto}" if mixed else f"Use {_spelled(trial.proposal.how)}, or l{auto}"
        found.append(Finding("warning", "normaliser", trial.proposal.why[-1].rstrip("."), (), remedy))
    return found


def _spelled(how: Normalisation) -> str:
    """A normalisation as settings and their values."""
    words = [f"`data.normaliser.kind` {how.kind}"]
    words += [f"`data.normaliser.scale` {how.scale:g}"] if how.scale is not None else []
    words += ["`data.normaliser.window` {:g} {:g}".format(*how.window)] if how.window is not None else []
    words += [f"`data.normaliser.hurdle` {how.hurdle}"] if how.hurdle is not None else []
    return ", ".join(words)


def _groups(source: Source) -> set[str]:
    """The groups of a source, unless nearly every image is a group of its own."""
    found = {group for index in range(len(source)) for group in source.groups(index)}
    return found if len(found) < 0.9 * len(source) else set()


def _sentinel(channel: Channel) -> float | None:
    """A frequent value at an end of the range that is far from all others; 0 counts as a measurement."""
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
