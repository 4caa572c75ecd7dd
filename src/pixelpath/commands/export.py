"""The command `pixelpath export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from pixelpath.runs.opened import open_run
from pixelpath.runs.sharing.exports import write_export


def export(
    run: Annotated[Path, tyro.conf.Positional],
    format: Literal["onnx", "torch", "diffusers", "web"] = "onnx",
    guidance: float | None = None,
    checkpoint: Path | None = None,
    out: Path | None = None,
    runtime: Path | None = None,
    start: Path | None = None,
) -> None:
    """Write a run so that it makes images without pixelpath.

    A one-step run becomes one file: noise and condition in, images in the data's own dtype and range out. A diffusion run becomes
    a folder of two networks and a small loop. Either becomes a pipeline of diffusers, or a page that makes pictures in a browser.

    Args:
        run: Folder of a run of stage two.
        format: onnx, for onnxruntime and many others (needs pixelpath[export]), torch, of torch.export, diffusers, a folder for
            DiffusionPipeline.from_pretrained (needs diffusers), or web, a page (needs pixelpath[export] and onnxruntime-web).
        guidance: Guidance scale, fixed in what is written (of a pipeline: its default). 1 is none, any other is twice as slow.
            Default: the recipe's.
        checkpoint: A folder of RUN/checkpoints other than the latest.
        out: New file or folder. Default: below RUN, named after the format.
        runtime: Folder dist of the npm package onnxruntime-web, for the page. Default: that in ./node_modules.
        start: A fitted start of Gaussians (RUN/starts/1), for onnx and torch of a diffusion run. Default: as the run was tuned.
    """
    write_export(open_run(run, checkpoint), format, guidance, out, runtime, start)
