"""The command `pixelpath studio`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from pixelpath.commands.options import device_named
from pixelpath.studio.serving import found_runs, serve


def studio(runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = (), port: int = 8765, browser: bool = True) -> None:
    """Look at runs in a page on this machine: browse, make and edit images, watch training, compare.

    Args:
        runs: Folders of runs, or names of models that come with pixelpath (sprites). Default: all in this folder and in the
            folder runs, or those models where there are none.
        port: Port on 127.0.0.1; 0 takes any that is free.
        browser: Open the page in a browser.
    """
    device_named(None)
    serve(found_runs(runs), port, browser)
