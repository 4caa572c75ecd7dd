"""The report holds what the folder holds, escaped, complete in itself, and nothing else."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pixelpath.data.metadata import Metadata
from pixelpath.errors import MissingError, UserError
from pixelpath.recipes.digits import digits_diffusion
from pixelpath.recipes.recipe import to_json
from pixelpath.reports.display import grid
from pixelpath.reports.pictures import save_png
from pixelpath.reports.tiles import Shot, sheet
from pixelpath.runs.measuring.report import write_report
from pixelpath.runs.measuring.report_results import in_short

PROTOCOL = {"real": 1797, "generated": 500, "labels": "balanced", "extractor_hash": "ab12", "sampler": None, "seeds": [0, 499]}
PROTOCOL_LINE = "real images 1797 · samples 500 · classes of samples balanced · their checksum ab12"
EVALUATION = {
    "step": 400,
    "distances": [{"features": "pixels", "frechet": 3.21449, "protocol": PROTOCOL}],
    "held_out_loss": [{"sigma": sigma, "loss": 0.1, "standard_error": 0.01, "count": 9} for sigma in (0.1, 1.0)],
    "sampling": {"sampler": "heun", "guidance_interval": [0.0, "inf"]},
}
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The text, pictures, links and headings of a page; fails on tags that do not match."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.pictures: list[Image.Image] = []
        self.charts = 0
        self.links: list[str] = []
        self.headings: list[str] = []
        self.text: list[str] = []
        self.feed(source)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        assert tag not in ("link", "iframe", "object")
        assert tag != "script" or (not attrs and "script" not in self.seen)  # the one of the template
        self.seen.append(tag)
        if tag == "img":
            head, data = (values["src"] or "").split(",", 1)
            assert head == "data:image/png;base64"
            self.pictures.append(Image.open(io.BytesIO(base64.b64decode(data))))
        self.charts += tag == "figure" and (values.get("class") or "").startswith("chart")
        if tag == "a":
            self.links.append(values["href"] or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data.strip())
            if self.open[-1] == "h2":
                self.headings.append(data)

    @property
    def words(self) -> str:
        return " ".join(part for part in self.text if part)


def write(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")


def page_of(run: Path) -> Page:
    source = write_report(run).read_text(encoding="utf-8")
    assert "url(" not in source
    assert "@import" not in source
    return Page(source)


def images(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (6, 1, 8, 8), np.uint8)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A stage-two run with everything in it."""
    folder = tmp_path / "digits <1>"
    write(
        folder / "recipe.json", {"name": "digits", "objective": {"type": "Denoising", "noise": {"sigma_max": 80.0}}, "steps": 400}
    )
    write(folder / "origin.json", {"encoder": "runs/one"})
    write(folder / "environment.json", {"torch": "2.13.0", "gpus": []})
    write(folder / "evaluation.json", [EVALUATION | {"step": 200}, EVALUATION])
    alarms = ["loss 5.1 is <high>"]
    lines = [
        {"step": n, "loss": 1.0 / n, "skipped": int(n > 30), "alarms": alarms if n == 20 else []} for n in range(10, 401, 10)
    ]
    lines[-1] |= {"seconds": 7500.0, "memory_bytes": 3 * 2**30, "images_per_second": 1234.5}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "previews").mkdir()
    for step in range(0, 401, 20):
        save_png(folder / "previews" / f"step-{step:08d}.png", grid(images(step), 3))
    return folder


def test_everything_is_there(run: Path) -> None:
    page = page_of(run)
    assert page.headings == ["Samples", "Results", "Training", "Previews", "Settings", "Environment", "Files"]
    for words in (
        "digits: digits <1>",
        "Stage two: diffusion",
        "400",
        "2.1 h",
        "1,234",
        "3.00 GiB",
        "noise.sigma_max",
        "runs/one",
    ):
        assert words in page.text or words in page.words, words
    assert (run / "curves.png").is_file()


def test_numbers_stand_with_their_protocol(run: Path) -> None:
    words = page_of(run).words
    number, protocol = words.index("3.214"), words.index(PROTOCOL_LINE)
    assert 0 < protocol - number < 40
    assert "first and last seed 0, 499" in words
    assert "sampler none" not in words.lower()
    assert words.index("Evaluation of step 400") < words.index("Earlier evaluation of step 200")


