"""Whether a fitted density holds for images that it was not fitted to.

The *control* is a density of few assumptions, the Gaussian with the data's moments, on the same noisy images. The *gain* of a
density is by how much its log density exceeds the control's, in nats an image. *Lost* is by how much the gain on training
images exceeds that on held-out ones: what the density owes to having seen them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.randomness import seed_of
from pixelpath.sampling.checks import noised
from pixelpath.starts.start import Density, Fitted

Training = Float[Tensor, "training _ _ _"]
HeldOut = Float[Tensor, "held_out _ _ _"]

ERRORS = 3.0  # standard errors beyond which a difference is not chance
CHUNK = 1024  # images noised at a time


@dataclass(frozen=True)
class Fit:
    """Mean log densities in nats an image, of images noised to `sigma`, of a density and the control.

    `training` and `held_out` are the density's own, `control` is the control's on held-out images; `lost` is the gain on
    training images less that on held-out ones. Errors are standard errors over images, `excess_error` that of lost - gain.
    `undefined` counts the images that have no finite log density.
    """

    sigma: float
    training: float
    held_out: float
    control: float
    gap_error: float
    gain_error: float
    lost: float
    lost_error: float
    excess_error: float
    undefined: int

    @property
    def gap(self) -> float:
        """By how much training images are likelier than held-out ones; above 0 for every fit, even of the control."""
        return self.training - self.held_out

    @property
    def gain(self) -> float:
        """By how much the density exceeds the control on held-out images."""
        return self.held_out - self.control

    @property
    def worse(self) -> bool:
        """gain < -3 standard errors, or densities that are not finite."""
        return self.undefined > 0 or self.gain < -ERRORS * self.gain_error

    @property
    def overfits(self) -> bool:
        """lost > max(gain, 0) + 3 standard errors: more than half of the gain on training images is lost on held-out ones.

        Any fit loses some: half its number of parameters, divided by the number of images, on either side. That is no fault
        while the gain exceeds it. A density that memorises gains on its own images only.
        """
        if self.undefined or self.gap <= ERRORS * self.gap_error:
            return False
        return self.lost > ERRORS * self.lost_error and self.lost - self.gain > ERRORS * self.excess_error

    @property
    def against(self) -> str:
        """One sentence that says what is wrong and what to do; empty if nothing is wrong."""
        at = f"at sigma {self.sigma:g}"
        if self.undefined:
            return f"This density is not finite {at} for {self.undefined} images: fit it again, or begin at a higher sigma."
        if self.overfits:
            return (
                f"This density overfits {at}: of the {self.gain + self.lost:.3g} nats an image that it gains over the control on "
                f"training images, {self.lost:.3g} +- {self.lost_error:.2g} are lost on held-out ones; use fewer components or "
                "steps, more images, or begin at a higher sigma."
            )
        if self.worse:
            return (
                f"This density is worse than the control {at}, by {-self.gain:.3g} +- {self.gain_error:.2g} nats a held-out "
                "image: use the control, or fit it longer or with other settings."
            )
        return ""

    def sentence(self) -> str:
        """What was found, in words."""
        return self.against or (
            f"At sigma {self.sigma:g} the density gains {self.gain:+.3g} +- {self.gain_error:.2g} nats a held-out image over the "
            f"control, and loses {self.lost:+.3g} +- {self.lost_error:.2g} of what it gains on training images."
        )


def compare_fit(
    density: Density,
    control: Density,
    training: Training,
    held_out: HeldOut,
    sigma: float,
    training_labels: Int[Tensor, "training"] | None = None,
    held_out_labels: Int[Tensor, "held_out"] | None = None,
    seed: int = 0,
) -> Fit:
    """The mean log densities of a density and of the control, on images x + sigma e of both sets; e is a function of `seed`.

    With l the log density and c that of the control, gain = mean over held-out images of l - c, and lost = mean over training
    images of l - c, minus gain. `training` are the images that both were fitted to. Raises UserError for fewer than 2 images
    of either set, for a control that is not finite there, or where `log_prob` does.
    """
    if min(len(training), len(held_out)) < 2:
        raise UserError(
            f"A fit is judged by at least 2 training and 2 held-out images, got {len(training)} and {len(held_out)}: give more."
        )
    sets = (training, training_labels), (held_out, held_out_labels)
    known, unseen = (
        _densities(density, control, images, labels, sigma, seed_of(seed, which)) for which, (images, labels) in enumerate(sets)
    )
    if not (known[1].isfinite().all() and unseen[1].isfinite().all()):
        raise UserError(f"The control has no finite density of some images at sigma {sigma:g}: look for NaN among them.")
    undefined = int((~known[0].isfinite()).sum() + (~unseen[0].isfinite()).sum())
    gained = known[0] - known[1], unseen[0] - unseen[1]
    variances = [float(each.var()) / len(each) for each in (known[0], unseen[0], *gained)]
    return Fit(
        sigma=sigma,
        training=float(known[0].mean()),
        held_out=float(unseen[0].mean()),
        control=float(unseen[1].mean()),
        gap_error=math.sqrt(variances[0] + variances[1]),
        gain_error=math.sqrt(variances[3]),
        lost=float(gained[0].mean() - gained[1].mean()),
        lost_error=math.sqrt(variances[2] + variances[3]),
        excess_error=math.sqrt(variances[2] + 4 * variances[3]),  # lost - gain has twice the held-out mean in it
        undefined=undefined,
    )


@torch.no_grad()
def _densities(
    density: Density, control: Density, images: Fitted, labels: Int[Tensor, "image"] | None, sigma: float, seed: int
) -> tuple[Float[Tensor, "image"], Float[Tensor, "image"]]:
    """Both log densities of the same noisy images, in float64."""
    found: list[Tensor] = []
    for first in range(0, len(images), CHUNK):
        part = slice(first, first + CHUNK)
        clean = images[part].detach().cpu().double()
        noisy = noised(clean, sigma, [seed_of(seed, first + place) for place in range(len(clean))])
        chosen = None if labels is None else labels[part]
        found.append(torch.stack([each.log_prob(noisy, sigma, chosen) for each in (density, control)]))
    ours, theirs = torch.cat(found, 1)
    return ours, theirs
