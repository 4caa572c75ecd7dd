"""The verdict of an evaluation or a comparison: how close images come to real ones, at every scale, and whether they are copies.

It reads a result as evaluation.json keeps it, so that a report can be written again without measuring. A *scale* is the size of
structures in pixels: one over their frequency in the radial power spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from pixelpath.evaluation.copies import Closeness
from pixelpath.evaluation.inception import Inception

SHIFTED = 2.0  # times as far from training images as others of these: held-out images so far are of another law
EQUAL = 1.1  # times the floor, up to which a distance is as good as that of real images
NEEDED = {"features", "few", "frechet_of_few", "frechet_floor_of_few"}
RISEN = 0.02  # of the lowest held-out loss, up to which it counts as no higher
FEW = 100  # images on a side, below which a distance is rough
FAR_OFF = 2.0  # times the power at a scale, or one such part of it, from which on that is far off
BY_CHANCE = 3.0  # times what held-out images are off, in logarithms, up to which power may be so by chance
FAINT = 1e-6  # of the largest power of a spectrum: what lies below that in both sets is not seen
MANY = 1000  # times, beyond which power is not counted
TRUST = (Inception.name, "dinov2-vit-l-14", "encoder", "own network", "pixels")  # features, those that see most like people first
NAMES = {
    Inception.name: "Inception features",
    "encoder": "features of the encoder",
    "own network": "features of the network itself",
}


@dataclass(frozen=True)
class Sides:
    """What the images are called that are judged, those they are compared with, and others of these that set the floor."""

    judged: str = "samples"
    reference: str = "the training images"
    others: str = "other real images"


SAMPLES = Sides()


def verdict(result: Mapping[str, Any], sides: Sides = SAMPLES) -> list[str]:
    """One to four sentences; empty for a result of another version, which has other entries."""
    row, copies, off = _telling(result), result.get("copies", {}), spectrum_off(result)
    found = [] if row is None else [_close(row, sides)]
    found += [] if off is None else [_off_in_words(off, sides)]
    known = copies is None or {"closeness", "duplicates"} <= set(copies)
    return [*found, copies_in_words(copies, shifted(result))] if known else found


def level(result: Mapping[str, Any]) -> Literal["good", "warn", "bad"]:
    """ "bad" if samples copy, "good" if many are about as close as real images at every scale and none is a copy, else "warn"."""
    copies, row = result.get("copies") or {}, _telling(result)
    if is_copying(copies) and shifted(result) is None:
        return "bad"
    exact = copies.get("duplicates", 0) > (copies.get("held_out_duplicates") or 0)
    close = row is not None and _times(row) <= EQUAL and row["few"] >= FEW
    return "good" if close and not exact and spectrum_off(result) is None else "warn"


def shifted(result: Mapping[str, Any]) -> float | None:
    """How many times as far from training images held-out ones are as other training images are, where that is far; else None.

    Held-out images of another time or place are no measure then: neither of closeness nor, as nearest neighbours, of copies.
    """
    most = max(map(_apart, result.get("distances") or ()), default=0.0)
    return most if most > SHIFTED else None


def _apart(row: Mapping[str, Any]) -> float:
    """How many times as far from training images held-out ones are as other training images; 0 if that is not known."""
    within = row.get("frechet_floor_of_training", 0.0)
    return row["frechet_floor_of_few"] / within if within > 0 else 0.0


class Off(NamedTuple):
    """Neighbouring scales, in pixels, at which a channel has far more or far less power: so many times that of real images."""

    channel: str
    smallest: float
    largest: float
    times: float


def spectrum_off(result: Mapping[str, Any]) -> Off | None:
    """The scales at which the power of samples is most off; None if it is far off nowhere, or no spectrum was measured."""
    rows = (result.get("pixel_values") or {}).get("spectra") or []
    channels = dict.fromkeys(row["channel"] for row in rows)
    found = [_off(channel, [row for row in rows if row["channel"] == channel]) for channel in channels]
    worst = max((each for each in found if each is not None), key=lambda each: abs(math.log(each.times)), default=None)
    alone = len(channels) == 1 and next(iter(channels)).isdecimal()
    return worst._replace(channel="") if worst is not None and alone else worst


def _off(channel: str, rows: Sequence[Mapping[str, Any]]) -> Off | None:
    """The worst scale of a channel, with its neighbours that are far off in the same direction."""
    least = FAINT * max(row["training"] for row in rows)
    if least <= 0:
        return None

    def apart(row: Mapping[str, Any], side: str) -> float:
        return 0.0 if row[side] is None else math.log(max(row[side], least) / max(row["training"], least))

    chance = [apart(row, "held_out") for row in rows]
    usual = math.sqrt(sum(value**2 for value in chance) / len(rows))
    limits = [max(math.log(FAR_OFF), BY_CHANCE * max(abs(value), usual)) for value in chance]
    values = [apart(row, "samples") for row in rows]
    worst = max(range(len(rows)), key=lambda place: abs(values[place]))
    sign = math.copysign(1, values[worst])
    far = [sign * value >= limit for value, limit in zip(values, limits, strict=True)]
    if not far[worst]:
        return None
    first = last = worst
    while first > 0 and far[first - 1]:
        first -= 1
    while last + 1 < len(rows) and far[last + 1]:
        last += 1
    return Off(channel, 1 / rows[last]["frequency"], 1 / rows[first]["frequency"], math.exp(values[worst]))


def _off_in_words(off: Off, sides: Sides) -> str:
    """At which scales the power is off, by how much, and how that looks."""
    ends = [f"{size:.2g}" if size < 100 else f"{size:.0f}" for size in (off.smallest, off.largest)]
    sizes = f"{ends[0]} to {ends[1]}" if ends[0] != ends[1] else f"about {ends[0]}"
    name = f" of channel {off.channel}" if off.channel.isdecimal() else f" of {off.channel}" if off.channel else ""
    more = f"up to {off.times:.2g}" if off.times <= MANY else f"more than {MANY:,}"
    if off.times > 1:
        how, look = f"{more} times the power of", "too strong"
    else:
        how, look = f"as little as {100 * off.times:.2g}% of the power of", "missing or too weak"
    return (
        f"The spectrum is far off: {sides.judged} have {how} {sides.reference} in structures of {sizes} pixels{name}, "
        f"so these are {look}."
    )


def is_copying(copies: Mapping[str, Any]) -> bool:
    """Whether more samples than by chance are near copies of training images, as far as can be told."""
    found = worst(copies) if "closeness" in copies else None
    return found is not None and found[1].telling and found[1].copying and found[1].near_copies


def training_verdict(rows: Sequence[Mapping[str, Any]], steps: int | None) -> list[str]:
    """How far training of so many steps came, by lines of metrics.jsonl, and whether it was still getting better.

    That is judged by held-out losses, or for one-step runs by the distance of samples, of which their loss does not tell.
    """
    if not rows:
        return []
    last = rows[-1]["step"]
    done = f"Training stands at step {last:,} of {steps:,}." if steps and last < steps else f"All {last:,} steps are taken."
    key = "sample_distance" if any("sample_distance" in row for row in rows) else "held_out_loss"
    name = {"sample_distance": "The distance of its samples", "held_out_loss": "The held-out loss"}[key]
    found = [(row[key], row["step"]) for row in rows if row.get(key) is not None]
    if len(found) < 2:
        return [done]
    lowest, best = min(found)
    risen = found[-1][0] / lowest - 1 if lowest > 0 else 0.0
    if risen <= RISEN:
        return [f"{done} {name} is still at its lowest."]
    return [f"{done} {name} was lowest at step {best:,} and has risen by {risen:.0%} since: more such steps do not help."]


def worst(copies: Mapping[str, Any]) -> tuple[Mapping[str, Any], Closeness] | None:
    """The features in which samples look most like copies, and how much; None without held-out images."""
    rows = [(row, near) for row in copies["closeness"] if (near := closeness_of(row)) is not None]
    return max(rows, key=lambda each: (each[1].closer - 0.5) / max(each[1].closer_error, 1e-12), default=None)


def closeness_of(row: Mapping[str, Any]) -> Closeness | None:
    """The closeness that a row of evaluation.json holds, None for one without held-out images."""
    names = [part.name for part in fields(Closeness)]
    return Closeness(**{name: row[name] for name in names}) if set(names) <= set(row) else None


def _telling(result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The distances in the most telling features that have a floor."""
    rows = [row for row in result.get("distances") or () if set(row) >= NEEDED and row["frechet_floor_of_few"] > 0]
    return min(rows, key=_trust, default=None)


