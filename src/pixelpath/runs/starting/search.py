"""Which start, and at which sigma: densities of several families fitted to training images, compared on held-out ones.

A *candidate* is a fitted start with its sigma: the smallest at which the limit of its divergence keeps to the *budget* (nats)
and its tails pass the gate. One half of the held-out images, the *choosing* half, tells which; the other one, the *certifying*
half, tells how far the chosen start is from the noised data. A start without a density, such as another model's samples, has
no divergence, so the user chooses its sigma. Method: Fassina et al. 2026 (arXiv 2603.00772); the choice of sigma is ours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import repeat

import torch
from torch import Tensor

from pixelpath.data.sources import evenly
from pixelpath.errors import UserError
from pixelpath.evaluation.certificate import Certificate, Divergence, certify, certify_density
from pixelpath.evaluation.fits import compare_fit
from pixelpath.evaluation.tails import tail_gate, within_reach
from pixelpath.log import followed
from pixelpath.noise import NoiseRange
from pixelpath.randomness import seed_of
from pixelpath.runs.starting.choice import Candidate, Search
from pixelpath.runs.starting.families import TINY, Family, Known, levels_of, usual
from pixelpath.sampling.checks import check_noise, check_scale, noised, residual_energy
from pixelpath.starts.flow import Flow
from pixelpath.starts.gaussian import fit_gaussian, noise_alone
from pixelpath.starts.start import Density, Saved, Start
from pixelpath.starts.tails import ParetoTail
from pixelpath.starts.warm import WarmStart, check_count
from pixelpath.types import Denoise, Images, LabelledDenoise

POINTS = 2048  # noisy held-out images at each level of a certificate
BEYOND = 20.0  # a certificate ends where every density is so many times beyond the budget
TIE = 1.02  # ratio of levels that count as equal; the earlier family then has it
CONTROL, COLD = "", "noise alone"  # densities compared beside the candidates
BUDGETS = (0.02, 0.05)  # nats, up to TINY values and above
NOISE_SEEN = (0.15, 0.5)  # of the data's std: where the denoiser must find the noise that is there
TOO_FEW = "{} held-out images are too few to compare tails with: hold out 100 or more, better 2,000."


def find_start(
    denoise: LabelledDenoise,
    noise: NoiseRange,
    known: Known,
    families: Mapping[str, Family] | None = None,
    budget: float | None = None,
    sigma: float | None = None,
    seed: int = 0,
    points: int = POINTS,
    device: torch.device | str = "cpu",
    *,
    adapted: bool = True,
) -> Search:
    """The start that lets sampling begin at the smallest sigma, of all `families` (None: the usual ones), and how they compare.

    `denoise(noisy, sigma, labels)` works on `device` in the range of `known` and learned the sigmas of `noise`. A sigma will do
    if from there up the limit of the divergence keeps to `budget` nats (None: 0.02 up to 64 values, else 0.05), and if there
    start samples have the tails of held-out noised images, and the residual energy. The choosing half of the held-out images
    finds density and sigma; the certifying half then confirms both, or moves the sigma up. A given `sigma` (shifted, in model
    range) is used instead, for starts without a density too; then only the residual energy must fit. `points` are noisy images
    of each half at each level. A denoiser that is `adapted`, as its maker says, is checked for another noise schedule too.
    Raises UserError if images are not in the denoiser's range or the denoiser in another noise, or if no start will do: it says
    which sigma and family would reach which budget.
    """
    began = time.perf_counter()
    budget = BUDGETS[known.values > TINY] if budget is None else budget
    if not 0 < budget < math.inf:
        raise UserError(f"A budget is a number of nats above 0, got {budget}: 0.02 to 0.1 are usual.")
    levels = levels_of(known, noise)
    if sigma is not None and not levels[-1] <= sigma <= levels[0]:
        raise UserError(f"A start at sigma {sigma:g} lies outside {levels[-1]:.3g} to {levels[0]:.3g}: choose a sigma inside.")
    known = known.shuffled(seed_of(seed, 12))
    trial = _Trial(denoise, torch.device(device), known, levels, budget, seed, points, fit_gaussian(known.training))
    trial.check_range()
    if adapted:
        trial.check_schedule()
    fitted, left_out = _fit(usual(known) if families is None else families, known, noise, seed)
    fitted, cold = trial.certified(fitted)
    trying = followed(fitted, "candidates of a start", len(fitted))
    judged = [trial.placed(candidate) if sigma is None else trial.at(candidate, sigma) for candidate in trying]
    best, bound, tries = trial.confirmed(judged, chosen_by_hand=sigma is not None)
    if best is None:
        raise _none_will_do(judged, left_out, budget, sigma)
    assert best.sigma is not None
    remarks = () if within_reach(len(known.held_out)) else (TOO_FEW.format(len(known.held_out)),)
    candidates = tuple(best if each.name == best.name else each for each in judged)
    return Search(
        candidates=candidates,
        left_out=left_out,
        budget=budget,
        chosen=best,
        warm=trial.warm(best.start, best.sigma),
        index=known.index,
        seconds=time.perf_counter() - began,
        remarks=remarks,
        bound=bound,
        certifying=len(trial.halves[1].held_out),
        tries=tries,
        cold=cold,
        std=float(known.training.std()),
        nfe=sum(trial.asked),
    )


def _fit(families: Mapping[str, Family], known: Known, noise: NoiseRange, seed: int) -> tuple[list[Candidate], dict[str, str]]:
    """A candidate of every family, and why those that could not be fitted are left out."""
    found, left_out = [], {}
    for name, family in followed(families.items(), "fitting densities", len(families)):
        began = time.perf_counter()
        try:
            start = family(known, noise, seed)
        except ValueError as error:
            left_out[name] = str(error)
            continue
        numbers = sum(tensor.numel() for tensor in start.state()[1].values()) if isinstance(start, Saved) else 0
        found.append(Candidate(name, start, time.perf_counter() - began, numbers))
    return found, left_out


@dataclass(frozen=True, eq=False)
class _Trial:
    """What candidates are put to the test with."""

    denoise: LabelledDenoise
    device: torch.device
    known: Known
    levels: Sequence[float]
    budget: float
    seed: int
    points: int
    control: Density
    asked: list[int] = field(default_factory=list)

    @cached_property
    def halves(self) -> tuple[Known, Known]:
        """Choosing and certifying half of the held-out images."""
        return self.known.halves()

    def counted(self, noisy: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        """The denoiser's estimates, and the images in them counted."""
        self.asked.append(len(noisy))
        return self.denoise(noisy, sigma, labels)

    def estimate(self, noisy: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        """The denoiser's estimates for any number of images on the CPU, 256 at a time on its device."""
        parts = zip(noisy.split(256), repeat(None) if labels is None else labels.split(256), strict=False)
        return torch.cat(
            [
                self.counted(
                    part.to(self.device),
                    sigma.to(self.device).expand(len(part)).float(),
                    None if own is None else own.to(self.device),
                ).cpu()
                for part, own in parts
            ]
        )

    def check_range(self) -> None:
        """UserError if held-out images are not in the range that the denoiser knows."""
        self._check(check_scale, 2.0)

    def check_schedule(self) -> None:
        """UserError if the denoiser takes sigma for another noise, as one that has hardly been trained does too."""
        for share in NOISE_SEEN:
            self._check(check_noise, share)

    def _check(self, check: Callable[[Denoise, Images, float, list[int]], object], share: float) -> None:
        """A check at this share of the images' std."""
        seeds = [seed_of(self.seed, 4, place) for place in range(min(512, len(self.known.held_out)))]
        images, labels = self.known.held(slice(len(seeds)))
        sigma = min(max(share * float(self.known.training.std()), self.levels[-1]), self.levels[0])
        check(lambda x, s: self.estimate(x, s, labels), images, sigma, seeds)

    def certified(self, fitted: Sequence[Candidate]) -> tuple[list[Candidate], float | None]:
        """The candidates with the certificate of each that has a density, or whose bulk has; the sigma of noise alone."""
        bulks = {each.name: _bulk(each.start) for each in fitted}
        densities = {name: bulk for name, bulk in bulks.items() if isinstance(bulk, Density)}
        if not densities:
            return list(fitted), None
        found = self._certificates(densities | {COLD: noise_alone(self.known.training)}, self.halves[0], self.levels, 5)
        cold = found[COLD].sigma_for(self.budget)
        remarks = {each.name: "certificate of its bulk" for each in fitted if isinstance(each.start, ParetoTail)}
        return [replace(each, certificate=found.get(each.name), remark=remarks.get(each.name, "")) for each in fitted], cold

    def _certificates(
        self, densities: Mapping[str, Density], half: Known, levels: Sequence[float], key: int
    ) -> dict[str, Certificate]:
        flows = {name: density for name, density in densities.items() if isinstance(density, Flow)}
        images, labels = half.held(evenly(len(half.held_out), self.points))
        repeats = max(1, round(self.points / len(images)))
        compared = {name: density for name, density in densities.items() if name not in flows}
        compared |= {CONTROL: self.control} if flows else {}
        seed, enough = seed_of(self.seed, key), BEYOND * self.budget
        found = certify(self.counted, compared, images, labels, levels, seed, repeats, enough, device=self.device)
        for name, flow in flows.items():
            inside = tuple(row for row in found[CONTROL].rows if flow.levels[0] <= row.sigma <= flow.levels[1])
            seed = seed_of(self.seed, 10, key)
            found[name] = certify_density(Certificate(inside), self.control, flow, images, labels, seed, repeats)
        return found

    def placed(self, candidate: Candidate) -> Candidate:
        """The candidate at the smallest sigma that keeps to the budget and passes, or with why none does."""
        certificate = candidate.certificate
        if certificate is None:
            return replace(candidate, against="it has no density, so no sigma can be chosen for it: give one (`sigma`)")
        sigma = certificate.sigma_for(self.budget)
        if sigma is None:
            against = f"it is {certificate.rows[0].sentence()}, the highest there is, and the budget is {self.budget:g}"
            if certificate.rows[0].dominated:
                against = f"it has other tails than the data: {certificate.rows[0].sentence()}, the highest there is"
            return replace(candidate, against=against)
        against = self._fit_against(candidate.start, sigma)
        return replace(candidate, against=against) if against else self._raised(candidate, sigma)

    def _raised(self, candidate: Candidate, sigma: float) -> Candidate:
        """The candidate at the first sigma, of those from here up, at which it passes, or with why it passes at none."""
        tried = candidate
        for level in [level for level in reversed(self.levels) if level >= sigma]:
            tried = self.at(tried, level)
            if not tried.against and (tried.tails is None or tried.tails.passes):
                return tried
        wrong = [each for each in tried.tails.quantiles if each.wrong(tried.tails.tolerance)] if tried.tails else []
        worst = max(wrong, key=lambda each: abs(each.error)).sentence() if wrong else tried.against
        return replace(tried, sigma=None, against=f"it does not pass at any sigma ({worst})")

    def confirmed(self, judged: Sequence[Candidate], *, chosen_by_hand: bool) -> tuple[Candidate | None, Divergence | None, int]:
        """The candidate to use, its divergence by the certifying half, and how many were put to it: the best first.

        Its sigma moves up to where that half keeps to the budget too, unless it was chosen by hand. Without such a sigma the next
        candidate is tried, which costs 5 of 100 in the confidence of what is found.
        """
        for tries, candidate in enumerate(_ordered(judged), 1):
            assert candidate.sigma is not None
            density = _bulk(candidate.start)
            if candidate.certificate is None or not isinstance(density, Density):
                return candidate, None, 0
            levels = self.levels[: max(4, sum(level >= candidate.sigma * (1 - 1e-9) for level in self.levels) + chosen_by_hand)]
            certificate = self._certificates({candidate.name: density}, self.halves[1], levels, 13)[candidate.name]
            if chosen_by_hand:
                return candidate, certificate.at(candidate.sigma), tries
            kept = certificate.sigma_for(self.budget)
            if kept is not None and kept > candidate.sigma:
                candidate = self._raised(candidate, kept)
            if kept is not None and candidate.sigma is not None:
                return candidate, certificate.at(candidate.sigma), tries
        return None, None, 0

    def at(self, candidate: Candidate, sigma: float) -> Candidate:
        """The candidate at sigma, with its tails as far as held-out images tell, and with what the denoiser has against it."""
        known, against, tails = self.known, "", None
        try:
            self.warm(candidate.start, sigma).check(self.estimate, check_count(known.values))
        except ValueError as error:
            against = str(error).rstrip(".")
        reach, seed = within_reach(len(known.held_out)), seed_of(self.seed, 6, candidate.looks)
        if reach:
            tails = tail_gate(candidate.start, known.held_out, sigma, known.held_out_labels, seed=seed, probabilities=reach)
        return replace(candidate, sigma=sigma, tails=tails, against=against, looks=candidate.looks + 1)

    def warm(self, start: Start, sigma: float) -> WarmStart:
        """The start at sigma, with the residual energies of held-out images there."""
        held_out = len(self.known.held_out)
        places = torch.arange(max(2 * check_count(self.known.values), min(1024, held_out))) % held_out
        images, labels = self.known.held(places)
        noisy = noised(images, sigma, [seed_of(self.seed, 7, place) for place in range(len(places))])
        energies = residual_energy(lambda x, s: self.estimate(x, s, labels), noisy, sigma).float()
        return WarmStart(start, sigma, energies, labels)

    def _fit_against(self, start: Start, sigma: float) -> str:
        """What held-out images say against the fit at sigma; empty if nothing, or where it has no density."""
        if not isinstance(start, Density):
            return ""
        training = evenly(len(self.known.training), POINTS)
        own = None if self.known.training_labels is None else self.known.training_labels[training]
        images, labels = self.halves[0].held(evenly(len(self.halves[0].held_out), POINTS))
        seed = seed_of(self.seed, 11)
        return compare_fit(start, self.control, self.known.training[training], images, sigma, own, labels, seed).against


def _bulk(start: Start) -> Start:
    return start.bulk if isinstance(start, ParetoTail) else start


def _ordered(judged: Sequence[Candidate]) -> list[Candidate]:
    """Those that may be used, the smallest sigma first; among equals the earlier family."""
    left = [(candidate.sigma, candidate) for candidate in judged if not candidate.against and candidate.sigma is not None]
    found: list[Candidate] = []
    while left:
        least = min(sigma for sigma, _ in left)
        place = next(place for place, (sigma, _) in enumerate(left) if sigma <= least * TIE)
        found.append(left.pop(place)[1])
    return found


def _none_will_do(judged: Sequence[Candidate], left_out: Mapping[str, str], budget: float, wanted: float | None) -> UserError:
    """What would help where no candidate may be used."""
    reasons = {
        **{candidate.name: candidate.against or "not confirmed by the certifying half" for candidate in judged},
        **left_out,
    }
    against = "; ".join(f"{name}: {why}".rstrip(".") for name, why in reasons.items())
    if wanted is not None:
        return UserError(f"No start will do at sigma {wanted:g}: begin at a higher one, or choose another family. {against}.")
    lowest = [
        (row.limit, row.sigma, candidate.name)
        for candidate in judged
        for row in (candidate.certificate.rows if candidate.certificate else ())
        if not row.dominated
    ]
    hint = "give more training images, or a family for heavy tails (student, pareto-tail)"
    if lowest:
        limit, sigma, name = min(lowest)
        hint = f"{name} at sigma {sigma:.3g} would take a budget of {limit:.2g} nats"
    return UserError(f"No start keeps to a budget of {budget:g} nats with the tails of the data: {hint}. {against}.")
