"""Models that come with pixelpath: folders of runs inside the package, which are read and never written to.

A *bundled* run holds what sampling needs (settings, normaliser, the EMA of the weights as float16, how it was tuned) and a *card*
that says of what data it was made, at what cost, and how good it is. Neither optimizer nor student are in it.
"""

from __future__ import annotations

from pathlib import Path

from pixelpath.errors import UserError

BUNDLED = Path(__file__).resolve().parents[2] / "bundled"
CARD = "card.json"
DIGITS = "digits"  # the name of data: images that come with scikit-learn


def bundled_names() -> tuple[str, ...]:
    """The names of the models that come with pixelpath."""
    return tuple(sorted(path.name for path in BUNDLED.glob("*") if (path / CARD).is_file()))


def located(path: Path | str) -> Path:
    """The folder of the bundled model where `path` is its name and no run lies there; any other path as it is.

    A run of that name in the working directory comes first, which is said.
    """
    from pixelpath.log import say  # here, as the command line knows the names before torch is imported
    from pixelpath.runs.folder import FIT, holds_run

    path = Path(path)
    if str(path) not in bundled_names():
        return path
    if holds_run(path) or (path / FIT).exists():
        say(f"{path} is the run in the working directory, not the bundled model, which is {BUNDLED / path}.")
        return path
    return BUNDLED / path


def is_bundled(path: Path) -> bool:
    """Whether a path lies among the bundled models."""
    return path.resolve().is_relative_to(BUNDLED)


def beside(run: Path, what: str) -> Path:
    """Where what is made of a run is kept: RUN/WHAT, of a bundled model NAME-WHAT in the working directory."""
    return Path(f"{run.name}-{what}") if is_bundled(run) else run / what


def check_writable(run: Path) -> None:
    """UserError for a bundled model: what would write into its folder needs a copy of it."""
    if is_bundled(run):
        raise UserError(
            f"{run.name} comes with pixelpath and is only read: copy its folder ({run}) to one of your own, and name that.",
            setting="run",
        )
