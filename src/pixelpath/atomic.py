"""Files that are whole or absent, JSON files among them.

What is written has a hidden *partial* name until it is complete. Only then does it take its own, in one step of the file system.
A *sealed* JSON object holds the checksum of all else in it, so that it is noticed if anything in it changes.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

PARTIAL = ".partial"  # the end of a name
SEAL = "checksum"  # the key of a sealed object's checksum


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name only once it is complete."""
    with whole_path(path) as partial, partial.open("wb") as file:
        yield file


@contextmanager
def whole_path(path: Path) -> Iterator[Path]:
    """The partial name under which to make a file or folder, which gets its own name only once it is complete."""
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


def is_partial(path: Path) -> bool:
    """Whether a file or folder has a partial name."""
    return path.name.startswith(".") and path.name.endswith(PARTIAL)


def sweep(folder: Path) -> None:
    """Remove what a crash left half written in a folder, into which nobody else writes now."""
    for path in [path for path in folder.glob(f".*{PARTIAL}") if is_partial(path)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with whole(path) as file:
        file.write(json.dumps(content, indent=2).encode("utf-8"))


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The JSON object with its checksum."""
    content = json.loads(json.dumps(content))
    return {**content, SEAL: _checksum(content)}


def read_json(path: Path) -> Any:
    """What a JSON file holds, without its seal, if it has one; ValueError if it is no JSON, or not as it was sealed."""
    content = parsed(path.read_text(encoding="utf-8"))
    if isinstance(content, dict) and SEAL in content and content.pop(SEAL) != _checksum(content):
        raise ValueError("its checksum is not the one it was written with")
    return content


def parsed(text: str) -> Any:
    """What a JSON text holds; ValueError if it is none, or nested more deeply than Python can read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _checksum(content: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All single values of a nested JSON object, with their names joined by dots."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, tree
