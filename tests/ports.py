"""Ports for processes that a test starts."""

import random
import socket

LOWEST, HIGHEST = 15_000, 30_000  # below those that a system gives out, so that no other socket takes the port by chance


def free_port() -> int:
    """A port of this machine that is free, and stays so: nobody gets it who has not asked for this number."""
    while True:
        port = random.SystemRandom().randint(LOWEST, HIGHEST)  # not seeded: workers that share a seed choose different ones
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
