"""Images made for the studio: one job after the other, in a thread of their own, told as they are made.

A *job* is what the page asked for. *Events* are JSON-ready dictionaries that everybody who listens gets: items as they are made,
how far a job is, that it is done, or what is wrong with it.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from pixelpath.errors import UserError
from pixelpath.runs.run import Run
from pixelpath.runs.sample import Samples
from pixelpath.sampling.sampler import Sampling
from pixelpath.studio.conditions import CondImage, as_files
from pixelpath.studio.gallery import Gallery, Item

AT_ONCE = 4  # images that are told together
MOST = 1000  # images of a job

Kind = Literal["sample", "vary", "inpaint", "between"]
Event = dict[str, Any]
Made = tuple[Samples, list[dict[str, Any]]]


@dataclass(frozen=True)
class Job:
    """What was asked for. `of` are the items to edit; `numbers` are what a run with a table is asked for, by column, and
    `cond_images` are the ids of its condition images, in turn.
    """

    kind: Kind
    count: int = 8
    seed: int = 0
    classes: tuple[str, ...] = ()
    numbers: Mapping[str, str] = field(default_factory=dict)
    cond_images: tuple[str, ...] = ()
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
                numbers=_filled({str(name): str(value) for name, value in (asked.get("numbers") or {}).items()}),
                cond_images=tuple(map(str, asked.get("cond_images") or ())),
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
    for seed, count in _parts(job):
        names, ids = _in_turn(job.classes, seed - job.seed), _in_turn(job.cond_images, seed - job.seed)[:count]
        with as_files([job.numbers] if job.numbers else [], _found(gallery, ids)) as files:
            made = run.sample(count, classes=names, seed=seed, nfe=job.nfe, guidance=job.guidance, **files)
        if run.conditions.other and not ids:
            ids = tuple(gallery.cond_images.of_seed(run, each) for each in range(seed, seed + count))
        yield _told(job, made, cond_images=ids)


def _varied(gallery: Gallery, job: Job) -> Iterator[Made]:
    run, item = gallery.run, gallery.item(job.of[0])
    row, image = _conditions_of(gallery, item, job)
    for seed, count in _parts(job):
        with as_files(row, image) as files:
            made = run.variations(
                item.given, count, job.strength, classes=_class_of(run, item, job), seed=seed, sampling=job.sampling, **files
            )
        yield _told(job, made, {"of": item.name, "strength": job.strength}, [each.id for each in image])


def _inpainted(gallery: Gallery, job: Job) -> Iterator[Made]:
    run, item = gallery.run, gallery.item(job.of[0])
    rows, columns = run.shape[1:]
    if len(job.mask) != rows * columns:
        raise UserError(f"The mask has {len(job.mask)} pixels but the image {rows * columns}: paint it again.", "mask")
    mask = np.array([pixel != "0" for pixel in job.mask]).reshape(rows, columns)
    row, image = _conditions_of(gallery, item, job)
    for seed, count in _parts(job):
        with as_files(row, image) as files:
            made = run.inpaint(
                item.given, mask, count, classes=_class_of(run, item, job), seed=seed, sampling=job.sampling, **files
            )
        yield _told(job, made, {"of": item.name}, [each.id for each in image])


def _between(gallery: Gallery, job: Job) -> Iterator[Made]:
    run, ends = gallery.run, [gallery.item(id) for id in job.of]
    if any(item.how["kind"] != "sample" for item in ends):
        raise UserError("Only images that were sampled from a seed have a way between them: choose two of these.", "of")
    first, second = (int(item.how["seed"]) for item in ends)
    names = tuple(str(item.how["class"]) for item in ends) if run.classes else ()
    asked = [_conditions_of(gallery, item, job) for item in ends]
    rows, images = ([each for part in parts for each in part] for parts in zip(*asked, strict=True))
    with as_files(rows, images) as files:
        made = run.between(first, second, job.count, classes=names, sampling=job.sampling, **files)
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


def _told(job: Job, made: Samples, more: Mapping[str, Any] | None = None, cond_images: Sequence[str] = ()) -> Made:
    """Samples with how each was made; `cond_images` are the ids of their condition images, in turn."""
    first, labels, classes = made.settings["seeds"][0], made.settings["labels"], made.settings["classes"]
    names = [classes[label] if label < len(classes) else None for label in labels] if labels else [None] * len(made)
    common = {"kind": job.kind, "guidance": made.settings["guidance"], "nfe": made.nfe, **(more or {})}
    hows: list[dict[str, Any]] = [{**common, "seed": first + place, "class": name} for place, name in enumerate(names)]
    for place, how in enumerate(hows):
        if job.kind != "between" and made.settings["conditions"]:
            how["numbers"] = {name: str(values[place]) for name, values in made.settings["conditions"].items()}
        if cond_images:
            how["cond_image"] = cond_images[place % len(cond_images)]
    return made, hows


def _conditions_of(gallery: Gallery, item: Item, job: Job) -> tuple[list[Mapping[str, str]], list[CondImage]]:
    """The numbers and the condition image of an edit, none or one of each: those of the item, else those asked for.

    Raises UserError if the run needs what neither has.
    """
    asks = gallery.run.conditions
    numbers, ids = item.how.get("numbers") or job.numbers, job.cond_images[:1]
    if item.how.get("cond_image"):
        ids = (str(item.how["cond_image"]),)
    if (asks.numbers and not numbers) or (asks.other and not ids):
        missing = "numbers" if asks.numbers and not numbers else "a condition image"
        raise UserError(f"The run was trained with {missing}, which this image does not have: choose in the form.", "conditions")
    return [numbers] if numbers else [], _found(gallery, ids)


def _found(gallery: Gallery, ids: Sequence[str]) -> list[CondImage]:
    return [gallery.cond_images.find(gallery.run, id) for id in ids]


def _class_of(run: Run, item: Item, job: Job) -> tuple[str, ...]:
    """The class asked for, else that of the item."""
    own = item.how.get("class")
    return job.classes or ((str(own),) if own is not None and run.classes else ())


def _in_turn(names: tuple[str, ...], start: int) -> tuple[str, ...]:
    turn = start % len(names) if names else 0
    return names[turn:] + names[:turn]


def _filled(numbers: Mapping[str, str]) -> Mapping[str, str]:
    """What is asked for by column; nothing where every field was left empty."""
    return numbers if any(value.strip() for value in numbers.values()) else {}


def _number(value: Any, kind: Callable[[Any], Any]) -> Any:
    return None if value in (None, "") else kind(value)
