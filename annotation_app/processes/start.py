"""Bring the platform up on this machine: ``make run``.

Checks what can be checked, prepares database and demo, then starts every line of the Procfile and
shows what they print. Ctrl-C stops them all, Redis last; if this process is killed, the operating
system ends them with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import IO
from urllib.parse import urlsplit

from annotation_app import settings
from annotation_app.processes import redis

FREE_BYTES = 200 * 2**20
STOP_SECONDS = 20
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
COLOURS = (36, 32, 33, 35, 34, 31)


class CannotRun(RuntimeError):
    """One sentence that says what stands in the way."""


def main() -> None:
    """The command line."""
    try:
        lines = chosen_lines(read_procfile(settings.BASE_DIR / "Procfile"))
        check(lines)
        if "redis" in lines:
            os.environ["REDIS_URL"] = redis.configure()
        prepare()
    except (CannotRun, redis.NoRedis) as error:
        sys.exit(str(error))
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(map(str, error.cmd[1:]))} failed; nothing was started.")
    sys.exit(Processes(lines).run())


def read_procfile(file: Path) -> dict[str, str]:
    """name → command of every line."""
    lines = [line.partition(":") for line in file.read_text().splitlines() if line.strip()]
    return {name.strip(): command.strip() for name, _, command in lines}


def chosen_lines(lines: dict[str, str]) -> dict[str, str]:
    """Those to start here: no Redis or sampler where an address names another one."""
    left_out = {
        name
        for name, variable in (("redis", "REDIS_URL"), ("sampler", "SAMPLER_URL"))
        if os.environ.get(variable)
    }
    return {name: command for name, command in lines.items() if name not in left_out}


def check(lines: dict[str, str]) -> None:
    """Raises CannotRun for a taken port, a full disk, or a platform that is running already."""
    settings.VAR_DIR.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.VAR_DIR).free
    if free < FREE_BYTES:
        raise CannotRun(
            f"{settings.VAR_DIR} has {free // 2**20} MB free, at least "
            f"{FREE_BYTES // 2**20} MB are needed."
        )
    os.environ.setdefault("PORT", str(urlsplit(settings.SITE_URL).port or 8000))
    ports = {"web": ("PORT", int(os.environ["PORT"]))}
    if "sampler" in lines:
        ports["sampler"] = ("SAMPLER_URL", urlsplit(settings.SAMPLER_URL).port or 8001)
        redis.server_binary()
    for name, (variable, port) in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                raise CannotRun(
                    f"Port {port} for the {name} process is taken: stop what uses it "
                    f"or set {variable} to another."
                ) from None


def prepare() -> None:
    """Database, static files, demo."""
    for command in (["migrate", "--verbosity", "0"], ["collectstatic", "--no-input", "-v", "0"]):
        manage(*command)
    if settings.DEMO:
        manage("prepare_demo")


def manage(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a management command. Raises CalledProcessError when it fails."""
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), *words]
    return subprocess.run(command, check=True, text=True, **options)  # type: ignore[call-overload, no-any-return]


class Processes:
    """Every line of the Procfile as a process group that dies with this process."""

    def __init__(self, lines: dict[str, str]) -> None:
        self.lines = lines
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.stopping = threading.Event()
        self.width = max(map(len, lines))

    def run(self) -> int:
        """Start all, wait for a signal or the first unexpected end, stop all."""
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, self._on_signal)
        for number, (name, command) in enumerate(self.lines.items()):
            self._start(name, command, COLOURS[number % len(COLOURS)])
        self._announce()
        ended = ""
        while not self.stopping.wait(0.5):
            ended = next((n for n, p in self.running.items() if p.poll() is not None), "")
            if ended:
                print(f"The {ended} process ended; stopping the others.", flush=True)
                break
        self._stop()
        return 1 if ended else 0

    def _start(self, name: str, command: str, colour: int) -> None:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
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
        threading.Thread(
            target=self._show, args=(name, process.stdout, colour), daemon=True
        ).start()

    def _show(self, name: str, output: IO[str], colour: int) -> None:
        label = f"{name:{self.width}} | "
        if sys.stdout.isatty():
            label = f"\x1b[{colour}m{label}\x1b[0m"
        for line in output:
            print(label + line, end="", flush=True)

    def _announce(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not self.stopping.is_set():
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(os.environ["PORT"]))) == 0:
                    break
            time.sleep(0.1)
        print(f"\nTandem is at {settings.SITE_URL}", flush=True)
        link = manage("sign_in_link", stdout=subprocess.PIPE).stdout.strip()
        if link:
            print(f"Sign in once as the first administrator: {link}", flush=True)
        print("Ctrl-C stops it.\n", flush=True)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stopping.set()

    def _stop(self) -> None:
        """The others first, so that workers can still tell Redis that they go."""
        others = [p for name, p in self.running.items() if name != "redis"]
        last = [p for name, p in self.running.items() if name == "redis"]
        for group in (others, last):
            for process in group:
                _signal_group(process, signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
            for process in group:
                try:
                    process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    _signal_group(process, signal.SIGKILL)
                    process.wait()


def _signal_group(process: subprocess.Popen[str], sign: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        os.killpg(process.pid, sign)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
