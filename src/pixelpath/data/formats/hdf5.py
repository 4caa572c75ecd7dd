"""Links and values of HDF5 files that may lead to other files, which are never opened.

A *soft link* names another place of the same file, an *external link* one of another file. A data set may keep its values in raw
files (*external storage*), or be *virtual*: put together from parts of others.
"""

from __future__ import annotations

from typing import Any

from pixelpath.errors import UserError

MOST_LINKS = 100  # followed one after the other, or parts of virtual data sets within each other


def reached(file: Any, name: str) -> Any:
    """What a name leads to by hard and soft links, None if nothing is there; UserError for a link to another file."""
    import h5py

    group, steps, left = file, 0, [step for step in name.split("/") if step]
    while left and isinstance(group, h5py.Group) and steps < MOST_LINKS:
        step = left.pop(0)
        match link := group.get(step, getlink=True):
            case h5py.ExternalLink():
                raise UserError(
                    f"{file.filename}::{name} is a link to the file {link.filename}, which is not followed: give that file, "
                    "or copy the data set."
                )
            case h5py.SoftLink():
                steps += 1
                left = [part for part in link.path.split("/") if part not in ("", ".")] + left
                group = file if link.path.startswith("/") else group
            case None:
                return None
            case _:
                group = group[step]
    return None if left else group


def external_links(file: Any) -> tuple[str, ...]:
    """The names that lead to other files."""
    import h5py

    found: list[str] = []

    def look(name: str, link: Any) -> None:
        if isinstance(link, h5py.ExternalLink):
            found.append(name)

    file.visititems_links(look)
    return tuple(found)


def elsewhere(file: Any, dataset: Any, depth: int = 0) -> str:
    """Where outside the file a data set keeps values, in words that follow its name; "" if all are within."""
    if dataset.external:
        return f"keeps its values in the file {dataset.external[0][0]}"
    for part in dataset.virtual_sources() if dataset.is_virtual else ():
        if part.file_name != ".":
            return f"is put together from the file {part.file_name}"
        source = reached(file, part.dset_name)
        if source is None or depth > MOST_LINKS:
            return f"is put together from {part.dset_name}, which is not there"
        if away := elsewhere(file, source, depth + 1):
            return away
    return ""


def check_alone(file: Any) -> None:
    """UserError if anything in a file leads to another one."""
    import h5py

    for name in external_links(file):
        reached(file, name)

    def look(name: str, each: Any) -> None:
        if isinstance(each, h5py.Dataset) and (away := elsewhere(file, each)):
            raise UserError(f"{file.filename}::{name} {away}, which is not read: copy its values into the file.")

    file.visititems(look)
