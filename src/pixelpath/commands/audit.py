"""The command `pixelpath audit`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from pixelpath.data.settings import DataSettings
from pixelpath.log import say
from pixelpath.runs import audit as runs
from pixelpath.runs.audit import DEFAULTS, AuditOptions
from pixelpath.runs.sample import new_folder, numbered


def audit(
    path: Annotated[Path, tyro.conf.Positional],
    data: DataSettings = DataSettings(),  # noqa: B008 (frozen)
    options: Annotated[AuditOptions, tyro.conf.arg(name="")] = DEFAULTS,
    out: Path | None = None,
) -> None:
    """Look at data before training: what they hold, what is wrong with them, and what training would cost on this machine.

    The exit status is 0 if nothing is wrong, 1 with a warning, 3 with a problem that would stop or spoil training.

    Args:
        path: Images, as `train --data` takes them: a folder of images, a file of arrays, FILE::VARIABLE.
        data: How the data are read; the same options as of `train`.
        options: How thorough the audit is, and which training it prepares.
        out: New or empty folder for audit.json, report.html and pictures. Default: audit/NAME, numbered if that is taken.
    """
    folder = _folder(path) if out is None else new_folder(out)
    found = runs.audit(replace(data, path=path), options)
    for line in str(found).splitlines():
        say(line)
    say(f"Report: {found.write(folder)}")
    if found.status:
        sys.exit(found.status)


def _folder(path: Path) -> Path:
    """audit/NAME, with the first number from 2 on that is free."""
    file, *variable = str(path).split("::")
    return numbered(Path("audit") / "-".join([Path(file).resolve().name, *variable]).replace("/", "-"))
