"""Checkpoints: everything that changes in a run, written whole or not at all, and restored exactly.

A checkpoint is a folder RUN/checkpoints/step-00001000 of student, EMA and optimizer (safetensors), state.json and the JSON
documents that the caller adds. It is *complete* once it has that name, and *good* if every file has the checksum in state.json.
Its *value* is what the caller measured, lower being better. A run has one writer, the main process.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pixelpath import processes
from pixelpath.atomic import PARTIAL, read_json, sealed
from pixelpath.errors import MissingError, UserError
from pixelpath.networks.weights import load_strictly
from pixelpath.trainer.ema import unwrapped
from pixelpath.trainer.optimizer_state import flattened, names_of, restore_optimizer
from pixelpath.trainer.shard import gathered, shared_as

REMEDY = "use the settings it was trained with"


class Corrupted(UserError):  # noqa: N818 (a state of the file)
    """A checkpoint that cannot be read back as it was written."""


class NotFiniteError(UserError):
    """Weights, or what the optimizer keeps of them, that hold NaN or infinity."""


@dataclass(frozen=True)
class State:
    """The numbers of a run after step `step`. There is no random state: random numbers are functions of (seed, step).

    `seconds` of training and `skipped` steps count from the run's beginning. `value` is this checkpoint's. `scaler` is the state
    of the loss scaler (empty without one). `near`: the samples of a one-step run have once been near the data.
    """

    step: int
    seed: int
    seconds: float = 0.0
    skipped: int = 0
    value: float | None = None
    scaler: dict[str, float | int] = field(default_factory=dict)
    near: bool = False


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint is to hold: the numbers, the tensors of student, EMA and optimizer, and the optimizer's parameters."""

    state: State
    parts: dict[str, dict[str, Tensor]]
    parameters: list[str]


def capture(
    state: State, student: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, *, copied: bool = True
) -> Snapshot:
    """A run as it is now; if `copied`, in memory of the CPU that training does not touch (on the main process, which writes it).

    The shares of a sharded run are gathered, one tensor after the other, so every process must call it. Raises NotFiniteError for
    values that are not finite, on every process.
    """
    names = names_of(student, optimizer)
    parts = {
        "student": unwrapped(student).state_dict(),
        "ema": unwrapped(ema).state_dict(),
        "optimizer": flattened(optimizer, names),
    }
    whole = {part: _captured(tensors, f"{part} is not finite, so step {state.step}", copied) for part, tensors in parts.items()}
    return Snapshot(state, whole, list(names.values()))


def _captured(tensors: Mapping[str, Tensor], what: str, copied: bool) -> dict[str, Tensor]:
    """Whole tensors, if `copied` as copies that the main process alone keeps; NotFiniteError on every process."""
    kept: dict[str, Tensor] = {}
    for name, value in tensors.items():
        value = gathered(value)
        if odd := _not_finite({name: value}):
            raise NotFiniteError(f"{odd} of the {what} cannot be saved.")
        if not copied:
            kept[name] = value
        elif processes.rank() == 0:
            kept[name] = value.detach().to("cpu", copy=True)
    return kept


def save(
    run: Path,
    state: State,
    student: nn.Module,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
    extras: Mapping[str, Mapping[str, Any]] | None = None,
    keep: int = 3,
) -> Path:
    """Capture the run and write it, at once; raises as both."""
    return write(run, capture(state, student, ema, optimizer, copied=False), extras, keep)


def write(run: Path, now: Snapshot, extras: Mapping[str, Mapping[str, Any]] | None = None, keep: int = 3) -> Path:
    """Write RUN/checkpoints/step-<step> whole or not at all, then remove all but the last `keep`, the best and the last measured.

    `extras` become <name>.json. Every process may call it, only the main one writes. Raises UserError unless keep >= 1. OSError
    (a full disk) leaves the older ones in place.
    """
    if keep < 1:
        raise UserError(f"A run keeps at least its last checkpoint, got `keep` {keep}: choose 1 or more.", setting="keep")
    folder = run / "checkpoints" / f"step-{now.state.step:08d}"
    if processes.rank() != 0:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    clean(run)
    partial = _aside(folder)
    partial.mkdir()
    texts = {"optimizer": {"parameters": json.dumps(now.parameters)}}
    for part, tensors in now.parts.items():
        _store(tensors, partial / f"{part}.safetensors", texts.get(part))
    for name, document in (extras or {}).items():
        (partial / f"{name}.json").write_text(json.dumps(document, indent=2), encoding="utf-8")
    _finish(partial, folder, now.state)
    _prune(run, keep)
    return folder


