"""The page of a comparison: the distances with their floors, both sets, copies, spectra and histograms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from pixelpath.atomic import write_json
from pixelpath.reports.page import Verdict, boxes, figure, folded, header, note, pairs, sentence, table, text, write_page
from pixelpath.reports.pictures import save_png

CALLED = {
    "inception-v3-2048": "Frechet: FID, kernel: KID",
    "inception-v3-spatial": "Frechet: sFID",
    "dinov2-vit-l-14": "Frechet: FD-DINOv2",
}
"""The names of the distances in some features."""
ABOUT = (
    "All images are measured against the whole reference. As the numbers depend on the counts, read those of few images against "
    "the floor: both are measured against the same random half of the reference, the floor with as many images of the other half."
)

SIDES = "Here samples are the images that were given, and training images are the reference."


def write_comparison(
    folder: Path, document: Mapping[str, Any], pictures: Mapping[str, Image.Image], verdict: Verdict, values: str
) -> Path:
    """Write FOLDER/comparison.json, the pictures and FOLDER/report.html; `values` is the HTML of the pixel values. The page."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "comparison.json", document)
    for name, picture in pictures.items():
        save_png(folder / name, picture)
    drawn = {name: figure(folder / name, caption) for name, caption in _captions(document).items() if name in pictures}
    named = [{**row, "features": _called(row["features"])} for row in document["distances"]]
    left_out = "".join(f"<p>{sentence(each)}</p>" for each in document["left_out"])
    sections = {
        "Distances": (note(ABOUT) + table(named) if named else "") + left_out,
        "Inception Score": table(document["inception_score"]),
        "Images": drawn.get("images.png", "") + drawn.get("reference.png", ""),
        "Copies": _copies(document.get("copies"), drawn.get("nearest.png", "")),
        "Pixel values": note(f"{SIDES} Held-out images are those that were given too, or else a half of the reference.") + values
        if values
        else "",
        "Sets": f"<h3>Images</h3>{pairs(document['images'])}<h3>Reference</h3>{pairs(document['reference'])}"
        + note(f"Made with pixelpath {text(document['pixelpath'])}."),
    }
    facts = {side: text(document[side]["path"]) for side in ("images", "reference")}
    top = header("Comparison of two sets of images", _title(document), verdict, facts)
    return write_page(folder / "report.html", f"Comparison: {_title(document)}", top, sections)


def _title(document: Mapping[str, Any]) -> str:
    names = [Path(document[side]["path"]).name or document[side]["path"] for side in ("images", "reference")]
    return " and ".join(names)


def _called(features: str) -> str:
    return f"{features} ({CALLED[features]})" if features in CALLED else features


def _captions(document: Mapping[str, Any]) -> dict[str, str]:
    return {
        "images.png": f"Images: {text(document['images']['path'])}",
        "reference.png": f"Reference: {text(document['reference']['path'])}",
        "nearest.png": "The images nearest to the reference, each above its nearest image of the reference, and its nearest "
        "held-out image where there are such.",
    }


def _copies(found: Mapping[str, Any] | None, picture: str) -> str:
    """How near images come to those of the reference; without held-out images closeness cannot be told."""
    if found is None:
        return ""
    single = {"exact copies": found["duplicates"], "exact copies among held-out images": found["held_out_duplicates"]}
    words = f"{SIDES} Distances are Euclidean, in the features named."
    parts = [boxes(single), note(words), table(found["closeness"]), picture]
    return (
        "".join(parts) + folded("Distances to the nearest", table(found["neighbours"])) + folded("Pairs", table(found["pairs"]))
    )
