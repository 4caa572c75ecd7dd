"""Colours and their transparency.

*Alpha* is the fourth channel of RGBA, 0 for transparent to the dtype's largest value for opaque. *Straight* colours are as seen
where opaque; *premultiplied* ones are multiplied by the alpha as a share, so that what cannot be seen has no colour.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Shaped

from pixelpath.errors import UserError

RGBA = Shaped[np.ndarray, "*batch 4 row column"]

# what twice the product of two values, and one value more, fits into
_WIDE = {np.dtype("uint8"): np.uint32, np.dtype("uint16"): np.uint64}


def premultiply(images: RGBA) -> RGBA:
    """Straight to premultiplied: colour alpha / most, rounded to nearest (halves up), in the same dtype (uint8 or uint16).

    Exact where alpha is full; colours where alpha is 0 become 0. Raises UserError for other dtypes.
    """
    colours, alpha, most = _parts(images)
    return _joined((2 * colours * alpha + most) // (2 * most), images)


def unpremultiply(images: RGBA) -> RGBA:
    """Premultiplied to straight: colour most / alpha, rounded to nearest (halves up), 0 where alpha is 0, in the same dtype.

    premultiply(unpremultiply(x)) is x for whatever `premultiply` made. A premultiplied colour cannot exceed its alpha; what a
    model makes may, and becomes full colour. Raises UserError for dtypes but uint8 and uint16.
    """
    colours, alpha, most = _parts(images)
    straight = (2 * colours * most + alpha) // np.maximum(2 * alpha, 1)
    return _joined(np.where(alpha > 0, np.minimum(straight, most), 0), images)


def _parts(images: RGBA) -> tuple[np.ndarray, np.ndarray, int]:
    """Colours and alpha, wide enough to be multiplied, and the largest value of the dtype."""
    wide = _WIDE.get(images.dtype)
    if wide is None:
        raise UserError(
            f"Premultiplied alpha is for uint8 and uint16 colours, got {images.dtype}: use straight alpha.", "data.alpha"
        )
    return images[..., :3, :, :].astype(wide), images[..., 3:, :, :].astype(wide), int(np.iinfo(images.dtype).max)


def _joined(colours: np.ndarray, images: RGBA) -> RGBA:
    return np.concatenate([colours.astype(images.dtype), images[..., 3:, :, :]], axis=-3)
