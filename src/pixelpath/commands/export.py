"""The command `pixelpath export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from pixelpath.runs.export import FORMATS
from pixelpath.runs.export import export as export_run
from pixelpath.runs.export_diffusers import save_diffusers
from pixelpath.runs.opened import open_run


def export(
    run: Annotated[Path, tyro.conf.Positional],
    format: Literal["onnx", "torch", "diffusers"] = "onnx",
    guidance: float | None = None,
    checkpoint: Path | None = None,
    out: Path | None = None,
) -> None:
    """Write a run so that it makes images without pixelpath: as one file (one-step runs), or as a pipeline of diffusers.

    Args:
        run: Folder of a run of stage two.
        format: onnx, for onnxruntime and many others (needs pixelpath[export]), torch, a .pt2 of torch.export, or diffusers, a
            folder for DiffusionPipeline.from_pretrained (needs diffusers).
        guidance: Guidance scale, fixed in a file, the default of a pipeline. 1 is none, any other is twice as slow. Default: the
            recipe's.
        checkpoint: A folder of RUN/checkpoints other than the latest.
        out: New file or folder. Default: RUN/generator.onnx, RUN/generator.pt2 or RUN/diffusers.
    """
    opened = open_run(run, checkpoint)
    if format == "diffusers":
        save_diffusers(opened, opened.path / "diffusers" if out is None else out, guidance)
    else:
        export_run(opened, FORMATS[format], guidance, out)