def share(folder: Path, run: Path, documents: Mapping[str, Mapping[str, Any]]) -> Path:
    """Copy what opening a checkpoint needs into another run's folder: the EMA and the JSON documents, some of them replaced.

    It cannot be taken up, as student and optimizer are not in it. Raises as `read` for a damaged file.
    """
    target = run / "checkpoints" / folder.name
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _aside(target)
    partial.mkdir()
    for name in _files(folder):
        if name.endswith(".json") and name.removesuffix(".json") not in documents:
            _check(folder / name)
            shutil.copyfile(folder / name, partial / name)
    _store(_tensors(folder / "ema.safetensors"), partial / "ema.safetensors")
    for name, document in documents.items():
        (partial / f"{name}.json").write_text(json.dumps(document, indent=2), encoding="utf-8")
    _finish(partial, target, read_state(folder))
    return target


def load(folder: Path, student: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Give student, EMA and optimizer the values of the checkpoint, strictly and bit for bit.

    Raises Corrupted for a damaged file, UserError if keys or shapes differ, MissingError if there is no such checkpoint.
    """
    state = read_state(folder)
    restore(student, folder / "student.safetensors")
    restore(ema, folder / "ema.safetensors")
    file = folder / "optimizer.safetensors"
    tensors = _tensors(file)
    with safe_open(file, "pt") as opened:
        known = json.loads((opened.metadata() or {}).get("parameters", "[]"))
    restore_optimizer(student, optimizer, tensors, known, str(file), REMEDY)
    return state


def restore(module: nn.Module, file: Path) -> None:
    """Give one module the values of one file of a checkpoint, strictly; raises as `load`."""
    own = unwrapped(module).state_dict()
    tensors = {name: shared_as(value, own.get(name)) for name, value in _tensors(file).items()}
    load_strictly(unwrapped(module), tensors, str(file), REMEDY)


def read_state(folder: Path) -> State:
    """The numbers of a complete checkpoint; raises as `load`."""
    document, types = _document(folder, "state"), get_type_hints(State)
    for name, kind in types.items():
        if name not in document:
            raise _corrupted(folder / "state.json", f"it has no {name}")
        if not isinstance(document[name], _kinds(kind)):
            raise _corrupted(folder / "state.json", f"its {name} is {document[name]!r}")
    if _number(folder) not in (None, document["step"]):
        raise _corrupted(folder / "state.json", f"it is of step {document['step']}")
    return State(**{name: document[name] for name in types})


def _number(folder: Path) -> int | None:
    """The step in the name of a checkpoint; None if it has none."""
    prefix, _, number = folder.name.partition("-")
    return int(number) if prefix == "step" and number.isascii() and number.isdecimal() else None


def _kinds(hint: Any) -> tuple[type, ...]:
    """The classes of the values that a type allows, a whole number for a float too."""
    if get_origin(hint) is UnionType:
        return tuple(kind for each in get_args(hint) for kind in _kinds(each))
    return (int, float) if hint is float else (get_origin(hint) or hint,)


def read(folder: Path, name: str) -> dict[str, Any]:
    """The JSON document that the caller saved under `name`; raises as `load`."""
    file = folder / f"{name}.json"
    _check(file)
    return _document(folder, name)


def complete(run: Path) -> list[Path]:
    """The folders of all complete checkpoints of a run, by rising step."""
    found = [path for path in (run / "checkpoints").glob("step-*") if _number(path) is not None and path.is_dir()]
    return sorted(found, key=lambda path: _number(path) or 0)


def latest(run: Path) -> Path | None:
    """The complete checkpoint of the highest step, or None."""
    found = complete(run)
    return found[-1] if found else None


def best(run: Path) -> Path | None:
    """The complete checkpoint of the lowest value (the later of equals), or None if none has a value."""
    valued = [(value, path) for path in complete(run) if (value := _value(path)) is not None]
    return min(reversed(valued), key=lambda pair: pair[0])[1] if valued else None


def best_value(run: Path) -> float:
    """The lowest value of a complete checkpoint; infinity if none has one."""
    return min((value for path in complete(run) if (value := _value(path)) is not None), default=math.inf)


def measured(run: Path) -> Path:
    """The newest complete checkpoint that has a value, or without one the first; MissingError if there is no checkpoint."""
    found = complete(run)
    if not found:
        raise MissingError(f"{run} holds no checkpoint to go back to: begin the run again, in a new folder.", setting="out")
    return next((folder for folder in reversed(found) if _value(folder) is not None), found[0])


def good(folder: Path, names: Sequence[str] | None = None) -> bool:
    """Whether every file of the checkpoint (or every named one) is as it was written."""
    try:
        read_state(folder)
        for name in _files(folder) if names is None else names:
            _check(folder / name)
    except (OSError, ValueError):
        return False
    return True


def _value(folder: Path) -> float | None:
    with suppress(OSError, ValueError):  # a damaged checkpoint is nobody's best; loading it says what is wrong
        return read_state(folder).value
    return None


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}{PARTIAL}")


def clean(run: Path) -> None:
    """Remove what a crash left half written, and rename a checkpoint that was about to be replaced back."""
    parent = run / "checkpoints"
    for path in parent.glob(f".step-*{PARTIAL}"):
        folder = parent / path.name[1:].split(".")[0]
        if ".old" in path.name and not folder.exists():
            os.rename(path, folder)
        else:
            shutil.rmtree(path)


def _finish(partial: Path, folder: Path, state: State) -> None:
    """Add state.json with every file's checksum, wait for the disk, and give the folder its name."""
    files = {path.name: _checksum(path) for path in sorted(partial.iterdir())}
    value = state.value if state.value is not None and math.isfinite(state.value) else None
    document = {**asdict(state), "value": value, "versions": _versions(), "files": files}
    (partial / "state.json").write_text(json.dumps(sealed(document), indent=2), encoding="utf-8")
    for path in (*partial.iterdir(), partial):
        _sync(path)
    if folder.exists():  # the same step again: the new one takes its place
        os.rename(folder, old := _aside(folder.with_name(f"{folder.name}.old")))
        os.rename(partial, folder)
        shutil.rmtree(old)
    else:
        os.rename(partial, folder)
    _sync(folder.parent)


def _versions() -> dict[str, str]:
    versions = {"torch": str(torch.__version__)}
    with suppress(metadata.PackageNotFoundError):  # run from a source folder that is not installed
        versions["pixelpath"] = metadata.version("pixelpath")
    return versions


def _sync(path: Path) -> None:
    """Wait until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _prune(run: Path, keep: int) -> None:
    kept = {*complete(run)[-keep:], best(run), measured(run)}
    for folder in complete(run):
        if folder not in kept:
            os.rename(folder, _aside(folder))
            shutil.rmtree(_aside(folder))


def _checksum(file: Path) -> int:
    value = 0
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            value = zlib.crc32(chunk, value)
    return value


def _document(folder: Path, name: str) -> dict[str, Any]:
    file = folder / f"{name}.json"
    if not folder.is_dir():
        raise MissingError(f"There is no checkpoint {folder}: name a folder RUN/checkpoints/step-<number>.")
    try:
        document = read_json(file)
    except (OSError, ValueError) as error:
        raise _corrupted(file, str(error)) from error
    if not isinstance(document, dict):
        raise _corrupted(file, "it is no JSON object")
    return document


def _check(file: Path) -> None:
    """Raise Corrupted unless the file is as it was written."""
    files = _files(file.parent)
    if not file.is_file() or file.name not in files:
        raise _corrupted(file, "it is missing")
    if _checksum(file) != files[file.name]:
        raise _corrupted(file, "its checksum is not the one it was written with")


def _files(folder: Path) -> dict[str, int]:
    """The checksums of a checkpoint's files by their names."""
    files = _document(folder, "state").get("files")
    if not isinstance(files, dict):
        raise _corrupted(folder / "state.json", "it has no checksums")
    return files


def _tensors(file: Path) -> dict[str, Tensor]:
    _check(file)
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise _corrupted(file, str(error)) from error
    if odd := _not_finite(tensors):
        raise _corrupted(file, f"{odd} is not finite")
    return tensors


def _not_finite(tensors: Mapping[str, Tensor]) -> str:
    """The name of the first tensor that holds NaN or infinity; empty if none does."""
    return next((name for name, value in tensors.items() if not _is_finite(value)), "")


def _is_finite(value: Tensor) -> bool:
    """By the sum, which NaN and infinity pass through, as training waits; each value counts only where the sum overflows."""
    return math.isfinite(value.sum().item()) or bool(value.isfinite().all())


def _corrupted(file: Path, reason: str) -> Corrupted:
    found = complete(file.parents[2]) if len(file.parents) > 2 else []
    earlier = found[: found.index(file.parent)] if file.parent in found else []
    usable = next((folder for folder in reversed(earlier) if good(folder)), None)
    remedy = f"remove {file.parent} to go on from {usable}" if usable else "there is no earlier good one, so start a new run"
    return Corrupted(f"{file} cannot be used ({reason}): {remedy}.")


def _store(tensors: Mapping[str, Tensor], file: Path, texts: dict[str, str] | None = None) -> None:
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        save_file(plain, file, metadata=texts)
    except SafetensorError as error:  # its only faults here are those of the disk
        raise OSError(f"The checkpoint {file.parent} could not be written ({error}): free some space and run again.") from error
    file.chmod(file.parent.stat().st_mode & 0o666)  # as the umask has it; safetensors leaves it to the owner alone
