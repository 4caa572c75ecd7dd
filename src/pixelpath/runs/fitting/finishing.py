"""What follows the training of a fit: a start and a tuned sampler, samples, an evaluation and a report of each kind of run."""

from __future__ import annotations

from pixelpath.errors import UserError
from pixelpath.log import hushed, say
from pixelpath.runs.fitting import planning
from pixelpath.runs.fitting.planning import Plan
from pixelpath.runs.fitting.sitting import Sitting
from pixelpath.runs.folder import DIFFUSION, of_kind
from pixelpath.runs.measuring.evaluate import evaluate
from pixelpath.runs.measuring.report import write_report
from pixelpath.runs.opened import OpenRun, open_run
from pixelpath.runs.prepare import PreparedData, read_data_of
from pixelpath.runs.sample import free_folder, sample
from pixelpath.runs.starting.fit_start import Fit, fit_run_start
from pixelpath.runs.starting.quality import Quality
from pixelpath.runs.tune import tune_run

START = Fit(points=planning.START_POINTS, quality=Quality(count=0))  # tuning compares its samples with cold ones


def finish(sitting: Sitting, plan: Plan) -> None:
    """What follows training, as far as it is not done."""
    for place, kind in enumerate(sitting.kinds):
        run = open_run(sitting.newest(kind), device=sitting.device)
        with hushed():
            data = read_data_of(run, None)
        if kind == DIFFUSION:
            _find_sampling(sitting, run, data, plan)
        _show_and_judge(sitting, run, data, plan, sitting.kinds[place:])
        say(f"Report: {write_report(run.path)}")


def _find_sampling(sitting: Sitting, run: OpenRun, data: PreparedData, plan: Plan) -> None:
    """Where a diffusion run's samples begin, and by which sigmas they are made."""
    done = sitting.state["done"]
    if plan.start and "start" not in done and sitting.left > plan.start:
        with sitting.phase("start"):
            try:
                fit_run_start(run, data, free_folder(run.path / "starts", None), START)
            except UserError as error:
                say(f"No start: {error}")
    if plan.tuned and "tuning" not in done and sitting.left > plan.tuning:
        with sitting.phase("tuning"):
            tune_run(run, data, planning.tuning_of(sitting.chosen, plan.tuned, light="tuning" in plan.light))


def _show_and_judge(sitting: Sitting, run: OpenRun, data: PreparedData, plan: Plan, kinds: tuple[str, ...]) -> None:
    """Samples, as many as planned if the time suffices, and an evaluation of a run, of the first of the kinds still to come."""
    samples, evaluation = (of_kind(what, kinds[0]) for what in ("samples", "evaluation"))
    if samples not in sitting.state["done"]:
        with sitting.phase(samples):
            seeds = range(min(plan.shown, planning.showable(sitting.chosen, sitting.step, sitting.left, kinds)))
            folder = free_folder(sitting.out / samples, None)
            sample(run, seeds, data.condition(seeds)).save(folder)
            say(f"Samples: {folder / 'grid.png'}")
    if evaluation not in sitting.state["done"]:
        with sitting.phase(evaluation):
            left, late = sitting.left - len(kinds) * sitting.fixed, planning.SHARE * sitting.seconds
            count, light = planning.judgeable(sitting.chosen, sitting.step, left, left + late, kinds)
            if not count and plan.judged and left + late > 0:  # slower than planned: of the fewest samples, rather than none
                count, light = min(planning.FEW_SHOWN, sitting.chosen.training), True
            if count:
                evaluate(run, data, None, planning.judges_of(count, light=light), count)
            else:
                say(f"The time does not hold an evaluation: `pixelpath evaluate {run.path}` makes it.")
