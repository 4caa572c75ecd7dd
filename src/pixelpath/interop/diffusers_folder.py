"""A run as a folder that diffusers opens: weights, settings, and the source of a pipeline that needs no pixelpath.

The *pipeline file* and the *model file* are the modules `pixelpath_pipeline` and `pixelpath_denoiser`, each with all that it uses
of this package in it. They are the same for every run: what a run is stands in JSON files.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors.torch import save_file

from pixelpath.errors import UserError
from pixelpath.interop.standalone import standalone
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.preconditioning import Anchored, EDMPreconditioning, Preconditioning, XPrediction
from pixelpath.networks.layers import Attention

PIPELINE, MODEL, COMPONENT = "pixelpath_pipeline", "pixelpath_denoiser", "transformer"
WEIGHTS = "diffusion_pytorch_model.safetensors"
KINDS: dict[type[Preconditioning], str] = {XPrediction: "x", EDMPreconditioning: "edm", Anchored: "anchored"}
WITHOUT = (  # what a pipeline never calls
    *(f"Normaliser.{name}" for name in ("fit", "to_json", "unit", "from_unit", "_range", "_check_exact")),
    *(f"Conditions.{name}" for name in ("vectors", "entries", "to_json")),
    "Column.decode",
)


def check_diffusers() -> None:
    """UserError if diffusers, which reads what was written, is missing."""
    if find_spec("diffusers") is None:
        raise UserError(
            "A pipeline folder is checked by diffusers, which is not installed here: pip install diffusers.", "format"
        )


def write_diffusers(folder: Path, denoiser: Denoiser, settings: Mapping[str, Any], card: str) -> None:
    """Write a pipeline into a new folder; `settings` are those of `PixelpathPipeline` besides the model, `card` is its README."""
    part = folder / COMPONENT
    part.mkdir(parents=True)
    version = metadata.version("diffusers")
    index = {
        "_class_name": [PIPELINE, "PixelpathPipeline"],
        "_diffusers_version": version,
        COMPONENT: [MODEL, "PixelpathDenoiser"],
        **settings,
    }
    config = {"_class_name": "PixelpathDenoiser", "_diffusers_version": version, **config_of(denoiser)}
    for path, content in ((folder / "model_index.json", index), (part / "config.json", config)):
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for home, name in ((folder, PIPELINE), (part, MODEL)):
        module = importlib.import_module(f"pixelpath.interop.{name}")
        (home / f"{name}.py").write_text(standalone(module, WITHOUT), encoding="utf-8")
    state = {f"denoiser.{name}": value.detach().cpu().contiguous() for name, value in denoiser.state_dict().items()}
    save_file(state, part / WEIGHTS, metadata={"format": "pt"})
    (folder / "README.md").write_text(card, encoding="utf-8")


def config_of(denoiser: Denoiser) -> dict[str, Any]:
    """What `PixelpathDenoiser` is made of."""
    backbone, chosen = denoiser.backbone, denoiser.preconditioning
    encoder, decoder = backbone.encoder, backbone.decoder
    stacks = {"encoder": (encoder.width, encoder.blocks), "decoder": (decoder.norm.normalized_shape[0], decoder.blocks)}
    sizes = {
        name: {"width": width, "depth": len(blocks), "heads": cast(Attention, blocks[0].attention).heads}
        for name, (width, blocks) in stacks.items()
    }
    return {
        **{name: vars(encoder)[name] for name in ("channels", "rows", "columns", "patch")},
        "encoder": sizes["encoder"],
        "decoder": sizes["decoder"] | {"features": decoder.features},
        "num_classes": backbone.num_classes,
        "numbers": 0 if backbone.numbers is None else backbone.numbers[0].in_features,
        "cond_image": 0 if backbone.cond_image is None else backbone.cond_image.in_channels,
        "pixel_head": 0 if backbone.head is None else backbone.head.enter.out_channels,
        "pixel_blocks": 0 if backbone.head is None else len(backbone.head.blocks),
        "preconditioning": {"kind": KINDS[type(chosen)], **asdict(chosen)},
    }


def open_pipeline(folder: Path) -> Any:
    """The pipeline in a folder, as diffusers opens it."""
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from diffusers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        pipeline = DiffusionPipeline.from_pretrained(str(folder), trust_remote_code=True)
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def made_by(pipeline: Any, seeds: range, class_labels: list[int] | None, **conditions: Any) -> np.ndarray:
    """Native images [image, channel, row, column] that a pipeline makes of seeds of this package."""
    return pipeline(class_labels=class_labels, seeds=seeds, output_type="native", **conditions).images