def _times(row: Mapping[str, Any]) -> float:
    """How many times as far from the training images as other real images."""
    return row["frechet_of_few"] / _floor(row)


def _floor(row: Mapping[str, Any]) -> float:
    """What other real images have in place of samples: training images where held-out ones are of another law."""
    return row["frechet_floor_of_training" if _apart(row) > SHIFTED else "frechet_floor_of_few"]


def _trust(row: Mapping[str, Any]) -> int:
    return TRUST.index(row["features"]) if row["features"] in TRUST else len(TRUST)


def _close(row: Mapping[str, Any], sides: Sides) -> str:
    """How far images are from those of the reference, where others of these set the floor."""
    few, name = row["few"], NAMES.get(row["features"], row["features"])
    times = _times(row)
    others = "other training images" if _apart(row) > SHIFTED else sides.others
    how = f"about as close to {sides.reference} as" if times <= EQUAL else f"{times:.2g} times as far from {sides.reference} as"
    numbers = f"Frechet distance {row['frechet_of_few']:.3g} in {name}, floor {_floor(row):.3g}"
    rough = f" This is rough: {FEW} images and more on either side tell." if few < FEW else ""
    return f"{few:,} {sides.judged} are {how} {few:,} {others} are ({numbers}).{rough}"


def shift_in_words(shift: float) -> str:
    """How far held-out images of another law are, the beginning of a sentence; `shift` as `shifted` gives it."""
    many = f"{shift:.2g}" if shift < 10 else f"{shift:,.0f}"
    return f"held-out images are {many} times as far from the training images as other training images are"


