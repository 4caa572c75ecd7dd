"""Make a model that ships inside the package from a finished run: `python -m examples.bundle RUN`.

Kept are settings, normaliser, the EMA of the weights rounded to float16, and how the run was tuned. The *card* (card.json, and
README.md to read) is measured on these rounded weights: distances, copies, and how far rounding moves the samples.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pixelpath import log
from pixelpath.atomic import read_json, sealed, write_json
from pixelpath.errors import UserError
from pixelpath.recipes.recipe import to_json
from pixelpath.runs.cost_card import cost_card
from pixelpath.runs.measuring.evaluate import Judges, evaluate
from pixelpath.runs.measuring.verdict import verdict
from pixelpath.runs.opened import OpenRun, open_run
from pixelpath.runs.prepare import read_data_of
from pixelpath.runs.sample import Samples, sample
from pixelpath.runs.sample_conditions import choose_labels
from pixelpath.runs.sharing.bundled import BUNDLED, CARD
from pixelpath.runs.tuned import FILE as TUNED
from pixelpath.trainer import checkpoint
from pixelpath.trainer.checkpoint import Snapshot

MOST = 6_000_000  # bytes that a model may add to the package
COMPARED = 64  # samples by which rounding and colours are measured
KEPT = ("recipe.json", TUNED, "nearest.png")  # beside the checkpoint
SPRITES = "3,249 sprites of 32 x 32 pixels with transparency, in 6 classes: tiles of Dungeon Crawl Stone Soup"
LICENCE = "CC0 1.0"


def bundle(run: Path, target: Path, about: str, licence: str, count: int | None = None, data: Path | None = None) -> Path:
    """Write the bundled model of a run to the folder `target`, in place of what is there, and return it.

    `count` samples are evaluated, as many as training images if not given; `data` are the run's images, where they have moved.
    Raises UserError for a run that cannot be sampled, and for a model above 6 MB.
    """
    opened = open_run(run)
    images = read_data_of(opened, data)
    with tempfile.TemporaryDirectory() as place:  # outside the package, where an evaluation may write
        made = rounded(opened, Path(place) / target.name)
        half = open_run(made)
        found = evaluate(half, images, judges=Judges(use_inception=False), count=count)
        for file in made.iterdir():
            if file.is_file() and file.name not in KEPT:
                file.unlink()
        data_card = {"what": about, "licence": licence, "training": len(images.training), "held_out": len(images.held_out)}
        finish(opened, half, found, {"name": target.name, "data": data_card})
        if size_of(made) > MOST:
            raise UserError(
                f"{target.name} would be {size_of(made) / 1e6:.1f} MB, and {MOST / 1e6:g} may ship: train a smaller `size`.",
                "size",
            )
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(made, target)
    return target


def finish(run: OpenRun, half: OpenRun, found: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Give the rounded run its card, by the evaluation `found`, and a picture of samples."""
    exact, made = (sample(each, range(COMPARED), choose_labels(each, range(COMPARED), ())) for each in (run, half))
    made.grid(columns=16, labels=False).save(half.path / "samples.png", optimize=True)
    card = {
        **about,
        "made_by": f"`python -m examples.bundle RUN`, of a run of {run.recipe.name} with patches of {run.recipe.patch}",
        "verdict": verdict(found),
        "distances": found["distances"],
        "copies": found["copies"],
        "cost": cost_card(run).sentences(),
        "rounding": differences(exact, made),
        "mean_values": made.native.double().mean((0, 2, 3)).tolist(),
    }
    write_json(half.path / CARD, card)
    (half.path / "README.md").write_text(as_text(card), encoding="utf-8")


def size_of(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def rounded(run: OpenRun, target: Path) -> Path:
    """A folder like that of the run with what sampling needs of it, the EMA of its weights rounded to float16."""
    elsewhere = replace(run.recipe, data=replace(run.recipe.data, path=None, held_out=None))
    recipe = json.loads(to_json(elsewhere))
    about = {key: value for key, value in checkpoint.read(run.checkpoint, "data").items() if key != "images"}
    if run.normaliser.dtype == "uint8" and run.shape[0] in (1, 3, 4):
        about["metadata"] = {**about["metadata"], "format": "png"}  # which everybody can open, whatever the images lay in
    extras = {"recipe": recipe, "normaliser": run.normaliser.to_json(), "data": about}
    halves = {name: value.half() for name, value in run.model.state_dict().items()}
    target.mkdir(parents=True)
    checkpoint.write(target, Snapshot(checkpoint.read_state(run.checkpoint), {"ema": halves}, []), extras)
    write_json(target / "recipe.json", sealed(recipe))
    results = read_json(run.path / TUNED) if (run.path / TUNED).exists() else []
    tuned = [each for each in results if each["checkpoint"] == run.checkpoint.name]
    if tuned:
        write_json(target / TUNED, tuned[-1:])
        for start in {row["start"] for table in tuned[-1]["tables"] for row in table["chosen"] if row["start"]}:
            shutil.copytree(run.path / start, target / start)
    return target


def differences(exact: Samples, made: Samples) -> dict[str, float]:
    """How far samples of the same seeds are apart, in native values: on average, and at most."""
    apart = (exact.native.double() - made.native.double()).abs()
    return {"samples": len(made), "mean": float(apart.mean()), "most": float(apart.max())}


def as_text(card: Mapping[str, Any]) -> str:
    """The card as a page of Markdown, to be read."""
    data, rounding = card["data"], card["rounding"]
    distances = [
        f"| {row['features']} | {row['frechet']:.4g} | {row['frechet_of_few']:.4g} | {row['frechet_floor_of_few']:.4g} |"
        for row in card["distances"]
    ]
    protocol = card["distances"][0]["protocol"]
    parts = [
        f"# {card['name']}",
        "![Samples, classes in turn](samples.png)",
        f"**Data.** {data['what']}; {data['training']:,} trained on, {data['held_out']:,} held out. Licence: {data['licence']}.",
        "**How good.** " + " ".join(card["verdict"]),
        f"| features | Frechet distance | of {card['distances'][0]['few']} | as many real images |\n|---|---|---|---|\n"
        + "\n".join(distances),
        f"*{protocol['generated']:,} samples, {protocol['nfe']} evaluations each (guidance {protocol['guidance']:g}); the whole "
        "protocol is in card.json.*",
        "![The samples nearest to training images, and these below](nearest.png)",
        "**Cost.** " + " ".join(card["cost"]),
        f"**Rounding.** Weights are kept as float16. That moves {rounding['samples']} samples by {rounding['mean']:.3g} on "
        f"average and {rounding['most']:.0f} at most, in native values.",
        f"**How it was made.** {card['made_by']}.",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Read the command line and write the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--name", default="sprites", help="name of the model (sprites)")
    parser.add_argument("--data", type=Path, help="the run's images, where they have moved")
    parser.add_argument("--about", default=SPRITES, help="what the images are, in a sentence")
    parser.add_argument("--licence", default=LICENCE, help=f"licence of the images ({LICENCE})")
    parser.add_argument("--count", type=int, help="samples to evaluate (as many as training images)")
    given = parser.parse_args()
    with log.shown():
        folder = bundle(given.run, BUNDLED / given.name, given.about, given.licence, given.count, given.data)
    print(f"{folder}: {size_of(folder) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
