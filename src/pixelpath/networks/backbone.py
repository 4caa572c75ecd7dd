"""The backbone of a generator: encoder and decoder joined, and the networks that read a condition.

A condition is a class (a table of vectors), numbers (a small network) and images, *cond_image* (masks, maps).
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn

from pixelpath.networks.decoder import Decoder
from pixelpath.networks.encoder import Encoder
from pixelpath.networks.head import PixelHead
from pixelpath.networks.layers import initialise
from pixelpath.types import Condition, Conditioning, Images


class Backbone(nn.Module):
    """Images, a noise coordinate [batch] and a condition to images of the same shape.

    The vector of the class is added to the CLS token. With the noise token it is the decoder's condition. The last row of the
    table, `no_label`, means "no class"; with num_classes = 0 it is the only row. A two-layer network turns `numbers` numbers into
    a vector that is added to that of the class. Condition images of `cond_image` channels have patches of their own, whose tokens
    are added to those of the images. That equals more input channels, but the encoder stays that of stage one. Before training
    numbers and images change nothing. A pixel head of `pixel_head` channels and `pixel_blocks` blocks follows the decoder, whose
    features it takes; 0 channels: none.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        num_classes: int,
        numbers: int = 0,
        cond_image: int = 0,
        pixel_head: int = 0,
        pixel_blocks: int = 0,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.num_classes = encoder, decoder, num_classes
        self.classes = nn.Embedding(num_classes + 1, encoder.width)
        nn.init.normal_(self.classes.weight, std=0.02)
        self.numbers = self.cond_image = None
        if numbers:
            self.numbers = nn.Sequential(
                nn.Linear(numbers, encoder.width), nn.SiLU(), nn.Linear(encoder.width, encoder.width, bias=False)
            )
            initialise(self.numbers)
        if cond_image:
            self.cond_image = nn.Conv2d(cond_image, encoder.width, encoder.patch, stride=encoder.patch)
            nn.init.zeros_(self.cond_image.weight)
            nn.init.zeros_(self.cond_image.bias)  # pyright: ignore[reportArgumentType]
        self.head = None
        if pixel_head:
            self.head = PixelHead(encoder.channels, pixel_head, encoder.width, decoder.features, pixel_blocks)

    @property
    def no_label(self) -> int:
        """The label that means "no class"."""
        return self.num_classes

    @property
    def conditional(self) -> bool:
        """Whether there is a condition."""
        return self.num_classes > 0 or self.numbers is not None or self.cond_image is not None

    def forward(
        self, images: Images, noise: Float[Tensor, "batch"], condition: Conditioning, given: Bool[Tensor, "batch"] | None = None
    ) -> Images:
        """Where `given` is False, numbers and images of the condition are ignored; None: they count everywhere."""
        condition = condition if isinstance(condition, Condition) else Condition(condition)
        vector, cond_image = self.classes(condition.labels), None
        if self.numbers is not None and condition.vector is not None:
            vector = vector + _where(given, self.numbers(condition.vector))
        if self.cond_image is not None and condition.cond_image is not None:
            cond_image = _where(given, self.cond_image(condition.cond_image).flatten(2).transpose(1, 2))
        encoding = self.encoder(images, noise, vector[:, None], cond_image)
        decoded = self.decoder(encoding, encoding.noise + vector, *images.shape[2:])
        return decoded if self.head is None else self.head(decoded, images, encoding.noise + vector)

    def checkpoint_activations(self, on: bool) -> None:
        """Trade compute for memory: keep one activation per block and recompute the others in the backward pass."""
        self.encoder.checkpointing = self.decoder.checkpointing = on


def _where(given: Tensor | None, values: Tensor) -> Tensor:
    return values if given is None else values * given.to(values).reshape(-1, *[1] * (values.ndim - 1))
