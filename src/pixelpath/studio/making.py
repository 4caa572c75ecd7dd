"""Images made for the studio: one job after the other, in a thread of their own, told as they are made.

A *job* is what the page asked for. *Events* are JSON-ready dictionaries that everybody who listens gets: items as they are made,
how far a job is, that it is done, or what is wrong with it.
"""

from __future__ import annotations

import csv
import itertools
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pixelpath.errors import UserError
from pixelpath.runs.run import Run
from pixelpath.runs.sample import Samples
from pixelpath.sampling.sampler import Sampling
from pixelpath.studio.gallery import Gallery, Item

AT_ONCE = 4  # images that are told together
MOST = 1000  # images of a job

Kind = Literal["sample", "vary", "inpaint", "between"]
Event = dict[str, Any]
Made = tuple[Samples, list[dict[str, Any]]]


@dataclass(frozen=True)
class Job:
    """What was asked for. `of` are the items to edit; `numbers` are what a run with a table is asked for, by column."""

    kind: Kind
    count: int = 8
    seed: int = 0
    classes: tuple[str, ...] = ()
    numbers: Mapping[str, str] = field(default_factory=dict)
    guidance: float | None = None
    nfe: int | None = None
    strength: float = 0.5
    mask: str = ""
    of: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, asked: Mapping[str, Any]) -> Job:
        """The job of a JSON object; UserError for what is no job."""
        if asked.get("kind") not in _MAKERS:
            raise UserError(f"There is no edit {asked.get('kind')}: choose from {', '.join(_MAKERS)}.", "kind")
        try:
            job = cls(
                kind=asked["kind"],
                count=int(asked.get("count") or 8),
                seed=int(asked.get("seed") or 0),
                classes=tuple(map(str, asked.get("classes") or ())),
                numbers={str(name): str(value) for name, value in (asked.get("numbers") or {}).items()},
                guidance=_number(asked.get("guidance"), float),
                nfe=_number(asked.get("nfe"), int),
                strength=float(asked.get("strength") or 0.5),
                mask=str(asked.get("mask") or ""),
                of=tuple(map(str, asked.get("of") or ())),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"What is asked for cannot be read ({error}): give numbers where numbers are meant.") from error
        if not 1 <= job.count <= MOST:
            raise UserError(f"The number of images must be from 1 to {MOST:,}, got {job.count}.", "count")
        wanted = {"sample": 0, "vary": 1, "inpaint": 1, "between": 2}[job.kind]
        if len(job.of) != wanted:
            raise UserError(f"This takes {wanted} images, and {len(job.of)} are chosen: choose {wanted}.", "of")
        return job

    @property
    def sampling(self) -> Sampling:
        """How to sample."""
        return Sampling(nfe=self.nfe, guidance=self.guidance)


