"""What a warm start is worth: as near to the data with fewer evaluations of the denoiser, its own cost included.

    python -m benchmarks.warmstart targets --seeds 0 1 2 --out targets.json
    python -m benchmarks.warmstart targets --names student --quick

`targets` samples laws whose denoiser is known exactly, and one with a small trained network. A table in Markdown is printed, mean
+- standard deviation over seeds; --out takes every run as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks import measure, warmstart_targets


def targets(
    seeds: tuple[int, ...] = (0, 1, 2),
    names: tuple[str, ...] = (),
    quick: bool = False,
    out: Path | None = None,
    threads: int = 1,
) -> None:
    """Warm and cold runs of the targets with every seed.

    Args:
        seeds: Seeds of data, fits and samples.
        names: Only these problems: modes, sixteen, digits, student, trained, spiral.
        quick: Few points, to see that everything runs.
        out: JSON file of the results, written after every problem and seed.
        threads: Threads of torch.
    """
    torch.set_num_threads(threads)
    about = {"benchmark": "warmstart targets", "machine": measure.machine(torch.device("cpu"))}
    found: dict[str, Any] = {}
    for found in warmstart_targets.run(seeds, quick, names):
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(about | found, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(warmstart_targets.table(found["summary"]))


def main() -> None:
    """Read the command line; a user's mistake is one sentence and exit status 2."""
    try:
        tyro.extras.subcommand_cli_from_dict({"targets": targets}, prog="python -m benchmarks.warmstart")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"warmstart: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
