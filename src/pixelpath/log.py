"""What the library tells its user while it works: sentences, on the logger "pixelpath", from the main process alone.

Nothing is printed unless somebody asks: `shown` prints while it is open, as the command line and `progress=True` do. *Progress*
is how much of a task is done and how long the rest will take: a bar on a terminal, elsewhere a line now and then.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, NoReturn, TypeVar

from pixelpath import processes

if TYPE_CHECKING:
    from tqdm import tqdm

LOGGER = logging.getLogger("pixelpath")
LOGGER.addHandler(logging.NullHandler())
PAUSE = 30.0  # seconds between lines of progress where there is no terminal, as of training
NAMED = 24  # letters of a task's name beside its bar, so that both fit 60 columns

BAR = "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}, {remaining} left"

Advance = Callable[[int], None]
"""Says that so many more parts of a task are done."""
Item = TypeVar("Item")


def say(sentence: str) -> None:
    """Tell the user one sentence."""
    if processes.rank() == 0:
        LOGGER.info(sentence)


class _Printer(logging.Handler):
    """Writes every sentence, spelled by a function, as a line of standard error: of what that is now, not when it was made."""

    def __init__(self, spelled: Callable[[str], str]) -> None:
        super().__init__(logging.INFO)
        self.spelled = spelled

        self.task: _Task | None = None

    def emit(self, record: logging.LogRecord) -> None:
        bar = None if self.task is None else self.task.bar
        if bar is not None:
            bar.clear()
        sys.stderr.write(f"{self.spelled(record.getMessage())}\n")
        sys.stderr.flush()
        if bar is not None:
            bar.refresh()


def is_shown() -> bool:
    """Whether sentences are printed now."""
    return _printer() is not None


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


@contextmanager
def hushed() -> Iterator[None]:
    """While open, no sentence is told: for what has been told before."""
    level = LOGGER.level
    LOGGER.setLevel(logging.WARNING)
    try:
        yield
    finally:
        LOGGER.setLevel(level)


def telling(on: bool) -> AbstractContextManager[None]:
    """`shown` if `on`; else nothing changes."""
    return shown() if on else nullcontext()


@contextmanager
def progress(task: str, total: int) -> Iterator[Advance]:
    """While open, the task of `total` parts shows its progress on standard error, if sentences are printed.

    Call what it yields with the number of parts just done. On a terminal it is a bar, elsewhere a line every half minute.
    Within a task that is open, nothing is shown.
    """
    printer = _printer()
    if printer is None or printer.task is not None or processes.rank() != 0 or total < 1:
        yield lambda parts: None
        return
    printer.task = _Task(task, total)
    try:
        yield printer.task.advance
    except KeyboardInterrupt:
        say(f"Stopped at {task}: {printer.task.done} of {total} done.")
        raise
    finally:
        printer.task.close()
        printer.task = None


def followed(items: Iterable[Item], task: str, total: int) -> Iterator[Item]:
    """The items, of which there are `total`, with progress: an item is done when the next one is asked for."""
    with progress(task, total) as advance:
        for item in items:
            yield item
            advance(1)


class _Task:
    """A task under way, on the stream that standard error is when it begins."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.stream = name, total, sys.stderr
        self.done, self.began = 0, time.monotonic()
        self.said = self.began
        self.bar: tqdm[NoReturn] | None = None
        if self.stream.isatty():
            from tqdm import tqdm

            short = name if len(name) <= NAMED else f"{name[: NAMED - 1]}\N{HORIZONTAL ELLIPSIS}"
            self.bar = tqdm(total=total, desc=short, file=self.stream, dynamic_ncols=True, leave=False, bar_format=BAR)

    def advance(self, parts: int) -> None:
        """So many more parts are done."""
        self.done += parts
        if self.bar is not None:
            self.bar.update(parts)
            return
        now = time.monotonic()
        if now - self.said < PAUSE or self.done == 0:
            return
        left = (self.total - self.done) * (now - self.began) / self.done
        self.stream.write(f"{self.name}: {self.done} of {self.total}, {_interval(left)} left\n")
        self.stream.flush()
        self.said = now

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()


def _printer() -> _Printer | None:
    return next((handler for handler in LOGGER.handlers if isinstance(handler, _Printer)), None)


def _interval(seconds: float) -> str:
    """Minutes and seconds, and hours if there are any, as in 03:20."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