class Maker:
    """Makes the images of jobs in their order; `tell` is called with every event, from the thread that makes."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell, self._jobs, self._numbers = tell, queue.Queue[tuple[int, Gallery, Job] | None](), itertools.count(1)
        self._stopped, self._closed = set[int](), False
        self._thread = threading.Thread(target=self._work, name="studio", daemon=True)
        self._thread.start()

    def ask(self, gallery: Gallery, job: Job) -> int:
        """Take a job on; its number."""
        number = next(self._numbers)
        self._jobs.put((number, gallery, job))
        return number

    def stop(self, number: int) -> None:
        """Make no more images of a job than those under way."""
        self._stopped.add(number)

    def close(self) -> None:
        """Make no more images, once those under way are there."""
        self._closed = True
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while not self._closed and (asked := self._jobs.get()) is not None:
            number, gallery, job = asked
            about = {"job": number, "run": gallery.number, "of": job.count}
            try:
                self._make(number, gallery, job, about)
            except Exception as error:  # the page is told, and the next job is done
                words = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                self._tell({**about, "type": "error", "message": words})

    def _make(self, number: int, gallery: Gallery, job: Job, about: Event) -> None:
        done = 0
        self._tell({**about, "type": "progress", "done": 0})
        for samples, hows in _MAKERS[job.kind](gallery, job):
            items = gallery.add(samples, hows)
            done += len(items)
            self._tell({**about, "type": "items", "done": done, "items": [item.about() for item in items]})
            if number in self._stopped or self._closed:
                break
        self._tell({**about, "type": "done", "done": done})


def _sampled(gallery: Gallery, job: Job) -> Iterator[Made]:
    run = gallery.run
    with _table(job) as table:
        for seed, count in _parts(job):
            names = _in_turn(job.classes, seed - job.seed)
            yield _told(job, run.sample(count, classes=names, conditions=table, seed=seed, nfe=job.nfe, guidance=job.guidance))


def _varied(gallery: Gallery, job: Job) -> Iterator[Made]:
    run, item = gallery.run, gallery.item(job.of[0])
    for seed, count in _parts(job):
        made = run.variations(
            item.given, count, job.strength, classes=_class_of(run, item, job), seed=seed, sampling=job.sampling
        )
        yield _told(job, made, {"of": item.name, "strength": job.strength})


def _inpainted(gallery: Gallery, job: Job) -> Iterator[Made]:
    run, item = gallery.run, gallery.item(job.of[0])
    rows, columns = run.shape[1:]
    if len(job.mask) != rows * columns:
        raise UserError(f"The mask has {len(job.mask)} pixels but the image {rows * columns}: paint it again.", "mask")
    mask = np.array([pixel != "0" for pixel in job.mask]).reshape(rows, columns)
    for seed, count in _parts(job):
        made = run.inpaint(item.given, mask, count, classes=_class_of(run, item, job), seed=seed, sampling=job.sampling)
        yield _told(job, made, {"of": item.name})


def _between(gallery: Gallery, job: Job) -> Iterator[Made]:
    run, ends = gallery.run, [gallery.item(id) for id in job.of]
    if any(item.how["kind"] != "sample" for item in ends):
        raise UserError("Only images that were sampled from a seed have a way between them: choose two of these.", "of")
    first, second = (int(item.how["seed"]) for item in ends)
    names = tuple(str(item.how["class"]) for item in ends) if run.classes else ()
    made = run.between(first, second, job.count, classes=names, sampling=job.sampling)
    yield _told(job, made, {"ends": [first, second]})


_MAKERS: dict[str, Callable[[Gallery, Job], Iterator[Made]]] = {
    "sample": _sampled,
    "vary": _varied,
    "inpaint": _inpainted,
    "between": _between,
}


def _parts(job: Job) -> Iterator[tuple[int, int]]:
    """The first seed and the number of images of every part that is told together."""
    for start in range(0, job.count, AT_ONCE):
        yield job.seed + start, min(AT_ONCE, job.count - start)


def _told(job: Job, made: Samples, more: Mapping[str, Any] | None = None) -> Made:
    """Samples with how each was made."""
    first, labels, classes = made.settings["seeds"][0], made.settings["labels"], made.settings["classes"]
    names = [classes[label] if label < len(classes) else None for label in labels] if labels else [None] * len(made)
    common = {"kind": job.kind, "guidance": made.settings["guidance"], "nfe": made.nfe, **(more or {})}
    return made, [{**common, "seed": first + place, "class": name} for place, name in enumerate(names)]


def _class_of(run: Run, item: Item, job: Job) -> tuple[str, ...]:
    """The class asked for, else that of the item."""
    own = item.how.get("class")
    return job.classes or ((str(own),) if own is not None and run.classes else ())


def _in_turn(classes: tuple[str, ...], start: int) -> tuple[str, ...]:
    turn = start % len(classes) if classes else 0
    return classes[turn:] + classes[:turn]


@contextmanager
def _table(job: Job) -> Iterator[Path | None]:
    """What is asked for as a table of one line, while it is needed; None without numbers."""
    if not job.numbers:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "asked.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("name", *job.numbers), ("asked", *job.numbers.values())])
        yield path


def _number(value: Any, kind: Callable[[Any], Any]) -> Any:
    return None if value in (None, "") else kind(value)
