"""An audit: what data hold, what is wrong with them, and what training on them would cost on this machine.

The data are read in one pass and never changed. Findings are conclusions, see `audit_findings`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pixelpath.atomic import write_json
from pixelpath.data.formats.reading import BrokenFileError
from pixelpath.data.opening import kind_of, open_place, open_split
from pixelpath.data.parts import parts
from pixelpath.data.settings import DataSettings, fitting, typical
from pixelpath.data.sources import Source, describe
from pixelpath.data.tiles import Stacked
from pixelpath.errors import MissingError, UserError
from pixelpath.evaluation.alike import NEAR, Pair
from pixelpath.evaluation.inspection import Finding, Inspection, Part, inspect
from pixelpath.log import say
from pixelpath.recipes.recipe import Recipe
from pixelpath.reports.audit import summary, write_audit
from pixelpath.reports.audit_plots import save_pictures
from pixelpath.reports.page import duration
from pixelpath.runs.audit_findings import costs, device_memory, findings, ordered, status, unfit
from pixelpath.runs.audit_recipes import recipe_of, recipes_for, train_commands
from pixelpath.runs.cost import Cost, measured_apart
from pixelpath.runs.devices import choose_device

SIZES_NAMED = 12  # sizes of images that a finding names


@dataclass(frozen=True)
class AuditOptions:
    """How thorough an audit is, and which training it prepares."""

    recipe: str | None = None
    """Recipe (a name, or recipe.json of a run) whose cost is estimated and whose patch must fit. Default: one for the data."""
    fast: bool = False
    """Inspect about 2,000 evenly spaced images instead of every image."""
    turned: bool = False
    """Look for mirrored and rotated copies too."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps. Default: the best one here."""
    costs: bool = True
    """Measure what training would cost here, in some real steps."""


DEFAULTS = AuditOptions()


@dataclass(frozen=True, eq=False, repr=False)
class Audit:
    """What an audit found, the worst first: prints as text, shows as HTML in a notebook, and writes itself into a folder.

    `inspection` holds the measurements, None for data that cannot be read together; `sizes` then counts images by their size.
    `recipes` are those that suit the data (or were named), `costs` what each would cost here.
    """

    settings: DataSettings
    findings: tuple[Finding, ...]
    inspection: Inspection | None = None
    training: int = 0
    held_out: int = 0
    recipes: tuple[Recipe, ...] = ()
    costs: tuple[Cost, ...] = ()
    sizes: tuple[tuple[str, int], ...] = ()

    @property
    def status(self) -> int:
        """0 if nothing is wrong, 1 with a warning, 3 with a problem that would stop or spoil training."""
        return status(self.findings)

    @property
    def commands(self) -> list[str]:
        """The commands that train the recipes; none for images in memory."""
        broken = self.settings.skip_broken or any(finding.about == "broken" for finding in self.findings)
        return train_commands(self.recipes, replace(self.settings, skip_broken=broken)) if self.settings.path else []

    def __str__(self) -> str:
        lines = [str(finding) for finding in self.findings] or ["Nothing is wrong."]
        return "\n".join([*lines, *map(_cost_line, self.costs), *(f"  {words}" for words in self.commands)])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return summary(self.document())

    def write(self, folder: Path | str) -> Path:
        """Write audit.json, pictures and report.html into the folder; the page."""
        folder, document = Path(folder), self.document()
        folder.mkdir(parents=True, exist_ok=True)
        pictures = [] if self.inspection is None else save_pictures(folder, self.inspection)
        write_json(folder / "audit.json", _plain(document | {"pictures": pictures}))
        return write_audit(folder, document, pictures)

    def document(self) -> dict[str, Any]:
        """All numbers, as audit.json keeps them."""
        document = {
            "path": str(self.settings.path or ""),
            "settings": _plain(asdict(self.settings)),
            "status": self.status,
            "findings": [asdict(finding) for finding in self.findings],
            "sizes": dict(self.sizes),
        }
        if self.inspection is None:
            return document
        return {
            **document,
            "training": self.training,
            "held_out": self.held_out,
            **_measurements(self.inspection),
            "recipes": [{"name": each.name, "patch": each.patch, "size": asdict(each.size)} for each in self.recipes],
            "commands": self.commands,
            "costs": [
                asdict(cost) | {"images_per_second": cost.images_per_second, "whole_seconds": cost.whole, "disk": cost.disk}
                for cost in self.costs
            ],
        }


