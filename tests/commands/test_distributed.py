"""Two processes are one: the same global batch gives the same run, negatives and statistics of all processes included."""

import shutil
import subprocess
import sys
from pathlib import Path

import torch
from tests.application import TINY, call, losses, steps_kept, weights
from tests.reliability.harness import Command, Starter, peers

from pixelpath.atomic import read_json
from pixelpath.trainer.journal import lines

ROOT = Path(__file__).parents[2]
STOPPED = """
import os, signal, sys
from pixelpath import cli
from tests.application import at_step
from pixelpath.trainer import interruption
interruption.EVERY = 1
def stop():
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
with at_step(3, stop):
    try:
        cli.main()
    except SystemExit as left:
        assert left.code == 130
    else:
        raise AssertionError("it was stopped and did not say so")
"""


def together(starter: Starter, *words: object, script: Path | None = None) -> str:
    """What two processes of `pixelpath WORDS`, or of a Python program with these words, say."""
    program = None if script is None else str(script)
    ended = starter.run(*(Command(tuple(map(str, words)), env=env, script=program) for env in peers()))
    said = "".join(each.said for each in ended)
    assert [each.status for each in ended] == [0, 0], said
    return said


def torchrun(*words: object) -> str:
    """What two processes of a Python program say, started by torchrun."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*start, *map(str, words)], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stderr


def assert_near(first: Path, second: Path, step: int) -> None:
    """Losses, gradient norms, held-out losses and weights of two runs agree to 1e-5."""
    for ours, theirs in zip(losses(first), losses(second), strict=True):
        assert ours.pop("alarms") == theirs.pop("alarms")
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    ours, theirs = ({line["step"]: line.get("held_out_loss") for line in lines(run)} for run in (first, second))
    torch.testing.assert_close(ours[step], theirs[step], rtol=1e-5, atol=0)
    ours, theirs = weights(first, step), weights(second, step)
    assert ours.keys() == theirs.keys()
    for name in ours:
        if not name.startswith("optimizer"):
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-5)


def words_of(stage: str, data: Path) -> list[object]:
    fixed = ["--steps", 4, "--every", 2, "--data.held-out-share", 0.4, "--optimizer.lr", 1e-4]
    return ["train", stage, "--data", data, *TINY[stage], *fixed]


def test_stage_one_on_two_processes_is_that_on_one(starter: Starter, pictures: Path, tmp_path: Path) -> None:
    words = words_of("digits-encoder", pictures)
    assert call(*words, "--out", tmp_path / "one") == 0
    said = together(starter, *words, "--accumulate", 2, "--out", tmp_path / "two")
    assert said.count("Training data:") == 1
    assert said.count("Report:") == 1
    assert_near(tmp_path / "two", tmp_path / "one", 4)


def test_two_processes_make_and_measure_the_samples_of_one(starter: Starter, diffusion_run: Path, tmp_path: Path) -> None:
    """Ten images in batches of four, so that one process makes six of them; every file and every number is the same."""
    run = tmp_path / "run"
    shutil.copytree(diffusion_run, run)
    words = ["--batch-size", 4, "--steps", 2]
    sampled = ["sample", run, "--count", 10, *words]
    assert call(*sampled, "--out", tmp_path / "one") == 0
    said = together(starter, *sampled, "--out", tmp_path / "two")
    assert said.count("10 images in") == 1
    names = [path.name for path in sorted((tmp_path / "one").iterdir())]
    assert names == [path.name for path in sorted((tmp_path / "two").iterdir())]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    evaluated = ["evaluate", run, "--count", 10, *words]
    assert call(*evaluated) == 0
    together(starter, *evaluated)
    *_, one, two = read_json(run / "evaluation.json")
    assert one.pop("seconds_sampling") != two.pop("seconds_sampling")
    assert one == two
    assert not list(run.glob(".*"))


def test_stage_two_stopped_on_two_processes_goes_on_with_one(pictures: Path, tmp_path: Path) -> None:
    """One of the two gets the signal, both leave at the same step, and the number of processes may change."""
    words = [*words_of("digits-diffusion", pictures), "--accumulate", 2, "--activation-checkpointing"]
    assert call(*words, "--out", tmp_path / "one") == 0
    (tmp_path / "stopped.py").write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r}){STOPPED}")
    said = torchrun(tmp_path / "stopped.py", *words, "--out", tmp_path / "two")
    assert said.count("Stopped and saved at step 3") == 1
    assert steps_kept(tmp_path / "two") == [2, 3]
    assert call(*words, "--out", tmp_path / "two") == 0
    assert_near(tmp_path / "two", tmp_path / "one", 4)


def test_a_sharded_run_stops_and_goes_on_and_is_that_of_one_process(starter: Starter, pictures: Path, tmp_path: Path) -> None:
    """With measurements, previews and checkpoints."""
    words = words_of("digits-diffusion", pictures)
    assert call(*words, "--out", tmp_path / "one") == 0
    (tmp_path / "stopped.py").write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r}){STOPPED}")
    together(starter, *words, "--shard", "--out", tmp_path / "two", script=tmp_path / "stopped.py")
    assert steps_kept(tmp_path / "two") == [2, 3]
    said = together(starter, *words, "--shard", "--out", tmp_path / "two")
    assert said.count("Taken up at step 3") == 1
    assert_near(tmp_path / "two", tmp_path / "one", 4)
    assert (tmp_path / "two" / "previews" / "step-00000004.png").exists()


def test_one_process_is_not_sharded(pictures: Path, tmp_path: Path) -> None:
    assert call(*words_of("digits-diffusion", pictures), "--shard", "--out", tmp_path / "run") == 2
    assert not (tmp_path / "run").exists()
