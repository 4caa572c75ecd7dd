"""What can be named on the command line, known without torch, so that a wrong name or path is answered at once.

names.json holds the options of every command and a line about every recipe. `python -m tests.names` writes it from the commands
and recipes themselves, and a test compares it with them.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

from pixelpath.data.addresses import Address, addressed
from pixelpath.errors import MissingError, UserError
from pixelpath.runs.sharing.bundled import DIGITS, bundled_names

FILE = Path(__file__).with_name("names.json")
HELP = {"-h", "--help", "--help-all"}
ORIGINS = ("--encoder", "--init-from")  # what only the first sitting of a run needs
EXISTING = {
    *("--data", "--data.path", "--data.held-out", "--data.conditions", "--data.cond-image", "--conditions", "--cond-image"),
    *("--checkpoint", "--guide-with", "--sampling.guide-with", "--start", "--sampling.start", "--generator", *ORIGINS),
    *("--inception", "--dinov2", "--held-out", "--fill-nodata", "--image", "--mask"),
}
RUNS = {
    "sample": slice(1),
    "edit": slice(1),
    "evaluate": slice(None),
    "probe": slice(1),
    "report": slice(1),
    "export": slice(1),
    "start": slice(1, 2),
    "tune": slice(1),
    "distill": slice(1),
    "studio": slice(None),
}
"""Which of the words before the first option name runs."""
OF_RUNS = {"run", "encoder", "init_from", "guide_with", "sampling.guide_with", "generator"}
"""Settings that may name a bundled model instead of a folder."""
OF_DIGITS = ("fit", "train")  # commands that know images by the name of those that come with scikit-learn


def spelled(sentence: str) -> str:
    """The sentence with every setting in backticks as the option that sets it: `data.nodata` becomes --data.nodata."""
    return re.sub(r"`([a-z][a-z0-9_.]*)`", lambda found: "--" + found[1].replace("_", "-"), sentence)


@dataclass(frozen=True)
class Row:
    """A line of the table of recipes. `kind` says which options it has, `pixels` is the side of the images that it is for."""

    kind: str
    pixels: int
    patch: int
    parameters: int
    steps: int
    batch_size: int


@cache
def _known() -> dict[str, Any]:
    return json.loads(FILE.read_text())


def recipes() -> dict[str, Row]:
    """Every recipe."""
    return {name: Row(*values) for name, values in _known()["recipes"].items()}


def options(command: str, recipe: str = "") -> list[str]:
    """The options of a command; those of `train` are its recipe's."""
    return _known()["kinds"][recipes()[recipe].kind] if recipe else _known()["commands"].get(command, [])


def find_recipe(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The recipe that the arguments of `train` name, and the arguments without its name.

    A recipe's name that follows an option is taken for that option's value if there is another. UserError if no recipe is named.
    """
    known = recipes()
    free = [place for place, word in enumerate(arguments) if word[:1] != "-" and not (place and arguments[place - 1][:1] == "-")]
    exact = [place for place in (*free, *range(len(arguments))) if arguments[place] in known]
    if exact:
        return arguments[exact[0]], [word for place, word in enumerate(arguments) if place != exact[0]]
    for place in free:
        if place == 0 or difflib.get_close_matches(arguments[place], known, 1, 0.4):
            raise _unknown_recipe(arguments[place])
    raise UserError("No recipe is named: give one, for example cpu-32-diffusion (pixelpath recipes lists all).", setting="recipe")


def _unknown_recipe(name: str) -> UserError:
    near = difflib.get_close_matches(name, recipes(), 3, 0.4)
    remedy = f"did you mean {', '.join(near)}?" if near else "check its spelling"
    return UserError(f"There is no recipe {name}: {remedy} (pixelpath recipes lists all).", setting="recipe")


def check(command: str, recipe: str, arguments: Sequence[str]) -> None:
    """UserError for an option that the command does not have, MissingError for data or a run that is not there."""
    named, full = options(command, recipe), "--help-all" if recipe else "--help"
    for name in (_option(word) for word in arguments if word.startswith("--")):
        if name not in named and name not in HELP:
            what = f"{command} {recipe}".rstrip()
            raise UserError(f"{what} has no option {name}: {_remedy(name, command, recipe)} (pixelpath {what} {full} lists all).")
    if not HELP.isdisjoint(arguments):
        return
    for path, setting, remedy in _paths(command, arguments):
        file = path.partition("::")[0]
        where = addressed(Path(file))
        bundled = (setting in OF_RUNS or command == "compare") and path in bundled_names()
        known = bundled or (command in OF_DIGITS and setting in ("path", "data") and path == DIGITS) or isinstance(where, Address)
        if file and not known and not where.exists():
            raise MissingError(f"{path} does not exist: {remedy}.", setting=setting)
    for option, value in _values(arguments):
        if option == "--recipe" and value not in recipes() and not os.path.exists(value):
            raise _unknown_recipe(value)


def _option(word: str) -> str:
    return word.partition("=")[0].replace("_", "-")


def _remedy(name: str, command: str, recipe: str) -> str:
    """What to do about an unknown option: the nearest ones, by their last part or as a whole, or whose it is."""
    known = options(command, recipe)
    part = name.removeprefix("--").rpartition(".")[2]
    near = [option for option in known if option.removeprefix("--").rpartition(".")[2] == part]
    near = near or difflib.get_close_matches(name, known, 3, 0.7)
    if near:
        return f"did you mean {', '.join(near[:3])}?"
    owners = [kind for kind, theirs in _known()["kinds"].items() if name in theirs] if recipe else []
    return f"it belongs to recipes of the kind {', '.join(owners)}" if owners else "check its spelling"


def _paths(command: str, arguments: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Every path that must be there, the setting that names it, and what to do if it is not."""
    free = list(takewhile(lambda word: not word.startswith("-"), arguments))
    for word in free[RUNS.get(command, slice(0))]:
        yield word, "run", "name the folder that pixelpath train wrote"
    for word in free[: {"audit": 1, "fit": 1, "import-official": 1, "compare": 2}.get(command, 0)]:
        yield word, "path", "check the path"
    values = _values(arguments)
    begun = any(option == "--out" and Path(value, "recipe.json").exists() for option, value in values)
    for option, value in values:
        if option in EXISTING and value != "None" and not value.startswith("--") and not (begun and option in ORIGINS):
            setting = option.removeprefix("--").replace("-", "_")
            yield value, setting, f"check the path that `{setting}` names"


def value_of(option: str, arguments: Sequence[str]) -> str:
    """The value of an option, empty if it is not given."""
    return dict(_values(arguments)).get(option, "")


def _values(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Every option with its first value, or with the word that follows it."""
    pairs = [(word, after) for word, after in pairwise([*arguments, ""]) if word.startswith("--")]
    return [(_option(word), word.partition("=")[2] or after) for word, after in pairs]
