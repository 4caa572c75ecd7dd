"""The verdict of an evaluation: in a few words, how close samples come to real images, and whether they are copies.

It reads a result as evaluation.json keeps it, so that a report can be written again without measuring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

from pixelpath.evaluation.copies import Closeness
from pixelpath.evaluation.inception import Inception

EQUAL = 1.1  # times the floor, up to which a distance is as good as that of real images
NEEDED = {"features", "few", "frechet_of_few", "frechet_floor_of_few"}
RISEN = 0.02  # of the lowest held-out loss, up to which it counts as no higher
FEW = 100  # images on a side, below which a distance is rough
TRUST = (Inception.name, "encoder", "own network", "pixels")  # features, those that see most like people first
NAMES = {
    Inception.name: "Inception features",
    "encoder": "features of the encoder",
    "own network": "features of the network itself",
}


def verdict(result: Mapping[str, Any]) -> list[str]:
    """One to three sentences; empty for a result of another version, which has other entries."""
    row, copies = _telling(result), result.get("copies", {})
    found = [] if row is None else [_close(row)]
    return [*found, copies_in_words(copies)] if copies is None or {"closeness", "duplicates"} <= set(copies) else found


def level(result: Mapping[str, Any]) -> Literal["good", "warn", "bad"]:
    """ "bad" if samples copy, "good" if many are about as close as real images and none is an exact copy, else "warn"."""
    copies, row = result.get("copies") or {}, _telling(result)
    if is_copying(copies):
        return "bad"
    exact = copies.get("duplicates", 0) > (copies.get("held_out_duplicates") or 0)
    return "good" if row is not None and _times(row) <= EQUAL and row["few"] >= FEW and not exact else "warn"


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
    return row["frechet_of_few"] / row["frechet_floor_of_few"]


def _trust(row: Mapping[str, Any]) -> int:
    return TRUST.index(row["features"]) if row["features"] in TRUST else len(TRUST)


def _close(row: Mapping[str, Any]) -> str:
    """How far samples are from training images, where other real images set the floor."""
    few, name = row["few"], NAMES.get(row["features"], row["features"])
    times = _times(row)
    how = (
        "about as close to the training images as" if times <= EQUAL else f"{times:.2g} times as far from the training images as"
    )
    numbers = f"Frechet distance {row['frechet_of_few']:.3g} in {name}, floor {row['frechet_floor_of_few']:.3g}"
    rough = f" This is rough: {FEW} images and more on either side tell." if few < FEW else ""
    return f"{few:,} samples are {how} {few:,} other real images are ({numbers}).{rough}"


def copies_in_words(copies: Mapping[str, Any] | None) -> str:
    """Whether samples copy training images, as far as so many held-out images can tell; None: not looked for."""
    if copies is None:
        return "Copies were not looked for, as these are not the images that the run was trained on."
    equal = copies["duplicates"]
    exact = f"{equal} samples are exact copies of training images. " if equal else ""
    found = worst(copies)
    if found is None:
        return f"{exact}Without held-out images, near copies cannot be told from others."
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
