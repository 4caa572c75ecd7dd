"""The backbone of a generator: encoder and decoder joined, with a table of classes."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from pixelpath.networks.decoder import Decoder
from pixelpath.networks.encoder import Encoder
from pixelpath.types import Images, Labels


class Backbone(nn.Module):
    """Images, a noise coordinate [batch] and labels [batch] to images of the same shape.

    The vector of the class is added to the CLS token and, with the noise token, is the decoder's condition. The last row of the
    table, `no_label`, stands for "no class"; with num_classes = 0 it is the only one.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, num_classes: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.num_classes = encoder, decoder, num_classes
        self.classes = nn.Embedding(num_classes + 1, encoder.width)
        nn.init.normal_(self.classes.weight, std=0.02)

    @property
    def no_label(self) -> int:
        """The label that says "no class"."""
        return self.num_classes

    def forward(self, images: Images, noise: Float[Tensor, "batch"], labels: Labels) -> Images:
        vector = self.classes(labels)
        encoding = self.encoder(images, noise, vector[:, None])
        return self.decoder(encoding, encoding.noise + vector, *images.shape[2:])

    def checkpoint_activations(self, on: bool) -> None:
        """Trade compute for memory: keep one activation per block and compute the rest again in the backward pass."""
        self.encoder.checkpointing = self.decoder.checkpointing = on
