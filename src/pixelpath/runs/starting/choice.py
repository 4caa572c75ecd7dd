"""What a search for a start compared and chose, and whether that can pay.

A *candidate* is a fitted start with its sigma. `bound` and `cold` are those of `pixelpath.runs.starting.search`.
"""

from __future__ import annotations

from dataclasses import dataclass

from pixelpath.evaluation.certificate import CONFIDENCE, Certificate, Divergence
from pixelpath.evaluation.tails import Index, TailReport
from pixelpath.starts.start import Start
from pixelpath.starts.tails import ParetoTail
from pixelpath.starts.warm import WarmStart

PAYS = 2.0  # times the sigma of a start, at least, from which noise alone must begin for the start to save steps
ALONE = 0.15  # of the data's std: below, a density needs no network


@dataclass(frozen=True, eq=False)
class Candidate:
    """A fitted start: its certificate (None without a density), its sigma (None: no sigma will do) and the tails there.

    The certificate is by the choosing half. `numbers` counts the values that the start holds. `against` says why it is not to be
    used, empty if nothing is against it. A start with a Pareto tail has the certificate of its bulk, and the `remark` says so.
    Tails were judged at `looks` levels, of which all but the last were rejected; every look takes fresh noise.
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
    looks: int = 0

    def divergence(self) -> Divergence | None:
        """The row of its certificate that bounds its divergence at its sigma."""
        return None if self.certificate is None or self.sigma is None else self.certificate.at(self.sigma)


@dataclass(frozen=True, eq=False)
class Search:
    """What was compared and what was chosen, one of `candidates`; `left_out` says which families could not be fitted, and why.

    `bound` is the divergence of the chosen start at its sigma by the certifying half, of `certifying` images (None where it has
    no density, or none was measured); `tries` candidates were put to that half. `cold` is from where noise alone, with the data's
    variance, keeps to the budget (None: nowhere). `nfe` counts the images that the denoiser was asked about.
    """

    candidates: tuple[Candidate, ...]
    left_out: dict[str, str]
    budget: float
    chosen: Candidate
    warm: WarmStart
    index: Index | None
    seconds: float
    remarks: tuple[str, ...]
    bound: Divergence | None
    certifying: int
    tries: int
    cold: float | None
    std: float
    nfe: int

    def sentence(self) -> str:
        """The choice in words, with the limit of its divergence."""
        return f"Start {self.chosen.name} at sigma {self.warm.sigma:.3g}: {self._bound()}."

    @property
    def pays(self) -> bool:
        """Whether beginning there can save evaluations at all, before any image is sampled."""
        return not self._useless()

    def verdict(self) -> str:
        """That no start pays here, and why, or how far the start is below noise alone."""
        sigma = self.warm.sigma
        than = "from no sigma" if self.cold is None else f"from sigma {self.cold:.3g}, {self.cold / sigma:.1f} times higher"
        hopeful = f"Noise alone keeps to {self.budget:g} nats {than}. Only samples at equal evaluations tell what that saves."
        return self._useless() or hopeful

    def _useless(self) -> str:
        sigma = self.warm.sigma
        if self.cold is not None and self.cold < PAYS * sigma:
            return (
                f"No start pays here: noise with the variance of the data keeps to {self.budget:g} nats from sigma "
                f"{self.cold:.3g} on, and this start begins at {sigma:.3g}. Sample without a start, from that sigma."
            )
        if self.bound is not None and self.bound.limit <= self.budget and sigma <= ALONE * self.std:
            return (
                f"No start pays here: the density {self.chosen.name} keeps to {self.budget:g} nats down to sigma {sigma:.3g}, "
                f"{sigma / self.std:.0%} of the data's std. It needs no network: sample it alone."
            )
        return ""

    def _bound(self) -> str:
        if self.bound is None:
            return "sigma chosen by hand, divergence not measured"
        confidence = 1 - self.tries * (1 - CONFIDENCE)
        what = "its bulk is " if isinstance(self.chosen.start, ParetoTail) else ""
        found = (
            f"{what}at most {self.bound.limit:.3g} nats from the noised data with {confidence:.0%} confidence (estimate "
            f"{self.bound.cross:.3g}, budget {self.budget:g}), by {self.certifying} held-out images that it was not chosen by"
        )
        few = (
            f"; {self.bound.top:.0%} of it comes from one image in a hundred, too few to rely on" if self.bound.dominated else ""
        )
        return found + few
