"""Pages in a browser: none is wider than a phone, curves and sliders answer to keys. Skipped where there is no Chromium."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import numpy as np
import pytest

from pixelpath.reports.charts import Curve, Frame, chart
from pixelpath.reports.display import grid
from pixelpath.reports.page import Verdict, figure, header, pairs, table, write_page
from pixelpath.reports.pictures import save_png

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE = 390
LONG = "a/path/that/is/longer/than/a/phone/is/wide/" * 3
FRAME = """<!doctype html><meta charset="utf-8"><pre id="said"></pre><iframe width="%d" height="900" srcdoc="%s"></iframe><script>
document.querySelector("iframe").onload = (event) => {
  const page = event.target.contentDocument;
  const key = (target, name) => target.dispatchEvent(new KeyboardEvent("keydown", { key: name }));
  const svg = page.querySelector(".chart svg"), slider = page.querySelector("input[type=range]"), told = [];
  const say = (words) => told.push(words);
  say("wider " + (page.documentElement.scrollWidth - page.documentElement.clientWidth));
  key(svg, "Home");
  say(page.querySelector(".chart output").textContent);
  key(svg, "ArrowRight");
  say(page.querySelector(".chart output").textContent);
  svg.dispatchEvent(new PointerEvent("pointermove", { clientX: svg.getBoundingClientRect().right - 1 }));
  say(page.querySelector(".chart output").textContent);
  say(slider.getAttribute("aria-valuetext"));
  slider.value = 0;
  slider.oninput();
  say(slider.getAttribute("aria-valuetext"));
  say("shown " + [...page.querySelectorAll(".strip figure")].filter((each) => !each.hidden).length);
  say("reached " + [...page.querySelectorAll(".wide")].filter((each) => each.tabIndex == 0).length);
  document.getElementById("said").textContent = told.join("|");
};
</script>"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page with a long title, a table and a picture wider than a phone, a curve and a strip."""
    for step in (0, 7):
        save_png(tmp_path / f"{step}.png", grid(np.full((12, 1, 8, 8), step, np.uint8), 12))
    wide = table([{f"a number with a long name {column}": 1e-5 * column for column in range(9)}])
    curve = chart(
        "loss", [Curve("loss", np.array([1.0, 10.0, 100.0]), np.array([3.0, 2.5, 2.0]))], frame=Frame("sigma", raised=True)
    )
    strip = "".join(figure(tmp_path / f"{step}.png", f"step {step}") for step in (0, 7))
    sections = {"Numbers": wide + pairs({"path": LONG}), "Curves": curve, "Previews": f"<div class='strip'>{strip}</div>"}
    top = header("Run", LONG, Verdict([f"All is well with {LONG}"], "good"), {"where": LONG, "steps": "3"})
    return write_page(tmp_path / "report.html", "Run", top, sections)


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_page_on_a_phone_answers_to_keys(page: Path, tmp_path: Path) -> None:
    assert BROWSER is not None
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME % (PHONE, escape(page.read_text(encoding="utf-8"))), encoding="utf-8")
    words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--dump-dom", frame.as_uri()]
    dumped = subprocess.run([BROWSER, *words], capture_output=True, text=True, check=True, timeout=240).stdout
    (said,) = re.findall('<pre id="said">(.*?)</pre>', dumped)
    wider, first, second, under, last, chosen, shown, reached = unescape(said).split("|")
    assert wider == "wider 0"
    assert (first, second) == ("sigma 1: 3", "sigma 10: 2.5")
    assert under == "sigma 100: 2"
    assert (last, chosen, shown) == ("step 7", "step 0", "shown 1")
    assert int(reached.split()[1]) >= 2  # the table and the pictures, which scroll in themselves


def test_a_page_says_its_verdict_before_all_numbers(page: Path) -> None:
    source = page.read_text(encoding="utf-8")
    places = [source.index(part) for part in ("<h1>", "class='verdict good'", "<dl class='facts'>", "<nav", "<main>")]
    assert places == sorted(places)
    assert source.count("<script>") == source.count("<style>") == 1


def test_what_all_rows_share_stands_once_above_them() -> None:
    rows = [
        {"channel": "rain", "sample": 1, "seed": 1, "loss": 0.5, "mirrored": False},
        {"channel": "rain", "sample": 2, "seed": 2, "loss": 0.5, "mirrored": False},
    ]
    drawn = table(rows)
    above, below = drawn.split("<table>")
    assert "In all rows: channel rain · mirror images count too no" in above
    assert re.findall(r"<th(?: [^>]*)?>(.*?)</th>", below) == ["sample, seed", "mean squared error (model range)"]
    assert below.count("<td") == 4
    alone = table(rows[:1])
    assert "In all rows" not in alone
    assert alone.count("<td") == 5
    assert "In all rows" not in table([{"channel": "rain"}, {"channel": "rain"}])  # nothing would be left
