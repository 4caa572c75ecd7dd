"""Which start, and at which level: laws of several families fitted to the training images, compared on held-out ones.

A *candidate* is a fitted start with its level: the smallest sigma at which its divergence
keeps to the *budget* (nats) and its tails pass the gate. A start without a density, such as another model's samples, cannot be
given a divergence: its level is the user's choice. Method: Fassina et al. 2026 (arXiv 2603.00772); the choice of level is ours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat

import torch
from torch import Tensor

from pixelpath.data.sources import evenly
from pixelpath.evaluation.certificate import Certificate, Divergence, certify, certify_density
from pixelpath.evaluation.fits import compare_fit
from pixelpath.evaluation.tails import Index, TailReport, tail_gate, within_reach
from pixelpath.noise import NoiseRange
from pixelpath.randomness import seed_of
from pixelpath.runs.families import TINY, Family, Known, levels_of, usual
from pixelpath.sampling.checks import check_scale, noised, residual_energy
from pixelpath.starts.flow import Flow
from pixelpath.starts.gaussian import fit_gaussian
from pixelpath.starts.start import Density, Saved, Start
from pixelpath.starts.tails import ParetoTail
from pixelpath.starts.warm import WarmStart, check_count
from pixelpath.types import LabelledDenoise

POINTS = 2048  # noisy held-out images at each level of a certificate
BEYOND = 20.0  # a certificate ends where every law is so many times beyond the budget
TIE = 1.02  # ratio of levels that count as equal; the earlier family then has it
CONTROL = ""  # a law compared beside the candidates
BUDGETS = (0.02, 0.05)  # nats, up to TINY values and above


@dataclass(frozen=True, eq=False)
class Candidate:
    """A fitted start: its certificate (None without a density), its level (None: no level will do) and the tails there.

    `numbers` is how many the start holds. `against` says why it is not to be used, empty if nothing is against it. A splice has
    the certificate of its bulk law, and the `remark` says so.
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
        if self.certificate is None or self.sigma is None:
            return None
        sigma = self.sigma
        return min(self.certificate.rows, key=lambda row: abs(math.log(row.sigma / sigma))).cross_error

    def divergence(self) -> float | None:
        """The cross estimate at its level, ln KL being linear in ln sigma between levels."""
        if self.certificate is None or self.sigma is None:
            return None
        rows = self.certificate.rows
        above = min((row for row in rows if row.sigma >= self.sigma * (1 - 1e-9)), key=lambda row: row.sigma)
        below = max((row for row in rows if row.sigma < self.sigma), key=lambda row: row.sigma, default=above)
        if above is below or min(above.cross, below.cross) <= 0:
            return above.cross
        share = math.log(above.sigma / self.sigma) / math.log(above.sigma / below.sigma)
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
    remarks: tuple[str, ...] = field(default=())

    def sentence(self) -> str:
        """The choice in words."""
        found = self.chosen.divergence()
        kept = f"{found:.3g} nats from the noised data (budget {self.budget:g})" if found is not None else "level chosen by hand"
        return f"Start {self.chosen.name} at sigma {self.warm.sigma:.3g}: {kept}."


