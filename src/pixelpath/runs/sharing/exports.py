"""All ways in which a run leaves pixelpath, by the names that the command line gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pixelpath.errors import UserError
from pixelpath.runs.opened import OpenRun
from pixelpath.runs.sharing.export import FORMATS, export
from pixelpath.runs.sharing.export_diffusers import save_diffusers
from pixelpath.runs.sharing.export_steps import export_steps
from pixelpath.runs.sharing.export_web import export_web

ExportFormat = Literal["onnx", "torch", "diffusers", "web"]


def write_export(
    run: OpenRun,
    format: ExportFormat,
    guidance: float | None = None,
    out: Path | None = None,
    runtime: Path | None = None,
    start: Path | None = None,
) -> Path:
    """Write a run in a format, below its folder if `out` is None: a one-step run as one file, any other as a folder.

    `runtime` is the folder of onnxruntime-web that a page takes along, `start` a fitted start that a folder takes along.

    Raises UserError for what the format cannot hold, and for an `out` that is there.
    """
    if runtime is not None and format != "web":
        raise UserError(f"`runtime` is for the format web, not for {format}: omit it.", setting="runtime")
    if start is not None and (format in ("diffusers", "web") or run.recipe.is_one_step):
        kind = f"the format {format}" if format in ("diffusers", "web") else "one-step runs"
        raise UserError(f"A start is not exported with {kind}, only in the formats onnx and torch of a diffusion run.", "start")
    if format == "diffusers":
        return save_diffusers(run, run.path / "diffusers" if out is None else out, guidance)
    if format == "web":
        return export_web(run, guidance, out, runtime)
    if run.recipe.is_one_step or run.recipe.is_encoder:
        return export(run, FORMATS[format], guidance, out)
    return export_steps(run, FORMATS[format], guidance, out, start)
