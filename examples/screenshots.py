"""A picture of a page as a browser shows it, for documents: python -m examples.screenshots runs/digits/report.html page.webp

Needs Chromium (or Chrome) on the path. Everything that a page shows is in the page, so nothing is loaded from a network.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SECONDS = 240  # that a browser may take


def main(
    page: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    section: str = "",
    width: int = 1400,
    height: int = 1000,
    dark: bool = False,
) -> None:
    """Write what stands in the window as PNG or WebP.

    Args:
        page: An HTML file.
        out: Picture to write, by its ending.
        section: The only section to show, as the page's own links name it. Default: the page from its top.
        width: Pixels across; 390 is a phone.
        height: Pixels down.
        dark: In the dark colours.
    """
    picture = screenshot(page, section, width, height, dark=dark)
    held = io.BytesIO()
    picture.save(held, out.suffix[1:].upper(), quality=88, method=6, optimize=True)
    out.write_bytes(held.getvalue())
    print(f"{out}: {picture.width} x {picture.height} pixels, {len(held.getvalue()) / 1000:.0f} kB")


def screenshot(page: Path, section: str = "", width: int = 1400, height: int = 1000, *, dark: bool = False) -> Image.Image:
    """The window of a browser that shows the page; SystemExit without a browser."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise SystemExit(f"None of {', '.join(BROWSERS)} is on the path: install Chromium.")
    alone = f"<style>header, nav, main > section:not(#{section}) {{ display: none; }} h2 {{ margin-top: 0; }}</style>"
    source = page.read_text(encoding="utf-8").replace("</head>", f"{alone if section else ''}</head>", 1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "page.html"
        place.write_text(source, encoding="utf-8")
        words = [f"--screenshot={folder}/page.png", f"--window-size={width},{height}", f"--user-data-dir={folder}/profile"]
        words += ["--headless", "--no-sandbox", "--hide-scrollbars", "--force-device-scale-factor=1"]
        words += ["--blink-settings=preferredColorScheme=0"] if dark else []
        subprocess.run([browser, *words, place.as_uri()], check=True, capture_output=True, timeout=SECONDS)
        with Image.open(f"{folder}/page.png") as picture:
            return picture.convert("RGB")


if __name__ == "__main__":
    tyro.cli(main)