def copies_in_words(copies: Mapping[str, Any] | None, shift: float | None = None) -> str:
    """Whether samples copy training images, as far as so many held-out images can tell; None: not looked for.

    `shift`: held-out images are so many times as far from training images as others of these are, and cannot tell it.
    """
    if copies is None:
        return "Copies were not looked for, as these are not the images that the run was trained on."
    equal = copies["duplicates"]
    exact = f"{equal} samples are exact copies of training images. " if equal else ""
    found = worst(copies)
    if found is None:
        return f"{exact}Without held-out images, near copies cannot be told from others."
    if shift is not None:
        why = f"{shift_in_words(shift)}, so they are of another kind, time or place"
        return f"{exact}Near copies cannot be told from others: {why}."
    row, near = found
    if not near.telling:
        needed = near.held_out_needed(row["held_out"])
        return f"{exact}Near copies cannot be told by {row['held_out']:,} held-out images: it takes about {needed:,}."
    share = f"{near.closer:.0%} +- {near.closer_error:.0%} of them are nearer to training images than to as many held-out ones"
    if near.copying and near.near_copies:
        return f"{exact}Samples copy training images: {share}, where 50% are without copying."
    if near.copying:
        return (
            f"{exact}Samples lean towards the training images: {share}, where 50% are without copying. Near copies are no more "
            f"frequent than among held-out images ({near.below:.1%}, by chance {near.below_expected:.1%})."
        )
    return f"{exact}Samples are no near copies of training images: {share}, and 50% are by chance."
