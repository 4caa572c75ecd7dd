"""The command `pixelpath export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from pixelpath.runs.export import FORMATS
from pixelpath.runs.export import export as export_run
from pixelpath.runs.opened import open_run


def export(
    run: Annotated[Path, tyro.conf.Positional],
    format: Literal["onnx", "torch"] = "onnx",
    guidance: float | None = None,
    checkpoint: Path | None = None,
    out: Path | None = None,
) -> None:
    """Write the generator of a one-step run as one file: noise and label in, images in the data's own dtype and range out.

    Args:
        run: Folder of a one-step run.
        format: onnx, for onnxruntime and many others (needs pixelpath[export]), or torch, a .pt2 of torch.export.
        guidance: Guidance scale, fixed in the file. 1 is none, any other is twice as slow. Default: the recipe's.
        checkpoint: A folder of RUN/checkpoints other than the latest.
        out: New file. Default: RUN/generator.onnx or RUN/generator.pt2.
    """
    export_run(open_run(run, checkpoint), FORMATS[format], guidance, out)
