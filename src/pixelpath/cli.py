"""The command line: parses, calls commands, tells mistakes from bugs, and nothing else.

A command is a function of pixelpath.commands; its parameters are its options. Only the module of the command asked for is
imported, and only after its arguments were compared with what is known without torch, so that help and mistakes come at once.
"""

from __future__ import annotations

import importlib
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from pixelpath.commands import RefusedError, names
from pixelpath.commands.names import spelled
from pixelpath.errors import Stopped, UserError

COMMANDS = {
    "fit": "From a folder and a number of minutes to samples: audit, plan, train, tune, evaluate, report.",
    "train": "Train a recipe on your images, or take up a run where it stopped.",
    "distill": "Make a one-step model of a diffusion run, from that run's own samples.",
    "recipes": "List the recipes: what can be trained.",
    "sample": "Make images with a trained run.",
    "edit": "Edit images with a trained run: in-paint, vary, go from one seed to another.",
    "audit": "Look at data before training: what they hold, what is wrong, what a run costs here.",
    "tune": "Find how to sample a run in the fewest network evaluations.",
    "start": "Fit where sampling of a run may begin, for fewer steps: `start fit RUN`.",
    "evaluate": "Measure how close a run's samples are to its held-out images.",
    "compare": "Compare any two sets of images: folders, arrays, statistics of FID, runs.",
    "studio": "Look at runs in a page on this machine: make and edit images, watch training, compare.",
    "probe": "Measure what the encoder of a run has learned, at six noise levels.",
    "report": "Write the report of a run again.",
    "export": "Write a run so that it makes images without pixelpath: ONNX, torch.export, diffusers, a web page.",
    "import-official": "Turn a published EPG checkpoint into a run that can be sampled.",
}
MISTAKE, BUG, STOPPED = 2, 70, 130  # exit statuses
RESUMED = ("train", "fit", "distill")  # commands that take up what they had done
ISSUES = "https://github.com/pixelpath/pixelpath/issues"
REPORT = f"This is a bug of pixelpath or a library that it uses: please report it, with the output above, at {ISSUES}."
TRACEBACK = "PIXELPATH_TRACEBACK"  # environment variable: show where a mistake was noticed


def main() -> None:
    """Run the command that the arguments name.

    A user's mistake, or a fault of the machine, is one sentence on standard error and exit status 2. Anything else is a bug: its
    traceback, where to report it, and exit status 70. A command that Ctrl-C or SIGTERM stops says how to go on; exit status 130.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads must not spin on cores that others need
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_overview())
        return
    if arguments[0] == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"pixelpath {version('pixelpath')}\n")
        return
    try:
        with _terminable():
            _call(arguments[0], arguments[1:])
    except Stopped:
        sys.exit(STOPPED)
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":  # of several processes one says it
            sys.stderr.write(f"pixelpath: {_stopped(arguments)}\n")
        sys.exit(STOPPED)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as caught:
        error = caught.__cause__ if isinstance(caught, RefusedError) else caught
        sentence = _sentence(error)
        if sentence is None or os.environ.get(TRACEBACK):
            traceback.print_exception(error)
        sys.stderr.write(f"pixelpath: {spelled(' '.join((sentence or REPORT).split()))}\n")
        sys.exit(BUG if sentence is None else MISTAKE)


@contextmanager
def _terminable() -> Iterator[None]:
    """While open, SIGTERM stops a command as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stopped(arguments: Sequence[str]) -> str:
    """That a command was stopped, and which one goes on."""
    goes_on, out = "goes on" if arguments[0] in RESUMED else "begins again", names.value_of("--out", arguments)
    taken = arguments[0] not in RESUMED and out and os.path.isdir(out) and os.listdir(out)
    remark = f", once {out} is empty or --out names another folder" if taken else ""
    return (
        f"{arguments[0]} was stopped before it was done. This command {goes_on}{remark}: {shlex.join(['pixelpath', *arguments])}"
    )


