"""Free ports for servers that bind them later, when another test may be looking for one too."""

from __future__ import annotations

import os
import random
import socket
from itertools import cycle

FIRST = 10_000  # below those that the system gives out to whoever asks for any
PER_PROCESS = 2_000
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))

_start = random.SystemRandom().randrange(PER_PROCESS)
_ports = cycle(
    FIRST + WORKER * PER_PROCESS + (_start + step) % PER_PROCESS for step in range(PER_PROCESS)
)


def free_port() -> int:
    """One that nobody listens on, that this process has not given out lately, and that no other
    worker of the same test run gives out."""
    for port in _ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("cycle() has an end")
