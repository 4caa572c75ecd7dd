"""Train a system for so many minutes and measure its samples; measure other samples, or errors by noise level; tabulate all.

python -m benchmarks.equal_time run --system ours --data DATA --minutes 15 --out DIR --change optimizer.lr=4e-3
python -m benchmarks.equal_time judge --samples FILE.npz --data DATA --label theirs --out DIR
python -m benchmarks.equal_time errors --networks DIR/DATA/NAME RUN --data DATA --out DIR
python -m benchmarks.equal_time table --out DIR
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import torch
import tyro

from benchmarks.equal_time import jobs, table
from benchmarks.equal_time.classifier import STEPS, some
from benchmarks.equal_time.errors import SIGMAS, errors, estimate_of
from benchmarks.equal_time.jobs import DataSet
from benchmarks.equal_time.lucidrains import Lucidrains
from benchmarks.equal_time.ours import Ours
from benchmarks.equal_time.systems import How, System, Task, changed
from benchmarks.equal_time.unets import DDPM, EDM, UNetSystem
from pixelpath.errors import UserError
from pixelpath.runs.chosen import Beginning

LARGE = (32, 64, 128)
OTHERS: dict[str, UNetSystem] = {
    "edm-small": EDM(),
    "edm-large": EDM(channels=LARGE, layers=1),
    "ddpm-v": DDPM(),
    "lucidrains": Lucidrains(),
}
Changes = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


def run(
    data: Path,
    out: Path,
    system: str = "ours",
    minutes: float = 15.0,
    seed: int = 0,
    recipe: str = "cpu-32-diffusion",
    change: Changes = (),
    label: str = "",
    encoder: Path | None = None,
    init_from: Path | None = None,
    flip: bool = False,
    samplers: tuple[str, ...] = ("2m",),
    steps: int = 18,
    guidance: tuple[float, ...] = (1.5,),
    samples: int = 1000,
    device: str = "cpu",
    classifier_steps: int = STEPS,
) -> None:
    """Train one system on one data set from one seed, sample it, and measure the samples; the same command goes on where it was.

    Only training counts: process time in one thread on a CPU, wall time on CUDA.

    Args:
        data: What pixelpath reads, with a test part.
        out: Folder of all jobs.
        system: ours, edm-small, edm-large, ddpm-v or lucidrains.
        minutes: Time for training.
        seed: Seed of weights, batches and noise.
        recipe: The recipe of ours.
        change: A change NAME=VALUE of the recipe (objective.draw.p_mean=.3) or of the other system (lr=2e-3); may be repeated.
        label: Name of the row. Default: the system and its changes.
        encoder: Run of stage one that ours begins with; its own time is not counted here.
        init_from: Run of the same stage that ours begins with; its own time is not counted here.
        flip: Mirror half of the training images, for any system.
        samplers: 2m (not lucidrains), heun, heun-stochastic (ours, edm), ddim (ddpm-v, lucidrains), consistency (one step).
        steps: Steps of a sampler.
        guidance: Scales of classifier-free guidance, where there are classes; samples are made and measured at each.
        samples: How many to measure, in the class shares of the held-out images.
        device: cpu or cuda.
        classifier_steps: Steps of training the classifier.
    """
    torch.set_num_threads(1)
    beginning = Beginning(encoder, init_from)
    chosen: System = Ours(recipe, change, beginning) if system == "ours" else changed(_other(system), change)
    label = label or " ".join([system if system != "ours" else recipe, *change, *(["flip"] if flip else [])])
    where = DataSet(data, out, classifier_steps)
    task = Task(where.data, where.settings, flip, seed, torch.device(device))
    identity = {
        "name": re.sub(r"[^a-zA-Z0-9._=-]+", "_", f"{label} {minutes:g}min s{seed}"),
        "label": label,
        "system": repr(chosen),
        "minutes": minutes,
        "seed": seed,
        "flip": flip,
        "device": device,
    }
    hows = [How(each, steps, scale) for each in samplers for scale in guidance]
    found = jobs.run(chosen, task, where, identity, minutes, hows, samples)
    spent = found["training"]
    say(f"{identity['name']}: {spent['steps']} steps, {spent['images']} images in {spent['seconds']:.1f} s of training")
    for name, numbers in found["samples"].items():
        say(f"  {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in numbers.items()))


def judge(
    samples: Path,
    data: Path,
    out: Path,
    label: str,
    minutes: float = 0.0,
    seed: int = 0,
    sampler: str = "2m",
    steps: int = 18,
    guidance: float = 1.5,
    count: int = 1000,
    classifier_steps: int = STEPS,
) -> None:
    """Measure samples that were made elsewhere; they enter the table under `label`.

    Args:
        samples: .npz of `images` [image, channel, row, column] in the data's own dtype (RGBA premultiplied) and `labels`; or
            the folder of a run of pixelpath, which is sampled.
        data: The data that they are compared with.
        out: Folder of all jobs.
        label: Name of the row.
        minutes: How long training took.
        seed: Its seed.
        sampler: Sampler of a run.
        steps: Steps of the sampler.
        guidance: Scale of classifier-free guidance.
        count: How many samples of a run to measure.
        classifier_steps: Steps of training the classifier.
    """
    torch.set_num_threads(1)
    name = re.sub(r"[^a-zA-Z0-9._=-]+", "_", f"{label} {minutes:g}min s{seed}")
    identity = {"name": name, "label": label, "minutes": minutes, "seed": seed}
    where = DataSet(data, out, classifier_steps)
    found = jobs.judge_given(where, samples, identity, How(sampler, steps, guidance), count)
    for made, numbers in found["samples"].items():
        say(f"{made}: " + ", ".join(f"{key} {value:.4g}" for key, value in numbers.items()))


def by_level(
    networks: tuple[Path, ...], data: Path, out: Path, system: str = "edm-small", change: Changes = (), count: int = 384
) -> None:
    """Print a row of a table for each network: its mean squared error per value at noise levels, on held-out images.

    Args:
        networks: Folders of jobs, or of runs of pixelpath.
        data: The data that they were trained on.
        out: Folder of all jobs.
        system: What trained jobs that hold no run: edm-small or edm-large.
        change: A change NAME=VALUE of that system; may be repeated.
        count: Held-out images.
    """
    torch.set_num_threads(1)
    where, other = DataSet(data, out), changed(_other(system), change)
    say("| network | " + " | ".join(f"{sigma:g}" for sigma in SIGMAS) + " |")
    say("|---" * (1 + len(SIGMAS)) + "|")
    for folder in networks:
        found = errors(estimate_of(folder, where, other), where, count)
        say(f"| {folder.name} | " + " | ".join(f"{value:.3g}" for value in found) + " |")


def show(out: Path, data: tuple[Path, ...] = ()) -> None:
    """Print one Markdown table for each data set; draw OUT/NAME.png for each of `data`.

    Args:
        out: Folder of all jobs.
        data: The data sets to draw samples of.
    """
    for folder in sorted({file.parent.parent for file in out.glob(f"*/*/{jobs.RESULT}")}):
        if any(table.rows_of(folder)):
            say(table.markdown(folder))
    for path in data:
        where = DataSet(path, out)
        table.picture(where.folder, out / f"{path.stem}.png", lambda count, where=where: _real(where, count))


def _real(where: DataSet, count: int) -> object:
    images, labels = some(where.data, "held_out", 1000)
    return table.in_turn(images.numpy(), labels.numpy(), count)


def _other(name: str) -> System:
    if name not in OTHERS:
        raise UserError(f"There is no system {name}: choose ours, {', '.join(OTHERS)}.", setting="system")
    return OTHERS[name]


def say(words: str) -> None:
    """A line on the terminal."""
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        tyro.extras.subcommand_cli_from_dict({"run": run, "judge": judge, "errors": by_level, "table": show}, description=__doc__)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
