"""One sitting of a fit: its budget, its clock, and what it has decided and done so far, which fit.json keeps."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pixelpath.atomic import write_json
from pixelpath.data.settings import DataSettings
from pixelpath.errors import UserError
from pixelpath.recipes.recipe import Recipe, from_json
from pixelpath.runs.cost import seconds_of_step
from pixelpath.runs.fitting import planning
from pixelpath.runs.fitting.choosing import Chosen
from pixelpath.runs.fitting.planning import Budget
from pixelpath.runs.folder import DIFFUSION, FIT, document_of_fit, of_kind


@dataclass(frozen=True)
class Machine:
    """What a fit is timed by: a clock of seconds, the seconds of a recipe's step here, and the threads of its CPU."""

    clock: Callable[[], float] = time.monotonic
    step: Callable[[Recipe, torch.device], float] = seconds_of_step
    threads: Callable[[], int] = torch.get_num_threads


HERE = Machine()
LOOKS = 4  # times the look at the data: processor seconds of an evaluation of few samples, 18 to 26 where a look took 2 to 4


class Sitting:
    """One sitting of a fit: `state` is what fit.json keeps."""

    def __init__(
        self, settings: DataSettings, out: Path, budget: Budget, device: torch.device, machine: Machine, *, kept: bool = False
    ) -> None:
        self.settings, self.out, self.budget, self.device, self.machine = settings.absolute(), out, budget, device, machine
        self.kept, self.mark = kept, machine.clock()
        asked = json.loads(json.dumps(asdict(self.settings), default=str)) | {"one_step": budget.one_step}
        self.state: dict[str, Any] = {"asked": asked, "spent": {}, "runs": [], "done": [], "plans": [], "one_step": False}
        if (out / FIT).exists():
            known = document_of_fit(out)
            changed = [key for key, value in asked.items() if json.dumps(known["asked"].get(key)) != json.dumps(value)]
            if changed and known["runs"]:
                raise UserError(
                    f"{out} holds a fit with other settings ({', '.join(changed)}): use the same, or another `out`.", "out"
                )
            self.state = self.state if changed else known

    @property
    def seconds(self) -> float:
        """Those of the whole budget."""
        return 60 * self.budget.minutes

    @property
    def spent(self) -> float:
        """The seconds used so far, in all sittings."""
        return sum(self.state["spent"].values()) + self.machine.clock() - self.mark

    @property
    def left(self) -> float:
        """The seconds of the budget that are left."""
        return self.seconds - self.spent

    @property
    def one_step(self) -> bool:
        """Whether a one-step model is trained too: as asked, or as was decided by the time."""
        return bool(self.state["one_step"] if self.budget.one_step is None else self.budget.one_step)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of runs that are trained, in order."""
        return planning.kinds_of(one_step=self.one_step)

    @property
    def judged(self) -> bool:
        """Whether every kind of run was evaluated after its training."""
        return all(of_kind("evaluation", kind) in self.state["done"] for kind in self.kinds)

    @property
    def chosen(self) -> Chosen:
        """What was decided from the data."""
        about = self.state["about"] | {"recipe": from_json(json.dumps(self.state["recipe"]))}
        return Chosen(**about | {name: tuple(about[name]) for name in ("reasons", "shape")})

    @property
    def step(self) -> float:
        """The seconds of a step of the recipe in one process: those tried, or more if the last diffusion run took more."""
        found = [run for run in self.runs_of(DIFFUSION) if run["step"]]
        if not found:
            return self.state["step"]
        return max(self.state["step"], found[-1]["step"] * self.chosen.recipe.batch_size / found[-1]["recipe"]["batch_size"])

    @property
    def fixed(self) -> float:
        """What an evaluation and its reports take in any case: several looks at the data, which are work of that kind."""
        return max(planning.FIXED, LOOKS * self.state["spent"].get("looking", 0.0))

    def runs_of(self, kind: str) -> list[dict[str, Any]]:
        """The runs of a kind, as fit.json keeps them, the newest last."""
        return [run for run in self.state["runs"] if run["kind"] == kind]

    def newest(self, kind: str) -> Path:
        """The folder of the newest run of a kind."""
        return self.out / self.runs_of(kind)[-1]["folder"]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """While open, time is used for this; afterwards it is done."""
        try:
            yield
            if name not in self.state["done"]:
                self.state["done"].append(name)
        finally:
            self.note(name)

    def note(self, name: str) -> None:
        """Write down the time used since the last note, for this."""
        now, spent = self.machine.clock(), self.state["spent"]
        spent[name] = spent.get(name, 0.0) + now - self.mark
        self.mark = now
        if self.kept and "recipe" in self.state:
            write_json(self.out / FIT, self.state)
