"""Two processes of one program, the second forked from the first: importing torch, which takes seconds, is done once."""

import os
import traceback
from collections.abc import Callable


def forked(work: Callable[[int], None]) -> None:
    """Call `work(0)` here and `work(1)` in a forked process, and end: with status 0 if both did. Import and warm up before."""
    second = os.fork()
    status = 1
    try:
        work(0 if second else 1)
        status = os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]) if second else 0
    except Exception:
        traceback.print_exc()
    finally:  # torch's threads may abort an interpreter that takes itself down
        os._exit(status != 0)
