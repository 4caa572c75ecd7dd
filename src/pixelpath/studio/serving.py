"""The studio as a server on 127.0.0.1, and which runs it shows."""

from __future__ import annotations

import socket
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from pixelpath.errors import MissingError, UserError
from pixelpath.log import say
from pixelpath.runs.folder import fitted_run, holds_run
from pixelpath.runs.sharing.bundled import bundled_names, located

ADDRESS = "127.0.0.1"
PLACES = (".", "runs")  # where runs are looked for if none is named


def found_runs(runs: Sequence[Path]) -> list[Path]:
    """The folders of the runs that are named, of a fit its newest; without names all runs here and in the folder runs.

    Where there is none, the models that come with pixelpath. Raises MissingError for a folder that holds no run.
    """
    if runs:
        named = [fitted_run(located(path)) for path in runs]
        for path in named:
            if not holds_run(path):
                raise MissingError(f"{path} holds no run: name the folder that training wrote as `out`.", "runs")
        return list(dict.fromkeys(named))
    below = [child for place in PLACES for child in sorted(Path(place).glob("*")) if child.is_dir()]
    found = [fitted_run(path) for path in below]
    kept = list(dict.fromkeys(path for path in found if holds_run(path)))
    if not kept:
        say("There is no run in this folder nor in runs: this shows what comes with pixelpath. Name a run's folder to see it.")
    return kept or [located(name) for name in bundled_names()]


def serve(runs: Sequence[Path], port: int, browser: bool) -> None:
    """Serve the studio until Ctrl-C; says its address, and opens it if `browser`.

    Port 0 takes any that is free. Raises UserError for a port that is taken, and where the packages of the studio are missing.
    """
    try:
        import uvicorn

        from pixelpath.studio.app import create_app
    except ImportError as error:
        raise UserError(f"The studio needs {error.name}: pip install 'pixelpath[studio]'.") from error
    bound = _bound(port)
    app = create_app(runs)
    address = f"http://{ADDRESS}:{bound.getsockname()[1]}/?token={app.state.studio.token}"
    say(f"The studio is at {address} until Ctrl-C.")
    if browser:
        webbrowser.open(address)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    try:
        uvicorn.Server(config).run(sockets=[bound])
    except KeyboardInterrupt:
        say("The studio is closed.")


def _bound(port: int) -> socket.socket:
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((ADDRESS, port))
    except (OSError, OverflowError) as error:
        found.close()
        raise UserError(f"Port {port} cannot be used ({error}): choose another `port`.", "port") from error
    return found
