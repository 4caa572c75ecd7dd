"""The pixel head: convolutions on pixels after the decoder, so that what neighbouring patches draw agrees."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pixelpath.types import Images


class PixelHead(nn.Module):
    """The decoder's images [batch, channels, rows, columns] plus a correction of the same shape, zero before training.

    Three 3 x 3 convolutions with `width` channels inside see the decoder's images beside the noisy ones, and the decoder's
    `features`, more channels that follow those of its images. The condition [batch, condition_width] scales and shifts the first
    one's channels, as it does in the decoder's blocks. After it come `blocks` residual blocks of two convolutions. It computes in
    float32 under autocast too: the decoder's images and the correction cancel, and their rounding would be most of a generator's
    noise. Chosen here; no source.
    """

    def __init__(self, channels: int, width: int, condition_width: int, features: int = 0, blocks: int = 0) -> None:
        super().__init__()
        self.channels = channels
        self.enter = nn.Conv2d(2 * channels + features, width, 3, padding=1)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(condition_width, 2 * width))
        self.blocks = nn.ModuleList(_Residual(width) for _ in range(blocks))
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, channels, 3, padding=1)
        for weights in (self.modulation[1].weight, self.modulation[1].bias, self.out.weight, self.out.bias):
            nn.init.zeros_(weights)  # pyright: ignore[reportArgumentType]

    def forward(
        self, decoded: Float[Tensor, "batch both rows columns"], noisy: Images, condition: Float[Tensor, "batch width"]
    ) -> Images:
        device = decoded.device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return self._corrected(decoded, noisy, condition)
        with torch.autocast(device, enabled=False):
            return self._corrected(decoded.float(), noisy.float(), condition.float())

    def _corrected(self, decoded: Tensor, noisy: Images, condition: Float[Tensor, "batch width"]) -> Images:
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        both = torch.cat([decoded, noisy.to(decoded.dtype)], dim=1)
        # with the channels of a pixel side by side, few of them take a CPU half the time
        pixels = self.enter(both.contiguous(memory_format=torch.channels_last)) * (1 + scale) + shift
        for block in self.blocks:
            pixels = block(pixels)
        return decoded[:, : self.channels] + self.out(functional.gelu(self.middle(functional.gelu(pixels))))


class _Residual(nn.Module):
    """pixels [batch, width, rows, columns] + convolution(gelu(convolution(gelu(pixels)))), 3 x 3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels + self.second(functional.gelu(self.first(functional.gelu(pixels))))
