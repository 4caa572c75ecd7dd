"""The recipe that makes a one-step model of a diffusion run, which it follows in everything that is not chosen here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pixelpath.errors import UserError
from pixelpath.objectives.denoising import Denoising
from pixelpath.objectives.distillation import Distillation
from pixelpath.recipes.recipe import Recipe
from pixelpath.sampling.sampler import HIDDEN, Sampling


@dataclass(frozen=True)
class Distilling:
    """How a diffusion run is distilled."""

    images: int = Distillation.images
    """Images that the diffusion run makes before training begins, which goes over them again and again."""
    nfe: int = Distillation.nfe
    """Network evaluations of the diffusion run for an image, by DPM-Solver++(2M); guidance doubles their cost."""
    guidance: float | None = None
    """Guidance scale of these images; 1 is no guidance. Default: that of the diffusion run's recipe."""
    steps: int | None = None
    """Training steps. Default: as many as the diffusion run took."""
    seed: int = 0
    """Seed of all randomness of the run."""


def distilled(teacher: Recipe, conditional: bool, how: Distilling) -> Recipe:
    """The open recipe of a one-step model of a run with the closed recipe `teacher`, which is conditional or not.

    Network, optimizer, batch size and data are the teacher's. Raises UserError unless it is a diffusion recipe, or for guidance
    that it cannot give.
    """
    if not isinstance(teacher.objective, Denoising):
        raise UserError(f"A run of {teacher.name} is no diffusion model: distill a run of diffusion.", setting="run")
    if how.guidance not in (None, 1.0) and not conditional:
        raise UserError("The run is unconditional, so its samples cannot be guided: omit `guidance`.", setting="guidance")
    noise = replace(teacher.noise, sigma_max=min(HIDDEN, teacher.noise.sigma_max), shift=1.0)
    usual = teacher.usual_sampling.guidance if conditional else 1.0
    guidance = usual if how.guidance is None else how.guidance
    assert guidance is not None
    return replace(
        teacher,
        name=f"{teacher.name}-distilled",
        objective=Distillation(noise, how.images, how.nfe, guidance),
        steps=teacher.steps if how.steps is None else how.steps,
        seed=how.seed,
        dropout=0.0,
        sampling=Sampling(),
    )
