"""The denoiser of a run as a model of diffusers: noisy images, their sigma and class labels to estimates of the clean images.

A folder that `pixelpath export --format diffusers` wrote holds this file with all that it needs of pixelpath; torch and diffusers
are enough to run it.
"""

from __future__ import annotations

from typing import Any

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from pixelpath.models.denoiser import Denoiser
from pixelpath.models.preconditioning import Anchored, EDMPreconditioning, XPrediction
from pixelpath.networks.backbone import Backbone
from pixelpath.networks.decoder import Decoder
from pixelpath.networks.encoder import Encoder
from pixelpath.types import Condition, Images, Labels, Sigmas

PRECONDITIONINGS = {"x": XPrediction, "edm": EDMPreconditioning, "anchored": Anchored}


class PixelpathDenoiser(ModelMixin, ConfigMixin):
    """D(sample, sigma, class_labels) of images [batch, channel, row, column] in model range; label `num_classes` is no class.

    A network of other conditions takes `numbers` numbers and condition images of `cond_image` channels, in model range.
    `encoder` and `decoder` hold width, depth and heads of each; `preconditioning` its kind and its numbers.
    """

    @register_to_config
    def __init__(
        self,
        channels: int,
        rows: int,
        columns: int,
        patch: int,
        encoder: dict[str, int],
        decoder: dict[str, int],
        num_classes: int,
        pixel_head: int,
        preconditioning: dict[str, Any],
        numbers: int = 0,
        cond_image: int = 0,
        pixel_blocks: int = 0,
    ) -> None:
        super().__init__()
        half = Encoder(channels, rows, columns, patch, **encoder)
        backbone = Backbone(half, Decoder(half, **decoder), num_classes, numbers, cond_image, pixel_head, pixel_blocks)
        chosen = {name: value for name, value in preconditioning.items() if name != "kind"}
        self.denoiser = Denoiser(backbone, PRECONDITIONINGS[preconditioning["kind"]](**chosen))
        backbone.register_forward_pre_hook(_in_its_dtype)

    def forward(
        self,
        sample: Images,
        sigma: Sigmas,
        class_labels: Labels | None = None,
        numbers: Float[Tensor, "batch number"] | None = None,
        cond_image: Float[Tensor, "batch other row column"] | None = None,
    ) -> Images:
        """The estimates, in the dtype of `sample`; sigma is one number ([]) or one for each image."""
        return self.denoiser(sample, sigma, self.denoiser.condition(sample, class_labels, numbers, cond_image))


def _in_its_dtype(backbone: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Images and conditions in the dtype of the weights, while sigma and the estimate keep theirs."""
    images, noise, condition, *rest = given
    dtype = next(backbone.parameters()).dtype
    vector, cond_image = (None if each is None else each.to(dtype) for each in (condition.vector, condition.cond_image))
    return images.to(dtype), noise, Condition(condition.labels, vector, cond_image), *rest
