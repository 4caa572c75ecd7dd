"""Which start, and at which sigma: densities of several families fitted to training images, compared on held-out ones.

A *candidate* is a fitted start with its sigma: the smallest at which its divergence keeps to the *budget* (nats) and its tails
pass the gate. A start without a density, such as another model's samples, has no divergence, so the user chooses its sigma.
Method: Fassina et al. 2026 (arXiv 2603.00772); the choice of sigma is ours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import torch
from torch import Tensor

from pixelpath.data.sources import evenly
from pixelpath.errors import UserError
from pixelpath.evaluation.certificate import Certificate, certify, certify_density
from pixelpath.evaluation.fits import compare_fit
from pixelpath.evaluation.tails import Index, TailReport, tail_gate, within_reach
from pixelpath.log import followed
from pixelpath.noise import NoiseRange
from pixelpath.randomness import seed_of
from pixelpath.runs.start_families import TINY, Family, Known, levels_of, usual
from pixelpath.sampling.checks import check_scale, noised, residual_energy
from pixelpath.starts.flow import Flow
from pixelpath.starts.gaussian import fit_gaussian
from pixelpath.starts.start import Density, Saved, Start
from pixelpath.starts.tails import ParetoTail
from pixelpath.starts.warm import WarmStart, check_count
from pixelpath.types import LabelledDenoise

POINTS = 2048  # noisy held-out images at each level of a certificate
BEYOND = 20.0  # a certificate ends where every density is so many times beyond the budget
TIE = 1.02  # ratio of levels that count as equal; the earlier family then has it
CONTROL = ""  # a density compared beside the candidates
BUDGETS = (0.02, 0.05)  # nats, up to TINY values and above
TOO_FEW = "{} held-out images are too few to compare tails with: hold out 100 or more, better 2,000."


@dataclass(frozen=True, eq=False)
class Candidate:
    """A fitted start: its certificate (None without a density), its sigma (None: no sigma will do) and the tails there.

    `numbers` counts the values that the start holds. `against` says why it is not to be used, empty if nothing is against it. A
    start with a Pareto tail has the certificate of its bulk, and the `remark` says so.
    """

    name: str
    start: Start
    seconds: float
    numbers: int
    certificate: Certificate | None = None
    sigma: float | None = None
    tails: TailReport | None = None
    against: str = ""
    remark: str = ""

    def error(self) -> float | None:
        """The standard error of the cross estimate at the level of the certificate nearest to its own."""
        sigma = self.sigma
        if self.certificate is None or sigma is None:
            return None
        return min(self.certificate.rows, key=lambda row: abs(math.log(row.sigma / sigma))).cross_error

    def divergence(self) -> float | None:
        """The cross estimate at its level, ln KL being linear in ln sigma between levels."""
        sigma = self.sigma
        if self.certificate is None or sigma is None:
            return None
        rows = self.certificate.rows
        above = min((row for row in rows if row.sigma >= sigma * (1 - 1e-9)), key=lambda row: row.sigma)
        below = max((row for row in rows if row.sigma < sigma), key=lambda row: row.sigma, default=above)
        if above is below or min(above.cross, below.cross) <= 0:
            return above.cross
        share = math.log(above.sigma / sigma) / math.log(above.sigma / below.sigma)
        return above.cross * (below.cross / above.cross) ** share


@dataclass(frozen=True, eq=False)
class Search:
    """What was compared and what was chosen, one of `candidates`; `left_out` says which families could not be fitted, and why."""

    candidates: tuple[Candidate, ...]
    left_out: dict[str, str]
    budget: float
    chosen: Candidate
    warm: WarmStart
    index: Index | None
    seconds: float
    remarks: tuple[str, ...] = ()

    def sentence(self) -> str:
        """The choice in words."""
        found = self.chosen.divergence()
        kept = f"{found:.3g} nats from the noised data (budget {self.budget:g})" if found is not None else "level chosen by hand"
        return f"Start {self.chosen.name} at sigma {self.warm.sigma:.3g}: {kept}."


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
) -> Search:
    """The start that lets sampling begin at the smallest sigma, of all `families` (None: the usual ones), and how they compare.

    `denoise(noisy, sigma, labels)` works on `device` in the range of `known` and learned the sigmas of `noise`. A sigma will do
    if from there up the divergence, by the cross estimate on held-out images, keeps to `budget` nats (None: 0.02 up to 64 values,
    else 0.05) and is not decided by a few images, and if there start samples have the tails of held-out noised images, and the
    residual energy. A given `sigma` (shifted, in model range) is used instead, for starts without a density too; then only the
    residual energy must fit. Raises UserError if images are not in the denoiser's range, or if no start will do: it says which
    sigma and family would reach which budget.
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
    fitted, left_out = _fit(usual(known) if families is None else families, known, noise, seed)
    fitted = trial.certified(fitted)
    trying = followed(fitted, "candidates of a start", len(fitted))
    judged = tuple(trial.placed(candidate) if sigma is None else trial.at(candidate, sigma) for candidate in trying)
    best = _best(judged, left_out, budget, sigma)
    assert best.sigma is not None
    remarks = () if within_reach(len(known.held_out)) else (TOO_FEW.format(len(known.held_out)),)
    warm = trial.warm(best.start, best.sigma)
    return Search(judged, left_out, budget, best, warm, known.index, time.perf_counter() - began, remarks)


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

    def estimate(self, noisy: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        """The denoiser's estimates for any number of images on the CPU, 256 at a time on its device."""
        parts = zip(noisy.split(256), repeat(None) if labels is None else labels.split(256), strict=False)
        return torch.cat(
            [
                self.denoise(
                    part.to(self.device),
                    sigma.to(self.device).expand(len(part)).float(),
                    None if own is None else own.to(self.device),
                ).cpu()
                for part, own in parts
            ]
        )

    def check_range(self) -> None:
        """ValueError if held-out images are not in the range that the denoiser knows."""
        seeds = [seed_of(self.seed, 4, place) for place in range(min(512, len(self.known.held_out)))]
        images, labels = self.known.held(slice(len(seeds)))
        sigma = min(max(2 * float(self.known.training.std()), self.levels[-1]), self.levels[0])
        check_scale(lambda x, s: self.estimate(x, s, labels), images, sigma, seeds)

    def certified(self, fitted: Sequence[Candidate]) -> list[Candidate]:
        """The candidates with the certificate of each that has a density, or whose bulk has."""
        bulks = {each.name: each.start.bulk if isinstance(each.start, ParetoTail) else each.start for each in fitted}
        densities = {name: bulk for name, bulk in bulks.items() if isinstance(bulk, Density)}
        if not densities:
            return list(fitted)
        flows = {name: density for name, density in densities.items() if isinstance(density, Flow)}
        images, labels = self.known.held(evenly(len(self.known.held_out), self.points))
        repeats = max(1, round(self.points / len(images)))
        compared = {name: density for name, density in densities.items() if name not in flows}
        compared |= {CONTROL: self.control} if flows else {}
        seed, enough = seed_of(self.seed, 5), BEYOND * self.budget
        found = certify(self.denoise, compared, images, labels, self.levels, seed, repeats, enough, device=self.device)
        for name, flow in flows.items():
            inside = tuple(row for row in found[CONTROL].rows if flow.levels[0] <= row.sigma <= flow.levels[1])
            seed = seed_of(self.seed, 10)
            found[name] = certify_density(Certificate(inside), self.control, flow, images, labels, seed, repeats)
        remarks = {each.name: "certificate of its bulk" for each in fitted if isinstance(each.start, ParetoTail)}
        return [replace(each, certificate=found.get(each.name), remark=remarks.get(each.name, "")) for each in fitted]

    def placed(self, candidate: Candidate) -> Candidate:
        """The candidate at the smallest sigma that keeps to the budget and passes, or with why none does."""
        certificate = candidate.certificate
        if certificate is None:
            return replace(candidate, against="it has no density, so no sigma can be chosen for it: give one (`sigma`)")
        sigma = certificate.sigma_for(self.budget)
        if sigma is None:
            top = certificate.rows[0]
            against = f"it is {top.sentence()} even at the highest sigma, beyond {self.budget:g}"
            if top.dominated:
                against = f"it has other tails than the data: even at the highest sigma it is {top.sentence()}"
            return replace(candidate, against=against)
        against = self._fit_against(candidate.start, sigma)
        if against:
            return replace(candidate, against=against)
        tried = candidate
        for level in [sigma, *(level for level in reversed(self.levels) if level > sigma)]:
            tried = self.at(candidate, level)
            if not tried.against and (tried.tails is None or tried.tails.passes):
                return tried
        wrong = [each for each in tried.tails.quantiles if each.wrong(tried.tails.tolerance)] if tried.tails else []
        worst = max(wrong, key=lambda each: abs(each.error)).sentence() if wrong else tried.against
        return replace(tried, sigma=None, against=f"it does not pass at any sigma ({worst})")

    def at(self, candidate: Candidate, sigma: float) -> Candidate:
        """The candidate at sigma, with its tails as far as held-out images tell, and with what the denoiser has against it."""
        known, against, tails = self.known, "", None
        try:
            self.warm(candidate.start, sigma).check(self.estimate, check_count(known.values))
        except ValueError as error:
            against = str(error).rstrip(".")
        reach, seed = within_reach(len(known.held_out)), seed_of(self.seed, 6)
        if reach:
            tails = tail_gate(candidate.start, known.held_out, sigma, known.held_out_labels, seed=seed, probabilities=reach)
        return replace(candidate, sigma=sigma, tails=tails, against=against)

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
        images, labels = self.known.held(evenly(len(self.known.held_out), POINTS))
        seed = seed_of(self.seed, 11)
        return compare_fit(start, self.control, self.known.training[training], images, sigma, own, labels, seed).against


def _best(judged: Sequence[Candidate], left_out: Mapping[str, str], budget: float, wanted: float | None) -> Candidate:
    """The candidate of the smallest sigma, the first of equals; UserError with what would help if there is none."""
    usable = [(candidate.sigma, candidate) for candidate in judged if not candidate.against and candidate.sigma is not None]
    if usable:
        least = min(sigma for sigma, _ in usable)
        return next(candidate for sigma, candidate in usable if sigma <= least * TIE)
    reasons = {**{candidate.name: candidate.against for candidate in judged}, **left_out}
    against = "; ".join(f"{name}: {why}".rstrip(".") for name, why in reasons.items())
    if wanted is not None:
        raise UserError(f"No start will do at sigma {wanted:g}: begin at a higher one, or choose another family. {against}.")
    lowest = [
        (row.cross, row.sigma, candidate.name)
        for candidate in judged
        for row in (candidate.certificate.rows if candidate.certificate else ())
        if not row.dominated and row.cross > 0
    ]
    hint = "give more training images, or a family for heavy tails (student, pareto-tail)"
    if lowest:
        cross, sigma, name = min(lowest)
        hint = f"{name} at sigma {sigma:.3g} would take a budget of {cross:.2g} nats"
    raise UserError(f"No start keeps to a budget of {budget:g} nats with the tails of the data: {hint}. {against}.")