def test_alarms_and_skipped_steps(run: Path) -> None:
    words = page_of(run).words
    assert "20 loss 5.1 is <high> 40 skipped: its loss or gradient was not finite" in words
    assert words.count("skipped: its") == 1


def test_repeated_alarms_are_one(run: Path) -> None:
    rows = [{"step": n, "loss": 1.0, "alarms": [f"rank {n / 7:.2f}"]} for n in (1, 2, 3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert "1 rank 0.14 (last at step 3)" in page_of(run).words


def test_previews_spread_from_first_to_last(run: Path) -> None:
    """21 previews, every 20 steps: nine of them, 2.5 apart; the last one is also the sample grid when there is no other."""
    page = page_of(run)
    shown = [int(part.removeprefix("step ")) for part in page.text if part.startswith("step ") and part[5:].isdigit()]
    assert shown == [0, 40, 100, 160, 200, 240, 300, 360, 400]
    with Image.open(run / "previews" / "step-00000400.png") as last:
        assert np.array_equal(np.asarray(page.pictures[0]), np.asarray(last))


def test_newest_grid_of_samples_comes_first(run: Path) -> None:
    write(run / "samples" / "1" / "samples.json", {"sampler": "heun", "steps": 18, "labels": [0, 1, 2, 3]})
    save_png(run / "samples" / "1" / "grid.png", grid(images(99), 2))
    page = page_of(run)
    assert np.array_equal(np.asarray(page.pictures[0]), np.asarray(grid(images(99), 2)))
    assert "file samples/1/grid.png · sampler heun · steps 18" in page.words
    assert "labels 0" not in page.words


def test_wide_pictures_are_made_smaller(run: Path) -> None:
    (run / "samples").mkdir()
    save_png(run / "samples" / "grid.png", Image.new("RGB", (3000, 1000), "white"))
    assert page_of(run).pictures[0].size == (1440, 480)


def test_only_this_folder_is_linked(run: Path) -> None:
    links = page_of(run).links
    assert "metrics.jsonl" in links
    assert "previews/" in links
    assert all(link.startswith("#") or (run / link).exists() for link in links)


def test_a_stage_one_run_shows_features_and_views(tmp_path: Path) -> None:
    write(tmp_path / "run" / "recipe.json", {"name": "encoder", "objective": {"type": "RepresentationLearning"}})
    row = {
        "name": "encoder",
        "sigma": 0.1,
        "nearest": 0.7512,
        "linear": 0.9,
        "by_content": 0.6,
        "train_count": 9,
        "test_count": 3,
    }
    write(tmp_path / "run" / "probe.json", [row, row | {"sigma": 1.0}])
    (tmp_path / "run" / "previews").mkdir()
    save_png(tmp_path / "run" / "previews" / "views.png", grid(images(0), 2))
    page = page_of(tmp_path / "run")
    assert page.headings == ["Views", "Features", "Settings", "Files"]
    assert (len(page.pictures), page.charts) == (1, 1)
    assert "0.7512" in page.text


def test_any_nesting_is_shown(tmp_path: Path) -> None:
    document = {
        "a": {"b": {"c_d": 12345.678, "protocol": {"e": {"f": True}}}, "g": None},
        "h": [1, 2],
        "i": [{"j": {"k": "<&>"}}],
        "l": {},
    }
    write(tmp_path / "evaluation.json", document)
    words = page_of(tmp_path).words
    for part in ("c d 12,346 how it was measured e.f yes", "h 1, 2", "k <&>"):
        assert part in words, part


def test_an_empty_folder_gives_a_page(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert page.headings == []
    assert page.pictures == []


def test_the_newest_curves_are_drawn_and_older_ones_folded(run: Path) -> None:
    def result(name: str) -> dict[str, Any]:
        points = [{"steps": n, "nfe": 2 * n - 1, "frechet": 3.25 / n, "frechet_of_few": 4.5 / n} for n in (1, 16)]
        about = {"features": "pixels", "floor": 0.0625, "few": 90, "protocol": PROTOCOL}
        return {"curves": [{"name": f"{each} ({each}-recipe)", "points": points, **about} for each in (name, "<other>")]}

    before = page_of(run).charts
    write(run / "distance_over_nfe.json", [result("old"), result("new")])
    page = page_of(run)
    assert page.charts == before + 2
    places = [
        page.words.index(part) for part in ("Distance over network evaluations (NFE)", "new (new-", "Earlier curves", "old (old-")
    ]
    assert places == sorted(places)
    assert "In all rows: features pixels curve steps" in page.words
    assert "new (new-recipe) 16 31 0.2031 0.2812 0.0625 how it was measured real images 1797 · samples 500" in page.words
    assert page.words.index("Distance over network evaluations (NFE)") < page.words.index("Evaluation of step 400")


def test_judgements_are_drawn_and_earlier_ones_only_told(run: Path) -> None:
    """The newest: both losses in one plot instead of the held-out losses, spectra, histograms, and the nearest pairs."""
    gap = {
        "training": 0.1,
        "training_error": 0.01,
        "held_out": 0.125,
        "held_out_error": 0.01,
        "gap": 0.2,
        "gap_error": 0.1,
        "z": 2,
    }
    sides = {"training": 0.25, "held_out": None, "samples": 0.75}
    judged = EVALUATION | {
        "copies": {"duplicates": 17, "closeness": [{"features": "pixels", "closer": 0.515625, "protocol": PROTOCOL}]},
        "loss_gap": {"advice": "Stop <here>.", "noise_levels": [{"sigma": sigma, **gap} for sigma in (0.1, 1.0)]},
        "pixel_values": {
            "channels": [{"channel": "0", "wasserstein": 0.3125}],
            "spectra": [{"channel": "0", "frequency": frequency, **sides} for frequency in (0.1, 0.4)],
            "histograms": [{"channel": "0", "lower": low, "upper": low + 1, **sides} for low in (0.0, 1.0)],
        },
    }
    write(run / "evaluation.json", [EVALUATION])
    before = page_of(run)
    save_png(run / "nearest.png", grid(images(7), 3))
    write(run / "evaluation.json", [judged, judged])
    page = page_of(run)
    assert page.charts == before.charts + 1 + 2  # of levels each time, then the spectrum and the histogram of the newest
    assert len(page.pictures) == len(before.pictures) + 1  # its pairs
    for words in (
        "samples that are exact copies of training images 17",
        "Stop <here>.",
        "0.5156",
        "0.3125",
        "nearest training image, and below that",
    ):
        assert words in page.words.lower() or words in page.words, words


def test_earlier_evaluations_are_shown_without_curves() -> None:
    values = {"channels": [], "spectra": [], "histograms": []}
    result = {"held_out_loss": [1], "loss_gap": {"noise_levels": []}, "pixel_values": values}
    assert in_short(result) == {key: result[key] for key in ("loss_gap", "pixel_values")}
    assert in_short(result, curves=False) == {"loss_gap": {"noise_levels": []}, "pixel_values": {"channels": []}}
    assert in_short({"held_out_loss": [1]}) == {"held_out_loss": [1]}


def test_fid_and_kid_are_names_in_inception_features_alone(run: Path) -> None:
    kinds = ("pixels", "inception-v3-2048")
    rows = [{"features": kind, "frechet": 3.0, "kernel_distance": 0.5, "protocol": PROTOCOL} for kind in kinds]
    write(run / "evaluation.json", [{"distances": rows}])
    words = page_of(run).words
    assert "kernel distance pixels 3 0.5 how it was measured real images 1797" in words
    assert words.count("KID") == words.count("FID") == 1
    assert words.index("inception-v3-2048 (") < words.index("KID")


def test_a_one_step_run_is_called_so_and_shows_its_alarms(run: Path) -> None:
    write(run / "recipe.json", {"name": "digits-onestep", "objective": {"type": "Consistency"}, "steps": 400})
    page = page_of(run)
    assert "Stage two: one step (consistency)" in page.text
    assert "20 loss 5.1 is <high>" in page.words


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="absent"):
        write_report(tmp_path / "absent")
    (tmp_path / "evaluation.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"evaluation\.json"):
        write_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_settings_that_differ_from_the_recipe_come_first(tmp_path: Path) -> None:
    for folder, changes in ((tmp_path / "changed", {"steps": 7, "seed": 3}), (tmp_path / "same", {})):
        folder.mkdir()
        (folder / "recipe.json").write_text(to_json(replace(digits_diffusion(), **changes)), encoding="utf-8")
    changed, same = (page_of(tmp_path / name).words for name in ("changed", "same"))
    differing = changed[changed.index("in the recipe") : changed.index("All settings")]
    assert sorted(differing.split()) == sorted(["in", "the", "recipe", "seed", "3", "0", "steps", "7", "1300"])
    assert "All settings are those of the recipe. All settings" in same


@pytest.mark.parametrize("colour", ["img.plot", ".chart"])
def test_plots_follow_the_theme(run: Path, colour: str) -> None:
    """Plots that are pictures have white ground and dark letters, which the dark theme turns around; others have its colours."""
    page = write_report(run).read_text(encoding="utf-8")
    style = page.split("<style>")[1].split("</style>")[0]
    dark = "".join(re.findall(r"@media \(prefers-color-scheme: dark\) \{((?:[^{}]*\{[^{}]*\})*)\s*\}", style))
    if colour == "img.plot":
        (amount,) = re.findall(r"img\.plot \{ filter: invert\(([\d.]+)\)", dark)
        white, black = (level + float(amount) * (1 - 2 * level) for level in (1.0, 0.0))
        assert white < 0.2
        assert black > 0.8
        return
    for theme in (style.split("@media")[0], dark):
        known = dict(re.findall(r"--(\w+): #([0-9a-f]{6})", theme))
        for name in ("ink", "soft", "link", "bad", "warn", "good", "blue", "orange", "green", "purple", "grey"):
            assert contrast(known[name], known["back"]) > 4.5, name
        assert min(contrast(known[name], known["tint"]) for name in ("ink", "soft", "link")) > 4.5
    chart = page[page.index("<figure class='chart") :].split("</figure>")[0]
    assert not re.findall(r"#[0-9a-f]{3,6}\b|rgb|black|white", chart.replace("&#x27;", "").replace("&#39;", ""))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours of the web (WCAG 2.1)."""

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[place : place + 2], 16) for place in (0, 2, 4)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_images_keep_their_colours_in_the_dark(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    assert "filter: brightness" in page
    assert len(re.findall(r'<img class="sheet"', page)) == 10  # the newest preview as samples, and nine in the strip


def test_extremes_are_cut_from_their_sheet(run: Path) -> None:
    """Each tile shows its own image, with its value and its name as text beside it."""
    shots = [Shot(np.stack([np.full((1, 8, 8), 20 * (6 * row + place), np.uint8) for place in range(6)])) for row in (0, 1)]
    save_png(run / "extremes.png", sheet(shots, Metadata(photographs=True), None))
    rows = [
        {
            "of": side,
            "among": 60,
            "tiles": [{"value": f"{place}.5 mm/h", "name": f"a/folder/{side} <{place}>"} for place in range(6)],
        }
        for side in ("samples", "training")
    ]
    bar = {"lowest": -2.5, "highest": 40.0, "title": "rain (mm/h)", "stops": ["#000000", "#ffffff"]}
    write(run / "evaluation.json", [EVALUATION | {"extremes": [{"what": "Highest <values>", "bar": bar, "rows": rows}]}])
    before = len(page_of(run).pictures)
    page = page_of(run)
    assert "Extremes" in page.headings
    shown = page.pictures[-12 - 9 : -9]  # before the previews
    assert [int(np.asarray(each.convert("L"))[0, 0]) for each in shown] == [20 * place for place in range(12)]
    words = page.words
    assert "Highest <values> \N{MINUS SIGN}2.5 rain (mm/h) 40 Samples: 6 of 60 0.5 mm/h samples <0>" in words
    assert "Training images: 6 of 60" in words
    (run / "extremes.png").unlink()
    assert len(page_of(run).pictures) == before - 12
