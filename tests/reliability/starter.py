"""A program that has imported everything and forks a child for each command, so that a command starts in no time.

It reads orders from standard input, one JSON object a line, and answers each with one on standard output. An order is a list of
children that run side by side (see `Command` in tests/reliability/harness.py). Only the command line is used: the rest of the
package may move. A *fault* of a child happens at its operation number `at` below the folder `within`, counted from 1. An
*operation* is whatever Python tells its audit hooks about files: opening, naming, making and removing.
"""

import errno
import json
import mmap
import os
import resource
import runpy
import signal
import struct
import sys
import tempfile
import time
from typing import Any

import torch

OPERATIONS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
TAKE_SPACE = {"os.rename", "os.mkdir", "os.link", "os.symlink"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
SIGNALS = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "interrupt": signal.SIGINT}
DEADLINE = 120.0  # seconds after which a child that hangs is killed


def run(words: list[str], script: str | None = None) -> int:
    """The exit status of `pixelpath WORDS`, or of a Python program with these words, as the interpreter would give it."""
    from pixelpath import cli

    sys.argv = [script or "pixelpath", *words]
    try:
        if script is None:
            cli.main()
        else:
            runpy.run_path(script, run_name="__main__")
    except SystemExit as left:
        return int(left.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    return 0


def watch(fault: dict[str, Any], counter: mmap.mmap) -> None:
    """Count this process's operations below a folder, and let the fault happen when it is due."""
    within, at = fault["within"] + os.sep, fault["at"]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in OPERATIONS or not any(isinstance(each, str | os.PathLike) for each in arguments[:2]):
            return
        if not any(
            (os.fspath(each) + os.sep).startswith(within) for each in arguments[:2] if isinstance(each, str | os.PathLike)
        ):
            return
        if fault["kind"] == "full" and event not in TAKE_SPACE and not (event == "open" and (arguments[2] or 0) & WRITING):
            return
        (number,) = struct.unpack("q", counter[:8])
        counter[:8] = struct.pack("q", number + 1)
        if at is not None and number + 1 >= at:
            if fault["kind"] in SIGNALS:
                if number + 1 == at:
                    os.kill(os.getpid(), SIGNALS[fault["kind"]])
                return
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(arguments[0]))

    sys.addaudithook(hook)


def start(child: dict[str, Any], counter: mmap.mmap) -> int:
    """Fork one child; its id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    log = os.open(child["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    torch.set_num_threads(torch.get_num_threads())  # makes anew the pool that a fork spoils, before threads race to do so
    os.environ.update(child["env"])
    os.chdir(child["cwd"])
    if child["umask"] is not None:
        os.umask(child["umask"])
    if child["limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (child["limit"], child["limit"]))
    if child["fault"] is not None:
        watch(child["fault"], counter)
    status = 1
    try:
        status = run(child["words"], child["script"])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def killed(child: dict[str, Any], passed: float) -> bool:
    """Whether a child is to be sent its signal now."""
    after, file = child["after"], child["after_file"]
    return (after is not None and passed >= after) or (file is not None and os.path.exists(file)) or passed > DEADLINE


def oversee(children: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Start the children, kill those that are to be killed, and wait for all."""
    counters = [mmap.mmap(-1, 8) for _ in children]
    began = time.monotonic()
    running = {start(child, counter): place for place, (child, counter) in enumerate(zip(children, counters, strict=True))}
    answers: list[dict[str, Any]] = [{} for _ in children]
    signalled: set[int] = set()
    while running:
        for pid, place in list(running.items()):
            passed = time.monotonic() - began
            if pid not in signalled and killed(children[place], passed):
                os.kill(pid, children[place]["signal"])
                signalled.add(pid)
            if passed > DEADLINE:
                os.kill(pid, signal.SIGKILL)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del running[pid]
                (count,) = struct.unpack("q", counters[place][:8])
                code = os.waitstatus_to_exitcode(status)
                answers[place] = {"status": code, "seconds": passed, "operations": count, "hung": passed > DEADLINE}
        time.sleep(0.0005)
    return answers


def main() -> None:
    """Warm up with the words of a first order, then serve."""
    import torch

    torch.set_num_threads(1)
    orders = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a command prints is no answer
    warm = json.loads(orders.readline())
    with tempfile.TemporaryDirectory() as folder:
        status = run([*warm, "--out", os.path.join(folder, "run")])
    answers.write(json.dumps(status) + "\n")
    answers.flush()
    for line in orders:
        answers.write(json.dumps(oversee(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
