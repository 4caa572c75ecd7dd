"""The command line: parses, calls commands, nothing else.

A command is a function of pixelpath.commands; its parameters are its options. Only the module of the command asked for is
imported, so that `pixelpath --help` answers at once.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

COMMANDS = {
    "quickstart": "Train on small handwritten digits in both stages, sample, evaluate, and say where to look.",
    "train": "Train a recipe on your images, or take up a run where it stopped.",
    "sample": "Make images with a trained run.",
    "audit": "Look at data before training: what they hold, what is wrong, what a run costs here.",
    "start": "Fit where sampling of a run may begin, for fewer steps: `start fit RUN`.",
    "evaluate": "Measure how close a run's samples are to its held-out images.",
    "probe": "Measure what the encoder of a run has learned, at six noise levels.",
    "report": "Write the report of a run again.",
    "export": "Write the generator of a one-step run as one file that runs without pixelpath.",
    "import-official": "Turn a published EPG checkpoint into a run that can be sampled.",
}


TRACEBACK = "PIXELPATH_TRACEBACK"  # environment variable: show where an error came from


def main() -> None:
    """Run the command that the arguments name; a user's mistake is one sentence on standard error and exit status 2."""
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
        from pixelpath import log

        with log.shown(spelled):
            _call(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        if os.environ.get(TRACEBACK):
            raise
        sys.stderr.write(f"pixelpath: {spelled(' '.join(_sentence(error).splitlines()))}\n")
        sys.exit(2)


def spelled(sentence: str) -> str:
    """The sentence with every setting in backticks as the option that sets it: `data.nodata` becomes --data.nodata."""
    return re.sub(r"`([a-z][a-z0-9_.]*)`", lambda found: "--" + found[1].replace("_", "-"), sentence)


def _call(arguments: list[str]) -> None:
    import tyro

    name = arguments[0]
    if name not in COMMANDS and not name.startswith("--tyro-"):
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, 3, 0.4) or list(COMMANDS)
        raise ValueError(f"Unknown command {name}: did you mean {', '.join(near)}? (`pixelpath --help` lists all.)")
    config = (tyro.conf.CascadeSubcommandArgs, tyro.conf.EnumChoicesFromValues)
    if name == "train":
        _train(arguments[1:], config)
    elif name in COMMANDS:
        tyro.cli(_load(name), prog=f"pixelpath {name}", args=arguments[1:], config=config)
    else:  # a completion script knows every command
        commands, rules = {name: _load(name) for name in COMMANDS}, _settings().registry()
        tyro.extras.subcommand_cli_from_dict(commands, prog="pixelpath", args=arguments, config=config, registry=rules)


def _train(arguments: list[str], config: tuple[Any, ...]) -> None:
    """With a recipe named, its settings alone are options, with its values as defaults; without one tyro lists the recipes."""
    import tyro

    settings, command = _settings(), _load("train")
    name, recipe, rest = settings.pick(arguments)
    if recipe is not None:
        config = (*config, tyro.conf.AvoidSubcommands)
        command = partial(command, recipe=recipe)
    tyro.cli(command, prog=f"pixelpath train {name}".rstrip(), args=rest, config=config, registry=settings.registry())


def _settings() -> Any:
    return importlib.import_module("pixelpath.commands.settings")


def _sentence(error: Exception) -> str:
    """What to tell the user: our own sentences as they are; errors of the system and of other libraries made readable."""
    if isinstance(error, MemoryError):
        return f"Memory ran out ({error}): use smaller images (--data.resize, --data.tile) or a smaller --batch-size."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    if type(error).__name__ == "OutOfMemoryError":
        first = str(error).split(".")[0]
        return f"{first}: use a smaller --batch-size, more parts (--accumulate), or --activation-checkpointing."
    trace = traceback.extract_tb(error.__traceback__)
    if trace and Path(trace[-1].filename).is_relative_to(Path(__file__).parent):
        return str(error)
    return f"{error} (This came from inside; {TRACEBACK}=1 shows where.)"


def _load(name: str) -> Callable[..., Any]:
    name = name.replace("-", "_")
    return importlib.import_module(f"pixelpath.commands.{name}").__dict__[name]


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


if __name__ == "__main__":
    main()
