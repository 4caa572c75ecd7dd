"""A published EPG checkpoint as a run that can be sampled."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from pixelpath.data.conditions import Conditions
from pixelpath.data.metadata import Metadata
from pixelpath.errors import UserError
from pixelpath.interop import official
from pixelpath.log import say
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.representation import Representation
from pixelpath.networks.decoder import Decoder
from pixelpath.networks.encoder import Encoder
from pixelpath.networks.layers import Attention
from pixelpath.objectives.denoising import Denoising
from pixelpath.objectives.representation import Curriculum, RepresentationLearning
from pixelpath.recipes.build import encoder_in
from pixelpath.recipes.recipe import ProjectorSize, Recipe, to_json
from pixelpath.recipes.sizes import Blocks, Size
from pixelpath.runs.folder import claim
from pixelpath.sampling.sampler import Sampler, Sampling
from pixelpath.trainer import checkpoint
from pixelpath.trainer.checkpoint import State


def import_official(path: Path, out: Path, encoder_heads: int | None = None, decoder_heads: int | None = None) -> Path:
    """Turn a published EPG checkpoint (.pth or .safetensors) into a run that can be sampled, or begun with; its checkpoint."""
    model = official.load(path, encoder_heads, decoder_heads)
    recipe = recipe_of(model, Path(path).name)
    encoder = encoder_in(model)
    if encoder.channels != len(official.NORMALISER.mean):
        raise UserError(
            f"{path} is a model of {encoder.channels} channels, and only RGB ones have a published normalisation: "
            "load it in Python with pixelpath.interop.official.load."
        )
    claim(out, recipe, {"encoder": "", "start": "", "official": str(path)})
    classes = [f"{index:04d}" for index in range(model.backbone.num_classes)] if isinstance(model, Denoiser) else []
    shape = [encoder.channels, encoder.rows, encoder.columns]
    extras = {
        "recipe": json.loads(to_json(recipe)),
        "normaliser": official.NORMALISER.to_json(),
        "data": {
            "shape": shape,
            "classes": classes,
            "metadata": Metadata("png", photographs=True).to_json(),
            "conditions": Conditions().to_json(),
        },
    }
    optimizer = recipe.optimizer.build(model.requires_grad_(True))
    saved = checkpoint.save(out, State(0, 0), model, model, optimizer, extras)
    say(f"{saved}: {'x'.join(map(str, shape))}, {len(classes)} classes numbered in the official order.")
    return saved


def recipe_of(model: Denoiser | Representation, name: str) -> Recipe:
    """The closed recipe whose networks are those of the model."""
    encoder, noise = encoder_in(model), official.noise_range(model)
    stack = Blocks(len(encoder.blocks), encoder.width, heads_of(encoder))
    if isinstance(model, Representation):
        weights = [layer.weight for layer in model.projector.modules() if isinstance(layer, nn.Linear)]
        projector = ProjectorSize(len(weights[0]), len(weights[-1]))
        objective = RepresentationLearning(noise, Curriculum())
        return Recipe(name, objective, Size(stack, stack), encoder.patch, projector, steps=1)
    decoder = model.backbone.decoder
    size = Size(stack, Blocks(len(decoder.blocks), int(decoder.norm.normalized_shape[0]), heads_of(decoder)))
    sampling = Sampling(steps=32, guidance=2.5, guidance_interval=(0.19, 1.61), sampler=Sampler.HEUN)
    return Recipe(name, Denoising(noise), size, encoder.patch, preconditioning=model.preconditioning, steps=1, sampling=sampling)


def heads_of(network: Encoder | Decoder) -> int:
    """The number of attention heads of every block."""
    return next(layer.heads for layer in network.modules() if isinstance(layer, Attention))
