"""Mistakes of the user, as opposed to faults of the library.

A *setting* is what the user chose: a field of a recipe by its dotted path (`optimizer.lr`, `data.nodata`) or an argument of a
function. Sentences name settings in backticks; the command line spells these as its own options (`--optimizer.lr`).
"""

from __future__ import annotations


class UserError(ValueError):
    """One sentence that says what is wrong, where (file, index, setting) and what to do; `setting` is the one to change, if any.

    Examples:
        >>> str(UserError("`lr` must be positive, got 0: choose for example 1e-4.", setting="optimizer.lr"))
        '`lr` must be positive, got 0: choose for example 1e-4.'
    """

    def __init__(self, sentence: str, setting: str | None = None) -> None:
        super().__init__(sentence)
        self.setting = setting


class Stopped(KeyboardInterrupt):
    """A command stopped as it was asked to, and has said where it stands and how to go on."""


class MissingError(UserError, FileNotFoundError):
    """A UserError about a file or folder that is not there."""
