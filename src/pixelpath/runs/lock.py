"""One process at a time trains in a folder: a lock that the system takes back when its holder dies.

The lock is a file in the folder that says who holds it. Of the processes of one run the main one holds it.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from pathlib import Path
from typing import TextIO

from pixelpath.atomic import parsed
from pixelpath.errors import UserError
from pixelpath.log import say

LOCK = ".lock"
TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
BEYOND = 1 << 30  # a byte that Windows locks, after those that others may read


class Lock:
    """The lock of the folder, which is made if missing; UserError naming the holder if another process has it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / LOCK
        self._file: TextIO | None = None
        while self._file is None:
            file = self._path.open("a+", encoding="utf-8")
            if not _taken(file):
                holder = _holder(file)
                file.close()
                raise UserError(
                    f"Another process is training in {folder} ({holder}): wait for it, or choose another `out`.", "out"
                )
            if self._is_there(file):
                self._file = file
            else:
                file.close()  # its holder removed it meanwhile
        self._file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        self._file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        self._file.flush()

    def _is_there(self, file: TextIO) -> bool:
        return self._path.exists() and os.path.samestat(os.fstat(file.fileno()), self._path.stat())

    def release(self) -> None:
        """Give it back; once is enough."""
        if self._file is None:
            return
        if os.name == "posix":
            self._path.unlink(missing_ok=True)
        self._file.close()
        self._file = None


def _taken(file: TextIO) -> bool:
    """Whether this process has the lock now; where the file system knows no locks, it is said and taken for granted."""
    try:
        if os.name == "posix":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            file.seek(BEYOND)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
    except OSError as error:
        if error.errno in TAKEN:
            return False
        say(f"{file.name} cannot be locked ({error.strerror}): make sure that no other process trains in this folder.")
    return True


def _holder(file: TextIO) -> str:
    file.seek(0)
    try:
        found = parsed(file.read())
        return f"process {found['pid']} on {found['host']}, since {found['since']}"
    except (ValueError, TypeError, KeyError):
        return "it has not said which"
