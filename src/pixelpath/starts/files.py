"""A start as a folder: `start.json` holds metadata, `start.safetensors` its tensors, bit for bit.

*About* is what the writer says of the start, such as the sigma to begin at and the denoiser it was made for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pixelpath.atomic import read_json, sealed
from pixelpath.errors import UserError
from pixelpath.starts.flow import Flow
from pixelpath.starts.gaussian import MomentGaussian
from pixelpath.starts.mixture import ConvolvedMixture
from pixelpath.starts.start import Load, Saved, Start, Stored
from pixelpath.starts.student import ConvolvedStudentMixture
from pixelpath.starts.tails import ParetoTail, SymLog

FACTS, TENSORS = "start.json", "start.safetensors"
VERSION = 2
KINDS: tuple[type[Stored], ...] = (
    MomentGaussian,
    ConvolvedMixture,
    ConvolvedStudentMixture,
    Flow,
    ParetoTail,
    SymLog,
)
FAMILIES = {kind.family: kind for kind in KINDS}


def save(start: Start, folder: Path, about: dict[str, Any] | None = None) -> None:
    """Write `start` into `folder`, made where missing, with the facts `about` it; an older start there is replaced.

    Raises UserError for a start that holds a function, OSError if the disk is full.
    """
    if not isinstance(start, Saved):
        raise UserError(f"A start {type(start).__name__} cannot be saved: save the model that makes its images instead.")
    metadata, tensors = start.state()
    document = sealed({"version": VERSION, "metadata": metadata, "about": about or {}})
    text = json.dumps(document, indent=2, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{TENSORS}.partial", folder / f".{FACTS}.partial"
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial[0])
    except SafetensorError as error:  # its only faults here are those of the disk
        raise OSError(f"The start {folder} could not be written ({error}): free some space and run again.") from error
    partial[1].write_text(text + "\n", encoding="utf-8")
    partial[0].replace(folder / TENSORS)
    partial[1].replace(folder / FACTS)


def load(folder: Path, others: Mapping[str, Load] | None = None) -> Start:
    """The start that `save` wrote; `others` makes starts of families that are not known here.

    Raises FileNotFoundError if there is none, UserError if it cannot be read.
    """
    metadata = _document(folder)["metadata"]
    try:
        tensors = load_file(folder / TENSORS)
    except (OSError, SafetensorError) as error:
        raise _damaged(folder / TENSORS, str(error)) from error
    return restore(metadata, tensors, others)


def about(folder: Path) -> dict[str, Any]:
    """What the writer said of the start in `folder`; raises as `load`."""
    return _document(folder)["about"]


def restore(metadata: dict[str, Any], tensors: dict[str, Tensor], others: Mapping[str, Load] | None = None) -> Start:
    """The start whose state this is; raises ValueError for a family that is not known, or tensors that do not fit it."""
    family, others = metadata.get("family"), others or {}
    if not isinstance(family, str) or family not in {*FAMILIES, *others}:
        raise UserError(f"A start of the family {family!r} is not known ({', '.join([*FAMILIES, *others])}): update pixelpath.")
    try:
        return others[family](metadata, tensors) if family in others else FAMILIES[family].from_state(metadata, tensors, restore)
    except (KeyError, TypeError) as error:
        raise UserError(f"The saved start of the family {family!r} is incomplete ({error}): fit and save it again.") from error


def _document(folder: Path) -> dict[str, Any]:
    file = folder / FACTS
    if not file.is_file():
        raise FileNotFoundError(f"There is no start in {folder}, as {FACTS} is missing: name a folder that a start was saved to.")
    try:
        document = read_json(file)
    except ValueError as error:
        raise _damaged(file, str(error)) from error
    if not isinstance(document, dict) or document.get("version") != VERSION or not {"metadata", "about"} <= document.keys():
        raise _damaged(file, f"it is not a start of version {VERSION}")
    if not isinstance(document["metadata"], dict) or not isinstance(document["about"], dict):
        raise _damaged(file, "metadata and about must be objects")
    return document


def _damaged(file: Path, reason: str) -> UserError:
    return UserError(f"{file} cannot be used ({reason}): fit the start and save it again.")
