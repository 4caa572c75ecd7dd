"""What the library tells its user while it works: sentences, on the logger "pixelpath", from the main process alone.

Nothing is printed unless somebody asks: `shown` prints while it is open, as the command line and `progress=True` do.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pixelpath import processes

LOGGER = logging.getLogger("pixelpath")
LOGGER.addHandler(logging.NullHandler())


def say(sentence: str) -> None:
    """Tell the user one sentence."""
    if processes.rank() == 0:
        LOGGER.info(sentence)


class _Printer(logging.Handler):
    """Writes every sentence, spelled by a function, as a line of standard error: of what that is now, not when it was made."""

    def __init__(self, spelled: Callable[[str], str]) -> None:
        super().__init__(logging.INFO)
        self.spelled = spelled

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{self.spelled(record.getMessage())}\n")
        sys.stderr.flush()


def is_shown() -> bool:
    """Whether sentences are printed now."""
    return any(isinstance(handler, _Printer) for handler in LOGGER.handlers)


@contextmanager
def shown(spelled: Callable[[str], str] = str) -> Iterator[None]:
    """While open, sentences are printed on standard error; within another one that is open, nothing changes."""
    if is_shown():
        yield
        return
    printer, level = _Printer(spelled), LOGGER.level
    LOGGER.addHandler(printer)
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOGGER.removeHandler(printer)
        LOGGER.setLevel(level)
