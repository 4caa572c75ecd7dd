"""What `fit` decides from the data: how they are read, and the recipe that suits them, each decision with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from pixelpath.data.parts import parts
from pixelpath.data.settings import DataSettings, fitting
from pixelpath.data.sources import Source, describe
from pixelpath.errors import UserError
from pixelpath.evaluation.inspection import Finding
from pixelpath.log import say
from pixelpath.recipes.recipe import Recipe
from pixelpath.runs.audit import Audit, AuditOptions, audit_sources, open_together

LARGEST = 64  # pixels of the shorter side: the largest images that the small recipes were made for
FEW, MORE_HELD_OUT = 2500, 0.2  # images, below which this share is held out: of less, distances would say little
SINGLE = 20  # images, up to which large ones are rather cut into tiles: a few scenes, not a collection
SLICED = ("dicom", "nifti")  # formats whose images are slices of a body: a tile of one shows nothing that has a name
STOPPING = ("dead", "not finite", "normaliser")  # what problems are about that no setting mends


@dataclass(frozen=True)
class Chosen:
    """What was decided: the recipe, its data settings inside; its data in a sentence; the reasons."""

    recipe: Recipe
    about: str
    training: int
    held_out: int
    classes: int
    reasons: tuple[str, ...]
    shape: tuple[int, int, int]


def _seen(settings: DataSettings, device: torch.device, *, fast: bool) -> tuple[Source, Source, DataSettings, Audit]:
    """Both sides, the settings with which they can be read together, and what an audit finds in them."""
    found: list[Finding] = []
    training, held_out, settings = open_together(settings, found)
    options = AuditOptions(fast=fast, device=str(device), costs=False)
    return training, held_out, settings, audit_sources(training, held_out, settings, options, found)


def chosen_for(asked: DataSettings, device: torch.device, *, fast: bool = True) -> Chosen:
    """How the data are read and trained on, where the settings leave it open; what was asked for stays.

    `fast` inspects about 2,000 images. Raises UserError for what cannot be trained on.
    """
    settings, reasons = read_as(asked)
    training, held_out, settings, audit = _seen(settings, device, fast=fast)
    mended = _mended(settings, audit.findings)
    if mended is not None:
        reasons.append(mended[1])
        training, held_out, settings, audit = _seen(mended[0], device, fast=fast)
    in_order = any(each.about == "series" and each.level == "warning" for each in audit.findings) and not training.classes
    _tell(audit.findings, in_order=in_order)
    recipe = audit.recipes[-1]
    settings = recipe.data
    if in_order:
        settings = replace(settings, held_out_by="order")
        training, held_out, settings = open_together(settings, [])
    reasons += list(_why(asked, replace(recipe, data=settings), audit.findings, reasons, in_order=in_order))
    count, classes = len(training), len(training.classes)
    shape = training.shape if settings.resize is None else (training.shape[0], *settings.resize)
    return Chosen(replace(recipe, data=settings), describe(training), count, len(held_out), classes, tuple(reasons), shape)


def _why(
    asked: DataSettings, recipe: Recipe, findings: Sequence[Finding], known: Sequence[str], *, in_order: bool
) -> Iterator[str]:
    """Why the recipe and its settings are not what was asked for, beyond the reasons that are known."""
    settings = recipe.data
    if settings.resize not in (None, asked.resize) and not any("resize" in reason for reason in known):
        yield f"no patch divides the images well: resized to {_sides(settings)} (`data.resize`)"
    if in_order:
        yield "neighbours in order are alike: the last images are held out (`data.held_out_by` order)"
    if recipe.flip:
        yield "mirrored images are as near to held-out ones as upright ones: half are mirrored in training (`flip`)"
    if settings.normaliser != asked.normaliser:
        told = (each.what for each in findings if each.about == "normaliser" and each.level == "warning")
        why = next(told, f"values are normalised by {settings.normaliser.kind}")
        yield f"{why[0].lower()}{why[1:]} (`data.normaliser`)"


def _tell(findings: Sequence[Finding], *, in_order: bool) -> None:
    """Say what was found, but for what is mended here: by the reading, by the recipe, or as the last images are held out.

    Raises UserError for what stops training.
    """
    mended = {"reading", "broken", "series", *(("leakage", "split") if in_order else ())}
    for finding in findings:
        if finding.level == "problem" and finding.about == "normaliser" and "exactly" in finding.what:
            say(str(finding))  # samples are rounded, which spoils no training
        elif finding.level == "problem" and finding.about in STOPPING:
            raise UserError(f"These data cannot be trained on: {str(finding).partition(': ')[2]}", setting="data")
        elif finding.level != "note" and finding.about not in mended and finding.about != "normaliser":
            say(str(finding))


def read_as(asked: DataSettings) -> tuple[DataSettings, list[str]]:
    """The settings by which the data are read, and why: images of one size that small recipes take, and alpha."""
    found: list[Finding] = []
    training, held_out, settings = open_together(asked, found)
    reasons = []
    if settings.channels != asked.channels:
        reasons.append(f"colours are mixed: all images become RGB (`data.channels` {settings.channels})")
    mixed, free = settings.resize != asked.resize, asked.resize is None and not asked.tile
    if free and (mixed or min(training.shape[1:]) > LARGEST):
        settings, reason = _smaller(training, settings, mixed=mixed)
        reasons.append(reason)
    if not settings.tile and len(training) + len(held_out) < FEW and _splits(settings):
        settings = replace(settings, held_out_share=MORE_HELD_OUT)
        reasons.append(f"images are few: {MORE_HELD_OUT:.0%} are held out (`data.held_out_share`)")
    if settings.alpha == "straight" and training.metadata.alpha == "straight" and training.dtype.kind == "u":
        settings = replace(settings, alpha="premultiplied")
        reasons.append("colours are multiplied by alpha, so that what cannot be seen has none (`data.alpha` premultiplied)")
    return settings, reasons


def _smaller(training: Source, settings: DataSettings, *, mixed: bool) -> tuple[DataSettings, str]:
    """Large images cut into tiles where they are a few scenes, and otherwise resized."""
    _, rows, columns = training.shape
    known = training.metadata
    if not mixed and not known.photographs and known.format not in SLICED and len(training) <= SINGLE:
        settings = replace(settings, tile=(LARGEST, LARGEST))
        return settings, f"images of {rows}x{columns} pixels are cut into tiles of {LARGEST}x{LARGEST} (`data.tile`)"
    scale = min(1.0, LARGEST / min(rows, columns))
    settings = replace(settings, resize=fitting(round(rows * scale), round(columns * scale)))
    what = "images of several sizes" if mixed else f"images of {rows}x{columns} pixels"
    return settings, f"{what} are resized to {_sides(settings)}, the shorter side first, then a centre crop (`data.resize`)"


def _splits(settings: DataSettings) -> bool:
    """Whether held-out images are split off by the usual share: the data have no test part, and nothing else was asked for."""
    assert settings.path is not None
    own = settings.held_out is not None or parts(settings.path)[1] is not None
    return not own and settings.held_out_share == DataSettings().held_out_share


def _mended(settings: DataSettings, findings: tuple[Finding, ...]) -> tuple[DataSettings, str] | None:
    """The settings that read what the audit could not take as it is, and why; None if nothing needs it."""
    problems = {finding.about: finding.what for finding in findings if finding.level == "problem"}
    if "broken" in problems and not settings.skip_broken:
        return replace(settings, skip_broken=True), f"{problems['broken']}: left out (`data.skip_broken`)"
    if " 0 infinite" in problems.get("not finite", "") and settings.nodata is None:
        return replace(settings, nodata=float("nan")), "NaN is taken as not measured (`data.nodata` nan)"
    return None


def _sides(settings: DataSettings) -> str:
    assert settings.resize is not None
    return "x".join(map(str, settings.resize))
