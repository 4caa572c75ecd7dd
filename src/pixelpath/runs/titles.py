"""What runs are called where several are listed: folder, kind and data, so that one can tell them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pixelpath.errors import UserError
from pixelpath.reports.page import document_of
from pixelpath.runs.folder import FIT

KINDS = {"RepresentationLearning": "encoder", "Denoising": "diffusion", "Consistency": "one-step", "Distillation": "one-step"}


def names(paths: Sequence[Path]) -> list[str]:
    """The last part of every path, or as many of the last parts as are needed to tell them apart."""
    parts = [path.resolve().parts for path in paths]
    tails = (["/".join(part[-count:]) for part in parts] for count in range(1, max(map(len, parts)) + 1))
    return next((tail for tail in tails if len(set(tail)) == len(paths)), [str(path) for path in paths])


def objective_of(recipe: Mapping[str, Any]) -> str:
    """The type of the objective in what recipe.json holds; "" if it names none."""
    return (recipe.get("objective") or {}).get("type", "")


def titles(runs: Sequence[Path]) -> list[str]:
    """Every run's folder (of a fit, that of the fit), kind and data, as far as its recipe.json tells: "fine: diffusion, rain.nc".

    More parts of the folders are named where that does not tell runs apart.
    """
    folders = [run.resolve().parent if (run.resolve().parent / FIT).exists() else run.resolve() for run in runs]
    found = [_title(run, folder.name) for run, folder in zip(runs, folders, strict=True)]
    if len(set(found)) == len(found):
        return found
    return [_title(run, name) for run, name in zip(runs, names(runs), strict=True)]


def _title(run: Path, name: str) -> str:
    """The name, the kind, and the data unless they have the same name."""
    recipe = _recipe(run)
    kind = KINDS.get(objective_of(recipe), "")
    data = Path((recipe.get("data") or {}).get("path") or "").name
    about = ", ".join(part for part in (kind, data if data != name else "") if part)
    return f"{name}: {about}" if about else name


def _recipe(run: Path) -> Mapping[str, Any]:
    """What recipe.json holds; nothing if it cannot be read."""
    try:
        found = document_of(run / "recipe.json")
    except (OSError, UserError):
        return {}
    return found if isinstance(found, Mapping) else {}
