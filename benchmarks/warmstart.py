"""What a warm start is worth: as near to the data with fewer evaluations of the denoiser, its own cost included.

    python -m benchmarks.warmstart targets --seeds 0 1 2 --out targets.json
    python -m benchmarks.warmstart targets --names student --quick
    python -m benchmarks.warmstart targets --names modes sixteen --walks 2m

    python -m benchmarks.warmstart images RUN RUN RUN --out images.json
    python -m benchmarks.warmstart radar --data FILE --out radar.json

`targets` samples laws whose denoiser is known exactly, and one with a small trained network; `images` samples
trained runs of one recipe and several seeds; `radar` is benchmarks/radar.py. A table in Markdown is printed, mean
+- standard deviation over seeds; --out takes every run as JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from benchmarks import measure, radar, warmstart_images, warmstart_targets


def targets(
    seeds: tuple[int, ...] = (0, 1, 2),
    names: tuple[str, ...] = (),
    quick: bool = False,
    walks: tuple[Literal["heun", "2m"], ...] = ("heun", "2m"),
    out: Path | None = None,
    threads: int = 1,
) -> None:
    """Warm and cold runs of the targets with every seed.

    Args:
        seeds: Seeds of data, fits and samples.
        names: Only these problems: modes, sixteen, digits, student, trained, spiral.
        quick: Few points, to see that everything runs.
        walks: Runs by Heun's method, and those by DPM-Solver++(2M), of which the cold one is the best control.
        out: JSON file of the results, written after every problem and seed.
        threads: Threads of torch.
    """
    torch.set_num_threads(threads)
    about = {"benchmark": "warmstart targets", "machine": measure.machine(torch.device("cpu"))}
    found: dict[str, Any] = {}
    for found in warmstart_targets.run(seeds, quick, names, walks):
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(about | found, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(warmstart_targets.table(found["summary"]))


def images(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    families: tuple[str, ...] = (),
    nfe: tuple[int, ...] = (5, 7, 9, 11, 17, 23, 35, 71),
    count: int = 2000,
    points: int = 2048,
    generator: Path | None = None,
    sigmas: tuple[float, ...] = (),
    out: Path | None = None,
    threads: int = 1,
) -> None:
    """Warm and cold samples of trained diffusion runs, unguided: Frechet distance in pixels over network evaluations.

    Args:
        runs: Runs of one recipe that differ in their seed.
        families: Families of starts to compare; those that suit the data if none is given.
        nfe: Odd numbers of network evaluations.
        count: Samples at each of them.
        points: Noisy held-out images at each level of a certificate.
        generator: A one-step run on the data of the first run, whose samples are a start too.
        sigmas: Levels to which its samples are noised.
        out: JSON file of the results, written after every run.
        threads: Threads of torch.
    """
    torch.set_num_threads(threads)
    found = []
    for number, run in enumerate(runs):
        other = (generator, sigmas) if number == 0 else (None, ())
        found.append(warmstart_images.measured(run, families, nfe, count, points, *other))
        if out is not None:
            about = {"benchmark": "warmstart images", "machine": measure.machine(torch.device("cpu"))}
            record = about | {"runs": [asdict(each) for each in found]}
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(warmstart_images.table(found))


def main() -> None:
    """Read the command line; a user's mistake is one sentence and exit status 2."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"targets": targets, "images": images, "radar": radar.main}, prog="python -m benchmarks.warmstart"
        )
    except (ValueError, OSError) as error:
        sys.stderr.write(f"warmstart: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
