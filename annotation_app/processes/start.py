"""Bring the platform up on this machine: ``make run``.

Checks what can be checked, prepares database and demo, then starts every line of the Procfile and
shows what they print. Ctrl-C stops them all, Redis last; if this process is killed, the operating
system ends them with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from django.core.exceptions import ImproperlyConfigured

try:
    from annotation_app import settings
except ImproperlyConfigured as error:
    sys.exit(f"{error}.")
except OSError as error:
    sys.exit(f"The var folder cannot be written: {error}.")

from annotation_app.processes import redis

FREE_BYTES = 200 * 2**20
START_SECONDS = 120
STOP_SECONDS = 10
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
COLOURS = (36, 32, 33, 35, 34, 31)
PREPARATIONS = (
    ("migrate", "--verbosity", "0"),
    ("collectstatic", "--no-input", "--verbosity", "0"),
)


class CannotRun(RuntimeError):
    """One sentence that says what stands in the way."""


def main() -> None:
    """The command line."""
    # Also SIGINT: a shell starts background jobs with it ignored, and that is inherited.
    for sign in STOP_SIGNALS:
        signal.signal(sign, signal.default_int_handler)  # KeyboardInterrupt
    try:
        lines = chosen_lines(read_procfile(settings.BASE_DIR / "Procfile"))
        with only_one():
            check(lines)
            if "redis" in lines:
                os.environ["REDIS_URL"] = redis.configure()
            sys.exit(Processes(lines).run())
    except (CannotRun, redis.NoRedis) as error:
        sys.exit(str(error))
    except subprocess.CalledProcessError as error:
        sys.exit(f"`manage.py {error.cmd[2]}` failed, for the reason above; Tandem has stopped.")


def read_procfile(file: Path) -> dict[str, str]:
    """name → command of every line."""
    lines = [line.partition(":") for line in file.read_text().splitlines() if line.strip()]
    return {name.strip(): command.strip() for name, _, command in lines}


def chosen_lines(lines: dict[str, str]) -> dict[str, str]:
    """Those to start here: none of those that an address names elsewhere."""
    left_out = {
        name for name in ("redis", "sampler", "scorer") if os.environ.get(f"{name.upper()}_URL")
    }
    return {name: command for name, command in lines.items() if name not in left_out}


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Hold the var folder. The lock ends with this process, however it ends."""
    try:
        settings.VAR_DIR.mkdir(parents=True, exist_ok=True)
        lock = (settings.VAR_DIR / "running.lock").open("a+")
    except OSError as error:
        raise CannotRun(f"The var folder cannot be written: {error}.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise CannotRun(
                f"Tandem is already running on {settings.VAR_DIR} (process {lock.read()})."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def check(lines: dict[str, str]) -> None:
    """Raises CannotRun for a full disk or a taken port, NoRedis where there is none."""
    free = shutil.disk_usage(settings.VAR_DIR).free
    if free < FREE_BYTES:
        raise CannotRun(
            f"The disk of {settings.VAR_DIR} is full: {free // 2**20} MB are free, at least "
            f"{FREE_BYTES // 2**20} MB are needed."
        )
    if "redis" in lines:
        redis.server_binary()
    check_port("web", "PORT", settings.PORT)
    check_port("live", "LIVE_PORT", settings.LIVE_PORT)
    if "sampler" in lines:
        check_port("sampler", "SAMPLER_PORT", settings.SAMPLER_PORT)
    if "scorer" in lines:
        check_port("scorer", "SCORER_PORT", settings.SCORER_PORT)


def check_port(name: str, variable: str, port: int) -> None:
    """Raises CannotRun when the port cannot be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.BIND_ADDRESS, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise CannotRun(
                    f"Port {port} for the {name} process is taken: stop what uses it "
                    f"or set {variable} to another."
                ) from None
            raise CannotRun(
                f"The {name} process cannot listen on {settings.BIND_ADDRESS} port {port}: "
                f"{error.strerror}."
            ) from None


def prepare() -> None:
    """Database, static files, demo."""
    for command in PREPARATIONS:
        manage(*command)
    if settings.DEMO:
        manage("prepare_demo")


def manage(*words: str, stdout: int | None = None) -> str:
    """Run a management command; returns what it printed to a pipe, if it was given one.

    It has a session of its own, so that a Ctrl-C reaches only this process, which then ends it.
    Raises CalledProcessError when it fails.
    """
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), *words]
    process = subprocess.Popen(
        command,
        cwd=settings.BASE_DIR,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        text=True,
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )
    try:
        printed, _ = process.communicate()
    except KeyboardInterrupt:
        _signal_group(process, signal.SIGKILL)
        process.wait()
        raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return printed or ""


class Processes:
    """Every line of the Procfile as a process group that dies with this process."""

    def __init__(self, lines: dict[str, str]) -> None:
        self.lines = lines
        self.running: dict[str, subprocess.Popen[str]] = {}

    def run(self) -> int:
        """Start all, wait for a signal or the first unexpected end, stop all.

        Redis comes first, since the demo's preparation queues work.
        """
        try:
            self._start("redis")
            prepare()
            for name in self.lines:
                self._start(name)
            if self._are_answering():
                self._announce()
            while not (ended := self._ended()):
                time.sleep(0.5)
            print(f"The {ended} process ended; stopping the others.", flush=True)
            return 1
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):  # the terminal may be gone
                print("\nStopping …", flush=True)
            return 0
        finally:
            self._stop()

    def _start(self, name: str) -> None:
        if name not in self.lines or name in self.running:
            return
        process = subprocess.Popen(
            ["/bin/sh", "-c", self.lines[name]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=settings.BASE_DIR,
            start_new_session=True,
            preexec_fn=_die_with_parent,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )
        self.running[name] = process
        assert process.stdout is not None, name
        threading.Thread(target=self._show, args=(name, process.stdout), daemon=True).start()

    def _show(self, name: str, output: IO[str]) -> None:
        label = f"{name:{max(map(len, self.lines))}} | "
        if sys.stdout.isatty():
            colour = COLOURS[list(self.lines).index(name) % len(COLOURS)]
            label = f"\x1b[{colour}m{label}\x1b[0m"
        for line in output:
            with contextlib.suppress(OSError):  # nobody reads here any more
                print(label + line, end="", flush=True)

    def _ended(self) -> str:
        """The name of a process that has ended, else nothing."""
        return next((n for n, p in self.running.items() if p.poll() is not None), "")

    def _are_answering(self) -> bool:
        """Wait for the pages and the local models; False when a process ended instead."""
        ports = [settings.PORT, settings.LIVE_PORT]
        if "sampler" in self.lines:
            ports.append(settings.SAMPLER_PORT)
        if "scorer" in self.lines:
            ports.append(settings.SCORER_PORT)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and not all(map(_answers, ports)):
            if self._ended():
                return False
            time.sleep(0.1)
        return True

    def _announce(self) -> None:
        """Say where to go."""
        link = manage("sign_in_link", stdout=subprocess.PIPE).strip()
        print(f"\nTandem is at {settings.SITE_URL}", flush=True)
        if link:
            print(f"Sign in once as the first administrator: {link}", flush=True)
        print("Ctrl-C stops it.\n", flush=True)

    def _stop(self) -> None:
        """The others first, so that workers can still tell Redis that they go."""
        for sign in STOP_SIGNALS:
            signal.signal(sign, signal.SIG_IGN)
        others = [p for name, p in self.running.items() if name != "redis"]
        last = [p for name, p in self.running.items() if name == "redis"]
        for group in (others, last):
            for process in group:
                _signal_group(process, signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
            for process in group:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.1, deadline - time.monotonic()))
                _signal_group(process, signal.SIGKILL)
                process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _signal_group(process: subprocess.Popen[str], sign: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        os.killpg(process.pid, sign)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
