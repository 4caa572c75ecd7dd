"""The command `pixelpath import-official`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from pixelpath.runs.sharing import import_official as runs


def import_official(
    path: Annotated[Path, tyro.conf.Positional],
    out: Path,
    encoder_heads: int | None = None,
    decoder_heads: int | None = None,
) -> None:
    """Turn a published EPG checkpoint (.pth or .safetensors) into a run that `pixelpath sample` or `--encoder` accepts.

    Args:
        path: The file, or the folder that holds nnet_ema.pth.
        out: Folder of the new run.
        encoder_heads: Attention heads of the encoder, where its width is not a published one.
        decoder_heads: Attention heads of the decoder, likewise.
    """
    runs.import_official(path, out, encoder_heads, decoder_heads)
