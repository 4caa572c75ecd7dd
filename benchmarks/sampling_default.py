"""How many network evaluations an untuned run should be sampled with: the distance of samples over evaluations, of several runs.

    python -m benchmarks.sampling_default RUN RUN ... --out default.json

Cold samples by DPM-Solver++(2M) from where images are just hidden, and by Heun's method from the highest sigma. Distances are
Frechet distances in pixels to the training images, mean +- std over three *sets* of seeds, the same ones for every number. A
*ratio* is the distance by that of the most evaluations of 2M, set by set. The *choice* is the fewest evaluations of 2M whose
ratio, as the geometric mean of all runs, is within 2 % of the least.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from benchmarks import measure
from pixelpath.evaluation.distances import frechet_of_sets
from pixelpath.runs.measuring.comparison import Real, batches_of, features_of, pixels, real_statistics
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import read_data_of
from pixelpath.runs.sample import sample
from pixelpath.runs.sample_conditions import as_held_out
from pixelpath.sampling.sampler import Sampler, Sampling, hidden

SETS = 3
TOLERANCE = 1.02  # of the least ratio: numbers of evaluations this near are as good


@dataclass(frozen=True)
class Measured:
    """One run: the distance of each set by 2M, by evaluations, and by Heun's method; the floor of as many held-out images."""

    run: str
    guidance: float
    count: int
    multistep: dict[int, list[float]]
    heun: dict[int, list[float]]
    floor: float

    def ratio(self, nfe: int) -> float:
        """The mean over sets of the distance by that of the most evaluations of 2M."""
        most = self.multistep[max(self.multistep)]
        return statistics.fmean(one / other for one, other in zip(self.multistep[nfe], most, strict=True))


def measured(path: Path, nfe: Sequence[int], heun: Sequence[int], count: int, guidance: float) -> Measured:
    """Distances of at most so many samples a set, or as many as there are held-out images."""
    run = open_run(path)
    data = read_data_of(run, None)
    known, _, _ = real_statistics(pixels(data), Real(data), count, run.device)
    sets = [range(known.few * place, known.few * (place + 1)) for place in range(SETS)]
    conditions = [as_held_out(run, data, seeds) for seeds in sets]

    def distances(sampler: Sampler, number: int, first: float) -> list[float]:
        way = Sampling(sampler=sampler, nfe=number, sigma_max=first, guidance=guidance)
        made = [sample(run, *each, way) for each in zip(sets, conditions, strict=True)]
        features = [features_of(known.extractor, batches_of(each, data), len(each), run.device) for each in made]
        found = [frechet_of_sets(each, known.statistics) for each in features]
        sys.stderr.write(f"{path}: {number} evaluations of {sampler.value}: {_cells([{number: found}], number)}\n")
        return found

    low, high = hidden(run.noise), run.noise.sigma_max * run.noise.shift
    return Measured(
        str(path), guidance, known.few,
        {number: distances(Sampler.DPMPP_2M, number, low) for number in nfe},
        {number: distances(Sampler.HEUN, number, high) for number in heun},
        known.floor,
    )  # fmt: skip


def choice(found: Sequence[Measured]) -> tuple[int, dict[int, float]]:
    """The evaluations to sample with, and the ratio of each number of them over all runs."""
    ratios = {nfe: statistics.geometric_mean(each.ratio(nfe) for each in found) for nfe in found[0].multistep}
    return min(nfe for nfe, ratio in ratios.items() if ratio <= TOLERANCE * min(ratios.values())), ratios


def table(found: Sequence[Measured]) -> str:
    """Distances by evaluations, a column for each run, and what follows."""
    names = [f"{each.run}, guidance {each.guidance:g}" for each in found]
    best, ratios = choice(found)
    rows = [f"| NFE | {' | '.join(names)} | ratio |", f"|---|{'---|' * len(names)}---|"]
    rows += [f"| {nfe} | {_cells([each.multistep for each in found], nfe)} | {ratio:.3f} |" for nfe, ratio in ratios.items()]
    rows += [f"| {nfe}, Heun | {_cells([each.heun for each in found], nfe)} | |" for nfe in found[0].heun]
    floors = " | ".join(f"{each.floor:.4g} ({each.count})" for each in found)
    return "\n".join([*rows, f"| floor (images) | {floors} | |", "", f"Choice: {best} evaluations."]) + "\n"


def _cells(columns: Sequence[Mapping[int, Sequence[float]]], nfe: int) -> str:
    return " | ".join(f"{statistics.fmean(own[nfe]):.4g} ± {statistics.stdev(own[nfe]):.1g}" for own in columns)


def main(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    nfe: tuple[int, ...] = (5, 7, 9, 12, 15, 18),
    heun: tuple[int, ...] = (35,),
    count: int = 500,
    guidance: float = 1.0,
    out: Path | None = None,
    threads: int = 1,
) -> None:
    """Print the table of some diffusion runs.

    Args:
        runs: Diffusion runs, of any data.
        nfe: Numbers of evaluations of DPM-Solver++(2M).
        heun: Odd numbers of evaluations of Heun's method from the highest sigma.
        count: Samples in each of three sets, at most as many as held-out images.
        guidance: Guidance scale; 1 is none.
        out: JSON file of all distances, written after every run.
        threads: Threads of torch.
    """
    torch.set_num_threads(threads)
    found: list[Measured] = []
    for run in runs:
        found.append(measured(run, nfe, heun, count, guidance))
        if out is not None:
            about = {"benchmark": "sampling_default", "machine": measure.machine(torch.device("cpu"))}
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(about | {"runs": [asdict(each) for each in found]}, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(table(found))


if __name__ == "__main__":
    tyro.cli(main)
