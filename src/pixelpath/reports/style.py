"""How every page looks and answers: one stylesheet and one script, which pages hold in themselves.

Colours follow the theme of the reader's device, light or dark. The classes are named at the head of page.css.
"""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def stylesheet() -> str:
    """The CSS of all pages, for a style element: for screens from 390 pixels on, in light and in dark, and for print."""
    return _file("page.css")


@cache
def script() -> str:
    """The JavaScript of all pages, for a script element: curves tell their values, a slider walks through a strip of previews.

    Without it curves and all pictures of a strip are still shown.
    """
    return _file("page.js")


@cache
def template() -> str:
    """The frame of a page, with places for $title, $style, $body and $script."""
    return _file("report.html")


def _file(name: str) -> str:
    return (resources.files("pixelpath.reports") / name).read_text(encoding="utf-8")
