"""Do samples keep to what they were asked for? Mean rain against the number asked, alpha against the mask asked.

    python -m benchmarks.conditions table RADAR intensity.npz       # write the table: log10(mean rain + 0.01) of every image
    python -m benchmarks.conditions masks SPRITES MASKS             # write the masks: where alpha is above a half
    python -m benchmarks.conditions rain asked.csv SAMPLES.npy
    python -m benchmarks.conditions sprites MASKS SAMPLES_FOLDER
    python -m benchmarks.conditions alpha SPRITES SAMPLES_FOLDER    # the share of pixels neither transparent nor opaque, by class

RADAR holds train.npy and test.npy, SPRITES a tree of RGBA PNG files; samples take lines and masks in their order.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FLOOR = 0.01  # mm/h added before the logarithm


def intensity(images: np.ndarray) -> np.ndarray:
    """log10(mean + 0.01) of every image [count]."""
    return np.log10(images.astype(np.float64).mean((1, 2, 3)) + FLOOR)


def rain(condition: Path, samples: Path) -> dict[str, Any]:
    """Medians of the intensity made for every intensity asked, and their correlation."""
    wanted = np.array([float(line) for line in condition.read_text().split()[1:]])
    made = intensity(np.load(samples))
    wanted = wanted[np.arange(len(made)) % len(wanted)]
    medians = {f"{value:g}": float(np.median(made[wanted == value])) for value in np.unique(wanted)}
    return {"correlation": float(np.corrcoef(wanted, made)[0, 1]), "median made for asked": medians}


def sprites(masks: Path, samples: Path) -> dict[str, Any]:
    """The area in both mask and alpha over that in either, median and mean over samples; also against the next sample's mask."""
    wanted = [np.asarray(Image.open(path)) > 0 for path in sorted(masks.rglob("*.png"))]
    made = [np.asarray(Image.open(path))[..., 3] > 127 for path in sorted(samples.glob("[0-9]*.png"))]
    found = {}
    for name, shift in (("own mask", 0), ("another's mask", 1)):
        shares = []
        for place, alpha in enumerate(made):
            mask = wanted[(place + shift) % len(wanted)]
            shares.append((mask & alpha).sum() / max(1, (mask | alpha).sum()))
        found[name] = {"median": float(np.median(shares)), "mean": float(np.mean(shares))}
    return found


def alpha(tree: Path, samples: Path) -> dict[str, dict[str, float]]:
    """The share of pixels neither transparent nor opaque in each class of training, test and samples, and the classes' mean."""
    about = json.loads((samples / "samples.json").read_text())
    labels, made = np.array(about["labels"]), _half(sorted(samples.glob("[0-9]*.png")))
    found: dict[str, dict[str, float]] = {}
    for number, name in enumerate(about["classes"]):
        real = {part: float(_half(sorted((tree / part / name).glob("*.png"))).mean()) for part in ("train", "test")}
        found[name] = real | {"samples": float(made[labels == number].mean())}
    columns = ("train", "test", "samples")
    return found | {
        "mean of the classes": {column: float(np.mean([row[column] for row in found.values()])) for column in columns}
    }


def _half(paths: list[Path]) -> np.ndarray:
    """For every file the share of its pixels neither transparent nor opaque."""
    values = (np.asarray(Image.open(path).convert("RGBA"))[..., 3] for path in paths)
    return np.array([((value > 0) & (value < 255)).mean() for value in values])


def write_table(radar: Path, out: Path) -> None:
    """The intensity of every image of both parts."""
    train, test = (intensity(np.load(radar / f"{part}.npy"))[:, None] for part in ("train", "test"))
    np.savez(out, train=train, test=test)


def write_masks(tree: Path, out: Path) -> None:
    """Masks of 0 and 1 under the names of the sprites."""
    for path in sorted(tree.rglob("*.png")):
        place = out / path.relative_to(tree)
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((np.asarray(Image.open(path))[..., 3] > 127).astype(np.uint8)).save(place)


def main() -> None:
    """Write conditions, or hold samples against them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("table", "masks", "rain", "sprites", "alpha"))
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    chosen = parser.parse_args()
    if chosen.what in ("table", "masks"):
        (write_table if chosen.what == "table" else write_masks)(chosen.first, chosen.second)
        return
    found = {"rain": rain, "sprites": sprites, "alpha": alpha}[chosen.what](chosen.first, chosen.second)
    json.dump(found, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