def _call(name: str, arguments: list[str]) -> None:
    if name.startswith("--tyro-"):
        _complete([name, *arguments])
        return
    if name not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, 3, 0.4) or list(COMMANDS)
        raise UserError(f"Unknown command {name}: did you mean {', '.join(near)}? (pixelpath --help lists all.)")
    recipe = ""
    if name == "train":
        if arguments and names.HELP.issuperset(arguments):
            sys.stdout.write(_load("recipes", "overview")())
            return
        recipe, arguments = names.find_recipe(arguments)
    names.check(name, recipe, arguments)
    if name == "recipes":
        _run(_load(name), name, arguments)
        return
    from pixelpath import log

    with log.shown(spelled):
        if name == "train":
            _train(recipe, arguments)
        else:
            _run(_load(name), name, arguments, _load("settings", "registry")())


def _train(recipe: str, arguments: list[str]) -> None:
    """The settings of the recipe are options, with its values as defaults; a short help names the usual ones."""
    command, recipes = _load("train"), _load("train", "RECIPES")
    brief = "--help-all" not in arguments and not {"-h", "--help"}.isdisjoint(arguments)
    first = (command.__doc__ or "").partition("\n")[0]
    about = f"{first}\n\nThese are the usual options: `pixelpath train {recipe} --help-all` lists every option."
    command, rules = partial(command, recipe=recipes[recipe]), _load("settings", "registry")(brief=brief)
    _run(command, f"train {recipe}", arguments, rules, about if brief else None, whole=True)


def _run(
    command: Callable[..., Any],
    name: str,
    arguments: Sequence[str],
    rules: Any = None,
    about: str | None = None,
    *,
    whole: bool = False,
) -> None:
    """Call the command with what tyro reads from the arguments; of a `whole` recipe the type is not asked for."""
    import tyro

    config = (*_config(), tyro.conf.AvoidSubcommands) if whole else _config()
    words = ["--help" if word == "--help-all" else word for word in arguments]
    tyro.cli(command, prog=f"pixelpath {name}", description=about, args=words, config=config, registry=rules)


def _complete(arguments: list[str]) -> None:
    """Print or write a completion script, which knows every command."""
    import tyro

    commands, rules = {name: _load(name) for name in COMMANDS}, _load("settings", "registry")()
    tyro.extras.subcommand_cli_from_dict(commands, prog="pixelpath", args=arguments, config=_config(), registry=rules)


def _config() -> tuple[Any, ...]:
    import tyro

    return tyro.conf.CascadeSubcommandArgs, tyro.conf.EnumChoicesFromValues


def _sentence(error: BaseException | None) -> str | None:
    """What to tell the user: our own sentences as they are, errors of the system made readable; None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"Memory ran out ({error}): use smaller images (`data.resize`, `data.tile`) or a smaller `batch_size`."
    if isinstance(error, OSError):
        what = f"{error.strerror}." if error.strerror else str(error)
        return f"{error.filename}: {what}" if error.filename else what
    if isinstance(error, RuntimeError) and _is_out_of_memory(error):
        first = str(error).split(".")[0]
        return f"{first}: use a smaller `batch_size`, more parts (`accumulate`), or `activation_checkpointing`."
    return None


def _is_out_of_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def _load(name: str, thing: str = "") -> Any:
    """The function of a command, or another thing of its module."""
    name = name.replace("-", "_")
    return importlib.import_module(f"pixelpath.commands.{name}").__dict__[thing or name]


def _overview() -> str:
    lines = [f"  {name:<16} {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: pixelpath COMMAND ...",
            "",
            "Train an image generator on your own images or arrays, in pixel space.",
            "",
            *lines,
            "",
            "`pixelpath COMMAND --help` lists the options of a command.",
            "`pixelpath --tyro-print-completion bash` (or zsh, tcsh) prints a completion script.",
            "",
        ]
    )
