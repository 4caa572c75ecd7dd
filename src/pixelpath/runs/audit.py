"""The command `pixelpath audit`: what data hold, what is wrong with them, and what training on them would cost here.

A *finding* is one sentence with its level, see `audit_findings`. The data are read in one pass and never changed.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from pixelpath.data import sources
from pixelpath.data.formats.pictures import BrokenImageError
from pixelpath.data.formats.stacks import Stacked
from pixelpath.data.normalise.curves import Normalisation
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.normalise.propose import Proposal, propose
from pixelpath.data.opening import open_place, open_split
from pixelpath.data.places import kind_of, parts
from pixelpath.data.settings import DataSettings
from pixelpath.data.sources import Source, Subset, evenly, subset
from pixelpath.evaluation import alike
from pixelpath.evaluation.survey import missing_in, survey
from pixelpath.log import say
from pixelpath.recipes.recipe import Recipe, from_json
from pixelpath.recipes.rows import table
from pixelpath.recipes.sizes import SIZES
from pixelpath.reports.audit import write_audit, write_stopped
from pixelpath.reports.page import duration
from pixelpath.runs.audit_findings import (
    Finding,
    Seen,
    Side,
    costs,
    device_memory,
    findings,
    option,
    ordered,
    status,
    unfit,
)
from pixelpath.runs.cost import Cost, measured_apart
from pixelpath.runs.devices import choose_device
from pixelpath.runs.sample import free_folder

SIGNED, SIGNED_HELD_OUT = 16_000, 4_000  # images among which near-duplicates are looked for, at most
FAST, FAST_HELD_OUT = 2000, 500  # images that --fast looks at
CONFIRMED = 2000  # pairs whose pixels are compared, at most
TRIED = 512  # images that go through the proposed normaliser and back
TOKENS, FEWEST, MOST, COARSEST = 64, 4, 256, 32  # tokens of an image that are aimed at, and accepted; the largest patch
SMALL_SIDE, MIDDLE_SIDE = 16, 45  # sides of images up to which the rows digits and small-32 are meant
NANO, TINY = 5000, 50_000  # training images up to which a size is enough


@dataclass(frozen=True)
class Plan:
    """The rows that are proposed, or were named; `named` if so."""

    rows: tuple[Recipe, ...]
    named: bool


def audit(
    path: Annotated[Path, tyro.conf.Positional],
    data: DataSettings = DataSettings(),  # noqa: B008 (frozen)
    recipe: str | None = None,
    out: Path | None = None,
    fast: bool = False,
    turned: bool = False,
    device: str | None = None,
) -> None:
    """Look at data before training: what they hold, what is wrong with them, and what training would cost on this machine.

    The exit status is 0 if nothing is wrong, 1 with a warning, 3 with a problem that would stop or spoil training.

    Args:
        path: What `train --data` takes: a folder of images, a file of arrays, FILE::VARIABLE.
        data: How the data are read; the same options as of `train`.
        recipe: Row (or recipe.json of a run) whose cost is estimated and whose patch must fit; else one that suits the data.
        out: New folder for audit.json, report.html and pictures; audit/NAME if not given, with a number if that is taken.
        fast: Look at some 2,000 images, in evenly spread runs, instead of at all.
        turned: Look for mirrored and turned copies too.
        device: cpu, cuda, cuda:1, mps; chosen by itself if not given.
    """
    settings = replace(data, path=path)
    place, test = parts(path)
    kind_of(place)  # what cannot be read at all is a mistake in the command, not a finding
    chosen = choose_device(device)
    folder = _folder(path, out)
    try:
        training, held_out = _open(settings)
    except ValueError as error:
        _stopped(settings, str(error), folder)
        return
    say(f"Looking at {sources.describe(training)} Held out: {len(held_out)} images.")
    seen = look(settings, training, held_out, own=test is not None or data.held_out is not None, fast=fast, turned=turned)
    plan = plan_of(recipe, settings, training, chosen, seen.proposal)
    found = findings(seen)
    for row in plan.rows:
        found += unfit(*training.shape[1:], row.patch, row.name)
    measured: list[Cost] = []
    if not any(finding.level == "problem" for finding in found):
        found += _estimate(plan, chosen, folder, measured)
    found = ordered(found)
    written = write_audit(folder, seen, plan.rows, measured, found, len(training), len(held_out), train_words(plan, settings))
    _tell(found, plan, measured, settings, written)


def look(
    settings: DataSettings, training: Source, held_out: Source, *, own: bool, fast: bool = False, turned: bool = False
) -> Seen:
    """Everything that is measured of data, in one pass over them."""
    full = training
    if fast:
        training = subset(training, alike.chosen_runs(len(training), FAST))
        held_out = subset(held_out, alike.chosen_runs(len(held_out), FAST_HELD_OUT))
    ours = _side(training, settings, SIGNED)
    theirs = _side(held_out, settings, SIGNED_HELD_OUT) if len(held_out) else None
    views = alike.views_of(*training.shape[1:], turned)
    among, places = alike.nearest(ours.found.signatures, views=views), ours.found.signed
    scale = np.array([channel.std or 1.0 for channel in ours.found.channels])
    near = alike.confirmed(among, lambda n: _native(ours, n), lambda n: _native(ours, n), scale, CONFIRMED, within=True)
    numbers = np.array([training.label(int(number)) for number in places], np.int64)
    order = alike.in_order(alike.nearest(ours.found.signatures) if turned else among, places, numbers)
    shared: list[tuple[int, int]] = []
    across, leaked = None, []
    if theirs is not None:
        shared = alike.shared(theirs.found.digests, ours.found.digests, theirs.found.even | _unread(theirs))
        across = alike.nearest(theirs.found.signatures, ours.found.signatures, views)
        leaked = alike.confirmed(across, lambda n: _native(theirs, n), lambda n: _native(ours, n), scale, CONFIRMED, within=False)
        leaked = [alike.Pair(int(theirs.found.signed[p.first]), int(places[p.second]), p.view, p.difference) for p in leaked]
        known = {first for first, _ in shared}
        leaked = [pair for pair in leaked if pair.first not in known]
    digests = ours.found.digests
    near = [alike.Pair(int(places[p.first]), int(places[p.second]), p.view, p.difference) for p in near]
    proposal, exact, refused = _normaliser(full, settings)
    return Seen(
        settings=settings,
        training=ours,
        held_out=theirs,
        own=own,
        left_out=_left_out(full, held_out) if not fast else 0,
        twice=alike.groups_of(digests, ours.found.even | _unread(ours)),
        shared=shared,
        near=[pair for pair in near if digests[pair.first] != digests[pair.second]],
        leaked=leaked,
        among=among,
        across=across,
        order=order,
        proposal=proposal,
        exact=exact,
        refused=refused,
    )


def plan_of(
    name: str | None, settings: DataSettings, training: Source, device: torch.device, proposal: Proposal | None = None
) -> Plan:
    """The rows called, with the encoder that stage two begins with; else `proposed` ones. ValueError for an unknown name."""
    if name is None:
        how = settings.normaliser
        how = proposal.how if proposal is not None and how == Normalisation() else how
        return Plan(proposed(replace(settings, normaliser=how), training.shape, len(training), device), named=False)
    rows = table()
    if name.endswith(".json"):
        row = from_json(Path(name).read_text(encoding="utf-8"))
    elif name in rows:
        row = rows[name]
    else:
        raise ValueError(f"There is no recipe {name}: choose from {', '.join(rows)}, or give the recipe.json of a run.")
    first = rows.get(f"{row.name.split('-diffusion')[0].split('-onestep')[0]}-encoder") if name in rows else None
    both = (row,) if row.is_encoder or first is None else (first, row)
    return Plan(tuple(replace(each, data=_merged(each.data, settings)) for each in both), named=True)


def proposed(settings: DataSettings, shape: tuple[int, int, int], count: int, device: torch.device) -> tuple[Recipe, ...]:
    """Both stages of a small row that suits so many images of this shape, on a CPU the one stage that is done within the hour.

    The row is the one made for the nearest size of images. Its patch stays if it divides the sides into 4 to 256 tokens; else it
    is the one of at most 32 pixels whose tokens are nearest to 64. The size is nano on a CPU and for up to 5,000 training images,
    tiny for up to 50,000, else the row's own (rules of thumb).
    """
    _, rows, columns = shape
    side = math.sqrt(rows * columns)
    family = "digits" if side <= SMALL_SIDE else "small-32" if side <= MIDDLE_SIDE else "small-64"
    names = [f"{family}-encoder", f"{family}-diffusion"]
    if device.type == "cpu" and family != "digits":
        names = [f"cpu-{family.removeprefix('small-')}-diffusion"]
    found = [table()[name] for name in names]
    patch = found[0].patch
    if rows % patch or columns % patch or not FEWEST <= rows * columns / patch**2 <= MOST:
        common = math.gcd(rows, columns)
        dividing = [side for side in range(1, min(common, COARSEST) + 1) if common % side == 0]
        patch = min(dividing, key=lambda side: abs(math.log(rows * columns / side**2 / TOKENS)))
    size = found[0].size
    if device.type == "cpu" or count <= NANO:
        size = SIZES["nano"]
    elif count <= TINY:
        size = SIZES["tiny"]
    return tuple(replace(row, patch=patch, size=size, data=settings) for row in found)


def train_words(plan: Plan, settings: DataSettings) -> list[str]:
    """The commands that train the rows."""
    own = table()
    found = []
    for number, row in enumerate(plan.rows):
        words = ["pixelpath train", row.name, "--data", str(settings.path)]
        known = own.get(row.name)
        if known is not None and known.patch != row.patch:
            words += ["--patch", str(row.patch)]
        name = next((name for name, size in SIZES.items() if size == row.size), None)
        if known is not None and known.size != row.size and name is not None:
            words += ["--size", name]
        words += _options(settings)
        if row.data.normaliser != settings.normaliser:
            words += [option(row.data.normaliser)]
        stage = "encoder" if row.is_encoder else "onestep" if row.is_one_step else "diffusion"
        words += ["--encoder runs/encoder"] if number else []
        found.append(" ".join([*words, "--out", f"runs/{stage}"]))
    return found


def sizes_of(settings: DataSettings) -> list[tuple[str, int]]:
    """The sizes of images that cannot be read together, with their counts; empty where they cannot be told."""
    assert settings.path is not None
    plain = replace(settings, tile=(1, 1), stride=(), resize=None, alpha="straight", skip_broken=settings.skip_broken)
    try:
        source = open_place(parts(settings.path)[0], plain, None)
    except ValueError:
        return []
    if not isinstance(source, Stacked):
        return []
    counts: Counter[tuple[int, int]] = Counter()
    for stack in source.stacks:
        counts[stack.shape[2], stack.shape[3]] += stack.shape[0]
    return [(f"{rows}x{columns}", count) for (rows, columns), count in counts.most_common()]


def _open(settings: DataSettings) -> tuple[Source, Source]:
    """Both sides; files that cannot be decoded are passed over here, and said."""
    try:
        return open_split(settings)
    except BrokenImageError:
        return open_split(replace(settings, skip_broken=True))


def _side(source: Source, settings: DataSettings, most: int) -> Side:
    return Side(source, survey(source, settings.workers, alike.chosen_runs(len(source), most)))


def _native(side: Side, place: int) -> np.ndarray:
    """The image of a signature by its place, as float where something is missing, which becomes NaN."""
    image = side.source.get(int(side.found.signed[place]))
    missing = missing_in(image[None], side.source.metadata.nodata)
    return image if missing is None else np.where(missing[0], np.nan, image.astype(np.float64))


def _unread(side: Side) -> np.ndarray:
    found = np.zeros(len(side.source), bool)
    found[list(side.found.unreadable)] = True
    return found


def _left_out(training: Source, held_out: Source) -> int:
    """Images of one source that its split put on neither side."""
    if isinstance(training, Subset) and isinstance(held_out, Subset) and training.source is held_out.source:
        return len(training.source) - len(training) - len(held_out)
    return 0


def _normaliser(source: Source, settings: DataSettings) -> tuple[Proposal | None, bool | None, str]:
    """What is proposed, whether integers come back exactly through it, and why it cannot be fitted if so; by some images."""
    few = subset(source, evenly(len(source), TRIED))
    try:
        proposal = propose(few, settings.workers)
        how = proposal.how if settings.normaliser in (Normalisation(), Normalisation("auto")) else settings.normaliser
        normaliser = Normaliser.fit(few, settings.workers, how, source.metadata.nodata)
        native = torch.from_numpy(sources.gather(few, range(len(few))))
        if source.dtype.kind not in "iu":
            return proposal, None, ""
        back, valid = normaliser.decode(normaliser.encode(native)), normaliser.valid(native)
        same = (back.to(torch.int64) == native.to(torch.int64)) | (False if valid is None else ~valid)
        return proposal, bool(same.all()), ""
    except ValueError as error:
        return None, None, str(error)


def _estimate(plan: Plan, device: torch.device, folder: Path, measured: list[Cost]) -> list[Finding]:
    """Measure the cost of every row; findings on it, or on why there is none."""
    for row in plan.rows:
        say(f"Trying some steps of {row.name} ...")
        try:
            measured.append(measured_apart(row, str(device)))
        except ValueError as error:
            return [Finding("problem", "training", f"{row.name} would stop: {str(error).rstrip('.')}")]
    return costs(measured, device_memory(device), folder)


def _stopped(settings: DataSettings, why: str, folder: Path) -> None:
    """Data that cannot be read together: say so with what can be said, and leave."""
    sizes = sizes_of(settings)
    found = [Finding("problem", "reading", why.rstrip("."))]
    if len(sizes) > 1:
        shown = tuple(f"{size}: {count}" for size, count in sizes[:12])
        found.append(Finding("note", "sizes", f"there are images of {len(sizes)} sizes", shown))
    written = write_stopped(folder, settings, found, sizes)
    for finding in found:
        say(finding.sentence())
    say(f"Report: {written}")
    sys.exit(status(found))


def _tell(found: list[Finding], plan: Plan, measured: list[Cost], settings: DataSettings, written: Path) -> None:
    """The summary in plain words; leaves with the exit status."""
    for finding in found:
        say(finding.sentence())
    if not found:
        say("Nothing is wrong.")
    for cost in measured:
        say(
            f"{cost.name}: {cost.tokens} tokens an image, {cost.parameters / 1e6:.2f} M parameters; on {cost.device} "
            f"{cost.images_per_second:.0f} images/s, all {cost.steps:,} steps {duration(cost.whole)}, peak memory "
            f"{cost.memory / 2**30:.2f} GiB, checkpoints {cost.disk / 2**30:.2g} GiB."
        )
    for words in train_words(plan, settings):
        say(f"  {words}")
    say(f"Report: {written}")
    if status(found):
        sys.exit(status(found))


def _folder(path: Path, out: Path | None) -> Path:
    """`out`, or audit/NAME with the first number from 2 on that is free."""
    if out is not None:
        return free_folder(out, out)
    name = Path(str(path).split("::")[0]).resolve().name + ("" if "::" not in str(path) else f"-{str(path).split('::')[1]}")
    base = Path("audit") / name.replace("/", "-")
    numbered = (base.with_name(f"{base.name}-{number}") for number in range(2, sys.maxsize))
    return base if not base.exists() else next(place for place in numbered if not place.exists())


def _merged(own: DataSettings, given: DataSettings) -> DataSettings:
    """The data settings of a row, with what was given in their stead."""
    plain = DataSettings()
    return replace(
        own, **{part.name: value for part in fields(own) if (value := vars(given)[part.name]) != vars(plain)[part.name]}
    )


def _options(settings: DataSettings) -> list[str]:
    """The data settings that were given, as options."""
    plain, found = DataSettings(), []
    for part in fields(settings):
        value: Any = vars(settings)[part.name]
        if part.name == "path" or value == vars(plain)[part.name]:
            continue
        if isinstance(value, Normalisation):
            found.append(option(value))
            continue
        name = f"--data.{part.name.replace('_', '-')}"
        words = (
            " ".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
        )
        found.append(name if value is True else f"{name} {words}")
    return found