def fit_start(
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

    `denoise(noisy, sigma, labels)` works on `device` in the range of `known` and learned the levels of `noise`. A level will do
    if from there up the divergence, by the cross estimate on held-out images, keeps to `budget` nats (None: 0.02 up to 64 values,
    else 0.05) and is not decided by a few images, and if there start samples have the tails of held-out noised images, and the
    residual energy. `sigma` (shifted, in model range) sets the level instead, for starts without a density too; then the residual
    energy alone is asked. Raises ValueError if images are not in the denoiser's range, or if no start will do: it says which
    sigma and family would reach which budget.
    """
    began = time.perf_counter()
    budget = BUDGETS[known.values > TINY] if budget is None else budget
    if not 0 < budget < math.inf:
        raise ValueError(f"A budget is a number of nats above 0, got {budget}: 0.02 to 0.1 are usual.")
    levels = levels_of(known, noise)
    if sigma is not None and not levels[-1] <= sigma <= levels[0]:
        raise ValueError(f"A start at sigma {sigma:g} lies outside {levels[-1]:.3g} to {levels[0]:.3g}: choose a level inside.")
    known, whole = known.shuffled(seed_of(seed, 12)), _in_batches(denoise, device)
    std = float(known.training.std())
    seeds = [seed_of(seed, 4, place) for place in range(min(512, len(known.held_out)))]
    chosen = None if known.held_out_labels is None else known.held_out_labels[: len(seeds)]
    check_scale(lambda x, s: whole(x, s, chosen), known.held_out[: len(seeds)], _inside(2 * std, levels), seeds)
    fitted, left_out = _fit(usual(known) if families is None else families, known, noise, seed)
    control = fit_gaussian(known.training)
    fitted = _certified(fitted, control, denoise, known, levels, budget, seed, points, device)
    trial = _Trial(whole, control, known, levels, budget, seed)
    judged = tuple(trial.placed(candidate) if sigma is None else trial.at(candidate, sigma) for candidate in fitted)
    best = _best(judged, left_out, budget, sigma)
    assert best.sigma is not None
    warm = trial.warm(best.start, best.sigma)
    return Search(judged, left_out, budget, best, warm, known.index, time.perf_counter() - began, _remarks(known))


def numbers_of(start: Start) -> int:
    """How many numbers the start holds; 0 if it cannot be saved, as another model's samples."""
    return sum(tensor.numel() for tensor in start.state()[1].values()) if isinstance(start, Saved) else 0


def _fit(families: Mapping[str, Family], known: Known, noise: NoiseRange, seed: int) -> tuple[list[Candidate], dict[str, str]]:
    found, left_out = [], {}
    for name, family in families.items():
        began = time.perf_counter()
        try:
            start = family(known, noise, seed)
        except ValueError as error:
            left_out[name] = str(error)
            continue
        found.append(Candidate(name, start, time.perf_counter() - began, numbers_of(start)))
    return found, left_out


def _certified(
    fitted: Sequence[Candidate],
    control: Density,
    denoise: LabelledDenoise,
    known: Known,
    levels: Sequence[float],
    budget: float,
    seed: int,
    points: int,
    device: torch.device | str,
) -> list[Candidate]:
    """The candidates with the certificate of each that has a density, or whose bulk law has."""
    densities = {candidate.name: density for candidate in fitted if (density := _law_of(candidate.start)) is not None}
    if not densities:
        return list(fitted)
    flows = {name: densities.pop(name) for name in list(densities) if isinstance(densities[name], Flow)}
    chosen = evenly(len(known.held_out), points)
    images, labels = known.held_out[chosen], None if known.held_out_labels is None else known.held_out_labels[chosen]
    repeats = max(1, round(points / len(chosen)))
    compared = {**densities, **({CONTROL: control} if flows else {})}
    found = certify(denoise, compared, images, labels, levels, seed_of(seed, 5), repeats, BEYOND * budget, device=device)
    for name, density in flows.items():
        assert isinstance(density, Flow)
        inside = tuple(row for row in found[CONTROL].rows if density.levels[0] <= row.sigma <= density.levels[1])
        found[name] = certify_density(Certificate(inside), control, density, images, labels, seed_of(seed, 10), repeats)
    return [
        replace(
            candidate,
            certificate=found.get(candidate.name),
            remark="certificate of its bulk law" if isinstance(candidate.start, ParetoTail) else "",
        )
        for candidate in fitted
    ]


@dataclass(frozen=True, eq=False)
class _Trial:
    """What candidates are put to the test with."""

    whole: LabelledDenoise
    control: Density
    known: Known
    levels: Sequence[float]
    budget: float
    seed: int

    def placed(self, candidate: Candidate) -> Candidate:
        """The candidate at the smallest level that keeps to the budget and passes, or with why none does."""
        if candidate.certificate is None:
            return replace(candidate, against="it has no density, so no level can be chosen for it: give one (sigma)")
        sigma = candidate.certificate.sigma_for(self.budget)
        if sigma is None:
            return replace(candidate, against=_unreached(candidate.certificate, self.budget))
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
        return replace(tried, sigma=None, against=f"it does not pass at any level ({worst})")

    def at(self, candidate: Candidate, sigma: float) -> Candidate:
        """The candidate at sigma, with its tails, and with what the denoiser has against its samples there."""
        warm, count = self.warm(candidate.start, sigma), check_count(self.known.values)
        against = ""
        try:
            warm.check(self.whole, count)
        except ValueError as error:
            against = str(error).rstrip(".")
        return replace(candidate, sigma=sigma, tails=self._tails(candidate.start, sigma), against=against)

    def warm(self, start: Start, sigma: float) -> WarmStart:
        """The start at sigma, with the residual energies of held-out images there."""
        known, count = self.known, check_count(self.known.values) * 2
        places = torch.arange(max(count, min(1024, len(known.held_out)))) % len(known.held_out)
        labels = None if known.held_out_labels is None else known.held_out_labels[places]
        noisy = noised(known.held_out[places], sigma, [seed_of(self.seed, 7, place) for place in range(len(places))])
        energies = residual_energy(lambda x, s: self.whole(x, s, labels), noisy, sigma).float()
        return WarmStart(start, sigma, energies, labels)

    def _fit_against(self, start: Start, sigma: float) -> str:
        """What held-out images say against the fit at sigma; empty if nothing, or where it has no density."""
        if not isinstance(start, Density):
            return ""
        known = self.known
        training, held_out = (evenly(len(side), POINTS) for side in (known.training, known.held_out))
        sides = (known.training_labels, training), (known.held_out_labels, held_out)
        labels = [None if own is None else own[places] for own, places in sides]
        images, others = known.training[training], known.held_out[held_out]
        seed = seed_of(self.seed, 11)
        return compare_fit(start, self.control, images, others, sigma, labels[0], labels[1], seed).against

    def _tails(self, start: Start, sigma: float) -> TailReport | None:
        """The tails of start samples at sigma, as far as held-out images can tell; None if they are too few for any."""
        known, probabilities = self.known, within_reach(len(self.known.held_out))
        if not probabilities:
            return None
        seed = seed_of(self.seed, 6)
        return tail_gate(start, known.held_out, sigma, known.held_out_labels, seed=seed, probabilities=probabilities)


def _remarks(known: Known) -> tuple[str, ...]:
    """What the choice could not look at."""
    if within_reach(len(known.held_out)):
        return ()
    return (f"{len(known.held_out)} held-out images are too few to compare tails with: hold out 100 or more, better 2,000.",)


def _best(judged: Sequence[Candidate], left_out: Mapping[str, str], budget: float, wanted: float | None) -> Candidate:
    """The candidate of the smallest level, the first of equals; ValueError with what would help if there is none."""
    usable = [candidate for candidate in judged if not candidate.against and candidate.sigma is not None]
    if usable:
        least = min(candidate.sigma or math.inf for candidate in usable)
        return next(candidate for candidate in usable if (candidate.sigma or math.inf) <= least * TIE)
    reasons = [f"{candidate.name}: {candidate.against}" for candidate in judged]
    reasons += [f"{name}: {why}" for name, why in left_out.items()]
    against = "; ".join(reason.rstrip(".") for reason in reasons)
    if wanted is not None:
        raise ValueError(f"No start will do at sigma {wanted:g}: begin at a higher one, or choose another family. {against}.")
    lowest: list[tuple[float, float, str]] = [
        (row.cross, row.sigma, candidate.name)
        for candidate in judged
        if candidate.certificate is not None
        for row in candidate.certificate.rows
        if not row.dominated and row.cross > 0
    ]
    hint = "give more training images, or a family for heavy tails (student, splice)"
    if lowest:
        cross, sigma, name = min(lowest)
        hint = f"{name} at sigma {sigma:.3g} would take a budget of {cross:.2g} nats"
    raise ValueError(f"No start keeps to a budget of {budget:g} nats with the tails of the data: {hint}. {against}.")


def _unreached(certificate: Certificate, budget: float) -> str:
    top: Divergence = certificate.rows[0]
    if top.dominated:
        return f"it has other tails than the data: even at the highest level it is {top.sentence()}"
    return f"it is {top.sentence()} even at the highest level, beyond {budget:g}"


def _in_batches(denoise: LabelledDenoise, device: torch.device | str) -> LabelledDenoise:
    """`denoise` for any number of images on the CPU, 256 at a time on its device."""

    def estimate(noisy: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        parts = zip(noisy.split(256), repeat(None) if labels is None else labels.split(256), strict=False)
        return torch.cat(
            [
                denoise(
                    part.to(device), sigma.to(device).expand(len(part)).float(), None if own is None else own.to(device)
                ).cpu()
                for part, own in parts
            ]
        )

    return estimate


def _inside(sigma: float, levels: Sequence[float]) -> float:
    return min(max(sigma, levels[-1]), levels[0])


def _law_of(start: Start) -> Density | None:
    """The start if it has density and denoiser, the bulk law of a splice, else None."""
    bulk = start.bulk if isinstance(start, ParetoTail) else start
    return bulk if isinstance(bulk, Density) else None