def audit(settings: DataSettings, options: AuditOptions = DEFAULTS) -> Audit:
    """Look at the data that the settings name, and estimate the cost of training on them.

    Data that cannot be read together are a finding. Raises UserError for a path that cannot be read at all, and for an unknown
    recipe.
    """
    if settings.path is None:
        raise UserError("There are no data to look at: give a path.", setting="data.path")
    place, _ = parts(settings.path)
    kind_of(place)  # data that cannot be read at all are a mistake in the call, not a finding
    if options.recipe is not None:
        recipe_of(options.recipe)
    choose_device(options.device)
    found: list[Finding] = []
    try:
        training, held_out, settings = open_together(settings, found)
    except MissingError:
        raise
    except ValueError as error:
        return _unreadable(settings, [*found, Finding("problem", "reading", str(error).rstrip("."))])
    result = audit_sources(training, held_out, settings, options, found)
    return (
        replace(result, sizes=tuple(sizes_of(replace(settings, skip_broken=True))))
        if any(finding.where for finding in found)
        else result
    )


def audit_sources(
    training: Source,
    held_out: Source,
    settings: DataSettings,
    options: AuditOptions = DEFAULTS,
    before: Sequence[Finding] = (),
) -> Audit:
    """Look at images that are open already, as the settings say; those that no path names have no cost estimate.

    `before` was found when they were opened.
    """
    device = choose_device(options.device)
    say(f"Looking at {describe(training)} Held out: {len(held_out)} images.")
    own = settings.held_out is not None or (settings.path is not None and parts(settings.path)[1] is not None)
    seen = inspect(training, held_out, settings, own_split=own, fast=options.fast, turned=options.turned)
    recipes = recipes_for(seen, options.recipe, len(training), device)
    found = [*before, *findings(seen, flipped=bool(recipes) and all(recipe.flip for recipe in recipes))]
    for recipe in recipes:
        found += unfit(*training.shape[1:], recipe, settings)
    measured: list[Cost] = []
    if options.costs and settings.path is not None and not any(finding.level == "problem" for finding in found):
        found += _measure(recipes, device, measured)
    return Audit(settings, tuple(ordered(found)), seen, len(training), len(held_out), recipes, tuple(measured))


def sizes_of(settings: DataSettings) -> list[tuple[str, int]]:
    """The sizes of images that cannot be read together, with their counts; empty where they cannot be told."""
    assert settings.path is not None
    plain = replace(settings, tile=(1, 1), stride=(), resize=None, alpha="straight", skip_broken=settings.skip_broken)
    try:
        source = open_place(parts(settings.path)[0], plain, None)
    except ValueError as error:
        mixed = isinstance(error, UserError) and error.setting == "data.channels" and settings.channels is None
        return sizes_of(replace(settings, channels=3)) if mixed else []
    if not isinstance(source, Stacked):
        return []
    counts: Counter[tuple[int, int]] = Counter()
    for stack in source.stacks:
        counts[stack.shape[2], stack.shape[3]] += stack.shape[0]
    return [(f"{rows}x{columns}", count) for (rows, columns), count in counts.most_common()]


def open_together(settings: DataSettings, found: list[Finding]) -> tuple[Source, Source, DataSettings]:
    """Both sides, and the settings with which they can be read together; what others than the given ones are for is `found`.

    Files that cannot be decoded are left out here, and become a finding of the inspection.
    """
    asked = settings
    while True:
        try:
            training, held_out = open_split(settings)
        except BrokenFileError:
            if settings.skip_broken:
                raise
            settings = replace(settings, skip_broken=True)
        except UserError as error:
            repaired = _repaired(settings, error)
            if repaired is None:
                raise
            name = "channels" if repaired.channels != settings.channels else "resize"
            value = " ".join(map(str, repaired.resize or ())) if name == "resize" else str(repaired.channels)
            what, where = str(error).rstrip("."), _counted(settings) if name == "resize" else ()
            found.append(Finding("problem", "reading", what, where, f"What follows was found with `data.{name}` {value}."))
            settings = repaired
        else:
            return training, held_out, replace(settings, skip_broken=asked.skip_broken)


