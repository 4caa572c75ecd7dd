"""Commands whose process is killed, whose disk is full, or whose peers vanish; and what must then hold of a run's folder.

Only the command line and plain files are used.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.application import MEASURED, TINY
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
STEPS, EVERY = 9, 3
SEAL = "checksum"  # of all else in a document, what was measured of the machine too
KINDS = ("digits-encoder", "digits-diffusion", "digits-onestep")
REMADE = {"report.html", "curves.png"}  # what is made of all the rest
MACHINE = {"environment.json"}
MOVED = re.compile(r"metrics\.\d+\.jsonl")


@dataclass(frozen=True)
class Command:
    """One process: `pixelpath WORDS`, or the Python program `script` with these words, and what befalls it.

    `after` seconds, or as soon as `after_file` exists, it is sent `signal`. `limit` is the largest file that it may write, in
    bytes. For `fault` see tests/reliability/starter.py.
    """

    words: tuple[str, ...]
    after: float | None = None
    after_file: str | None = None
    signal: int = signal.SIGKILL
    limit: int | None = None
    fault: dict[str, Any] | None = None
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = str(ROOT)
    umask: int | None = None
    script: str | None = None


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status (minus the signal that killed it), what it said, and its operations below `within`."""

    status: int
    said: str
    seconds: float
    operations: int

    @property
    def sentence(self) -> str:
        """The one sentence of a command that failed; AssertionError if it said anything else about its failure."""
        last = self.said.rstrip().splitlines()[-1]
        assert self.status == 2, self.said
        assert last.startswith("pixelpath: "), self.said
        assert self.said.count("pixelpath: ") == 1, self.said
        assert "Traceback" not in self.said, self.said
        return last


class Starter:
    """The program of tests/reliability/starter.py, warm."""

    def __init__(self, warm: tuple[str, ...], folder: Path) -> None:
        self.folder = folder
        path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self.log = (folder / "starter.txt").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.starter"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        assert self.ask(list(warm)) == 0, (folder / "starter.txt").read_text()

    def ask(self, order: object) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, (self.folder / "starter.txt").read_text()
        return json.loads(answer)

    def run(self, *commands: Command) -> list[Ended]:
        """Run the commands side by side."""
        logs = [self.folder / f"said-{place}.txt" for place in range(len(commands))]
        answers = self.ask([{**asdict(each), "log": str(log)} for each, log in zip(commands, logs, strict=True)])
        assert not any(answer.pop("hung") for answer in answers), [log.read_text() for log in logs]
        return [Ended(said=log.read_text(errors="replace"), **answer) for answer, log in zip(answers, logs, strict=True)]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.log.close()


def peers() -> list[dict[str, str]]:
    """What the environments of two processes of one run say, as torchrun sets them, at a port that is free."""
    both = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "LOCAL_WORLD_SIZE": "2"}
    return [both | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]


@dataclass(frozen=True)
class Kind:
    """A kind of run: its uninterrupted run, how long that took and how many operations it needed, and what it begins with."""

    recipe: str
    straight: Path
    seconds: float
    operations: int
    origin: tuple[str, ...]


def train(recipe: str, data: Path | str, out: Path | str, *words: object) -> tuple[str, ...]:
    """The words that train a tiny model; every checkpoint stays."""
    fixed = ["--steps", STEPS, "--every", EVERY, "--keep", 20, "--device", "cpu"]
    return tuple(map(str, ["train", recipe, "--data", data, "--out", out, *TINY[recipe], *fixed, *words]))


def content(folder: Path) -> dict[str, Any]:
    """What every file of a run holds, without what it says of the machine."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if MOVED.fullmatch(name):
            continue
        if path.name in MACHINE | REMADE:
            found[name] = None
        elif path.suffix in {".json", ".jsonl"}:
            found[name] = [_bare(json.loads(line)) for line in _documents(path)]
        else:
            found[name] = path.read_bytes()
    return found


def _documents(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def _bare(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: _bare(value) for key, value in document.items() if key not in (*MEASURED, SEAL)}
    return document


def differences(straight: Path, resumed: Path) -> list[str]:
    """The files in which two runs differ, byte by byte, and those that only one has: also those left half written."""
    ours, theirs = content(straight), content(resumed)
    return sorted(
        name for name in ours.keys() | theirs.keys() if name not in ours or name not in theirs or ours[name] != theirs[name]
    )


def checkpoints(run: Path) -> dict[str, bytes]:
    """Every file of the run's complete checkpoints."""
    files = (path for folder in (run / "checkpoints").glob("step-*") for path in folder.iterdir())
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def recorded(run: Path) -> set[str]:
    """Every whole line of the run's metrics, those that were moved aside too."""
    lines = (line for file in run.glob("metrics*.jsonl") for line in file.read_text(encoding="utf-8").splitlines(keepends=True))
    return {line for line in lines if line.endswith("}\n")}


def lost(before: dict[str, bytes], lines: set[str], run: Path) -> list[str]:
    """What was there before the run was taken up and is not there any more: files of checkpoints, lines of metrics."""
    now = checkpoints(run)
    return [name for name, data in before.items() if now.get(name) != data] + sorted(lines - recorded(run))