def _repaired(settings: DataSettings, error: UserError) -> DataSettings | None:
    """The settings that read images of mixed colours or sizes; None where the error is of another kind."""
    if error.setting == "data.channels" and settings.channels is None:
        return replace(settings, channels=3)
    sizes = (
        sizes_of(settings)
        if error.setting in ("data.tile", "data.resize") and not settings.tile and settings.resize is None
        else []
    )
    if len(sizes) < 2:
        return None
    rows, columns = typical({(int(rows), int(columns)): count for size, count in sizes for rows, columns in [size.split("x")]})
    return replace(settings, resize=fitting(rows, columns))


def _counted(settings: DataSettings) -> tuple[str, ...]:
    """The sizes of images that have several, the most frequent first."""
    return tuple(f"{size}: {count}" for size, count in sizes_of(settings)[:SIZES_NAMED])


def _unreadable(settings: DataSettings, found: list[Finding]) -> Audit:
    """The audit of data that cannot be read together."""
    sizes = sizes_of(settings)
    if len(sizes) > 1:
        shown = tuple(f"{size}: {count}" for size, count in sizes[:SIZES_NAMED])
        found.append(Finding("note", "sizes", f"there are images of {len(sizes)} sizes", shown))
    return Audit(settings, tuple(found), sizes=tuple(sizes))


def _measure(recipes: tuple[Recipe, ...], device: torch.device, measured: list[Cost]) -> list[Finding]:
    """Measure the cost of every recipe; findings on it, or on why there is none."""
    for recipe in recipes:
        say(f"Trying some steps of {recipe.name} ...")
        try:
            measured.append(measured_apart(recipe, str(device)))
        except ValueError as error:
            return [Finding("problem", "training", f"{recipe.name} would stop: {str(error).rstrip('.')}")]
    return costs(measured, device_memory(device), Path())


def _measurements(seen: Inspection) -> dict[str, Any]:
    """The measurements, JSON-ready."""
    source, inside, trial = seen.training.source, seen.median_differences, seen.normaliser
    metadata = source.metadata.to_json()
    metadata["axes"] = [axis.name for axis in source.metadata.axes]
    held_out = seen.held_out
    return {
        "left_out": seen.left_out,
        "looked_at": sum(len(part.source) for _, part in seen.parts),
        "shape": list(source.shape),
        "dtype": source.dtype.name,
        "metadata": metadata,
        "channels": [asdict(channel) for channel in seen.training.found.channels],
        "held_out_channels": [] if held_out is None else [asdict(each) for each in held_out.found.channels],
        "copied_channels": [list(pair) for pair in seen.training.found.copies],
        "duplicates": [[seen.training.name(number) for number in group] for group in seen.duplicates],
        "near_duplicates": [_pair(pair, seen.training, seen.training) for pair in seen.near_duplicates],
        "leaked": [] if held_out is None else [[held_out.name(a), seen.training.name(b)] for a, b in seen.leaked],
        "near_leaked": [] if held_out is None else [_pair(pair, held_out, seen.training) for pair in seen.near_leaked],
        "near_below": NEAR,
        "median_difference": {"training": inside[0], "held_out": inside[1]},
        "mirrored": {"ratio": seen.mirrored, "belongs": seen.mirrors},
        "order": asdict(seen.order) | {"matters": seen.order.matters},
        "classes": seen.class_counts,
        "normaliser": {"why": (), **(asdict(trial.proposal) if trial.proposal else {}), "integers_exact": trial.exact},
    }


def _pair(pair: Pair, above: Part, below: Part) -> dict[str, Any]:
    names = {"first": above.name(pair.first), "second": below.name(pair.second)}
    return names | {"view": pair.view, "difference": pair.difference}


def _cost_line(cost: Cost) -> str:
    return (
        f"{cost.name}: {cost.tokens} tokens an image, {cost.parameters / 1e6:.2f} M parameters; on {cost.device} "
        f"{cost.images_per_second:.0f} images/s, all {cost.steps:,} steps {duration(cost.whole)}, peak memory "
        f"{cost.memory / 2**30:.2f} GiB, checkpoints {cost.disk / 2**30:.2g} GiB."
    )


def _plain(value: Any) -> Any:
    """JSON-ready: paths and numbers that are not finite as words."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value
